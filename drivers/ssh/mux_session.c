/*
 * One session while the multiplexer leases it: polled on the shard, asked for signs of life, given back. The
 * shard's thread. A turn reads a bounded number of times, so that one session cannot keep the shard.
 */
#include "drivers/ssh/mux.h"

#include <libssh/server.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void forget(struct mr_ssh_session *s)
{
    struct mr_ssh_session **at = &s->mux->sessions;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    s->mux->session_count--;
}

/* Its channels are gone by now, or it is not to be used again. */
static void give_back(struct mr_ssh_session *s, moor_release_how how)
{
    moor_ssh_mux *m = s->mux;
    moor_poll_stop(&s->poll);
    forget(s);
    for (int i = 0; i < MR_SSH_PUMPS_MAX && how == MOOR_REUSE && mr_ssh_is_alive(s->ssh) &&
                    ssh_get_status(s->ssh) & SSH_WRITE_PENDING;
         i++)
        (void)ssh_execute_message_callbacks(s->ssh);
    ssh_set_counters(s->ssh, NULL, NULL);
    moor_release(s->lease, how);
    free(s);
    mr_ssh_mux_kick(m); /* for those that wait */
}

/* ---- the end of a session ---- */

/* What never reached the server may run elsewhere, but not again and again. */
static bool may_wait_again(struct mr_ssh_command *c)
{
    return !c->is_told && !c->end && !c->is_begun && c->losses++ < MR_SSH_LOSSES_MAX;
}

static void lose(struct mr_ssh_session *s, const char *text)
{
    moor_ssh_mux *m = s->mux;
    for (struct mr_ssh_command *c; (c = s->commands.first) != NULL;) {
        const bool is_over = c->is_closed && c->state > MR_SSH_OPENING && !c->end;
        if (may_wait_again(c)) {
            mr_ssh_command_leave(c);
            mr_ssh_mux_requeue(m, c);
            continue;
        }
        if (!c->is_told && !c->end && !is_over)
            snprintf(c->why, sizeof c->why, "%s", text);
        if (!c->is_told)
            mr_ssh_command_tell(c,
                                is_over  ? MOOR_OK
                                : c->end ? c->end
                                         : MOOR_ERESET,
                                "run a command");
        mr_ssh_command_leave(c);
        mr_ssh_command_free(c);
    }
    give_back(s, MOOR_DISCARD);
}

/* ---- signs of life ---- */

static void collect_answer(struct mr_ssh_session *s)
{
    /* Sends nothing, see await_answer in driver.c. */
    if (!s->is_asked || ssh_channel_cancel_forward(s->ssh, "", 0) == SSH_AGAIN)
        return;
    s->is_asked = false;
    s->link->channels_closed -= s->closed_asked;
    if (s->closed_asked)
        mr_ssh_mux_kick(s->mux); /* there is room for those */
    s->closed_asked = 0;
}

static void ask_alive(struct mr_ssh_session *s)
{
    if (s->is_asked)
        return;
    s->is_asked = true;
    s->closed_asked = s->link->channels_closed;
    (void)ssh_send_keepalive(s->ssh);
}

/* Every call of libssh's may have read: what it read, no poll will tell of. */
static bool has_heard(const struct mr_ssh_session *s)
{
    return s->bytes.in_bytes != s->bytes_seen;
}

static void heard(struct mr_ssh_session *s)
{
    s->bytes_seen = s->bytes.in_bytes;
    s->heard_ms = mr_ssh_now_ms();
    s->is_awaited = false;
    collect_answer(s);
}

/* False: it was silent for too long. */
static bool ask_if_silent(struct mr_ssh_session *s)
{
    const moor_ms patience = s->mux->options.keepalive_ms;
    if (patience == MOOR_FOREVER || mr_ssh_now_ms() - s->heard_ms < patience)
        return true;
    if (s->is_awaited)
        return false;
    s->is_awaited = true;
    s->heard_ms = mr_ssh_now_ms();
    ask_alive(s);
    return true;
}

/* ---- a turn ---- */

