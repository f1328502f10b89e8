/*
 * The shared use of a redis pool: opening, submitting, waiting, giving up, closing. Any thread.
 * It touches no connection: that is its shard's.
 */
#include "drivers/redis/shared.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INFLIGHT_BYTES_MIN 1024ull
#define INFLIGHT_BYTES_TOP (4ull << 30)
#define CALL_TIMEOUT_MS    5000
/* A closer looks this often whether it was told. */
#define CLOSE_LOOK_MS 5
/* What follows the timeout of a close: callbacks that are posted, pieces that are let go of. */
#define CLOSE_GRACE_MS 1000

void moor_redis_shared_options_init_sized(moor_redis_shared_options *o, size_t size)
{
    const moor_redis_shared_options all = {.size = size,
                                           .conns = 1,
                                           .inflight_max = 10000,
                                           .inflight_bytes_max = 64u << 20,
                                           .stall_ms = 30000,
                                           .rotate_ms = 30000};
    memcpy(o, &all, size < sizeof all ? size : sizeof all);
}

void moor_redis_call_init_sized(moor_redis_call *c, size_t size)
{
    const moor_redis_call all = {.size = size, .timeout_ms = CALL_TIMEOUT_MS};
    memcpy(c, &all, size < sizeof all ? size : sizeof all);
}

static bool is_time(moor_ms ms)
{
    return ms == MOOR_FOREVER || (ms > 0 && ms < REDIS_NEVER / REDIS_NS_PER_MS / 4);
}

static bool are_options_right(const moor_redis_shared_options *o)
{
    return o->conns >= 1 && o->conns <= MOOR_REDIS_SHARED_CONNS_MAX && o->inflight_max >= 1 &&
           o->inflight_max <= MOOR_REDIS_SHARED_INFLIGHT_MAX &&
           o->inflight_bytes_max >= INFLIGHT_BYTES_MIN &&
           o->inflight_bytes_max <= INFLIGHT_BYTES_TOP && is_time(o->stall_ms) &&
           is_time(o->rotate_ms);
}

static void free_shared(moor_redis_shared *s)
{
    const uint32_t chunks = (s->options.inflight_max + SLOTS_PER_CHUNK - 1) / SLOTS_PER_CHUNK;
    for (uint32_t i = 0; s->chunks && i < chunks; i++)
        free(atomic_load(&s->chunks[i]));
    free((void *)s->chunks);
    for (uint32_t i = 0; i < s->conn_count; i++)
        conn_fini(&s->conns[i]);
    free(s);
}

moor_err moor_redis_shared_open(moor_runtime *r, moor_pool *pool,
                                const moor_redis_shared_options *options, moor_redis_shared **out)
{
    moor_redis_shared_options o;
    moor_redis_shared_options_init(&o);
    if (options)
        memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    if (!r || !pool || !out || !are_options_right(&o))
        return MOOR_EINVAL;
    const uint32_t shards = moor_runtime_shard_count(r);
    if (!shards)
        return MOOR_ECLOSED;
    const size_t size = sizeof(moor_redis_shared) + o.conns * sizeof(struct conn);
    moor_redis_shared *s = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!s)
        return MOOR_ENOMEM;
    memset(s, 0, size);
    s->options = o;
    s->pool = pool;
    s->runtime = r;
    s->chunks = calloc((o.inflight_max + SLOTS_PER_CHUNK - 1) / SLOTS_PER_CHUNK, sizeof *s->chunks);
    if (!s->chunks) {
        free_shared(s);
        return MOOR_ENOMEM;
    }
    for (; s->conn_count < o.conns; s->conn_count++)
        conn_init(&s->conns[s->conn_count], s, moor_shard_at(r, s->conn_count % shards));
    *out = s;
    return MOOR_OK;
}

/* ---- submitting ---- */

/* A thread keeps to one connection, so that its commands keep their order; a shard to one of its own. */
static uint32_t conn_of_thread(const moor_redis_shared *s)
{
    static _Thread_local char here;
    const moor_shard *self = moor_shard_self();
    const uint32_t start = (uint32_t)(((uint64_t)(uintptr_t)&here * 0x9e3779b97f4a7c15u) >> 32);
    for (uint32_t i = 0; self && i < s->conn_count; i++) {
        const uint32_t at = (start + i) % s->conn_count;
        if (s->conns[at].shard == self)
            return at;
    }
    return start % s->conn_count;
}

