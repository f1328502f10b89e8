/*
 * How pools of handle leases end, and who asks on a shard: drains with waiters and leases out, asks canceled at every
 * point, threads that drive their own shard, children, many leases and many pools.
 */
#include "tests/support/handle_fixture.h"

#include <stdlib.h>
#include <mooring/event.h>

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- drain and close ---- */

static _Atomic(int) drained;

static void on_drained(void *user)
{
    (void)user;
    atomic_fetch_add(&drained, 1);
}

static void test_a_drain_lets_leases_finish(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 2;
    handles_open(&h, &o);
    moor_acquired a[2];
    struct taker t[3];
    for (int i = 0; i < 2; i++)
        assert_err(moor_acquire_wait(h.pool, NULL, &a[i]), MOOR_OK);
    for (uint64_t i = 0; i < 3; i++) {
        taker_start(&t[i], h.pool, NULL);
        eventually(handles_stats(&h).waiters == i + 1);
    }
    atomic_store(&drained, 0);
    moor_pool_drain(h.pool, 20000, on_drained, NULL);
    for (int i = 0; i < 3; i++) {
        taker_join(&t[i]);
        assert_err(t[i].err, MOOR_ECLOSED);
        assert_true(t[i].got.fault.safe_to_retry);
    }
    moor_acquired none;
    assert_err(moor_acquire_wait(h.pool, NULL, &none), MOOR_ECLOSED);
    assert_err(moor_acquire_try(h.pool, NULL, &none), MOOR_ECLOSED);
    moor_acquired nones[2];
    assert_err(moor_acquire_many(h.pool, NULL, 2, nones), MOOR_ECLOSED);
    assert_err(moor_pool_close(h.pool, 0), MOOR_EBUSY);
    assert_int_equal(atomic_load(&drained), 0);
    for (int i = 0; i < 2; i++) {
        dummy_enter(a[i].native);
        dummy_leave(a[i].native);
        moor_release(a[i].lease, MOOR_REUSE);
    }
    eventually(atomic_load(&drained) == 1);
    handles_close(&h);
}

static void test_leases_out_keep_a_pool(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired a[3];
    for (int i = 0; i < 3; i++)
        assert_err(moor_acquire_wait(h.pool, NULL, &a[i]), MOOR_OK);
    atomic_store(&drained, 0);
    moor_pool_drain(h.pool, 0, on_drained, NULL);
    for (int i = 0; i < 3; i++) {
        assert_err(moor_pool_close(h.pool, 0), MOOR_EBUSY);
        assert_int_equal(atomic_load(&drained), 0);
        assert_ptr_equal(moor_lease_native(a[i].lease), a[i].native);
        moor_lease_report(a[i].lease, "25006", 0);
        moor_release(a[i].lease, i == 1 ? MOOR_DIRTY : MOOR_REUSE);
    }
    eventually(atomic_load(&drained) == 1);
    assert_int_equal(atomic_load(&h.script.resets), 0); /* nobody comes after them */
    handles_close(&h);
    assert_int_equal(atomic_load(&drained), 1);
}

static void test_the_end_while_things_are_under_way(void **state)
{
    (void)state;
    for (int kind = 0; kind < 5; kind++) {
        struct handles h;
        handles_open(&h, NULL);
        moor_acquired a;
        assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
        struct taker t = {0};
        if (kind == 0) { /* a reset */
            atomic_store(&h.script.reset_ms, 30);
            moor_release(a.lease, MOOR_DIRTY);
        } else if (kind == 1) { /* a goodbye */
            atomic_store(&h.script.close_ms, 30);
            moor_release(a.lease, MOOR_DISCARD);
        } else if (kind == 2) { /* a dial somebody waits for */
            atomic_store(&h.script.connect_ms, 30000);
            taker_start(&t, h.pool, NULL);
            eventually(handles_stats(&h).dials == 1);
            moor_release(a.lease, MOOR_REUSE);
            taker_join(&t);
            assert_err(t.err, MOOR_OK);
            moor_release(t.got.lease, MOOR_REUSE);
        } else if (kind == 3) { /* a pause */
            assert_err(moor_pool_pause(h.pool, false), MOOR_OK);
            moor_release(a.lease, MOOR_REUSE);
        } else { /* a check */
            atomic_store(&h.script.check_ms, 30);
            assert_err(moor_pool_set(h.pool, "check_on_return", "1", NULL, 0), MOOR_OK);
            moor_release(a.lease, MOOR_REUSE);
        }
        handles_close(&h);
    }
}

