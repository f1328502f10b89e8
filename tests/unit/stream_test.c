/*
 * Byte streams on leases, asynchronously, on both backends, against a server in the test.
 */
#include "tests/support/lease_fixture.h"

static const char *backend;

#define SET_UP(f)                                                                                  \
    struct lease_fixture f;                                                                        \
    if (!lease_fixture_init(&f, backend, 0, true))                                                 \
    skip()

static void what_is_sent_comes_back(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    assert_int_equal(lease_send(&s, "one "), MOOR_OK);
    assert_int_equal(lease_send(&s, "two "), MOOR_OK);
    assert_int_equal(lease_send(&s, "three"), MOOR_OK);
    assert_int_equal(s.sent, 0);
    TURN_UNTIL(&f, s.len == 13);
    assert_memory_equal(s.bytes, "one two three", 13);
    assert_int_equal(s.sent, 3);
    assert_int_equal(s.ends, 0);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    s = (struct lease_stream){.lease = lease_acquire(&f)};
    TURN_UNTIL(&f, atomic_load(&f.server->served) == 1);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void bytes_wait_on_the_conn_until_they_are_read(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_GREET);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_turn_for(&f, 20);
    lease_read(&s);
    assert_int_equal(s.len, 0);
    TURN_UNTIL(&f, s.len == 5);
    assert_memory_equal(s.bytes, "hello", 5);
    assert_int_equal(lease_send(&s, "again"), MOOR_OK);
    TURN_UNTIL(&f, s.len == 10);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    lease_fixture_fini(&f);
}

static void an_end_before_the_read_is_told_to_it(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_GOODBYE);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_turn_for(&f, 20);
    lease_read(&s);
    assert_int_equal(s.ends, 0);
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(s.len, 5);
    assert_int_equal(s.end.err, MOOR_OK);
    moor_release(s.lease, MOOR_DISCARD);

    atomic_store(&f.server->mode, STREAM_FLOOD); /* of no bytes: a FIN alone */
    TURN_UNTIL(&f, lease_stats(&f).conns_open == 0);
    s = (struct lease_stream){.lease = lease_acquire(&f)};
    lease_turn_for(&f, 20);
    lease_read(&s);
    assert_int_equal(s.ends, 0);
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(s.len, 0);
    assert_int_equal(s.end.err, MOOR_OK);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void a_reset_before_the_read_is_told_to_it(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_RESET);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    assert_int_equal(lease_send(&s, "x"), MOOR_OK);
    TURN_UNTIL(&f, lease_stats(&f).conns_open == 0);
    lease_read(&s);
    assert_int_equal(s.ends, 0);
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(s.end.err, MOOR_ERESET);
    assert_int_equal(lease_send(&s, "x"), MOOR_ERESET);
    assert_int_equal(moor_stream_finish(s.lease), MOOR_ERESET);
    lease_turn_for(&f, 5);
    assert_int_equal(s.ends, 1);
    assert_int_equal(s.sent, 1);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void reading_is_asked_for_once_and_fully(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    assert_int_equal(moor_stream_read(s.lease, NULL, &s), MOOR_EINVAL);
    const moor_stream_handlers none = {.size = sizeof none, .on_end = lease_on_end};
    assert_int_equal(moor_stream_read(s.lease, &none, &s), MOOR_EINVAL);
    lease_read(&s);
    assert_int_equal(moor_stream_read(s.lease, &lease_handlers, &s), MOOR_EINVAL);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(s.lease, 0, &c), MOOR_EINVAL);
    assert_int_equal(moor_stream_send(s.lease, (moor_piece){.bytes = {NULL, 1}}), MOOR_EINVAL);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

/* ---- the window ---- */

static void lent_bytes_stop_the_receive(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_FLOOD);
    atomic_store(&f.server->flood, (size_t)1 << 20);
    moor_pool_options o;
    lease_pool_options(&o);
    o.window_bytes = 16384;
    lease_fixture_open(&f, &o);
    struct lease_stream s = {.lease = lease_acquire(&f), .keeps = true};
    lease_read(&s);
    while (s.len < (size_t)1 << 20) {
        const size_t before = s.len;
        TURN_UNTIL(&f, s.len > before);
        lease_turn_for(&f, 2);
        size_t lent = 0;
        for (unsigned i = 0; i < s.chunk_count; i++)
            lent += s.chunks[i].bytes.len;
        assert_true(lent < 16384 + 4096); /* and one buffer more at most */
        lease_return_all(&s);
    }
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(s.end.err, MOOR_OK);
    assert_int_equal(s.len, (size_t)1 << 20);
    assert_false(s.is_counted_wrong);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).chunks_lent, 0);
    lease_fixture_fini(&f);
}

struct return_later {
    moor_chunk chunk;
};

static void *return_it(void *arg)
{
    moor_chunk_return(((struct return_later *)arg)->chunk);
    return NULL;
}

