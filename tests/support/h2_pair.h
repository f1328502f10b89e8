/*
 * The h2 session and nghttp2's own server, both in memory. The server answers with what it got; the client is
 * told nothing that it does not note. Bytes go both ways in pieces of any size.
 */
#ifndef TESTS_SUPPORT_H2_PAIR_H
#define TESTS_SUPPORT_H2_PAIR_H

#include "h2/session.h"

#include "base/assert.h"
#include "base/span.h"

#include <nghttp2/nghttp2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAIR_BODY_MAX 100000

/* ---- the server: answers with what it got ---- */

struct pair_server {
    nghttp2_session *ng;
    uint8_t body[PAIR_BODY_MAX];
    size_t received, answered;
    size_t answer_len, given[4]; /* not 0: of each answer, whatever came; by stream */
    bool refuses, goes_away, sends_trailers;
    int asked, goodbyes, asked_late; /* requests; GOAWAYs of the client, and requests behind one */
};

static inline ssize_t pair_read_answer(nghttp2_session *ng, int32_t id, uint8_t *to, size_t cap,
                                       uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct pair_server *v = user;
    (void)source;
    size_t n = v->received - v->answered;
    if (n > cap)
        n = cap;
    if (n)
        memcpy(to, v->body + v->answered, n);
    v->answered += n;
    if (v->answered == v->received) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (v->sends_trailers) {
            const nghttp2_nv trailer = {(uint8_t *)"x-sum", (uint8_t *)"7", 5, 1, 0};
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            assert_int_equal(nghttp2_submit_trailer(ng, id, &trailer, 1), 0);
        }
    }
    return (ssize_t)n;
}

