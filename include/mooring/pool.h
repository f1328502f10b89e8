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
 * url: "http://host[:port]", "https://host[:port]", "h2c://host[:port]" (HTTP/2 in clear text, with prior knowledge); "tcp://host:port", "tls://host:port", "unix:/path" (byte
 * streams); the schemes of drivers (moor_driver_use); NULL = an open pool, which takes any http and https origin by each request's URL. Path and query are refused; userinfo becomes every
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
/*
 * While paused nothing is handed out or dialled; leases that are out go on and come back. Who waits keeps
 * waiting (reason: paused), or fails at once with ECLOSED if fail_waiters; newcomers too. For a failover that is
 * known of beforehand. Pools of handle leases; others: EINVAL.
 */
MOOR_API MOOR_NODISCARD moor_err moor_pool_pause(moor_pool *p, bool fail_waiters) MOOR_ANY_THREAD;
MOOR_API void moor_pool_resume(moor_pool *p) MOOR_ANY_THREAD;
/*
 * Changes one option of a pool that is open: its name and value as in MOORING_<NAME>, "conns_max", "20". A cap
 * below what is open drains: idle connections close, those in use when they come back, none is cut.
 * EINVAL: no such option, out of range, or one that only opening reads; why (may be NULL with cap 0) says what.
 */
MOOR_API MOOR_NODISCARD moor_err moor_pool_set(moor_pool *p, const char *option, const char *value, char *why,
                                               size_t why_cap) MOOR_ANY_THREAD;
/*
 * The pool goes to another place, under load: new connections are made as the URL and the options' driver_config and
 * hooks say (others: moor_pool_set), those there serve out their leases and close. Who waits is served by the new
 * ones; p stays what it was to everyone who holds it. Only between URLs of one driver: EINVAL. Each new host counts
 * against origins_max: EBUSY. On an error nothing has changed. Pools of handle leases.
 */
MOOR_API MOOR_NODISCARD moor_err moor_pool_replace(moor_pool *p, const char *url,
                                                   const moor_pool_options *options) MOOR_BLOCKING;
/*
 * Makes idle connections until `count` are open (never above conns_max; 0 = conns_min_idle), within the dial
 * bound, and waits for them. progress (may be NULL) runs on the calling thread. ETIMEDOUT, ECONNECT ...: not all
 * are there; those that are stay.
 */
MOOR_API MOOR_NODISCARD moor_err moor_pool_warm(moor_pool *p, uint32_t count, moor_ms timeout_ms,
                                                void (*progress)(void *user, uint32_t ready, uint32_t wanted),
                                                void *user) MOOR_BLOCKING;
/*
 * The pool and each of its connections (state, age, idle, uses, last error, where leased) as JSON, for people who
 * look for a fault. Holds no secret. *out_len: bytes needed, without the NUL; cut if cap is less. Any time.
 */
MOOR_API void moor_pool_snapshot(const moor_pool *p, char *buf, size_t cap, size_t *out_len) MOOR_ANY_THREAD;
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
    MOOR_WAIT_PAUSED,      /* the pool is paused                                           */
    MOOR_WAIT_TURN,        /* others waited before it                                      */
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
    char connect_text[160];   /* what the driver said of it, "" if nothing                    */
    const char *held_site;    /* where the lease held for longest was acquired; "" = not known */
    moor_ns held_for;         /* for how long, as far as the pool has noticed; 0 = not known  */
} moor_why;
/* One line for people, of all the above. Returns buf, cut to fit. */
MOOR_API const char *moor_why_text(const moor_why *why, char *buf, size_t cap) MOOR_ANY_THREAD;

/* ---- leases: exclusive use of a connection ----
 *
 * Pools of drivers whose library owns the descriptor (postgres, mysql, ssh) give handle leases: any thread
 * takes one, does its own I/O with moor_lease_native and returns it. Pools of byte streams (tcp, tls, unix,
 * redis) give shard leases: the shard does the I/O, see below.
 */
#define MOOR_PRIORITIES 4

