/*
 * An HTTP/2 connection over nghttp2: its life, bytes in and out, windows.
 * Owner thread: whoever drives it. Does no I/O and reads no clock. What nghttp2 calls is in callbacks.c.
 */
#include "h2/session.h"

#include "base/assert.h"
#include "base/span.h"
#include "h2/callbacks.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>

#define PING_ALIVE "mooring?" /* 8 bytes */
#define PING_BDP   "mooring#"

/* Frames we owe a peer that asks without reading, and entries of one SETTINGS: CVE-2019-9512 and 9515. */
enum { ACKS_MAX = 100, SETTINGS_MAX = 32 };
/* Of a frame of a head (RFC 9113 6.5.2: the peer may send no larger ones). */
enum { FRAME_SIZE = 16384 };
/* What nghttp2 counts beside a head, though we send none (RFC 7540 6.3). */
enum { PRIORITY_SIZE = 5 };

/* ---- life ---- */

static int make(struct mr_h2_session *h)
{
    nghttp2_mem mem = {&h->memory, mr_h2_malloc, mr_h2_free, mr_h2_calloc, mr_h2_realloc};
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    int err = nghttp2_session_callbacks_new(&callbacks);
    if (!err)
        err = nghttp2_option_new(&option);
    if (!err) {
        mr_h2_set_callbacks(callbacks);
        nghttp2_option_set_no_auto_window_update(option, 1);
        nghttp2_option_set_peer_max_concurrent_streams(option, MR_H2_STREAMS_ASSUMED);
        nghttp2_option_set_no_closed_streams(option, 1);
        nghttp2_option_set_no_http_messaging(option, 1); /* mr_h2_message */
        nghttp2_option_set_max_outbound_ack(option, ACKS_MAX);
        nghttp2_option_set_max_settings(option, SETTINGS_MAX);
        nghttp2_option_set_max_send_header_block_length(option,
                                                        MR_H2_HEAD_BYTES_MAX + PRIORITY_SIZE);
#ifdef MR_NGHTTP2_CONTINUATIONS
        nghttp2_option_set_max_continuations(option, h->limits.header_bytes_max / FRAME_SIZE +
                                                         MR_H2_CONTINUATIONS_MORE);
#endif
        err = nghttp2_session_client_new3(&h->ng, callbacks, h, option, &mem);
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return err;
}

/* Not NO_RFC7540_PRIORITIES (RFC 9218 2.1): after it nghttp2 1.52 frees a body twice when memory is short. */
static int say_hello(struct mr_h2_session *h)
{
    const nghttp2_settings_entry ours[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, h->limits.window_stream},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, h->limits.header_bytes_max},
    };
    const int err =
        nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, ours, sizeof ours / sizeof *ours);
    return err ? err
               : nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0,
                                                       (int32_t)h->limits.window_conn);
}

moor_err mr_h2_session_init(struct mr_h2_session *h, struct mr_heap *heap,
                            const struct mr_h2_limits *limits, const struct mr_h2_events *events,
                            int64_t now_ns)
{
    memset(h, 0, sizeof *h);
    mr_h2_memory_init(&h->memory, heap);
    h->limits = *limits;
    /* Who stops reading shuts its own stream before the conn's window is all its. */
    const uint32_t stream_max = limits->window_max / 2;
    if (h->limits.window_stream > stream_max)
        h->limits.window_stream = stream_max;
    h->events = events;
    h->now_ns = now_ns;
    mr_h2_guard_init(&h->guard, now_ns);
    mr_h2_bdp_init(&h->bdp, h->limits.window_stream, stream_max);
    mr_h2_schedule_init(&h->schedule);
    if (make(h)) {
        mr_h2_memory_fini(&h->memory);
        return MOOR_ENOMEM;
    }
    if (say_hello(h)) {
        mr_h2_session_fini(h);
        return MOOR_ENOMEM;
    }
    return MOOR_OK;
}

void mr_h2_session_fini(struct mr_h2_session *h)
{
    nghttp2_session_del(h->ng);
    h->ng = NULL;
    mr_h2_memory_fini(&h->memory);
}

