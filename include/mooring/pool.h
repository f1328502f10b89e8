/*
 * Pools and leases: one policy over one upstream, and the right to one of its connections.
 */
#ifndef MOORING_POOL_H
#define MOORING_POOL_H

#include <mooring/error.h>
#include <mooring/handle.h>
#include <mooring/options.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * url: "http://host[:port]", "https://host[:port]"; "tcp://host:port", "tls://host:port", "unix:/path" (byte
 * streams); NULL = an open pool, which takes any http and https origin by each request's URL. Path and query are refused; userinfo becomes every
 * request's Basic authorization.
 * options: borrowed, NULL = defaults; overlaid with MOORING_* and MOORING_POOL_<NAME>_* either way.
 * Dials nothing: the min-idle warm-up begins with the first use. Errors: EINVAL (what and where is
 * logged), ENOSYS (a scheme this build does not speak), ENOMEM.
 */
MOOR_API MOOR_NODISCARD moor_err moor_pool_open(moor_runtime *r, const char *url,
                                                const moor_pool_options *options,
                                                moor_pool **out_pool) MOOR_BLOCKING;
/*
 * Refuses new work, fails the waiting with ECLOSED, lets what runs finish until timeout_ms, then cancels
 * it. on_drained (may be NULL) runs once, on a shard, when nothing is left. A second drain only shortens
 * the deadline; its on_drained must be NULL.
 */
MOOR_API void moor_pool_drain(moor_pool *p, moor_ms timeout_ms, void (*on_drained)(void *user),
                              void *user) MOOR_ANY_THREAD;
/*
 * Drains, waits and frees the pool. EBUSY: leases or chunks are still out; the pool stays draining, call
 * again once they are back. NULL is fine. On an adopted shard, outside its callbacks, drives that shard.
 */
MOOR_API MOOR_NODISCARD moor_err moor_pool_close(moor_pool *p, moor_ms timeout_ms) MOOR_BLOCKING;
/*
 * Every connection there is now is used no more: idle ones close, those in use when they come back. New ones
 * take their place, within the same bounds. For what changed behind the address: a failover, a new certificate.
 * Cost: one message to each shard that used the pool.
 */
MOOR_API void moor_pool_flush(moor_pool *p) MOOR_ANY_THREAD;
/* The name given in the options, or one made from the URL. Valid as long as the pool. */
MOOR_API const char *moor_pool_name(const moor_pool *p) MOOR_ANY_THREAD;

/* ---- why an acquire failed ---- */
typedef enum moor_wait_reason {
    MOOR_WAIT_NONE,        /* it did not wait                                              */
    MOOR_WAIT_AT_CAP,      /* every connection allowed is in use                           */
    MOOR_WAIT_CONNECTING,  /* a dial is under way                                          */
    MOOR_WAIT_DIALS,       /* as many dials as allowed are under way                       */
    MOOR_WAIT_BACKOFF,     /* connects fail; the next try is later                         */
    MOOR_WAIT_FILES,       /* out of file descriptors                                      */
    MOOR_WAIT_FORCE_INT_ = 0x7fffffff
} moor_wait_reason;
MOOR_API const char *moor_wait_reason_text(moor_wait_reason w) MOOR_ANY_THREAD;

/* A picture of the pool when the operation failed. Counts are of all shards, read without stopping them. */
typedef struct moor_why {
    size_t size;
    moor_wait_reason reason;
    uint32_t conns_open, conns_idle, conns_leased, dials, waiters, conns_max;
    moor_ns waited;
    moor_err connect_err;     /* of the last dial that failed; MOOR_OK if none did            */
    int connect_errno;
    const char *connect_what; /* static text or ""                                            */
} moor_why;

