/*
 * The runtime: what shards share. Lists and counts under `lock`; the rest is set at creation.
 */
#ifndef MR_CORE_RUNTIME_H
#define MR_CORE_RUNTIME_H

#include "alloc/heap.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/log.h"

#include <mooring/runtime.h>

#include <pthread.h>

#define MR_SHARDS_MAX  64
#define MR_DRIVERS_MAX 32

struct moor_driver;
struct moor_link;
struct mr_helpers;
struct mr_rack;

struct mr_io;
struct mr_io_config;
struct mr_resolver;

/* Creation for tests: time, names and the kernel are theirs. */
struct mr_runtime_hooks {
    const struct mr_clock *clock;
    struct mr_resolver *resolver; /* taken */
    moor_err (*io_create)(void *ctx, const struct mr_io_config *c, struct mr_io **out_io);
    void *io_ctx;
    uint64_t seed; /* of every shard's randomness */
};

struct moor_runtime {
    moor_runtime_options options; /* strings are the runtime's own */
    struct mr_heap heap;          /* shared: pools, berths, responses */
    const struct mr_clock *clock;
    struct mr_runtime_hooks hooks;
    struct mr_log log;
    struct mr_resolver *resolver;
    struct mr_lock lock;      /* pools, making and ending shards */
    struct mr_lock gone_lock; /* what is left on shards that nobody drives */
    struct mr_list pools;
    _Atomic(struct moor_shard *) shards[MR_SHARDS_MAX]; /* slots are reused by adopters */
    _Atomic(uint32_t) shard_count;                      /* slots ever used */
    pthread_t threads[MR_SHARDS_MAX];
    _Atomic(uint32_t)
        thread_words[MR_SHARDS_MAX]; /* futex: 0 starting, 1 running, else 2 + moor_err */
    uint32_t thread_count;
    _Atomic(uint32_t) conns;      /* open and being dialled, over all pools */
    _Atomic(bool) wants_room;     /* as a pool's, under conns_max_runtime, or for a descriptor */
    _Atomic(uint32_t) waiters;    /* over all pools */
    _Atomic(uint32_t) next_shard; /* where the next blocking call goes */
    _Atomic(void *) tls;          /* the TLS floor's, once made under `lock` */
    void (*tls_end)(struct moor_runtime *r);                     /* frees it, after every pool */
    _Atomic(struct mr_helpers *) helpers;                        /* made when first needed */
    _Atomic(const struct moor_driver *) drivers[MR_DRIVERS_MAX]; /* set once, under `lock` */
    struct mr_hint_line *hints;                                  /* core/rack.h */
    struct moor_link *links_made, *links_free;                   /* under `lock` */
    struct mr_rack *racks_free;                                  /* under `lock` */
    bool has_membarrier;                     /* mr_runtime_barrier needs no fence of the others */
    const volatile unsigned char *fork_page; /* 1 here, 0 in a forked child */
    _Atomic(bool) has_backend;               /* both texts are set, for good */
    char backend[16];
    char backend_reason[160];
};

static inline bool mr_runtime_is_forked(const struct moor_runtime *r)
{
    return MR_UNLIKELY(*r->fork_page == 0);
}

/* Every thread of the process has passed a full barrier when it returns. A few microseconds. Nothing where
 * has_membarrier is false: the others fence. */
void mr_runtime_barrier(const struct moor_runtime *r);
/* May this thread sleep? EFORKED; EWRONGTHREAD: in a callback, or on a shard of another runtime. */
MOOR_NODISCARD moor_err mr_check_blocking(const struct moor_runtime *r);
/* A running shard to give work to from outside, round robin; an adopted one only if there is no other.
 * NULL: none. */
struct moor_shard *mr_runtime_pick(struct moor_runtime *r);

/* hooks NULL or members of it NULL: the real ones. */
MOOR_NODISCARD moor_err mr_runtime_create(const moor_runtime_options *o,
                                          const struct mr_runtime_hooks *hooks,
                                          struct moor_runtime **out_runtime);
/* A shard meant for slot `index`, of no use before it is opened. NULL: out of memory. */
struct moor_shard *mr_runtime_make_shard(struct moor_runtime *r, uint32_t index, bool is_adopted);
/* On the thread that will drive it: gives it a backend, and notes which. is_embedded as in
 * mr_io_config. */
MOOR_NODISCARD moor_err mr_runtime_open_shard(struct moor_shard *s, bool is_embedded);
/* A shard of the calling thread, which drives it through mr_shard_turn; unlike an adopted one it does not
 * bind the thread, so that one thread can drive several. Tests. */
MOOR_NODISCARD moor_err mr_runtime_add_shard(struct moor_runtime *r, struct moor_shard **out_shard);
/* The end of an adopted or added shard, on its thread: moor_shard_leave without the checks. */
void mr_shard_leave(struct moor_shard *s);

#endif
