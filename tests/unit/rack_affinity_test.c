/*
 * Affinity: the same key gets the same connection while that lives, waits for it, and goes on when it is gone.
 */
#include "tests/support/handle_fixture.h"

static moor_err take(struct handles *h, uint64_t key, moor_ms ms, moor_acquired *out)
{
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.affinity = key;
    w.timeout_ms = ms;
    return moor_acquire_wait(h->pool, &w, out);
}

static void queue(struct handles *h, struct taker *t, uint64_t key, uint64_t nth)
{
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.affinity = key;
    taker_start(t, h->pool, &w);
    eventually(handles_stats(h).waiters == nth);
}

static void expect_served(struct taker *t)
{
    eventually(atomic_load(&t->is_over));
    taker_join(t);
    assert_err(t->err, MOOR_OK);
}

static void open_warm(struct handles *h, uint32_t max, uint32_t count)
{
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = max;
    handles_open(h, &o);
    if (count)
        assert_err(moor_pool_warm(h->pool, count, 10000, NULL, NULL), MOOR_OK);
}

static void test_the_same_key_gets_the_same_one(void **state)
{
    (void)state;
    struct handles h;
    open_warm(&h, 4, 4);
    void *of[4];
    moor_acquired a[4];
    for (uint64_t k = 0; k < 4; k++) {
        assert_err(take(&h, k + 1, 5000, &a[k]), MOOR_OK);
        of[k] = a[k].native;
    }
    for (int k = 0; k < 4; k++)
        moor_release(a[k].lease, MOOR_REUSE);
    for (int round = 0; round < 50; round++) {
        const uint64_t k = (uint64_t)(round * 7) % 4;
        assert_err(take(&h, k + 1, 5000, &a[0]), MOOR_OK);
        assert_ptr_equal(a[0].native, of[k]);
        moor_release(a[0].lease, MOOR_REUSE);
    }
    assert_int_equal(atomic_load(&h.script.connects), 4);
    handles_close(&h);
}

/* Keys that come one after the other, so that one link would do for all. */
static void test_another_key_does_not_take_it_away(void **state)
{
    (void)state;
    struct handles h;
    open_warm(&h, 2, 2);
    moor_acquired a;
    void *of[5];
    for (uint64_t k = 0; k < 5; k++) {
        assert_err(take(&h, k + 1, 5000, &a), MOOR_OK);
        of[k] = a.native;
        moor_release(a.lease, MOOR_REUSE);
    }
    for (int round = 0; round < 3; round++)
        for (uint64_t k = 0; k < 5; k++) {
            assert_err(take(&h, k + 1, 5000, &a), MOOR_OK);
            assert_ptr_equal(a.native, of[k]);
            moor_release(a.lease, MOOR_REUSE);
        }
    bool are_spread = false; /* not all on one */
    for (int k = 1; k < 5; k++)
        are_spread |= of[k] != of[0];
    assert_true(are_spread);
    handles_close(&h);
}

/* It is waited for although others are idle, and although more could be dialled. */
static void test_its_own_is_waited_for(void **state)
{
    (void)state;
    struct handles h;
    open_warm(&h, 10, 2);
    moor_acquired a, b;
    struct taker t;
    assert_err(take(&h, 77, 5000, &a), MOOR_OK);
    assert_err(take(&h, 77, 50, &b), MOOR_ETIMEDOUT);
    queue(&h, &t, 77, 1);
    peer_sleep_ms(50);
    assert_false(atomic_load(&t.is_over));
    assert_int_equal(atomic_load(&h.script.connects), 2); /* nothing was dialled for it */
    /* Nor are others held up by it. */
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK);
    moor_release(b.lease, MOOR_REUSE);
    moor_release(a.lease, MOOR_REUSE);
    expect_served(&t);
    assert_ptr_equal(t.got.native, a.native);
    moor_release(t.got.lease, MOOR_REUSE);
    assert_int_equal(atomic_load(&h.script.connects), 2);
    handles_close(&h);
}

static void test_when_it_dies_any_will_do(void **state)
{
    (void)state;
    struct handles h;
    open_warm(&h, 2, 1);
    moor_acquired a, b;
    struct taker t[2];
    assert_err(take(&h, 5, 5000, &a), MOOR_OK);
    queue(&h, &t[0], 5, 1);
    queue(&h, &t[1], 5, 2);
    void *before = a.native;
    const int id = ((struct dummy *)before)->id;
    moor_release(a.lease, MOOR_DISCARD);
    expect_served(&t[0]);
    assert_int_not_equal(((struct dummy *)t[0].got.native)->id, id);
    /* The key has a new one now, and the second waits for that. */
    peer_sleep_ms(20);
    assert_false(atomic_load(&t[1].is_over));
    const int now = ((struct dummy *)t[0].got.native)->id;
    moor_release(t[0].got.lease, MOOR_REUSE);
    expect_served(&t[1]);
    assert_int_equal(((struct dummy *)t[1].got.native)->id, now);
    moor_release(t[1].got.lease, MOOR_REUSE);
    assert_err(take(&h, 5, 5000, &b), MOOR_OK);
    assert_int_equal(((struct dummy *)b.native)->id, now);
    moor_release(b.lease, MOOR_REUSE);
    handles_close(&h);
}

