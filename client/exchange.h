/*
 * An exchange: one request and its response, from moor_http_send to on_done, over whichever conns and
 * replays it takes. Protocol-neutral: h1_conn.c and h2_conn.c speak.
 * Owner thread: the shard it was submitted on.
 */
#ifndef MR_CLIENT_EXCHANGE_H
#define MR_CLIENT_EXCHANGE_H

#include "alloc/arena.h"
#include "client/origin.h"
#include "core/berth.h"
#include "core/loan.h"
#include "core/op.h"
#include "core/pool.h"
#include "h1/field.h"
#include "h1/reply.h"
#include "h1/request.h"
#include "h2/session.h"

#include <mooring/http.h>

enum mr_body_state {
    MR_BODY_NONE,    /* nothing, or all in the head piece */
    MR_BODY_WAITING, /* for 100 Continue */
    MR_BODY_PULLING, /* body_cb is asked when there is room */
    MR_BODY_PAUSED,  /* MOOR_BODY_LATER */
    MR_BODY_SENT     /* the last piece is queued */
};

struct mr_exchange;

/* How a version of HTTP carries an exchange. On its shard. */
struct mr_speaker {
    /* x->conn is granted: the request goes. Not OK: nothing was sent. ECLOSED: the conn takes no more, and is
     * granted to nobody after this. */
    moor_err (*begin)(struct mr_exchange *x);
    /* The claim on x->conn ends. The conn is gone by itself, or may be used again, or not. */
    void (*leave)(struct mr_exchange *x, bool is_gone, bool is_reusable);
    /* x->piece: its bytes, and that it is the last. False: no memory. Counts what it queues in x->outs. */
    bool (*send_piece)(struct mr_exchange *x);
    /* Some of it has left on x->conn. */
    bool (*has_sent)(const struct mr_exchange *x);
    /* The peer has answered on this conn before, or was there when it was leased: its end says nothing of the
     * request. */
    bool (*is_proven)(const struct mr_exchange *x);
    /* No byte of a response came. */
    bool (*is_untouched)(const struct mr_exchange *x);
    /* The rest of a canceled response is better read than a conn lost. */
    bool (*may_drain)(const struct mr_exchange *x);
    void (*window_reopened)(struct mr_exchange *x);
    /* x->stage fired while a piece is queued; false ends the exchange. NULL: never armed so. */
    bool (*may_stall)(struct mr_exchange *x);
    /* x->urgency or x->is_incremental is another. */
    void (*prioritize)(struct mr_exchange *x);
};

/* What stays when an exchange ends: a handle may still look at it. */
struct mr_exchange_slot {
    struct moor_slot_ slot;
    struct mr_exchange *exchange; /* while the generation says so */
};

/* Its part of an h2 conn. */
struct mr_h2_part {
    struct mr_h2_stream stream;
    struct mr_list link; /* the conn's */
    bool is_unprocessed; /* the server said so */
    bool is_moved;       /* because it goes away */
    bool is_calmed;      /* it asks for fewer: nothing goes again */
    size_t waiting;      /* bytes of the piece when it was last looked at */
};

/* Lives in its own arena. */
struct mr_exchange {
    const struct mr_speaker *speaker; /* of x->conn, or the last one */
    struct mr_exchange_slot *handle;  /* the public op */
    struct moor_shard *shard;
    struct mr_claim claim;
    struct mr_pool_op op;
    struct mr_berth *berth;
    struct mr_conn *conn; /* NULL until granted, and after the end */
    const moor_http_handlers *handlers;
    void *user;
    struct mr_arena arena;
    struct mr_window window;
    struct mr_timer total;   /* the whole exchange */
    struct mr_timer stage;   /* first byte, 100 Continue, or of h2: room for the body */
    struct mr_deferred end;  /* on_done, where it may not run at once */
    struct mr_deferred pull; /* ask body_cb */

