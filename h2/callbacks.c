/*
 * What nghttp2 calls while it reads and writes, judged and turned into the session's events.
 * Owner thread: the session's. Counts what a peer may do only so often; never calls into nghttp2 but with
 * what it allows inside a callback.
 */
#include "h2/callbacks.h"

#include "base/scan.h"

#include <string.h>

/* RFC 9113 6.5.2: what a field counts beyond its bytes. */
enum { FIELD_OVERHEAD = 32 };

/* Most heads fit in them. */
enum { HEADERS_FIRST = 16, TEXT_FIRST = 1024 };

/* Frames of one stream come together: the last one is remembered. */
static struct mr_h2_stream *stream_of(struct mr_h2_session *h, int32_t id)
{
    if (!id)
        return NULL;
    if (h->last_id != id || !h->last) {
        h->last_id = id;
        h->last = nghttp2_session_get_stream_user_data(h->ng, id);
    }
    return h->last;
}

void mr_h2_must(struct mr_h2_session *h, int ng_err)
{
    if (ng_err == NGHTTP2_ERR_NOMEM)
        h->failure = MOOR_ENOMEM;
}

void mr_h2_refuse(struct mr_h2_session *h, const char *what)
{
    if (h->fault)
        return;
    h->fault = what;
    (void)nghttp2_session_terminate_session(h->ng, NGHTTP2_ENHANCE_YOUR_CALM);
}

/* The stream ends, the connection goes on. */
static void give_up(struct mr_h2_session *h, struct mr_h2_stream *s, moor_err err, uint32_t code,
                    const char *what)
{
    if (s->is_ignored)
        return;
    s->is_ignored = true;
    s->err = err;
    s->what = what;
    mr_h2_must(h, nghttp2_submit_rst_stream(h->ng, NGHTTP2_FLAG_NONE, s->id, code));
}

void mr_h2_stream_forget(struct mr_h2_stream *s)
{
    struct mr_h2_session *h = s->session;
    mr_h2_schedule_remove(&h->schedule, &s->turn);
    h->unsent_count -= !s->is_sent;
    if (h->chosen == s)
        h->chosen = NULL;
    if (h->last == s)
        h->last = NULL;
    s->piece = (moor_span){NULL, 0};
    s->session = NULL;
}

/* ---- header sections ---- */

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    (void)ng;
    struct mr_h2_stream *s = stream_of(user, frame->hd.stream_id);
    if (s) {
        s->header_count = 0;
        s->header_bytes = 0;
        mr_h2_message_begin(&s->message);
    }
    return 0;
}

static bool grow_list(struct mr_h2_session *h, struct mr_h2_stream *s)
{
    const uint32_t cap = s->header_cap ? s->header_cap * 2 : HEADERS_FIRST;
    moor_header *list = h->events->alloc(s, cap * sizeof *list);
    if (!list)
        return false;
    if (s->header_count)
        memcpy(list, s->headers, s->header_count * sizeof *list);
    s->headers = list;
    s->header_cap = cap;
    return true;
}

/* The bytes of many fields come in one piece of the stream's memory. */
static char *take_text(struct mr_h2_session *h, struct mr_h2_stream *s, size_t size)
{
    if (size > s->text_left) {
        const size_t piece = size > TEXT_FIRST ? size : TEXT_FIRST;
        s->text = h->events->alloc(s, piece + MR_SCAN_PAD);
        s->text_left = s->text ? piece : 0;
    }
    char *at = s->text;
    if (at) {
        s->text += size;
        s->text_left -= size;
    }
    return at;
}

static bool is_white(uint8_t c)
{
    return c == ' ' || c == '\t';
}

static moor_header *add_header(struct mr_h2_session *h, struct mr_h2_stream *s, const uint8_t *name,
                               size_t name_len, const uint8_t *value, size_t value_len)
{
    while (value_len && is_white(value[0]))
        value++, value_len--;
    while (value_len && is_white(value[value_len - 1]))
        value_len--;
    if (s->header_count == s->header_cap && !grow_list(h, s))
        return NULL;
    char *bytes = take_text(h, s, name_len + value_len + 2);
    if (!bytes)
        return NULL;
    memcpy(bytes, name, name_len);
    bytes[name_len] = '\0';
    memcpy(bytes + name_len + 1, value, value_len);
    bytes[name_len + 1 + value_len] = '\0';
    moor_header *added = &s->headers[s->header_count++];
    *added = (moor_header){{bytes, name_len}, {bytes + name_len + 1, value_len}};
    return added;
}

