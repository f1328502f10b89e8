/*
 * Making one conn for a berth: name, race of connects, filters, protocol. Counted in the gate from the
 * verdict until the conn is ready or lost.
 * Owner thread: the berth's shard.
 */
#ifndef MR_CORE_ATTEMPT_H
#define MR_CORE_ATTEMPT_H

#include "core/berth.h"

struct mr_attempt;

/* The gate's verdict: MR_GATE_GO means a dial has begun (or has failed for memory, which the waiters
 * will hear). */
int mr_attempt_begin(struct mr_berth *b);
/* The conn of a dial is not wanted any more: it ends with ECANCELED, later. */
void mr_attempt_abandon(struct mr_attempt *a);
/* The conn became ready, or was lost while being secured: the dial is over. */
void mr_attempt_succeeded(struct mr_conn *c);
void mr_attempt_lost(struct mr_conn *c, const moor_fault *fault);

#endif
