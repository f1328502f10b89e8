/*
 * A shard: one loop, its memory, its inbox; and the turn that ties them together.
 * The thread that drives it owns everything under `mine`.
 */
#include "core/shard.h"

#include "base/count.h"
#include "core/pool.h"
#include "core/runtime.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

/* Spinning pays only where messages come closer together than this multiple of the spin. */
#define SPIN_GAP_FACTOR 1

/* Dynamic TLS: a static block would have to hold jemalloc's too, and dlopen finds no room for that. */
static _Thread_local struct moor_shard *current;

static void fire_rest(struct mr_timer *t, int64_t now_ns);

moor_shard *moor_shard_self(void)
{
    return current;
}

void mr_shard_enter(struct moor_shard *s)
{
    current = s;
    mr_trace_use(s ? &s->mine.trace : NULL);
}

/* ---- making and ending ---- */

static moor_err make_memory(struct moor_shard *s)
{
    const moor_runtime_options *o = &s->runtime->options;
    MR_TRY(mr_heap_init(&s->mine.heap, o->memory_limit, false));
    const moor_err e = mr_buf_pool_init(&s->mine.bufs, &s->mine.heap, o->recv_buffer_size,
                                        o->recv_buffers, o->recv_buffers / 8);
    if (e) {
        mr_heap_fini(&s->mine.heap);
        return e;
    }
    mr_arena_cache_init(&s->mine.arenas, &s->mine.heap, 64);
    s->has_memory = true;
    return MOOR_OK;
}

static moor_err make_io(struct moor_shard *s, bool is_embedded, struct mr_io **out, char *why,
                        size_t why_cap)
{
    struct moor_runtime *r = s->runtime;
    const moor_runtime_options *o = &r->options;
    uint32_t features;
    if (!mr_io_mask_parse(o->io_mask, &features)) {
        snprintf(why, why_cap, "MOORING_IO_MASK=\"%s\" names no kernel feature", o->io_mask);
        return MOOR_EINVAL;
    }
    const struct mr_io_config config = {
        .bufs = &s->mine.bufs,
        .heap = &s->mine.heap,
        .sq_entries = o->ring_entries,
        .cq_entries = o->ring_entries * 8,
        .posted_bytes_max = (uint32_t)o->recv_posted_bytes,
        .features = features,
        .is_embedded = is_embedded,
    };
    if (r->hooks.io_create)
        return r->hooks.io_create(r->hooks.io_ctx, &config, out);
    return mr_io_create(o->io_backend, &config, out, why, why_cap);
}

static moor_err make_loop(struct moor_shard *s, bool is_embedded, char *why, size_t why_cap)
{
    struct mr_io *io = NULL;
    MR_TRY(make_io(s, is_embedded, &io, why, why_cap));
    struct moor_runtime *r = s->runtime;
    const uint64_t seed =
        r->hooks.seed ? r->hooks.seed + s->index : (uint64_t)mr_clock_now(r->clock) ^ (uintptr_t)s;
    mr_loop_init(&s->mine.loop, io, &s->mine.heap, r->clock, seed);
    const moor_err e = mr_resolver_shard_create(r->resolver, &s->mine.loop, &s->mine.resolver);
    if (e)
        mr_loop_fini(&s->mine.loop);
    return e;
}

static void begin(struct moor_shard *s)
{
    for (struct mr_list *l = s->mine.locals.next; l != &s->mine.locals; l = l->next)
        MR_CONTAINER_OF(l, struct mr_pool_shard, link)->is_leaving = false;
    s->mine.trace.now_ns = &s->mine.loop.now_ns;
    s->mine.is_over = false;
    s->mine.rest.fire = fire_rest;
    s->mine.rest_events = 0;
    s->mine.message_gap_ns = MR_NS_PER_SEC;
    mr_inbox_open(&s->shared.inbox);
    atomic_store_explicit(&s->shared.state, MR_SHARD_RUNNING, memory_order_release);
}

moor_err mr_shard_open(struct moor_shard *s, bool is_embedded, char *why, size_t why_cap)
{
    if (!s->has_memory)
        MR_TRY(make_memory(s));
    /* Chunks of an earlier adopter may come home meanwhile, from any thread, into the same memory: they
     * use this lock while the inbox is closed. Making and ending a loop are the only sections of it with
     * system calls in them. */
    mr_lock_lock(&s->runtime->gone_lock);
    const moor_err e = make_loop(s, is_embedded, why, why_cap);
    if (!e)
        begin(s);
    mr_lock_unlock(&s->runtime->gone_lock);
    return e;
}

