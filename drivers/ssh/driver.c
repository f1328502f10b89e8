/*
 * The driver's table, and the hooks of a session that is connected: watched, checked, given back, closed. The
 * keeper's thread, but for `returned` and `judge`, which run on the holder's and do no I/O.
 *
 * A session rests in libssh's blocking mode, as holders get it. Each hook of the keeper's that makes libssh read
 * or write switches that off for as long as it has the session.
 */
#include "drivers/ssh/internal.h"

#include <libssh/server.h>

#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Takes in what came and sends what waits, as far as that goes. What a server asks for unbidden (channels to us,
 * forwards) is refused there, so it cannot pile up.
 */
static void pump(ssh_session session)
{
    for (int i = 0; i < MR_SSH_PUMPS_MAX; i++) {
        (void)ssh_execute_message_callbacks(session);
        if (!mr_ssh_is_alive(session) || !(ssh_get_poll_flags(session) & SSH_WRITE_PENDING))
            return;
    }
}

/* ---- check and reset: one round trip ---- */

static moor_step settle(moor_link *l, moor_step step)
{
    if (step != MOOR_STEP_WAIT)
        ssh_set_blocking(moor_link_native(l), 1);
    return step;
}

/*
 * ssh_send_keepalive sends a request that every server answers, but does not tell whether it did. The next global
 * request does: it is not sent while one is outstanding, but waits for that one's answer. Should a later libssh send it
 * after all, the server will refuse to cancel a forward that there is not: a round trip as well.
 */
static moor_step await_answer(moor_link *l)
{
    ssh_session session = moor_link_native(l);
    const int rc = ssh_channel_cancel_forward(session, "", 0);
    if (!mr_ssh_is_alive(session))
        return settle(l, moor_link_fail(l, MOOR_ERESET, 0, ssh_get_error(session)));
    if (rc == SSH_AGAIN)
        return moor_link_wait(l, ssh_get_fd(session), mr_ssh_events(session), MOOR_FOREVER);
    return settle(l, MOOR_STEP_DONE);
}

static moor_step ask(moor_link *l)
{
    ssh_session session = moor_link_native(l);
    if (!mr_ssh_is_alive(session))
        return moor_link_fail(l, MOOR_ERESET, 0, "the session is not connected any more");
    ssh_set_blocking(session, 0);
    (void)ssh_send_keepalive(session);
    return await_answer(l);
}

static moor_step resume(moor_link *l, unsigned events)
{
    if (moor_link_task(l) == MOOR_TASK_CONNECT)
        return mr_ssh_connect_resume(l, events);
    return await_answer(l);
}

/* ---- the end ---- */

/*
 * ssh_disconnect leaves the descriptor open, and forgets it: it was not libssh that opened it. Whether the number is
 * still that socket's, or was closed and given to somebody else, its inode tells.
 */
static void close_forgotten(struct mr_ssh_link *s)
{
    struct stat st;
    if (ssh_get_fd(s->session) < 0 && s->fd >= 0 && fstat(s->fd, &st) == 0 &&
        S_ISSOCK(st.st_mode) && st.st_ino == s->inode)
        close(s->fd);
}

static moor_step say_goodbye(moor_link *l)
{
    struct mr_ssh_link *s = moor_link_state(l);
    if (!mr_ssh_is_alive(s->session))
        return MOOR_STEP_DONE;
    ssh_set_blocking(s->session, 0);
    pump(s->session);
    ssh_disconnect(s->session);
    return MOOR_STEP_DONE;
}

static void drop(moor_link *l)
{
    struct mr_ssh_link *s = moor_link_state(l);
    if (!s) /* there was no memory for it */
        return;
    mr_ssh_agent_drop(s);
    close_forgotten(s);
    ssh_key_free(s->key);
    ssh_free(s->session);
    free(s);
}

/* ---- idle and leased ---- */

static int descriptor(moor_link *l)
{
    return ssh_get_fd(moor_link_native(l));
}

static moor_verdict idle(moor_link *l)
{
    ssh_session session = moor_link_native(l);
    ssh_set_blocking(session, 0);
    pump(session);
    ssh_set_blocking(session, 1);
    return mr_ssh_is_alive(session) ? MOOR_VERDICT_KEEP : MOOR_VERDICT_DISCARD;
}

/* Nothing undoes what a holder changed: a forward, a channel it left open. */
static moor_verdict returned(moor_link *l, moor_release_how how)
{
    ssh_session session = moor_link_native(l);
    if (how != MOOR_REUSE || !mr_ssh_is_alive(session))
        return MOOR_VERDICT_DISCARD;
    ssh_set_blocking(session, 1);
    /* What the holder left unsent, a channel's close perhaps, the keeper will send. */
    return ssh_get_status(session) & SSH_WRITE_PENDING ? MOOR_VERDICT_RESET : MOOR_VERDICT_KEEP;
}

static moor_verdict judge(moor_link *l, const char *sqlstate, int code)
{
    (void)sqlstate;
    return code == SSH_FATAL || !mr_ssh_is_alive(moor_link_native(l)) ? MOOR_VERDICT_DISCARD
                                                                      : MOOR_VERDICT_KEEP;
}

static const moor_driver driver = {
    .size = sizeof driver,
    .name = "ssh",
    .schemes = "ssh",
    .port = 22,
    .flags = MOOR_DRIVER_FD,
    .handle_bytes = (size_t)32 << 10,
    .open = mr_ssh_config_open,
    .shut = mr_ssh_config_shut,
    .connect = mr_ssh_connect,
    .check = ask,
    .reset = ask,
    .close = say_goodbye,
    .resume = resume,
    .drop = drop,
    .fd = descriptor,
    .idle = idle,
    .returned = returned,
    .judge = judge,
};

const moor_driver *moor_ssh_driver(void)
{
    return &driver;
}
