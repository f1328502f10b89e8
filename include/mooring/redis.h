/*
 * Redis (RESP) over mooring's own transport and TLS; hiredis reads replies and writes commands.
 *
 *     moor_driver_use(runtime, moor_redis_driver());
 *     moor_pool_open(runtime, "rediss://user:secret@cache.example/2", &options, &pool);
 *
 * Two ways to use such a pool:
 *   a session, moor_redis_begin    one connection for one holder: transactions, blocking commands, SUBSCRIBE
 *   shared, moor_redis_shared_open few connections for all threads, commands pipelined: the way for a cache
 *
 * An error reply is a value, not a failure: MOOR_OK with a reply of MOOR_REDIS_ERROR. docs/redis.md is the guide.
 */
#ifndef MOORING_REDIS_H
#define MOORING_REDIS_H

#include <mooring/driver.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the driver ---- */

/* What becomes of a connection that comes back. One with replies to come, or that listens, is closed always. */
typedef enum moor_redis_reset {
    MOOR_REDIS_RESET_MARKED, /* reset after MOOR_DIRTY, else kept as it is                   */
    MOOR_REDIS_RESET_ALWAYS, /* reset each time                                              */
    MOOR_REDIS_RESET_NEVER,  /* MOOR_DIRTY closes it                                         */
    MOOR_REDIS_RESET_FORCE_INT_ = 0x7fffffff
} moor_redis_reset;

/* moor_pool_options.driver_config of a redis pool; NULL = all defaults. Copied by moor_pool_open. The URL's query
 * can say the same and wins: ?client_name=x&reset=always&protocol=3&reply_bytes_max=1048576 */