bool mr_shard_seal(struct moor_shard *s)
{
    /* Who finds the inbox closed takes this lock next and does the rest itself: from then on nothing may
     * be armed here, and everyone must see that the shard is gone. */
    mr_lock_lock(&s->runtime->gone_lock);
    const bool is_sealed = mr_inbox_close_if_empty(&s->shared.inbox);
    if (is_sealed) {
        for (struct mr_list *l = s->mine.locals.next; l != &s->mine.locals; l = l->next)
            mr_pool_quiet(MR_CONTAINER_OF(l, struct mr_pool_shard, link));
        atomic_store_explicit(&s->shared.state, MR_SHARD_GONE, memory_order_release);
    }
    mr_lock_unlock(&s->runtime->gone_lock);
    return is_sealed;
}

void mr_shard_shut(struct moor_shard *s)
{
    mr_lock_lock(&s->runtime->gone_lock); /* as in mr_shard_open */
    mr_loop_untimer(&s->mine.loop, &s->mine.rest);
    mr_resolver_shard_destroy(s->mine.resolver);
    s->mine.resolver = NULL;
    /* The message was run before its poster's wake: the backend stays until that has been. */
    atomic_store(&s->shared.is_sleeping, false);
    while (atomic_load(&s->shared.wakers))
        sched_yield();
    mr_loop_fini(&s->mine.loop);
    mr_lock_unlock(&s->runtime->gone_lock);
}

void mr_shard_free(struct moor_shard *s)
{
    if (s->has_memory) {
        for (int i = 0; i < MR_SLABS; i++)
            if (s->mine.slabs[i].heap)
                mr_slab_fini(&s->mine.slabs[i]);
        mr_arena_cache_fini(&s->mine.arenas);
        mr_buf_pool_fini(&s->mine.bufs);
        mr_heap_fini(&s->mine.heap);
    }
    mr_heap_free(&s->runtime->heap, s, sizeof *s);
}

/* ---- rest ---- */

/* So long without more than a few completions, and a burst's memory goes back to the system. */
#define REST_NS         MR_NS_PER_SEC
#define REST_EVENTS_MAX 16

/* What filters leave behind is in the heap that all shards share. */
static void trim(struct moor_shard *s)
{
    mr_heap_trim(&s->mine.heap);
    mr_heap_trim(&s->runtime->heap);
}

static void fire_rest(struct mr_timer *t, int64_t now_ns)
{
    struct moor_shard *s = MR_CONTAINER_OF(t, struct moor_shard, mine.rest);
    const uint64_t events = s->mine.loop.io->stats.events;
    if (events - s->mine.rest_events > REST_EVENTS_MAX)
        mr_loop_timer(&s->mine.loop, t, now_ns + REST_NS);
    else
        trim(s);
    s->mine.rest_events = events;
}

static void note_work(struct moor_shard *s)
{
    if (!mr_timer_is_armed(&s->mine.rest) &&
        s->mine.loop.io->stats.events - s->mine.rest_events > REST_EVENTS_MAX)
        mr_loop_timer(&s->mine.loop, &s->mine.rest, s->mine.loop.now_ns + REST_NS);
}

/* ---- messages ---- */

bool mr_shard_post(struct moor_shard *s, struct mr_message *m)
{
    if (!mr_inbox_push(&s->shared.inbox, m))
        return false;
    /* Pairs with prepare_to_sleep: either it sees the message or this sees the flag. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&s->shared.is_sleeping, memory_order_relaxed))
        return true;
    /* Counted before it is decided who wakes: a shard that saw nobody here has taken the flag back. */
    atomic_fetch_add(&s->shared.wakers, 1);
    if (atomic_exchange(&s->shared.is_sleeping, false))
        mr_io_wake(s->mine.loop.io);
    atomic_fetch_sub(&s->shared.wakers, 1);
    return true;
}

static void run_feed(struct mr_message *m)
{
    struct moor_shard *s = MR_CONTAINER_OF(m, struct moor_shard, shared.feed);
    atomic_store(&s->shared.is_feed_posted, false);
    mr_pool_feed_shard(s, atomic_exchange(&s->shared.has_room, false));
}

void mr_shard_feed_all(struct moor_shard *s, bool has_room)
{
    if (has_room)
        atomic_store(&s->shared.has_room, true);
    if (atomic_exchange(&s->shared.is_feed_posted, true))
        return;
    s->shared.feed.run = run_feed;
    if (!mr_shard_post(s, &s->shared.feed))
        atomic_store(&s->shared.is_feed_posted, false);
}

