/*
 * Whose turn it is: first come, first served within a priority, nobody overtakes, batches neither starve nor lock
 * each other, deadlines are absolute, errors say what the wait was for.
 */
#include "tests/support/handle_fixture.h"

/* A pool of `max` links, all of them held. */
static void open_held(struct handles *h, uint32_t max, moor_acquired *held)
{
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = max;
    handles_open(h, &o);
    for (uint32_t i = 0; i < max; i++)
        assert_err(moor_acquire_wait(h->pool, NULL, &held[i]), MOOR_OK);
}

static void queue(struct handles *h, struct taker *t, int priority, uint64_t nth)
{
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.priority = (uint8_t)priority;
    taker_start(t, h->pool, &w);
    eventually(handles_stats(h).waiters == nth);
}

static void expect_served(struct taker *t)
{
    eventually(atomic_load(&t->is_over));
    taker_join(t);
    assert_err(t->err, MOOR_OK);
}

static void test_first_come_first_served(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held;
    struct taker t[5];
    open_held(&h, 1, &held);
    for (int i = 0; i < 5; i++)
        queue(&h, &t[i], 1, (uint64_t)i + 1);
    moor_lease lease = held.lease;
    for (int i = 0; i < 5; i++) {
        moor_release(lease, MOOR_REUSE);
        expect_served(&t[i]);
        assert_int_equal(handles_stats(&h).waiters, 4 - i);
        for (int j = i + 1; j < 5; j++)
            assert_false(atomic_load(&t[j].is_over));
        lease = t[i].got.lease;
    }
    moor_release(lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_priorities_go_first_and_are_fifo_within(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held;
    static const int priority[] = {3, 1, 0, 1, 0, 2};
    static const int order[] = {2, 4, 1, 3, 5, 0};
    struct taker t[6];
    open_held(&h, 1, &held);
    for (int i = 0; i < 6; i++)
        queue(&h, &t[i], priority[i], (uint64_t)i + 1);
    moor_lease lease = held.lease;
    for (int i = 0; i < 6; i++) {
        moor_release(lease, MOOR_REUSE);
        expect_served(&t[order[i]]);
        lease = t[order[i]].got.lease;
    }
    moor_release(lease, MOOR_REUSE);
    handles_close(&h);
}

enum { RACERS = 8, ROUNDS = 300 };

static void *race(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        moor_acquired a;
        assert_err(moor_acquire_wait(arg, NULL, &a), MOOR_OK);
        dummy_enter(a.native);
        dummy_leave(a.native);
        moor_release(a.lease, MOOR_REUSE);
    }
    return NULL;
}

/* While somebody waits, one who did not wait must not have been served. The one who waits is queued by this
 * thread's word: it holds all links until the waiter shows in the counts. */
static void test_newcomers_do_not_overtake(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held[2];
    struct taker first;
    pthread_t threads[RACERS];
    open_held(&h, 2, held);
    for (int round = 0; round < 20; round++) {
        queue(&h, &first, 1, 1);
        for (int i = 0; i < RACERS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, race, h.pool), 0);
        eventually(handles_stats(&h).waiters == RACERS + 1);
        assert_false(atomic_load(&first.is_over));
        moor_release(held[0].lease, MOOR_REUSE);
        expect_served(&first);
        moor_release(held[1].lease, MOOR_REUSE);
        moor_release(first.got.lease, MOOR_REUSE);
        for (int i = 0; i < RACERS; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < 2; i++)
            assert_err(moor_acquire_wait(h.pool, NULL, &held[i]), MOOR_OK);
    }
    moor_release(held[0].lease, MOOR_REUSE);
    moor_release(held[1].lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_try_never_overtakes(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held, b;
    struct taker t;
    open_held(&h, 1, &held);
    queue(&h, &t, 3, 1);
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.priority = 0;
    for (int i = 0; i < 100; i++)
        assert_err(moor_acquire_try(h.pool, &w, &b), MOOR_ETIMEDOUT);
    moor_release(held.lease, MOOR_REUSE);
    assert_err(moor_acquire_try(h.pool, NULL, &b), MOOR_ETIMEDOUT);
    expect_served(&t);
    moor_release(t.got.lease, MOOR_REUSE);
    handles_close(&h);
}

/* ---- batches ---- */

struct batch {
    pthread_t thread;
    moor_pool *pool;
    moor_acquire_options options;
    uint32_t count;
    moor_acquired got[8];
    moor_err err;
    _Atomic(bool) is_over;
};

static void *run_batch(void *arg)
{
    struct batch *b = arg;
    b->err = moor_acquire_many(b->pool, &b->options, b->count, b->got);
    atomic_store(&b->is_over, true);
    return NULL;
}

static void start_batch(struct batch *b, moor_pool *p, uint32_t count, int priority, moor_ms ms)
{
    memset(b, 0, sizeof *b);
    b->pool = p;
    b->count = count;
    moor_acquire_options_init(&b->options);
    b->options.priority = (uint8_t)priority;
    b->options.timeout_ms = ms;
    assert_int_equal(pthread_create(&b->thread, NULL, run_batch, b), 0);
}

static void end_batch(struct batch *b, moor_err err)
{
    eventually(atomic_load(&b->is_over));
    pthread_join(b->thread, NULL);
    assert_err(b->err, err);
    for (uint32_t i = 0; !err && i < b->count; i++) {
        dummy_enter(b->got[i].native);
        for (uint32_t j = 0; j < i; j++)
            assert_ptr_not_equal(b->got[i].native, b->got[j].native);
    }
    for (uint32_t i = 0; !err && i < b->count; i++) {
        dummy_leave(b->got[i].native);
        moor_release(b->got[i].lease, MOOR_REUSE);
    }
}

static void test_a_batch_takes_its_turn(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held[3];
    struct batch b;
    struct taker t;
    open_held(&h, 3, held);
    start_batch(&b, h.pool, 2, 1, 20000);
    eventually(handles_stats(&h).waiters == 1);
    queue(&h, &t, 1, 2);
    moor_release(held[0].lease, MOOR_REUSE);
    peer_sleep_ms(10);
    assert_false(atomic_load(&b.is_over) || atomic_load(&t.is_over)); /* gathering */
    moor_release(held[1].lease, MOOR_REUSE);
    eventually(atomic_load(&b.is_over));
    assert_false(atomic_load(&t.is_over));
    moor_release(held[2].lease, MOOR_REUSE);
    expect_served(&t);
    moor_release(t.got.lease, MOOR_REUSE);
    end_batch(&b, MOOR_OK);
    handles_close(&h);
}

static void test_batches_do_not_starve_each_other(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held[4];
    struct batch b[6];
    open_held(&h, 4, held);
    for (int i = 0; i < 6; i++)
        start_batch(&b[i], h.pool, 3, i % 3, 20000);
    eventually(handles_stats(&h).waiters == 6);
    for (int i = 0; i < 4; i++)
        moor_release(held[i].lease, MOOR_REUSE);
    for (int left = 6; left;)
        for (int i = 0; i < 6; i++)
            if (b[i].thread && atomic_load(&b[i].is_over)) {
                end_batch(&b[i], MOOR_OK);
                b[i].thread = 0;
                left--;
            }
    handles_close(&h);
}

/* One has gathered a part when somebody more important comes, who needs that part. */
static void test_a_more_important_batch_gets_what_was_gathered(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held[2];
    struct batch low, high;
    open_held(&h, 2, held);
    start_batch(&low, h.pool, 2, 3, 20000);
    eventually(handles_stats(&h).waiters == 1);
    moor_release(held[0].lease, MOOR_REUSE); /* low has one, wants one more */
    start_batch(&high, h.pool, 2, 0, 20000);
    eventually(handles_stats(&h).waiters == 2);
    moor_release(held[1].lease, MOOR_REUSE);
    end_batch(&high, MOOR_OK);
    end_batch(&low, MOOR_OK);
    handles_close(&h);
}

static void test_a_batch_that_gives_up_gives_back(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held[2];
    struct batch b;
    struct taker t;
    open_held(&h, 2, held);
    start_batch(&b, h.pool, 2, 1, 200);
    eventually(handles_stats(&h).waiters == 1);
    moor_release(held[0].lease, MOOR_REUSE);
    queue(&h, &t, 1, 2);
    end_batch(&b, MOOR_ETIMEDOUT);
    expect_served(&t); /* by what the batch had */
    moor_release(t.got.lease, MOOR_REUSE);
    moor_release(held[1].lease, MOOR_REUSE);
    assert_int_equal(handles_stats(&h).conns_leased, 0);
    handles_close(&h);
}

/* ---- limits and reasons ---- */

static void test_waiters_are_bounded(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    moor_acquired held, b;
    struct taker t[2];
    handles_options(&o);
    o.conns_max = 1;
    o.waiters_max = 2;
    handles_open(&h, &o);
    assert_err(moor_acquire_wait(h.pool, NULL, &held), MOOR_OK);
    queue(&h, &t[0], 1, 1);
    queue(&h, &t[1], 1, 2);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_EBUSY);
    assert_true(b.fault.safe_to_retry);
    char why[128];
    assert_err(moor_pool_set(h.pool, "waiters_max", "0", why, sizeof why), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_EBUSY);
    moor_release(held.lease, MOOR_REUSE);
    expect_served(&t[0]);
    moor_release(t[0].got.lease, MOOR_REUSE);
    expect_served(&t[1]);
    moor_release(t[1].got.lease, MOOR_REUSE);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK); /* no wait, no bound */
    moor_release(b.lease, MOOR_REUSE);
    handles_close(&h);
}