/* What lies idle once the gate is shut for good is closed, whoever laid it there and when. */
static void test_what_comes_back_as_the_drain_begins_is_closed(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    for (int round = 0; round < 300; round++) {
        if (round)
            handles_open_pool(&h, NULL);
        struct taker t;
        taker_start(&t, h.pool, NULL);
        taker_join(&t);
        assert_err(t.err, MOOR_OK);
        moor_pool_drain(h.pool, 1000, NULL, NULL);
        moor_release(t.got.lease, MOOR_REUSE);
        assert_err(moor_pool_close(h.pool, 5000), MOOR_OK);
    }
    h.pool = NULL;
    fixture_close(&h.f);
}

/* ---- asking on a shard ---- */

struct ask {
    moor_pool *pool;
    moor_acquire_options options;
    moor_task task, cancel_task;
    moor_op op;
    moor_err sent;
    bool cancels_at_once, is_inside;
    moor_acquired got;
    bool has_why;
    pthread_t thread;
    _Atomic(int) submitted, over, canceled;
};

static void on_acquired(void *user, const moor_acquired *a)
{
    struct ask *q = user;
    if (q->is_inside)
        fail_msg("told inside the call");
    q->got = *a;
    q->has_why = a->why;
    q->thread = pthread_self();
    if (!a->fault.err)
        dummy_enter(a->native);
    moor_acquired b;
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.affinity = 1; /* not by the fast path */
    if (moor_acquire_wait(q->pool, &w, &b) != MOOR_EWRONGTHREAD)
        fail_msg("slept in a callback");
    atomic_fetch_add(&q->over, 1);
}

static void submit(void *user)
{
    struct ask *q = user;
    q->is_inside = true;
    q->sent = moor_acquire(q->pool, &q->options, on_acquired, q, &q->op);
    q->is_inside = false;
    if (q->cancels_at_once)
        moor_cancel(q->op);
    atomic_store(&q->submitted, 1);
}

static void ask_begin(struct ask *q, struct handles *h, bool cancels_at_once)
{
    memset(q, 0, sizeof *q);
    q->pool = h->pool;
    q->cancels_at_once = cancels_at_once;
    moor_acquire_options_init(&q->options);
    q->task = (moor_task){.run = submit, .user = q};
    assert_err(moor_post(moor_shard_at(h->f.runtime, 0), &q->task), MOOR_OK);
    eventually(atomic_load(&q->submitted));
}

static void ask_end(struct ask *q)
{
    eventually(atomic_load(&q->over) == 1);
    if (!q->got.fault.err) {
        dummy_leave(q->got.native);
        moor_release(q->got.lease, MOOR_REUSE);
    }
}

static void test_asks_are_answered_on_their_shard(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 1;
    o.waiters_max = 2;
    handles_open(&h, &o);
    struct ask q[4];
    ask_begin(&q[0], &h, false);
    assert_err(q[0].sent, MOOR_OK);
    eventually(atomic_load(&q[0].over) == 1);
    assert_err(q[0].got.fault.err, MOOR_OK);
    for (int i = 1; i < 4; i++)
        ask_begin(&q[i], &h, false);
    assert_err(q[3].sent, MOOR_EBUSY);
    for (int i = 0; i < 3; i++) {
        ask_end(&q[i]);
        assert_err(q[i].got.fault.err, MOOR_OK);
        assert_true(pthread_equal(q[i].thread, q[0].thread));
    }
    assert_int_equal(atomic_load(&q[3].over), 0);
    handles_close(&h);
}

