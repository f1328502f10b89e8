/*
 * The slots of commands: made in chunks, never freed before the shared object, so that a stale handle is
 * noticed by its generation. Any thread, lock-free.
 */
#include "drivers/redis/shared.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- sleeping ---- */

void redis_futex_wait(_Atomic(uint32_t) *word, uint32_t value, int64_t deadline_ns)
{
    const struct timespec at = {.tv_sec = deadline_ns / 1000000000,
                                .tv_nsec = deadline_ns % 1000000000};
    /* Absolute, CLOCK_MONOTONIC. */
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value,
            deadline_ns == REDIS_NEVER ? NULL : &at, NULL, FUTEX_BITSET_MATCH_ANY);
}

void redis_futex_wake(_Atomic(uint32_t) *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- taking and giving ---- */

struct slot *slot_at(struct moor_redis_shared *s, uint32_t index)
{
    if (index >= s->options.inflight_max)
        return NULL;
    struct slot *chunk =
        atomic_load_explicit(&s->chunks[index / SLOTS_PER_CHUNK], memory_order_acquire);
    return chunk ? &chunk[index % SLOTS_PER_CHUNK] : NULL;
}

static struct slot *pop_free(struct moor_redis_shared *s)
{
    uint64_t head = atomic_load_explicit(&s->free_head, memory_order_acquire);
    while ((uint32_t)head) {
        struct slot *slot = slot_at(s, (uint32_t)head - 1);
        if (!slot) /* never: what is on the list was made */
            return NULL;
        const uint32_t next = atomic_load_explicit(&slot->next_free, memory_order_relaxed);
        const uint64_t wanted = ((head >> 32) + 1) << 32 | next;
        if (atomic_compare_exchange_weak_explicit(&s->free_head, &head, wanted,
                                                  memory_order_acquire, memory_order_acquire))
            return slot;
    }
    return NULL;
}

static void push_free(struct moor_redis_shared *s, struct slot *slot)
{
    uint64_t head = atomic_load_explicit(&s->free_head, memory_order_relaxed), wanted;
    do {
        atomic_store_explicit(&slot->next_free, (uint32_t)head, memory_order_relaxed);
        wanted = ((head >> 32) + 1) << 32 | (slot->index + 1);
    } while (!atomic_compare_exchange_weak_explicit(&s->free_head, &head, wanted,
                                                    memory_order_release, memory_order_relaxed));
}

static struct slot *chunk_of(struct moor_redis_shared *s, uint32_t index)
{
    _Atomic(struct slot *) *place = &s->chunks[index / SLOTS_PER_CHUNK];
    struct slot *chunk = atomic_load_explicit(place, memory_order_acquire);
    if (chunk)
        return chunk;
    struct slot *made = calloc(SLOTS_PER_CHUNK, sizeof *made);
    if (!made)
        return NULL;
    for (uint32_t i = 0; i < SLOTS_PER_CHUNK; i++) {
        made[i].index = index / SLOTS_PER_CHUNK * SLOTS_PER_CHUNK + i;
        made[i].shared = s;
    }
    if (atomic_compare_exchange_strong(place, &chunk, made))
        return made;
    free(made);
    return chunk;
}

/* A slot that was never used. NULL: no memory, or (*out_is_out) all are in use or were given back just now. */
static struct slot *make_slot(struct moor_redis_shared *s, bool *out_is_out)
{
    uint32_t index = atomic_load(&s->made);
    struct slot *chunk;
    do {
        *out_is_out = index >= s->options.inflight_max;
        chunk =
            *out_is_out ? NULL : chunk_of(s, index); /* first: without memory no index is lost */
        if (!chunk)
            return NULL;
    } while (!atomic_compare_exchange_weak(&s->made, &index, index + 1));
    return &chunk[index % SLOTS_PER_CHUNK];
}

static void give_share(struct moor_redis_shared *s, size_t bytes)
{
    const bool is_closing = atomic_load(&s->is_closing);
    atomic_fetch_sub(&s->inflight_bytes, bytes);
    /* Once nothing is in flight the closer may free s: from here on only the word's address is used. */
    if (atomic_fetch_sub(&s->inflight, 1) == 1 && is_closing)
        redis_futex_wake(&s->inflight);
}

moor_err slot_take(struct moor_redis_shared *s, size_t bytes, struct slot **out)
{
    /* Counted before is_closing is read, which the closer writes before it reads the count. */
    const bool is_full = atomic_fetch_add(&s->inflight, 1) >= s->options.inflight_max;
    const uint64_t before = atomic_fetch_add(&s->inflight_bytes, bytes);
    moor_err e = is_full || before + bytes > s->options.inflight_bytes_max ? MOOR_EBUSY : MOOR_OK;
    if (atomic_load(&s->is_closing))
        e = MOOR_ECLOSED;
    struct slot *slot = NULL;
    while (!e && !slot) {
        /* No more than inflight_max are counted, so one is free or was never used, if not at one glance. */
        bool is_out = false;
        slot = pop_free(s);
        if (!slot)
            slot = make_slot(s, &is_out);
        if (!slot && !is_out)
            e = MOOR_ENOMEM;
    }
    if (e) {
        give_share(s, bytes);
        return e;
    }
    atomic_store_explicit(&slot->refs, SLOT_REFS, memory_order_relaxed);
    slot->charged = bytes;
    slot->reply = NULL;
    slot->heap_at = 0;
    atomic_store_explicit(&slot->waiter, WAITER_RUNS, memory_order_relaxed);
    *out = slot;
    return MOOR_OK;
}

void slot_unref(struct slot *slot)
{
    struct moor_redis_shared *s = slot->shared;
    if (atomic_fetch_sub_explicit(&slot->refs, 1, memory_order_acq_rel) != 1)
        return;
    redis_command_free(slot->bytes);
    slot->bytes = NULL;
    redis_reply_done(slot->reply);
    slot->reply = NULL;
    const size_t charged = slot->charged;
    const uint64_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);
    atomic_store_explicit(&slot->word, (uint64_t)SLOT_GENERATION(word) << 2 | SLOT_FREE,
                          memory_order_release);
    push_free(s, slot);
    give_share(s, charged);
}

