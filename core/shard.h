/*
 * A shard: one loop, its memory, its inbox. Everything under `mine` belongs to the thread that drives
 * the shard; `shared` says per field how others may use it.
 */
#ifndef MR_CORE_SHARD_H
#define MR_CORE_SHARD_H

#include "alloc/arena.h"
#include "alloc/slab.h"
#include "base/assert.h"
#include "base/trace.h"
#include "core/inbox.h"
#include "core/loop.h"
#include "core/resolver.h"

#include <mooring/runtime.h>

/* Kinds of fixed-size objects a shard keeps slabs of; the floor that owns the type names its size. */
enum mr_slab_id {
    MR_SLAB_CONN,
    MR_SLAB_OUTQ,
    MR_SLAB_REST,
    MR_SLAB_LOAN,
    MR_SLAB_LEASE,
    MR_SLAB_ASK,
    MR_SLAB_PIECE,
    MR_SLAB_EXCHANGE,
    MR_SLABS
};

enum mr_shard_state {
    MR_SHARD_STARTING,
    MR_SHARD_RUNNING,
    MR_SHARD_STOPPING, /* its adopter is leaving: nothing new begins here */
    MR_SHARD_GONE,     /* nobody drives it; its inbox is closed */
    MR_SHARD_VACANT    /* its loop has ended too: the next adopter may have it */
};

struct moor_shard {
    struct moor_runtime *runtime;
    uint32_t index;
    bool is_adopted;
    bool has_memory; /* `mine` up to slabs is made: kept when an adopter leaves */
    int64_t spin_ns; /* look for messages this long before sleeping; 0 = never */
    struct {
        struct mr_heap heap;
        struct mr_loop loop;
        struct mr_buf_pool bufs;
        struct mr_arena_cache arenas;
        struct mr_slab slabs[MR_SLABS];
        struct mr_resolver_shard *resolver;
        struct mr_list locals;  /* mr_pool_shard: what each pool has here */
        struct mr_list keepers; /* mr_keeper: the pools whose links are kept here */
        bool is_turning;        /* inside mr_shard_turn: callbacks may be running */
        bool is_over;           /* asked to stop, threaded shards */
        int64_t message_gap_ns; /* smoothed time between messages */
        int64_t message_last_ns;
        struct mr_timer rest;  /* after work: gives freed memory back */
        uint64_t rest_events;  /* completions seen when it last looked */
        struct mr_trace trace; /* what a panic on this thread prints */
    } mine;
    struct {
        struct mr_inbox inbox;
        _Atomic(bool) is_sleeping; /* seq_cst with the inbox: see mr_shard_post */
        _Atomic(uint32_t) wakers;  /* posters about to wake: the backend outlives them */
        _Atomic(uint32_t) state;   /* enum mr_shard_state */
        struct mr_message feed;    /* mr_shard_feed_all */
        _Atomic(bool) is_feed_posted, has_room;
    } shared;
};

/* Makes the shard's parts on the calling thread, which becomes its owner. */
MOOR_NODISCARD moor_err mr_shard_open(struct moor_shard *s, bool is_embedded, char *why,
                                      size_t why_cap);
/* Closes the inbox and tells everyone that the shard is gone, unless there is a message: then false.
 * Nothing may be live here but loans. */
bool mr_shard_seal(struct moor_shard *s);
/* Ends the loop of a sealed shard. */
void mr_shard_shut(struct moor_shard *s);
/* Frees the memory; loans are gone too. Any thread, the last one. */
void mr_shard_free(struct moor_shard *s);

/* False: the inbox is closed, the shard has gone; nothing was kept. */
bool mr_shard_post(struct moor_shard *s, struct mr_message *m);
/* A cap that pools or upstreams share has room: whoever waits on that shard looks again, later. Or it wants
 * some: an idle conn there may give way. Any thread. */
void mr_shard_feed_all(struct moor_shard *s, bool has_room);
/* For what came too late for the inbox. True: nobody drives the shard, and nobody begins to before the
 * runtime's gone_lock is unlocked. False: somebody does again, or is about to; post once more. */
bool mr_shard_lock_gone(struct moor_shard *s);
/* One turn on the owner's thread, sleeping at most timeout_ns. */
moor_err mr_shard_turn(struct moor_shard *s, int64_t timeout_ns, unsigned budget);
/* Binds or unbinds the calling thread: what moor_shard_self returns. */
void mr_shard_enter(struct moor_shard *s);

#define MR_SLAB_PAGE 32 /* items made at a time */

/* The slab, made at first use; items are always of `size` bytes. */
static inline struct mr_slab *mr_shard_slab(struct moor_shard *s, enum mr_slab_id id, size_t size)
{
    struct mr_slab *slab = &s->mine.slabs[id];
    if (MR_UNLIKELY(!slab->heap))
        mr_slab_init(slab, &s->mine.heap, size, MR_SLAB_PAGE);
    return slab;
}

static inline int64_t mr_shard_now(const struct moor_shard *s)
{
    return s->mine.loop.now_ns;
}

/* The time of a call from outside: between turns an adopter may have been away for long, so the clock is
 * looked at again. */
static inline int64_t mr_shard_refresh(struct moor_shard *s)
{
    if (!s->mine.is_turning)
        s->mine.loop.now_ns = mr_clock_now(s->mine.loop.clock);
    return s->mine.loop.now_ns;
}

static inline bool mr_shard_is_gone(struct moor_shard *s)
{
    return atomic_load_explicit(&s->shared.state, memory_order_acquire) >= MR_SHARD_GONE;
}

/* Under gone_lock: mine.loop is there and stays until the lock is let go. */
static inline bool mr_shard_has_loop(struct moor_shard *s)
{
    const uint32_t state = atomic_load_explicit(&s->shared.state, memory_order_acquire);
    return state >= MR_SHARD_RUNNING && state < MR_SHARD_GONE;
}

/* The runtime twin of MOOR_SHARD_ONLY. */
#define MR_ASSERT_ON(s) MR_DEBUG_ASSERT(moor_shard_self() == (s))

#endif