typedef struct moor_redis_options {
    size_t size;              /* set by moor_redis_options_init                              */
    moor_redis_reset reset;   /* MARKED. A reset is RESET (a server of 6.2 or later), then the set-up again */
    const char *client_name;  /* CLIENT SETNAME of each connection; NULL = none              */
    unsigned protocol;        /* 2, or 3 (HELLO 3) if the hiredis built with is 1.0 or later; 2 */
    size_t reply_bytes_max;   /* memory of one reply, 1 KiB..4 GiB; more breaks the connection with ETOOBIG; 64 MiB */
} moor_redis_options;
MOOR_API void moor_redis_options_init_sized(moor_redis_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_redis_options_init(o) moor_redis_options_init_sized((o), sizeof *(o))

/* For moor_driver_use. Schemes redis, and rediss, which is TLS; port 6379. Static. */
MOOR_API const moor_driver *moor_redis_driver(void) MOOR_ANY_THREAD;

/* ---- replies ---- */

typedef enum moor_redis_type {
    MOOR_REDIS_NIL,
    MOOR_REDIS_STRING,
    MOOR_REDIS_STATUS,  /* "OK"                                                              */
    MOOR_REDIS_ERROR,   /* "WRONGTYPE Operation against ..."                                 */
    MOOR_REDIS_INTEGER,
    MOOR_REDIS_ARRAY,
    MOOR_REDIS_DOUBLE,  /* from here on RESP3 only                                           */
    MOOR_REDIS_BOOL,
    MOOR_REDIS_MAP,     /* its elements: key, value, key, value                              */
    MOOR_REDIS_SET,
    MOOR_REDIS_PUSH,    /* no reply to a command                                             */
    MOOR_REDIS_FORCE_INT_ = 0x7fffffff
} moor_redis_type;

/* A reply, or an element of one. Read it from one thread at a time. NULL is read as NIL. */
typedef struct moor_redis_reply moor_redis_reply;

/* Arrays in arrays, at most. */
#define MOOR_REDIS_DEPTH_MAX 8
/* Bytes of a reply line (status, error, number), at most. */
#define MOOR_REDIS_LINE_MAX 65536

MOOR_API moor_redis_type moor_redis_reply_type(const moor_redis_reply *r) MOOR_ANY_THREAD;
/* STRING, STATUS, ERROR, and a DOUBLE as it was written: bytes, and a NUL that is not counted. Else empty. */
MOOR_API moor_span moor_redis_reply_text(const moor_redis_reply *r) MOOR_ANY_THREAD;
/* INTEGER, and BOOL as 0 or 1; else 0. */
MOOR_API int64_t moor_redis_reply_integer(const moor_redis_reply *r) MOOR_ANY_THREAD;
/* DOUBLE; else 0. */
MOOR_API double moor_redis_reply_double(const moor_redis_reply *r) MOOR_ANY_THREAD;
/* Elements of ARRAY, MAP (keys and values), SET, PUSH; else 0. */
MOOR_API size_t moor_redis_reply_count(const moor_redis_reply *r) MOOR_ANY_THREAD;
/* One of them, which lives and dies with r. NULL beyond. */
MOOR_API const moor_redis_reply *moor_redis_reply_at(const moor_redis_reply *r, size_t i) MOOR_ANY_THREAD;
/* Is it an ERROR whose first word is `code` ("WRONGTYPE")? code NULL: any error. */
MOOR_API bool moor_redis_reply_is_error(const moor_redis_reply *r, const char *code) MOOR_ANY_THREAD;
/* Inside a callback: the reply, whole, becomes yours to free and outlives the callback. NULL: an element, or
 * one that is yours already. */
MOOR_API moor_redis_reply *moor_redis_reply_keep(const moor_redis_reply *r) MOOR_ANY_THREAD;
/* NULL is fine. Elements are freed with the whole. */
MOOR_API void moor_redis_reply_free(moor_redis_reply *r) MOOR_ANY_THREAD;

/* What became of a command. */
typedef struct moor_redis_result {
    size_t size;
    moor_fault fault;              /* err == MOOR_OK: reply is there, and may be an ERROR. safe_to_retry: no byte
                                      of the command can have left                           */
    const moor_redis_reply *reply; /* borrowed, valid inside the callback, see _keep; NULL on failure */
} moor_redis_result;
typedef void (*moor_redis_cb)(void *user, const moor_redis_result *result);

/* A command: argc > 0 words, argv[0] its name. argvlen NULL: they are NUL-terminated. Words are copied. At most: */
#define MOOR_REDIS_ARGS_MAX    (1024 * 1024)
#define MOOR_REDIS_COMMAND_MAX (512u * 1024 * 1024) /* bytes                                   */

/* ---- a session: one lease for one holder ----
 *
 * Used by one thread at a time, and in one of two ways from its first command on: blocking, from any ordinary
 * thread; or with callbacks, on the shard that acquired the lease.
 *
 * It notices commands that leave a state behind (SELECT, MULTI, WATCH, CLIENT SETNAME ...: moor_redis_end makes
 * REUSE a DIRTY then) and those after which replies have no order any more (SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE,
 * MONITOR: the session listens from then on, and its connection is closed at the end).
 */
typedef struct moor_redis moor_redis;

/* Commands sent or appended whose replies have not come, at most. */
#define MOOR_REDIS_PIPELINE_MAX 100000

/* A session on a lease of a redis pool, which from now on is released by moor_redis_end only. EINVAL: not of such
 * a pool. ESTALE. ENOMEM. */
MOOR_API MOOR_NODISCARD moor_err moor_redis_begin(moor_lease lease, moor_redis **out) MOOR_ANY_THREAD;
/*
 * Releases the lease and frees the session. how: as of moor_release, but worse if the session knows better: with
 * replies to come, broken or listening the connection is closed. Callbacks to come run with ECANCELED, later, on
 * the shard. NULL is fine. With callbacks: on the shard.
 */
MOOR_API void moor_redis_end(moor_redis *r, moor_release_how how) MOOR_ANY_THREAD;

/*
 * One command, one reply, which is yours to free. ETIMEDOUT: it was sent, or a part of it; if whole, its reply
 * comes by moor_redis_next_wait. EBUSY: replies of earlier ones are to be taken first. ERESET, EPROTO, ETOOBIG:
 * the session is broken and says so from now on. EINVAL: argc or argv, or a session with callbacks.
 * timeout_ms: MOOR_FOREVER, say, for BLPOP.
 */
MOOR_API MOOR_NODISCARD moor_err moor_redis_command_wait(moor_redis *r, int argc, const char *const *argv,
                                                         const size_t *argvlen, moor_ms timeout_ms,
                                                         moor_redis_reply **out) MOOR_BLOCKING;
/* Pipelining: notes a command, sends nothing yet. EBUSY: MOOR_REDIS_PIPELINE_MAX, or MOOR_REDIS_COMMAND_MAX bytes. */
MOOR_API MOOR_NODISCARD moor_err moor_redis_append(moor_redis *r, int argc, const char *const *argv,
                                                   const size_t *argvlen) MOOR_ANY_THREAD;
/* Sends what was appended, then the next reply in order of the commands; of a session that listens, the next
 * message. EINVAL: none is to come. ETIMEDOUT: not yet; nothing is lost. */
MOOR_API MOOR_NODISCARD moor_err moor_redis_next_wait(moor_redis *r, moor_ms timeout_ms,
                                                      moor_redis_reply **out) MOOR_BLOCKING;

/* With callbacks: cb runs exactly once, on this shard, in order of the commands, never inside the call. All
 * commands of a turn leave in one send. EBUSY: MOOR_REDIS_PIPELINE_MAX. EINVAL: a session that blocks. */
MOOR_API MOOR_NODISCARD moor_err moor_redis_command(moor_redis *r, int argc, const char *const *argv,
                                                    const size_t *argvlen, moor_redis_cb cb,
                                                    void *user) MOOR_SHARD_ONLY;
/* Set before SUBSCRIBE or MONITOR is sent: hears everything that comes once the session listens, the
 * confirmations too (the callbacks of such commands only hear a failure to send: give NULL), and its end, as a
 * result with a fault, once. RESP3: PUSHes. */
MOOR_API MOOR_NODISCARD moor_err moor_redis_listen(moor_redis *r, moor_redis_cb cb, void *user) MOOR_SHARD_ONLY;

/* ---- shared: few connections, commands of all threads pipelined ----
 *
 * Replies are matched to commands strictly by order; one that is given up (deadline, cancel) is still awaited and
 * thrown away in its place, so an answer never reaches another's question. Commands that block the connection or
 * change its state are refused: docs/redis.md has the list. Commands of one thread go over one connection, so
 * in their order, as long as it lives. A connection that is lost is replaced; commands it had sent fail with
 * ERESET and are not sent again.
 */
typedef struct moor_redis_shared moor_redis_shared;

#define MOOR_REDIS_SHARED_CONNS_MAX    64
#define MOOR_REDIS_SHARED_INFLIGHT_MAX (1024 * 1024)

typedef struct moor_redis_shared_options {
    size_t size;              /* set by moor_redis_shared_options_init                       */
    uint32_t conns;           /* connections, each on one shard, spread over all; 1..64, 1   */
    uint32_t inflight_max;    /* commands accepted and not finished; beyond: EBUSY; 1..1048576, 10000 */
    size_t inflight_bytes_max;/* their bytes; 1 KiB..4 GiB, 64 MiB                           */
    moor_ms stall_ms;         /* replies are due and not a byte came for that long: the connection is closed,
                                 all on it fails with ETIMEDOUT; or forever; 30000           */
    moor_ms rotate_ms;        /* a connection is given back and taken anew after this, between two commands, so
                                 that the pool's lifetimes and flushes reach it; or forever; 30000 */
} moor_redis_shared_options;
MOOR_API void moor_redis_shared_options_init_sized(moor_redis_shared_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_redis_shared_options_init(o) moor_redis_shared_options_init_sized((o), sizeof *(o))

/*
 * pool: a redis pool of r, which must be open for as long. options: borrowed, NULL = defaults. Dials with the first
 * commands. Each connection is a lease of the pool's, held for rotate_ms: a leak_after_ms below that reports it.
 * EINVAL: an option is out of range. ENOMEM. ECLOSED: the runtime has no shard.
 */
MOOR_API MOOR_NODISCARD moor_err moor_redis_shared_open(moor_runtime *r, moor_pool *pool,
                                                        const moor_redis_shared_options *options,
                                                        moor_redis_shared **out) MOOR_ANY_THREAD;
/*
 * Refuses new commands, waits up to timeout_ms for those under way, then fails them with ECANCELED, releases the
 * connections and frees. EBUSY: callbacks have not all run yet (a shard does not turn): call again. NULL is fine.
 * On an adopted shard, outside its callbacks, drives that shard.
 */
MOOR_API MOOR_NODISCARD moor_err moor_redis_shared_close(moor_redis_shared *s, moor_ms timeout_ms) MOOR_BLOCKING;

/* A command under way. {NULL, 0, 0} names none. Not to be used after moor_redis_shared_close. */
typedef struct moor_redis_op {
    moor_redis_shared *shared_;
    uint32_t index_;
    uint32_t generation_;
} moor_redis_op;

typedef struct moor_redis_call {
    size_t size;
    moor_ms timeout_ms;       /* from the call on; or forever; 5000                          */
    char *why;                /* NULL, or yours: why EINVAL, cut to why_cap with its NUL     */
    size_t why_cap;
} moor_redis_call;
MOOR_API void moor_redis_call_init_sized(moor_redis_call *c, size_t size) MOOR_ANY_THREAD;
#define moor_redis_call_init(c) moor_redis_call_init_sized((c), sizeof *(c))

/*
 * cb runs exactly once, later, on this shard (if that leaves before: on the connection's), if this returns
 * MOOR_OK. call NULL = defaults. out_op (may be NULL) is for moor_redis_cancel.
 * EINVAL: argc or argv, or a command that a shared connection cannot take (why says which). EBUSY: inflight_max or
 * inflight_bytes_max. ECLOSED. ENOMEM. EWRONGTHREAD: not on a shard.
 * Faults of the result: ETIMEDOUT, ECANCELED, ERESET, EPROTO, ETOOBIG; ECONNECT, EAUTH ... if no connection was had.
 */
MOOR_API MOOR_NODISCARD moor_err moor_redis_shared_command(moor_redis_shared *s, const moor_redis_call *call,
                                                           int argc, const char *const *argv,
                                                           const size_t *argvlen, moor_redis_cb cb, void *user,
                                                           moor_redis_op *out_op) MOOR_SHARD_ONLY;
/* The same from any ordinary thread; sleeps. *out is yours to free. fault: NULL, or filled in if this fails. */
MOOR_API MOOR_NODISCARD moor_err moor_redis_shared_command_wait(moor_redis_shared *s, const moor_redis_call *call,
                                                                int argc, const char *const *argv,
                                                                const size_t *argvlen, moor_redis_reply **out,
                                                                moor_fault *out_fault) MOOR_BLOCKING;
/* The command's callback runs with ECANCELED, on its shard, unless it was finished already; its reply, if it was
 * sent, is thrown away when it comes. Stale or empty: nothing. */
MOOR_API void moor_redis_cancel(moor_redis_op op) MOOR_ANY_THREAD;

typedef struct moor_redis_shared_stats {
    size_t size;
    uint32_t conns;           /* connected now                                               */
    uint32_t inflight;        /* commands accepted and not finished                          */
    uint64_t commands;        /* accepted                                                    */
    uint64_t replies;         /* that came and reached who asked                             */
    uint64_t replies_late;    /* that came when the command was given up                     */
    uint64_t connects;        /* connections had since the opening                           */
    uint64_t sends;           /* batches handed to the transport                             */
} moor_redis_shared_stats;
/* Any time; counts of all connections, read without stopping them. */
MOOR_API void moor_redis_shared_stats_read_sized(const moor_redis_shared *s, moor_redis_shared_stats *out,
                                                 size_t size) MOOR_ANY_THREAD;
#define moor_redis_shared_stats_read(s, out) moor_redis_shared_stats_read_sized((s), (out), sizeof *(out))

#ifdef __cplusplus
}
#endif
#endif
