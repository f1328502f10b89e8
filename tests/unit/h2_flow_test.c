/*
 * What the h2 session may not send yet: behind its head, a shut window, a limit of streams, or its own GOAWAY.
 * And how much it lets the peer send.
 */
#include "tests/support/h2_pair.h"

/* The pieces of both are there before either stream is: the second's wait for its HEADERS. */
static void test_a_body_waits_for_its_head(void **state)
{
    (void)state;
    for (size_t size = 0; size <= 5; size += 5) {
        static struct pair_request r[2];
        struct mr_h2_session h;
        static struct pair_server v;
        memset(r, 0, sizeof r);
        pair_open(&v);
        assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0),
                         MOOR_OK);
        const nghttp2_settings_entry one = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1};
        assert_int_equal(nghttp2_submit_settings(v.ng, 0, &one, 1), 0);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(pair_submit(&h, &r[i], true), MOOR_OK);
            mr_h2_stream_feed(&r[i].stream, (moor_span){"cargo", size}, i == 1);
        }
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        assert_false(r[1].stream.is_sent);
        mr_h2_stream_leave(&r[0].stream, NGHTTP2_CANCEL);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        assert_int_equal(r[1].fed, 1);
        assert_true(r[1].end.is_complete);
        pair_close(&h, &v);
    }
}

/* Both windows were shut; the stream's is opened by SETTINGS, which name no stream. */
static void test_settings_open_a_window(void **state)
{
    (void)state;
    static struct pair_request r;
    static uint8_t piece[PAIR_BODY_MAX];
    struct mr_h2_session h;
    static struct pair_server v;
    memset(&r, 0, sizeof r);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    const nghttp2_settings_entry shut = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};
    const nghttp2_settings_entry open = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1000};
    assert_int_equal(nghttp2_submit_settings(v.ng, 0, &shut, 1), 0);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(pair_submit(&h, &r, true), MOOR_OK);
    mr_h2_stream_feed(&r.stream, (moor_span){piece, 1000}, true);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.received, 0);
    assert_false(mr_h2_wants_output(&h));
    assert_int_equal(nghttp2_submit_settings(v.ng, 0, &open, 1), 0);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.received, 1000);
    assert_true(r.end.is_complete);
    pair_close(&h, &v);
}

/* Each frame of a byte costs ten: a peer may ask for some of them, not for all of a body. */
static void test_tiny_windows_end_it(void **state)
{
    (void)state;
    static struct pair_request r;
    static struct pair_server v;
    static uint8_t piece[PAIR_BODY_MAX];
    struct mr_h2_session h;
    memset(&r, 0, sizeof r);
    pair_open(&v);
    const nghttp2_settings_entry one = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1};
    assert_int_equal(nghttp2_submit_settings(v.ng, 0, &one, 1), 0);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(pair_submit(&h, &r, true), MOOR_OK);
    mr_h2_stream_feed(&r.stream, (moor_span){piece, 900}, false);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.received, 900);
    assert_int_equal(r.fed, 1);
    mr_h2_stream_feed(&r.stream, (moor_span){piece, sizeof piece}, true);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_EPROTO);
    assert_in_range(v.received, 1000, 1010);
    assert_string_equal(h.fault, "the peer's windows are tiny");
    assert_int_equal(v.goodbyes, 1);
    pair_close(&h, &v);
}

/* However the windows are configured: half of what a conn may hold is left to the others. */
static void test_a_stopped_reader_leaves_room(void **state)
{
    (void)state;
    for (uint32_t max = 65535; max <= 80000; max += 80000 - 65535) {
        static struct pair_request r[2];
        struct mr_h2_session h;
        static struct pair_server v;
        memset(r, 0, sizeof r);
        pair_open(&v);
        v.answer_len = 90000;
        struct mr_h2_limits narrow = pair_limits;
        narrow.window_stream = narrow.window_conn = narrow.window_max = max;
        assert_int_equal(mr_h2_session_init(&h, &pair_heap, &narrow, &pair_events, 0), MOOR_OK);
        r[0].is_stopped = true;
        assert_int_equal(pair_submit(&h, &r[0], false), MOOR_OK);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        assert_int_equal(r[0].len, max / 2);
        assert_int_equal(pair_submit(&h, &r[1], false), MOOR_OK);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        assert_true(r[1].end.is_complete);
        r[0].is_stopped = false;
        mr_h2_consumed(&h, &r[0].stream, r[0].len);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        assert_true(r[0].end.is_complete);
        pair_close(&h, &v);
    }
}

/* Nor does it grow beyond that, however much the path carries. */
static void test_a_stream_grows_to_half_of_the_conn(void **state)
{
    (void)state;
    struct mr_h2_session h;
    static struct pair_server v;
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    for (int64_t now = 0; mr_h2_bdp_received(&h.bdp, h.bdp.window, now += MR_H2_BDP_GAP_MAX_NS);)
        (void)mr_h2_bdp_pong(&h.bdp, now + 1000);
    assert_int_equal(h.bdp.window, pair_limits.window_max / 2);
    pair_close(&h, &v);
}

/* What was submitted before we go away is written before it, however long it has to wait for its turn. */
static void test_nothing_follows_our_goaway(void **state)
{
    (void)state;
    for (uint32_t at_once = 1; at_once <= 2; at_once++) {
        static struct pair_request r[2];
        struct mr_h2_session h;
        static struct pair_server v;
        memset(r, 0, sizeof r);
        pair_open(&v);
        assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0),
                         MOOR_OK);
        const nghttp2_settings_entry most = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, at_once};
        assert_int_equal(nghttp2_submit_settings(v.ng, 0, &most, 1), 0);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pair_submit(&h, &r[i], false), MOOR_OK);
        mr_h2_go_away(&h);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        assert_int_equal(v.asked, 2);
        assert_int_equal(v.asked_late, 0);
        assert_int_equal(v.goodbyes, 1);
        for (int i = 0; i < 2; i++)
            assert_true(r[i].end.is_complete);
        pair_close(&h, &v);
    }
}

/* Nor does it wait for those who gave up before they were written. */
static void test_our_goaway_waits_for_nobody_who_left(void **state)
{
    (void)state;
    static struct pair_request r;
    struct mr_h2_session h;
    static struct pair_server v;
    memset(&r, 0, sizeof r);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    const nghttp2_settings_entry none = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0};
    assert_int_equal(nghttp2_submit_settings(v.ng, 0, &none, 1), 0);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(pair_submit(&h, &r, false), MOOR_OK);
    mr_h2_go_away(&h);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.goodbyes, 0);
    mr_h2_stream_leave(&r.stream, NGHTTP2_CANCEL);
    assert_true(mr_h2_wants_output(&h));
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    assert_int_equal(v.goodbyes, 1);
    assert_int_equal(v.asked, 0);
    pair_close(&h, &v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_body_waits_for_its_head),
        cmocka_unit_test(test_settings_open_a_window),
        cmocka_unit_test(test_tiny_windows_end_it),
        cmocka_unit_test(test_a_stopped_reader_leaves_room),
        cmocka_unit_test(test_a_stream_grows_to_half_of_the_conn),
        cmocka_unit_test(test_nothing_follows_our_goaway),
        cmocka_unit_test(test_our_goaway_waits_for_nobody_who_left),
    };
    return cmocka_run_group_tests(tests, pair_set_up, pair_tear_down);
}
