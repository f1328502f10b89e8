/*
 * What is queued on a conn: pieces before each filter and before the socket, one send under way.
 * Attached to a conn only while it has something to send, so idle conns pay nothing.
 * Owner thread: the conn's shard.
 */
#ifndef MR_CORE_CONN_OUT_H
#define MR_CORE_CONN_OUT_H

#include "core/conn.h"

#define MR_OUT_IOV_MAX 16 /* pieces of one send; the rest waits for the next */

struct mr_outq {
    struct mr_out_list wire; /* goes to the socket */
    size_t bytes;            /* queued there and before the filters */
    unsigned sending;        /* pieces of wire that the send under way covers */
    bool is_flushing;        /* what is queued now needs no flush of its own */
    bool is_telling;         /* inside the sent() of pieces that have left and are still on wire */
    struct msghdr message;
    struct iovec iov[MR_OUT_IOV_MAX];
};

/* Hands what is queued to the filters and the backend, once a turn. */
void mr_conn_flush(struct mr_conn *c);
/* The conn is about to close: what filters have to say at the end, and have said, leaves with it if nothing
 * else is on its way. Nobody hears whether it arrived. */
void mr_conn_out_goodbye(struct mr_conn *c);
/* The backend's sent event. After an error nothing is sent any more; a conn in use hears first what
 * the peer said before it closed. */
void mr_conn_out_sent(struct mr_conn *c, int err, size_t taken);
/* Of the send that failed. */
void mr_conn_out_fail(struct mr_conn *c);
/* Every piece hears sent(o, err); the queue is given back. */
void mr_conn_out_drop(struct mr_conn *c, int err);
void mr_out_list_init(struct mr_out_list *l);

#endif