/* Not well-formed: RFC 9113 8.1.1. */
static void refuse_message(struct mr_h2_session *h, struct mr_h2_stream *s, const char *what)
{
    if (what)
        give_up(h, s, MOOR_EPROTO, NGHTTP2_PROTOCOL_ERROR, what);
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    (void)ng;
    (void)flags;
    struct mr_h2_session *h = user;
    struct mr_h2_stream *s = stream_of(h, frame->hd.stream_id);
    if (!s || s->is_ignored)
        return 0;
    if (name_len && name[0] == ':') {
        refuse_message(h, s,
                       mr_h2_message_pseudo(&s->message, (moor_span){name, name_len},
                                            (moor_span){value, value_len}));
        return 0;
    }
    s->header_bytes += name_len + value_len + FIELD_OVERHEAD;
    if (s->header_bytes > h->limits.header_bytes_max) {
        give_up(h, s, MOOR_ETOOBIG, NGHTTP2_CANCEL,
                "the response's head is larger than header_bytes_max");
        return 0;
    }
    if (s->header_count >= h->limits.header_count_max) {
        give_up(h, s, MOOR_ETOOBIG, NGHTTP2_CANCEL,
                "the response has more headers than header_count_max");
        return 0;
    }
    const moor_header *added = add_header(h, s, name, name_len, value, value_len);
    if (added)
        refuse_message(h, s, mr_h2_message_field(&s->message, added->name, added->value));
    else
        give_up(h, s, MOOR_ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory for the response's head");
    return 0;
}

static void section_came(struct mr_h2_session *h, struct mr_h2_stream *s, bool is_end)
{
    const bool are_trailers = s->message.is_final;
    refuse_message(h, s, mr_h2_message_section(&s->message, is_end));
    if (!s->message.is_final && !s->is_ignored && ++s->interim_count > h->limits.interim_count_max)
        give_up(h, s, MOOR_EPROTO, NGHTTP2_ENHANCE_YOUR_CALM, "too many interim responses");
    if (s->is_ignored)
        return;
    if (!are_trailers)
        h->events->head(s, &(struct mr_h2_head){s->message.status, s->headers, s->header_count});
    else if (s->header_count)
        h->events->trailers(s, s->headers, s->header_count);
}

/* ---- frames ---- */

static void note_abuse(struct mr_h2_session *h, enum mr_h2_abuse kind)
{
    const char *what = mr_h2_guard_note(&h->guard, kind, 1, h->now_ns);
    if (what)
        mr_h2_refuse(h, what);
}

static int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *user)
{
    (void)ng;
    struct mr_h2_session *h = user;
    enum mr_h2_abuse kind;
    h->idle_bytes = 0;
    switch (hd->type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_PUSH_PROMISE:
    case NGHTTP2_CONTINUATION:
        return 0;
    case NGHTTP2_DATA:
        if (hd->length || hd->flags & NGHTTP2_FLAG_END_STREAM)
            return 0;
        kind = MR_H2_ABUSE_EMPTY_DATA;
        break;
    case NGHTTP2_SETTINGS:
        kind = MR_H2_ABUSE_SETTINGS;
        break;
    case NGHTTP2_PING:
        kind = MR_H2_ABUSE_PING;
        break;
    case NGHTTP2_RST_STREAM:
        kind = MR_H2_ABUSE_RST_STREAM;
        break;
    case NGHTTP2_WINDOW_UPDATE:
        kind = MR_H2_ABUSE_WINDOW_UPDATE;
        break;
    default:
        kind = MR_H2_ABUSE_PRIORITY;
        break;
    }
    note_abuse(h, kind);
    return 0;
}

static void settings_came(struct mr_h2_session *h, const nghttp2_frame *frame)
{
    if (frame->hd.flags & NGHTTP2_FLAG_ACK)
        return;
    mr_h2_schedule_release_all(&h->schedule); /* INITIAL_WINDOW_SIZE changes the windows of all */
    h->events->settings(
        h, nghttp2_session_get_remote_settings(h->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS));
}

static void window_opened(struct mr_h2_session *h, struct mr_h2_stream *s)
{
    if (s)
        mr_h2_schedule_release(&h->schedule, &s->turn);
}

static int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    struct mr_h2_session *h = user;
    struct mr_h2_stream *s = stream_of(h, frame->hd.stream_id);
    h->idle_bytes = 0;
    switch (frame->hd.type) {
    case NGHTTP2_SETTINGS:
        settings_came(h, frame);
        return 0;
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK)
            mr_h2_pong(h, frame->ping.opaque_data);
        return 0;
    case NGHTTP2_GOAWAY:
        note_abuse(h, MR_H2_ABUSE_PRIORITY);
        h->is_going_away = true;
        h->events->going_away(h, frame->goaway.error_code);
        return 0;
    case NGHTTP2_WINDOW_UPDATE:
        window_opened(h, s);
        return 0;
    case NGHTTP2_HEADERS:
        if (s && !s->is_ignored)
            section_came(h, s, frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
        break;
    case NGHTTP2_DATA:
        break;
    default:
        return 0;
    }
    s = stream_of(h, frame->hd.stream_id); /* the event may have left it */
    if (!s || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    s->is_ended = true;
    refuse_message(h, s, mr_h2_message_end(&s->message));
    if (!s->is_body_over) /* RFC 9113 8.1: answered before the request was whole */
        mr_h2_must(h, nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR));
    return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *bytes, size_t len,
                   void *user)
{
    (void)flags;
    struct mr_h2_session *h = user;
    struct mr_h2_stream *s = stream_of(h, id);
    h->idle_bytes = 0;
    h->unreturned += len;
    /* A slow caller's window shuts only its own stream, until all of them hold too much. */
    if (h->unreturned > h->limits.window_max)
        h->withheld += len;
    else
        mr_h2_must(h, nghttp2_session_consume_connection(ng, len));
    if (mr_h2_bdp_received(&h->bdp, len, h->now_ns))
        mr_h2_measure(h);
    if (s && !s->is_ignored)
        refuse_message(h, s, mr_h2_message_data(&s->message, len));
    if (s && !s->is_ignored)
        h->events->data(s, (moor_span){bytes, len});
    else
        mr_h2_consumed(h, NULL, len);
    return 0;
}

