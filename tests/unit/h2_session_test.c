/*
 * The h2 session against nghttp2's own server: whole, one byte at a time, and with each allocation failing in
 * turn.
 */
#include "tests/support/h2_pair.h"

static void echo(size_t step, size_t size, bool has_trailers)
{
    static struct pair_request r;
    static uint8_t piece[PAIR_BODY_MAX];
    struct mr_h2_session h;
    static struct pair_server v;
    memset(&r, 0, sizeof r);
    for (size_t i = 0; i < size; i++)
        piece[i] = (uint8_t)(i * 7 + i / 251);
    pair_open(&v);
    v.sends_trailers = has_trailers;
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    assert_int_equal(pair_submit(&h, &r, size > 0), MOOR_OK);
    if (size) {
        mr_h2_stream_feed(&r.stream, (moor_span){piece, size / 2}, false);
        assert_int_equal(pair_pump(&h, &v, step), MOOR_OK);
        assert_int_equal(r.fed, 1);
        assert_int_equal(r.closed, 0);
        mr_h2_stream_feed(&r.stream, (moor_span){piece + size / 2, size - size / 2}, true);
    }
    assert_int_equal(pair_pump(&h, &v, step), MOOR_OK);
    assert_int_equal(r.heads, 1);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.closed, 1);
    assert_true(r.end.is_complete);
    assert_int_equal(r.trailers, has_trailers);
    assert_int_equal(r.len, size);
    assert_memory_equal(r.body, piece, size);
    assert_null(r.stream.session);
    assert_int_equal(h.unreturned, 0);
    pair_close(&h, &v);
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
    static struct pair_request r;
    struct mr_h2_session h;
    static struct pair_server v;
    memset(&r, 0, sizeof r);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    assert_int_equal(pair_submit(&h, &r, true), MOOR_OK);
    mr_h2_stream_feed(&r.stream, (moor_span){NULL, 0}, true);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(r.fed, 1);
    assert_true(r.end.is_complete);
    pair_close(&h, &v);
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
        static struct pair_request r;
        struct mr_h2_session h;
        static struct pair_server v;
        memset(&r, 0, sizeof r);
        pair_open(&v);
        v.refuses = i == 0;
        v.goes_away = i == 1;
        pair_goings_away = 0;
        assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0),
                         MOOR_OK);
        assert_int_equal(pair_submit(&h, &r, false), MOOR_OK);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        assert_int_equal(r.closed, 1);
        assert_false(r.end.is_complete);
        assert_true(r.end.is_unprocessed);
        assert_true(r.stream.is_sent);
        assert_int_equal(pair_goings_away, i);
        pair_close(&h, &v);
    }
}

static void test_who_leaves_hears_nothing_more(void **state)
{
    (void)state;
    static struct pair_request r[2];
    struct mr_h2_session h;
    static struct pair_server v;
    memset(r, 0, sizeof r);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    assert_int_equal(pair_submit(&h, &r[0], true), MOOR_OK);
    mr_h2_stream_leave(&r[0].stream, NGHTTP2_CANCEL); /* before it was written */
    assert_int_equal(pair_submit(&h, &r[1], true), MOOR_OK);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    mr_h2_stream_feed(&r[1].stream, (moor_span){"x", 1}, false);
    mr_h2_stream_leave(&r[1].stream, NGHTTP2_CANCEL);
    mr_h2_stream_leave(&r[1].stream, NGHTTP2_CANCEL);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(r[i].heads + r[i].closed + r[i].fed, 0);
    pair_close(&h, &v);
}

/* Its fields are nobody's copy: once it was left, or the session ended, nothing reads them. */
static void test_fields_may_go_with_who_leaves(void **state)
{
    (void)state;
    static struct pair_request r[2];
    struct mr_h2_session h;
    static struct pair_server v;
    memset(r, 0, sizeof r);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
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
            assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    }
    pair_close(&h, &v);
}

