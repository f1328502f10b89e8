/*
 * The h2 session against nghttp2's own server, both in memory: whole, one byte at a time, and with each
 * allocation failing in turn.
 */
#include "h2/session.h"

#include "base/assert.h"
#include "base/span.h"

#include <nghttp2/nghttp2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BODY_MAX 100000

/* ---- the server: answers with what it got ---- */

struct server {
    nghttp2_session *ng;
    uint8_t body[BODY_MAX];
    size_t received, answered;
    bool refuses, goes_away, sends_trailers;
    int asked, goodbyes, asked_late; /* requests; GOAWAYs of the client, and requests behind one */
};

static ssize_t read_answer(nghttp2_session *ng, int32_t id, uint8_t *to, size_t cap,
                           uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct server *v = user;
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

static void answer(struct server *v, int32_t id)
{
    const nghttp2_nv head[] = {{(uint8_t *)":status", (uint8_t *)"200", 7, 3, 0},
                               {(uint8_t *)"x-server", (uint8_t *)"test", 8, 4, 0}};
    const nghttp2_data_provider body = {.read_callback = read_answer};
    if (v->refuses)
        nghttp2_submit_rst_stream(v->ng, 0, id, NGHTTP2_REFUSED_STREAM);
    else
        nghttp2_submit_response(v->ng, id, head, 2,
                                v->received || v->sends_trailers ? &body : NULL);
}

static int server_frame(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
    struct server *v = user;
    v->goodbyes += f->hd.type == NGHTTP2_GOAWAY;
    v->asked += f->hd.type == NGHTTP2_HEADERS;
    v->asked_late += f->hd.type == NGHTTP2_HEADERS && v->goodbyes;
    if ((f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA) ||
        !(f->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    if (v->goes_away)
        nghttp2_submit_goaway(ng, 0, 0, NGHTTP2_NO_ERROR, NULL, 0);
    else
        answer(v, f->hd.stream_id);
    return 0;
}

static int server_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *bytes,
                       size_t len, void *user)
{
    struct server *v = user;
    (void)ng;
    (void)flags;
    (void)id;
    assert_true(v->received + len <= BODY_MAX);
    memcpy(v->body + v->received, bytes, len);
    v->received += len;
    return 0;
}

static void server_open(struct server *v)
{
    nghttp2_session_callbacks *c;
    memset(v, 0, sizeof *v);
    assert_int_equal(nghttp2_session_callbacks_new(&c), 0);
    nghttp2_session_callbacks_set_on_frame_recv_callback(c, server_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, server_data);
    assert_int_equal(nghttp2_session_server_new(&v->ng, c, v), 0);
    nghttp2_session_callbacks_del(c);
    nghttp2_submit_settings(v->ng, 0, NULL, 0);
}

/* ---- the client ---- */

struct request {
    struct mr_h2_stream stream;
    struct mr_h2_session *session;
    int status, heads, trailers, closed, fed;
    uint8_t body[BODY_MAX];
    size_t len;
    struct mr_h2_end end;
};

static struct mr_heap heap;
static void *blocks[256];
static unsigned block_count;
static uint32_t streams_max;
static int goings_away;

static struct request *request_of(struct mr_h2_stream *s)
{
    return MR_CONTAINER_OF(s, struct request, stream);
}

static void on_head(struct mr_h2_stream *s, const struct mr_h2_head *h)
{
    struct request *r = request_of(s);
    r->heads++;
    r->status = h->status;
    assert_int_equal(h->header_count, 1);
    assert_true(mr_span_is_equal(h->headers[0].name, mr_span_cstr("x-server")));
    assert_true(mr_span_is_equal(h->headers[0].value, mr_span_cstr("test")));
}

static void on_data(struct mr_h2_stream *s, moor_span bytes)
{
    struct request *r = request_of(s);
    assert_true(r->len + bytes.len <= BODY_MAX);
    memcpy(r->body + r->len, bytes.base, bytes.len);
    r->len += bytes.len;
    mr_h2_consumed(r->session, s, bytes.len);
}

static void on_trailers(struct mr_h2_stream *s, const moor_header *h, size_t count)
{
    assert_int_equal(count, 1);
    assert_true(mr_span_is_equal(h[0].name, mr_span_cstr("x-sum")));
    request_of(s)->trailers++;
}

static void on_fed(struct mr_h2_stream *s)
{
    request_of(s)->fed++;
}

static void on_closed(struct mr_h2_stream *s, const struct mr_h2_end *end)
{
    request_of(s)->closed++;
    request_of(s)->end = *end;
}

static void on_settings(struct mr_h2_session *h, uint32_t max)
{
    (void)h;
    streams_max = max;
}

static void on_going_away(struct mr_h2_session *h, uint32_t code)
{
    (void)h;
    (void)code;
    goings_away++;
}

static void on_pong(struct mr_h2_session *h)
{
    (void)h;
}

static void *alloc(struct mr_h2_stream *s, size_t size)
{
    (void)s;
    void *p = mr_heap_alloc(&heap, 4096);
    assert_true(size <= 4096);
    if (p)
        blocks[block_count++] = p;
    return p;
}

static const struct mr_h2_events events = {
    .head = on_head,
    .data = on_data,
    .trailers = on_trailers,
    .fed = on_fed,
    .closed = on_closed,
    .settings = on_settings,
    .going_away = on_going_away,
    .pong = on_pong,
    .alloc = alloc,
};

static const struct mr_h2_limits limits = {.header_bytes_max = 65536,
                                           .header_count_max = 128,
                                           .interim_count_max = MR_H2_INTERIM_COUNT_MAX,
                                           .window_stream = 65535,
                                           .window_conn = 131072,
                                           .window_max = 1 << 20};

static moor_err submit(struct mr_h2_session *h, struct request *r, bool has_body)
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
static moor_err pump(struct mr_h2_session *h, struct server *v, size_t step)
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

static void forget_blocks(void)
{
    while (block_count)
        mr_heap_free(&heap, blocks[--block_count], 4096);
}

static void close_all(struct mr_h2_session *h, struct server *v)
{
    mr_h2_session_fini(h);
    nghttp2_session_del(v->ng);
    forget_blocks();
    assert_int_equal(atomic_load(&heap.used), 0);
}

static void echo(size_t step, size_t size, bool has_trailers)
{
    static struct request r;
    static uint8_t piece[BODY_MAX];
    struct mr_h2_session h;
    static struct server v;
    memset(&r, 0, sizeof r);
    for (size_t i = 0; i < size; i++)
        piece[i] = (uint8_t)(i * 7 + i / 251);
    server_open(&v);
    v.sends_trailers = has_trailers;
    assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
    assert_int_equal(submit(&h, &r, size > 0), MOOR_OK);
    if (size) {
        mr_h2_stream_feed(&r.stream, (moor_span){piece, size / 2}, false);
        assert_int_equal(pump(&h, &v, step), MOOR_OK);
        assert_int_equal(r.fed, 1);
        assert_int_equal(r.closed, 0);
        mr_h2_stream_feed(&r.stream, (moor_span){piece + size / 2, size - size / 2}, true);
    }
    assert_int_equal(pump(&h, &v, step), MOOR_OK);
    assert_int_equal(r.heads, 1);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.closed, 1);
    assert_true(r.end.is_complete);
    assert_int_equal(r.trailers, has_trailers);
    assert_int_equal(r.len, size);
    assert_memory_equal(r.body, piece, size);
    assert_null(r.stream.session);
    assert_int_equal(h.unreturned, 0);
    close_all(&h, &v);
}

static void test_bodies_up_and_down(void **state)
{
    (void)state;
    echo(4096, 0, false);
    echo(4096, 2, false);
    echo(4096, 90000, false);
    echo(4096, 90000, true);
}

static void test_an_empty_last_piece(void **state)
{
    (void)state;
    static struct request r;
    struct mr_h2_session h;
    static struct server v;
    memset(&r, 0, sizeof r);
    server_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
    assert_int_equal(submit(&h, &r, true), MOOR_OK);
    mr_h2_stream_feed(&r.stream, (moor_span){NULL, 0}, true);
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(r.fed, 1);
    assert_true(r.end.is_complete);
    close_all(&h, &v);
}

/* The pieces of both are there before either stream is: the second's wait for its HEADERS. */
static void test_a_body_waits_for_its_head(void **state)
{
    (void)state;
    for (size_t size = 0; size <= 5; size += 5) {
        static struct request r[2];
        struct mr_h2_session h;
        static struct server v;
        memset(r, 0, sizeof r);
        server_open(&v);
        assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
        const nghttp2_settings_entry one = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1};
        assert_int_equal(nghttp2_submit_settings(v.ng, 0, &one, 1), 0);
        assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(submit(&h, &r[i], true), MOOR_OK);
            mr_h2_stream_feed(&r[i].stream, (moor_span){"cargo", size}, i == 1);
        }
        assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
        assert_false(r[1].stream.is_sent);
        mr_h2_stream_leave(&r[0].stream, NGHTTP2_CANCEL);
        assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
        assert_int_equal(r[1].fed, 1);
        assert_true(r[1].end.is_complete);
        close_all(&h, &v);
    }
}

