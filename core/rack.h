/*
 * The links of a driver's pool: who has which, who waits for one. Hand-out and return on any thread, by one
 * compare-and-swap each while nobody waits; beyond that under the pool's one lock, O(1) but for a look at the
 * table.
 *
 * Vocabulary. Link: one conn of a driver. Keeper: the one shard that dials, checks, ages and closes the
 * pool's links (core/keeper.h). Gate: a word that is 0 while the fast path is open. Waiter: somebody in the
 * queue; granted or failed exactly once, or taken off it.
 *
 * First come, first served: once a waiter is in the queue the gate is shut, so who asks later queues behind it;
 * what comes back goes to the first in the queue, never to the table.
 */
#ifndef MR_CORE_RACK_H
#define MR_CORE_RACK_H

#include "base/histogram.h"
#include "core/link.h"
#include "core/pool.h"

/* The gate's bits. Some shut the way in, all of them the way back. */
enum {
    MR_RACK_WAITED = 1, /* somebody waits, or did a moment ago */
    MR_RACK_PAUSED = 2,
    MR_RACK_CLOSED = 4,
    MR_RACK_ORDERED = 8, /* eviction fifo: the one idle for longest is handed out */
    MR_RACK_SHUT_IN = MR_RACK_WAITED | MR_RACK_PAUSED | MR_RACK_CLOSED | MR_RACK_ORDERED,
    MR_RACK_ASKS = 16,   /* the driver has a say in what comes back, or it is checked */
    MR_RACK_WEARS = 32,  /* option uses_max */
    MR_RACK_ABOVE = 64,  /* more are open than conns_max allows now */
    MR_RACK_FENCED = 128 /* no membarrier here: who returns pays the fence */
};

/* Where new links go and as whom. Links keep the one they were made by; the last one frees it. */
struct mr_route {
    _Atomic(uint32_t) refs;
    const moor_driver *driver;
    void *config; /* of the driver's open */
    struct mr_upstream *upstream;
    moor_pool_hooks hooks; /* whose credentials it goes with, if any give some */
    char *user, *password; /* the URL's; wiped when freed */
    size_t user_len, password_len;
};

/* Slots are found by index and never move; a larger table keeps the smaller one alive for who looks at it. */
struct mr_rack_table {
    struct mr_rack_table *smaller;
    uint32_t size;
    _Atomic(struct moor_link *) at[];
};

struct mr_waiter {
    struct mr_list link; /* rack->queue[priority] or a link's wanted */
    struct mr_rack *rack;
    /* Granted or failed: runs once, on any thread, outside the lock; the last touch of w. */
    void (*over)(struct mr_waiter *w);
    uint64_t ticket; /* age, within one priority */
    int64_t asked_ns, deadline_ns;
    uint64_t affinity;
    const char *site;
    uint32_t want, got;
    struct moor_link *links; /* granted, chained */
    uint8_t priority;
    bool is_queued;
    bool is_bound; /* in its link's queue: only that one serves it */
    moor_wait_reason reason;
    moor_fault fault;
    struct mr_waiter *next; /* of those to be told */
};

#define MR_AFFINITY_SLOTS                                                                          \
    256 /* keys remembered at a time; a newer one takes an older one's place */

struct mr_rack {
    /* Read by who has just returned what may have been the pool's last link. So the memory stays mapped, as links
     * do; with `guests` counted in first, a rack that is not gone stays until they are counted out. */
    _Atomic(uint32_t) gate; /* 0: the fast path is open */
    _Atomic(uint32_t) guests;
    _Atomic(bool) is_gone;

    /* read by every acquire and release, written rarely */
    uint64_t id; /* no two racks of the process have the same: what threads remember links by */
    struct mr_hint *hints;                   /* ours of the runtime's first line */
    const volatile unsigned char *fork_page; /* the same */
    _Atomic(uint64_t) stamp;                 /* id and the pool's generation: see mr_rack_stamp */
    _Atomic(struct mr_rack_table *) table;
    _Atomic(uint32_t) used; /* slots of the table ever used: where looking ends */
    struct moor_pool *pool;
    const moor_driver *driver;
    _Atomic(uint32_t) uses_max;   /* option, 0 = none */
    _Atomic(bool) checks_returns; /* option check_on_return */
    _Atomic(bool) checks_takes;   /* option check_after_ms is 0: each time */