static moor_why fail_for(struct handles *h, moor_ms ms, moor_err err)
{
    moor_acquire_options w;
    moor_why why;
    moor_acquired a;
    moor_acquire_options_init(&w);
    w.timeout_ms = ms;
    w.why = &why;
    assert_err(moor_acquire_wait(h->pool, &w, &a), err);
    assert_true(a.fault.safe_to_retry);
    assert_int_equal(why.size, sizeof why);
    return why;
}

static void test_each_wait_has_its_reason(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held;
    struct taker t;
    open_held(&h, 1, &held);
    for (int i = 0; i < 3; i++) /* not only the first one knows it */
        assert_string_equal(moor_wait_reason_text(fail_for(&h, 20, MOOR_ETIMEDOUT).reason),
                            moor_wait_reason_text(MOOR_WAIT_AT_CAP));
    queue(&h, &t, 1, 1);
    const moor_why third = fail_for(&h, 20, MOOR_ETIMEDOUT);
    assert_int_equal(third.waiters, 1);
    assert_err(moor_pool_pause(h.pool, false), MOOR_OK);
    assert_int_equal(fail_for(&h, 20, MOOR_ETIMEDOUT).reason, MOOR_WAIT_PAUSED);
    moor_pool_resume(h.pool);
    moor_release(held.lease, MOOR_DISCARD);
    expect_served(&t);
    moor_release(t.got.lease, MOOR_DISCARD);
    eventually(handles_stats(&h).conns_open == 0);
    atomic_store(&h.script.connect_ms, 10000);
    assert_int_equal(fail_for(&h, 50, MOOR_ETIMEDOUT).reason, MOOR_WAIT_CONNECTING);
    handles_close(&h);
}

