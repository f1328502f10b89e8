/*
 * HTTP/1.x: takes requests off a conn, has them routed, plays the answers. Runs on the conn's loop.
 * One request at a time: pipelined ones wait in the input, which is not read while an answer is
 * blocked, so a client that does not read cannot make us keep more than one answer.
 */
#include "h1.h"

#include "conn.h"
#include "h2.h"
#include "options.h"
#include "tls_conn.h"

/* What a phase leaves to do. */
enum turn { TURN_GO_ON, TURN_NEEDS_INPUT, TURN_OVER, TURN_CLOSED /* or no longer ours */ };

static enum turn take_head(struct conn *c);
static enum turn take_body(struct conn *c);
static enum turn begin_answer(struct conn *c);
static enum turn play(struct conn *c, uint64_t *budget);
static void arm_idle_timer(struct conn *c);

static void open_h1(struct conn *c)
{
    c->h1.idle_since_ms = c->loop->now_ms;
    arm_idle_timer(c);
}

static void fini_h1(struct conn *c)
{
    answer_fini(&c->h1.answer);
    buf_fini(&c->h1.script.text);
}

static enum turn close_now(struct conn *c)
{
    conn_close(c);
    return TURN_CLOSED;
}

static enum turn end_now(struct conn *c)
{
    conn_end(c);
    return TURN_CLOSED;
}

static enum turn read_more(struct conn *c, uint64_t *budget)
{
    if (*budget == 0) {
        conn_resume_later(c);
        return TURN_OVER;
    }
    switch (conn_read(c)) {
    case IO_OK:
        *budget -= *budget < c->view.len ? *budget : c->view.len;
        return TURN_GO_ON;
    case IO_AGAIN:
        return TURN_OVER;
    case IO_END:
        /* Only the client's sending side may have ended: answers still queued are owed to it. */
        return conn_flush(c) == IO_AGAIN ? TURN_OVER : end_now(c);
    default:
        return close_now(c);
    }
}

static void drive_h1(struct conn *c)
{
    struct h1 *h = &c->h1;
    if (h->is_waiting) {
        if (c->peer_ended)
            conn_close(c);
        return;
    }
    if (conn_is_blocked(c)) {
        const enum io_result r = conn_flush(c);
        if (r == IO_FAILED)
            conn_close(c);
        if (r != IO_OK)
            return;
    }
    uint64_t budget = TURN_BYTES;
    enum turn t = TURN_GO_ON;
    while (t == TURN_GO_ON) {
        switch (h->phase) {
        case H1_HEAD:
            t = take_head(c);
            break;
        case H1_BODY:
            t = take_body(c);
            break;
        case H1_PLAY:
            t = play(c, &budget);
            break;
        }
        if (t == TURN_NEEDS_INPUT)
            t = read_more(c, &budget);
    }
    if (t == TURN_CLOSED)
        return;
    if (c->pending.len == 0 && conn_flush(c) == IO_FAILED) {
        conn_close(c);
        return;
    }
    conn_keep_view(c);
}

/* An answer to what is not a request, or to one that we do not take to its end. */
static enum turn refuse(struct conn *c, int status)
{
    answer_refuse(&c->h1.answer, status);
    return begin_answer(c);
}

static void say_continue(struct conn *c)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (conn_reserve(c, sizeof text - 1) == IO_OK)
        conn_put(c, text, sizeof text - 1);
    else
        buf_add(&c->pending, text, sizeof text - 1);
}

/* Finds the empty line; false with *out_status 0 if there is none yet. */
static bool find_head(struct conn *c, struct span *out_head, int *out_status)
{
    struct h1 *h = &c->h1;
    /* RFC 9112 2.2: an empty line before a request is to be ignored. */
    while (c->view.len >= 2 && memcmp(c->view.ptr, "\r\n", 2) == 0) {
        conn_consume(c, 2);
        h->head_scanned = 0;
    }
    *out_status = 0;
    const size_t from = h->head_scanned > 3 ? h->head_scanned - 3 : 0;
    const char *end =
        c->view.len > from ? memmem(c->view.ptr + from, c->view.len - from, "\r\n\r\n", 4) : NULL;
    const size_t len = end ? (size_t)(end - c->view.ptr) + 4 : c->view.len;
    if (len >= HEAD_MAX)
        *out_status = 431;
    else if (!end && memmem(c->view.ptr + from, c->view.len - from, "\n\n", 2))
        *out_status = 400; /* bare LF line ends would be waited for in vain */
    h->head_scanned = len;
    *out_head = (struct span){c->view.ptr, len};
    return end && *out_status == 0;
}

