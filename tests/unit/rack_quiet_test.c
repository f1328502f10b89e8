/*
 * What a rack must not do when little happens: stay on its slow path, turn its keeper for nothing, keep to itself
 * what others wait for, or outlast the time it was given to close.
 */
#include "core/rack.h"
#include "tests/support/handle_fixture.h"

static void test_the_gate_opens_again(void **state)
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
    moor_release(a.lease, MOOR_REUSE);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    moor_release(t.got.lease, MOOR_REUSE);
    for (int i = 0; i < 100; i++) {
        assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
        moor_release(a.lease, MOOR_REUSE);
    }
    assert_int_equal(atomic_load(&h.pool->rack->gate) & MR_RACK_WAITED, 0);
    handles_close(&h);
}

static uint64_t turns(struct handles *h)
{
    moor_runtime_stats s;
    moor_runtime_stats_read(h->f.runtime, &s);
    return s.turns;
}

static void test_a_slow_dial_costs_few_turns(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    atomic_store(&h.script.connect_ms, 300);
    const uint64_t before = turns(&h);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_true(turns(&h) - before < 100);
    moor_release(a.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_a_shared_place_is_given_when_it_comes_back(void **state)
{
    (void)state;
    struct handles h;
    memset(&h, 0, sizeof h);
    moor_runtime_options ro;
    fixture_runtime_options(&h.f, &ro);
    ro.conns_max_runtime = 1;
    fixture_open_runtime(&h.f, &ro);
    handles_open_pool(&h, NULL);
    atomic_store(&h.script.has_fd, true);
    moor_pool *other;
    moor_pool_options o;
    handles_options(&o);
    o.driver_config = &h.script;
    assert_err(moor_pool_open(h.f.runtime, "dummy://127.0.0.1:2", &o, &other), MOOR_OK);
    moor_acquired a;
    for (int i = 0; i < 100; i++) { /* the fast way is open, and soon the link watched */
        assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
        moor_release(a.lease, MOOR_REUSE);
    }
    peer_sleep_ms(200);
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = 3000;
    struct taker t;
    taker_start(&t, other, &w);
    moor_stats s;
    eventually((moor_stats_read(other, &s), s.waiters == 1));
    peer_sleep_ms(200);
    moor_release(a.lease, MOOR_REUSE);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    moor_release(t.got.lease, MOOR_REUSE);
    assert_err(moor_pool_close(other, 5000), MOOR_OK);
    handles_close(&h);
}

static void test_close_cuts_what_hangs(void **state)
{
    (void)state;
    for (int what = 0; what < 3; what++) {
        struct handles h;
        handles_open(&h, NULL);
        moor_acquired a;
        assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
        atomic_store(&h.script.reset_ms, 20000);
        atomic_store(&h.script.close_ms, 20000);
        moor_release(a.lease, what == 0   ? MOOR_REUSE
                              : what == 1 ? MOOR_DIRTY
                                          : MOOR_DISCARD);
        const int64_t before = fixture_now_ms();
        assert_err(moor_pool_close(h.pool, 10), MOOR_OK);
        assert_true(fixture_now_ms() - before < 900);
        fixture_close(&h.f);
        assert_int_equal(atomic_load(&h.script.dropped), atomic_load(&h.script.connects));
    }
}

static void test_a_peer_that_hangs_up_is_left_in_peace(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_min_idle = 2;
    o.backoff_min_ms = 200;
    o.backoff_max_ms = 2000;
    handles_open(&h, &o);
    atomic_store(&h.script.has_fd, true);
    atomic_store(&h.script.hangs_up, true);
    assert_err(moor_acquire_try(h.pool, NULL, &(moor_acquired){0}), MOOR_ETIMEDOUT);
    peer_sleep_ms(1000);
    assert_true(atomic_load(&h.script.connects) >= 2);
    assert_true(atomic_load(&h.script.connects) < 12);
    handles_close(&h);
}

struct warming {
    moor_pool *pool;
    moor_err err;
    _Atomic(bool) has_begun;
};

static void on_progress(void *user, uint32_t ready, uint32_t wanted)
{
    (void)ready;
    (void)wanted;
    atomic_store(&((struct warming *)user)->has_begun, true);
}

static void *warm(void *arg)
{
    struct warming *w = arg;
    w->err = moor_pool_warm(w->pool, 2, 20000, on_progress, w);
    return NULL;
}

static void test_warm_up_hears_of_the_end(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    atomic_store(&h.script.connect_ms, 20000);
    struct warming w = {.pool = h.pool};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, warm, &w), 0);
    eventually(atomic_load(&w.has_begun));
    handles_close(&h);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_err(w.err, MOOR_ECLOSED);
}

static void test_two_warm_ups_at_once(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.dials_max = 1;
    handles_open(&h, &o);
    atomic_store(&h.script.connect_ms, 100);
    struct warming w = {.pool = h.pool};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, warm, &w), 0);
    eventually(atomic_load(&w.has_begun));
    assert_err(moor_pool_warm(h.pool, 1, 5000, NULL, NULL), MOOR_OK);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_err(w.err, MOOR_OK);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_gate_opens_again),
        cmocka_unit_test(test_a_slow_dial_costs_few_turns),
        cmocka_unit_test(test_a_shared_place_is_given_when_it_comes_back),
        cmocka_unit_test(test_close_cuts_what_hangs),
        cmocka_unit_test(test_a_peer_that_hangs_up_is_left_in_peace),
        cmocka_unit_test(test_warm_up_hears_of_the_end),
        cmocka_unit_test(test_two_warm_ups_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
