/*
 * Who gets which connection: caps over two shards, counted at the server; order among the waiting;
 * and connections that change shards.
 */
#include "tests/support/fixture_pool.h"

#include <stdlib.h>

static struct peer peer;
static struct fixture f;

/* ---- a server that holds each request until told ---- */

static atomic_int answered; /* requests that may be answered */

static void answer_when_told(struct peer_conn *c)
{
    static atomic_int arrived;
    if (c->nth == 0)
        atomic_store(&arrived, 0);
    while (peer_head(c)) {
        const int mine = atomic_fetch_add(&arrived, 1);
        while (atomic_load(&answered) <= mine && !atomic_load(&c->peer->is_stopping))
            peer_sleep_ms(1);
        if (!peer_say(c, PEER_OK))
            return;
    }
}

static atomic_bool is_held; /* requests that come slower than they are answered need fewer conns */

static void answer_after_a_while(struct peer_conn *c)
{
    while (peer_head(c)) {
        do
            peer_sleep_ms(3);
        while (atomic_load(&is_held) && !atomic_load(&c->peer->is_stopping));
        if (!peer_say(c, PEER_OK))
            return;
    }
}

static void open_on(peer_fn serve, uint32_t shards, void (*change)(moor_pool_options *o))
{
    atomic_store(&answered, 0);
    peer_start(&peer, serve, NULL);
    moor_runtime_options ro;
    fixture_runtime_options(&f, &ro);
    ro.shards = shards;
    moor_pool_options po;
    fixture_pool_options(&po);
    if (change)
        change(&po);
    fixture_open(&f, &ro, peer.url, &po);
}

static void end(void)
{
    fixture_close(&f);
    peer_stop(&peer);
}

static struct call *start_many(int n, uint32_t shards)
{
    struct call *calls = calloc((size_t)n, sizeof *calls);
    for (int i = 0; i < n; i++) {
        call_init(&calls[i], f.pool, "/");
        call_start_on(&calls[i], f.runtime, (uint32_t)i % shards);
    }
    return calls;
}

static void expect_all_ok(struct call *calls, int n)
{
    for (int i = 0; i < n; i++) {
        call_wait(&calls[i]);
        assert_err(calls[i].done.fault.err, MOOR_OK);
        call_check(&calls[i]);
        call_fini(&calls[i]);
    }
    free(calls);
}

/* ---- caps ---- */

static void cap_of_five(moor_pool_options *o)
{
    o->conns_max = 5;
}

static void test_the_cap_over_two_shards(void **state)
{
    (void)state;
    atomic_store(&is_held, true);
    open_on(answer_after_a_while, 2, cap_of_five);
    struct call *calls = start_many(150, 2);
    eventually(atomic_load(&peer.accepted) == 5);
    atomic_store(&is_held, false);
    expect_all_ok(calls, 150);
    assert_int_equal(atomic_load(&peer.requests), 150);
    eventually(atomic_load(&peer.peak) == 5); /* the last may be accepted when all was answered */
    assert_in_range(atomic_load(&peer.busy_peak), 2, 5);
    assert_int_equal(atomic_load(&peer.accepted), 5);
    end();
}

static void pool_cap_of_three(moor_pool_options *o)
{
    o->conns_max_pool = 3;
}

static void test_the_cap_of_a_pool(void **state)
{
    (void)state;
    atomic_store(&is_held, true);
    open_on(answer_after_a_while, 2, pool_cap_of_three);
    struct call *calls = start_many(60, 2);
    eventually(atomic_load(&peer.peak) >= 3);
    atomic_store(&is_held, false);
    expect_all_ok(calls, 60);
    assert_int_equal(atomic_load(&peer.peak), 3);
    end();
}

