/*
 * How connections and pools end: idle, old, used up; kept at a minimum; drained, closed, destroyed.
 */
#include "tests/support/fixture_pool.h"

static struct peer peer;
static struct fixture f;

static void open_with(peer_fn serve, void (*change)(moor_pool_options *o))
{
    peer_start(&peer, serve, NULL);
    moor_pool_options po;
    fixture_pool_options(&po);
    if (change)
        change(&po);
    fixture_open(&f, NULL, peer.url, &po);
}

static void end(void)
{
    fixture_close(&f);
    peer_stop(&peer);
}

static void answer_after_200_ms(struct peer_conn *c)
{
    while (peer_head(c)) {
        peer_sleep_ms(200);
        if (!peer_say(c, PEER_OK))
            return;
    }
}

static void answer_never(struct peer_conn *c)
{
    if (peer_head(c))
        peer_linger(c);
}

/* ---- connections ---- */

static void idle_for_150_ms(moor_pool_options *o)
{
    o->idle_timeout_ms = 150;
}

static void test_the_idle_timeout(void **state)
{
    (void)state;
    open_with(peer_serve_ok, idle_for_150_ms);
    fixture_get_ok(&f);
    const int64_t began = fixture_now_ms();
    eventually(fixture_stats(&f).conns_open == 0);
    assert_in_range(fixture_now_ms() - began, 100, 150 + TIME_SLACK_MS);
    assert_int_equal(fixture_stats(&f).conns_retired, 0);
    fixture_get_ok(&f);
    assert_int_equal(atomic_load(&peer.accepted), 2);
    end();
}

static void live_for_300_ms(moor_pool_options *o)
{
    o->lifetime_max_ms = 300;
    o->lifetime_jitter_percent = 20;
}

static void test_the_lifetime(void **state)
{
    (void)state;
    open_with(peer_serve_ok, live_for_300_ms);
    const int64_t began = fixture_now_ms();
    while (fixture_now_ms() - began < 1000) {
        fixture_get_ok(&f);
        peer_sleep_ms(5);
    }
    /* Between 240 and 360 ms each: busy or not. */
    assert_in_range(atomic_load(&peer.accepted), 2, 6);
    assert_int_equal(fixture_stats(&f).requests_failed, 0);
    eventually(fixture_stats(&f).conns_open == 0);
    end();
}

static void use_three_times(moor_pool_options *o)
{
    o->uses_max = 3;
}

static void test_the_most_uses(void **state)
{
    (void)state;
    open_with(peer_serve_ok, use_three_times);
    for (int i = 0; i < 9; i++)
        fixture_get_ok(&f);
    assert_int_equal(atomic_load(&peer.accepted), 3);
    eventually(fixture_stats(&f).conns_open == 0);
    end();
}

static void keep_four(moor_pool_options *o)
{
    o->conns_min_idle = 4;
    o->idle_timeout_ms = 100;
}

static void test_the_minimum_of_idle_connections(void **state)
{
    (void)state;
    open_with(peer_serve_ok, keep_four);
    fixture_get_ok(&f);
    eventually(fixture_stats(&f).conns_idle >= 4);
    peer_sleep_ms(400);
    assert_int_equal(fixture_stats(&f).conns_idle, 4);
    /* More are made, come back, and are let go down to the minimum. */
    struct call calls[10];
    for (int i = 0; i < 10; i++) {
        call_init(&calls[i], f.pool, "/");
        call_start(&f, &calls[i]);
    }
    for (int i = 0; i < 10; i++) {
        call_wait(&calls[i]);
        call_fini(&calls[i]);
    }
    eventually(fixture_stats(&f).conns_open == 4);
    end();
}

static void keep_more_than_allowed(moor_pool_options *o)
{
    o->conns_min_idle = 50;
    o->conns_max = 3;
}

static void test_the_minimum_never_passes_the_cap(void **state)
{
    (void)state;
    open_with(peer_serve_ok, keep_more_than_allowed);
    fixture_get_ok(&f);
    peer_sleep_ms(100);
    assert_int_equal(atomic_load(&peer.accepted), 3);
    end();
}

/* ---- pools ---- */

static atomic_int drained;

static void count_drained(void *user)
{
    (void)user;
    atomic_fetch_add(&drained, 1);
}

static void cap_of_one(moor_pool_options *o)
{
    o->conns_max = 1;
}

static void test_draining_lets_finish_and_refuses_new(void **state)
{
    (void)state;
    open_with(answer_after_200_ms, cap_of_one);
    atomic_store(&drained, 0);
    struct call running, waiting, late;
    call_init(&running, f.pool, "/");
    call_start(&f, &running);
    eventually(atomic_load(&peer.requests) == 1);
    call_init(&waiting, f.pool, "/");
    call_start(&f, &waiting);
    moor_pool_drain(f.pool, 10000, count_drained, NULL);
    call_wait(&waiting);
    assert_err(waiting.done.fault.err, MOOR_ECLOSED);
    assert_true(waiting.done.fault.safe_to_retry);
    assert_false(call_is_over(&running));
    call_init(&late, f.pool, "/");
    call_start(&f, &late);
    assert_err(late.sent, MOOR_ECLOSED);
    call_wait(&running);
    assert_err(running.done.fault.err, MOOR_OK);
    eventually(atomic_load(&drained) == 1);
    moor_pool_drain(f.pool, 0, NULL, NULL);
    call_fini(&running);
    call_fini(&waiting);
    call_fini(&late);
    end();
    assert_int_equal(atomic_load(&drained), 1);
}

