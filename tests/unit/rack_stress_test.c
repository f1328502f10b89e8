/*
 * Many threads on few links, with everything that can happen at once. The dummy driver panics when two have one
 * link; at the end nothing is lost, nobody waits, and the counts agree.
 */
#include "core/runtime.h"
#include "tests/support/handle_fixture.h"
#include "tests/support/seed.h"

#include <sched.h>
#include <unistd.h>

enum { THREADS = 8, LINKS = 4 };

static _Atomic(bool) stop;
static struct handles h;

static unsigned next(unsigned *seed)
{
    *seed = *seed * 1103515245u + 12345u;
    return *seed >> 8;
}

static void hold(struct dummy *d, unsigned *seed)
{
    dummy_enter(d);
    const unsigned n = next(seed) % 16;
    if (n == 0)
        peer_sleep_ms(1);
    else if (n < 8)
        sched_yield();
    dummy_leave(d);
}

static void give_back(const moor_acquired *a, unsigned *seed)
{
    static const char *const reports[] = {"08006", "25006", "dirty", "42601"};
    const unsigned n = next(seed) % 64;
    if (n < 2)
        moor_lease_report(a->lease, reports[n], 0);
    else if (n < 6)
        moor_lease_report(a->lease, reports[2 + n % 2], 0);
    moor_release(a->lease, n < 8 ? MOOR_DISCARD : n < 16 ? MOOR_DIRTY : MOOR_REUSE);
    moor_release(a->lease, MOOR_REUSE); /* stale from here: nothing */
    if (moor_lease_native(a->lease))
        fail_msg("a lease outlives its release");
}

static _Atomic(bool) may_fail; /* connects do */

static bool is_expected(moor_err e)
{
    return e == MOOR_OK || e == MOOR_ETIMEDOUT || e == MOOR_EBUSY || e == MOOR_ECLOSED ||
           (e == MOOR_ECONNECT && atomic_load(&may_fail));
}

static void once(unsigned *seed)
{
    moor_acquired a[2];
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.priority = (uint8_t)(next(seed) % MOOR_PRIORITIES);
    w.timeout_ms = next(seed) % 4 ? 20000 : next(seed) % 3;
    const unsigned kind = next(seed) % 16;
    uint32_t count = 1;
    moor_err e;
    if (kind < 2) {
        e = moor_acquire_try(h.pool, &w, a);
    } else if (kind < 4) {
        count = 2;
        e = moor_acquire_many(h.pool, &w, 2, a);
    } else {
        w.affinity = kind < 6 ? kind : 0;
        e = moor_acquire_wait(h.pool, kind < 10 ? NULL : &w, a);
    }
    if (!is_expected(e))
        fail_msg("%s", moor_err_name(e));
    for (uint32_t i = 0; !e && i < count; i++)
        hold(a[i].native, seed);
    for (uint32_t i = 0; !e && i < count; i++)
        give_back(&a[i], seed);
}

static void *use(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    while (!atomic_load_explicit(&stop, memory_order_relaxed))
        once(&seed);
    return NULL;
}

/* What its owner does to it meanwhile. */
static void steer(unsigned *seed)
{
    static const char *const options[][2] = {
        {"conns_max", "2"},       {"conns_max", "4"},        {"uses_max", "5"},
        {"uses_max", "0"},        {"check_on_return", "1"},  {"check_on_return", "0"},
        {"eviction", "fifo"},     {"eviction", "lifo"},      {"waiters_max", "3"},
        {"waiters_max", "10000"}, {"lifetime_max_ms", "20"}, {"lifetime_max_ms", "forever"},
        {"check_after_ms", "5"},  {"check_after_ms", "60s"}, {"acquire_spin_us", "0"},
        {"acquire_spin_us", "5"}, {"conns_min_idle", "2"},   {"conns_min_idle", "0"},
    };
    char why[160], text[4096];
    const unsigned n = next(seed) % 24;
    if (n < sizeof options / sizeof *options) {
        assert_err(moor_pool_set(h.pool, options[n][0], options[n][1], why, sizeof why), MOOR_OK);
    } else if (n == 18) {
        moor_pool_flush(h.pool);
    } else if (n == 19) {
        assert_err(moor_pool_pause(h.pool, next(seed) % 2), MOOR_OK);
        sched_yield();
        moor_pool_resume(h.pool);
    } else if (n == 20) {
        (void)handles_stats(&h);
    } else {
        moor_pool_snapshot(h.pool, text, sizeof text, NULL);
    }
}

static void run(unsigned threads, int ms, bool is_steered, unsigned seed)
{
    pthread_t t[THREADS];
    atomic_store(&stop, false);
    for (unsigned i = 0; i < threads; i++)
        assert_int_equal(
            pthread_create(&t[i], NULL, use, (void *)(uintptr_t)(seed * 31 + i * 977 + 1)), 0);
    const int64_t until = fixture_now_ms() + ms;
    while (fixture_now_ms() < until) {
        if (is_steered)
            steer(&seed);
        peer_sleep_ms(1);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < threads; i++)
        pthread_join(t[i], NULL);
}

