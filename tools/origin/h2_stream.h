/* A stream of HTTP/2: its request comes in, its answer goes out, beside the others of its conn. */
#ifndef ORIGIN_H2_STREAM_H
#define ORIGIN_H2_STREAM_H

#include <sys/queue.h>

#include "answer.h"

struct nghttp2_session_callbacks;

/* The header block being received. RFC 9113 4.3: nothing comes between its frames, so a conn needs
 * one, however many streams it has. */
struct h2_head {
    struct request request; /* its spans are set when the block is complete */
    struct buf method;
    struct buf target;
    struct buf fields; /* as lines, the pseudo headers included; at most HEAD_MAX */
    int status;        /* that refuses the request; 0 = none yet */
};

struct h2_stream {
    TAILQ_ENTRY(h2_stream) all;
    TAILQ_ENTRY(h2_stream) waiting; /* if is_waiting */
    struct conn *conn;
    int32_t id;
    bool is_head_request;
    bool is_early; /* the request's first byte was TLS early data */
    bool is_request_complete;
    bool is_answer_begun; /* what still comes of the request is dropped */
    bool is_head_submitted;
    bool is_waiting;   /* /delay before the head, /drip between two pieces */
    bool piece_waited; /* the interval before the piece has passed */
    uint64_t wake_ms;
    uint64_t length; /* of the answer's body */
    uint64_t sent;
    uint64_t piece_left;
    size_t echo_counted; /* bytes of answer.echo that count against the conn's limit */
    struct answer answer;
};

TAILQ_HEAD(h2_stream_list, h2_stream);

/* Requests and answers are all done in callbacks of the session, whose user is the conn. */
void h2_stream_set_callbacks(struct nghttp2_session_callbacks *callbacks);

/* Goes on with the streams whose wait is over; false if the session failed. */
bool h2_streams_wake(struct conn *c);
/* When the first of those that wait must be woken; UINT64_MAX if none does. */
uint64_t h2_streams_next(const struct conn *c);
void h2_streams_fini(struct conn *c);

#endif