/* A server may close at our GOAWAY once it has answered what came before: no request may follow it. */
static bool is_goaway_next(const struct mr_h2_session *h)
{
    return h->is_goaway_due && !h->unsent_count;
}

bool mr_h2_wants_output(const struct mr_h2_session *h)
{
    if (h->failure)
        return false;
    return h->unwritten.len || nghttp2_session_want_write(h->ng) || is_goaway_next(h) ||
           mr_h2_schedule_pick(&h->schedule);
}

bool mr_h2_is_over(const struct mr_h2_session *h)
{
    return !nghttp2_session_want_read(h->ng) && !nghttp2_session_want_write(h->ng) &&
           !h->unwritten.len;
}

bool mr_h2_is_exhausted(const struct mr_h2_session *h)
{
    return !nghttp2_session_check_request_allowed(h->ng);
}

/* ---- in ---- */

moor_err mr_h2_input(struct mr_h2_session *h, const uint8_t *bytes, size_t len, int64_t now_ns,
                     const char **out_what)
{
    h->now_ns = now_ns;
    h->received += len;
    h->idle_bytes += len;
    const ssize_t taken = nghttp2_session_mem_recv(h->ng, bytes, len);
    mr_h2_must(h, (int)taken);
    if (h->failure) {
        *out_what = "read HTTP/2 frames";
        return h->failure;
    }
    if (taken < 0 && !h->fault)
        h->fault = taken == NGHTTP2_ERR_FLOODED ? "the peer asks for answers and does not read them"
                                                : nghttp2_strerror((int)taken);
    if (h->idle_bytes > (size_t)h->limits.window_max + MR_H2_IDLE_BYTES_MAX)
        mr_h2_refuse(h, "the peer floods with frames of no use");
    *out_what = h->fault;
    return h->fault ? MOOR_EPROTO : MOOR_OK;
}

/* ---- out ---- */

/* The next body that may be sent goes into the next DATA frame. False: there is none. */
static bool choose(struct mr_h2_session *h)
{
    if (nghttp2_session_get_remote_window_size(h->ng) <= 0)
        return false;
    for (;;) {
        struct mr_h2_turn *t = mr_h2_schedule_pick(&h->schedule);
        if (!t)
            return false;
        struct mr_h2_stream *s = MR_CONTAINER_OF(t, struct mr_h2_stream, turn);
        h->chosen = s;
        if (nghttp2_session_get_stream_remote_window_size(h->ng, s->id) > 0 || !s->piece.len) {
            const int err = nghttp2_session_resume_data(h->ng, s->id);
            if (!err)
                return true;
            mr_h2_must(h, err);
        }
        /* Its own window is shut, or its HEADERS still wait: what changes that puts it back. */
        h->chosen = NULL;
        mr_h2_schedule_hold(&h->schedule, t);
    }
}

/* The next frame's bytes into h->unwritten. */
static bool next_frame(struct mr_h2_session *h)
{
    const uint8_t *frame;
    if (h->failure) /* a frame may be half made, and HPACK's state not the peer's */
        return false;
    if (is_goaway_next(h)) {
        h->is_goaway_due = false;
        /* Of no memory nothing is said: the end of the conn says it, too. */
        (void)nghttp2_submit_goaway(h->ng, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, NULL, 0);
    }
    ssize_t n = nghttp2_session_mem_send(h->ng, &frame);
    if (n == 0 && choose(h))
        n = nghttp2_session_mem_send(h->ng, &frame);
    mr_h2_must(h, (int)n);
    if (n < 0 && !h->failure && !h->fault)
        h->fault = nghttp2_strerror((int)n);
    if (n <= 0)
        return false;
    h->unwritten = (moor_span){frame, (size_t)n};
    return true;
}

size_t mr_h2_output(struct mr_h2_session *h, uint8_t *to, size_t cap, int64_t now_ns)
{
    size_t used = 0;
    h->now_ns = now_ns;
    while (used < cap && (h->unwritten.len || next_frame(h))) {
        const size_t n = h->unwritten.len < cap - used ? h->unwritten.len : cap - used;
        memcpy(to + used, h->unwritten.base, n);
        used += n;
        h->unwritten.base = (const uint8_t *)h->unwritten.base + n;
        h->unwritten.len -= n;
    }
    return used;
}