/* Whatever was set, the pool can be used by one and is all there. */
static void expect_whole(void)
{
    static const char *const calm[][2] = {{"conns_max", "4"},       {"uses_max", "0"},
                                          {"check_on_return", "0"}, {"waiters_max", "100"},
                                          {"conns_min_idle", "0"},  {"lifetime_max_ms", "forever"},
                                          {"check_after_ms", "60s"}};
    for (size_t i = 0; i < sizeof calm / sizeof *calm; i++)
        assert_err(moor_pool_set(h.pool, calm[i][0], calm[i][1], NULL, 0), MOOR_OK);
    assert_int_equal(handles_stats(&h).waiters, 0);
    assert_int_equal(handles_stats(&h).conns_leased, 0);
    moor_acquired all[LINKS];
    assert_err(moor_acquire_many(h.pool, NULL, LINKS, all), MOOR_OK);
    for (int i = 0; i < LINKS; i++)
        dummy_enter(all[i].native);
    assert_err(moor_acquire_try(h.pool, NULL, &(moor_acquired){0}), MOOR_ETIMEDOUT);
    for (int i = 0; i < LINKS; i++) {
        dummy_leave(all[i].native);
        moor_release(all[i].lease, MOOR_REUSE);
    }
    eventually(handles_stats(&h).conns_idle == LINKS);
    const moor_stats s = handles_stats(&h);
    assert_int_equal(s.conns_open, LINKS);
    assert_int_equal(s.conns_created - s.conns_closed, s.conns_open);
    assert_int_equal(atomic_load(&h.script.connects) - atomic_load(&h.script.dropped), LINKS);
}

/* As under a kernel without it: who returns pays the fence. */
static bool has_no_membarrier;

static void open_runtime(void)
{
    memset(&h, 0, sizeof h);
    fixture_open_runtime(&h.f, NULL);
    if (has_no_membarrier)
        h.f.runtime->has_membarrier = false;
}

static void open_pool(void)
{
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = LINKS;
    open_runtime();
    handles_open_pool(&h, &o);
}

/* With a driver that has a say in what comes back, without, and without membarrier: other ways through
 * moor_release. */
static void in_all_ways(void (*test)(void))
{
    for (int i = 0; i < 3; i++) {
        handles_are_plain = i > 0;
        has_no_membarrier = i > 1;
        test();
    }
    handles_are_plain = has_no_membarrier = false;
}

static void threads_alone(void)
{
    open_pool();
    run(THREADS, 1000, false, (unsigned)seed_start());
    expect_whole();
    handles_close(&h);
}

static void test_threads_alone(void **state)
{
    (void)state;
    in_all_ways(threads_alone);
}

static void threads_while_the_pool_is_steered(void)
{
    open_pool();
    run(THREADS, 2000, true, (unsigned)seed_start());
    expect_whole();
    handles_close(&h);
}

static void test_threads_while_the_pool_is_steered(void **state)
{
    (void)state;
    in_all_ways(threads_while_the_pool_is_steered);
}

static void test_a_failing_upstream_loses_nothing(void **state)
{
    (void)state;
    open_pool();
    atomic_store(&h.script.connect_ms, 1);
    pthread_t t[2];
    atomic_store(&stop, false);
    unsigned seed = (unsigned)seed_start();
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use, (void *)(uintptr_t)(seed + 1)), 0);
    for (int i = 0; i < 200; i++) {
        atomic_store(&h.script.checks_fail, (int)(next(&seed) % 3));
        atomic_store(&h.script.resets_fail, (int)(next(&seed) % 3));
        peer_sleep_ms(2);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    atomic_store(&h.script.checks_fail, 0);
    atomic_store(&h.script.resets_fail, 0);
    expect_whole();
    handles_close(&h);
}

/* Peers end or say something while links lie idle; the watch and the holders meet. */
static void *end_peers(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    while (!atomic_load(&stop)) {
        moor_acquired a;
        moor_acquire_options w;
        moor_acquire_options_init(&w);
        w.timeout_ms = 20000;
        assert_err(moor_acquire_wait(h.pool, &w, &a), MOOR_OK);
        struct dummy *d = a.native;
        dummy_enter(d);
        char bytes[64];
        const ssize_t n = read(d->fd, bytes, sizeof bytes); /* what came while it was idle */
        if (next(&seed) % 8 == 0 && d->peer >= 0) {
            close(d->peer);
            d->peer = -1;
        } else if (d->peer >= 0) {
            assert_true(write(d->peer, "x", 1) == 1);
        }
        (void)n;
        dummy_leave(d);
        moor_release(a.lease, next(&seed) % 8 ? MOOR_REUSE : MOOR_DIRTY);
        peer_sleep_ms(next(&seed) % 40);
    }
    return NULL;
}

