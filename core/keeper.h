/*
 * The keeper of a driver's pool: one shard that makes its links, checks, watches, ages and closes them. Every
 * hook of the driver that may touch the connection runs there.
 * Owner thread: that shard, but for kick and drain. If it is left, another shard becomes the keeper; while the
 * runtime has none, links stay as they are and nobody is dialled for.
 */
#ifndef MR_CORE_KEEPER_H
#define MR_CORE_KEEPER_H

#include "core/rack.h"

struct mr_keeper {
    struct mr_rack *rack;
    _Atomic(struct moor_shard *) shard; /* NULL: none yet */
    struct mr_pool_shard *local; /* the pool's part there; `spare` where it has none any more */
    struct mr_pool_shard spare;
    struct mr_list here; /* of the shard's keepers */
    struct mr_message kick;
    _Atomic(bool) is_kicked;
    _Atomic(bool) is_full; /* nothing could be dialled: who begins to wait need not kick */
    bool is_over;          /* the pool was told that nothing is left */
    bool is_feeding, feeds_again;

    uint32_t dialing,
        coming;       /* links being made; those and links that will be handed out after a task */
    uint32_t links;   /* in the table or being made */
    uint32_t closing; /* of those in the table */
    _Atomic(uint32_t) warm; /* moor_pool_warm wants so many open */
    struct mr_list tasks;   /* links whose driver is at work here, by `tasks` */
    struct mr_timer sweep, retry;
    struct mr_deferred end; /* tells the pool: who closes it may free all this at once */
    int64_t sweep_gap_ns;
    int64_t swept_ns;
    /* what was used at most since the last decay */
    uint32_t busy_max;
    int64_t decay_ns;
    int64_t wall_ns; /* clock of the last sweep, to notice a leap */
};

struct mr_keeper *mr_keeper_create(struct mr_rack *k);
void mr_keeper_destroy(struct mr_keeper *b);

/* Looks, later, at who waits, at errands and at what is idle. Any thread. */
void mr_keeper_kick(struct mr_rack *k);
/* The pool drains: waiters fail, idle links close, others when they come back. Any thread. */
void mr_keeper_drain(struct mr_rack *k);
/* The shard that keeps it is left by its thread. On it; the pool may be gone after. */
void mr_keeper_leave(struct mr_rack *k);

/* Somebody waits, or there are links to look after. Any thread. */
bool mr_keeper_is_wanted(struct mr_rack *k);

static inline struct moor_shard *mr_keeper_shard(const struct mr_rack *k)
{
    return atomic_load_explicit(&k->keeper->shard, memory_order_relaxed);
}
static inline struct mr_loop *mr_keeper_loop(const struct mr_rack *k)
{
    return &mr_keeper_shard(k)->mine.loop;
}

/* From core/link_task.c: the driver's task of a ready link is over. */
void mr_keeper_task_over(struct moor_link *l, moor_task_kind task, bool is_well);
/* Its deadline passed while a helper has the link: nobody counts on it any more. The place under the caps stays
 * taken until the helper lets go of it, so that few are stuck at a time. */
void mr_keeper_task_late(struct moor_link *l);
/* From core/link_dial.c. NULL link: a dial of u that failed, as the fault says. */
void mr_keeper_dial_over(struct mr_rack *k, struct mr_upstream *u, struct moor_link *l,
                         const moor_fault *fault);
/* A KEPT link has to prove itself; it goes to who waits, or back to the table, after. */
void mr_keeper_check(struct mr_rack *k, struct moor_link *l);
uint32_t mr_keeper_count_idle(const struct mr_rack *k);
/* A KEPT link ends: gently if the driver can. */
void mr_keeper_close(struct moor_link *l, const char *why);
/* How many more are open, and are to stay, than conns_max allows. */
uint32_t mr_keeper_surplus(struct mr_rack *k);
/* It is gone from the driver: counted out, its memory given back. */
void mr_keeper_gone(struct moor_link *l);
/* Idle links close, as the options say which first. Fewer if there are fewer. */
void mr_keeper_evict(struct mr_rack *k, uint32_t count, const char *why);

/* ---- time: core/rack_sweep.c ---- */
/* What lies idle for so long is watched, and so often is looked while anything changes. */
#define MR_SWEEP_MIN_NS (20 * MR_NS_PER_MS)
void mr_keeper_fire_sweep(struct mr_timer *t, int64_t now_ns);
/* A lease that was reported as held is over. */
void mr_keeper_tell_returned(struct moor_link *l);
/* At the latest then. */
void mr_keeper_sweep_by(struct mr_rack *k, int64_t at_ns);

#endif
