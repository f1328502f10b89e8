/*
 * The pure parts of h2/: what a peer may do only so often, whose body goes next, how windows grow, and the
 * blocks nghttp2 gets.
 */
#include "h2/bdp.h"
#include "h2/guard.h"
#include "h2/memory.h"
#include "h2/schedule.h"

#include "base/assert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECOND 1000000000LL

/* ---- guard ---- */

static void test_a_burst_passes_and_a_flood_does_not(void **state)
{
    (void)state;
    struct mr_h2_guard g;
    mr_h2_guard_init(&g, 0);
    for (int i = 0; i < 100; i++)
        assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 1, 0));
    assert_string_equal(mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 1, 0), "the peer floods with PING");
    assert_int_equal(g.hits, 1);
    assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_SETTINGS, 1, 0)); /* each has its own */
}

static void test_time_gives_back_no_more_than_the_burst(void **state)
{
    (void)state;
    struct mr_h2_guard g;
    mr_h2_guard_init(&g, 0);
    assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 100, 0));
    assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 10, SECOND));
    assert_non_null(mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 1, SECOND));
    mr_h2_guard_init(&g, 0);
    assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 100, 1000 * SECOND));
    assert_non_null(mr_h2_guard_note(&g, MR_H2_ABUSE_PING, 1, 1000 * SECOND));
}

static void test_what_we_send_allows_answers(void **state)
{
    (void)state;
    struct mr_h2_guard g;
    mr_h2_guard_init(&g, 0);
    for (int i = 0; i < 100000; i++) {
        mr_h2_guard_allow(&g, MR_H2_ABUSE_WINDOW_UPDATE, 2);
        assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_WINDOW_UPDATE, 2, 0));
    }
    for (int i = 0; i < 1000000; i++)
        mr_h2_guard_allow(&g, MR_H2_ABUSE_WINDOW_UPDATE, 2);
    assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_WINDOW_UPDATE, MR_H2_GUARD_BURSTS_MAX * 1000, 0));
    assert_non_null(mr_h2_guard_note(&g, MR_H2_ABUSE_WINDOW_UPDATE, 1, 0));
}

static void test_a_window_of_small_frames_may_be_answered_late(void **state)
{
    (void)state;
    struct mr_h2_guard g;
    mr_h2_guard_init(&g, 0);
    for (int i = 0; i < 65535; i++)
        mr_h2_guard_allow(&g, MR_H2_ABUSE_WINDOW_UPDATE, 2);
    for (int i = 0; i < 65535; i++)
        assert_null(mr_h2_guard_note(&g, MR_H2_ABUSE_WINDOW_UPDATE, 2, 0));
}

/* ---- bandwidth-delay product ---- */

static void test_a_window_grows_while_it_is_filled(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, 65536, 1 << 20);
    int64_t now = SECOND;
    size_t window = 65536;
    for (int i = 0; i < 4; i++) {
        assert_true(mr_h2_bdp_received(&b, window / 2, now));
        assert_false(mr_h2_bdp_received(&b, window / 2, now)); /* one sample at a time */
        now += SECOND / 10;
        assert_int_equal(mr_h2_bdp_pong(&b, now), window * 2);
        window *= 2;
    }
    assert_int_equal(window, 1 << 20);
    assert_false(mr_h2_bdp_received(&b, window, now)); /* as far as it goes: no PING for it */
}

static void test_a_window_stays_where_the_path_gives_no_more(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, 65536, 1 << 24);
    int64_t now = SECOND;
    assert_true(mr_h2_bdp_received(&b, 20000, now));
    assert_int_equal(mr_h2_bdp_pong(&b, now + SECOND / 10), 0);    /* hardly used */
    assert_int_equal(mr_h2_bdp_pong(&b, now + SECOND / 10), 0);    /* nobody asked */
    assert_false(mr_h2_bdp_received(&b, 20000, now + SECOND / 5)); /* and not again at once */
    now += 10 * SECOND;
    assert_true(mr_h2_bdp_received(&b, 65536, now));
    assert_int_equal(mr_h2_bdp_pong(&b, now + SECOND / 10), 131072);
    now += SECOND;
    assert_true(mr_h2_bdp_received(&b, 131072, now));
    assert_int_equal(mr_h2_bdp_pong(&b, now + SECOND), 0); /* filled, but slower than before */
}

static void test_short_replies_cost_no_ping_and_no_delay(void **state)
{
    (void)state;
    struct mr_h2_bdp b;
    mr_h2_bdp_init(&b, 65536, 1 << 24);
    const size_t worth = MR_H2_BDP_WORTH(65536);
    for (size_t i = 1; i < worth; i++)
        assert_false(mr_h2_bdp_received(&b, 1, (int64_t)i * SECOND));
    const int64_t now = (int64_t)worth * SECOND;
    assert_true(mr_h2_bdp_received(&b, 65536, now)); /* the long one need not wait */
    assert_int_equal(mr_h2_bdp_pong(&b, now + SECOND / 10), 131072);
}

