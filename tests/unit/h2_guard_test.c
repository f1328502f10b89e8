/*
 * The abuse bounds: each kind's burst and refill exactly, and what our own traffic allows.
 */
#include "h2/guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000000)

static const struct {
    uint32_t burst;
    uint32_t per_sec;
    const char *reason;
} wanted[] = {
#define X(name, text) {MR_H2_##name##_BURST, MR_H2_##name##_PER_SEC, text},
    MR_H2_ABUSES(X)
#undef X
};

/* How many pass at that time, one by one. */
static uint64_t passed(struct mr_h2_guard *g, unsigned kind, int64_t now)
{
    uint64_t n = 0;
    while (!mr_h2_guard_note(g, kind, 1, now))
        n++;
    return n;
}

static void test_each_kind_has_its_burst_and_its_pace(void **state)
{
    (void)state;
    for (unsigned k = 0; k < MR_H2_ABUSE_COUNT; k++) {
        struct mr_h2_guard g;
        mr_h2_guard_init(&g, 7);
        assert_int_equal(passed(&g, k, 7), wanted[k].burst);
        assert_int_equal(g.hits, 1);
        assert_string_equal(mr_h2_guard_note(&g, k, 1, 7), wanted[k].reason);
        assert_int_equal(g.hits, 2);
        assert_int_equal(passed(&g, k, 7 + SECOND), wanted[k].per_sec);
        /* However long it was quiet, no more than the burst. */
        assert_int_equal(passed(&g, k, INT64_MAX), wanted[k].burst);
        /* The others' buckets were not touched. */
        for (unsigned other = 0; other < MR_H2_ABUSE_COUNT; other++)
            assert_true(other == k || !mr_h2_guard_note(&g, other, wanted[other].burst, INT64_MAX));
    }
}

static void test_the_named_pace_is_never_a_flood(void **state)
{
    (void)state;
    struct mr_h2_guard g;
    mr_h2_guard_init(&g, 0);
    (void)passed(&g, MR_H2_ABUSE_PING, 0);
    const uint64_t hits = g.hits;
    for (int64_t i = 1; i <= 1000; i++)
        assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 1, i * SECOND / MR_H2_PING_PER_SEC));
    assert_int_equal(g.hits, hits);
    /* Twice that is one, after the burst had time to come back. */
    const char *reason = NULL;
    unsigned n = 0;
    for (int64_t i = 1; !reason && n < 10000; i++, n++)
        reason = mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 1,
                                  1000 * SECOND + i * SECOND / (2 * MR_H2_PING_PER_SEC));
    assert_non_null(reason);
    assert_in_range(n, 2 * MR_H2_PING_BURST - 2, 2 * MR_H2_PING_BURST + 2);
}

static void test_time_is_not_counted_twice_nor_backwards(void **state)
{
    (void)state;
    struct mr_h2_guard g;
    mr_h2_guard_init(&g, 0);
    /* A quiet day is one burst, not one in the bucket and one in the clock. */
    assert_int_equal(passed(&g, MR_H2_ABUSE_SETTINGS, 86400 * SECOND), MR_H2_SETTINGS_BURST);
    assert_int_equal(passed(&g, MR_H2_ABUSE_SETTINGS, 0), 0);
    assert_int_equal(passed(&g, MR_H2_ABUSE_SETTINGS, 86400 * SECOND), 0);
}

static void test_many_at_once_count_as_many(void **state)
{
    (void)state;
    struct mr_h2_guard g;
    mr_h2_guard_init(&g, 0);
    assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_HEADER_BYTES, MR_H2_HEADER_BYTES_BURST, 0));
    assert_non_null(mr_h2_guard_note(&g, MR_H2_ABUSE_HEADER_BYTES, 1, 0));
    mr_h2_guard_init(&g, 0);
    assert_non_null(mr_h2_guard_note(&g, MR_H2_ABUSE_HEADER_BYTES, UINT32_MAX, 0));
    /* What was too much also emptied it. */
    assert_non_null(mr_h2_guard_note(&g, MR_H2_ABUSE_HEADER_BYTES, 1, 0));
    assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_HEADER_BYTES, 0, 0));
}

/* A million DATA frames of ours, each answered for the stream and for the conn, in no time at all. */
static void test_a_busy_upload_is_no_flood(void **state)
{
    (void)state;
    struct mr_h2_guard g;
    mr_h2_guard_init(&g, 0);
    for (unsigned i = 0; i < 1000000; i++) {
        mr_h2_guard_allow(&g, MR_H2_ABUSE_WINDOW_UPDATE, MR_H2_WINDOW_UPDATE_PER_DATA);
        assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_WINDOW_UPDATE, 1, 0));
        assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_WINDOW_UPDATE, 1, 0));
    }
    assert_int_equal(passed(&g, MR_H2_ABUSE_WINDOW_UPDATE, 0), MR_H2_WINDOW_UPDATE_BURST);
    /* A whole window of DATA of one byte each, answered late. */
    mr_h2_guard_init(&g, 0);
    for (unsigned i = 0; i < 65535; i++)
        mr_h2_guard_allow(&g, MR_H2_ABUSE_WINDOW_UPDATE, MR_H2_WINDOW_UPDATE_PER_DATA);
    assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_WINDOW_UPDATE, 2 * 65535, 0));
}

static void test_what_was_allowed_is_bounded_and_lasts(void **state)
{
    (void)state;
    for (unsigned k = 0; k < MR_H2_ABUSE_COUNT; k++) {
        struct mr_h2_guard g;
        mr_h2_guard_init(&g, 0);
        for (unsigned i = 0; i < 1000; i++)
            mr_h2_guard_allow(&g, k, UINT32_MAX);
        /* Time neither adds to it nor takes it. */
        uint64_t n = 0;
        while (!mr_h2_guard_note(&g, k, wanted[k].burst, 3600 * SECOND))
            n++;
        assert_int_equal(n, MR_H2_GUARD_BURSTS_MAX);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_has_its_burst_and_its_pace),
        cmocka_unit_test(test_the_named_pace_is_never_a_flood),
        cmocka_unit_test(test_time_is_not_counted_twice_nor_backwards),
        cmocka_unit_test(test_many_at_once_count_as_many),
        cmocka_unit_test(test_a_busy_upload_is_no_flood),
        cmocka_unit_test(test_what_was_allowed_is_bounded_and_lasts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
