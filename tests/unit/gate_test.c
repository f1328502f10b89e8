/*
 * The gate of dials: caps, backoff with its jitter, the ramp after an outage.
 */
#include "policy/gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define MS INT64_C(1000000)

static const moor_fault refused = {.err = MOOR_ECONNECT, .os_errno = 111, .what = "connect"};

static void gate_of(struct mr_gate *g, uint32_t conns_max, uint32_t dials_max)
{
    mr_gate_init(g, &(struct mr_gate_limits){.conns_max = conns_max,
                                             .dials_max = dials_max,
                                             .backoff_min_ns = 100 * MS,
                                             .backoff_max_ns = 1000 * MS});
}

static unsigned enter_all(struct mr_gate *g, int64_t now)
{
    unsigned n = 0;
    while (mr_gate_enter(g, now) == MR_GATE_GO)
        n++;
    return n;
}

static void test_caps_are_exact(void **state)
{
    (void)state;
    struct mr_gate g;
    gate_of(&g, 3, 2);
    assert_int_equal(enter_all(&g, 0), 2);
    assert_int_equal(mr_gate_enter(&g, 0), MR_GATE_DIALS);
    mr_gate_dialed(&g);
    assert_int_equal(enter_all(&g, 0), 1);
    assert_int_equal(mr_gate_enter(&g, 0), MR_GATE_AT_CAP);
    mr_gate_dialed(&g);
    mr_gate_dialed(&g);
    assert_int_equal(mr_gate_enter(&g, 0), MR_GATE_AT_CAP);
    mr_gate_left(&g);
    assert_int_equal(mr_gate_enter(&g, 0), MR_GATE_GO);
}

static void test_backoff_doubles_up_to_its_ceiling(void **state)
{
    (void)state;
    static const int64_t wanted[] = {100, 200, 400, 800, 1000, 1000};
    struct mr_gate g;
    gate_of(&g, 10, 10);
    int64_t now = 1;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        assert_int_equal(mr_gate_enter(&g, now), MR_GATE_GO);
        mr_gate_failed(&g, &refused, 0, now, UINT64_MAX / 3);
        const int64_t wait = g.retry_at_ns - now;
        assert_in_range(wait, wanted[i] * MS / 2, wanted[i] * MS);
        assert_int_equal(mr_gate_enter(&g, now + wait - 1), MR_GATE_BACKOFF);
        now += wait;
    }
    assert_int_equal(g.last.os_errno, 111);
}

static void test_jitter_covers_half_of_it(void **state)
{
    (void)state;
    int64_t least = INT64_MAX, most = 0;
    for (uint64_t random = 0; random < 1000; random++) {
        struct mr_gate g;
        gate_of(&g, 1, 1);
        assert_int_equal(mr_gate_enter(&g, 0), MR_GATE_GO);
        mr_gate_failed(&g, &refused, 0, 0, random * UINT64_C(0x9e3779b97f4a7c15));
        least = g.retry_at_ns < least ? g.retry_at_ns : least;
        most = g.retry_at_ns > most ? g.retry_at_ns : most;
    }
    assert_in_range(least, 50 * MS, 53 * MS);
    assert_in_range(most, 97 * MS, 100 * MS);
}

static void test_after_an_outage_one_then_two_then_four(void **state)
{
    (void)state;
    struct mr_gate g;
    gate_of(&g, 100, 8);
    assert_int_equal(enter_all(&g, 0), 8);
    for (int i = 0; i < 8; i++)
        mr_gate_failed(&g, &refused, 0, 0, 0);
    int64_t now = g.retry_at_ns;
    unsigned allowed = 1;
    for (; allowed < 8; allowed *= 2) {
        assert_int_equal(enter_all(&g, now), allowed);
        mr_gate_dialed(&g);
        for (unsigned i = 1; i < allowed; i++) {
            mr_gate_left(&g); /* not a matter of the ramp */
            g.dials--;
        }
    }
    assert_int_equal(enter_all(&g, now), 8);
}

static void test_what_is_our_own_fault_does_not_blame_the_peer(void **state)
{
    (void)state;
    const moor_fault files = {.err = MOOR_ENOFILES, .os_errno = 24, .what = "socket"};
    struct mr_gate g;
    gate_of(&g, 10, 10);
    assert_int_equal(mr_gate_enter(&g, 5), MR_GATE_GO);
    mr_gate_failed(&g, &files, 1, 5, 0);
    assert_int_equal(g.failures, 0);
    /* Yet not at once again: that would spin. */
    assert_int_equal(mr_gate_enter(&g, 5), MR_GATE_BACKOFF);
    assert_int_equal(enter_all(&g, 5 + 100 * MS), 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_caps_are_exact),
        cmocka_unit_test(test_backoff_doubles_up_to_its_ceiling),
        cmocka_unit_test(test_jitter_covers_half_of_it),
        cmocka_unit_test(test_after_an_outage_one_then_two_then_four),
        cmocka_unit_test(test_what_is_our_own_fault_does_not_blame_the_peer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
