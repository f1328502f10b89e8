/*
 * Shards adopted by the program's own threads: driven from a poll() loop, by waiting, by blocking
 * calls; left while requests run, and adopted again.
 */
#include "tests/support/fixture_pool.h"

#include <poll.h>
#include <stdlib.h>

static struct origin_process origin;
static struct fixture f;
static moor_shard *shard;

static int setup(void **state)
{
    (void)state;
    moor_runtime_options ro;
    fixture_runtime_options(&f, &ro);
    ro.shards = 0;
    fixture_open(&f, &ro, origin.url, NULL);
    shard = NULL;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    moor_shard_leave(shard);
    fixture_close(&f);
    return 0;
}

static void adopt(void)
{
    assert_err(moor_shard_adopt(f.runtime, &shard), MOOR_OK);
    assert_ptr_equal(moor_shard_self(), shard);
}

/* As a program with a loop of its own would. */
static void drive_until_over(struct call *c)
{
    struct pollfd p = {.fd = moor_shard_fd(shard), .events = POLLIN};
    assert_true(p.fd >= 0);
    const int64_t until = fixture_now_ms() + 30000;
    while (!c->is_over) {
        const moor_ms timeout = moor_shard_timeout(shard);
        (void)!poll(&p, 1, timeout < 0 || timeout > 1000 ? 1000 : (int)timeout);
        assert_err(moor_shard_step(shard, 256), MOOR_OK);
        assert_true(fixture_now_ms() < until);
        assert_int_equal(moor_shard_fd(shard), p.fd);
    }
    call_check(c);
}

static void wait_until_over(struct call *c)
{
    const int64_t until = fixture_now_ms() + 30000;
    while (!c->is_over) {
        assert_err(moor_shard_wait(shard, 100), MOOR_OK);
        assert_true(fixture_now_ms() < until);
    }
    call_check(c);
}

static void test_a_poll_loop(void **state)
{
    (void)state;
    adopt();
    static const char *const urls[] = {"/bytes/100", "/bytes/3000000", "/delay/50",
                                       "/chunked/100000?chunk=99", "/drip?bytes=30&interval=5"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        struct call c;
        call_init(&c, f.pool, urls[i]);
        call_start_here(&c);
        assert_err(c.sent, MOOR_OK);
        drive_until_over(&c);
        assert_err(c.done.fault.err, MOOR_OK);
        assert_int_equal(c.status, 200);
        call_fini(&c);
    }
    assert_int_equal(fixture_stats(&f).conns_created, 1);
}

static void test_an_idle_poll_loop_sleeps(void **state)
{
    (void)state;
    adopt();
    struct call c;
    call_init(&c, f.pool, "/bytes/1");
    call_start_here(&c);
    drive_until_over(&c);
    call_fini(&c);
    struct pollfd p = {.fd = moor_shard_fd(shard), .events = POLLIN};
    int woken = 0;
    for (int i = 0; i < 5; i++) {
        const moor_ms timeout = moor_shard_timeout(shard);
        woken += timeout == 0 || poll(&p, 1, 20) > 0;
        assert_err(moor_shard_step(shard, 0), MOOR_OK);
    }
    assert_true(woken <= 3);
}

static void test_waiting(void **state)
{
    (void)state;
    adopt();
    struct call c;
    call_init(&c, f.pool, "/bytes/3000000");
    call_start_here(&c);
    wait_until_over(&c);
    assert_true(c.is_pattern);
    call_fini(&c);
    const int64_t began = fixture_now_ms();
    assert_err(moor_shard_wait(shard, 60), MOOR_OK);
    assert_in_range(fixture_now_ms() - began, 0, 60 + TIME_SLACK_MS);
}

static void count(void *user)
{
    ++*(int *)user;
}

struct poster {
    moor_shard *shard;
    moor_task task;
    moor_err first, second;
};

static void *post_soon(void *arg)
{
    struct poster *p = arg;
    peer_sleep_ms(50);
    p->first = moor_post(p->shard, &p->task);
    return NULL;
}

static void test_a_post_wakes_the_poll_loop(void **state)
{
    (void)state;
    adopt();
    int ran = 0;
    struct poster p = {.shard = shard, .task = {.run = count, .user = &ran}};
    pthread_t t;
    const int64_t began = fixture_now_ms();
    assert_int_equal(pthread_create(&t, NULL, post_soon, &p), 0);
    struct pollfd fd = {.fd = moor_shard_fd(shard), .events = POLLIN};
    while (!ran) {
        if (moor_shard_timeout(shard) != 0)
            (void)!poll(&fd, 1, 20000);
        assert_err(moor_shard_step(shard, 0), MOOR_OK);
    }
    assert_in_range(fixture_now_ms() - began, 45, 50 + TIME_SLACK_MS);
    pthread_join(t, NULL);
    assert_err(p.first, MOOR_OK);
    assert_int_equal(ran, 1);
    p.second = moor_post(shard, &p.task);
    assert_err(p.second, MOOR_OK);
    assert_err(moor_post(shard, &p.task), MOOR_EBUSY);
    assert_err(moor_shard_step(shard, 0), MOOR_OK);
    assert_int_equal(ran, 2);
    assert_err(moor_post(NULL, &p.task), MOOR_EINVAL);
}

