/*
 * SSH over libssh: a pool of authenticated sessions, and commands multiplexed over few of them.
 *
 *     moor_driver_use(runtime, moor_ssh_driver());
 *     moor_pool_open(runtime, "ssh://deploy@build.example?identity=/etc/deploy/key", &options, &pool);
 *
 * Two ways to use it. A lease hands out a whole ssh_session, in libssh's blocking mode, to the one thread that
 * holds it:
 *     moor_acquire_wait(pool, NULL, &got);
 *     ssh_channel c = ssh_channel_new(got.native);     any call of libssh's; free what was opened
 *     moor_release(got.lease, MOOR_REUSE);
 * A multiplexer runs many commands over few sessions, each in a channel of its own:
 *     moor_ssh_mux_open(pool, moor_shard_at(runtime, 0), NULL, &mux);
 *     moor_ssh_exec_wait(mux, &command, &result);
 *
 * The server's key must be known: docs/ssh.md lists what a URL's query may say, and what libssh does not do.
 * This header needs none of libssh's; a program that uses the handle includes <libssh/libssh.h>.
 */
#ifndef MOORING_SSH_H
#define MOORING_SSH_H

#include <mooring/driver.h>

#ifdef __cplusplus
extern "C" {
#endif

/* For moor_driver_use. Scheme ssh, port 22. Static. */
MOOR_API const moor_driver *moor_ssh_driver(void) MOOR_ANY_THREAD;

/* ---- commands over shared sessions ---- */

/* Owned by one shard, which runs all its sessions; those it has while commands run are leases of the pool. */
typedef struct moor_ssh_mux moor_ssh_mux;

typedef struct moor_ssh_mux_options {
    size_t size;                /* set by moor_ssh_mux_options_init                          */
    uint32_t sessions_max;      /* sessions it leases at a time; 1..1000, 4                   */
    uint32_t channels_max;      /* commands at a time in one session; the server may allow fewer
                                   (MaxSessions, 10 by default), which is noticed; 1..1000, 8 */
    uint32_t commands_max;      /* running and waiting; more are refused with EBUSY; 10000    */
    moor_ms keepalive_ms;       /* silence after which a session in use is asked for a sign of life, which it
                                   has as long again to give; MOOR_FOREVER = never; 15000     */
    moor_ms hold_max_ms;        /* a session takes no new commands after so long, and goes back to the
                                   pool, which may retire it; 30000                           */
} moor_ssh_mux_options;
MOOR_API void moor_ssh_mux_options_init_sized(moor_ssh_mux_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_ssh_mux_options_init(o) moor_ssh_mux_options_init_sized((o), sizeof *(o))

/*
 * options: borrowed, NULL = defaults. Leases nothing before the first command, nor while none runs. The shard and
 * the pool must outlive it. EINVAL: an option out of range, or not a pool of this driver (found out with the first
 * lease: then commands fail with it). ENOMEM.
 */
MOOR_API MOOR_NODISCARD moor_err moor_ssh_mux_open(moor_pool *p, moor_shard *shard,
                                                   const moor_ssh_mux_options *options,
                                                   moor_ssh_mux **out_mux) MOOR_ANY_THREAD;
/*
 * Takes no more commands (ECLOSED), lets those there are finish until timeout_ms, then cancels them, returns the
 * sessions and frees the multiplexer. NULL is fine. EWRONGTHREAD: inside a callback of the shard. ECLOSED: the
 * shard is gone; nothing was freed.
 */
MOOR_API MOOR_NODISCARD moor_err moor_ssh_mux_close(moor_ssh_mux *mux, moor_ms timeout_ms) MOOR_BLOCKING;

#define MOOR_SSH_COMMAND_MAX ((size_t)128 << 10) /* bytes of a command's text                 */
#define MOOR_SSH_CHUNK_MAX   ((size_t)32 << 10)  /* most bytes of one on_output               */
#define MOOR_SSH_TEXT_MAX    160

typedef struct moor_ssh_command {
    size_t size;
    const char *text;           /* for the user's shell on the server; copied                */
    moor_span input;            /* its standard input, then end of file; copied              */
    moor_ms timeout_ms;         /* from the call to the command's end; MOOR_FOREVER by default. Then it is sent
                                   TERM, and its channel is closed; the session stays         */
    size_t output_max;          /* bytes of both outputs together; more: ETOOBIG, and it is ended as by the
                                   timeout; 16 MiB                                            */
    char *why;                  /* NULL, or yours, of why_cap bytes: blocking calls that fail put a text there */
    size_t why_cap;
} moor_ssh_command;
MOOR_API void moor_ssh_command_init_sized(moor_ssh_command *c, size_t size) MOOR_ANY_THREAD;
#define moor_ssh_command_init(c) moor_ssh_command_init_sized((c), sizeof *(c))

/* Borrowed: valid inside the callback. */
typedef struct moor_ssh_done {
    size_t size;
    moor_fault fault;           /* MOOR_OK: the command ended, whatever its status. safe_to_retry: it never began */
    int exit_status;            /* -1: the server told none: a signal ended it, or the server does not say */
    const char *signal;         /* "KILL", without SIG: what ended it; "" = nothing did       */
    const char *text;           /* what the server or libssh said of a failure; "" = nothing  */
} moor_ssh_done;

typedef struct moor_ssh_handlers {
    size_t size;
    /* Output as it comes, in order, at most MOOR_SSH_CHUNK_MAX at a time. Borrowed. May be NULL. */
    void (*on_output)(void *user, bool is_stderr, moor_span bytes);
    /* Once, the last call of a command. */
    void (*on_done)(void *user, const moor_ssh_done *done);
} moor_ssh_handlers;

/* A command of one multiplexer. {0} names none. Not to be used once the multiplexer is closed. */
typedef struct moor_ssh_op {
    moor_ssh_mux *mux_;
    uint64_t id_;
} moor_ssh_op;

/*
 * Runs a command as soon as there is a channel for it, in turn. Handlers are copied and run on this shard, never
 * inside the call; on_done runs once if this returns MOOR_OK. out_op may be NULL.
 * Errors: EINVAL, EBUSY (commands_max), ECLOSED, ENOMEM, EWRONGTHREAD (not the multiplexer's shard).
 * Errors of on_done: ETIMEDOUT, ECANCELED, ETOOBIG; ERESET (the session was lost, the command may have run),
 * EPROTO (the server refused the channel or the command), and those of moor_acquire, with the pool's reason.
 */
MOOR_API MOOR_NODISCARD moor_err moor_ssh_exec(moor_ssh_mux *mux, const moor_ssh_command *command,
                                               const moor_ssh_handlers *handlers, void *user,
                                               moor_ssh_op *out_op) MOOR_SHARD_ONLY;
/* The command ends as by its timeout, with ECANCELED. Over or {0}: nothing. */
MOOR_API void moor_ssh_cancel(moor_ssh_op op) MOOR_SHARD_ONLY;

/* Of moor_ssh_exec_wait; yours to moor_ssh_result_free. */
typedef struct moor_ssh_result {
    size_t size;
    int exit_status;            /* as in moor_ssh_done                                       */
    char signal[32];
    moor_span out, err;         /* followed by a NUL that len does not count                  */
} moor_ssh_result;

/* The same from any ordinary thread; sleeps until the command has ended, and gives all its output. On an adopted
 * shard, outside its callbacks, drives that shard. */
MOOR_API MOOR_NODISCARD moor_err moor_ssh_exec_wait(moor_ssh_mux *mux, const moor_ssh_command *command,
                                                    moor_ssh_result **out_result) MOOR_BLOCKING;
/* NULL is fine. */
MOOR_API void moor_ssh_result_free(moor_ssh_result *result) MOOR_ANY_THREAD;

#ifdef __cplusplus
}
#endif
#endif