    /* under the pool's lock */
    struct mr_route *route; /* of new links; a change is seen by the keeper when it dials */
    struct mr_list queue[MOOR_PRIORITIES];
    uint32_t calm;              /* looks under the lock in a row that found nobody waiting */
    _Atomic(uint32_t) waiting;  /* waiters */
    uint32_t bound;             /* of those, who wait for the link of their key */
    uint32_t wanted;            /* links the others want, less those they have */
    struct mr_waiter *gatherer; /* the batch that has a part of its links; it is the first */
    uint64_t tickets, orders;
    struct moor_link *errands; /* links for the keeper, newest first */
    bool is_pause_failing;
    struct mr_histogram waits;
    struct {
        uint64_t key;
        struct moor_link *link;
    } affinity[MR_AFFINITY_SLOTS];

    _Atomic(uint64_t) gone_uses;  /* of links that are gone */
    _Atomic(uint64_t) first_uses; /* of those, the first of each: not reuse */
    _Atomic(uint64_t) failed, leaks;
    _Atomic(uint32_t) open;      /* links ready */
    _Atomic(uint32_t) shortness; /* > 0: leases are shorter than a wake, see core/handle.c */

    struct mr_keeper *keeper;
    struct mr_rack *next_free;
};

/* route: taken on success. */
MOOR_NODISCARD moor_err mr_rack_create(struct moor_pool *p, struct mr_route *route,
                                       struct mr_rack **out_rack);
/* Options, and bits of the gate that follow from them. Under the pool's lock, or before anybody sees it. */
void mr_rack_read_options(struct mr_rack *k);
/* No link, no waiter. */
void mr_rack_destroy(struct mr_rack *k);
/* The memory of those that were destroyed. */
void mr_racks_free(struct moor_runtime *r);

/* Taken, but not fit: to the keeper, or back to whose it is. */
void mr_rack_turn_down(struct mr_rack *k, struct moor_link *l);

/* Where a thread found its last links, by a hash of its thread pointer: threads settle on links of their own, and
 * one alone keeps to one. A hint, which threads of one hash share. A table of the runtime's and no thread-local
 * variable, for which a library loaded late may find no room. Links stay mapped as long as their runtime. */
#define MR_HINT_LINES 256
#define MR_HINT_WAYS  4 /* pools with one in common displace each other */
struct mr_hint {
    _Atomic(uint64_t) id; /* a rack's, which never comes again */
    _Atomic(struct moor_link *) link;
};
struct mr_hint_line {
    struct mr_hint of[MR_HINT_WAYS];
} __attribute__((aligned(64)));

/* This thread's of the rack. */
static inline struct mr_hint *mr_rack_hint(struct mr_rack *k)
{
    const uint64_t thread = (uint64_t)(uintptr_t)__builtin_thread_pointer();
    return k->hints + ((thread * UINT64_C(0x9e3779b97f4a7c15)) >> 56) * MR_HINT_WAYS;
}

/* What a link of that generation is marked with, and no other. */
static inline uint64_t mr_rack_stamp(const struct mr_rack *k, uint32_t generation)
{
    return k->id << 32 | generation;
}

/* Of the present generation and ours: a place seen just before it was cleared, or a hint, may show a link that
 * by now serves another pool. */
static inline bool mr_rack_is_fit(struct mr_rack *k, struct moor_link *l)
{
    return atomic_load_explicit(&l->fit, memory_order_relaxed) ==
           atomic_load_explicit(&k->stamp, memory_order_relaxed);
}

/* Any thread. The idle link this thread had last, LEASED, fit or not. Asks no gate. */
static inline bool mr_rack_retake(struct mr_rack *k, struct moor_link **out_link,
                                  uint64_t *out_word)
{
    struct mr_hint *h = mr_rack_hint(k);
    if (MR_UNLIKELY(atomic_load_explicit(&h->id, memory_order_relaxed) != k->id))
        return false;
    struct moor_link *l = atomic_load_explicit(&h->link, memory_order_acquire);
    uint64_t word = atomic_load_explicit(&l->slot.generation, memory_order_relaxed);
    const uint64_t next = mr_link_step(word, MR_LINK_IDLE, MR_LINK_LEASED);
    if (MR_UNLIKELY(mr_link_state_of(word) != MR_LINK_IDLE ||
                    !atomic_compare_exchange_strong(&l->slot.generation, &word, next)))
        return false;
    *out_link = l;
    *out_word = next;
    return true;
}
/* An idle link of the present generation, LEASED; NULL: none seen. Asks no gate. */
struct moor_link *mr_rack_take(struct mr_rack *k);
/* The same under the lock; the caller kicks the keeper after. */
struct moor_link *mr_rack_take_locked(struct mr_rack *k);
/* Of the idle ones, that with the fewest keys. */
struct moor_link *mr_rack_take_unkeyed(struct mr_rack *k);
/* Under the lock, for the keeper, who is to be kicked after. */
void mr_rack_push_errand(struct mr_rack *k, struct moor_link *l, enum mr_link_errand errand,
                         const char *why);