static void test_dials_at_their_bound_are_a_reason(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    struct taker t;
    handles_options(&o);
    o.dials_max = 1;
    handles_open(&h, &o);
    atomic_store(&h.script.connect_ms, 10000);
    queue(&h, &t, 1, 1);
    eventually(atomic_load(&h.script.connecting) == 1);
    const moor_why why = fail_for(&h, 100, MOOR_ETIMEDOUT);
    assert_int_equal(why.reason, MOOR_WAIT_DIALS);
    assert_int_equal(why.dials, 1);
    moor_pool_drain(h.pool, 0, NULL, NULL);
    taker_join(&t);
    assert_err(t.err, MOOR_ECLOSED);
    handles_close(&h);
}

/* The whole wait counts, in however many places it was spent (a dial, the queue, a batch that gave back). */
static void test_deadlines_are_absolute(void **state)
{
    (void)state;
    struct handles h;
    moor_acquired held;
    open_held(&h, 1, &held);
    struct taker t;
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = 300;
    taker_start(&t, h.pool, &w);
    const int64_t begun = fixture_now_ms();
    while (!atomic_load(&t.is_over)) {
        assert_err(moor_pool_pause(h.pool, false), MOOR_OK);
        moor_pool_resume(h.pool);
        moor_pool_flush(h.pool);
        peer_sleep_ms(5);
    }
    taker_join(&t);
    assert_err(t.err, MOOR_ETIMEDOUT);
    assert_true(t.got.waited >= 300 * 1000000LL);
    assert_true(fixture_now_ms() - begun < 300 + TIME_SLACK_MS);
    moor_release(held.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_bad_arguments(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a;
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = -7;
    assert_err(moor_acquire_wait(h.pool, &w, &a), MOOR_EINVAL);
    assert_err(moor_acquire_wait(NULL, NULL, &a), MOOR_EINVAL);
    assert_err(moor_acquire_wait(h.pool, NULL, NULL), MOOR_EINVAL);
    assert_err(moor_acquire_many(h.pool, NULL, 0, &a), MOOR_EINVAL);
    assert_err(moor_with_lease(h.pool, NULL, NULL, NULL), MOOR_EINVAL);
    w.timeout_ms = 0; /* takes what is idle, and nothing is */
    assert_err(moor_acquire_wait(h.pool, &w, &a), MOOR_ETIMEDOUT);
    w.timeout_ms = 5000;
    w.priority = 200; /* counts as the last */
    assert_err(moor_acquire_wait(h.pool, &w, &a), MOOR_OK);
    moor_release(a.lease, MOOR_REUSE);
    handles_close(&h);
}

/* ---- late binding ---- */

enum { SPIKE = 50 };

static void *spike(void *arg)
{
    moor_acquired a;
    assert_err(moor_acquire_wait(arg, NULL, &a), MOOR_OK);
    dummy_enter(a.native);
    peer_sleep_ms(2);
    dummy_leave(a.native);
    moor_release(a.lease, MOOR_REUSE);
    return NULL;
}

/* 50 requests meet 5 connections while a connect takes 150 ms: what comes back serves them, and the few dials
 * that were begun are not repeated. */
static void test_a_spike_is_served_by_what_comes_back(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 50;
    o.dials_max = 8;
    handles_open(&h, &o);
    assert_err(moor_pool_warm(h.pool, 5, 10000, NULL, NULL), MOOR_OK);
    atomic_store(&h.script.connect_ms, 150);
    pthread_t threads[SPIKE];
    for (int i = 0; i < SPIKE; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, spike, h.pool), 0);
    for (int i = 0; i < SPIKE; i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&h.script.connects) <= 5 + 8);
    assert_int_equal(handles_stats(&h).waiters, 0);
    handles_close(&h);
}