/* ---- schedule ---- */

static struct mr_h2_turn turn(int32_t id, uint32_t urgency, bool is_incremental)
{
    struct mr_h2_turn t;
    mr_h2_turn_init(&t, id, urgency, is_incremental);
    return t;
}

static void test_urgency_then_order_then_turns(void **state)
{
    (void)state;
    struct mr_h2_schedule q;
    mr_h2_schedule_init(&q);
    struct mr_h2_turn late = turn(1, 7, false), first = turn(9, 0, true), five = turn(5, 3, false),
                      three = turn(3, 3, false), a = turn(7, 3, true), b = turn(11, 3, true);
    assert_null(mr_h2_schedule_pick(&q));
    struct mr_h2_turn *all[] = {&late, &a, &b, &five, &first, &three};
    for (size_t i = 0; i < 6; i++)
        mr_h2_schedule_add(&q, all[i]);
    mr_h2_schedule_add(&q, &a); /* is there */
    assert_ptr_equal(mr_h2_schedule_pick(&q), &first);
    mr_h2_schedule_remove(&q, &first);
    mr_h2_schedule_remove(&q, &first);
    assert_ptr_equal(mr_h2_schedule_pick(&q), &three);
    mr_h2_schedule_served(&q, &three, 10 * MR_H2_QUANTUM); /* whole: to its end */
    assert_ptr_equal(mr_h2_schedule_pick(&q), &three);
    mr_h2_schedule_remove(&q, &three);
    mr_h2_schedule_remove(&q, &five);
    assert_ptr_equal(mr_h2_schedule_pick(&q), &a);
    mr_h2_schedule_served(&q, &a, MR_H2_QUANTUM - 1);
    assert_ptr_equal(mr_h2_schedule_pick(&q), &a);
    mr_h2_schedule_served(&q, &a, 1);
    assert_ptr_equal(mr_h2_schedule_pick(&q), &b);
    mr_h2_schedule_served(&q, &b, MR_H2_QUANTUM);
    assert_ptr_equal(mr_h2_schedule_pick(&q), &a);
    mr_h2_schedule_remove(&q, &a);
    mr_h2_schedule_remove(&q, &b);
    assert_ptr_equal(mr_h2_schedule_pick(&q), &late);
    mr_h2_schedule_remove(&q, &late);
    assert_null(mr_h2_schedule_pick(&q));
}

/* ---- memory ---- */

static void test_blocks_come_back_and_are_bounded(void **state)
{
    (void)state;
    enum { N = 2000 }; /* of more than may be kept */
    struct mr_heap heap;
    struct mr_h2_memory m;
    void *p[N];
    assert_int_equal(mr_heap_init(&heap, SIZE_MAX, false), MOOR_OK);
    mr_h2_memory_init(&m, &heap);
    for (int i = 0; i < N; i++) {
        p[i] = mr_h2_calloc(10, 10, &m);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        for (int k = 0; k < 100; k++)
            assert_int_equal(((char *)p[i])[k], 0);
        memset(p[i], 'x', 100);
    }
    for (int i = 0; i < N; i++)
        mr_h2_free(p[i], &m);
    assert_int_equal(atomic_load(&heap.used), m.kept_bytes);
    assert_in_range(m.kept_bytes, 0, MR_H2_KEPT_BYTES_MAX);
    mr_h2_memory_trim(&m);
    assert_int_equal(m.kept_bytes, 0);
    assert_int_equal(atomic_load(&heap.used), 0);
    mr_h2_free(mr_h2_malloc(100, &m), &m); /* goes on after it */
    char *grown = mr_h2_realloc(NULL, 3, &m);
    memcpy(grown, "abc", 3);
    grown = mr_h2_realloc(grown, 100000, &m);
    assert_memory_equal(grown, "abc", 3);
    mr_h2_free(grown, &m);
    mr_h2_free(NULL, &m);
    assert_null(mr_h2_malloc(SIZE_MAX, &m));
    assert_null(mr_h2_calloc(SIZE_MAX, 2, &m));
    mr_h2_memory_fini(&m);
    assert_int_equal(atomic_load(&heap.used), 0);
    mr_heap_fini(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_burst_passes_and_a_flood_does_not),
        cmocka_unit_test(test_time_gives_back_no_more_than_the_burst),
        cmocka_unit_test(test_what_we_send_allows_answers),
        cmocka_unit_test(test_a_window_of_small_frames_may_be_answered_late),
        cmocka_unit_test(test_a_window_grows_while_it_is_filled),
        cmocka_unit_test(test_a_window_stays_where_the_path_gives_no_more),
        cmocka_unit_test(test_short_replies_cost_no_ping_and_no_delay),
        cmocka_unit_test(test_urgency_then_order_then_turns),
        cmocka_unit_test(test_blocks_come_back_and_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