struct later {
    moor_lease lease;
    int spins;
};

static void *release_later(void *arg)
{
    struct later *l = arg;
    for (volatile int i = 0; i < l->spins; i++)
        ;
    moor_release(l->lease, MOOR_REUSE);
    return NULL;
}

static void test_asks_time_out(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 1;
    o.acquire_timeout_ms = 30;
    handles_open(&h, &o);
    moor_acquired held;
    assert_err(moor_acquire_wait(h.pool, NULL, &held), MOOR_OK);
    struct ask q;
    ask_begin(&q, &h, false);
    ask_end(&q);
    assert_err(q.got.fault.err, MOOR_ETIMEDOUT);
    assert_true(q.has_why);
    assert_true(q.got.waited >= 30 * 1000000LL);
    assert_err(moor_pool_set(h.pool, "acquire_timeout_ms", "0", NULL, 0), MOOR_OK);
    ask_begin(&q, &h, false);
    assert_err(q.sent, MOOR_OK); /* told by the callback, as any other */
    ask_end(&q);
    assert_err(q.got.fault.err, MOOR_ETIMEDOUT);
    moor_release(held.lease, MOOR_REUSE);
    handles_close(&h);
}

/* Before the grant, together with it, after it: told once, and nothing is lost. */
static void test_asks_are_canceled_at_every_point(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 1;
    handles_open(&h, &o);
    struct ask q;
    moor_acquired held;
    assert_err(moor_acquire_wait(h.pool, NULL, &held), MOOR_OK);
    ask_begin(&q, &h, false); /* queued */
    moor_cancel(q.op);
    ask_end(&q);
    assert_err(q.got.fault.err, MOOR_ECANCELED);
    moor_release(held.lease, MOOR_REUSE);
    ask_begin(&q, &h, true); /* served inside the call: told first, or canceled */
    ask_end(&q);
    assert_true(q.got.fault.err == MOOR_OK || q.got.fault.err == MOOR_ECANCELED);
    assert_int_equal(handles_stats(&h).conns_leased, 0);
    ask_begin(&q, &h, false);
    eventually(atomic_load(&q.over) == 1);
    moor_cancel(q.op); /* too late: nothing */
    assert_err(q.got.fault.err, MOOR_OK);
    assert_ptr_equal(moor_lease_native(q.got.lease), q.got.native);
    ask_end(&q);
    int canceled = 0;
    for (int i = 0; i < 500; i++) { /* as it is granted, from another thread */
        assert_err(moor_acquire_wait(h.pool, NULL, &held), MOOR_OK);
        ask_begin(&q, &h, false);
        pthread_t thread;
        struct later l = {held.lease, i * 20};
        assert_int_equal(pthread_create(&thread, NULL, release_later, &l), 0);
        for (volatile int spin = 0; spin < (500 - i) * 60; spin++)
            ;
        moor_cancel(q.op);
        ask_end(&q);
        pthread_join(thread, NULL);
        canceled += q.got.fault.err != MOOR_OK;
        assert_true(q.got.fault.err == MOOR_OK || q.got.fault.err == MOOR_ECANCELED);
    }
    printf("%d of 500 canceled\n", canceled);
    assert_int_equal(handles_stats(&h).conns_leased, 0);
    assert_int_equal(handles_stats(&h).conns_open, 1);
    handles_close(&h);
}

/* A canceled ask whose link was on its way hands it to whoever is next, not to nobody. */
static void test_a_canceled_grant_goes_to_the_next(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 1;
    handles_open(&h, &o);
    for (int i = 0; i < 200; i++) {
        moor_acquired held;
        struct ask q;
        struct taker t;
        assert_err(moor_acquire_wait(h.pool, NULL, &held), MOOR_OK);
        ask_begin(&q, &h, false);
        taker_start(&t, h.pool, NULL);
        eventually(handles_stats(&h).waiters == 2);
        moor_release(held.lease, MOOR_REUSE);
        moor_cancel(q.op);
        ask_end(&q);
        taker_join(&t);
        assert_err(t.err, MOOR_OK);
        moor_release(t.got.lease, MOOR_REUSE);
    }
    handles_close(&h);
}

