/*
 * An exchange as one stream of an h2 conn: the request's fields, and what the session tells of the response.
 * Owner thread: the conn's shard. Never touches the conn but through its claim.
 */
#include "base/span.h"
#include "client/body.h"
#include "client/h2_conn.h"
#include "core/shard.h"

#include <stdio.h>
#include <string.h>

/* Beyond the caller's: four pseudo-fields, content-length, expect, priority; and the texts made for them. */
enum { FIELDS_MORE = 7, LENGTH_TEXT = 24, PRIORITY_TEXT = 16 };

static struct mr_exchange *exchange_of(struct mr_h2_stream *s)
{
    struct mr_h2_part *part = MR_CONTAINER_OF(s, struct mr_h2_part, stream);
    return MR_CONTAINER_OF(part, struct mr_exchange, h2);
}

static struct mr_h2_conn *conn_of(const struct mr_exchange *x)
{
    return mr_h2_conn_of(x->conn);
}

/* ---- the request ---- */

/* RFC 9113 8.2: names are sent in lower case. NULL base: no memory. */
static moor_span lower(struct mr_exchange *x, moor_span name)
{
    const char *from = name.base;
    size_t i = 0;
    while (i < name.len && !(from[i] >= 'A' && from[i] <= 'Z'))
        i++;
    if (i == name.len)
        return name;
    char *to = mr_arena_copy(&x->arena, from, name.len);
    for (; to && i < name.len; i++)
        if (to[i] >= 'A' && to[i] <= 'Z')
            to[i] = (char)(to[i] - 'A' + 'a');
    return (moor_span){to, name.len};
}

