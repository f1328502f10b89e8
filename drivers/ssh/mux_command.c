/*
 * One command in its channel: opened, asked for, fed, listened to, closed. The shard's thread. Callbacks of
 * libssh's, and so of the user's, run in the midst of libssh: they only note what came, nothing is freed there.
 */
#include "drivers/ssh/mux.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- telling ---- */

void mr_ssh_command_free(struct mr_ssh_command *c)
{
    moor_poll_stop(&c->timer);
    /* A password may be part of either. */
    explicit_bzero(c->text, c->text_len + 1 + c->input_len);
    free(c->text);
    free(c);
}

void mr_ssh_command_tell(struct mr_ssh_command *c, moor_err err, const char *what)
{
    moor_poll_stop(&c->timer);
    c->is_told = true;
    c->mux->commands--;
    if (c->session)
        c->session->told++;
    const moor_ssh_done done = {
        .size = sizeof done,
        .fault = {.err = err, .safe_to_retry = err && !c->is_begun, .what = err ? what : NULL},
        .exit_status = err ? -1 : c->exit_status,
        .signal = err ? "" : c->signal,
        .text = c->why,
    };
    c->handlers.on_done(c->user, &done);
}

void mr_ssh_command_end(struct mr_ssh_command *c, moor_err err, const char *why)
{
    if (c->end || c->is_told)
        return;
    c->end = err;
    snprintf(c->why, sizeof c->why, "%s", why);
    if (c->session)
        c->session->is_stirred = true;
    mr_ssh_mux_kick(c->mux);
}

/* ---- what libssh calls ---- */

static int on_data(ssh_session ssh, ssh_channel channel, void *data, uint32_t len, int is_stderr,
                   void *user)
{
    (void)ssh, (void)channel;
    struct mr_ssh_command *c = user;
    const size_t fits = len < c->output_left ? len : c->output_left;
    for (size_t at = 0; at < fits && !c->end && !c->is_told;) {
        const size_t n = fits - at < MOOR_SSH_CHUNK_MAX ? fits - at : MOOR_SSH_CHUNK_MAX;
        c->output_left -= n;
        if (c->handlers.on_output)
            c->handlers.on_output(c->user, is_stderr != 0, (moor_span){(const char *)data + at, n});
        at += n;
    }
    if (fits < len)
        mr_ssh_command_end(c, MOOR_ETOOBIG, "more output than output_max");
    return (int)len; /* all of it: what libssh kept, nothing would bound */
}

static void on_exit_status(ssh_session ssh, ssh_channel channel, int status, void *user)
{
    (void)ssh, (void)channel;
    struct mr_ssh_command *c = user;
    c->exit_status = status;
}

static void on_exit_signal(ssh_session ssh, ssh_channel channel, const char *signal, int has_core,
                           const char *text, const char *language, void *user)
{
    (void)ssh, (void)channel, (void)has_core, (void)text, (void)language;
    struct mr_ssh_command *c = user;
    snprintf(c->signal, sizeof c->signal, "%s", signal ? signal : "");
}

static void on_close(ssh_session ssh, ssh_channel channel, void *user)
{
    (void)ssh, (void)channel;
    struct mr_ssh_command *c = user;
    c->is_closed = true;
}

/* ---- steps ---- */

bool mr_ssh_command_start(struct mr_ssh_command *c, struct mr_ssh_session *s)
{
    c->channel = ssh_channel_new(s->ssh);
    c->callbacks = (struct ssh_channel_callbacks_struct){
        .userdata = c,
        .channel_data_function = on_data,
        .channel_close_function = on_close,
        .channel_exit_status_function = on_exit_status,
        .channel_exit_signal_function = on_exit_signal,
    };
    ssh_callbacks_init(&c->callbacks);
    if (!c->channel || ssh_set_channel_callbacks(c->channel, &c->callbacks)) {
        if (c->channel)
            ssh_channel_free(c->channel);
        mr_ssh_command_tell(c, MOOR_ENOMEM, "make a channel");
        mr_ssh_command_free(c);
        return false;
    }
    c->session = s;
    c->state = MR_SSH_OPENING;
    c->is_closed = false;
    mr_ssh_list_add(&s->commands, c);
    return true;
}

/* Of others than this one, those the server has opened. */
static uint32_t open_channels(const struct mr_ssh_session *s, const struct mr_ssh_command *except)
{
    uint32_t n = 0;
    for (const struct mr_ssh_command *c = s->commands.first; c; c = c->next)
        n += c != except && c->state > MR_SSH_OPENING;
    return n;
}

/*
 * What the server allows lies between the channels that are open, and those with the ones closed just now that it may
 * still count. The first guess is high; from then on those are waited for, and another refusal makes it low.
 */
static void lower_limit(struct mr_ssh_session *s, uint32_t others)
{
    const uint32_t before = s->link->channels_limit, most = others + s->link->channels_closed;
    s->link->channels_limit = before == 0 ? most : others ? others : (before + 1) / 2;
    s->link->channels_limit_ms = mr_ssh_now_ms();
}

/*
 * MaxSessions, if there are others, or were just now: the server may not have dealt with our closes. The command
 * waits for its next turn. Alone in its session it cannot hope for one.
 */