static void test_asks_end_with_their_pool(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    for (int i = 0; i < 100; i++) {
        if (i)
            handles_open_pool(&h, NULL);
        struct ask q[3];
        atomic_store(&h.script.connect_ms, i % 2 ? 1 : 20000);
        for (int j = 0; j < 3; j++)
            ask_begin(&q[j], &h, false);
        moor_pool_drain(h.pool, 0, NULL, NULL);
        for (int j = 0; j < 3; j++) {
            ask_end(&q[j]);
            const moor_err e = q[j].got.fault.err;
            assert_true(e == MOOR_OK || e == MOOR_ECLOSED || e == MOOR_ECANCELED);
        }
        assert_err(moor_pool_close(h.pool, 5000), MOOR_OK);
    }
    h.pool = NULL;
    fixture_close(&h.f);
}

/* ---- shards of the program's own ---- */

static void test_a_single_thread_drives_itself(void **state)
{
    (void)state;
    struct handles h;
    moor_runtime_options ro;
    moor_pool_options o;
    memset(&h, 0, sizeof h);
    fixture_runtime_options(&h.f, &ro);
    ro.shards = 0;
    fixture_open_runtime(&h.f, &ro);
    moor_shard *s = NULL;
    assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
    handles_options(&o);
    o.conns_max = 2;
    handles_open_pool(&h, &o);
    atomic_store(&h.script.connect_ms, 5);
    moor_acquired a[2], b;
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = 30;
    assert_err(moor_acquire_many(h.pool, NULL, 2, a), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, &w, &b), MOOR_ETIMEDOUT);
    moor_release(a[0].lease, MOOR_DIRTY);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK); /* the reset is this thread's work */
    moor_release(b.lease, MOOR_DISCARD);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK);
    moor_release(b.lease, MOOR_REUSE);
    moor_release(a[1].lease, MOOR_REUSE);
    assert_err(moor_pool_warm(h.pool, 2, 5000, NULL, NULL), MOOR_OK);
    /* While it is away, leases go on; while nobody drives, waiters wait for what comes back. */
    moor_shard_leave(s);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, NULL, &a[0]), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, &w, &a[1]), MOOR_ETIMEDOUT);
    struct taker t;
    taker_start(&t, h.pool, NULL);
    eventually(handles_stats(&h).waiters == 1);
    moor_release(b.lease, MOOR_REUSE);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    moor_release(t.got.lease, MOOR_DISCARD); /* closed by the next who drives */
    assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK);
    moor_release(b.lease, MOOR_REUSE);
    moor_release(a[0].lease, MOOR_REUSE);
    assert_err(moor_pool_close(h.pool, 5000), MOOR_OK);
    moor_shard_leave(s);
    h.pool = NULL;
    fixture_close(&h.f);
    assert_int_equal(atomic_load(&h.script.dropped), atomic_load(&h.script.connects));
}

static void test_a_shard_is_left_while_it_works(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        struct handles h;
        moor_runtime_options ro;
        memset(&h, 0, sizeof h);
        fixture_runtime_options(&h.f, &ro);
        ro.shards = 0;
        fixture_open_runtime(&h.f, &ro);
        moor_shard *s = NULL;
        assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
        handles_open_pool(&h, NULL);
        moor_acquired a;
        assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
        if (kind == 0) {
            atomic_store(&h.script.reset_ms, 20000);
            moor_release(a.lease, MOOR_DIRTY);
        } else if (kind == 1) {
            atomic_store(&h.script.close_ms, 20000);
            moor_release(a.lease, MOOR_DISCARD);
        } else {
            atomic_store(kind == 2 ? &h.script.connect_ms : &h.script.block_ms, 300);
            moor_acquire_options w;
            moor_acquire_options_init(&w);
            w.timeout_ms = 20;
            moor_acquired b;
            assert_err(moor_acquire_wait(h.pool, &w, &b), MOOR_ETIMEDOUT);
            moor_release(a.lease, MOOR_REUSE);
        }
        for (int i = 0; i < 3; i++)
            assert_err(moor_shard_step(s, 16), MOOR_OK);
        moor_shard_leave(s);
        assert_err(moor_pool_close(h.pool, 5000), MOOR_OK);
        h.pool = NULL;
        fixture_close(&h.f);
        assert_int_equal(atomic_load(&h.script.dropped), atomic_load(&h.script.connects));
    }
}

