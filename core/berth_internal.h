/*
 * What berth.c and berth_wait.c share: conns to hand out, and claims to serve or fail.
 * Owner thread: the shard.
 */
#ifndef MR_CORE_BERTH_INTERNAL_H
#define MR_CORE_BERTH_INTERNAL_H

#include "core/berth.h"
#include "core/pool.h"

static inline struct mr_loop *mr_berth_loop(struct mr_berth *b)
{
    return &b->shard->mine.loop;
}

/* conns_min_idle, and 1 at most where a conn carries many claims. */
uint32_t mr_berth_min_idle(struct mr_berth *b);

static inline const moor_pool_options *mr_berth_options(struct mr_berth *b)
{
    return &b->upstream->pool->options;
}

/* core/berth.c */

/* For a claim: the newest idle conn, else one that is shared; worn ones close. NULL: none. */
struct mr_conn *mr_berth_pick(struct mr_berth *b);
/* LEASED, goes on, and can carry one claim more. */
bool mr_berth_has_room(const struct mr_conn *c);
/* Idle conns of an older generation close, and one above the cap: its end lets the next go. */
void mr_berth_close_unfit(struct mr_berth *b);
/* Onto the list where claims look for it, or off it: by what it carries and whether it goes on. */
void mr_berth_relist(struct mr_berth *b, struct mr_conn *c);

/* core/berth_wait.c */

/* Grants what is here to those who wait, oldest first. */
void mr_berth_serve(struct mr_berth *b);
/* The newest idle conn is new: it is for those who want one. */
void mr_berth_serve_fresh(struct mr_berth *b);
/* Everyone who waits now; not who begins to while they are told. */
void mr_berth_fail_waiters(struct mr_berth *b, const moor_fault *fault);
/* b->feed, b->kick and b->retry. */
void mr_berth_run_feed(struct mr_deferred *d);
void mr_berth_run_kick(struct mr_message *m);
void mr_berth_fire_retry(struct mr_timer *t, int64_t now_ns);

#endif