/* A slow goodbye of its own does not hold up who could have another. */
static void test_a_dying_one_is_not_waited_for(void **state)
{
    (void)state;
    struct handles h;
    open_warm(&h, 2, 2);
    moor_acquired a;
    struct taker t;
    assert_err(take(&h, 5, 5000, &a), MOOR_OK);
    queue(&h, &t, 5, 1);
    atomic_store(&h.script.close_ms, 60000); /* longer than the pool's patience of a second */
    const int64_t begun = fixture_now_ms();
    moor_release(a.lease, MOOR_DISCARD);
    expect_served(&t);
    if (fixture_now_ms() - begun > 900)
        fail_msg("it waited for the goodbye");
    atomic_store(&h.script.close_ms, 0);
    moor_release(t.got.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_waiters_of_one_new_key_share_one(void **state)
{
    (void)state;
    struct handles h;
    open_warm(&h, 2, 2);
    moor_acquired held[2];
    struct taker t[3];
    for (int i = 0; i < 2; i++)
        assert_err(moor_acquire_wait(h.pool, NULL, &held[i]), MOOR_OK);
    for (int i = 0; i < 3; i++)
        queue(&h, &t[i], 9, (uint64_t)i + 1);
    moor_release(held[0].lease, MOOR_REUSE);
    expect_served(&t[0]);
    moor_release(held[1].lease, MOOR_REUSE); /* not for them: the key has its own by now */
    peer_sleep_ms(30);
    assert_false(atomic_load(&t[1].is_over));
    assert_int_equal(handles_stats(&h).conns_idle, 1);
    for (int i = 0; i < 2; i++) {
        moor_release(t[i].got.lease, MOOR_REUSE);
        expect_served(&t[i + 1]);
        assert_ptr_equal(t[i + 1].got.native, t[0].got.native);
    }
    moor_release(t[2].got.lease, MOOR_REUSE);
    handles_close(&h);
}

/* Its own lies idle but has to be checked before: that one is checked, no other. */
static void test_its_own_is_checked_for_it(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 3;
    o.check_after_ms = 50;
    handles_open(&h, &o);
    moor_acquired a[3];
    void *of[3];
    for (uint64_t k = 0; k < 3; k++) {
        assert_err(take(&h, k + 1, 5000, &a[k]), MOOR_OK);
        of[k] = a[k].native;
    }
    for (int k = 0; k < 3; k++)
        moor_release(a[k].lease, MOOR_REUSE);
    eventually(moor_acquire_try(h.pool, NULL, &a[0]) != MOOR_OK ||
               (moor_release(a[0].lease, MOOR_REUSE), peer_sleep_ms(100), false));
    for (int round = 0; round < 5; round++) {
        peer_sleep_ms(150); /* all are stale by now, or about to */
        const uint64_t k = (uint64_t)(4 - round) % 3;
        assert_err(take(&h, k + 1, 5000, &a[0]), MOOR_OK);
        assert_ptr_equal(a[0].native, of[k]);
        moor_release(a[0].lease, MOOR_REUSE);
    }
    assert_true(atomic_load(&h.script.checks) > 0);
    handles_close(&h);
}

/* More keys than are remembered: they get something, and what they wait for comes. */
static void test_more_keys_than_places(void **state)
{
    (void)state;
    struct handles h;
    open_warm(&h, 3, 3);
    moor_acquired a;
    for (uint64_t k = 1; k <= 2000; k++) {
        assert_err(take(&h, k * 0x9e3779b97f4a7c15u, 5000, &a), MOOR_OK);
        moor_release(a.lease, MOOR_REUSE);
    }
    assert_int_equal(atomic_load(&h.script.connects), 3);
    handles_close(&h);
}

enum { THREADS = 8, ROUNDS = 400 };

struct mixer {
    struct handles *h;
    unsigned seed;
};

static void *mix(void *arg)
{
    struct mixer *m = arg;
    for (int i = 0; i < ROUNDS; i++) {
        moor_acquired a;
        m->seed = m->seed * 1103515245 + 12345;
        const uint64_t key = m->seed >> 16 & 7; /* 0: none */
        const moor_err e = take(m->h, key, 20000, &a);
        assert_err(e, MOOR_OK);
        dummy_enter(a.native);
        if ((m->seed >> 20 & 15) == 0)
            sched_yield();
        dummy_leave(a.native);
        moor_release(a.lease, (m->seed >> 24 & 63) == 0 ? MOOR_DISCARD : MOOR_REUSE);
    }
    return NULL;
}

static void test_keys_under_load(void **state)
{
    (void)state;
    struct handles h;
    open_warm(&h, 4, 4);
    pthread_t threads[THREADS];
    struct mixer m[THREADS];
    for (int i = 0; i < THREADS; i++) {
        m[i] = (struct mixer){&h, (unsigned)i * 7919 + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, mix, &m[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(handles_stats(&h).waiters, 0);
    assert_int_equal(handles_stats(&h).conns_leased, 0);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_key_gets_the_same_one),
        cmocka_unit_test(test_another_key_does_not_take_it_away),
        cmocka_unit_test(test_its_own_is_waited_for),
        cmocka_unit_test(test_when_it_dies_any_will_do),
        cmocka_unit_test(test_a_dying_one_is_not_waited_for),
        cmocka_unit_test(test_waiters_of_one_new_key_share_one),
        cmocka_unit_test(test_its_own_is_checked_for_it),
        cmocka_unit_test(test_more_keys_than_places),
        cmocka_unit_test(test_keys_under_load),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    handles_are_plain = true;
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