/* Both windows were shut; the stream's is opened by SETTINGS, which name no stream. */
static void test_settings_open_a_window(void **state)
{
    (void)state;
    static struct request r;
    static uint8_t piece[BODY_MAX];
    struct mr_h2_session h;
    static struct server v;
    memset(&r, 0, sizeof r);
    server_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
    const nghttp2_settings_entry shut = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};
    const nghttp2_settings_entry open = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1000};
    assert_int_equal(nghttp2_submit_settings(v.ng, 0, &shut, 1), 0);
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(submit(&h, &r, true), MOOR_OK);
    mr_h2_stream_feed(&r.stream, (moor_span){piece, 1000}, true);
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.received, 0);
    assert_false(mr_h2_wants_output(&h));
    assert_int_equal(nghttp2_submit_settings(v.ng, 0, &open, 1), 0);
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.received, 1000);
    assert_true(r.end.is_complete);
    close_all(&h, &v);
}

static void test_one_byte_at_a_time(void **state)
{
    (void)state;
    echo(1, 0, false);
    echo(1, 0, true);
    echo(1, 3000, true);
    echo(7, 90000, false);
}

static void test_refused_and_left_behind_is_unprocessed(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        static struct request r;
        struct mr_h2_session h;
        static struct server v;
        memset(&r, 0, sizeof r);
        server_open(&v);
        v.refuses = i == 0;
        v.goes_away = i == 1;
        goings_away = 0;
        assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
        assert_int_equal(submit(&h, &r, false), MOOR_OK);
        assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
        assert_int_equal(r.closed, 1);
        assert_false(r.end.is_complete);
        assert_true(r.end.is_unprocessed);
        assert_true(r.stream.is_sent);
        assert_int_equal(goings_away, i);
        close_all(&h, &v);
    }
}