bool mr_shard_lock_gone(struct moor_shard *s)
{
    mr_lock_lock(&s->runtime->gone_lock);
    if (mr_shard_is_gone(s))
        return true;
    mr_lock_unlock(&s->runtime->gone_lock);
    sched_yield();
    return false;
}

static void note_gap(struct moor_shard *s)
{
    const int64_t gap = s->mine.loop.now_ns - s->mine.message_last_ns;
    s->mine.message_last_ns = s->mine.loop.now_ns;
    s->mine.message_gap_ns += (gap - s->mine.message_gap_ns) / 8;
}

static bool run_messages(struct moor_shard *s)
{
    struct mr_message *m = mr_inbox_take(&s->shared.inbox);
    const bool has_run = m;
    if (m && s->spin_ns)
        note_gap(s);
    while (m) {
        struct mr_message *next = m->next;
        m->run(m);
        m = next;
    }
    return has_run;
}

/* ---- the turn ---- */

/* A short look at user-space words only, where a message is likely to come sooner than a wake costs. */
static bool spin(struct moor_shard *s)
{
    if (s->mine.message_gap_ns > s->spin_ns * SPIN_GAP_FACTOR)
        return false;
    const struct mr_clock *clock = s->mine.loop.clock;
    const int64_t until = mr_clock_now(clock) + s->spin_ns;
    do {
        for (int i = 0; i < 64; i++) {
            if (!mr_inbox_is_empty(&s->shared.inbox) || mr_io_is_ready(s->mine.loop.io))
                return true;
            __builtin_ia32_pause();
        }
    } while (mr_clock_now(clock) < until);
    return false;
}

/* What is to be sent goes first. Who posts meanwhile need not wake us: the inbox is looked at next. */
static void gather(struct moor_shard *s)
{
    struct mr_loop *l = &s->mine.loop;
    MR_COUNT(l->gathers, 1);
    if (!mr_io_wait(l->io, 0))
        mr_clock_pause(l->clock, l->gather_ns);
}

/* From here a poster wakes us. False: there is a message already. */
static bool prepare_to_sleep(struct moor_shard *s)
{
    atomic_store(&s->shared.is_sleeping, true);
    atomic_thread_fence(memory_order_seq_cst);
    return mr_inbox_is_empty(&s->shared.inbox);
}

moor_err mr_shard_turn(struct moor_shard *s, int64_t timeout_ns, unsigned budget)
{
    MR_ASSERT(!s->mine.is_turning && "a turn inside a callback of the same shard");
    s->mine.is_turning = true;
    const uint64_t calls = s->mine.loop.calls;
    const bool has_run = run_messages(s);
    if (s->mine.is_over)
        timeout_ns = 0;
    timeout_ns = mr_loop_prepare(&s->mine.loop, timeout_ns);
    /* A callback may have ended what the adopter waits for: it looks before it sleeps. */
    if (s->is_adopted && (has_run || calls != s->mine.loop.calls))
        timeout_ns = 0;
    if (timeout_ns > 0 && s->spin_ns && spin(s))
        timeout_ns = 0;
    if (timeout_ns > 0 && s->mine.loop.gather_ns)
        gather(s);
    s->mine.loop.gather_ns = 0;
    if (timeout_ns > 0 && !prepare_to_sleep(s))
        timeout_ns = 0;
    const moor_err e = mr_loop_finish(&s->mine.loop, timeout_ns, budget);
    note_work(s);
    atomic_store_explicit(&s->shared.is_sleeping, false, memory_order_relaxed);
    s->mine.is_turning = false;
    return e;
}

static void run_task(struct mr_message *m)
{
    moor_task *t = MR_CONTAINER_OF((void **)m, moor_task, private_);
    void (*run)(void *) = t->run;
    void *user = t->user;
    atomic_store_explicit((_Atomic(uintptr_t) *)&t->private_[2], 0, memory_order_release);
    run(user); /* may post the task again, or free it */
}

moor_err moor_post(moor_shard *s, moor_task *t)
{
    _Static_assert(sizeof(struct mr_message) <= 2 * sizeof(void *), "fits moor_task.private_");
    MR_FAIL_IF(!s || !t || !t->run, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(s->runtime), MOOR_EFORKED);
    _Atomic(uintptr_t) *is_posted = (_Atomic(uintptr_t) *)&t->private_[2];
    MR_FAIL_IF(atomic_exchange(is_posted, 1), MOOR_EBUSY);
    struct mr_message *m = (struct mr_message *)(void *)t->private_;
    m->run = run_task;
    if (mr_shard_post(s, m))
        return MOOR_OK;
    atomic_store(is_posted, 0);
    return MOOR_ECLOSED;
}