    /* the request */
    const struct mr_h1_request *request; /* kept where h2 may serve it, with its body; else NULL */
    moor_span request_body;
    struct mr_out head;    /* of h1: head and small body in one piece */
    struct mr_out body[3]; /* chunk line, data, chunk end */
    uint32_t outs;         /* pieces queued on a conn, not yet let go */
    moor_piece piece;
    moor_body_cb body_cb;
    uint64_t body_length, body_given;
    char chunk_line[24];
    uint8_t body_state; /* enum mr_body_state */
    uint8_t asked;      /* enum mr_h1_asked */
    uint8_t urgency;
    bool is_incremental;
    bool is_piece_out, is_last_piece;
    bool is_body_begun; /* body_cb was asked: it cannot be asked from the start */
    bool is_idempotent, wants_close, expects_continue;

    /* the response */
    struct mr_h1_reply *reply; /* in the arena, once there is an h1 conn */
    struct mr_h2_part h2;
    uint64_t bytes_down;
    int64_t first_byte_ns; /* 0 = none yet */

    int64_t asked_ns, granted_ns;
    int64_t total_ns;      /* deadline, MR_NEVER */
    moor_ms first_byte_ms; /* after sending, MOOR_FOREVER */
    uint64_t sent_before;  /* conn->bytes_out when granted */
    moor_fault fault;
    moor_why why;
    uint32_t replays;
    bool is_reused, has_why, is_canceled, is_aborted, is_over, is_replaying;
    bool has_head;    /* of the final response */
    bool is_draining; /* over for the caller; the rest is read to save conn */
    bool was_sent;    /* bytes left on a conn that broke: of any attempt */
};

/* What is common to every request of a pool. */
struct mr_http_pool {
    bool may_h2;                  /* some of its conns may speak it */
    struct mr_origin origin;      /* host NULL = an open pool */
    struct mr_upstream *upstream; /* NULL = an open pool */
    struct mr_h1_limits limits;
    char *authorization; /* "Basic ...", or NULL: never logged */
    size_t authorization_len;
};

void mr_http_pool_free(struct mr_heap *h, struct mr_http_pool *http);

extern const struct mr_protocol mr_h1_protocol, mr_h2_protocol;
extern const struct mr_speaker mr_h1_speaker, mr_h2_speaker;

/* Its host has no business on this conn (RFC 9110 15.5.20): it goes again on one of its own. False: it cannot, or is
 * there already; the caller hears of it. */
bool mr_exchange_misdirected(struct mr_exchange *x);

/* NULL: out of memory. Until started, mr_exchange_discard is its end. */
struct mr_exchange *mr_exchange_alloc(struct moor_shard *s, const moor_http_handlers *h,
                                      void *user);
void mr_exchange_discard(struct mr_exchange *x);
/* Acquires; on failure it was not started. */
MOOR_NODISCARD moor_err mr_exchange_start(struct mr_exchange *x, uint64_t *out_generation);

/* Has a byte of this request left, on any attempt? The fact behind safe_to_retry. */
bool mr_exchange_has_sent(const struct mr_exchange *x);
/* on_done runs now, with x->fault; the conn, if any is left, is closed. */
void mr_exchange_finish(struct mr_exchange *x);
/* A piece of ours is no longer with a conn. */
void mr_exchange_out_gone(struct mr_exchange *x);
/* The whole request has left: from here on the peer owes an answer, unless it gave one early. */
void mr_exchange_sent(struct mr_exchange *x);
/* "100 Continue" came, or will not. */
void mr_exchange_continue(struct mr_exchange *x);

/* From the protocol: the response is whole. The conn is let go and on_done runs now. */
void mr_exchange_complete(struct mr_exchange *x, bool is_conn_reusable);
/* From the protocol: a transport or protocol failure on x->conn; replays where that is safe.
 * is_conn_gone: the conn is closing by itself. */
void mr_exchange_broken(struct mr_exchange *x, const moor_fault *fault, bool is_conn_gone);

/* From the protocol: "425 Too Early". True: it goes again, after a handshake this time (RFC 8470 5.2), and the
 * response is nobody's. */
bool mr_exchange_too_early(struct mr_exchange *x);

#endif
