/*
 * HTTP/2 on a conn: feeds a session of nghttp2, sends what it has to say, ends the conn when it is
 * done. Runs on the conn's loop. Input is not read while output is blocked: what a peer that does
 * not read can make us keep is what one receive of it asks for.
 */
#include "h2.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>

#include "conn.h"
#include "options.h"
#include "tls_conn.h"

/* What is left to do in this turn. */
enum turn { TURN_GO_ON, TURN_OVER, TURN_GONE };

static nghttp2_session_callbacks *callbacks;
static nghttp2_option *session_options;

static enum turn exchange(struct conn *c);
static void take_input(struct conn *c);
static enum turn send_frames(struct conn *c);
static enum turn end_session(struct conn *c);
static enum turn end_conn(struct conn *c);
static bool has_budget(struct conn *c);
static void arm_timer(struct conn *c);

/* nghttp2's own bounds stay as they are: 1,000 answers to PING and SETTINGS may wait, resets are
 * limited to 33 a second behind a burst of 1,000. */
bool h2_init(void)
{
    if (nghttp2_session_callbacks_new(&callbacks) != 0 || nghttp2_option_new(&session_options) != 0)
        return false;
    h2_stream_set_callbacks(callbacks);
    nghttp2_option_set_no_auto_window_update(session_options, 1);
    nghttp2_option_set_no_closed_streams(session_options, 1);
    return true;
}

void h2_exit(void)
{
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(session_options);
    callbacks = NULL;
    session_options = NULL;
}

enum h2_preface h2_find_preface(struct span input)
{
    const size_t len = input.len < NGHTTP2_CLIENT_MAGIC_LEN ? input.len : NGHTTP2_CLIENT_MAGIC_LEN;
    if (memcmp(input.ptr, NGHTTP2_CLIENT_MAGIC, len) != 0)
        return H2_PREFACE_NONE;
    return len == NGHTTP2_CLIENT_MAGIC_LEN ? H2_PREFACE_WHOLE : H2_PREFACE_PART;
}

void h2_take_over(struct conn *c)
{
    c->protocol->fini(c);
    timer_clear(c);
    c->protocol = &h2_protocol;
    c->protocol->open(c);
    c->protocol->drive(c);
}

static void open_h2(struct conn *c)
{
    /* RFC 9218: without the priorities of old nghttp2 follows urgency and incremental. */
    static const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, H2_STREAMS_MAX},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEAD_MAX},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    struct h2 *h = calloc(1, sizeof *h);
    if (!h || nghttp2_session_server_new2(&h->session, callbacks, c, session_options) != 0 ||
        nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings,
                                sizeof settings / sizeof *settings) != 0 ||
        nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0, H2_CONN_WINDOW)) {
        fputs("mooring-origin: out of memory\n", stderr);
        abort();
    }
    TAILQ_INIT(&h->streams);
    TAILQ_INIT(&h->waiting);
    h->idle_since_ms = c->loop->now_ms;
    c->h2 = h;
    count(&c->loop->counters.h2_conns, 1);
}

static void fini_h2(struct conn *c)
{
    struct h2 *h = c->h2;
    h2_streams_fini(c);
    nghttp2_session_del(h->session);
    buf_fini(&h->head.method);
    buf_fini(&h->head.target);
    buf_fini(&h->head.fields);
    free(h);
    c->h2 = NULL;
}

static enum turn close_now(struct conn *c)
{
    conn_close(c);
    return TURN_GONE;
}

static enum turn unblock(struct conn *c)
{
    switch (conn_flush(c)) {
    case IO_OK:
        return TURN_GO_ON;
    case IO_AGAIN:
        return TURN_OVER;
    default:
        return close_now(c);
    }
}

static void drive_h2(struct conn *c)
{
    c->h2->budget = TURN_BYTES;
    enum turn t = conn_is_blocked(c) ? unblock(c) : TURN_GO_ON;
    while (t == TURN_GO_ON)
        t = exchange(c);
    if (t == TURN_GONE)
        return;
    if (!conn_is_blocked(c) && conn_flush(c) == IO_FAILED) {
        conn_close(c);
        return;
    }
    arm_timer(c);
}

/* Input first: a body that is never blocked must not keep us from hearing that it is cancelled. */
static enum turn exchange(struct conn *c)
{
    const enum io_result in = c->view.len ? IO_OK : conn_read(c);
    if (in == IO_FAILED)
        return close_now(c);
    take_input(c);
    const enum turn t = send_frames(c);
    if (t != TURN_GO_ON || in == IO_AGAIN)
        return t == TURN_GO_ON ? TURN_OVER : t;
    if (in == IO_END)
        return end_conn(c);
    return has_budget(c) ? TURN_GO_ON : TURN_OVER;
}

/* Nobody is left to open a window or to acknowledge: what is sent by now is all. */
static enum turn end_conn(struct conn *c)
{
    if (conn_flush(c) == IO_AGAIN)
        return TURN_OVER;
    conn_end(c);
    return TURN_GONE;
}

