/*
 * One connection of a driver: a word that says who may touch it, what its holder needs, what its keeper
 * knows.
 *
 * The word is the slot's generation: a count above, a state in its lowest bits. Whoever moves it from IDLE,
 * or holds the link in LEASED or KEPT, owns the rest of the link until the next release store. A lease's
 * handle is the word it was leased under, so a handle of an earlier lease never fits.
 *
 *     EMPTY   not in a table, or being made
 *     IDLE    anybody may take it
 *     STALE   idle, but the keeper has to check it first
 *     LEASED  its holder's, any thread
 *     KEPT    the keeper's: made, checked, reset, closed, or on its way there
 */
#ifndef MR_CORE_LINK_H
#define MR_CORE_LINK_H

#include "alloc/slab.h"
#include "base/list.h"
#include "core/helpers.h"
#include "core/loop.h"

#include <mooring/driver.h>

struct mr_rack;
struct mr_route;
struct mr_link_dial;

enum mr_link_state {
    MR_LINK_EMPTY,
    MR_LINK_IDLE,
    MR_LINK_STALE,
    MR_LINK_LEASED,
    MR_LINK_KEPT,
    MR_LINK_STATES
};
#define MR_LINK_STATE_BITS 3
#define MR_LINK_STATE_MASK ((UINT64_C(1) << MR_LINK_STATE_BITS) - 1)

static inline enum mr_link_state mr_link_state_of(uint64_t word)
{
    return (enum mr_link_state)(word & MR_LINK_STATE_MASK);
}
/* In the table and nobody's: whoever claims it may have it. */
static inline bool mr_link_lies_idle(uint64_t word)
{
    const enum mr_link_state s = mr_link_state_of(word);
    return s == MR_LINK_IDLE || s == MR_LINK_STALE;
}
/* The word of the next owner. */
static inline uint64_t mr_link_next(uint64_t word, enum mr_link_state to)
{
    return ((word >> MR_LINK_STATE_BITS) + 1) << MR_LINK_STATE_BITS | (uint64_t)to;
}

/* What is to become of a KEPT link that was sent to the keeper. */
enum mr_link_errand {
    MR_ERRAND_NONE,
    MR_ERRAND_RESET,
    MR_ERRAND_CHECK,
    MR_ERRAND_CLOSE,
    MR_ERRAND_SPARE, /* closed if more are open than conns_max allows */
    MR_ERRAND_SPARE_RESET,
    MR_ERRAND_JOB
};

struct moor_link {
    struct moor_slot_ slot; /* first; shard is NULL: that tells it from a shard lease */

    /* one writer, the owner or the keeper; anybody may read them for a picture */
    _Atomic(const char *) site; /* where it was last acquired: static text */
    _Atomic(uint64_t) uses;
    _Atomic(uint64_t) fit; /* the stamp of the rack it is made for; 0: closes on return */
    _Atomic(int64_t) born_ns, alive_ns;
    _Atomic(int64_t) seen_ns; /* since when the sweep sees the same word */
    _Atomic(uint8_t) is_worn; /* set by the keeper or a report: closes on return */

    /* the owner's */
    struct mr_rack *rack; /* first of what a new use zeroes; NULL: of a stream driver */
    struct moor_pool *pool;
    void *native;
    uint32_t generation;     /* the pool's when it was dialled */
    uint32_t place;          /* in the table */
    uint32_t keys;           /* of affinity that it serves; under the pool's lock */
    uint64_t order;          /* fifo: when it came back; under the pool's lock */
    int64_t taken_ns;        /* of a lease that is timed */
    bool is_marked;          /* a report says that it has to be reset */
    struct moor_link *chain; /* of a batch, of an errand */
    struct mr_list wanted;   /* waiters of its key only; under the pool's lock */
    enum mr_link_errand errand;
    const char *close_why; /* static text */

    /* the keeper's */
    const moor_driver *driver;
    struct mr_route *route; /* where it goes, as it was when this was dialled */
    void *state;            /* the driver's */
    moor_task_kind task, halted_task;
    bool has_native; /* connect has begun: drop must follow */
    bool is_ready;   /* counted as open */
    bool is_late;    /* its deadline passed while a helper had it */
    bool is_working; /* a helper has it */
    bool is_ended;   /* while it worked the shard was left: dropped when the helper is done */
    bool is_closing; /* counted as such */
    bool is_listed;  /* on the keeper's list: something is under way on its shard */
    struct mr_list tasks;
    uint64_t poll_id, watch_id;
    struct mr_timer wait, deadline;
    struct mr_helper_job job;
    void (*work)(moor_link *l);
    struct mr_link_dial *dial; /* while it is made */
    moor_fault fault;
    char text[160]; /* what the driver said of its fault; written under the pool's lock */
    int64_t expires_ns;
    bool is_doubted;    /* the machine slept: checked before the next who takes it, if it is idle */
    uint64_t seen_word; /* the sweep's picture: the word when it last looked */
    uint64_t deaf_word; /* under it there was nothing to watch */
    uint64_t told_word; /* the lease that was reported as held for long */
    const char *told_site;
    int64_t told_ns;

