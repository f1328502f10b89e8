/*
 * The agent, as far as it can be waited for. libssh talks to it with calls that may sleep for ever; so the keeper
 * first asks it for its keys itself, without blocking, and only an agent that answers is given to libssh, on a
 * helper, with a timer that cuts the socket. The keeper's thread.
 */
#include "drivers/ssh/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RETRY_MS 20 /* while its backlog is full: such a socket cannot be waited for */

#define REQUEST_IDENTITIES 11
#define IDENTITIES_ANSWER  12

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* No agent is no failure: the next method is tried. */
static moor_step give_up(moor_link *l, const char *why)
{
    struct mr_ssh_link *s = moor_link_state(l);
    shut(&s->agent_fd);
    s->is_agent_over = true;
    snprintf(s->text, sizeof s->text, "%s", why);
    return mr_ssh_connect_go_on(l);
}

static uint32_t number(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Reads the head into agent_bytes and the rest away. 1: all is there, 0: not yet, -1: it has closed. */
static int take_answer(struct mr_ssh_link *s)
{
    unsigned char rest[4096];
    for (;;) {
        const bool is_head = s->agent_got < sizeof s->agent_bytes;
        size_t want = is_head ? sizeof s->agent_bytes - s->agent_got : sizeof rest;
        if (s->agent_got >= 4) {
            const uint32_t left = s->agent_len + 4 - s->agent_got;
            want = left < want ? left : want;
        } else {
            want = 4 - s->agent_got;
        }
        if (want == 0)
            return 1;
        unsigned char *to = is_head ? s->agent_bytes + s->agent_got : rest;
        const ssize_t got = recv(s->agent_fd, to, want, MSG_DONTWAIT);
        if (got <= 0)
            return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
        s->agent_got += (uint32_t)got;
        if (s->agent_got == 4)
            s->agent_len = number(s->agent_bytes);
        if (s->agent_got >= 4 && s->agent_len > MR_SSH_AGENT_BYTES_MAX)
            return -1;
    }
}

/* It lives. libssh closes the socket from here on; the keeper keeps another descriptor of it. */
static moor_step hand_over(moor_link *l)
{
    struct mr_ssh_link *s = moor_link_state(l);
    if (s->agent_len < 5 || s->agent_bytes[4] != IDENTITIES_ANSWER)
        return give_up(l, "would not list its keys");
    if (number(s->agent_bytes + 5) == 0)
        return give_up(l, "has no keys");
    s->agent_watch_fd = fcntl(s->agent_fd, F_DUPFD_CLOEXEC, 0);
    if (s->agent_watch_fd < 0)
        return give_up(l, "no descriptor left");
    (void)ssh_set_agent_socket(s->session, s->agent_fd);
    s->agent_fd = -1;
    s->is_agent_ready = true;
    return mr_ssh_connect_go_on(l);
}

static moor_step ask(moor_link *l)
{
    static const unsigned char request[] = {0, 0, 0, 1, REQUEST_IDENTITIES};
    struct mr_ssh_link *s = moor_link_state(l);
    if (send(s->agent_fd, request, sizeof request, MSG_NOSIGNAL | MSG_DONTWAIT) !=
        (ssize_t)sizeof request)
        return give_up(l, "closed");
    return moor_link_wait(l, s->agent_fd, POLLIN, s->config->agent_timeout_ms);
}

static moor_step dial(moor_link *l)
{
    struct mr_ssh_link *s = moor_link_state(l);
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path, sizeof to.sun_path, "%s", s->config->agent);
    if (connect(s->agent_fd, (const struct sockaddr *)&to, sizeof to) == 0) {
        s->is_agent_dialing = false;
        return ask(l);
    }
    if (errno != EAGAIN)
        return give_up(l, errno == ECONNREFUSED || errno == ENOENT ? "not running"
                                                                   : strerrordesc_np(errno));
    s->is_agent_dialing = true;
    s->agent_waited_ms += RETRY_MS;
    return s->agent_waited_ms > s->config->agent_timeout_ms ? give_up(l, "does not accept")
                                                            : moor_link_wait(l, -1, 0, RETRY_MS);
}

moor_step mr_ssh_agent_probe(moor_link *l)
{
    struct mr_ssh_link *s = moor_link_state(l);
    s->agent_got = s->agent_len = 0;
    if (!s->config->agent)
        return give_up(l, "none");
    if (strlen(s->config->agent) >= sizeof((struct sockaddr_un *)0)->sun_path)
        return give_up(l, "path too long");
    s->agent_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return s->agent_fd < 0 ? give_up(l, "no descriptor left") : dial(l);
}

moor_step mr_ssh_agent_resume(moor_link *l, unsigned events)
{
    struct mr_ssh_link *s = moor_link_state(l);
    if (s->is_agent_dialing)
        return dial(l);
    if (events == MOOR_RESUME_TIMEOUT)
        return give_up(l, "does not answer");
    const int got = take_answer(s);
    if (got < 0)
        return give_up(l, "closed");
    return got ? hand_over(l) : moor_link_wait(l, s->agent_fd, POLLIN, s->config->agent_timeout_ms);
}

/* ---- while libssh talks to it ---- */

static void cut(moor_poll *p, unsigned events)
{
    (void)events;
    struct mr_ssh_link *s = p->user;
    atomic_store(&s->is_agent_late, true);
    (void)shutdown(s->agent_watch_fd, SHUT_RDWR);
}

void mr_ssh_agent_watch(struct mr_ssh_link *s)
{
    s->agent_watch.ready = cut;
    s->agent_watch.user = s;
    /* No memory for a timer: then its answer is not waited for. */
    if (moor_poll_start(&s->agent_watch, -1, 0, s->config->agent_timeout_ms))
        cut(&s->agent_watch, 0);
}

void mr_ssh_agent_unwatch(struct mr_ssh_link *s)
{
    moor_poll_stop(&s->agent_watch);
}

void mr_ssh_agent_drop(struct mr_ssh_link *s)
{
    mr_ssh_agent_unwatch(s);
    shut(&s->agent_watch_fd);
    shut(&s->agent_fd);
}