typedef struct moor_acquire_options {
    size_t size;
    moor_ms timeout_ms;     /* made absolute once, at the call; MOOR_TIMEOUT_OF_POOL by default: the
                               pool's acquire_timeout_ms                                    */
    uint64_t affinity;      /* handle leases: the same key gets the same connection while that lives,
                               waiting for it if need be; 0 = none                           */
    uint8_t priority;       /* 0 is served first, up to MOOR_PRIORITIES - 1; FIFO within one; 1   */
    moor_why *why;          /* NULL, or yours: filled by blocking calls that fail            */
} moor_acquire_options;
MOOR_API void moor_acquire_options_init_sized(moor_acquire_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_acquire_options_init(o) moor_acquire_options_init_sized((o), sizeof *(o))

typedef struct moor_acquired {
    size_t size;
    moor_fault fault;       /* fault.err == MOOR_OK on success                              */
    moor_lease lease;       /* yours until moor_release                                     */
    void *native;           /* what moor_lease_native gives: PGconn, MYSQL ...; NULL: a shard lease */
    bool reused;            /* an idle connection, not one dialled for this                 */
    moor_ns waited;         /* 0 = it did not                                               */
    const moor_why *why;    /* on failure; borrowed, valid inside the callback              */
} moor_acquired;
typedef void (*moor_acquired_cb)(void *user, const moor_acquired *a);

/* Where a lease was acquired, for leak reports: static text. The calls below are macros that note theirs. */
#define MOOR_SITE_TEXT_(line) #line
#define MOOR_SITE_LINE_(line) MOOR_SITE_TEXT_(line)
#define MOOR_SITE             __FILE__ ":" MOOR_SITE_LINE_(__LINE__)

/* Newest idle connection of this shard, else of another, else a dial, else in turn. options NULL =
 * defaults. cb runs exactly once on this shard, never inside the call, if this returns MOOR_OK.
 * Errors: EBUSY (waiters_max reached), ECLOSED, ENOMEM, EINVAL (an http pool: use moor_http_send). */
MOOR_API MOOR_NODISCARD moor_err moor_acquire_at(moor_pool *p, const moor_acquire_options *options,
                                                 moor_acquired_cb cb, void *user, moor_op *out_op,
                                                 const char *site) MOOR_SHARD_ONLY;
#define moor_acquire(p, options, cb, user, out_op)                                                 \
    moor_acquire_at((p), (options), (cb), (user), (out_op), MOOR_SITE)
/* The same from any ordinary thread; sleeps. out->why is NULL; options->why is filled. A shard lease may
 * then be used from any thread through the blocking stream calls.
 * Cost of a handle lease when one is idle: one compare-and-swap to acquire and a store to release, no system
 * call. Inside a shard's callback: EWRONGTHREAD where it would have to wait. */
MOOR_API MOOR_NODISCARD moor_err moor_acquire_wait_at(moor_pool *p, const moor_acquire_options *options,
                                                      moor_acquired *out, const char *site) MOOR_BLOCKING;
#define moor_acquire_wait(p, options, out) moor_acquire_wait_at((p), (options), (out), MOOR_SITE)
/* Handle leases: an idle connection now, or ETIMEDOUT; lets nobody who waits go short and never waits itself. One
 * that check_after_ms wants checked first is not idle in that sense.
 * EINVAL: a pool of shard leases. */
MOOR_API MOOR_NODISCARD moor_err moor_acquire_try_at(moor_pool *p, const moor_acquire_options *options,
                                                     moor_acquired *out, const char *site) MOOR_ANY_THREAD;
#define moor_acquire_try(p, options, out) moor_acquire_try_at((p), (options), (out), MOOR_SITE)
/* Handle leases: `count` of them or none. It takes its turn as one and gathers while it is first, so two of
 * these never starve each other. out: count elements. EINVAL: more than conns_max, or a pool of shard leases. */
MOOR_API MOOR_NODISCARD moor_err moor_acquire_many_at(moor_pool *p, const moor_acquire_options *options,
                                                      uint32_t count, moor_acquired *out,
                                                      const char *site) MOOR_BLOCKING;
#define moor_acquire_many(p, options, count, out)                                                  \
    moor_acquire_many_at((p), (options), (count), (out), MOOR_SITE)

/* The library's own object: PGconn *, MYSQL *, ssh_session ... NULL: stale, or a shard lease. */
MOOR_API void *moor_lease_native(moor_lease lease) MOOR_ANY_THREAD;
/* What only the holder saw, before it releases: a SQLSTATE (or NULL) or an errno or code of the library, which
 * the driver judges: the connection may be retired on release, the pool flushed now. Stale: nothing. */
MOOR_API void moor_lease_report(moor_lease lease, const char *sqlstate, int code) MOOR_ANY_THREAD;

typedef enum moor_release_how {
    MOOR_REUSE,   /* idle and in a state the next holder expects                            */
    MOOR_DISCARD, /* close it                                                               */
    MOOR_DIRTY,   /* session state was changed: reset it before the next holder; without a way to: close */
    MOOR_RELEASE_FORCE_INT_ = 0x7fffffff
} moor_release_how;
/* Stale, or released before, by whichever thread: nothing. (Two threads that release one handle lease at the
 * same instant are not told apart; see docs/decisions/0021.) A shard lease's connection with bytes unread, unsent or at its end is
 * closed whatever `how` says; of a handle the driver says more, see its page. */
MOOR_API void moor_release(moor_lease lease, moor_release_how how) MOOR_ANY_THREAD;

/* Acquires as moor_acquire_wait, runs fn and releases as fn says. Returns why no lease was had. */
MOOR_API MOOR_NODISCARD moor_err moor_with_lease_at(moor_pool *p, const moor_acquire_options *options,
                                                    moor_release_how (*fn)(void *arg, moor_lease lease,
                                                                           void *native),
                                                    void *arg, const char *site) MOOR_BLOCKING;
#define moor_with_lease(p, options, fn, arg) moor_with_lease_at((p), (options), (fn), (arg), MOOR_SITE)

/* A lease that is released (MOOR_REUSE) where its scope ends:
 *     MOOR_SCOPED_LEASE lease = acquired.lease; */
static inline void moor_scoped_release_(moor_lease *lease)
{
    moor_release(*lease, MOOR_REUSE);
}
#if defined(__GNUC__)
#define MOOR_SCOPED_LEASE __attribute__((cleanup(moor_scoped_release_))) moor_lease
#endif

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