    struct moor_link *next_made; /* of the runtime: all there are */
    struct moor_link *next_free;
};

static inline uint64_t mr_link_word(const struct moor_link *l)
{
    return atomic_load_explicit(&((struct moor_link *)(uintptr_t)l)->slot.generation,
                                memory_order_acquire);
}
/* The word of the next owner, of a word whose state is known. */
static inline uint64_t mr_link_step(uint64_t word, enum mr_link_state from, enum mr_link_state to)
{
    return word + (UINT64_C(1) << MR_LINK_STATE_BITS) + (uint64_t)to - (uint64_t)from;
}
#define MR_LINK_MARKED (UINT64_C(1) << 63) /* in fit: as is_marked */
#define MR_LINK_TIMED                                                                              \
    (UINT64_C(1) << 62) /* in fit: its holder reads the clock when it returns it */

/* It closes when it comes back. */
static inline void mr_link_wear(struct moor_link *l)
{
    atomic_store_explicit(&l->is_worn, 1, memory_order_relaxed);
    atomic_store_explicit(&l->fit, 0, memory_order_relaxed);
}
/* By the owner: its ownership ends here. */
static inline void mr_link_set(struct moor_link *l, enum mr_link_state to)
{
    const uint64_t word = atomic_load_explicit(&l->slot.generation, memory_order_relaxed);
    atomic_store_explicit(&l->slot.generation, mr_link_next(word, to), memory_order_release);
}
/* From a word seen; false: somebody was faster. */
static inline bool mr_link_claim(struct moor_link *l, uint64_t word, enum mr_link_state to)
{
    return atomic_compare_exchange_strong(&l->slot.generation, &word, mr_link_next(word, to));
}

/* Links outlive pools: handles look at their words until the runtime ends. Any thread. */
struct moor_link *mr_link_make(struct moor_runtime *r);
void mr_link_give(struct moor_runtime *r, struct moor_link *l);
void mr_links_free(struct moor_runtime *r);
/* The table of hints, see core/rack.h. */
MOOR_NODISCARD moor_err mr_hints_make(struct moor_runtime *r);
void mr_hints_free(struct moor_runtime *r);

/* ---- tasks, on the keeper: core/link_task.c ---- */

/* Begins a step of the driver's; mr_keeper_task_over follows, maybe inside. No hook: over at once, well. */
void mr_link_begin(struct moor_link *l, moor_task_kind task, int64_t deadline_ns);
/* Of what is under way without a step: a helper's work. */
void mr_link_set_deadline(struct moor_link *l, int64_t deadline_ns);
/* Ends whatever is under way without its outcome: polls and timers forgotten. False: a helper has the link; it
 * is dropped when it comes back. */
bool mr_link_halt(struct moor_link *l);
/* Will its task, under way or halted, make it somebody's? Else it says goodbye. */
bool mr_link_is_coming(const struct moor_link *l);
/* On and off the keeper's list of what is under way. */
void mr_link_list(struct moor_link *l);
void mr_link_unlist(struct moor_link *l);
/* Stream drivers: bytes for the task under way; it failed. */
void mr_link_input(struct moor_link *l, moor_span bytes);
void mr_link_fail_task(struct moor_link *l);
/* What a helper did has come back. */
void mr_link_unblocked(struct moor_link *l);
/* The driver frees its part. */
void mr_link_drop(struct moor_link *l);
void mr_link_unwatch(struct moor_link *l);

/* ---- making one, on the keeper: core/link_dial.c ---- */

/* The gate's verdict; GO: mr_keeper_dial_over follows, never inside. */
int mr_link_dial_begin(struct mr_rack *k);
/* A task of a link that is being made is over, or its credentials have come. */
void mr_link_dial_task_over(struct moor_link *l, bool is_well);
/* Gives it up: it ends as canceled, now or when a helper or a race lets go of it. */
void mr_link_dial_abandon(struct moor_link *l);

#endif