/* RFC 9113 8.2.2: of a connection, not of a request; and what pseudo-fields say. */
static bool is_of_conn(const moor_header *h)
{
    static const char *const names[] = {"connection",       "host", "keep-alive",
                                        "proxy-connection", "te",   "upgrade",
                                        "transfer-encoding"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (mr_span_is_equal_nocase(h->name, mr_span_cstr(names[i])))
            return !mr_span_is_equal_nocase(h->name, mr_span_cstr("te")) ||
                   !mr_span_is_equal(h->value, mr_span_cstr("trailers"));
    return false;
}

static bool is_named(const struct mr_h1_request *q, const char *name)
{
    for (size_t i = 0; i < q->header_count; i++)
        if (mr_span_is_equal_nocase(q->headers[i].name, mr_span_cstr(name)))
            return true;
    return false;
}

static moor_span authority_of(const struct mr_h1_request *q)
{
    for (size_t i = 0; i < q->header_count; i++)
        if (mr_span_is_equal_nocase(q->headers[i].name, mr_span_cstr("host")))
            return q->headers[i].value;
    return q->host;
}

/* RFC 9218 5: nothing is said of what is the default. */
static const char *priority_text(const struct mr_exchange *x, char text[PRIORITY_TEXT])
{
    if (x->urgency == MR_H2_URGENCY_DEFAULT)
        return x->is_incremental ? "i" : "";
    snprintf(text, PRIORITY_TEXT, "u=%u%s", x->urgency, x->is_incremental ? ", i" : "");
    return text;
}

static bool has_body(const struct mr_exchange *x)
{
    return x->body_cb || x->request_body.len;
}

static moor_err submit(struct mr_exchange *x)
{
    const struct mr_h1_request *q = x->request;
    size_t n = 0;
    const size_t room = (q->header_count + FIELDS_MORE) * sizeof(moor_header);
    moor_header *f = mr_arena_alloc(&x->arena, room + LENGTH_TEXT + PRIORITY_TEXT);
    MR_FAIL_IF(!f, MOOR_ENOMEM);
    char *length = (char *)f + room, *priority = length + LENGTH_TEXT;
    f[n++] = (moor_header){mr_span_cstr(":method"), q->method};
    f[n++] = (moor_header){mr_span_cstr(":scheme"),
                           mr_span_cstr(x->berth->upstream->is_secure ? "https" : "http")};
    f[n++] = (moor_header){mr_span_cstr(":authority"), authority_of(q)};
    f[n++] = (moor_header){mr_span_cstr(":path"), q->target};
    for (size_t i = 0; i < q->header_count; i++) {
        if (is_of_conn(&q->headers[i]))
            continue;
        f[n] = (moor_header){lower(x, q->headers[i].name), q->headers[i].value};
        MR_FAIL_IF(!f[n++].name.base, MOOR_ENOMEM);
    }
    if (q->framing == MR_H1_SEND_LENGTH && !is_named(q, "content-length")) {
        snprintf(length, LENGTH_TEXT, "%llu", (unsigned long long)q->content_length);
        f[n++] = (moor_header){mr_span_cstr("content-length"), mr_span_cstr(length)};
    }
    if (q->expect_continue && !is_named(q, "expect"))
        f[n++] = (moor_header){mr_span_cstr("expect"), mr_span_cstr("100-continue")};
    const char *urgency = priority_text(x, priority);
    if (urgency[0] && !is_named(q, "priority"))
        f[n++] = (moor_header){mr_span_cstr("priority"), mr_span_cstr(urgency)};
    return mr_h2_submit(&conn_of(x)->session, &x->h2.stream, f, n, has_body(x), x->urgency,
                        x->is_incremental);
}

static void chunk_returned(struct mr_window *w, size_t len)
{
    struct mr_exchange *x = MR_CONTAINER_OF(w, struct mr_exchange, window);
    if (!x->conn)
        return;
    struct mr_h2_conn *h = conn_of(x);
    mr_h2_consumed(&h->session, &x->h2.stream, len);
    mr_h2_conn_write_later(h);
}

/* Within h2_stall_timeout_ms a piece is through, or so much of it. */
enum { STALL_BYTES = 1024 };

static void watch_body(struct mr_exchange *x)
{
    x->h2.waiting = x->h2.stream.piece.len;
    mr_loop_timer(
        &x->shard->mine.loop, &x->stage,
        mr_deadline(mr_shard_now(x->shard), x->berth->local->pool->options.h2_stall_timeout_ms));
}

static void feed(struct mr_exchange *x, moor_span piece, bool is_last)
{
    mr_h2_stream_feed(&x->h2.stream, piece, is_last);
    x->outs++;
    if (!x->has_head)
        watch_body(x);
}

static bool h2_may_stall(struct mr_exchange *x)
{
    if (x->h2.waiting - x->h2.stream.piece.len < STALL_BYTES && mr_h2_is_shut(&x->h2.stream)) {
        MR_STAT_ADD(x->berth->local, h2_stalled, 1);
        return false;
    }
    watch_body(x);
    return true;
}

static moor_err h2_begin(struct mr_exchange *x)
{
    struct mr_h2_conn *h = conn_of(x);
    memset(&x->h2, 0, sizeof x->h2);
    mr_list_push_back(&h->exchanges, &x->h2.link);
    const moor_err e = submit(x);
    mr_h2_conn_submitted(h);
    MR_FAIL_IF(e, e);
    x->window.limit = SIZE_MAX; /* the stream's window is the one that counts */
    x->window.returned = chunk_returned;
    mr_h2_conn_used(h);
    if (x->request_body.len)
        feed(x, x->request_body, true);
    mr_exchange_sent(x);
    return MOOR_OK;
}

static void h2_leave(struct mr_exchange *x, bool is_gone, bool is_reusable)
{
    struct mr_conn *c = x->conn;
    struct mr_h2_conn *h = mr_h2_conn_of(c);
    (void)is_reusable; /* one stream's failure is not the conn's */
    mr_list_remove(&x->h2.link);
    if (x->window.lent)
        mr_h2_consumed(&h->session, NULL, x->window.lent);
    x->window.returned = NULL;
    x->window.limit = x->berth->local->pool->options.window_bytes;
    x->conn = NULL;
    mr_h2_stream_leave(&x->h2.stream, MR_H2_CANCEL);
    if (x->outs) { /* a piece that will not be taken any more */
        x->outs = 0;
        x->is_piece_out = false;
    }
    if (is_gone)
        return;
    mr_h2_conn_write_later(h);
    mr_berth_release(c, true);
}

static bool h2_send_piece(struct mr_exchange *x)
{
    const moor_span bytes = x->piece.bytes;
    if (!bytes.len && !x->is_last_piece) {
        mr_body_let_go_of_piece(x);
        return true;
    }
    feed(x, bytes, x->is_last_piece);
    x->is_piece_out = true;
    mr_h2_conn_write_later(conn_of(x));
    return true;
}

static bool h2_has_sent(const struct mr_exchange *x)
{
    return x->h2.stream.is_sent && !x->h2.is_unprocessed;
}

static bool h2_is_proven(const struct mr_exchange *x)
{
    return x->is_reused || (x->conn && conn_of(x)->session.received > 0);
}

static bool h2_is_untouched(const struct mr_exchange *x)
{
    return !x->has_head && !x->h2.stream.interim_count;
}

static bool h2_may_drain(const struct mr_exchange *x)
{
    (void)x;
    return false; /* RST_STREAM costs the conn nothing */
}

static void h2_window_reopened(struct mr_exchange *x)
{
    (void)x;
}

static void h2_prioritize(struct mr_exchange *x)
{
    mr_h2_prioritize(&conn_of(x)->session, &x->h2.stream, x->urgency, x->is_incremental);
    mr_h2_conn_write_later(conn_of(x));
}

const struct mr_speaker mr_h2_speaker = {
    .begin = h2_begin,
    .leave = h2_leave,
    .send_piece = h2_send_piece,
    .has_sent = h2_has_sent,
    .is_proven = h2_is_proven,
    .is_untouched = h2_is_untouched,
    .may_drain = h2_may_drain,
    .window_reopened = h2_window_reopened,
    .may_stall = h2_may_stall,
    .prioritize = h2_prioritize,
};

/* ---- the response ---- */

static void *alloc(struct mr_h2_stream *s, size_t size)
{
    return mr_arena_alloc(&exchange_of(s)->arena, size);
}

static void note_bytes(struct mr_exchange *x)
{
    if (!x->first_byte_ns)
        x->first_byte_ns = mr_shard_now(x->shard);
    if (x->body_state != MR_BODY_WAITING && !x->outs)
        mr_loop_untimer(&x->shard->mine.loop, &x->stage);
}

static void on_head(struct mr_h2_stream *s, const struct mr_h2_head *h)
{
    struct mr_exchange *x = exchange_of(s);
    note_bytes(x);
    if (h->status == 421 && mr_exchange_misdirected(x))
        return;
    if (h->status >= 200) {
        mr_loop_untimer(&x->shard->mine.loop, &x->stage);
        x->has_head = true;
    }
    if (x->handlers->on_head) {
        const moor_http_head head = {
            .status = h->status,
            .version = 20,
            .headers = h->headers,
            .header_count = h->header_count,
            .reason = {"", 0},
        };
        x->handlers->on_head(x->user, &head);
    }
    if (h->status == 100)
        mr_exchange_continue(x);
    if (h->status < 200)
        mr_exchange_sent(x); /* the response itself is still due */
}

static void broken(struct mr_exchange *x, moor_err err, const char *what)
{
    mr_exchange_broken(x, &(moor_fault){.err = err, .what = what}, false);
}

static void on_data(struct mr_h2_stream *s, moor_span bytes)
{
    struct mr_exchange *x = exchange_of(s);
    struct mr_h2_conn *h = conn_of(x);
    const struct mr_http_pool *http = x->berth->upstream->pool->wiring;
    x->bytes_down += bytes.len;
    if (x->bytes_down > http->limits.body_bytes_max) {
        mr_h2_consumed(&h->session, NULL, bytes.len);
        broken(x, MOOR_ETOOBIG, "the response's body is larger than body_bytes_max");
        return;
    }
    if (!x->handlers->on_chunk) {
        mr_h2_consumed(&h->session, s, bytes.len);
        return;
    }
    const struct mr_in part = {.buf = h->in->buf, .base = bytes.base, .len = bytes.len};
    moor_chunk chunk;
    if (!mr_loan_make(x->berth->local, &x->window, &part, bytes.len, &chunk)) {
        mr_h2_consumed(&h->session, NULL, bytes.len);
        broken(x, MOOR_ENOMEM, "lend received bytes");
        return;
    }
    x->handlers->on_chunk(x->user, chunk);
}

static void on_trailers(struct mr_h2_stream *s, const moor_header *h, size_t count)
{
    struct mr_exchange *x = exchange_of(s);
    if (x->handlers->on_trailers)
        x->handlers->on_trailers(x->user, h, count);
}

static void on_fed(struct mr_h2_stream *s)
{
    struct mr_exchange *x = exchange_of(s);
    if (!x->has_head)
        mr_loop_untimer(&x->shard->mine.loop, &x->stage);
    if (x->is_piece_out) {
        x->is_piece_out = false;
        mr_body_let_go_of_piece(x);
    }
    mr_exchange_out_gone(x);
}

static moor_err error_of(const struct mr_h2_end *end)
{
    if (end->is_unprocessed)
        return MOOR_ERESET;
    if (end->err)
        return end->err;
    if (end->code == MR_H2_PROTOCOL_ERROR || end->code == MR_H2_FLOW_CONTROL_ERROR ||
        end->code == MR_H2_FRAME_SIZE_ERROR)
        return MOOR_EPROTO;
    return MOOR_ERESET;
}

static void on_closed(struct mr_h2_stream *s, const struct mr_h2_end *end)
{
    struct mr_exchange *x = exchange_of(s);
    struct mr_h2_conn *h = conn_of(x);
    if (end->is_complete) {
        mr_h2_conn_served(h);
        mr_exchange_complete(x, true);
        return;
    }
    x->h2.is_unprocessed = end->is_unprocessed;
    x->h2.is_moved = end->is_unprocessed && h->is_leaving_well;
    const bool is_calm_asked = end->code == MR_H2_ENHANCE_YOUR_CALM && !end->err; /* not by us */
    x->h2.is_calmed = is_calm_asked || (end->is_unprocessed && h->is_calmed);
    if (end->is_unprocessed)
        MR_STAT_ADD(x->berth->local, h2_refused, 1);
    if ((end->is_unprocessed || is_calm_asked) && !h->session.is_going_away)
        mr_h2_conn_refused(h);
    broken(x, error_of(end), x->h2.is_calmed ? mr_h2_calm : end->what);
}

const struct mr_h2_events mr_h2_conn_events = {
    .head = on_head,
    .data = on_data,
    .trailers = on_trailers,
    .fed = on_fed,
    .closed = on_closed,
    .settings = mr_h2_conn_settings,
    .going_away = mr_h2_conn_going_away,
    .pong = mr_h2_conn_pong,
    .alloc = alloc,
};
