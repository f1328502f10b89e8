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
    assert_int_equal(atomic_load(&f.server->served), 1);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_sent_comes_back),
    };
    backend = "io_uring";
    int failed = cmocka_run_group_tests_name("stream io_uring", tests, NULL, NULL);
    backend = "epoll";
    return failed + cmocka_run_group_tests_name("stream epoll", tests, NULL, NULL);
}