static void test_each_allocation_fails_in_turn(void **state)
{
    (void)state;
    for (long nth = 0;; nth++) {
        static struct pair_request r;
        struct mr_h2_session h;
        static struct pair_server v;
        memset(&r, 0, sizeof r);
        pair_open(&v);
        mr_heap_fault_at(nth);
        const moor_err e = mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0);
        if (e) {
            assert_int_equal(e, MOOR_ENOMEM);
        } else {
            if (!pair_submit(&h, &r, true))
                mr_h2_stream_feed(&r.stream, (moor_span){"cargo", 5}, true);
            const moor_err ended = pair_pump(&h, &v, 4096);
            assert_true(!ended || ended == MOOR_ENOMEM);
            /* Nothing is left that waits for what was never said. */
            assert_true(r.closed || ended || h.failure == MOOR_ENOMEM || !r.stream.id);
            assert_true(!h.failure || !mr_h2_wants_output(&h));
            mr_h2_session_fini(&h);
        }
        const bool is_through = mr_heap_fault_count() <= nth;
        mr_heap_fault_at(-1);
        nghttp2_session_del(v.ng);
        pair_forget_blocks();
        assert_int_equal(atomic_load(&pair_heap.used), 0);
        if (is_through) {
            assert_true(r.end.is_complete);
            assert_true(nth > 10);
            return;
        }
    }
}

/* Outside of input and output: a PING, the end of a stream, a window. Somebody would wait for it for ever. */
static void test_what_cannot_be_said_ends_it(void **state)
{
    (void)state;
    for (int what = 0; what < 3; what++) {
        static struct pair_request r;
        struct mr_h2_session h;
        static struct pair_server v;
        memset(&r, 0, sizeof r);
        pair_open(&v);
        v.answer_len = 90000; /* beyond the window, which does not grow */
        struct mr_h2_limits narrow = pair_limits;
        narrow.window_max = narrow.window_conn;
        assert_int_equal(mr_h2_session_init(&h, &pair_heap, &narrow, &pair_events, 0), MOOR_OK);
        r.is_stopped = true;
        assert_int_equal(pair_submit(&h, &r, true), MOOR_OK);
        if (what == 2)
            mr_h2_stream_feed(&r.stream, (moor_span){NULL, 0}, true);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        mr_h2_memory_trim(&h.memory);
        mr_heap_fault_at(0);
        if (what == 0)
            mr_h2_ping(&h);
        else if (what == 1)
            mr_h2_stream_leave(&r.stream, NGHTTP2_CANCEL);
        else
            mr_h2_consumed(&h, &r.stream, r.len);
        mr_heap_fault_at(-1);
        assert_int_equal(h.failure, MOOR_ENOMEM);
        assert_false(mr_h2_wants_output(&h));
        uint8_t out[64];
        assert_int_equal(mr_h2_output(&h, out, sizeof out, 0), 0);
        pair_close(&h, &v);
    }
}

/* Else nghttp2 would refuse it when it is written, and say no more than that. */
static void test_a_large_head_is_its_own_trouble(void **state)
{
    (void)state;
    static struct pair_request r[3];
    static struct pair_server v;
    static char text[MR_H2_HEAD_BYTES_MAX];
    struct mr_h2_session h;
    memset(r, 0, sizeof r);
    memset(text, 'x', sizeof text);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    assert_int_equal(pair_submit(&h, &r[0], false), MOOR_OK);
    moor_header fields[] = {{mr_span_cstr(":method"), mr_span_cstr("GET")},
                            {mr_span_cstr(":scheme"), mr_span_cstr("http")},
                            {mr_span_cstr(":authority"), mr_span_cstr("a.example")},
                            {mr_span_cstr(":path"), mr_span_cstr("/x")},
                            {mr_span_cstr("x-large"), {text, 0}}};
    const size_t count = sizeof fields / sizeof *fields;
    size_t used = 12;
    for (size_t i = 0; i < count; i++)
        used += fields[i].name.len + fields[i].value.len + 12;
    fields[4].value.len = MR_H2_HEAD_BYTES_MAX - used + 1;
    r[1].session = r[2].session = &h;
    assert_int_equal(mr_h2_submit(&h, &r[1].stream, fields, count, false, 3, false), MOOR_ETOOBIG);
    fields[4].value.len--;
    assert_int_equal(mr_h2_submit(&h, &r[2].stream, fields, count, false, 3, false), MOOR_OK);
    assert_int_equal(pair_pump(&h, &v, 65536), MOOR_OK);
    assert_true(r[0].end.is_complete);
    assert_true(r[2].end.is_complete);
    assert_int_equal(h.failure, MOOR_OK);
    pair_close(&h, &v);
}

