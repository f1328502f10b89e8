/*
 * The streams of a conn: requests to routes, answers to frames, each at its own pace. Runs on the
 * conn's loop, inside the session's callbacks, which must never close the conn. What is kept of
 * bodies is bounded for each stream and for all of a conn together.
 */
#include "h2_stream.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>

#include "conn.h"
#include "h2.h"
#include "options.h"
#include "pattern.h"

enum { FRAME_HEAD = 9, FIELDS_MAX = 6 };

static int take_request(struct h2_stream *s, bool has_body);
static int begin_answer(struct h2_stream *s);
static int submit_answer(struct h2_stream *s);
static void count_echo(struct h2_stream *s);
static void refuse(struct h2_stream *s, int status);
static void wait_for(struct h2_stream *s, uint32_t ms);

static struct h2_stream *stream_of(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

static bool begins_request(const nghttp2_frame *frame)
{
    return frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST;
}

static struct span span_of(const struct buf *b)
{
    return (struct span){b->data, b->len};
}

/* --- requests --- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct conn *c = user;
    struct h2 *h = c->h2;
    /* Behind a GOAWAY: nghttp2 drops the stream as soon as that is sent. */
    if (!begins_request(frame) || h->is_ending)
        return 0;
    struct h2_stream *s = calloc(1, sizeof *s);
    if (!s)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    s->conn = c;
    s->id = frame->hd.stream_id;
    s->is_early = h->is_early;
    TAILQ_INSERT_TAIL(&h->streams, s, all);
    h->stream_count++;
    h->last_id = s->id;
    h->head.request = (struct request){.minor_version = 1, .is_early = h->is_early};
    h->head.method.len = h->head.target.len = h->head.fields.len = 0;
    h->head.status = 0;
    return nghttp2_session_set_stream_user_data(session, s->id, s);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name_ptr,
                     size_t name_len, const uint8_t *value_ptr, size_t value_len, uint8_t flags,
                     void *user)
{
    const struct conn *c = user;
    struct h2_head *head = &c->h2->head;
    const struct span name = {(const char *)name_ptr, name_len};
    const struct span value = {(const char *)value_ptr, value_len};
    (void)flags;
    if (!begins_request(frame) || !stream_of(session, frame->hd.stream_id) || head->status)
        return 0;
    /* A block of few bytes can stand for many headers: what counts is what they are. */
    if (head->fields.len + name.len + value.len + 4 > HEAD_MAX) {
        head->status = 431;
        return 0;
    }
    buf_add_span(&head->fields, name);
    buf_add_span(&head->fields, SPAN(": "));
    buf_add_span(&head->fields, value);
    buf_add_span(&head->fields, SPAN("\r\n"));
    if (span_is(name, SPAN(":method")))
        buf_add_span(&head->method, value);
    else if (span_is(name, SPAN(":path")))
        buf_add_span(&head->target, value);
    else if (name.ptr[0] != ':')
        head->status = request_take_field(&head->request, name, value);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    (void)user;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    struct h2_stream *s = stream_of(session, frame->hd.stream_id);
    if (!s)
        return 0;
    const bool is_last = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    s->is_request_complete = is_last;
    if (begins_request(frame))
        return take_request(s, !is_last);
    return is_last && !s->is_answer_begun ? begin_answer(s) : 0;
}

static int say_continue(const struct h2_stream *s)
{
    uint8_t name[] = ":status", value[] = "100";
    const nghttp2_nv field = {name, value, sizeof name - 1, sizeof value - 1, 0};
    return nghttp2_submit_headers(s->conn->h2->session, NGHTTP2_FLAG_NONE, s->id, NULL, &field, 1,
                                  NULL);
}