static void settle_all(struct mr_ssh_session *s)
{
    for (struct mr_ssh_command *c = s->commands.first, *next; c; c = next) {
        next = c->next;
        mr_ssh_command_settle(c);
    }
}

/* Reads and writes until nothing more comes, or for as long as one session may. */
static void work(struct mr_ssh_session *s)
{
    for (int i = 0; i < MR_SSH_PUMPS_MAX && mr_ssh_is_alive(s->ssh); i++) {
        (void)ssh_execute_message_callbacks(s->ssh);
        for (struct mr_ssh_command *c = s->commands.first; c; c = c->next)
            mr_ssh_command_step(c);
        if (has_heard(s))
            heard(s);
        else if (i > 0)
            return;
    }
}

static moor_ms next_look(const struct mr_ssh_session *s)
{
    const int64_t now = mr_ssh_now_ms();
    int64_t at = INT64_MAX;
    if (s->mux->options.keepalive_ms != MOOR_FOREVER)
        at = s->heard_ms + s->mux->options.keepalive_ms;
    if (s->linger_ms && s->linger_ms < at)
        at = s->linger_ms;
    if (at == INT64_MAX)
        return MOOR_FOREVER;
    return at > now ? at - now : 0;
}

/* Whether it is over with it: all channels closed, or only such left as the server does not close. */
static bool is_over(struct mr_ssh_session *s, moor_release_how *how)
{
    *how = MOOR_REUSE;
    if (s->commands.count == 0)
        return s->is_leaving || !s->mux->queue.first;
    if (s->told < s->commands.count) {
        s->linger_ms = 0;
        return false;
    }
    if (!s->linger_ms)
        s->linger_ms = mr_ssh_now_ms() + MR_SSH_LINGER_MS;
    *how = MOOR_DISCARD;
    return s->mux->is_closing || mr_ssh_now_ms() >= s->linger_ms;
}

static void end(struct mr_ssh_session *s, moor_release_how how)
{
    for (struct mr_ssh_command *c; (c = s->commands.first) != NULL;) {
        mr_ssh_command_leave(c);
        mr_ssh_command_free(c);
    }
    give_back(s, how);
}

void mr_ssh_session_turn(struct mr_ssh_session *s)
{
    moor_poll_stop(&s->poll);
    s->is_stirred = false;
    work(s);
    if (!mr_ssh_is_alive(s->ssh)) {
        lose(s, ssh_get_error(s->ssh));
        return;
    }
    settle_all(s);
    moor_release_how how;
    if (is_over(s, &how)) {
        end(s, how);
        return;
    }
    /* A server counts a channel until it has dealt with our close: its answer to something later shows that. */
    if (s->link->channels_closed && s->link->channels_limit)
        ask_alive(s);
    if (!ask_if_silent(s)) {
        lose(s, "the server does not answer any more (keepalive)");
        return;
    }
    if (has_heard(s)) {
        s->is_stirred = true;
        mr_ssh_mux_kick(s->mux);
    }
    if (moor_poll_start(&s->poll, ssh_get_fd(s->ssh), mr_ssh_events(s->ssh), next_look(s)))
        lose(s, "no memory to wait for the session");
}

static void on_ready(moor_poll *p, unsigned events)
{
    (void)events;
    struct mr_ssh_session *s = p->user;
    mr_ssh_session_turn(s);
}

void mr_ssh_session_add(moor_ssh_mux *m, moor_lease lease, ssh_session ssh,
                        struct mr_ssh_link *link)
{
    struct mr_ssh_session *s = calloc(1, sizeof *s);
    if (!s) {
        moor_release(lease, MOOR_REUSE);
        return;
    }
    s->mux = m;
    s->lease = lease;
    s->ssh = ssh;
    s->link = link;
    s->poll.ready = on_ready;
    s->poll.user = s;
    s->held_ms = s->heard_ms = mr_ssh_now_ms();
    s->is_stirred = true;
    ssh_set_blocking(ssh, 0);
    ssh_set_counters(ssh, &s->bytes, &s->packets);
    s->next = m->sessions;
    m->sessions = s;
    m->session_count++;
}
