/*
 * Multiplexed conns stay on their shard. At conns_max a shard that has none would wait for ever: another one ends a conn
 * for it. Each function runs on the shard its berth belongs to.
 */
#ifndef MR_CORE_PLACE_H
#define MR_CORE_PLACE_H

#include "core/berth.h"

/* b has waiters, no conn, and no dial can be begun. */
void mr_place_want(struct mr_berth *b);
/* Ends a conn if a shard wants its place: an idle one, or else `used`, which has just become free for another claim and
 * has served its time; NULL = one that is shared. */
void mr_place_give(struct mr_berth *b, struct mr_conn *used);

/* c has closed: if it gave its place, its berth lets another shard dial first. */
void mr_place_closed(struct mr_conn *c);
/* b is not to dial yet; it will be fed again when it may. */
bool mr_place_yields(struct mr_berth *b);

#endif