static void fetch_ok(size_t bytes)
{
    char url[64];
    snprintf(url, sizeof url, "/bytes/%zu", bytes);
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = url;
    r.timeout_ms = 10000;
    moor_http_response *res = NULL;
    moor_fault fault = {0};
    const moor_err e = moor_http_fetch(f.pool, &r, &res, &fault);
    if (e)
        print_error("%s\n", fault.what);
    assert_err(e, MOOR_OK);
    assert_int_equal(res->body.len, bytes);
    moor_http_response_free(res);
}

static void test_fetch_drives_the_shard(void **state)
{
    (void)state;
    adopt();
    fetch_ok(0);
    fetch_ok(1000000);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
}

static void test_fetch_without_any_shard(void **state)
{
    (void)state;
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/";
    moor_http_response *res = NULL;
    assert_err(moor_http_fetch(f.pool, &r, &res, NULL), MOOR_ECLOSED);
    assert_int_equal(moor_runtime_shard_count(f.runtime), 0);
    assert_null(moor_shard_at(f.runtime, 0));
}

/* Timeouts run from the call, however long the program was away from its shard. */
static void test_timeouts_after_a_pause(void **state)
{
    (void)state;
    adopt();
    fetch_ok(1);
    peer_sleep_ms(400);
    struct call c;
    call_init(&c, f.pool, "/delay/50");
    c.request.timeout_ms = 350;
    call_start_here(&c);
    wait_until_over(&c);
    assert_err(c.done.fault.err, MOOR_OK);
    assert_true(c.done.total < 350 * 1000000LL);
    call_fini(&c);
    call_init(&c, f.pool, "/delay/10000");
    c.request.timeout_ms = 100;
    peer_sleep_ms(100);
    const int64_t began = fixture_now_ms();
    call_start_here(&c);
    drive_until_over(&c);
    assert_err(c.done.fault.err, MOOR_ETIMEDOUT);
    assert_in_range(fixture_now_ms() - began, 98, 100 + TIME_SLACK_MS);
    call_fini(&c);
}

static void *fetch_elsewhere(void *arg)
{
    (void)arg;
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/bytes/100000";
    moor_http_response *res = NULL;
    const moor_err e = moor_http_fetch(f.pool, &r, &res, NULL);
    moor_http_response_free(res);
    return (void *)(intptr_t)e;
}

static void test_fetch_from_another_thread_is_served(void **state)
{
    (void)state;
    adopt();
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, fetch_elsewhere, NULL), 0);
    const int64_t until = fixture_now_ms() + 30000;
    moor_stats s;
    do
        assert_err(moor_shard_wait(shard, 20), MOOR_OK);
    while ((s = fixture_stats(&f)).requests < 1 && fixture_now_ms() < until);
    void *e;
    pthread_join(t, &e);
    assert_ptr_equal(e, NULL);
}

static void test_one_shard_per_thread(void **state)
{
    (void)state;
    adopt();
    moor_shard *second = NULL;
    assert_err(moor_shard_adopt(f.runtime, &second), MOOR_EBUSY);
    assert_null(second);
    assert_err(moor_runtime_destroy(f.runtime, 0), MOOR_EWRONGTHREAD);
}

struct outsider {
    moor_err step, wait;
    int fd;
    moor_ms timeout;
};

static void *act_as_outsider(void *arg)
{
    struct outsider *o = arg;
    o->step = moor_shard_step(shard, 0);
    o->wait = moor_shard_wait(shard, 0);
    o->fd = moor_shard_fd(shard);
    moor_shard_leave(shard);
    return NULL;
}

static void step_inside(struct call *c)
{
    struct outsider *o = c->user;
    o->step = moor_shard_step(shard, 0);
    o->wait = moor_shard_wait(shard, 0);
    moor_shard_leave(shard);
}

static void test_the_wrong_thread(void **state)
{
    (void)state;
    adopt();
    struct outsider o = {0};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, act_as_outsider, &o), 0);
    pthread_join(t, NULL);
    assert_err(o.step, MOOR_EWRONGTHREAD);
    assert_err(o.wait, MOOR_EWRONGTHREAD);
    assert_int_equal(o.fd, -1);
    /* Nor from within a callback. */
    struct call c;
    call_init(&c, f.pool, "/bytes/1");
    c.user = &o;
    c.on_done = step_inside;
    o = (struct outsider){0};
    call_start_here(&c);
    wait_until_over(&c);
    assert_err(o.step, MOOR_EWRONGTHREAD);
    assert_err(o.wait, MOOR_EWRONGTHREAD);
    call_fini(&c);
    fetch_ok(1);
}

/* ---- leaving ---- */