/* What was submitted before we go away is written before it, however long it has to wait for its turn. */
static void test_nothing_follows_our_goaway(void **state)
{
    (void)state;
    for (uint32_t at_once = 1; at_once <= 2; at_once++) {
        static struct request r[2];
        struct mr_h2_session h;
        static struct server v;
        memset(r, 0, sizeof r);
        server_open(&v);
        assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
        const nghttp2_settings_entry most = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, at_once};
        assert_int_equal(nghttp2_submit_settings(v.ng, 0, &most, 1), 0);
        assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
        for (int i = 0; i < 2; i++)
            assert_int_equal(submit(&h, &r[i], false), MOOR_OK);
        mr_h2_go_away(&h);
        assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
        assert_int_equal(v.asked, 2);
        assert_int_equal(v.asked_late, 0);
        assert_int_equal(v.goodbyes, 1);
        for (int i = 0; i < 2; i++)
            assert_true(r[i].end.is_complete);
        close_all(&h, &v);
    }
}

/* Nor does it wait for those who gave up before they were written. */
static void test_our_goaway_waits_for_nobody_who_left(void **state)
{
    (void)state;
    static struct request r;
    struct mr_h2_session h;
    static struct server v;
    memset(&r, 0, sizeof r);
    server_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
    const nghttp2_settings_entry none = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0};
    assert_int_equal(nghttp2_submit_settings(v.ng, 0, &none, 1), 0);
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(submit(&h, &r, false), MOOR_OK);
    mr_h2_go_away(&h);
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.goodbyes, 0);
    mr_h2_stream_leave(&r.stream, NGHTTP2_CANCEL);
    assert_true(mr_h2_wants_output(&h));
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.goodbyes, 1);
    assert_int_equal(v.asked, 0);
    close_all(&h, &v);
}

