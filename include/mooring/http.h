/*
 * HTTP requests through a pool: one call, whichever protocol version serves it.
 */
#ifndef MOORING_HTTP_H
#define MOORING_HTTP_H

#include <mooring/error.h>
#include <mooring/handle.h>
#include <mooring/pool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moor_header {
    moor_span name, value;
} moor_header;

typedef enum moor_body_more {
    MOOR_BODY_MORE,  /* *out is a piece; ask again when there is room                       */
    MOOR_BODY_LAST,  /* *out is the last piece (may be empty)                               */
    MOOR_BODY_LATER, /* nothing now: moor_body_resume(op) when there is                     */
    MOOR_BODY_ABORT, /* give up: the request ends with MOOR_ECANCELED                       */
    MOOR_BODY_FORCE_INT_ = 0x7fffffff
} moor_body_more;
typedef moor_body_more (*moor_body_cb)(void *user, moor_piece *out);

#define MOOR_LENGTH_UNKNOWN UINT64_MAX /* HTTP/1.1: sent chunked */

typedef struct moor_http_request {
    size_t size;                /* set by moor_http_request_init                            */
    const char *method;         /* NULL = "GET", or "POST" with a body                      */
    const char *url;            /* absolute, or "/path?query" on a pool with an upstream    */
    const moor_header *headers; /* copied before the call returns. HTTP/2 leaves out those of a
                                   connection (RFC 9113 8.2.2); Host becomes :authority. 512 fields
                                   with those the library adds, and 64 KiB of them, are its most:
                                   else ETOOBIG in on_done                                  */
    size_t header_count;
    moor_span body;             /* small fixed body: copied before the call returns         */
    moor_body_cb body_cb;       /* or streamed, with `user` of the call; never before the
                                   connection is there                                      */
    uint64_t body_length;       /* of the streamed body; or MOOR_LENGTH_UNKNOWN             */
    bool expect_continue;       /* wait for "100 Continue" before the body, up to the pool's
                                   expect_continue_timeout_ms                               */
    bool idempotent;            /* may be replayed though its method does not say so        */
    bool replayable;            /* harmless if an attacker repeats it: may be sent as TLS early
                                   data where the pool's tls_early_data allows; sent again by
                                   itself if the server says 425 (RFC 8470)                 */
    uint32_t urgency;           /* HTTP/2: 0 (first) .. 7, 3 by default (RFC 9218 4.1)      */
    bool incremental;           /* HTTP/2: of use in parts: shares with others of its urgency (4.2) */
    moor_ms timeout_ms;         /* the whole request; MOOR_FOREVER by default               */
    moor_ms connect_timeout_ms; /* waiting for a connection; the pool's acquire timeout by
                                   default (MOOR_TIMEOUT_OF_POOL)                           */
    moor_ms first_byte_timeout_ms; /* from the request's end, or the last 1xx, to the response's
                                      first byte; the pool's first_byte_timeout_ms by default */
} moor_http_request;
MOOR_API void moor_http_request_init_sized(moor_http_request *r, size_t size) MOOR_ANY_THREAD;
#define moor_http_request_init(r) moor_http_request_init_sized((r), sizeof *(r))

/* Borrowed: valid inside the callback. */
typedef struct moor_http_head {
    int status;
    int version;                /* 10, 11, 20                                               */
    const moor_header *headers;
    size_t header_count;
    moor_span reason;           /* may be empty                                             */
} moor_http_head;

typedef struct moor_http_done {
    moor_fault fault;           /* fault.err == MOOR_OK: the response is complete           */
    uint64_t bytes_up, bytes_down;       /* body bytes                                      */
    moor_ns waited;             /* for a connection                                         */
    moor_ns first_byte;         /* from the call to the response's first byte; 0 = none came */
    moor_ns total;
    bool reused;                /* by a connection that was there, idle or with other streams */
    uint32_t replays;           /* times it was sent again on another connection            */
    const moor_why *why;        /* when no connection could be had, else NULL               */
} moor_http_done;

typedef struct moor_http_handlers {
    size_t size;                                                      /* sizeof *this            */
    void (*on_head)(void *user, const moor_http_head *h);             /* 1xx and final           */
    void (*on_chunk)(void *user, moor_chunk c);                       /* you now own c           */
    void (*on_trailers)(void *user, const moor_header *h, size_t n);
    void (*on_done)(void *user, const moor_http_done *d);             /* exactly once, last      */
} moor_http_handlers;

/*
 * Acquires, sends, receives and releases. request: borrowed for the call. handlers: borrowed until
 * on_done; any but on_done may be NULL. out_op may be NULL.
 * OK: on_done will run exactly once, later, on this shard. Else: never, and nothing was kept.
 * Errors: EINVAL (bad URL, method or header; logged with what and where), ETOOBIG, EBUSY (waiters_max),
 * ECLOSED, ENOMEM, EWRONGTHREAD.
 * A request that meets a dying reused connection is replayed on another if no byte of it can have been
 * acted on, or if its method is idempotent (RFC 9110 9.2.2) or marked so and its body can be sent again.
 */
MOOR_API MOOR_NODISCARD moor_err moor_http_send(moor_pool *p, const moor_http_request *request,
                                                const moor_http_handlers *handlers, void *user,
                                                moor_op *out_op) MOOR_SHARD_ONLY;
/* After MOOR_BODY_LATER: ask body_cb again. Stale: nothing. */
MOOR_API void moor_body_resume(moor_op op) MOOR_ANY_THREAD;

/*
 * Changes the priority of a request that waits or runs (RFC 9218 7): of what we still have to send of its body,
 * and of its response where the server speaks HTTP/2 and said that it heeds PRIORITY_UPDATE. urgency: 0 to 7, above
 * is 7. On HTTP/1.1, or stale: nothing. Later, on the request's shard; of several calls the last one counts.
 */
MOOR_API void moor_http_prioritize(moor_op op, uint32_t urgency, bool incremental) MOOR_ANY_THREAD;

/* A whole response; owns its memory. */
typedef struct moor_http_response {
    moor_http_head head;
    moor_span body;             /* followed by a NUL that len does not count                */
    const moor_header *trailers;
    size_t trailer_count;
    moor_http_done done;        /* done.why is NULL                                         */
} moor_http_response;

/*
 * The whole exchange from any ordinary thread; sleeps. On an adopted shard, outside its callbacks, drives
 * that shard instead.
 * *out is set on success only; free it. err_out_fault (may be NULL) tells why it failed.
 * Errors: as moor_http_send and fault.err; ETOOBIG: the body exceeds fetch_body_max.
 */
MOOR_API MOOR_NODISCARD moor_err moor_http_fetch(moor_pool *p, const moor_http_request *request,
                                                 moor_http_response **out,
                                                 moor_fault *err_out_fault) MOOR_BLOCKING;
/* NULL is fine. */
MOOR_API void moor_http_response_free(moor_http_response *r) MOOR_ANY_THREAD;
/* The first header of that name (ASCII case ignored), or {NULL, 0}. */
MOOR_API moor_span moor_http_header(const moor_http_head *h, const char *name) MOOR_ANY_THREAD;

#ifdef __cplusplus
}
#endif
#endif
