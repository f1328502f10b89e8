/*
 * Handle leases: acquire, release, try, wait, many; what a stale handle does; reports; the end.
 */
#include "tests/support/dummy_driver.h"
#include "tests/support/handle_fixture.h"

static void test_acquire_gives_the_native_object(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_non_null(a.native);
    assert_ptr_equal(a.native, moor_lease_native(a.lease));
    assert_false(a.reused);
    void *first = a.native;
    moor_release(a.lease, MOOR_REUSE);
    assert_null(moor_lease_native(a.lease));
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_ptr_equal(a.native, first);
    assert_true(a.reused);
    assert_int_equal(a.waited, 0);
    moor_release(a.lease, MOOR_REUSE);
    const moor_stats s = handles_stats(&h);
    assert_int_equal(s.acquires, 2);
    assert_int_equal(s.acquires_reused, 1);
    handles_close(&h);
}

static void test_stale_handles_do_nothing(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a, b;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_release(a.lease, MOOR_REUSE);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK);
    moor_release(a.lease, MOOR_DISCARD); /* of the lease before: the same link */
    assert_ptr_equal(moor_lease_native(b.lease), b.native);
    moor_lease_report(a.lease, "08006", 0);
    moor_release(b.lease, MOOR_REUSE);
    moor_release(b.lease, MOOR_REUSE);
    moor_release((moor_lease){0}, MOOR_REUSE);
    assert_int_equal(handles_stats(&h).conns_open, 1);
    handles_close(&h);
}