static moor_err submit(moor_redis_shared *s, struct slot *slot)
{
    const uint32_t first = conn_of_thread(s);
    uint32_t generation =
        SLOT_GENERATION(atomic_load_explicit(&slot->word, memory_order_relaxed)) + 1;
    if (!generation)
        generation = 1;
    moor_err e = MOOR_ECLOSED;
    /* The next one, where the shard of the first has left. */
    for (uint32_t i = 0; e == MOOR_ECLOSED && i < s->conn_count; i++) {
        slot->conn = &s->conns[(first + i) % s->conn_count];
        atomic_store_explicit(&slot->word, (uint64_t)generation << 2 | SLOT_QUEUED,
                              memory_order_release);
        e = conn_submit(slot->conn, slot);
    }
    return e;
}

/* Of a command that no connection took: all three refs are this call's. */
static void unsubmit(struct slot *slot)
{
    for (int i = 0; i < SLOT_REFS; i++)
        slot_unref(slot);
}

struct request {
    const moor_redis_call *call;
    int argc;
    const char *const *argv;
    const size_t *argvlen;
};

static moor_err prepare(moor_redis_shared *s, const struct request *q, moor_redis_call *call,
                        struct slot **out)
{
    char *bytes;
    size_t len;
    moor_redis_call_init(call);
    if (q->call)
        memcpy(call, q->call, q->call->size < sizeof *call ? q->call->size : sizeof *call);
    if (call->why && call->why_cap)
        call->why[0] = 0;
    if (!s || (call->timeout_ms < 0 && call->timeout_ms != MOOR_FOREVER))
        return MOOR_EINVAL;
    moor_err e = redis_command_make(q->argc, q->argv, q->argvlen, &bytes, &len);
    if (e)
        return e;
    const size_t name_len = q->argvlen ? q->argvlen[0] : strlen(q->argv[0]);
    if (!redis_kind_is_shareable(redis_kind(q->argc, q->argv, q->argvlen), q->argv[0], name_len,
                                 call->why, call->why_cap))
        e = MOOR_EINVAL;
    else
        e = slot_take(s, len, out);
    if (e) {
        redis_command_free(bytes);
        return e;
    }
    (*out)->bytes = bytes;
    (*out)->len = len;
    return MOOR_OK;
}

moor_err moor_redis_shared_command(moor_redis_shared *s, const moor_redis_call *given, int argc,
                                   const char *const *argv, const size_t *argvlen, moor_redis_cb cb,
                                   void *user, moor_redis_op *out_op)
{
    struct slot *slot;
    moor_redis_call call;
    if (!moor_shard_self())
        return MOOR_EWRONGTHREAD;
    moor_err e = prepare(s, &(struct request){given, argc, argv, argvlen}, &call, &slot);
    if (e)
        return e;
    slot->cb = cb;
    slot->user = user;
    slot->shard = moor_shard_self();
    slot->deadline_ns = redis_deadline(call.timeout_ms);
    e = submit(s, slot);
    if (e) {
        unsubmit(slot);
        return e;
    }
    atomic_fetch_add_explicit(&s->commands, 1, memory_order_relaxed);
    if (out_op)
        *out_op = (moor_redis_op){
            s, slot->index,
            SLOT_GENERATION(atomic_load_explicit(&slot->word, memory_order_relaxed))};
    slot_unref(slot);
    return MOOR_OK;
}

void moor_redis_cancel(moor_redis_op op)
{
    struct slot *slot = op.shared_ && op.generation_ ? slot_at(op.shared_, op.index_) : NULL;
    if (slot)
        slot_finish(slot, op.generation_, MOOR_ECANCELED, "canceled by the caller", NULL, false);
}

/* ---- waiting ---- */

/* May this thread wait? On an adopted shard, outside of callbacks, it drives that meanwhile. */
static moor_err check_thread(moor_shard **out_driven)
{
    *out_driven = moor_shard_self();
    return *out_driven ? moor_shard_step(*out_driven, 0) : MOOR_OK;
}

static bool is_told(struct slot *slot)
{
    return atomic_load_explicit(&slot->waiter, memory_order_acquire) == WAITER_TOLD;
}

static void sleep_until_told(struct slot *slot, moor_shard *driven, int64_t deadline_ns)
{
    while (!is_told(slot) && redis_now() < deadline_ns) {
        if (driven) {
            moor_ms left = redis_left(deadline_ns, redis_now());
            /* A shard of another thread cannot wake this one's. */
            if (left < 0 || left > CLOSE_LOOK_MS)
                left = CLOSE_LOOK_MS;
            if (moor_shard_wait(driven, left))
                return;
            continue;
        }
        uint32_t runs = WAITER_RUNS;
        if (atomic_compare_exchange_strong(&slot->waiter, &runs, WAITER_SLEEPS) ||
            runs == WAITER_SLEEPS)
            redis_futex_wait(&slot->waiter, WAITER_SLEEPS, deadline_ns);
    }
}