static void test_draining_cancels_at_the_deadline(void **state)
{
    (void)state;
    open_with(answer_never, NULL);
    atomic_store(&drained, 0);
    struct call c;
    call_init(&c, f.pool, "/");
    call_start(&f, &c);
    eventually(atomic_load(&peer.requests) == 1);
    const int64_t began = fixture_now_ms();
    moor_pool_drain(f.pool, 150, count_drained, NULL);
    call_wait(&c);
    assert_in_range(fixture_now_ms() - began, 148, 150 + TIME_SLACK_MS);
    assert_err(c.done.fault.err, MOOR_ECANCELED);
    assert_false(c.done.fault.safe_to_retry);
    eventually(atomic_load(&drained) == 1);
    call_fini(&c);
    end();
}

static void test_a_second_drain_shortens_the_deadline(void **state)
{
    (void)state;
    open_with(answer_never, NULL);
    struct call c;
    call_init(&c, f.pool, "/");
    call_start(&f, &c);
    eventually(atomic_load(&peer.requests) == 1);
    moor_pool_drain(f.pool, 60000, NULL, NULL);
    peer_sleep_ms(50);
    assert_false(call_is_over(&c));
    moor_pool_drain(f.pool, 0, NULL, NULL);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_ECANCELED);
    call_fini(&c);
    end();
}

static void test_a_pool_nobody_used(void **state)
{
    (void)state;
    open_with(peer_serve_ok, NULL);
    atomic_store(&drained, 0);
    moor_pool_drain(f.pool, 0, count_drained, NULL);
    eventually(atomic_load(&drained) == 1);
    assert_err(moor_pool_close(NULL, 0), MOOR_OK);
    assert_err(moor_runtime_destroy(NULL, 0), MOOR_OK);
    end();
}

static void test_closing_cancels_what_runs(void **state)
{
    (void)state;
    open_with(answer_never, NULL);
    struct call c;
    call_init(&c, f.pool, "/");
    call_start(&f, &c);
    eventually(atomic_load(&peer.requests) == 1);
    assert_err(moor_pool_close(f.pool, 50), MOOR_OK);
    f.pool = NULL;
    assert_true(call_is_over(&c));
    assert_err(c.done.fault.err, MOOR_ECANCELED);
    call_fini(&c);
    end();
}

static void test_destroying_closes_open_pools(void **state)
{
    (void)state;
    open_with(answer_never, NULL);
    moor_pool *others[20];
    for (int i = 0; i < 20; i++)
        assert_err(moor_pool_open(f.runtime, peer.url, NULL, &others[i]), MOOR_OK);
    struct call a, b;
    call_init(&a, f.pool, "/");
    call_init(&b, others[7], "/");
    call_start(&f, &a);
    call_start(&f, &b);
    eventually(atomic_load(&peer.requests) == 2);
    assert_err(moor_runtime_destroy(f.runtime, 50), MOOR_OK);
    assert_err(a.done.fault.err, MOOR_ECANCELED);
    assert_err(b.done.fault.err, MOOR_ECANCELED);
    call_check(&a);
    call_check(&b);
    call_fini(&a);
    call_fini(&b);
    peer_stop(&peer);
}

static void test_a_pool_replaced_loses_nothing(void **state)
{
    (void)state;
    open_with(answer_after_200_ms, NULL);
    struct call before, after;
    call_init(&before, f.pool, "/");
    call_start(&f, &before);
    eventually(atomic_load(&peer.requests) == 1);
    moor_pool *next = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, NULL, &next), MOOR_OK);
    call_init(&after, next, "/");
    call_start(&f, &after);
    assert_err(moor_pool_close(f.pool, 10000), MOOR_OK);
    f.pool = next;
    assert_err(before.done.fault.err, MOOR_OK);
    call_wait(&after);
    assert_err(after.done.fault.err, MOOR_OK);
    call_fini(&before);
    call_fini(&after);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test(test_##name)
        T(the_idle_timeout),
        T(the_lifetime),
        T(the_most_uses),
        T(the_minimum_of_idle_connections),
        T(the_minimum_never_passes_the_cap),
        T(draining_lets_finish_and_refuses_new),
        T(draining_cancels_at_the_deadline),
        T(a_second_drain_shortens_the_deadline),
        T(a_pool_nobody_used),
        T(closing_cancels_what_runs),
        T(destroying_closes_open_pools),
        T(a_pool_replaced_loses_nothing),
#undef T
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