static void test_try_takes_what_is_idle(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a, b;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_release(a.lease, MOOR_REUSE);
    assert_err(moor_acquire_try(h.pool, NULL, &a), MOOR_OK);
    assert_err(moor_acquire_try(h.pool, NULL, &b), MOOR_ETIMEDOUT);
    assert_null(b.native);
    moor_release(a.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_exhaustion_explains_itself(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 1;
    handles_open(&h, &o);
    moor_acquired a, b;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_acquire_options w;
    moor_why why;
    moor_acquire_options_init(&w);
    w.timeout_ms = 50;
    w.why = &why;
    assert_err(moor_acquire_wait(h.pool, &w, &b), MOOR_ETIMEDOUT);
    assert_int_equal(why.reason, MOOR_WAIT_AT_CAP);
    assert_int_equal(why.conns_open, 1);
    assert_int_equal(why.conns_leased, 1);
    assert_int_equal(why.conns_max, 1);
    assert_true(why.waited >= 50 * 1000000);
    assert_non_null(strstr(why.held_site, "handle_test.c:"));
    char text[512];
    assert_non_null(strstr(moor_why_text(&why, text, sizeof text), "every connection allowed"));
    assert_non_null(strstr(text, "handle_test.c:"));
    moor_release(a.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_a_waiter_gets_what_comes_back(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 1;
    handles_open(&h, &o);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    struct taker t;
    taker_start(&t, h.pool, NULL);
    eventually(handles_stats(&h).waiters == 1);
    assert_err(moor_acquire_try(h.pool, NULL, &(moor_acquired){0}), MOOR_ETIMEDOUT);
    moor_release(a.lease, MOOR_REUSE);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    assert_true(t.got.reused);
    assert_true(t.got.waited > 0);
    moor_release(t.got.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_many_gathers_or_takes_none(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 4;
    handles_open(&h, &o);
    moor_acquired all[4], one, none[4];
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = 50;
    assert_err(moor_acquire_many(h.pool, NULL, 5, none), MOOR_EINVAL);
    assert_err(moor_acquire_many(h.pool, NULL, 4, all), MOOR_OK);
    for (int i = 0; i < 4; i++)
        dummy_enter(all[i].native);
    for (int i = 0; i < 4; i++) {
        dummy_leave(all[i].native);
        moor_release(all[i].lease, MOOR_REUSE);
    }
    assert_err(moor_acquire_wait(h.pool, NULL, &one), MOOR_OK);
    assert_err(moor_acquire_many(h.pool, &w, 4, none), MOOR_ETIMEDOUT);
    /* What it had gathered is there again. */
    assert_err(moor_acquire_many(h.pool, &w, 3, all), MOOR_OK);
    for (int i = 0; i < 3; i++)
        moor_release(all[i].lease, MOOR_REUSE);
    moor_release(one.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_dirty_is_reset_and_discard_closes(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_release(a.lease, MOOR_DIRTY);
    eventually(atomic_load(&h.script.resets) == 1);
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_true(a.reused);
    moor_release(a.lease, MOOR_DISCARD);
    eventually(handles_stats(&h).conns_open == 0);
    assert_int_equal(atomic_load(&h.script.closes), 1);
    handles_close(&h);
}

static void test_reports_are_judged(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a, b;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK);
    moor_lease_report(a.lease, "42601", 0);
    moor_release(a.lease, MOOR_REUSE);
    assert_int_equal(handles_stats(&h).conns_open, 2);
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_lease_report(a.lease, "08006", 0);
    moor_release(a.lease, MOOR_REUSE);
    eventually(handles_stats(&h).conns_open == 1);
    moor_lease_report(b.lease, "25006", 0);
    moor_release(b.lease, MOOR_REUSE);
    eventually(handles_stats(&h).conns_open == 0);
    assert_true(fixture_has_logged(&h.f, "pool.flushed"));
    handles_close(&h);
}

static void test_a_report_may_ask_for_a_reset(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_lease_report(a.lease, "dirty", 0);
    moor_release(a.lease, MOOR_REUSE);
    eventually(handles_stats(&h).conns_idle == 1 || atomic_load(&h.script.closes));
    assert_int_equal(atomic_load(&h.script.resets), 1);
    assert_int_equal(atomic_load(&h.script.closes), 0);
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_release(a.lease, MOOR_REUSE); /* of that lease only */
    assert_int_equal(handles_stats(&h).conns_idle, 1);
    handles_close(&h);
}

static void test_connect_errors_reach_the_waiter(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    atomic_store(&h.script.connects_fail, -1);
    moor_acquired a;
    moor_acquire_options w;
    moor_why why;
    moor_acquire_options_init(&w);
    w.why = &why;
    w.timeout_ms = 5000;
    assert_err(moor_acquire_wait(h.pool, &w, &a), MOOR_ECONNECT);
    assert_true(a.fault.safe_to_retry);
    assert_string_equal(why.connect_text, "as the script says");
    atomic_store(&h.script.connects_fail, 0);
    eventually(moor_acquire_wait(h.pool, &w, &a) == MOOR_OK);
    moor_release(a.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_close_with_a_lease_out_is_busy(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_err(moor_pool_close(h.pool, 0), MOOR_EBUSY);
    assert_err(moor_acquire_wait(h.pool, NULL, &(moor_acquired){0}), MOOR_ECLOSED);
    assert_non_null(moor_lease_native(a.lease));
    moor_release(a.lease, MOOR_REUSE);
    handles_close(&h);
    assert_int_equal(atomic_load(&h.script.dropped), atomic_load(&h.script.connects));
}

/* A connect that finds no descriptor takes that of an idle connection, of whichever pool. */
static void test_out_of_descriptors_an_idle_one_goes(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a[3], b;
    for (int i = 0; i < 3; i++)
        assert_err(moor_acquire_wait(h.pool, NULL, &a[i]), MOOR_OK);
    for (int i = 0; i < 3; i++)
        moor_release(a[i].lease, MOOR_REUSE);
    struct dummy_script other = {.connects_fail = 1, .fault = MOOR_ENOFILES};
    moor_pool_options o;
    handles_options(&o);
    o.driver_config = &other;
    moor_pool *needy;
    assert_err(moor_pool_open(h.f.runtime, "dummy://127.0.0.2:1", &o, &needy), MOOR_OK);
    eventually(moor_acquire_wait(needy, NULL, &b) == MOOR_OK);
    eventually(handles_stats(&h).conns_open == 2);
    moor_release(b.lease, MOOR_REUSE);
    peer_sleep_ms(50);
    assert_int_equal(handles_stats(&h).conns_open, 2);
    assert_err(moor_pool_close(needy, 5000), MOOR_OK);
    handles_close(&h);
}

/* The keeper may still be inside the step that ended the last link when the pool is freed. */
static void test_close_amid_a_reset(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct handles h;
        handles_open(&h, NULL);
        moor_acquired a;
        assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
        moor_release(a.lease, MOOR_DIRTY);
        handles_close(&h);
    }
}

static moor_release_how use(void *arg, moor_lease lease, void *native)
{
    assert_ptr_equal(native, moor_lease_native(lease));
    ++*(int *)arg;
    return MOOR_REUSE;
}

static void test_scoped_and_with(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    int calls = 0;
    assert_err(moor_with_lease(h.pool, NULL, use, &calls), MOOR_OK);
    assert_int_equal(calls, 1);
    {
        moor_acquired a;
        assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
        MOOR_SCOPED_LEASE lease = a.lease;
        assert_int_equal(handles_stats(&h).conns_leased, 1);
        (void)lease;
    }
    assert_int_equal(handles_stats(&h).conns_leased, 0);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_acquire_gives_the_native_object),
        cmocka_unit_test(test_stale_handles_do_nothing),
        cmocka_unit_test(test_try_takes_what_is_idle),
        cmocka_unit_test(test_exhaustion_explains_itself),
        cmocka_unit_test(test_a_waiter_gets_what_comes_back),
        cmocka_unit_test(test_many_gathers_or_takes_none),
        cmocka_unit_test(test_dirty_is_reset_and_discard_closes),
        cmocka_unit_test(test_reports_are_judged),
        cmocka_unit_test(test_a_report_may_ask_for_a_reset),
        cmocka_unit_test(test_connect_errors_reach_the_waiter),
        cmocka_unit_test(test_close_with_a_lease_out_is_busy),
        cmocka_unit_test(test_out_of_descriptors_an_idle_one_goes),
        cmocka_unit_test(test_close_amid_a_reset),
        cmocka_unit_test(test_scoped_and_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
