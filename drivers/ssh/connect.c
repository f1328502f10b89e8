/*
 * From a connected descriptor to a session that is logged in. The keeper waits; every step of libssh's runs on a
 * helper: key exchange and signatures take milliseconds, known hosts and keys are files, an agent may sleep.
 *
 * libssh is used in its non-blocking mode, in which each call is made again until it is not SSH_AGAIN. That mode
 * is a flag of libssh's, not of the descriptor: once connected, libssh sets the descriptor to blocking, and then a
 * send of more than the socket takes sleeps. So O_NONBLOCK is put back after the first step; libssh, which
 * asks poll before each read and write, works with that in both its modes.
 */
#include "drivers/ssh/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void mr_ssh_failed(struct mr_ssh_link *s, moor_err err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(s->text, sizeof s->text, format, args);
    va_end(args);
    s->err = err;
    s->next = MR_SSH_NEXT_FAILED;
}

bool mr_ssh_is_alive(ssh_session session)
{
    return ssh_is_connected(session) &&
           !(ssh_get_status(session) & (SSH_CLOSED | SSH_CLOSED_ERROR));
}

short mr_ssh_events(ssh_session session)
{
    return ssh_get_poll_flags(session) & SSH_WRITE_PENDING ? POLLIN | POLLOUT : POLLIN;
}

/* ---- on a helper ---- */

static bool greet(struct mr_ssh_link *s)
{
    const int rc = ssh_connect(s->session);
    const int flags = fcntl(s->fd, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK))
        (void)fcntl(s->fd, F_SETFL, flags | O_NONBLOCK);
    if (rc == SSH_OK)
        return true;
    if (rc == SSH_AGAIN) {
        s->next = MR_SSH_NEXT_WAIT;
        return false;
    }
    const char *text = ssh_get_error(s->session);
    /* A server that has too many who are not logged in closes like this, too (MaxStartups). */
    const bool is_lost = strstr(text, "Socket error") != NULL;
    mr_ssh_failed(s, is_lost ? MOOR_ERESET : MOOR_EPROTO, "ssh handshake: %.130s", text);
    return false;
}

/* As far as it goes without waiting. */
static void work(moor_link *l)
{
    struct mr_ssh_link *s = moor_link_state(l);
    static bool (*const stages[])(struct mr_ssh_link *) = {[MR_SSH_GREETING] = greet,
                                                           [MR_SSH_HOST_KEY] = mr_ssh_check_host,
                                                           [MR_SSH_LOGIN] = mr_ssh_log_in};
    while (s->stage != MR_SSH_READY) {
        if (s->bytes.in_bytes > MR_SSH_LOGIN_BYTES_MAX) {
            mr_ssh_failed(s, MOOR_EPROTO, "the server sent more than %u KiB before the login",
                          (unsigned)(MR_SSH_LOGIN_BYTES_MAX >> 10));
            return;
        }
        if (!stages[s->stage](s))
            return;
        s->stage++;
    }
    s->next = MR_SSH_NEXT_DONE;
}

/* ---- the keeper ---- */

moor_step mr_ssh_connect_go_on(moor_link *l)
{
    struct mr_ssh_link *s = moor_link_state(l);
    if (s->is_agent_ready && !s->is_agent_over)
        mr_ssh_agent_watch(s);
    return moor_link_block(l, work);
}

static moor_step act(moor_link *l)
{
    struct mr_ssh_link *s = moor_link_state(l);
    switch (s->next) {
    case MR_SSH_NEXT_WAIT:
        return moor_link_wait(l, s->fd, mr_ssh_events(s->session), MOOR_FOREVER);
    case MR_SSH_NEXT_PROBE:
        return mr_ssh_agent_probe(l);
    case MR_SSH_NEXT_FAILED:
        return moor_link_fail(l, s->err, 0, s->text);
    default:
        mr_ssh_agent_drop(s);
        s->target = NULL;
        ssh_set_counters(s->session, NULL, NULL);
        ssh_set_blocking(s->session, 1); /* what holders expect; the keeper's hooks switch it off */
        return MOOR_STEP_DONE;
    }
}

moor_step mr_ssh_connect_resume(moor_link *l, unsigned events)
{
    struct mr_ssh_link *s = moor_link_state(l);
    if (events == MOOR_RESUME_UNBLOCKED) {
        mr_ssh_agent_unwatch(s);
        return act(l);
    }
    if (s->next == MR_SSH_NEXT_PROBE)
        return mr_ssh_agent_resume(l, events);
    return mr_ssh_connect_go_on(l);
}

static int set_up(struct mr_ssh_link *s)
{
    const moor_target *t = s->target;
    const unsigned port = t->port;
    int failed = mr_ssh_config_apply(s->config, s->session);
    failed |= ssh_options_set(s->session, SSH_OPTIONS_HOST, t->host);
    failed |= ssh_options_set(s->session, SSH_OPTIONS_PORT, &port);
    if (*t->user)
        failed |= ssh_options_set(s->session, SSH_OPTIONS_USER, t->user);
    ssh_set_blocking(s->session, 0);
    ssh_set_counters(s->session, &s->bytes, &s->packets);
    return failed;
}

moor_step mr_ssh_connect(moor_link *l)
{
    const moor_target *t = moor_link_target(l);
    struct mr_ssh_link *s = calloc(1, sizeof *s);
    ssh_session session = s ? ssh_new() : NULL;
    if (!session) {
        free(s);
        close(t->fd);
        return moor_link_fail(l, MOOR_ENOMEM, 0, "no memory for a session");
    }
    s->magic = MR_SSH_MAGIC;
    s->session = session;
    s->config = moor_link_config(l);
    s->target = t;
    s->fd = t->fd;
    s->agent_fd = s->agent_watch_fd = -1;
    struct stat st;
    s->inode = fstat(t->fd, &st) == 0 ? st.st_ino : 0;
    moor_link_set_state(l, s);
    moor_link_set_native(l, session);
    /* Last: from here on the descriptor is libssh's to close. */
    if (set_up(s) || ssh_options_set(session, SSH_OPTIONS_FD, &s->fd))
        return moor_link_fail(l, MOOR_EINVAL, 0, ssh_get_error(session));
    return mr_ssh_connect_go_on(l);
}
