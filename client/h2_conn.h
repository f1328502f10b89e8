/*
 * HTTP/2 on a conn: what its streams share. Owner thread: the conn's shard.
 */
#ifndef MR_CLIENT_H2_CONN_H
#define MR_CLIENT_H2_CONN_H

#include "client/exchange.h"
#include "h2/gather.h"

struct mr_h2_block; /* frames on their way out */

/* A conn's state, of its shard's heap. */
struct mr_h2_conn {
    struct mr_h2_session session;
    struct mr_conn *conn;
    struct mr_list exchanges; /* mr_h2_part */
    const struct mr_in *in;   /* while it is read: what data() lends of */
    struct mr_h2_block *spare;
    struct mr_deferred write; /* one output per turn */
    struct mr_timer alive;    /* while streams are open, or a PING is due back */
    struct mr_h2_gather gather;
    uint32_t ended; /* streams that a receive ended */
    int64_t heard_ns, asked_ns;
    const struct mr_berth *also; /* of another host that it was found to serve last */
    uint32_t streams_max;        /* ours and the peer's, the lower */
    uint32_t capacity;           /* lower still after a refusal */
    bool has_served;             /* a response came whole */
    bool is_left;                /* a GOAWAY came */
    bool is_leaving_well;        /* a GOAWAY without error, of a server that has served */
    bool is_calmed;       /* a GOAWAY that asks for calm: what it refused does not go again */
    bool is_checking;     /* claimed by check() */
    const char *end_what; /* set: it ends when its last words are out */
};

static inline struct mr_h2_conn *mr_h2_conn_of(const struct mr_conn *c)
{
    return c->state;
}

/* Something is to be written, later in this turn. */
void mr_h2_conn_write_later(struct mr_h2_conn *h);
/* A stream was submitted, or there was no id for it: the conn takes no more after the last one. */
void mr_h2_conn_submitted(struct mr_h2_conn *h);
/* A stream is about to begin: silence is questioned, along with it. */
void mr_h2_conn_used(struct mr_h2_conn *h);
/* A stream was refused; another ended well. The number at a time follows. */
void mr_h2_conn_refused(struct mr_h2_conn *h);
void mr_h2_conn_served(struct mr_h2_conn *h);

/* h2_exchange.c: what the session tells of streams. */
extern const struct mr_h2_events mr_h2_conn_events;
void mr_h2_conn_settings(struct mr_h2_session *s, uint32_t streams_max);
void mr_h2_conn_going_away(struct mr_h2_session *s, uint32_t code);
void mr_h2_conn_pong(struct mr_h2_session *s);

#endif
