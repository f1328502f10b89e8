/*
 * A handshake's life: its turn among the shard's, early data, what is told when it ends. Lives beside the
 * session only as long as that. Owner thread: the conn's shard.
 */
#ifndef MR_TLS_HELLO_H
#define MR_TLS_HELLO_H

#include "tls/session.h"

/* Bytes sent early that may have to be sent again: also the most of a request that is. */
#define MR_TLS_EARLY_MAX 16384

struct mr_tls_hello {
    struct mr_tls_conn *conn;
    struct mr_tls_shard *shard; /* whose turn it waits for or has */
    struct mr_loop *loop;
    struct mr_list link;      /* shard->waiting */
    struct mr_deferred turn;  /* its turn has come */
    struct mr_timer patience; /* its turn is over, finished or not */
    struct mr_timer deadline; /* of early data: the dial's own has ended by then */
    struct mr_ticket *ticket; /* what it resumes from */
    struct mr_tls_text leaf;  /* DER of the server's certificate, for events */
    struct mr_tls_text early; /* what was sent early */
    const char *refused;      /* by us, not by the library: static text */
    int64_t begun_ns;
    int verify_code; /* the library's, where it refused a certificate */
    int date_code;   /* the same, of an authority the leaf may not have needed */
    bool is_active;  /* has its turn */
    bool must_staple;
    bool may_send_early; /* the first flight announced early data */
    bool is_early;       /* the conn is open for it */
};

/* ENOMEM. */
MOOR_NODISCARD moor_err mr_tls_hello_make(struct mr_tls_conn *t, struct moor_shard *s);
/* False: too many are under way here; open is called again when its turn has come. */
bool mr_tls_hello_has_turn(struct mr_tls_conn *t);
/* The conn opens before its handshake ends, for a claim that is replayable. False: there is none now. */
bool mr_tls_hello_begin_early(struct mr_tls_conn *t);
/* Before the handshake's end. False: these bytes have to wait for it, or the conn is broken. */
bool mr_tls_hello_push_early(struct mr_tls_conn *t, const void *bytes, size_t len);
/* Counts, tells, lets the next have its turn, and frees. Early data that was refused is written again; where that
 * fails the conn is broken. */
void mr_tls_hello_done(struct mr_tls_conn *t);
void mr_tls_hello_failed(struct mr_tls_conn *t);
/* With the conn; also when it is over already. */
void mr_tls_hello_end(struct mr_tls_conn *t);

#endif