static int take_request(struct h2_stream *s, bool has_body)
{
    struct conn *c = s->conn;
    struct h2 *h = c->h2;
    struct answer *a = &s->answer;
    struct request q = h->head.request;
    int status = h->head.status ? h->head.status : request_set_target(&q, span_of(&h->head.target));
    q.method = span_of(&h->head.method);
    q.fields = span_of(&h->head.fields);
    q.is_chunked = has_body && !q.has_length;
    s->is_head_request = span_is(q.method, SPAN("HEAD"));
    count(&c->loop->counters.requests, 1);
    count(&c->loop->counters.h2_requests, 1);
    const uint64_t max = c->loop->options->requests_per_conn_max;
    if (++h->requests == max)
        h2_go_away(c);

    if (!status)
        route(&q, a);
    if (!status && has_body && a->body == ANSWER_ECHO && q.length > ECHO_MAX)
        status = 413;
    if (status)
        answer_refuse(a, status);
    if (a->misdeed) {
        answer_refuse(a, 501);
        buf_add_text(&a->text, "/bad/... is misbehaviour on HTTP/1: ask with HTTP/1.1\n");
    }
    /* RFC 9110 10.1.1: a final status instead of 100 means the body is not wanted. */
    const bool is_refused = q.expects_continue && a->status >= 400;
    if (!has_body || a->at_once || is_refused)
        return begin_answer(s);
    return q.expects_continue ? say_continue(s) : 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t len, void *user)
{
    const struct conn *c = user;
    struct h2_stream *s = stream_of(session, id);
    (void)flags;
    /* What is not wanted counts for the conn only: the stream's window stays shut. */
    if (!s || s->is_answer_begun)
        return nghttp2_session_consume_connection(session, len);
    const int r = nghttp2_session_consume(session, id, len);
    if (r != 0)
        return r;
    if (s->answer.body == ANSWER_ECHO && len > H2_ECHO_MAX - c->h2->echo_bytes) {
        refuse(s, 413);
        return begin_answer(s);
    }
    const bool is_taken = answer_take_body(&s->answer, (struct span){(const char *)bytes, len});
    count_echo(s);
    return is_taken ? 0 : begin_answer(s);
}

static void count_echo(struct h2_stream *s)
{
    s->conn->h2->echo_bytes += s->answer.echo.len - s->echo_counted;
    s->echo_counted = s->answer.echo.len;
}

static void refuse(struct h2_stream *s, int status)
{
    answer_refuse(&s->answer, status);
    count_echo(s);
}

/* --- answers --- */

static int begin_answer(struct h2_stream *s)
{
    struct answer *a = &s->answer;
    s->is_answer_begun = true;
    answer_finish(a, s->conn);
    s->length = answer_length(a);
    if (a->must_close)
        h2_go_away(s->conn);
    if (a->delay_ms == 0)
        return submit_answer(s);
    wait_for(s, a->delay_ms);
    return 0;
}

struct fields {
    nghttp2_nv list[FIELDS_MAX];
    size_t count;
};

static void add_field(struct fields *f, struct span name, struct span value)
{
    f->list[f->count++] = (nghttp2_nv){(uint8_t *)(uintptr_t)name.ptr,
                                       (uint8_t *)(uintptr_t)value.ptr, name.len, value.len, 0};
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the signature is nghttp2's. */
static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *into, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *user);

static int submit_answer(struct h2_stream *s)
{
    const struct answer *a = &s->answer;
    const char *type = answer_type(a);
    const bool is_bodyless = answer_is_bodyless(a);
    char status[20], length[20];
    struct fields f = {.count = 0};
    add_field(&f, SPAN(":status"), (struct span){status, format_u64(status, (uint64_t)a->status)});
    add_field(&f, SPAN("server"), SPAN("mooring-origin"));
    add_field(&f, SPAN("content-type"), (struct span){type, strlen(type)});
    if (!is_bodyless && !a->hides_length)
        add_field(&f, SPAN("content-length"), (struct span){length, format_u64(length, s->length)});
    if (a->method_len)
        add_field(&f, SPAN("x-method"), (struct span){a->method, a->method_len});
    if (s->is_early)
        add_field(&f, SPAN("origin-early-data"), SPAN("1"));
    const nghttp2_data_provider body = {.source.ptr = s, .read_callback = read_body};
    const bool has_body = !s->is_head_request && !is_bodyless && s->length;
    s->is_head_submitted = true;
    return nghttp2_submit_response(s->conn->h2->session, s->id, f.list, f.count,
                                   has_body ? &body : NULL);
}