/* ---- children ---- */

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void use_in_child(struct handles *h, moor_lease held)
{
    moor_acquired a;
    CHECK(moor_acquire_wait(h->pool, NULL, &a) == MOOR_EFORKED);
    CHECK(moor_acquire_try(h->pool, NULL, &a) == MOOR_EFORKED);
    CHECK(moor_acquire_many(h->pool, NULL, 1, &a) == MOOR_EFORKED);
    CHECK(moor_with_lease(h->pool, NULL, (void *)abort, NULL) == MOOR_EFORKED);
    CHECK(moor_lease_native(held) == NULL);
    CHECK(moor_lease_link(held) == NULL);
    moor_lease_report(held, "25006", 0);
    moor_release(held, MOOR_DISCARD);
    moor_pool_flush(h->pool);
    moor_pool_resume(h->pool);
    moor_pool_drain(h->pool, 0, NULL, NULL);
    CHECK(moor_pool_pause(h->pool, true) == MOOR_EFORKED);
    CHECK(moor_pool_set(h->pool, "conns_max", "1", NULL, 0) == MOOR_EFORKED);
    CHECK(moor_pool_warm(h->pool, 3, 1000, NULL, NULL) == MOOR_EFORKED);
    CHECK(moor_pool_replace(h->pool, "dummy://127.0.0.9:1", NULL) == MOOR_EFORKED);
    CHECK(moor_driver_use(h->f.runtime, &dummy_driver) == MOOR_EFORKED);
    CHECK(moor_pool_close(h->pool, 0) == MOOR_EFORKED);
    _exit(0);
}

static void test_a_child_gets_an_error_and_the_parent_notices_nothing(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_acquired held, idle;
    assert_err(moor_acquire_wait(h.pool, NULL, &held), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, NULL, &idle), MOOR_OK);
    moor_release(idle.lease, MOOR_REUSE);
    const pid_t pid = fork();
    if (!pid)
        use_in_child(&h, held.lease);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_ptr_equal(moor_lease_native(held.lease), held.native);
    moor_release(held.lease, MOOR_REUSE);
    assert_int_equal(handles_stats(&h).conns_idle, 2);
    handles_close(&h);
}

/* ---- many ---- */

static void test_a_thousand_leases_at_once(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    static moor_acquired a[1000];
    handles_options(&o);
    o.conns_max = 1000;
    o.dials_max = 100;
    handles_open(&h, &o);
    for (int i = 0; i < 500; i++)
        assert_err(moor_acquire_wait(h.pool, NULL, &a[i]), MOOR_OK);
    assert_err(moor_acquire_many(h.pool, NULL, 500, a + 500), MOOR_OK);
    for (int i = 0; i < 1000; i++)
        dummy_enter(a[i].native);
    assert_int_equal(handles_stats(&h).conns_leased, 1000);
    for (int i = 0; i < 1000; i++) {
        dummy_leave(a[i].native);
        moor_release(a[i].lease, i % 10 ? MOOR_REUSE : MOOR_DIRTY);
    }
    eventually(handles_stats(&h).conns_idle == 1000);
    moor_pool_flush(h.pool);
    eventually(handles_stats(&h).conns_open == 0);
    handles_close(&h);
}