/* Who gives up leaves its dial to the others. */
static void test_a_dial_outlives_who_asked_for_it(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    atomic_store(&h.script.connect_ms, 200);
    (void)fail_for(&h, 20, MOOR_ETIMEDOUT);
    eventually(handles_stats(&h).conns_idle == 1);
    moor_acquired a;
    assert_err(moor_acquire_try(h.pool, NULL, &a), MOOR_OK);
    moor_release(a.lease, MOOR_REUSE);
    assert_int_equal(atomic_load(&h.script.connects), 1);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_come_first_served),
        cmocka_unit_test(test_priorities_go_first_and_are_fifo_within),
        cmocka_unit_test(test_newcomers_do_not_overtake),
        cmocka_unit_test(test_try_never_overtakes),
        cmocka_unit_test(test_a_batch_takes_its_turn),
        cmocka_unit_test(test_batches_do_not_starve_each_other),
        cmocka_unit_test(test_a_more_important_batch_gets_what_was_gathered),
        cmocka_unit_test(test_a_batch_that_gives_up_gives_back),
        cmocka_unit_test(test_waiters_are_bounded),
        cmocka_unit_test(test_each_wait_has_its_reason),
        cmocka_unit_test(test_dials_at_their_bound_are_a_reason),
        cmocka_unit_test(test_deadlines_are_absolute),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_a_spike_is_served_by_what_comes_back),
        cmocka_unit_test(test_a_dial_outlives_who_asked_for_it),
    };
    /* With a driver that has a say in what comes back, and without: other ways through moor_release. */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    handles_are_plain = true;
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