/* Only says how much; send_body puts it, so that it is copied once. */
/* NOLINTNEXTLINE(readability-non-const-parameter): the signature is nghttp2's. */
static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *into, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct h2_stream *s = source->ptr;
    const struct answer *a = &s->answer;
    const uint64_t left = s->length - s->sent;
    (void)session, (void)id, (void)into, (void)user;
    if (s->piece_left == 0) {
        if (a->interval_ms && s->sent && !s->piece_waited) {
            wait_for(s, a->interval_ms);
            return NGHTTP2_ERR_DEFERRED;
        }
        s->piece_waited = false;
        s->piece_left = a->piece && a->piece < left ? a->piece : left;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (s->piece_left == left && left <= room)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)(s->piece_left < room ? s->piece_left : room);
}

static struct span body_at(const struct h2_stream *s, size_t len)
{
    const struct answer *a = &s->answer;
    if (a->body == ANSWER_PATTERN)
        return pattern_at(s->sent, len);
    return (struct span){(a->body == ANSWER_ECHO ? a->echo.data : a->text.data) + s->sent, len};
}

static int send_body(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *frame_head,
                     size_t len, nghttp2_data_source *source, void *user)
{
    struct conn *c = user;
    struct h2_stream *s = source->ptr;
    (void)session, (void)frame;
    if (c->h2->budget == 0 || conn_is_blocked(c))
        return NGHTTP2_ERR_WOULDBLOCK;
    switch (conn_reserve(c, FRAME_HEAD + len)) {
    case IO_OK:
        break;
    case IO_AGAIN:
        return NGHTTP2_ERR_WOULDBLOCK;
    default:
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    c->h2->budget -= c->h2->budget < len ? c->h2->budget : len;
    conn_put(c, frame_head, FRAME_HEAD);
    s->piece_left -= len;
    while (len) {
        const struct span part = body_at(s, len);
        conn_put(c, part.ptr, part.len);
        s->sent += part.len;
        len -= part.len;
    }
    return 0;
}

/* RFC 9113 8.1: an answer that does not wait for the request's body tells the peer to stop. */
static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    (void)user;
    const bool may_end = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
    if (!may_end || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    const struct h2_stream *s = stream_of(session, frame->hd.stream_id);
    if (!s || s->is_request_complete)
        return 0;
    return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
}

/* --- waiting, and the end --- */

static void wait_for(struct h2_stream *s, uint32_t ms)
{
    s->is_waiting = true;
    s->wake_ms = s->conn->loop->now_ms + ms;
    TAILQ_INSERT_TAIL(&s->conn->h2->waiting, s, waiting);
}

static void stop_waiting(struct h2_stream *s)
{
    s->is_waiting = false;
    TAILQ_REMOVE(&s->conn->h2->waiting, s, waiting);
}

bool h2_streams_wake(struct conn *c)
{
    struct h2_stream *next;
    for (struct h2_stream *s = TAILQ_FIRST(&c->h2->waiting); s; s = next) {
        next = TAILQ_NEXT(s, waiting);
        if (s->wake_ms > c->loop->now_ms)
            continue;
        stop_waiting(s);
        s->piece_waited = s->is_head_submitted;
        const int r = s->is_head_submitted ? nghttp2_session_resume_data(c->h2->session, s->id)
                                           : submit_answer(s);
        if (r != 0)
            return false;
    }
    return true;
}

uint64_t h2_streams_next(const struct conn *c)
{
    uint64_t when = UINT64_MAX;
    for (const struct h2_stream *s = TAILQ_FIRST(&c->h2->waiting); s; s = TAILQ_NEXT(s, waiting))
        when = s->wake_ms < when ? s->wake_ms : when;
    return when;
}

static void free_stream(struct h2_stream *s)
{
    struct h2 *h = s->conn->h2;
    if (s->is_waiting)
        stop_waiting(s);
    TAILQ_REMOVE(&h->streams, s, all);
    h->stream_count--;
    h->echo_bytes -= s->echo_counted;
    answer_fini(&s->answer);
    free(s);
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    const struct conn *c = user;
    struct h2_stream *s = stream_of(session, id);
    (void)code;
    if (s)
        free_stream(s);
    c->h2->idle_since_ms = c->loop->now_ms;
    return 0;
}

void h2_streams_fini(struct conn *c)
{
    struct h2_stream *next;
    for (struct h2_stream *s = TAILQ_FIRST(&c->h2->streams); s; s = next) {
        next = TAILQ_NEXT(s, all);
        free_stream(s);
    }
}

void h2_stream_set_callbacks(struct nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_body);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
}
