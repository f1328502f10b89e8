/*
 * Teaching the pool a protocol. A driver is a table of hooks over a library that speaks it; the pool decides
 * when each runs, bounds dials, queues who waits, watches, ages and counts. docs/drivers.md is the guide,
 * examples/driver_line.c a whole driver.
 *
 * Two kinds:
 *   handle drivers  a library owns the descriptor and has an object for it (PGconn, MYSQL, ssh_session). The
 *                   object is what holders get: any thread leases it and does its own I/O with it.
 *   stream drivers  (MOOR_DRIVER_STREAM) the connection is the library mooring's own, TLS included; holders use
 *                   the byte-stream calls of mooring/pool.h. The driver only prepares, checks and resets it.
 *
 * Threads. Hooks marked "keeper" run on the one shard that keeps the pool's connections, never two at a time
 * for one link, never while it is leased, and must not block: every one has about a millisecond. Hooks marked
 * "holder" run on the thread that returns or reports a lease, while it is still exclusively that thread's: no
 * I/O, no lock. Steps that can only block go to moor_link_block.
 */
#ifndef MOORING_DRIVER_H
#define MOORING_DRIVER_H

#include <mooring/error.h>
#include <mooring/handle.h>
#include <mooring/pool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One connection as its driver sees it, from connect to drop. */
typedef struct moor_link moor_link;

/* What the pool's URL says. Texts are decoded, NUL-terminated and never NULL ("" = not given); valid inside
 * `open` only. Secrets in it are wiped after. */
typedef struct moor_driver_url {
    size_t size;
    const char *scheme;     /* "postgres"                                                    */
    const char *host;       /* name, literal address, or a directory or socket path ('/' first) */
    uint16_t port;          /* the URL's or the driver's default                             */
    const char *user;
    const char *password;   /* use the target's instead: it may change with each dial        */
    const char *path;       /* without its first '/': a database, say; decoded               */
    const char *query;      /* "a=b&c=d", still encoded: see moor_driver_query               */
} moor_driver_url;

/* Where one connect goes. Valid inside `connect` and the `resume`s and `prepare` that follow it, until the link
 * is ready or dropped; the secrets are wiped then. */
typedef struct moor_target {
    size_t size;
    const char *host;       /* as in the URL: what a certificate is checked against          */
    const char *address;    /* numeric, "127.0.0.1": dial this, do not resolve; "" for a path */
    const char *path;       /* Unix socket or its directory; "" for an address               */
    uint16_t port;
    int fd;                 /* MOOR_DRIVER_FD: connected, yours from now on; else -1         */
    const char *user;       /* of the credentials provider, else of the URL; "" = none       */
    const char *password;
    moor_ms timeout_ms;     /* what is left of connect_timeout_ms                            */
} moor_target;

/* What a step came to. */
typedef enum moor_step {
    MOOR_STEP_DONE,         /* the task is complete                                          */
    MOOR_STEP_WAIT,         /* moor_link_wait or moor_link_block was called: `resume` follows */
    MOOR_STEP_FAILED,       /* moor_link_fail was called: the link will be dropped           */
    MOOR_STEP_FORCE_INT_ = 0x7fffffff
} moor_step;

/* What is to become of a link. */
typedef enum moor_verdict {
    MOOR_VERDICT_KEEP,      /* fit for the next holder as it is                              */
    MOOR_VERDICT_RESET,     /* after its reset; without such a hook: DISCARD                 */
    MOOR_VERDICT_DISCARD,   /* this one is of no more use                                    */
    MOOR_VERDICT_FLUSH,     /* neither are all others of its generation: a failover          */
    MOOR_VERDICT_FORCE_INT_ = 0x7fffffff
} moor_verdict;

typedef enum moor_task_kind {
    MOOR_TASK_NONE,
    MOOR_TASK_CONNECT,
    MOOR_TASK_PREPARE,
    MOOR_TASK_CHECK,
    MOOR_TASK_RESET,
    MOOR_TASK_CLOSE,
    MOOR_TASK_FORCE_INT_ = 0x7fffffff
} moor_task_kind;