/* ---- streams ---- */

/* n bytes of DATA, and so many left of the piece, for which there was no window. */
static void note_tiny(struct mr_h2_session *h, size_t n, size_t left)
{
    if (n >= MR_H2_TINY_BYTES || !left) {
        mr_h2_guard_allow(&h->guard, MR_H2_ABUSE_TINY_WINDOW, n >= MR_H2_TINY_BYTES);
        return;
    }
    const char *what = mr_h2_guard_note(&h->guard, MR_H2_ABUSE_TINY_WINDOW, 1, h->now_ns);
    if (what)
        mr_h2_refuse(h, what);
}

static ssize_t read_piece(nghttp2_session *ng, int32_t id, uint8_t *to, size_t cap, uint32_t *flags,
                          nghttp2_data_source *source, void *user)
{
    (void)ng;
    (void)id;
    struct mr_h2_session *h = user;
    struct mr_h2_stream *s = source->ptr;
    if (h->chosen != s)
        return NGHTTP2_ERR_DEFERRED;
    h->chosen = NULL;
    const size_t n = s->piece.len < cap ? s->piece.len : cap;
    if (n) { /* the last piece may be empty, and nowhere */
        memcpy(to, s->piece.base, n);
        s->piece.base = (const uint8_t *)s->piece.base + n;
        s->piece.len -= n;
    }
    mr_h2_schedule_served(&h->schedule, &s->turn, n);
    note_tiny(h, n, s->piece.len);
    /* A peer opens both windows for it, and may measure the path by it. */
    mr_h2_guard_allow(&h->guard, MR_H2_ABUSE_WINDOW_UPDATE, 2);
    mr_h2_guard_allow(&h->guard, MR_H2_ABUSE_PING, 1);
    if (s->piece.len)
        return (ssize_t)n;
    mr_h2_schedule_remove(&h->schedule, &s->turn);
    if (s->is_last_piece) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        s->is_body_over = true;
    }
    h->events->fed(s);
    return (ssize_t)n;
}

/* As nghttp2 estimates what HPACK may come to: for each field, and once. */
enum { HEAD_BYTES_MORE = 12 };

moor_err mr_h2_submit(struct mr_h2_session *h, struct mr_h2_stream *s, const moor_header *fields,
                      size_t count, bool has_body, uint32_t urgency, bool is_incremental)
{
    nghttp2_nv nv[MR_H2_FIELDS_MAX];
    if (count > MR_H2_FIELDS_MAX)
        return MOOR_ETOOBIG;
    if (h->is_going_away || mr_h2_is_exhausted(h))
        return MOOR_ECLOSED;
    size_t room = MR_H2_HEAD_BYTES_MAX - HEAD_BYTES_MORE;
    for (size_t i = 0; i < count; i++) {
        const size_t used = fields[i].name.len + fields[i].value.len + HEAD_BYTES_MORE;
        if (fields[i].name.len > room || fields[i].value.len > room || used > room)
            return MOOR_ETOOBIG;
        room -= used;
        nv[i] = (nghttp2_nv){
            .name = (uint8_t *)(uintptr_t)fields[i].name.base,
            .namelen = fields[i].name.len,
            .value = (uint8_t *)(uintptr_t)fields[i].value.base,
            .valuelen = fields[i].value.len,
            .flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE,
        };
    }
    const nghttp2_data_provider body = {.source.ptr = s, .read_callback = read_piece};
    const int32_t id = nghttp2_submit_request(h->ng, NULL, nv, count, has_body ? &body : NULL, s);
    if (id < 0)
        return id == NGHTTP2_ERR_NOMEM ? MOOR_ENOMEM : MOOR_ECLOSED;
    mr_h2_guard_allow(&h->guard, MR_H2_ABUSE_RST_STREAM, 1); /* which it may refuse */
    s->session = h;
    s->id = id;
    h->unsent_count++;
    s->is_body_over = !has_body;
    s->message.is_for_head = mr_span_is_equal(fields[0].value, mr_span_cstr("HEAD"));
    mr_h2_turn_init(&s->turn, id, urgency, is_incremental);
    return MOOR_OK;
}