moor_err moor_redis_shared_command_wait(moor_redis_shared *s, const moor_redis_call *given,
                                        int argc, const char *const *argv, const size_t *argvlen,
                                        moor_redis_reply **out, moor_fault *out_fault)
{
    struct slot *slot;
    moor_redis_call call;
    moor_shard *driven;
    if (out_fault)
        *out_fault = (moor_fault){.err = MOOR_OK, .what = ""};
    moor_err e = out ? check_thread(&driven) : MOOR_EINVAL;
    if (!e)
        e = prepare(s, &(struct request){given, argc, argv, argvlen}, &call, &slot);
    if (e) {
        if (out_fault)
            *out_fault =
                (moor_fault){.err = e, .what = "refused", .safe_to_retry = e == MOOR_EBUSY};
        return e;
    }
    const int64_t deadline_ns = redis_deadline(call.timeout_ms);
    slot->cb = NULL;
    slot->shard = NULL;
    slot->deadline_ns = REDIS_NEVER; /* this thread keeps it */
    e = submit(s, slot);
    if (e) {
        unsubmit(slot);
        if (out_fault)
            *out_fault = (moor_fault){.err = e, .what = "no shard", .safe_to_retry = true};
        return e;
    }
    atomic_fetch_add_explicit(&s->commands, 1, memory_order_relaxed);
    sleep_until_told(slot, driven, deadline_ns);
    if (!is_told(slot) && !slot_finish(slot, 0, MOOR_ETIMEDOUT, "no reply in time", NULL, false))
        sleep_until_told(slot, NULL, REDIS_NEVER); /* it is being told right now */
    e = slot->fault.err;
    if (out_fault)
        *out_fault = slot->fault;
    if (!e) {
        *out = slot->reply;
        slot->reply = NULL;
    }
    slot_unref(slot); /* as the call, */
    slot_unref(slot); /* and as the one who was told */
    return e;
}

/* ---- the end ---- */

static bool are_stopped(const moor_redis_shared *s)
{
    for (uint32_t i = 0; i < s->conn_count; i++)
        if (!atomic_load(&s->conns[i].is_stopped))
            return false;
    return true;
}

/* Until nothing is in flight, and (has_to_stop) all connections have ended. */
static bool wait_quiet(moor_redis_shared *s, moor_shard *driven, bool has_to_stop,
                       int64_t deadline_ns)
{
    for (;;) {
        const uint32_t inflight = atomic_load(&s->inflight);
        if (!inflight && (!has_to_stop || are_stopped(s)))
            return true;
        const int64_t now = redis_now();
        if (now >= deadline_ns)
            return false;
        int64_t look = now + CLOSE_LOOK_MS * REDIS_NS_PER_MS;
        if (look > deadline_ns)
            look = deadline_ns;
        if (driven)
            (void)!moor_shard_wait(driven, redis_left(look, now));
        else
            redis_futex_wait(&s->inflight, inflight, look);
    }
}

moor_err moor_redis_shared_close(moor_redis_shared *s, moor_ms timeout_ms)
{
    moor_shard *driven;
    if (!s)
        return MOOR_OK;
    const moor_err e = check_thread(&driven);
    if (e)
        return e;
    atomic_store(&s->is_closing, true);
    (void)wait_quiet(s, driven, false, redis_deadline(timeout_ms));
    for (uint32_t i = 0; i < s->conn_count; i++)
        if (!atomic_load(&s->conns[i].is_stopped))
            conn_stop(&s->conns[i]);
    if (!wait_quiet(s, driven, true, redis_deadline(CLOSE_GRACE_MS)))
        return MOOR_EBUSY;
    free_shared(s);
    return MOOR_OK;
}

void moor_redis_shared_stats_read_sized(const moor_redis_shared *s, moor_redis_shared_stats *out,
                                        size_t size)
{
    moor_redis_shared_stats all = {
        .size = size, .inflight = atomic_load(&s->inflight), .commands = atomic_load(&s->commands)};
    for (uint32_t i = 0; i < s->conn_count; i++) {
        const struct conn *c = &s->conns[i];
        all.conns += atomic_load(&c->is_connected);
        all.replies += atomic_load(&c->replies);
        all.replies_late += atomic_load(&c->replies_late);
        all.connects += atomic_load(&c->connects);
        all.sends += atomic_load(&c->sends);
    }
    memcpy(out, &all, size < sizeof all ? size : sizeof all);
}