static void refused(struct mr_ssh_command *c)
{
    struct mr_ssh_session *s = c->session;
    const uint32_t others = open_channels(s, c);
    c->is_closed = true;
    if (c->end)
        return;
    if (others + s->link->channels_closed && c->refusals++ < MR_SSH_REFUSALS_MAX) {
        lower_limit(s, others);
        c->state = MR_SSH_QUEUED; /* settled there */
        return;
    }
    mr_ssh_command_end(c, MOOR_EPROTO, ssh_get_error(s->ssh));
}

static void ask(struct mr_ssh_command *c)
{
    c->is_begun = true;
    const int rc = ssh_channel_request_exec(c->channel, c->text);
    if (rc == SSH_OK)
        c->state = MR_SSH_RUNNING;
    else if (rc != SSH_AGAIN && mr_ssh_is_alive(c->session->ssh))
        mr_ssh_command_end(c, MOOR_EPROTO, ssh_get_error(c->session->ssh));
}

/* A piece at a time: libssh would store all that the window takes. */
static void feed(struct mr_ssh_command *c)
{
    ssh_session ssh = c->session->ssh;
    if (c->input_at < c->input_len) {
        const size_t left = c->input_len - c->input_at,
                     window = ssh_channel_window_size(c->channel);
        size_t n = left < MOOR_SSH_CHUNK_MAX ? left : MOOR_SSH_CHUNK_MAX;
        n = n < window ? n : window;
        if (n == 0 || ssh_get_status(ssh) & SSH_WRITE_PENDING)
            return;
        const int put = ssh_channel_write(c->channel, c->input + c->input_at, (uint32_t)n);
        if (put > 0)
            c->input_at += (size_t)put;
        else if (put < 0)
            c->input_at = c->input_len; /* it reads no more: no failure, as with a pipe */
    }
    if (c->input_at == c->input_len && !c->is_fed) {
        c->is_fed = true;
        (void)ssh_channel_send_eof(c->channel); /* SSH_AGAIN: it is on its way */
    }
}

void mr_ssh_command_step(struct mr_ssh_command *c)
{
    if (c->is_closed)
        return;
    if (c->state == MR_SSH_OPENING) {
        const int rc = ssh_channel_open_session(c->channel);
        if (rc == SSH_OK)
            c->state = MR_SSH_ASKING;
        else if (rc != SSH_AGAIN && mr_ssh_is_alive(c->session->ssh))
            refused(c);
    }
    if (c->end)
        return;
    if (c->state == MR_SSH_ASKING)
        ask(c);
    if (c->state == MR_SSH_RUNNING && !c->is_closed)
        feed(c);
}

/* ---- the end ---- */

/*
 * Once for the end of file, which may stay unsent for now, and once for the close that libssh then puts behind it;
 * ssh_channel_free alone would forget about that one, and the server keep the channel.
 */
static void close_channel(struct mr_ssh_command *c)
{
    for (int i = 0; i < 3 && ssh_channel_close(c->channel) == SSH_AGAIN; i++)
        continue;
}

void mr_ssh_command_leave(struct mr_ssh_command *c)
{
    struct mr_ssh_session *s = c->session;
    mr_ssh_list_remove(&s->commands, c);
    s->told -= c->is_told;
    s->link->channels_closed += c->state > MR_SSH_OPENING;
    if (c->mux->queue.first)
        mr_ssh_mux_kick(c->mux); /* there is room for another */
    c->session = NULL;
    /* The channel may outlive this, until the server closes it or the session goes. */
    ssh_remove_channel_callbacks(c->channel, &c->callbacks);
    ssh_channel_free(c->channel);
    c->channel = NULL;
}

static void wait_again(struct mr_ssh_command *c)
{
    moor_ssh_mux *m = c->mux;
    mr_ssh_command_leave(c);
    mr_ssh_mux_requeue(m, c);
    mr_ssh_mux_kick(m);
}

/* TERM is a courtesy, which servers may refuse: what ends most commands is that their pipes are gone. */
static void cut(struct mr_ssh_command *c)
{
    if (c->state == MR_SSH_RUNNING && !c->is_closed)
        (void)ssh_channel_request_send_signal(c->channel, "TERM");
    if (c->state > MR_SSH_OPENING && !c->is_closed) {
        close_channel(c);
        c->state = MR_SSH_CLOSING;
    }
}

void mr_ssh_command_settle(struct mr_ssh_command *c)
{
    if (c->state == MR_SSH_QUEUED && !c->end) {
        wait_again(c);
        return;
    }
    if (c->end && !c->is_told) {
        cut(c);
        mr_ssh_command_tell(c, c->end,
                            c->end == MOOR_EPROTO ? "run a command" : "wait for a command");
    } else if (c->is_told && !c->is_closed && c->state == MR_SSH_ASKING) {
        cut(c); /* it was given up before its channel was there */
    }
    if (!c->is_closed)
        return;
    if (c->state > MR_SSH_OPENING)
        close_channel(c);
    if (!c->is_told)
        mr_ssh_command_tell(c, MOOR_OK, NULL);
    mr_ssh_command_leave(c);
    mr_ssh_command_free(c);
}