enum {
    MOOR_DRIVER_STREAM = 1, /* a stream driver                                               */
    MOOR_DRIVER_FD = 2,     /* handle drivers: the pool dials (racing IPv4 and IPv6) and gives target.fd */
};

/* `events` of resume besides POLLIN and its like. */
enum {
    MOOR_RESUME_TIMEOUT = 0,     /* the wait's own timeout passed                            */
    MOOR_RESUME_UNBLOCKED = 1 << 16, /* what moor_link_block ran has returned               */
};

typedef struct moor_driver {
    size_t size;
    const char *name;       /* "postgres": in logs and snapshots                             */
    const char *schemes;    /* "postgres postgresql"                                         */
    uint16_t port;          /* where a URL gives none; 0 = it must                           */
    unsigned flags;
    size_t handle_bytes;    /* estimate of the library's own memory for one connection       */

    /* The thread of moor_pool_open. url: borrowed. config: moor_pool_options.driver_config, borrowed, may be
     * NULL. Not OK: write what and where into why; it is logged. */
    moor_err (*open)(const moor_driver_url *url, const void *config, void **out_config, char *why,
                     size_t why_cap);
    /* The pool is gone: frees what open made. Any thread. */
    void (*shut)(void *config);

    /* keeper. Begins a connection to moor_link_target(l). Stream drivers: NULL. */
    moor_step (*connect)(moor_link *l);
    /* keeper. Once connected: session set-up. May be NULL. */
    moor_step (*prepare)(moor_link *l);
    /* keeper. One round trip that proves the peer still serves. May be NULL: then checks pass. */
    moor_step (*check)(moor_link *l);
    /* keeper. Makes it as new for the next holder. May be NULL. */
    moor_step (*reset)(moor_link *l);
    /* keeper. Says goodbye; DONE: drop follows. Bounded to a second, and by the time a pool that is closed has to
     * drain. May be NULL. */
    moor_step (*close)(moor_link *l);
    /* keeper. What the step that waits was waiting for has come: POLLIN, POLLOUT, POLLERR, POLLHUP or one of
     * MOOR_RESUME_*. The task is moor_link_task(l). */
    moor_step (*resume)(moor_link *l, unsigned events);
    /* Frees the native object and the link's state, closing the descriptor, without waiting for anything. At
     * any stage after connect began, whatever the stage. keeper; if the runtime has no shard any more, the
     * thread that closes the pool. Not for the stream driver's connection, which is the pool's. */
    void (*drop)(moor_link *l);

    /* keeper. The descriptor to watch while the link lies idle; -1 = none. Handle drivers. */
    int (*fd)(moor_link *l);
    /* keeper. An idle link's descriptor became readable: take in what came. NULL = DISCARD. */
    moor_verdict (*idle)(moor_link *l);
    /* holder. A lease comes back; `how` is the holder's word for it. NULL: REUSE = KEEP, DIRTY = RESET. */
    moor_verdict (*returned)(moor_link *l, moor_release_how how);
    /* holder. moor_lease_report: what an error means. NULL: KEEP. */
    moor_verdict (*judge)(moor_link *l, const char *sqlstate, int code);

    /* keeper, stream drivers. Bytes that came while a task of the driver's waits; all are to be taken. */
    moor_step (*input)(moor_link *l, moor_span bytes);
} moor_driver;

/*
 * Makes a driver known to a runtime: pools with its schemes can be opened from now on. The table must outlive
 * the runtime. The same driver twice is fine. EINVAL: a hook that its kind needs is missing; EBUSY: a scheme is
 * another driver's, or MOOR_DRIVERS_MAX are there.
 */
#define MOOR_DRIVERS_MAX 32
MOOR_API MOOR_NODISCARD moor_err moor_driver_use(moor_runtime *r, const moor_driver *d) MOOR_ANY_THREAD;
/* The value of `key` in a query, decoded into buf (NUL-terminated). False: not there, or it does not fit. */
MOOR_API bool moor_driver_query(const char *query, const char *key, char *buf,
                                size_t cap) MOOR_ANY_THREAD;