static enum turn take_head(struct conn *c)
{
    struct h1 *h = &c->h1;
    if (c->view.len == 0)
        return TURN_NEEDS_INPUT;
    /* RFC 9113 3.2: over TLS it is ALPN that chooses. */
    if (h->requests == 0 && !c->tls && c->loop->options->speaks_h2) {
        switch (h2_find_preface(c->view)) {
        case H2_PREFACE_WHOLE:
            h2_take_over(c);
            return TURN_CLOSED;
        case H2_PREFACE_PART:
            return TURN_NEEDS_INPUT;
        case H2_PREFACE_NONE:
            break;
        }
    }
    struct span head;
    struct request q;
    int status;
    const bool is_complete = find_head(c, &head, &status);
    h->is_early = c->tls && tls_is_early(c);
    if (is_complete)
        status = request_parse(head, &q);
    if (status) {
        h->minor_version = 1;
        h->is_head_request = false;
        return refuse(c, status);
    }
    if (!is_complete)
        return TURN_NEEDS_INPUT;

    const uint64_t max = c->loop->options->requests_per_conn_max;
    h->requests++;
    count(&c->loop->counters.requests, 1);
    h->minor_version = q.minor_version;
    h->is_head_request = span_is(q.method, SPAN("HEAD"));
    h->must_close = !q.keep_alive || (max && h->requests >= max);
    q.is_early = h->is_early;
    route(&q, &h->answer);
    conn_consume(c, head.len);
    h->head_scanned = 0;
    body_begin(&h->body, &q);

    const bool has_body = q.is_chunked || q.length > 0;
    if (has_body && h->answer.body == ANSWER_ECHO && q.length > ECHO_MAX)
        return refuse(c, 413);
    /* RFC 9110 10.1.1: a final status instead of 100 means the body is not wanted. */
    if (has_body && q.expects_continue && !h->answer.misdeed && h->answer.status >= 400)
        h->answer.at_once = true;
    if (!has_body || h->answer.at_once) {
        h->answer.at_once = has_body;
        return begin_answer(c);
    }
    if (q.expects_continue && c->view.len == 0)
        say_continue(c);
    h->phase = H1_BODY;
    return TURN_GO_ON;
}

static enum turn take_body(struct conn *c)
{
    struct h1 *h = &c->h1;
    for (;;) {
        struct span data;
        switch (body_next(&h->body, &c->view, &data)) {
        case BODY_DATA:
            if (!answer_take_body(&h->answer, data))
                return begin_answer(c);
            break;
        case BODY_MORE:
            return TURN_NEEDS_INPUT;
        case BODY_BAD:
            return refuse(c, 400);
        case BODY_DONE:
            return begin_answer(c);
        }
    }
}

static enum turn begin_answer(struct conn *c)
{
    struct h1 *h = &c->h1;
    struct answer *a = &h->answer;
    h->must_close = h->must_close || a->must_close || a->at_once;
    script_clear(&h->script);
    answer_finish(a, c);
    if (a->misdeed)
        a->misdeed->write(c);
    else
        h1_write_answer(c);
    if (h->must_close) {
        script_add(&h->script, STEP_NOTIFY, 0);
        script_add(&h->script, STEP_CLOSE, 0);
    }
    h->phase = H1_PLAY;
    return TURN_GO_ON;
}

static void write_head(struct h1 *h, bool has_framing, bool is_chunked, uint64_t length)
{
    struct buf *out = &h->script.text;
    const struct answer *a = &h->answer;
    if (a->status == 200) {
        buf_add_span(out, SPAN("HTTP/1.1 200 OK"));
    } else {
        buf_add_span(out, SPAN("HTTP/1.1 "));
        buf_add_u64(out, (uint64_t)a->status);
        buf_add_span(out, SPAN(" "));
        buf_add_text(out, status_reason(a->status));
    }
    buf_add_span(out, SPAN("\r\nServer: mooring-origin\r\nContent-Type: "));
    buf_add_text(out, answer_type(a));
    buf_add_span(out, SPAN("\r\n"));
    if (has_framing && is_chunked) {
        buf_add_span(out, SPAN("Transfer-Encoding: chunked\r\n"));
    } else if (has_framing) {
        buf_add_span(out, SPAN("Content-Length: "));
        buf_add_u64(out, length);
        buf_add_span(out, SPAN("\r\n"));
    }
    if (a->method_len) {
        buf_add_span(out, SPAN("X-Method: "));
        buf_add(out, a->method, a->method_len);
        buf_add_span(out, SPAN("\r\n"));
    }
    if (h->is_early)
        buf_add_span(out, SPAN("Origin-Early-Data: 1\r\n"));
    if (h->must_close)
        buf_add_span(out, SPAN("Connection: close\r\n"));
    else if (h->minor_version == 0)
        buf_add_span(out, SPAN("Connection: keep-alive\r\n"));
    buf_add_span(out, SPAN("\r\n"));
}