static bool has_budget(struct conn *c)
{
    if (c->h2->budget == 0)
        conn_resume_later(c);
    return c->h2->budget > 0;
}

static void spend(struct h2 *h, size_t len)
{
    h->budget -= h->budget < len ? h->budget : len;
}

static uint32_t error_code_of(ssize_t failure)
{
    switch (failure) {
    case NGHTTP2_ERR_BAD_CLIENT_MAGIC:
        return NGHTTP2_PROTOCOL_ERROR;
    case NGHTTP2_ERR_NOMEM:
    case NGHTTP2_ERR_CALLBACK_FAILURE:
        return NGHTTP2_INTERNAL_ERROR;
    default: /* floods of what must be answered or kept */
        return NGHTTP2_ENHANCE_YOUR_CALM;
    }
}

/* The whole view: nghttp2 keeps what is not a whole frame yet. */
static void take_input(struct conn *c)
{
    struct h2 *h = c->h2;
    if (c->view.len && !h->is_broken) {
        h->is_early = c->tls && tls_is_early(c);
        const ssize_t n =
            nghttp2_session_mem_recv(h->session, (const uint8_t *)c->view.ptr, c->view.len);
        h->is_broken = n < 0;
        if (n < 0)
            (void)nghttp2_session_terminate_session(h->session, error_code_of(n));
    }
    spend(h, c->view.len);
    conn_consume(c, c->view.len);
    conn_keep_view(c);
}

static enum turn send_frames(struct conn *c)
{
    struct h2 *h = c->h2;
    while (nghttp2_session_want_write(h->session)) {
        if (conn_is_blocked(c))
            return TURN_OVER;
        if (!has_budget(c))
            return TURN_OVER;
        const uint8_t *bytes;
        /* Bodies go to the scratch by themselves, in a callback; here is all the rest. */
        const ssize_t n = nghttp2_session_mem_send(h->session, &bytes);
        if (n < 0)
            return close_now(c);
        if (n == 0 && !conn_is_blocked(c) && h->budget)
            break; /* the rest waits for windows or for timers */
        if (n == 0)
            continue;
        spend(h, (size_t)n);
        switch (conn_reserve(c, (size_t)n)) {
        case IO_OK:
            conn_put(c, bytes, (size_t)n);
            break;
        case IO_AGAIN:
            buf_add(&c->pending, bytes, (size_t)n);
            break;
        default:
            return close_now(c);
        }
    }
    return nghttp2_session_want_read(h->session) || nghttp2_session_want_write(h->session)
               ? TURN_GO_ON
               : end_session(c);
}

/* GOAWAY has been sent or received, and no stream is left. */
static enum turn end_session(struct conn *c)
{
    switch (conn_notify(c)) {
    case IO_OK:
        conn_linger(c);
        return TURN_GONE;
    case IO_AGAIN:
        return TURN_OVER;
    default:
        return close_now(c);
    }
}

void h2_go_away(struct conn *c)
{
    struct h2 *h = c->h2;
    if (h->is_ending)
        return;
    h->is_ending = true;
    (void)nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, h->last_id, NGHTTP2_NO_ERROR, NULL,
                                0);
}

static void arm_timer(struct conn *c)
{
    const struct h2 *h = c->h2;
    const uint32_t idle_timeout = c->loop->options->idle_timeout_ms;
    uint64_t when = h2_streams_next(c);
    if (h->stream_count == 0 && idle_timeout)
        when = h->idle_since_ms + idle_timeout;
    /* A timer that is early is looked at when it fires, not moved with every request. */
    if (when != UINT64_MAX && (c->timer_slot == TIMER_OFF || c->timer_ms > when))
        timer_set(c, when);
}

static void on_h2_timer(struct conn *c)
{
    struct h2 *h = c->h2;
    const uint32_t idle_timeout = c->loop->options->idle_timeout_ms;
    if (!h2_streams_wake(c)) {
        conn_close(c);
        return;
    }
    if (h->stream_count == 0 && idle_timeout &&
        h->idle_since_ms + idle_timeout <= c->loop->now_ms) {
        if (h->is_ending) { /* and the peer has not taken it for as long again */
            conn_close(c);
            return;
        }
        h->idle_since_ms = c->loop->now_ms;
        h2_go_away(c);
    }
    drive_h2(c);
}

/* The server ends: GOAWAY if the socket takes it, then the end of all streams. */
static void stop_h2(struct conn *c)
{
    struct h2 *h = c->h2;
    h->budget = TURN_BYTES;
    (void)nghttp2_session_terminate_session(h->session, NGHTTP2_NO_ERROR);
    if (conn_is_blocked(c) || send_frames(c) != TURN_GONE)
        conn_end(c);
}

const struct protocol h2_protocol = {
    .name = "h2",
    .open = open_h2,
    .drive = drive_h2,
    .on_timer = on_h2_timer,
    .stop = stop_h2,
    .fini = fini_h2,
};