/* A link that is LEASED or KEPT and the caller's goes to the first who waits, or is idle from now on. */
void mr_rack_put(struct mr_rack *k, struct moor_link *l);
/* The same, but it has to be checked before anybody gets it. */
void mr_rack_put_unproven(struct mr_rack *k, struct moor_link *l);
/* The same, but the keeper has something to do with it before. */
void mr_rack_send(struct mr_rack *k, struct moor_link *l, enum mr_link_errand errand,
                  const char *why);
/* What is idle goes to those who wait; of a pool that drains, to the keeper. */
void mr_rack_serve(struct mr_rack *k);
/* The same by who has no link of it any more, and so nothing that keeps the pool. */
void mr_rack_serve_as_guest(struct mr_rack *k);

/* A place in the table, for a link of the keeper's, which is KEPT. ENOMEM. Keeper. */
MOOR_NODISCARD moor_err mr_rack_add(struct mr_rack *k, struct moor_link *l);
void mr_rack_remove(struct mr_rack *k, struct moor_link *l);
static inline struct moor_link *mr_rack_at(const struct mr_rack *k, uint32_t i)
{
    struct mr_rack_table *t =
        atomic_load_explicit(&((struct mr_rack *)(uintptr_t)k)->table, memory_order_acquire);
    return i < t->size ? atomic_load_explicit(&t->at[i], memory_order_acquire) : NULL;
}
static inline uint32_t mr_rack_used(const struct mr_rack *k)
{
    return atomic_load_explicit(&((struct mr_rack *)(uintptr_t)k)->used, memory_order_acquire);
}

/* New links go another way, those there close when they come back. route: taken on success. ECLOSED. */
MOOR_NODISCARD moor_err mr_rack_reroute(struct mr_rack *k, struct mr_route *route);
/* The route of new links, one reference more. */
struct mr_route *mr_rack_route(struct mr_rack *k);
/* Wiped and shut with the last one. Any thread. */
void mr_route_unref(struct moor_runtime *r, struct mr_route *route);

/* ---- affinity: core/rack_key.c; under the lock ---- */

/* NULL: the key has none. */
struct moor_link *mr_rack_link_of_key(struct mr_rack *k, uint64_t key);
/* The key has none, or one that l takes the place of. */
void mr_rack_bind_key(struct mr_rack *k, uint64_t key, struct moor_link *l);
/* Into a queue that is in order of importance and age. */
void mr_rack_insert(struct mr_list *queue, struct mr_waiter *w);
/* Those who wait for this one wait for any; true: there were some. */
bool mr_rack_release_wanted(struct mr_rack *k, struct moor_link *l);

/* ---- waiting: core/rack_wait.c ---- */

/* Its keys are nobody's any more, and who waited for it waits for any. */
void mr_rack_unbind(struct mr_rack *k, struct moor_link *l);

/* Queues w, or serves it at once. EBUSY, ECLOSED, ETIMEDOUT (its deadline is now). */
MOOR_NODISCARD moor_err mr_rack_wait(struct mr_rack *k, struct mr_waiter *w, int64_t now_ns,
                                     bool *out_served);
/* Sets bits of the gate; who returns a link from here on sees them. Outside the lock. */
void mr_rack_shut(struct mr_rack *k, uint32_t bits);
/* Off the queue: false, it was granted or failed already and over() has run or will. What a batch has
 * gathered goes back. */
bool mr_rack_unwait(struct mr_waiter *w);
/* Everyone who waits fails; reason: why they waited, NONE = as it was noted for each. */
void mr_rack_fail_waiters(struct mr_rack *k, moor_wait_reason reason, const moor_fault *fault);
void mr_rack_note_reason(struct mr_rack *k, moor_wait_reason reason);
/* Under the lock: l, the caller's, is granted or becomes idle. A waiter that is complete is put before *told. */
void mr_rack_settle(struct mr_rack *k, struct moor_link *l, int64_t now_ns,
                    struct mr_waiter **told);
/* Outside it: over() of each. */
void mr_rack_tell(struct mr_waiter *told);
/* Adds what the rack knows to the sum over shards. */
void mr_rack_stats(struct mr_rack *k, moor_stats *sum);
/* Acquires that waited by how long, all others as 0. */
void mr_rack_waits(struct mr_rack *k, struct mr_histogram_snapshot *to);
/* A picture for errors. */
void mr_rack_why(struct mr_rack *k, moor_wait_reason reason, int64_t asked_ns, moor_why *out);
/* Who holds a link for longest. */
const char *mr_rack_held(struct mr_rack *k, int64_t now_ns, moor_ns *out_for);

#endif