/* A frame of that kind with 1,000 bytes. */
static moor_err receive(struct mr_h2_session *h, uint8_t type, uint8_t stream,
                        const char **out_what)
{
    uint8_t frame[9 + 1000] = {0, 1000 >> 8, 1000 & 255, type, [8] = stream};
    return mr_h2_input(h, frame, sizeof frame, 0, out_what);
}

/* A caller that keeps what it got shuts the window: what comes all the same ends the stream. */
static void test_data_beyond_the_window(void **state)
{
    (void)state;
    static const uint8_t head[] = {0,   0,    16,  NGHTTP2_HEADERS,
                                   4,   0,    0,   0,
                                   1,   0x88, 0,   8,
                                   'x', '-',  's', 'e',
                                   'r', 'v',  'e', 'r',
                                   4,   't',  'e', 's',
                                   't'};
    static struct pair_request r;
    static struct pair_server v;
    struct mr_h2_session h;
    const char *what = NULL;
    uint8_t out[256];
    memset(&r, 0, sizeof r);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    r.is_stopped = true;
    assert_int_equal(pair_submit(&h, &r, true), MOOR_OK);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(mr_h2_input(&h, head, sizeof head, 0, &what), MOOR_OK);
    for (size_t n = 0; n + 1000 <= pair_limits.window_stream; n += 1000)
        assert_int_equal(receive(&h, NGHTTP2_DATA, 1, &what), MOOR_OK);
    assert_int_equal(r.len, 65000);
    assert_int_equal(receive(&h, NGHTTP2_DATA, 1, &what), MOOR_OK);
    while (mr_h2_output(&h, out, sizeof out, 0))
        ;
    assert_int_equal(receive(&h, NGHTTP2_DATA, 1, &what), MOOR_OK);
    assert_int_equal(r.len, 66000); /* nghttp2 hands over the frame that passes it, and no more */
    assert_int_equal(r.closed, 1);
    assert_int_equal(r.end.code, NGHTTP2_FLOW_CONTROL_ERROR);
    assert_false(r.end.is_complete);
    pair_close(&h, &v);
}

/* DATA of a stream we left may come by the window; what is of no kind we know may not come for ever. */
static void test_frames_for_nobody(void **state)
{
    (void)state;
    static struct pair_request r;
    static struct pair_server v;
    struct mr_h2_session h;
    const char *what = NULL;
    memset(&r, 0, sizeof r);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    assert_int_equal(pair_submit(&h, &r, true), MOOR_OK);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    mr_h2_stream_leave(&r.stream, NGHTTP2_CANCEL);
    for (size_t n = 0; n < pair_limits.window_max; n += 1009) {
        uint8_t out[256];
        assert_int_equal(receive(&h, NGHTTP2_DATA, 1, &what), MOOR_OK);
        (void)mr_h2_output(&h, out, sizeof out, 0);
    }
    size_t n = 0;
    while (receive(&h, 0xf0, 0, &what) == MOOR_OK)
        assert_true((n += 1009) <= MR_H2_IDLE_BYTES_MAX);
    assert_non_null(strstr(what, "frames of no use"));
    assert_true(n >= MR_H2_IDLE_BYTES_MAX - 2 * 1009);
    uint8_t out[256];
    assert_true(mr_h2_output(&h, out, sizeof out, 0) > 9); /* GOAWAY */
    pair_close(&h, &v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies_up_and_down),
        cmocka_unit_test(test_an_empty_last_piece),
        cmocka_unit_test(test_one_byte_at_a_time),
        cmocka_unit_test(test_refused_and_left_behind_is_unprocessed),
        cmocka_unit_test(test_who_leaves_hears_nothing_more),
        cmocka_unit_test(test_fields_may_go_with_who_leaves),
        cmocka_unit_test(test_each_allocation_fails_in_turn),
        cmocka_unit_test(test_what_cannot_be_said_ends_it),
        cmocka_unit_test(test_a_large_head_is_its_own_trouble),
        cmocka_unit_test(test_data_beyond_the_window),
        cmocka_unit_test(test_frames_for_nobody),
    };
    return cmocka_run_group_tests(tests, pair_set_up, pair_tear_down);
}
