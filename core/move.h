/*
 * Conns that change shards: asked for by a shard with waiters and no idle conn, or given by one that
 * releases a conn while an older waiter waits elsewhere.
 * Each function runs on the shard its berth belongs to.
 */
#ifndef MR_CORE_MOVE_H
#define MR_CORE_MOVE_H

#include "core/berth.h"

/* Asks another shard for one idle conn, starting at a rotating index. `is_needed`: it may give its last
 * ones too. False: nobody seems to have one. */
bool mr_move_ask(struct mr_berth *b, bool is_needed);
/* Gives the idle conn to the shard whose first waiter is older than ours. False: there is none. */
bool mr_move_donate(struct mr_berth *b, struct mr_conn *c);
/* Questions without an answer for MR_MOVE_PATIENCE_NS no longer count as conns that are coming. */
void mr_move_note_late(struct mr_berth *b);
/* The conn closed while it was MOVING. */
void mr_move_failed(struct mr_conn *c);

#endif