void mr_h2_stream_feed(struct mr_h2_stream *s, moor_span piece, bool is_last)
{
    MR_ASSERT(s->session && !s->piece.len);
    s->piece = piece;
    s->is_last_piece = is_last;
    mr_h2_schedule_add(&s->session->schedule, &s->turn);
}

bool mr_h2_is_shut(const struct mr_h2_stream *s)
{
    const struct mr_h2_session *h = s->session;
    return h && (nghttp2_session_get_remote_window_size(h->ng) <= 0 ||
                 nghttp2_session_get_stream_remote_window_size(h->ng, s->id) <= 0);
}

void mr_h2_prioritize(struct mr_h2_session *h, struct mr_h2_stream *s, uint32_t urgency,
                      bool is_incremental)
{
    char text[8];
    if (!s->session)
        return;
    mr_h2_schedule_change(&h->schedule, &s->turn, urgency, is_incremental);
    const int len =
        snprintf(text, sizeof text, "u=%u%s", s->turn.urgency, is_incremental ? ", i" : "");
    /* Of no memory nothing is said: it is a hint. */
    (void)nghttp2_submit_priority_update(h->ng, NGHTTP2_FLAG_NONE, s->id, (const uint8_t *)text,
                                         (size_t)len);
}

void mr_h2_stream_leave(struct mr_h2_stream *s, uint32_t code)
{
    struct mr_h2_session *h = s->session;
    if (!h)
        return;
    mr_h2_stream_forget(s);
    (void)nghttp2_session_set_stream_user_data(h->ng, s->id, NULL);
    mr_h2_must(h, nghttp2_submit_rst_stream(h->ng, NGHTTP2_FLAG_NONE, s->id, code));
}

void mr_h2_consumed(struct mr_h2_session *h, struct mr_h2_stream *s, size_t len)
{
    h->unreturned -= len < h->unreturned ? len : h->unreturned;
    if (h->withheld && h->unreturned <= h->limits.window_max / 2) {
        mr_h2_must(h, nghttp2_session_consume_connection(h->ng, h->withheld));
        h->withheld = 0;
    }
    if (s && s->session && !s->is_ended)
        mr_h2_must(h, nghttp2_session_consume_stream(h->ng, s->id, len));
}

/* ---- the connection ---- */

void mr_h2_ping(struct mr_h2_session *h)
{
    mr_h2_must(h, nghttp2_submit_ping(h->ng, NGHTTP2_FLAG_NONE, (const uint8_t *)PING_ALIVE));
    h->is_alive_asked = true;
}

void mr_h2_measure(struct mr_h2_session *h)
{
    (void)nghttp2_submit_ping(h->ng, NGHTTP2_FLAG_NONE, (const uint8_t *)PING_BDP);
}

static void grow(struct mr_h2_session *h, size_t window)
{
    const nghttp2_settings_entry entry = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)window};
    const size_t conn = window < h->limits.window_max / 2 ? window * 2 : h->limits.window_max;
    (void)nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, &entry, 1);
    if (conn > h->limits.window_conn)
        (void)nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0, (int32_t)conn);
}

void mr_h2_pong(struct mr_h2_session *h, const uint8_t opaque[8])
{
    if (!memcmp(opaque, PING_BDP, 8)) {
        const size_t window = mr_h2_bdp_pong(&h->bdp, h->now_ns);
        if (window)
            grow(h, window);
    } else if (!memcmp(opaque, PING_ALIVE, 8)) {
        h->is_alive_asked = false;
        h->events->pong(h);
    }
}

void mr_h2_go_away(struct mr_h2_session *h)
{
    if (h->is_going_away)
        return;
    h->is_going_away = true;
    h->is_goaway_due = true;
}