static void test_who_leaves_hears_nothing_more(void **state)
{
    (void)state;
    static struct request r[2];
    struct mr_h2_session h;
    static struct server v;
    memset(r, 0, sizeof r);
    server_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
    assert_int_equal(submit(&h, &r[0], true), MOOR_OK);
    mr_h2_stream_leave(&r[0].stream, NGHTTP2_CANCEL); /* before it was written */
    assert_int_equal(submit(&h, &r[1], true), MOOR_OK);
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    mr_h2_stream_feed(&r[1].stream, (moor_span){"x", 1}, false);
    mr_h2_stream_leave(&r[1].stream, NGHTTP2_CANCEL);
    mr_h2_stream_leave(&r[1].stream, NGHTTP2_CANCEL);
    assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(r[i].heads + r[i].closed + r[i].fed, 0);
    close_all(&h, &v);
}

/* Its fields are nobody's copy: once it was left, or the session ended, nothing reads them. */
static void test_fields_may_go_with_who_leaves(void **state)
{
    (void)state;
    static struct request r[2];
    struct mr_h2_session h;
    static struct server v;
    memset(r, 0, sizeof r);
    server_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &heap, &limits, &events, 0), MOOR_OK);
    for (int i = 0; i < 2; i++) {
        moor_header *fields = malloc(4 * sizeof *fields);
        char *text = strdup(":methodGET:schemehttp:authorityx:path/a/path/of/its/own");
        fields[0] = (moor_header){{text, 7}, {text + 7, 3}};
        fields[1] = (moor_header){{text + 10, 7}, {text + 17, 4}};
        fields[2] = (moor_header){{text + 21, 10}, {text + 31, 1}};
        fields[3] = (moor_header){{text + 32, 5}, {text + 37, 18}};
        assert_int_equal(
            mr_h2_submit(&h, &r[i].stream, fields, 4, false, MR_H2_URGENCY_DEFAULT, false),
            MOOR_OK);
        if (i == 0)
            mr_h2_stream_leave(&r[i].stream, NGHTTP2_CANCEL);
        free(fields);
        free(text);
        if (i == 0) /* of the other the session's end is all that follows */
            assert_int_equal(pump(&h, &v, 4096), MOOR_OK);
    }
    close_all(&h, &v);
}

static void test_each_allocation_fails_in_turn(void **state)
{
    (void)state;
    for (long nth = 0;; nth++) {
        static struct request r;
        struct mr_h2_session h;
        static struct server v;
        memset(&r, 0, sizeof r);
        server_open(&v);
        mr_heap_fault_at(nth);
        const moor_err e = mr_h2_session_init(&h, &heap, &limits, &events, 0);
        if (e) {
            assert_int_equal(e, MOOR_ENOMEM);
        } else {
            if (!submit(&h, &r, true))
                mr_h2_stream_feed(&r.stream, (moor_span){"cargo", 5}, true);
            (void)!pump(&h, &v, 4096);
            mr_h2_session_fini(&h);
        }
        const bool is_through = mr_heap_fault_count() <= nth;
        mr_heap_fault_at(-1);
        nghttp2_session_del(v.ng);
        forget_blocks();
        assert_int_equal(atomic_load(&heap.used), 0);
        if (is_through) {
            assert_true(r.end.is_complete);
            assert_true(nth > 10);
            return;
        }
    }
}

static int set_up(void **state)
{
    (void)state;
    return mr_heap_init(&heap, SIZE_MAX, false);
}

static int tear_down(void **state)
{
    (void)state;
    mr_heap_fini(&heap);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies_up_and_down),
        cmocka_unit_test(test_an_empty_last_piece),
        cmocka_unit_test(test_a_body_waits_for_its_head),
        cmocka_unit_test(test_settings_open_a_window),
        cmocka_unit_test(test_one_byte_at_a_time),
        cmocka_unit_test(test_refused_and_left_behind_is_unprocessed),
        cmocka_unit_test(test_nothing_follows_our_goaway),
        cmocka_unit_test(test_our_goaway_waits_for_nobody_who_left),
        cmocka_unit_test(test_who_leaves_hears_nothing_more),
        cmocka_unit_test(test_fields_may_go_with_who_leaves),
        cmocka_unit_test(test_each_allocation_fails_in_turn),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