static void test_a_hundred_pools(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    moor_pool *pools[100];
    handles_open(&h, NULL);
    assert_err(moor_driver_use(h.f.runtime, &dummy_driver), MOOR_OK);
    handles_options(&o);
    o.driver_config = &h.script;
    o.conns_min_idle = 2;
    for (int i = 0; i < 100; i++)
        assert_err(moor_pool_open(h.f.runtime, "dummy://127.0.0.1:1", &o, &pools[i]), MOOR_OK);
    peer_sleep_ms(20);
    assert_int_equal(atomic_load(&h.script.connects), 0);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 100; i++) {
            moor_acquired a;
            assert_err(moor_acquire_wait(pools[i], NULL, &a), MOOR_OK);
            dummy_enter(a.native);
            dummy_leave(a.native);
            moor_release(a.lease, MOOR_REUSE);
        }
    for (int i = 0; i < 100; i++)
        assert_err(moor_pool_close(pools[i], 5000), MOOR_OK);
    handles_close(&h);
}

/* ---- caps that pools share ---- */

static void test_pools_share_a_cap(void **state)
{
    (void)state;
    struct handles h;
    moor_runtime_options ro;
    moor_pool_options o;
    moor_pool *other;
    memset(&h, 0, sizeof h);
    fixture_runtime_options(&h.f, &ro);
    ro.conns_max_runtime = 2;
    fixture_open_runtime(&h.f, &ro);
    handles_open_pool(&h, NULL);
    assert_err(moor_driver_use(h.f.runtime, &dummy_driver), MOOR_OK);
    handles_options(&o);
    o.driver_config = &h.script;
    assert_err(moor_pool_open(h.f.runtime, "dummy://127.0.0.2:1", &o, &other), MOOR_OK);
    moor_acquired a[2], b;
    for (int i = 0; i < 2; i++)
        assert_err(moor_acquire_wait(h.pool, NULL, &a[i]), MOOR_OK);
    moor_release(a[0].lease, MOOR_REUSE);
    /* What lies idle gives way. */
    assert_err(moor_acquire_wait(other, NULL, &b), MOOR_OK);
    assert_int_equal(handles_stats(&h).conns_open, 1);
    /* And what ends makes room. */
    struct taker t, u;
    taker_start(&u, other, NULL);
    peer_sleep_ms(30);
    assert_false(atomic_load(&u.is_over));
    moor_release(a[1].lease, MOOR_DISCARD);
    taker_join(&u);
    assert_err(u.err, MOOR_OK);
    taker_start(&t, h.pool, NULL);
    peer_sleep_ms(30);
    assert_false(atomic_load(&t.is_over));
    moor_release(b.lease, MOOR_REUSE); /* idle, and wanted elsewhere */
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    moor_release(t.got.lease, MOOR_REUSE);
    moor_release(u.got.lease, MOOR_REUSE);
    assert_err(moor_pool_close(other, 5000), MOOR_OK);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_drain_lets_leases_finish),
        cmocka_unit_test(test_leases_out_keep_a_pool),
        cmocka_unit_test(test_the_end_while_things_are_under_way),
        cmocka_unit_test(test_what_comes_back_as_the_drain_begins_is_closed),
        cmocka_unit_test(test_asks_are_answered_on_their_shard),
        cmocka_unit_test(test_asks_time_out),
        cmocka_unit_test(test_asks_are_canceled_at_every_point),
        cmocka_unit_test(test_a_canceled_grant_goes_to_the_next),
        cmocka_unit_test(test_asks_end_with_their_pool),
        cmocka_unit_test(test_a_single_thread_drives_itself),
        cmocka_unit_test(test_a_shard_is_left_while_it_works),
        cmocka_unit_test(test_a_child_gets_an_error_and_the_parent_notices_nothing),
        cmocka_unit_test(test_a_thousand_leases_at_once),
        cmocka_unit_test(test_a_hundred_pools),
        cmocka_unit_test(test_pools_share_a_cap),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    handles_are_plain = true;
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