static void test_leaving_ends_what_runs(void **state)
{
    (void)state;
    adopt();
    struct call held, running, waiting;
    call_init(&held, f.pool, "/bytes/100000");
    held.is_holding = true;
    call_start_here(&held);
    wait_until_over(&held);
    call_init(&running, f.pool, "/delay/20000");
    call_start_here(&running);
    for (int i = 0; i < 10; i++)
        assert_err(moor_shard_wait(shard, 5), MOOR_OK);
    call_init(&waiting, f.pool, "/");
    call_start_here(&waiting); /* no turn since */
    moor_shard_leave(shard);
    shard = NULL;
    assert_null(moor_shard_self());
    assert_true(running.is_over && waiting.is_over);
    assert_err(running.done.fault.err, MOOR_ECANCELED);
    assert_false(running.done.fault.safe_to_retry);
    assert_err(waiting.done.fault.err, MOOR_ECANCELED);
    assert_true(waiting.done.fault.safe_to_retry);
    call_check(&running);
    call_check(&waiting);
    moor_cancel(running.op);
    /* Chunks outlive the shard's driver. */
    uint64_t at = 0;
    for (int i = 0; i < held.held_count; i++)
        for (size_t k = 0; k < held.held[i].bytes.len; k++, at++)
            assert_int_equal(((const uint8_t *)held.held[i].bytes.base)[k], at % 251 * 131 % 251);
    assert_int_equal(fixture_stats(&f).conns_open, 0);
    assert_err(moor_pool_close(f.pool, 20), MOOR_EBUSY);
    call_return_all(&held);
    assert_err(moor_pool_close(f.pool, 1000), MOOR_OK);
    f.pool = NULL;
    call_fini(&held);
    call_fini(&running);
    call_fini(&waiting);
}

static void test_leaving_and_adopting_again(void **state)
{
    (void)state;
    struct call held;
    call_init(&held, f.pool, "/bytes/50000");
    held.is_holding = true;
    for (int i = 0; i < 5; i++) {
        adopt();
        assert_int_equal(moor_runtime_shard_count(f.runtime), 1);
        fetch_ok(1000);
        if (i == 0) {
            call_start_here(&held);
            wait_until_over(&held);
        }
        if (i == 3)
            call_return_all(&held);
        moor_shard_leave(shard);
        shard = NULL;
        assert_int_equal(fixture_stats(&f).conns_open, 0);
    }
    assert_int_equal(fixture_stats(&f).chunks_lent, 0);
    call_fini(&held);
}

static void test_posting_to_a_shard_that_left(void **state)
{
    (void)state;
    adopt();
    moor_shard *gone = shard;
    moor_shard_leave(shard);
    shard = NULL;
    int ran = 0;
    moor_task t = {.run = count, .user = &ran};
    assert_err(moor_post(gone, &t), MOOR_ECLOSED);
    assert_err(moor_post(gone, &t), MOOR_ECLOSED);
    assert_int_equal(ran, 0);
}

static void test_closing_the_pool_drives_the_shard(void **state)
{
    (void)state;
    adopt();
    fetch_ok(1);
    struct call c;
    call_init(&c, f.pool, "/delay/100");
    call_start_here(&c);
    assert_err(moor_shard_wait(shard, 50), MOOR_OK);
    assert_err(moor_pool_close(f.pool, 5000), MOOR_OK);
    f.pool = NULL;
    assert_true(c.is_over);
    assert_err(c.done.fault.err, MOOR_OK);
    call_fini(&c);
}

static void *live_on_a_shard(void *arg)
{
    (void)arg;
    moor_shard *mine = NULL;
    if (moor_shard_adopt(f.runtime, &mine))
        return (void *)1;
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/bytes/10000";
    long bad = 0;
    for (int i = 0; i < 50; i++) {
        moor_http_response *res = NULL;
        bad += moor_http_fetch(f.pool, &r, &res, NULL) != MOOR_OK;
        moor_http_response_free(res);
    }
    moor_shard_leave(mine);
    return (void *)bad;
}

static void test_four_threads_with_shards_of_their_own(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        pthread_t t[4];
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&t[i], NULL, live_on_a_shard, NULL), 0);
        for (int i = 0; i < 4; i++) {
            void *bad;
            pthread_join(t[i], &bad);
            assert_ptr_equal(bad, NULL);
        }
    }
    assert_in_range(moor_runtime_shard_count(f.runtime), 1, 4);
    assert_int_equal(fixture_stats(&f).conns_open, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        T(a_poll_loop),
        T(an_idle_poll_loop_sleeps),
        T(waiting),
        T(a_post_wakes_the_poll_loop),
        T(fetch_drives_the_shard),
        T(fetch_without_any_shard),
        T(timeouts_after_a_pause),
        T(fetch_from_another_thread_is_served),
        T(one_shard_per_thread),
        T(the_wrong_thread),
        T(leaving_ends_what_runs),
        T(leaving_and_adopting_again),
        T(posting_to_a_shard_that_left),
        T(closing_the_pool_drives_the_shard),
        T(four_threads_with_shards_of_their_own),
#undef T
    };
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