static void chunks_outlive_the_lease(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f), .keeps = true};
    lease_read(&s);
    assert_int_equal(lease_send(&s, "mine"), MOOR_OK);
    TURN_UNTIL(&f, s.len == 4);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    struct lease_stream next = {.lease = lease_acquire(&f)};
    lease_read(&next);
    assert_int_equal(lease_send(&next, "other bytes"), MOOR_OK);
    TURN_UNTIL(&f, next.len == 11);
    assert_memory_equal(s.chunks[0].bytes.base, "mine", 4);
    struct return_later later = {s.chunks[0]};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, return_it, &later), 0);
    pthread_join(t, NULL);
    moor_chunk_return(s.chunks[0]); /* twice is nothing */
    TURN_UNTIL(&f, lease_stats(&f).chunks_lent == 0);
    moor_release(next.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

/* ---- sending ---- */

static void the_queue_is_bounded(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_SILENT);
    moor_pool_options o;
    lease_pool_options(&o);
    o.stream_queue_max = 3;
    lease_fixture_open(&f, &o);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    for (int i = 0; i < 3; i++)
        assert_int_equal(lease_send(&s, "piece"), MOOR_OK);
    assert_int_equal(lease_send(&s, "too many"), MOOR_EBUSY);
    TURN_UNTIL(&f, s.sent == 3);
    assert_int_equal(lease_send(&s, "room again"), MOOR_OK);
    TURN_UNTIL(&f, s.sent == 4);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void pieces_without_bytes_are_let_go_too(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    assert_int_equal(lease_send(&s, ""), MOOR_OK);
    assert_int_equal(lease_send(&s, "x"), MOOR_OK);
    assert_int_equal(lease_send(&s, ""), MOOR_OK);
    assert_int_equal(moor_stream_send(s.lease, (moor_piece){0}), MOOR_OK);
    assert_int_equal(s.sent, 0);
    TURN_UNTIL(&f, s.sent == 3 && s.len == 1);
    assert_int_equal(lease_send(&s, ""), MOOR_OK);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    TURN_UNTIL(&f, s.sent == 4);
    lease_fixture_fini(&f);
}

static char large[8 << 20];

static void pieces_are_let_go_once_when_the_conn_dies(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_RESET);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    for (int i = 0; i < 4; i++)
        assert_int_equal(moor_stream_send(s.lease, (moor_piece){.bytes = {large, sizeof large},
                                                                .sent = lease_on_sent,
                                                                .ctx = &s}),
                         MOOR_OK);
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(s.end.err, MOOR_ERESET);
    TURN_UNTIL(&f, s.sent == 4);
    lease_turn_for(&f, 5);
    assert_int_equal(s.sent, 4);
    assert_int_equal(s.ends, 1);
    assert_int_equal(lease_send(&s, "x"), MOOR_ERESET);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void a_release_lets_go_of_pieces_in_the_kernel(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_SILENT);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    for (int i = 0; i < 2; i++)
        assert_int_equal(moor_stream_send(s.lease, (moor_piece){.bytes = {large, sizeof large},
                                                                .sent = lease_on_sent,
                                                                .ctx = &s}),
                         MOOR_OK);
    lease_turn_for(&f, 10);
    assert_int_equal(s.sent, 0);
    moor_release(s.lease, MOOR_REUSE);
    TURN_UNTIL(&f, s.sent == 2);
    lease_fixture_fini(&f);
}

static void a_large_piece_arrives_whole(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    for (size_t i = 0; i < sizeof large; i++)
        large[i] = (char)i;
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    assert_int_equal(moor_stream_send(s.lease, (moor_piece){.bytes = {large, sizeof large},
                                                            .sent = lease_on_sent,
                                                            .ctx = &s}),
                     MOOR_OK);
    TURN_UNTIL(&f, s.len == sizeof large);
    assert_false(s.is_counted_wrong);
    assert_int_equal(s.sent, 1);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void a_finished_stream_reads_on(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    assert_int_equal(lease_send(&s, "good"), MOOR_OK);
    assert_int_equal(moor_stream_finish(s.lease), MOOR_OK);
    assert_int_equal(moor_stream_finish(s.lease), MOOR_OK);
    assert_int_equal(lease_send(&s, "more"), MOOR_EINVAL);
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(s.end.err, MOOR_OK);
    assert_int_equal(s.len, 7);
    assert_memory_equal(s.bytes, "goodbye", 7);
    assert_int_equal(s.sent, 1);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 0);
    lease_fixture_fini(&f);
}

static void sending_goes_on_after_the_peer_has_finished(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_GOODBYE);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(lease_send(&s, "thanks"), MOOR_OK);
    TURN_UNTIL(&f, s.sent == 1);
    assert_int_equal(s.ends, 1);
    assert_int_equal(moor_stream_finish(s.lease), MOOR_OK);
    TURN_UNTIL(&f, atomic_load(&f.server->conns) == 0);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void unix_sockets_are_streams_too(void **state)
{
    (void)state;
    SET_UP(f);
    stream_server_stop(f.server);
    f.server = stream_server_start_unix();
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    assert_int_equal(lease_send(&s, "path"), MOOR_OK);
    TURN_UNTIL(&f, s.len == 4);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    lease_fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_sent_comes_back),
        cmocka_unit_test(bytes_wait_on_the_conn_until_they_are_read),
        cmocka_unit_test(an_end_before_the_read_is_told_to_it),
        cmocka_unit_test(a_reset_before_the_read_is_told_to_it),
        cmocka_unit_test(reading_is_asked_for_once_and_fully),
        cmocka_unit_test(lent_bytes_stop_the_receive),
        cmocka_unit_test(chunks_outlive_the_lease),
        cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(pieces_without_bytes_are_let_go_too),
        cmocka_unit_test(pieces_are_let_go_once_when_the_conn_dies),
        cmocka_unit_test(a_release_lets_go_of_pieces_in_the_kernel),
        cmocka_unit_test(a_large_piece_arrives_whole),
        cmocka_unit_test(a_finished_stream_reads_on),
        cmocka_unit_test(sending_goes_on_after_the_peer_has_finished),
        cmocka_unit_test(unix_sockets_are_streams_too),
    };
    backend = "io_uring";
    int failed = cmocka_run_group_tests_name("stream io_uring", tests, NULL, NULL);
    backend = "epoll";
    return failed + cmocka_run_group_tests_name("stream epoll", tests, NULL, NULL);
}