void h1_write_answer(struct conn *c)
{
    struct h1 *h = &c->h1;
    struct answer *a = &h->answer;
    const bool is_bodyless = answer_is_bodyless(a);
    const bool is_chunked = a->hides_length && h->minor_version == 1;
    const uint64_t length = answer_length(a);
    /* HTTP/1.0 has no chunks: a body of hidden length ends with the conn. */
    const bool has_framing = !is_bodyless && (is_chunked || !a->hides_length);
    if (!has_framing && !is_bodyless)
        h->must_close = true;

    if (a->delay_ms)
        script_add(&h->script, STEP_WAIT, a->delay_ms);
    write_head(h, has_framing, is_chunked, length);
    script_add_text(&h->script);
    if (h->is_head_request || is_bodyless || (length == 0 && !is_chunked))
        return;
    struct step *body = script_add(&h->script, STEP_BYTES, length);
    if (a->body == ANSWER_PATTERN)
        body->kind = STEP_PATTERN;
    else
        body->bytes = a->body == ANSWER_ECHO ? a->echo.data : a->text.data;
    body->is_chunked = is_chunked;
    body->piece = a->piece;
    body->interval_ms = a->interval_ms;
}

static enum turn play(struct conn *c, uint64_t *budget)
{
    struct h1 *h = &c->h1;
    switch (script_play(&h->script, c, budget)) {
    case PLAY_DONE:
        answer_clear(&h->answer);
        h->phase = H1_HEAD;
        h->head_scanned = 0;
        h->idle_since_ms = c->loop->now_ms;
        arm_idle_timer(c);
        if (*budget)
            return TURN_GO_ON;
        conn_resume_later(c);
        return TURN_OVER;
    case PLAY_BLOCKED:
        return TURN_OVER;
    case PLAY_WAITING:
        h->has_idle_timer = false;
        h->is_waiting = true;
        break;
    case PLAY_STALLED:
        timer_clear(c);
        h->has_idle_timer = false;
        h->is_waiting = true;
        break;
    case PLAY_BUDGET:
        conn_resume_later(c);
        return TURN_OVER;
    case PLAY_CLOSE:
        conn_linger(c);
        return TURN_CLOSED;
    case PLAY_RESET:
        conn_reset(c);
        return TURN_CLOSED;
    case PLAY_DROP:
    case PLAY_FAILED:
        return close_now(c);
    }
    return c->peer_ended ? close_now(c) : TURN_OVER;
}

/* Armed once and looked at when it fires, not moved with every request. */
static void arm_idle_timer(struct conn *c)
{
    const uint32_t timeout = c->loop->options->idle_timeout_ms;
    if (timeout == 0 || c->h1.has_idle_timer)
        return;
    c->h1.has_idle_timer = true;
    timer_set(c, c->loop->now_ms + timeout);
}

static void on_h1_timer(struct conn *c)
{
    struct h1 *h = &c->h1;
    if (h->is_waiting) {
        h->is_waiting = false;
        drive_h1(c);
    } else {
        const uint32_t timeout = c->loop->options->idle_timeout_ms;
        h->has_idle_timer = true;
        if (h->phase != H1_HEAD)
            timer_set(c, c->loop->now_ms + timeout);
        else if (h->idle_since_ms + timeout > c->loop->now_ms)
            timer_set(c, h->idle_since_ms + timeout);
        else
            conn_end(c);
    }
}

const struct protocol h1_protocol = {
    .name = "h1",
    .open = open_h1,
    .drive = drive_h1,
    .on_timer = on_h1_timer,
    .stop = conn_close,
    .fini = fini_h1,
};