/* A cap shared by pools: who waits for it is woken, and idle conns of others make room. */
static void test_the_cap_of_a_runtime(void **state)
{
    (void)state;
    peer_start(&peer, answer_after_a_while, NULL);
    struct peer other;
    peer_start(&other, answer_after_a_while, NULL);
    moor_runtime_options ro;
    fixture_runtime_options(&f, &ro);
    ro.shards = 2;
    ro.conns_max_runtime = 2;
    fixture_open(&f, &ro, peer.url, NULL);
    moor_pool *p = NULL;
    moor_pool_options po;
    fixture_pool_options(&po);
    assert_err(moor_pool_open(f.runtime, other.url, &po, &p), MOOR_OK);
    for (int round = 0; round < 3; round++) {
        struct call *calls = calloc(40, sizeof *calls);
        for (int i = 0; i < 40; i++) {
            call_init(&calls[i], i % 2 ? f.pool : p, "/");
            calls[i].request.timeout_ms = 20000;
            call_start_on(&calls[i], f.runtime, (uint32_t)(i / 2) % 2);
        }
        expect_all_ok(calls, 40);
        assert_in_range(atomic_load(&peer.peak), 1, 2);
        assert_in_range(atomic_load(&other.peak), 1, 2);
    }
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    fixture_close(&f);
    peer_stop(&peer);
    peer_stop(&other);
}

static void one_and_two_wait(moor_pool_options *o)
{
    o->conns_max = 1;
    o->waiters_max = 2;
}

static void test_too_many_waiters(void **state)
{
    (void)state;
    open_on(answer_when_told, 1, one_and_two_wait);
    struct call *calls = start_many(1, 1);
    eventually(atomic_load(&peer.requests) == 1);
    struct call *waiting = start_many(2, 1);
    struct call c;
    call_init(&c, f.pool, "/");
    call_start(&f, &c);
    assert_err(c.sent, MOOR_EBUSY);
    assert_int_equal(c.done_count, 0);
    atomic_store(&answered, 1000);
    expect_all_ok(waiting, 2);
    expect_all_ok(calls, 1);
    call_fini(&c);
    fixture_get_ok(&f);
    end();
}

/* ---- order ---- */

static atomic_int finished;

static void note_order(struct call *c)
{
    c->user = (void *)(intptr_t)atomic_fetch_add(&finished, 1);
}

static void cap_of_one(moor_pool_options *o)
{
    o->conns_max = 1;
}

static void test_first_come_first_served(void **state)
{
    (void)state;
    open_on(answer_after_a_while, 1, cap_of_one);
    atomic_store(&finished, 0);
    enum { N = 20 };
    struct call *calls = calloc(N, sizeof *calls);
    for (int i = 0; i < N; i++) {
        call_init(&calls[i], f.pool, "/");
        calls[i].on_done = note_order;
        call_start(&f, &calls[i]);
    }
    for (int i = 0; i < N; i++) {
        call_wait(&calls[i]);
        assert_int_equal((intptr_t)calls[i].user, i);
    }
    expect_all_ok(calls, N);
    end();
}

/* One connection, both shards want it: neither starves, the older goes first. */
static void test_a_connection_goes_to_the_older_waiter_elsewhere(void **state)
{
    (void)state;
    open_on(answer_when_told, 2, cap_of_one);
    struct call a, b;
    call_init(&a, f.pool, "/");
    call_start_on(&a, f.runtime, 0);
    eventually(atomic_load(&peer.requests) == 1);
    call_init(&b, f.pool, "/");
    call_start_on(&b, f.runtime, 1);
    peer_sleep_ms(30);
    struct call late; /* on the holder's own shard, but younger */
    call_init(&late, f.pool, "/");
    call_start_on(&late, f.runtime, 0);
    atomic_store(&answered, 1);
    call_wait(&a);
    eventually(atomic_load(&peer.requests) == 2);
    atomic_store(&answered, 2);
    call_wait(&b);
    assert_false(call_is_over(&late));
    atomic_store(&answered, 3);
    call_wait(&late);
    assert_err(b.done.fault.err, MOOR_OK);
    assert_err(late.done.fault.err, MOOR_OK);
    assert_true(b.done.reused);
    assert_int_equal(atomic_load(&peer.accepted), 1);
    assert_int_equal(fixture_stats(&f).conns_moved, 2);
    call_fini(&a);
    call_fini(&b);
    call_fini(&late);
    end();
}

