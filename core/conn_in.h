/*
 * What a conn has received and nobody has taken yet, and the events that bring it.
 * Owner thread: the conn's shard.
 */
#ifndef MR_CORE_CONN_IN_H
#define MR_CORE_CONN_IN_H

#include "core/conn.h"

/* The backend's events. */
void mr_conn_in_received(struct mr_sock *s, struct mr_buf *buf, uint32_t len);
void mr_conn_in_ended(struct mr_sock *s, int err);
/* c->feed: offers again what was refused. */
void mr_conn_in_feed(struct mr_deferred *d);
/* Everything that was kept is given back. */
void mr_conn_in_drop(struct mr_conn *c);

#endif
