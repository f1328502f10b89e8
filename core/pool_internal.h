/*
 * What pool.c and pool_end.c share: what is made in the one ends in the other.
 */
#ifndef MR_CORE_POOL_INTERNAL_H
#define MR_CORE_POOL_INTERNAL_H

#include "core/pool.h"

/* "lifo", "fifo" or "lru", static. */
const char *mr_eviction_text(const char *given);
/* Its berths are gone, or there never were any. */
void mr_upstream_free(struct moor_pool *p, struct mr_upstream *u);
/* local->drain, local->report and local->deadline. Owner thread: the shard. */
void mr_pool_run_drain(struct mr_message *m);
void mr_pool_run_report(struct mr_deferred *d);
void mr_pool_fire_deadline(struct mr_timer *t, int64_t now_ns);

#endif