static void keep_none(moor_pool_options *o)
{
    o->steal_keep = 0;
}

static void test_an_idle_connection_of_another_shard_is_taken(void **state)
{
    (void)state;
    open_on(peer_serve_ok, 2, keep_none);
    for (uint32_t i = 0; i < 20; i++) {
        struct call c;
        call_init(&c, f.pool, "/");
        call_start_on(&c, f.runtime, i % 2);
        call_wait(&c);
        assert_err(c.done.fault.err, MOOR_OK);
        call_fini(&c);
    }
    /* A move that takes longer than a turn is overtaken by a dial: not all are moves. */
    assert_true(fixture_stats(&f).conns_moved >= 1);
    assert_int_equal(fixture_stats(&f).requests_failed, 0);
    end();
}

static void keep_ten(moor_pool_options *o)
{
    o->steal_keep = 10;
}

static void test_the_last_few_are_not_taken(void **state)
{
    (void)state;
    open_on(peer_serve_ok, 2, keep_ten);
    for (uint32_t i = 0; i < 10; i++) {
        struct call c;
        call_init(&c, f.pool, "/");
        call_start_on(&c, f.runtime, i % 2);
        call_wait(&c);
        call_fini(&c);
    }
    assert_int_equal(fixture_stats(&f).conns_moved, 0);
    assert_int_equal(atomic_load(&peer.accepted), 2);
    end();
}

/* ---- late binding ---- */

static void test_a_caller_of_a_dial_gives_up(void **state)
{
    (void)state;
    open_on(answer_when_told, 1, NULL);
    struct call a;
    call_init(&a, f.pool, "/");
    call_start(&f, &a);
    eventually(atomic_load(&peer.requests) == 1);
    /* The caller of a dial gives up, before or after it came: the next one is served all the same.
     */
    struct call gone;
    call_init(&gone, f.pool, "/");
    call_start(&f, &gone);
    moor_cancel(gone.op);
    call_wait(&gone);
    atomic_store(&answered, 1000);
    call_wait(&a);
    call_fini(&a);
    call_fini(&gone);
    fixture_get_ok(&f);
    assert_in_range(atomic_load(&peer.accepted), 1, 3);
    end();
}

/* ---- open pools ---- */

static void test_an_open_pool(void **state)
{
    (void)state;
    struct peer peers[3];
    for (int i = 0; i < 3; i++)
        peer_start(&peers[i], peer_serve_ok, NULL);
    moor_pool_options po;
    fixture_pool_options(&po);
    po.origins_max = 2;
    fixture_open(&f, NULL, NULL, &po);
    struct call c;
    for (int i = 0; i < 4; i++) {
        call_init(&c, f.pool, peers[i % 2].url);
        call_expect(&f, &c, MOOR_OK);
        assert_string_equal(c.text, "ok");
        assert_int_equal(c.done.reused, i >= 2);
        call_fini(&c);
    }
    assert_int_equal(atomic_load(&peers[0].requests), 2);
    assert_int_equal(atomic_load(&peers[1].requests), 2);
    call_init(&c, f.pool, peers[2].url);
    call_start(&f, &c);
    assert_err(c.sent, MOOR_EBUSY);
    call_fini(&c);
    call_init(&c, f.pool, "/relative");
    call_start(&f, &c);
    assert_err(c.sent, MOOR_EINVAL);
    call_fini(&c);
    fixture_close(&f);
    for (int i = 0; i < 3; i++)
        peer_stop(&peers[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test(test_##name)
        T(the_cap_over_two_shards),
        T(the_cap_of_a_pool),
        T(the_cap_of_a_runtime),
        T(too_many_waiters),
        T(first_come_first_served),
        T(a_connection_goes_to_the_older_waiter_elsewhere),
        T(an_idle_connection_of_another_shard_is_taken),
        T(the_last_few_are_not_taken),
        T(a_caller_of_a_dial_gives_up),
        T(an_open_pool),
#undef T
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