/* ---- the outcome ---- */

bool slot_send(struct slot *slot)
{
    uint64_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);
    while (SLOT_STATE(word) == SLOT_QUEUED)
        if (atomic_compare_exchange_weak(&slot->word, &word, (word & ~3ull) | SLOT_SENT))
            return true;
    return false;
}

static void run_tell(void *user)
{
    struct slot *slot = user;
    const moor_redis_result result = {
        .size = sizeof result, .fault = slot->fault, .reply = slot->reply};
    if (slot->cb)
        slot->cb(slot->user, &result);
    slot_unref(slot);
}

static void tell(struct slot *slot, bool is_inside)
{
    if (!slot->shard) {
        if (atomic_exchange(&slot->waiter, WAITER_TOLD) == WAITER_SLEEPS)
            redis_futex_wake(&slot->waiter);
        return; /* the slot may be another command's by now */
    }
    if (is_inside && slot->shard == moor_shard_self()) {
        run_tell(slot);
        return;
    }
    slot->tell.run = run_tell;
    slot->tell.user = slot;
    /* ECLOSED: its shard has left and nobody else can tell; EFORKED: this process has no callbacks to run. */
    if (moor_post(slot->shard, &slot->tell) == MOOR_ECLOSED)
        run_tell(slot);
}

bool slot_finish(struct slot *slot, uint32_t generation, moor_err e, const char *what,
                 struct moor_redis_reply *reply, bool is_inside)
{
    uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
    do {
        if (SLOT_STATE(word) != SLOT_QUEUED && SLOT_STATE(word) != SLOT_SENT)
            return false;
        if (generation && SLOT_GENERATION(word) != generation)
            return false;
    } while (!atomic_compare_exchange_weak(&slot->word, &word, (word & ~3ull) | SLOT_TOLD));
    slot->fault =
        (moor_fault){.err = e, .what = what, .safe_to_retry = e && SLOT_STATE(word) == SLOT_QUEUED};
    slot->reply = reply;
    struct conn *c = slot->conn;
    const bool is_abandoned = !is_inside && SLOT_STATE(word) == SLOT_QUEUED;
    tell(slot, is_inside);
    if (is_abandoned)
        conn_abandoned(c);
    return true;
}
