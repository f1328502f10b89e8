/*
 * Window growth: when a PING is due, what its return does, what bounds both.
 */
#include "h2/bdp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define MS     INT64_C(1000000)
#define WINDOW ((size_t)65536)

static void test_one_ping_at_a_time_and_only_for_bytes(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, WINDOW, 16 * WINDOW);
    assert_false(mr_h2_bdp_received(&b, 0, 0));
    assert_int_equal(mr_h2_bdp_pong(&b, 0), 0); /* of no PING of ours */
    assert_true(mr_h2_bdp_received(&b, WINDOW, 0));
    for (int i = 0; i < 100; i++)
        assert_false(mr_h2_bdp_received(&b, WINDOW, i * 1000 * MS));
    assert_int_not_equal(mr_h2_bdp_pong(&b, 100 * 1000 * MS), 0);
    assert_int_equal(mr_h2_bdp_pong(&b, 100 * 1000 * MS), 0); /* acknowledged twice */
    assert_false(mr_h2_bdp_received(&b, 0, 200 * 1000 * MS));
    assert_true(mr_h2_bdp_received(&b, WINDOW, 200 * 1000 * MS));
}

static void test_short_replies_are_not_worth_a_ping(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, WINDOW, 16 * WINDOW);
    const size_t worth = MR_H2_BDP_WORTH(WINDOW);
    for (size_t i = 1; i < worth; i++)
        assert_false(mr_h2_bdp_received(&b, 1, 5000 * MS));
    assert_true(mr_h2_bdp_received(&b, 1, 5000 * MS));
    /* What came before the PING is no part of the sample. */
    assert_int_equal(b.sample_bytes, 1);
    assert_int_equal(mr_h2_bdp_pong(&b, 5010 * MS), 0);
    assert_false(mr_h2_bdp_received(&b, worth - 1, 50000 * MS));
    assert_true(mr_h2_bdp_received(&b, 1, 50000 * MS));
}

static void test_two_thirds_of_a_window_double_it(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, 60000, 1000000);
    assert_true(mr_h2_bdp_received(&b, 20000, 0));
    assert_false(mr_h2_bdp_received(&b, 19999, 1 * MS));
    assert_int_equal(mr_h2_bdp_pong(&b, 10 * MS), 0);
    mr_h2_bdp_init(&b, 60000, 1000000);
    assert_true(mr_h2_bdp_received(&b, 20000, 0));
    assert_false(mr_h2_bdp_received(&b, 20000, 1 * MS));
    assert_int_equal(mr_h2_bdp_pong(&b, 10 * MS), 120000);
}

/* A path of 10 ms that carries what the window lets it: grows to the ceiling, then asks no more. */
static void test_grows_to_the_ceiling_and_stops(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    const size_t most = 10 * WINDOW + 1;
    mr_h2_bdp_init(&b, WINDOW, most);
    int64_t now = 0;
    unsigned grown = 0;
    for (unsigned i = 0; i < 1000; i++, now += 10 * MS) {
        if (!mr_h2_bdp_received(&b, b.window, now))
            continue;
        const size_t window = mr_h2_bdp_pong(&b, now + 10 * MS);
        if (!window)
            continue;
        grown++;
        assert_true(window <= most);
        assert_int_equal(window, b.window);
    }
    assert_int_equal(b.window, most);
    assert_int_equal(grown, 4);
    assert_false(mr_h2_bdp_received(&b, most, now + 100000 * MS));
}

/* More window, more waiting, no more bytes a second: queues on the way, not a longer path. */
static void test_no_growth_without_bandwidth(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, WINDOW, 1000 * WINDOW);
    assert_true(mr_h2_bdp_received(&b, WINDOW, 0));
    assert_int_equal(mr_h2_bdp_pong(&b, 10 * MS), 2 * WINDOW);
    int64_t now = 1000 * MS;
    for (unsigned i = 0; i < 50; i++, now += 2000 * MS) {
        assert_true(mr_h2_bdp_received(&b, 2 * WINDOW, now));
        assert_int_equal(mr_h2_bdp_pong(&b, now + 20 * MS), 0);
    }
    assert_int_equal(b.window, 2 * WINDOW);
}

static unsigned pings_in(struct mr_h2_bdp *b, int64_t from, int64_t until)
{
    unsigned pings = 0;
    for (int64_t now = from; now < until; now += MS / 10) {
        if (!mr_h2_bdp_received(b, b->window, now))
            continue;
        pings++;
        /* Never faster than what was seen: grows nothing. */
        (void)mr_h2_bdp_pong(b, now + 100000 * MS);
    }
    return pings;
}

static void test_pings_are_few_and_become_fewer(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, WINDOW, MR_H2_WINDOW_MAX);
    b.bandwidth = UINT64_MAX;
    const unsigned first = pings_in(&b, 0, 1000 * MS);
    assert_in_range(first, 2, 50);
    const unsigned later = pings_in(&b, 10000 * MS, 20000 * MS);
    assert_in_range(later, 9, 10);
}

static void test_growing_pings_are_bounded_too(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, 1024, MR_H2_WINDOW_MAX);
    unsigned pings = 0;
    for (int64_t now = 0; now < 1000 * MS; now += MS / 100) {
        if (mr_h2_bdp_received(&b, b.window, now)) {
            pings++;
            (void)mr_h2_bdp_pong(&b, now);
        }
    }
    assert_int_equal(b.window, MR_H2_WINDOW_MAX);
    assert_int_equal(pings, 21); /* each one doubled it */
    mr_h2_bdp_init(&b, 1024, MR_H2_WINDOW_MAX);
    assert_true(mr_h2_bdp_received(&b, 1024, 0));
    assert_int_equal(mr_h2_bdp_pong(&b, 1), 2048);
    assert_false(mr_h2_bdp_received(&b, 2048, MR_H2_BDP_GAP_MIN_NS - 1));
    assert_true(mr_h2_bdp_received(&b, 2048, MR_H2_BDP_GAP_MIN_NS));
}

static void test_odd_numbers(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    /* Nothing to grow to: never a PING. */
    mr_h2_bdp_init(&b, WINDOW, WINDOW);
    assert_false(mr_h2_bdp_received(&b, WINDOW, 0));
    mr_h2_bdp_init(&b, WINDOW, 1);
    assert_false(mr_h2_bdp_received(&b, WINDOW, 0));
    /* More than the protocol has, from a peer that breaks its window, at no time at all. */
    mr_h2_bdp_init(&b, MR_H2_WINDOW_MAX - 1, SIZE_MAX);
    assert_true(mr_h2_bdp_received(&b, SIZE_MAX, 5));
    assert_false(mr_h2_bdp_received(&b, SIZE_MAX, 5));
    assert_int_equal(mr_h2_bdp_pong(&b, 4), MR_H2_WINDOW_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_ping_at_a_time_and_only_for_bytes),
        cmocka_unit_test(test_short_replies_are_not_worth_a_ping),
        cmocka_unit_test(test_two_thirds_of_a_window_double_it),
        cmocka_unit_test(test_grows_to_the_ceiling_and_stops),
        cmocka_unit_test(test_no_growth_without_bandwidth),
        cmocka_unit_test(test_pings_are_few_and_become_fewer),
        cmocka_unit_test(test_growing_pings_are_bounded_too),
        cmocka_unit_test(test_odd_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