static inline ssize_t pair_give(nghttp2_session *ng, int32_t id, uint8_t *to, size_t cap,
                                uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct pair_server *v = user;
    size_t *given = &v->given[id / 2];
    (void)ng;
    (void)source;
    const size_t n = v->answer_len - *given < cap ? v->answer_len - *given : cap;
    memset(to, 'x', n);
    *given += n;
    if (*given == v->answer_len)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static inline void pair_answer(struct pair_server *v, int32_t id)
{
    const nghttp2_nv head[] = {{(uint8_t *)":status", (uint8_t *)"200", 7, 3, 0},
                               {(uint8_t *)"x-server", (uint8_t *)"test", 8, 4, 0}};
    const nghttp2_data_provider body = {.read_callback =
                                            v->answer_len ? pair_give : pair_read_answer};
    if (v->refuses)
        nghttp2_submit_rst_stream(v->ng, 0, id, NGHTTP2_REFUSED_STREAM);
    else
        nghttp2_submit_response(v->ng, id, head, 2,
                                v->received || v->answer_len || v->sends_trailers ? &body : NULL);
}

static inline int pair_server_frame(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
    struct pair_server *v = user;
    v->goodbyes += f->hd.type == NGHTTP2_GOAWAY;
    v->asked += f->hd.type == NGHTTP2_HEADERS;
    v->asked_late += f->hd.type == NGHTTP2_HEADERS && v->goodbyes;
    if ((f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA) ||
        !(f->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    if (v->goes_away)
        nghttp2_submit_goaway(ng, 0, 0, NGHTTP2_NO_ERROR, NULL, 0);
    else
        pair_answer(v, f->hd.stream_id);
    return 0;
}

static inline int pair_server_data(nghttp2_session *ng, uint8_t flags, int32_t id,
                                   const uint8_t *bytes, size_t len, void *user)
{
    struct pair_server *v = user;
    (void)ng;
    (void)flags;
    (void)id;
    assert_true(v->received + len <= PAIR_BODY_MAX);
    memcpy(v->body + v->received, bytes, len);
    v->received += len;
    return 0;
}

static inline void pair_open(struct pair_server *v)
{
    nghttp2_session_callbacks *c;
    memset(v, 0, sizeof *v);
    assert_int_equal(nghttp2_session_callbacks_new(&c), 0);
    nghttp2_session_callbacks_set_on_frame_recv_callback(c, pair_server_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, pair_server_data);
    assert_int_equal(nghttp2_session_server_new(&v->ng, c, v), 0);
    nghttp2_session_callbacks_del(c);
    nghttp2_submit_settings(v->ng, 0, NULL, 0);
}

/* ---- the client ---- */

struct pair_request {
    struct mr_h2_stream stream;
    struct mr_h2_session *session;
    int status, heads, trailers, closed, fed;
    uint8_t body[PAIR_BODY_MAX];
    size_t len;
    bool is_stopped; /* it keeps what comes */
    struct mr_h2_end end;
};

static struct mr_heap pair_heap;
static void *pair_blocks[256];
static unsigned pair_block_count;
static uint32_t pair_streams_max;
static int pair_goings_away;

static inline struct pair_request *pair_request_of(struct mr_h2_stream *s)
{
    return MR_CONTAINER_OF(s, struct pair_request, stream);
}

static inline void pair_on_head(struct mr_h2_stream *s, const struct mr_h2_head *h)
{
    struct pair_request *r = pair_request_of(s);
    r->heads++;
    r->status = h->status;
    assert_int_equal(h->header_count, 1);
    assert_true(mr_span_is_equal(h->headers[0].name, mr_span_cstr("x-server")));
    assert_true(mr_span_is_equal(h->headers[0].value, mr_span_cstr("test")));
}

static inline void pair_on_data(struct mr_h2_stream *s, moor_span bytes)
{
    struct pair_request *r = pair_request_of(s);
    assert_true(r->len + bytes.len <= PAIR_BODY_MAX);
    memcpy(r->body + r->len, bytes.base, bytes.len);
    r->len += bytes.len;
    if (!r->is_stopped)
        mr_h2_consumed(r->session, s, bytes.len);
}

static inline void pair_on_trailers(struct mr_h2_stream *s, const moor_header *h, size_t count)
{
    assert_int_equal(count, 1);
    assert_true(mr_span_is_equal(h[0].name, mr_span_cstr("x-sum")));
    pair_request_of(s)->trailers++;
}

static inline void pair_on_fed(struct mr_h2_stream *s)
{
    pair_request_of(s)->fed++;
}

static inline void pair_on_closed(struct mr_h2_stream *s, const struct mr_h2_end *end)
{
    pair_request_of(s)->closed++;
    pair_request_of(s)->end = *end;
}

static inline void pair_on_settings(struct mr_h2_session *h, uint32_t max)
{
    (void)h;
    pair_streams_max = max;
}

static inline void pair_on_going_away(struct mr_h2_session *h, uint32_t code)
{
    (void)h;
    (void)code;
    pair_goings_away++;
}

static inline void pair_on_pong(struct mr_h2_session *h)
{
    (void)h;
}

static inline void *pair_alloc(struct mr_h2_stream *s, size_t size)
{
    (void)s;
    void *p = mr_heap_alloc(&pair_heap, 4096);
    assert_true(size <= 4096);
    if (p)
        pair_blocks[pair_block_count++] = p;
    return p;
}

static const struct mr_h2_events pair_events = {
    .head = pair_on_head,
    .data = pair_on_data,
    .trailers = pair_on_trailers,
    .fed = pair_on_fed,
    .closed = pair_on_closed,
    .settings = pair_on_settings,
    .going_away = pair_on_going_away,
    .pong = pair_on_pong,
    .alloc = pair_alloc,
};

static const struct mr_h2_limits pair_limits = {.header_bytes_max = 65536,
                                                .header_count_max = 128,
                                                .interim_count_max = MR_H2_INTERIM_COUNT_MAX,
                                                .window_stream = 65535,
                                                .window_conn = 131072,
                                                .window_max = 1 << 20};

static inline moor_err pair_submit(struct mr_h2_session *h, struct pair_request *r, bool has_body)
{
    const moor_header fields[] = {
        {mr_span_cstr(":method"), mr_span_cstr(has_body ? "POST" : "GET")},
        {mr_span_cstr(":scheme"), mr_span_cstr("http")},
        {mr_span_cstr(":authority"), mr_span_cstr("a.example")},
        {mr_span_cstr(":path"), mr_span_cstr("/x")},
    };
    r->session = h;
    return mr_h2_submit(h, &r->stream, fields, 4, has_body, 3, false);
}

/* Carries bytes both ways, `step` at a time, until nothing moves. */
static inline moor_err pair_pump(struct mr_h2_session *h, struct pair_server *v, size_t step)
{
    uint8_t out[4096];
    const char *what = NULL;
    for (bool has_moved = true; has_moved;) {
        has_moved = false;
        for (size_t n; (n = mr_h2_output(h, out, step < sizeof out ? step : sizeof out, 0));) {
            has_moved = true;
            assert_int_equal(nghttp2_session_mem_recv(v->ng, out, n), n);
        }
        const uint8_t *in;
        for (ssize_t n; (n = nghttp2_session_mem_send(v->ng, &in)) > 0; has_moved = true) {
            uint8_t *copy = malloc((size_t)n); /* so that nothing beyond is read */
            memcpy(copy, in, (size_t)n);
            moor_err e = MOOR_OK;
            for (size_t at = 0; at < (size_t)n && !e; at += step)
                e = mr_h2_input(h, copy + at, step < (size_t)n - at ? step : (size_t)n - at, 0,
                                &what);
            free(copy);
            if (e)
                return e;
        }
    }
    return MOOR_OK;
}

static inline void pair_forget_blocks(void)
{
    while (pair_block_count)
        mr_heap_free(&pair_heap, pair_blocks[--pair_block_count], 4096);
}

static inline void pair_close(struct mr_h2_session *h, struct pair_server *v)
{
    mr_h2_session_fini(h);
    nghttp2_session_del(v->ng);
    pair_forget_blocks();
    assert_int_equal(atomic_load(&pair_heap.used), 0);
}

static inline int pair_set_up(void **state)
{
    (void)state;
    return mr_heap_init(&pair_heap, SIZE_MAX, false);
}

static inline int pair_tear_down(void **state)
{
    (void)state;
    mr_heap_fini(&pair_heap);
    return 0;
}

#endif