static void test_watches_and_holders(void **state)
{
    (void)state;
    open_pool();
    atomic_store(&h.script.has_fd, true);
    atomic_store(&h.script.idle_keeps, true);
    atomic_store(&h.script.reset_swaps, true);
    unsigned seed = (unsigned)seed_start();
    pthread_t t[3];
    atomic_store(&stop, false);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, end_peers, (void *)(uintptr_t)(seed + i)), 0);
    peer_sleep_ms(2000);
    for (int i = 0; i < 2000 && !atomic_load(&h.script.idles); i++) /* its turn may come late */
        peer_sleep_ms(10);
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    assert_true(atomic_load(&h.script.idles) > 0);
    assert_int_equal(handles_stats(&h).waiters, 0);
    assert_int_equal(handles_stats(&h).conns_leased, 0);
    handles_close(&h);
}

/* Connects that block, fail and end after their deadline. */
static void test_late_helpers_lose_nothing(void **state)
{
    (void)state;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = LINKS;
    o.connect_timeout_ms = 4;
    handles_open(&h, &o);
    atomic_store(&may_fail, true);
    unsigned seed = (unsigned)seed_start();
    pthread_t t[4];
    atomic_store(&stop, false);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use, (void *)(uintptr_t)(seed + i)), 0);
    for (int i = 0; i < 400; i++) {
        atomic_store(&h.script.block_ms, (int)(next(&seed) % 8));
        atomic_store(&h.script.connects_fail, (int)(next(&seed) % 3));
        if (next(&seed) % 8 == 0)
            moor_pool_flush(h.pool);
        peer_sleep_ms(2);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    atomic_store(&may_fail, false);
    atomic_store(&h.script.block_ms, 0);
    atomic_store(&h.script.connects_fail, 0);
    assert_err(moor_pool_set(h.pool, "connect_timeout_ms", "20s", NULL, 0), MOOR_OK);
    moor_acquired a;
    eventually(moor_acquire_wait(h.pool, NULL, &a) == MOOR_OK);
    moor_release(a.lease, MOOR_REUSE);
    expect_whole();
    handles_close(&h);
}

/* Pools end while their last leases come back: whoever is last, nobody touches what is gone. */
struct last {
    moor_acquired a;
    _Atomic(int) *go;
    int spins;
};

static void *return_last(void *arg)
{
    struct last *l = arg;
    while (!atomic_load(l->go))
        ;
    for (volatile int i = 0; i < l->spins; i++)
        ;
    moor_release(l->a.lease, MOOR_REUSE);
    return NULL;
}

static void last_leases_come_back_while_the_pool_closes(void)
{
    open_runtime();
    unsigned seed = (unsigned)seed_start();
    for (int round = 0; round < 150; round++) {
        handles_open_pool(&h, NULL);
        _Atomic(int) go = 0;
        struct last l[3];
        pthread_t t[3];
        for (int i = 0; i < 3; i++) {
            assert_err(moor_acquire_wait(h.pool, NULL, &l[i].a), MOOR_OK);
            l[i].go = &go;
            l[i].spins = (int)(next(&seed) % 20000);
            assert_int_equal(pthread_create(&t[i], NULL, return_last, &l[i]), 0);
        }
        atomic_store(&go, 1);
        assert_err(moor_pool_close(h.pool, 10000), MOOR_OK);
        for (int i = 0; i < 3; i++)
            pthread_join(t[i], NULL);
    }
    fixture_close(&h.f);
    assert_int_equal(atomic_load(&h.script.dropped), atomic_load(&h.script.connects));
}

static void test_last_leases_come_back_while_the_pool_closes(void **state)
{
    (void)state;
    in_all_ways(last_leases_come_back_while_the_pool_closes);
}

/* Who waits hears of the end, and looks at nothing of the pool's after it is freed. */
static void test_waiters_leave_before_the_pool_is_freed(void **state)
{
    (void)state;
    memset(&h, 0, sizeof h);
    fixture_open_runtime(&h.f, NULL);
    for (int round = 0; round < 100; round++) {
        moor_pool_options o;
        handles_options(&o);
        handles_open_pool(&h, &o);
        atomic_store(&h.script.connect_ms, 20000);
        struct taker t[4];
        moor_why why[4];
        for (int i = 0; i < 4; i++) {
            moor_acquire_options w;
            moor_acquire_options_init(&w);
            w.why = &why[i];
            taker_start(&t[i], h.pool, &w);
        }
        eventually(handles_stats(&h).waiters == 4);
        assert_err(moor_pool_close(h.pool, 10000), MOOR_OK);
        for (int i = 0; i < 4; i++) {
            taker_join(&t[i]);
            assert_err(t[i].err, MOOR_ECLOSED);
            assert_int_equal(why[i].size, sizeof why[i]);
        }
    }
    fixture_close(&h.f);
    assert_int_equal(atomic_load(&h.script.dropped), atomic_load(&h.script.connects));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_alone),
        cmocka_unit_test(test_threads_while_the_pool_is_steered),
        cmocka_unit_test(test_a_failing_upstream_loses_nothing),
        cmocka_unit_test(test_watches_and_holders),
        cmocka_unit_test(test_late_helpers_lose_nothing),
        cmocka_unit_test(test_last_leases_come_back_while_the_pool_closes),
        cmocka_unit_test(test_waiters_leave_before_the_pool_is_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