/* ---- leases: exclusive use of a connection, for byte streams ---- */
typedef struct moor_acquire_options {
    size_t size;
    moor_ms timeout_ms;     /* made absolute once, at the call; MOOR_TIMEOUT_OF_POOL by default: the
                               pool's acquire_timeout_ms                                    */
} moor_acquire_options;
MOOR_API void moor_acquire_options_init_sized(moor_acquire_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_acquire_options_init(o) moor_acquire_options_init_sized((o), sizeof *(o))

typedef struct moor_acquired {
    size_t size;
    moor_fault fault;       /* fault.err == MOOR_OK on success                              */
    moor_lease lease;       /* yours until moor_release                                     */
    bool reused;            /* an idle connection, not one dialled for this                 */
    moor_ns waited;
    const moor_why *why;    /* on failure; borrowed, valid inside the callback              */
} moor_acquired;
typedef void (*moor_acquired_cb)(void *user, const moor_acquired *a);

/* Newest idle connection of this shard, else of another, else a dial, else in turn. options NULL =
 * defaults. cb runs exactly once on this shard, never inside the call, if this returns MOOR_OK.
 * Errors: EBUSY (waiters_max reached), ECLOSED, ENOMEM, EINVAL (an http pool: use moor_http_send). */
MOOR_API MOOR_NODISCARD moor_err moor_acquire(moor_pool *p, const moor_acquire_options *options,
                                              moor_acquired_cb cb, void *user,
                                              moor_op *out_op) MOOR_SHARD_ONLY;
/* The same from any ordinary thread; sleeps. out->why is NULL. The lease may then be used from any
 * thread through the blocking stream calls. */
MOOR_API MOOR_NODISCARD moor_err moor_acquire_wait(moor_pool *p, const moor_acquire_options *options,
                                                   moor_acquired *out) MOOR_BLOCKING;

typedef enum moor_release_how {
    MOOR_REUSE,   /* idle and in a state the next holder expects                            */
    MOOR_DISCARD, /* close it                                                               */
    MOOR_RELEASE_FORCE_INT_ = 0x7fffffff
} moor_release_how;
/* Stale or released twice: nothing. A connection with bytes unread, unsent or at its end is closed
 * whatever `how` says. */
MOOR_API void moor_release(moor_lease lease, moor_release_how how) MOOR_ANY_THREAD;

/* ---- byte streams on a leased connection ---- */
typedef struct moor_stream_handlers {
    size_t size;
    void (*on_chunk)(void *user, moor_chunk c);           /* you now own c                  */
    void (*on_end)(void *user, const moor_fault *fault);  /* once: MOOR_OK = the peer's FIN */
} moor_stream_handlers;

/* Begins to read: chunks until on_end or release. Once per lease. Handlers are copied.
 * Reads nothing more while more than window_bytes are lent and not returned. */
MOOR_API MOOR_NODISCARD moor_err moor_stream_read(moor_lease lease, const moor_stream_handlers *h,
                                                  void *user) MOOR_SHARD_ONLY;
/* Queues a piece; all pieces of a turn leave in one send. piece.sent runs once, on success and failure.
 * EBUSY: stream_queue_max pieces are unsent. ERESET: the connection is gone. EINVAL: after
 * moor_stream_finish. On an error piece.sent does not run. */
MOOR_API MOOR_NODISCARD moor_err moor_stream_send(moor_lease lease, moor_piece piece) MOOR_SHARD_ONLY;
/* No more will be sent: FIN after what is queued. */
MOOR_API MOOR_NODISCARD moor_err moor_stream_finish(moor_lease lease) MOOR_SHARD_ONLY;

/* Blocking twins, from any ordinary thread. Sends all (bytes are borrowed for the call). ETIMEDOUT: some
 * may have left, so the connection is closed. ESTALE, ECANCELED: released or closed with its pool meanwhile. */
MOOR_API MOOR_NODISCARD moor_err moor_stream_send_wait(moor_lease lease, moor_span bytes,
                                                       moor_ms timeout_ms) MOOR_BLOCKING;
/* The next chunk; *out is yours to return. At the peer's FIN: MOOR_OK with an empty chunk. ETIMEDOUT changes
 * nothing, with timeout_ms 0 it means that nothing is there. EBUSY: another thread waits for a chunk of this
 * lease. EINVAL: moor_stream_read was called on it. */
MOOR_API MOOR_NODISCARD moor_err moor_stream_read_wait(moor_lease lease, moor_ms timeout_ms,
                                                       moor_chunk *out) MOOR_BLOCKING;

#ifdef __cplusplus
}
#endif
#endif