/* ---- what hooks do with a link ---- */

MOOR_API const moor_driver *moor_link_driver(const moor_link *l) MOOR_ANY_THREAD;
/* What open made. */
MOOR_API void *moor_link_config(const moor_link *l) MOOR_ANY_THREAD;
/* The driver's own for this link; NULL until set. */
MOOR_API void *moor_link_state(const moor_link *l) MOOR_ANY_THREAD;
MOOR_API void moor_link_set_state(moor_link *l, void *state) MOOR_ANY_THREAD;
/* What holders get from moor_lease_native. Set it before connect is DONE. */
MOOR_API void *moor_link_native(const moor_link *l) MOOR_ANY_THREAD;
MOOR_API void moor_link_set_native(moor_link *l, void *native) MOOR_ANY_THREAD;
/* The link of a lease that is held; NULL if stale. For what a driver offers to holders. */
MOOR_API moor_link *moor_lease_link(moor_lease lease) MOOR_ANY_THREAD;

/* keeper. */
MOOR_API const moor_target *moor_link_target(const moor_link *l) MOOR_SHARD_ONLY;
MOOR_API moor_task_kind moor_link_task(const moor_link *l) MOOR_SHARD_ONLY;
/*
 * The step waits for fd: POLLIN, POLLOUT or both; fd -1 = for the time alone. timeout_ms: of this wait, then
 * resume(MOOR_RESUME_TIMEOUT); MOOR_FOREVER = only the task's own deadline counts, after which the link is
 * dropped. Polls are one-shot and are forgotten before any hook runs, so the library may change or close the
 * descriptor in every step. Returns MOOR_STEP_WAIT: `return moor_link_wait(...)`.
 */
MOOR_API moor_step moor_link_wait(moor_link *l, int fd, short events, moor_ms timeout_ms) MOOR_SHARD_ONLY;
/*
 * Runs work(l) on a helper thread (helpers_max of them), then resume(MOOR_RESUME_UNBLOCKED) on the keeper. The
 * link is work's alone meanwhile; a task's deadline fails the waiters in time but drops the link only when work
 * has returned, so bound it by the target's timeout_ms. Returns MOOR_STEP_WAIT.
 */
MOOR_API moor_step moor_link_block(moor_link *l, void (*work)(moor_link *l)) MOOR_SHARD_ONLY;
/*
 * The step failed: err (ECONNECT, ETLS, EPROTO, ERESET, EAUTH ...), os_errno or 0, and a text for people, which
 * is copied, cut at 159 bytes and must hold no secret. Returns MOOR_STEP_FAILED.
 */
MOOR_API moor_step moor_link_fail(moor_link *l, moor_err err, int os_errno, const char *text) MOOR_SHARD_ONLY;
/* Every connection of the pool's present generation is to be replaced, and why (static text). keeper. */
MOOR_API void moor_link_flush(moor_link *l, const char *why) MOOR_SHARD_ONLY;
/* Stream drivers: queues bytes, which are copied. ENOMEM, ERESET. */
MOOR_API MOOR_NODISCARD moor_err moor_link_send(moor_link *l, moor_span bytes) MOOR_SHARD_ONLY;

/* ---- one-shot polls on a shard, for what drives a library outside a task ---- */

/* Storage of yours; zeroed before first use. */
typedef struct moor_poll {
    /* On the shard, never inside moor_poll_start. events: POLLIN...; 0 = the timeout. */
    void (*ready)(struct moor_poll *p, unsigned events);
    void *user;
    void *private_[12];
} moor_poll;
/* EBUSY: already armed. Forget it (moor_poll_stop) before the library can close the descriptor. fd -1 = a
 * timer. */
MOOR_API MOOR_NODISCARD moor_err moor_poll_start(moor_poll *p, int fd, short events,
                                                 moor_ms timeout_ms) MOOR_SHARD_ONLY;
/* ready will not run. Nothing if it is not armed. None may be armed when an adopted shard is left. */
MOOR_API void moor_poll_stop(moor_poll *p) MOOR_SHARD_ONLY;

#ifdef __cplusplus
}
#endif
#endif
