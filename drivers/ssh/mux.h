/*
 * The multiplexer's parts: commands wait in its queue, run in channels of the sessions it leases, and end. All of
 * it belongs to its shard's thread. Handlers of the user's may call exec and cancel at any point, so those only
 * note what is to be done, and post `kick`.
 */
#ifndef DRIVERS_SSH_MUX_H
#define DRIVERS_SSH_MUX_H

#include "drivers/ssh/internal.h"

#include <mooring/runtime.h>

#include <libssh/callbacks.h>

#include <semaphore.h>

/* A command the server would not open a channel for waits again so often, then fails. */
#define MR_SSH_REFUSALS_MAX 3
/* Lost before it was begun, with its session: once more, then it fails. */
#define MR_SSH_LOSSES_MAX 1
/* Commands that were given up leave channels which the server has yet to close; a session nobody else uses waits
 * for that so long, and is closed. */
#define MR_SSH_LINGER_MS 1000
/* After so long a session that refused a channel is tried with one more. */
#define MR_SSH_LIMIT_RAISE_MS 5000
/* A session that others wait for takes no new commands after so long. */
#define MR_SSH_SHARE_MS 100

enum mr_ssh_state {
    MR_SSH_QUEUED,
    MR_SSH_OPENING, /* the channel is asked for                          */
    MR_SSH_ASKING,  /* it is open, the command is asked for              */
    MR_SSH_RUNNING,
    MR_SSH_CLOSING, /* we have closed the channel, the server has not yet */
};

struct mr_ssh_command {
    struct mr_ssh_command *next, *prev; /* in the queue, or in the session's list */
    moor_ssh_mux *mux;
    struct mr_ssh_session *session; /* NULL: it waits */
    uint64_t id;
    enum mr_ssh_state state;
    moor_ssh_handlers handlers;
    void *user;
    char *text;
    const char *input; /* behind the text, in the same memory */
    size_t text_len, input_len, input_at;
    size_t output_left;
    moor_poll timer;
    ssh_channel channel;
    struct ssh_channel_callbacks_struct callbacks;
    int exit_status;
    char signal[32];
    unsigned refusals, losses;
    bool is_begun;  /* the server may have seen the command */
    bool is_fed;    /* all input is with libssh, and its end */
    bool is_closed; /* by the server */
    bool is_told;   /* on_done has run: what is left is a channel to be closed */
    moor_err end;   /* why it is to end before its time; MOOR_OK = it is not */
    char why[MOOR_SSH_TEXT_MAX];
};

struct mr_ssh_list {
    struct mr_ssh_command *first, *last;
    uint32_t count;
};

struct mr_ssh_session {
    struct mr_ssh_session *next;
    moor_ssh_mux *mux;
    moor_lease lease;
    ssh_session ssh;
    struct mr_ssh_link *link;
    moor_poll poll;
    struct mr_ssh_list commands;              /* with a channel, those that are told included */
    uint32_t told;                            /* of them */
    struct ssh_counter_struct bytes, packets; /* of libssh's: what came */
    uint64_t bytes_seen;                      /* of those: dealt with */
    uint32_t closed_asked; /* of link->channels_closed: before the keepalive that is outstanding */
    int64_t held_ms, heard_ms, linger_ms; /* since when; linger 0 = it is in use */
    bool is_leaving;                      /* no new commands: it goes back to the pool */
    bool is_asked;                        /* keepalive: its answer has not been collected */
    bool is_awaited;                      /* and nothing has come since */
    bool is_stirred;                      /* there is something to do for it */
};

/* One moor_acquire. */
struct mr_ssh_pending {
    struct mr_ssh_pending *next;
    moor_ssh_mux *mux;
    moor_op op;
    uint64_t last_id; /* of the commands it was begun for */
};

struct moor_ssh_mux {
    moor_pool *pool;
    moor_shard *shard;
    moor_ssh_mux_options options;
    struct mr_ssh_list queue; /* by id */
    struct mr_ssh_session *sessions;
    struct mr_ssh_pending *pending;
    uint32_t session_count, pending_count;
    uint32_t commands; /* not told yet */
    uint64_t next_id;
    moor_task kick;
    bool is_kicked;
    bool is_closing;
    moor_poll close_timer;
    moor_ms close_timeout_ms;
    moor_task close_task;
    sem_t closed;
    _Atomic(bool) is_closed;
};

int64_t mr_ssh_now_ms(void);

/* mux.c */
void mr_ssh_mux_kick(moor_ssh_mux *m);
void mr_ssh_mux_requeue(moor_ssh_mux *m, struct mr_ssh_command *c);
/* How many channels the session may have. */
uint32_t mr_ssh_mux_limit(const struct mr_ssh_session *s);
/* As moor_ssh_exec, on the right shard. */
moor_err mr_ssh_mux_submit(moor_ssh_mux *m, const moor_ssh_command *command,
                           const moor_ssh_handlers *handlers, void *user, uint64_t *out_id);
void mr_ssh_list_add(struct mr_ssh_list *list, struct mr_ssh_command *c);
void mr_ssh_list_remove(struct mr_ssh_list *list, struct mr_ssh_command *c);

/* mux_command.c */
/* Begins it in a session. False: no memory, it has failed. */
bool mr_ssh_command_start(struct mr_ssh_command *c, struct mr_ssh_session *s);
/* Does what can be done without waiting. */
void mr_ssh_command_step(struct mr_ssh_command *c);
/* Takes it further if it has ended, or is to. It may be gone afterwards. */
void mr_ssh_command_settle(struct mr_ssh_command *c);
/* Calls on_done. */
void mr_ssh_command_tell(struct mr_ssh_command *c, moor_err err, const char *what);
/* It is to end with err. Acts later. */
void mr_ssh_command_end(struct mr_ssh_command *c, moor_err err, const char *why);
/* Takes it out of its session, whose channel is freed if the session lives. */
void mr_ssh_command_leave(struct mr_ssh_command *c);
void mr_ssh_command_free(struct mr_ssh_command *c);

/* mux_session.c */
void mr_ssh_session_add(moor_ssh_mux *m, moor_lease lease, ssh_session ssh,
                        struct mr_ssh_link *link);
/* Everything there is to do for it now. It may be gone afterwards. */
void mr_ssh_session_turn(struct mr_ssh_session *s);

/* mux_close.c: after everything that may have been the last thing. */
void mr_ssh_mux_close_if_over(moor_ssh_mux *m);
/* Sleeps, or drives the shard if it is this thread's own, until *is_done. EWRONGTHREAD: inside a callback. */
moor_err mr_ssh_mux_check_thread(const moor_ssh_mux *m);
void mr_ssh_mux_wait(const moor_ssh_mux *m, sem_t *done, _Atomic(bool) *is_done);

#endif
