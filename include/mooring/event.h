/*
 * What happens to a pool's connections, told as it happens: for logs, metrics and tests.
 */
#ifndef MOORING_EVENT_H
#define MOORING_EVENT_H

#include <mooring/error.h>
#include <mooring/handle.h>
#include <mooring/tls.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOOR_EVENTS(X)                                                                             \
    X(CONN_OPENED, "a connection is ready")                                                        \
    X(CONN_CLOSED, "a connection was closed")                                                      \
    X(DIAL_FAILED, "a connect failed")                                                             \
    X(UPSTREAM_DOWN, "the first connect in a row failed; tries are spaced from now on")            \
    X(UPSTREAM_UP, "a connect succeeded after failures")                                           \
    X(TLS_READY, "a TLS handshake is complete: `tls` tells what came of it")                       \
    X(CERT_EXPIRING, "the server's certificate ends within tls_expiry_warn_days: see `tls`")       \
    X(LEASE_HELD, "a lease is held for longer than leak_after_ms: see `site`")                     \
    X(LEASE_RETURNED, "a lease that was reported as held has come back")                           \
    X(CLOCK_LEAP, "time passed unseen, as if the machine had slept; idle connections are checked") \
    X(POOL_FLUSHED, "every connection there was is used no more")                                  \
    X(POOL_PAUSED, "nothing is handed out until it is resumed")                                    \
    X(POOL_RESUMED, "a paused pool goes on")                                                       \
    X(POOL_DRAINING, "the pool takes no new work")                                                 \
    X(POOL_DRAINED, "nothing of the pool is left")

typedef enum moor_event_type {
#define X(name, text) MOOR_EVENT_##name,
    MOOR_EVENTS(X)
#undef X
    MOOR_EVENT_FORCE_INT_ = 0x7fffffff
} moor_event_type;
/* "CONN_OPENED"; static text. */
MOOR_API const char *moor_event_name(moor_event_type t) MOOR_ANY_THREAD;

/* Borrowed: valid inside the callback, which runs on the shard it happened on; POOL_DRAINING,
 * POOL_FLUSHED, POOL_PAUSED and POOL_RESUMED: on the thread that asked for it, inside that call. */
typedef struct moor_event {
    size_t size;
    moor_event_type type;
    const moor_pool *pool;
    const char *upstream; /* host or socket path; "" for events of the whole pool     */
    uint16_t port;
    moor_err err;         /* of a failed connect, else MOOR_OK                        */
    int os_errno;
    const char *why;      /* static text: the step that failed, the reason of a close */
    const moor_tls_info *tls; /* of TLS_READY and CERT_EXPIRING, else NULL            */
    const char *site;     /* LEASE_*: where it was acquired; else NULL                */
    moor_ns held;         /* LEASE_*: for how long, as far as the pool has noticed    */
} moor_event;

#ifdef __cplusplus
}
#endif
#endif