/* What a GOAWAY of ours accuses the peer of. */
static const char *accusation(uint32_t code)
{
    switch (code) {
    case NGHTTP2_FLOW_CONTROL_ERROR:
        return "the peer broke HTTP/2: flow control";
    case NGHTTP2_FRAME_SIZE_ERROR:
        return "the peer broke HTTP/2: size of a frame";
    case NGHTTP2_COMPRESSION_ERROR:
        return "the peer broke HTTP/2: compression of headers";
    case NGHTTP2_STREAM_CLOSED:
        return "the peer broke HTTP/2: a frame on a closed stream";
    default:
        return "the peer broke HTTP/2";
    }
}

static void ours_is_sent(struct mr_h2_session *h, uint32_t code)
{
    if (code == NGHTTP2_INTERNAL_ERROR) /* all that fails so is HPACK, for want of memory */
        mr_h2_must(h, NGHTTP2_ERR_NOMEM);
    else if (code != NGHTTP2_NO_ERROR && !h->fault)
        h->fault = h->invalid ? h->invalid : accusation(code);
}

static int before_frame_send(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    (void)ng;
    struct mr_h2_session *h = user;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        ours_is_sent(h, frame->goaway.error_code);
    if (frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    struct mr_h2_stream *s = stream_of(h, frame->hd.stream_id);
    if (s) {
        s->is_sent = true;
        h->unsent_count--;
        mr_h2_schedule_release(&h->schedule, &s->turn);
    }
    return 0;
}

/* ---- ends ---- */

const char mr_h2_calm[] = "the server asks for calm";

static const char *why(const struct mr_h2_stream *s, uint32_t code)
{
    if (s->what)
        return s->what;
    switch (code) {
    case NGHTTP2_NO_ERROR:
        return "the server ended the stream before its response";
    case NGHTTP2_REFUSED_STREAM:
        return "the server refused the stream";
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return mr_h2_calm;
    case NGHTTP2_CANCEL:
        return "the server canceled the stream";
    case NGHTTP2_HTTP_1_1_REQUIRED:
        return "the server wants HTTP/1.1 for this request: open its pool with http_version 1.1";
    case NGHTTP2_PROTOCOL_ERROR:
        return "HTTP/2 protocol error on the stream";
    case NGHTTP2_FLOW_CONTROL_ERROR:
        return "HTTP/2 flow control error on the stream";
    default:
        return "the server reset the stream";
    }
}

/* nghttp2 refuses a stream of ours itself where its HEADERS cannot be written. If it may open streams, memory
 * is what it had not: the connection ends. */
static void note_unwritten(struct mr_h2_session *h, struct mr_h2_stream *s, uint32_t code)
{
    if (s->is_sent || code != NGHTTP2_REFUSED_STREAM || h->fault ||
        !nghttp2_session_check_request_allowed(h->ng))
        return;
    mr_h2_must(h, NGHTTP2_ERR_NOMEM);
    s->is_ignored = true;
    s->err = MOOR_ENOMEM;
    s->what = "out of memory for the request's head";
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
    (void)ng;
    struct mr_h2_session *h = user;
    struct mr_h2_stream *s = stream_of(h, id);
    if (!s)
        return 0;
    note_unwritten(h, s, code);
    const bool is_whole = s->is_ended && s->message.is_final && !s->is_ignored;
    const struct mr_h2_end end = {
        .code = is_whole ? NGHTTP2_NO_ERROR : code,
        .err = s->err,
        .is_complete = is_whole,
        .is_unprocessed = !is_whole && !s->is_ignored &&
                          (!s->is_sent || (code == NGHTTP2_REFUSED_STREAM && !s->message.is_final)),
        .what = is_whole ? "" : why(s, code),
    };
    mr_h2_stream_forget(s);
    h->events->closed(s, &end);
    return 0;
}

/* nghttp2 ends the connection by itself after this; what it was goes to whoever asks. */
static int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *frame, int err, void *user)
{
    (void)ng;
    struct mr_h2_session *h = user;
    struct mr_h2_stream *s = stream_of(h, frame->hd.stream_id);
    if (s && !s->what)
        s->what = nghttp2_strerror(err);
    h->invalid = nghttp2_strerror(err);
    return 0;
}

void mr_h2_set_callbacks(nghttp2_session_callbacks *c)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(c, on_header);
    nghttp2_session_callbacks_set_on_begin_frame_callback(c, on_begin_frame);
    nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
    nghttp2_session_callbacks_set_before_frame_send_callback(c, before_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(c, on_stream_close);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(c, on_invalid_frame);
}
