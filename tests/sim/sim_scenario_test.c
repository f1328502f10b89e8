/*
 * The pool's promises one by one, in the simulated world: who is served by which connection, when
 * dials happen, how waiters hear of failure, how connections age, move and end. No faults but those
 * a scenario makes; times are virtual and exact.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/sim_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct sim_rig rig;

static struct sim_rig *start(void)
{
    sim_rig_init(&rig, 1);
    rig.w.is_traced = getenv("SIM_TRACE") != NULL;
    rig.http.is_tame = rig.http.is_plain = true;
    rig.w.latency_ns = 100 * MR_NS_PER_US;
    rig.pool_options.lifetime_max_ms = MOOR_FOREVER;
    rig.pool_options.idle_timeout_ms = MOOR_FOREVER;
    return &rig;
}

static struct sim_call *plan(unsigned shard)
{
    struct sim_call *c = sim_call_plan(&rig);
    c->shard = shard;
    return c;
}

static struct sim_call *begin(unsigned shard, int64_t delay_ms)
{
    struct sim_call *c = plan(shard);
    c->delay_ms = delay_ms;
    assert_true(sim_call_submit(c));
    return c;
}

static void finish_call(struct sim_call *c)
{
    assert_true(sim_rig_until(&rig, sim_call_is_done, c, 100000));
}

static void expect_ok(struct sim_call *c)
{
    finish_call(c);
    assert_string_equal(moor_err_name(c->fault.err), "MOOR_OK");
}

static struct sim_call *get(unsigned shard)
{
    struct sim_call *c = begin(shard, 0);
    expect_ok(c);
    return c;
}

static uint32_t wire_of(const struct sim_call *c)
{
    return rig.http.requests[c->id].wire;
}

static uint64_t order_of(const struct sim_call *c)
{
    return rig.http.requests[c->id].order;
}

static moor_stats stats(void)
{
    moor_stats s;
    moor_stats_read(rig.pool, &s);
    return s;
}

static int64_t ms_since(int64_t then_ns)
{
    return (rig.w.now_ns - then_ns) / MR_NS_PER_MS;
}

/* ---- who is served by which connection ---- */

static void test_the_newest_idle_connection_is_taken(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    sim_rig_open(g, 1);
    struct sim_call *c[3];
    for (int i = 0; i < 3; i++)
        c[i] = begin(0, 10 + 10 * (2 - i)); /* the first is answered last */
    for (int i = 0; i < 3; i++)
        expect_ok(c[i]);
    assert_int_equal(g->host->accepted, 3);
    for (int i = 0; i < 3; i++) {
        struct sim_call *d = get(0);
        assert_int_equal(wire_of(d), wire_of(c[0]));
        assert_true(d->is_reused);
    }
    assert_int_equal(g->host->accepted, 3);
    sim_rig_close(g);
}

static void test_waiters_are_served_in_order(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.conns_max = 1;
    sim_rig_open(g, 1);
    struct sim_call *c[6];
    for (int i = 0; i < 6; i++)
        c[i] = begin(0, 5);
    for (int i = 0; i < 6; i++) {
        expect_ok(c[i]);
        assert_int_equal(order_of(c[i]), i + 1);
    }
    assert_int_equal(g->host->sockets_max, 1);
    sim_rig_close(g);
}

static void test_caps_are_exact_across_shards(void **state)
{
    (void)state;
    for (uint32_t max = 1; max <= 4; max++) {
        struct sim_rig *g = start();
        g->pool_options.conns_max = max;
        sim_rig_open(g, 2);
        for (int i = 0; i < 24; i++)
            begin((unsigned)i % 2, 3);
        assert_true(sim_rig_until(g, sim_rig_is_quiet, NULL, 10000));
        for (uint32_t i = 0; i < g->call_count; i++)
            assert_int_equal(g->calls[i].fault.err, MOOR_OK);
        assert_int_equal(g->host->sockets_max, max);
        sim_rig_close(g);
    }
}

static void test_a_waiter_takes_whichever_comes_first(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    sim_rig_open(g, 1);
    struct sim_call *first = begin(0, 10);
    sim_rig_pass(g, 5);
    g->w.latency_ns = 50 * MR_NS_PER_MS; /* the second dial is slow */
    struct sim_call *second = begin(0, 0);
    sim_rig_pass(g, 1);
    g->w.latency_ns = 100 * MR_NS_PER_US;
    expect_ok(second);
    assert_int_equal(wire_of(second), wire_of(first));
    assert_true(second->is_reused);
    sim_rig_pass(g, 1000);
    assert_int_equal(stats().conns_idle, 2); /* its dial was not for nothing */
    sim_rig_close(g);
}

static void test_giving_up_does_not_end_the_dial(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    sim_rig_open(g, 1);
    struct sim_call *c = begin(0, 0);
    sim_rig_step(g, 0, 0);
    sim_rig_step(g, 0, 0);
    assert_int_equal(g->host->sockets, 1);
    sim_call_cancel(c);
    finish_call(c);
    assert_int_equal(c->fault.err, MOOR_ECANCELED);
    assert_true(c->fault.safe_to_retry);
    sim_rig_pass(g, 100);
    assert_int_equal(stats().conns_idle, 1);
    get(0);
    assert_int_equal(g->host->accepted, 1);
    sim_rig_close(g);
}

static void test_connections_move_between_shards(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    sim_rig_open(g, 3);
    struct sim_call *first = get(0);
    for (unsigned shard = 1; shard < 3; shard++) {
        struct sim_call *c = get(shard);
        assert_int_equal(wire_of(c), wire_of(first));
        assert_true(c->is_reused);
        assert_int_equal(stats().conns_moved, shard);
    }
    assert_int_equal(g->host->accepted, 1);
    sim_rig_close(g);
}

static void test_a_shard_keeps_its_last_connections(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.steal_keep = 1;
    sim_rig_open(g, 2);
    get(0);
    get(1);
    assert_int_equal(stats().conns_moved, 0);
    assert_int_equal(g->host->accepted, 2);
    sim_rig_close(g);
}

static void test_an_older_waiter_elsewhere_goes_first(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.conns_max = 1;
    sim_rig_open(g, 2);
    struct sim_call *holder = begin(0, 20);
    sim_rig_pass(g, 5);
    struct sim_call *older = begin(1, 0);
    sim_rig_pass(g, 5);
    struct sim_call *younger = begin(0, 0);
    expect_ok(holder);
    expect_ok(older);
    expect_ok(younger);
    assert_true(order_of(older) < order_of(younger));
    assert_int_equal(g->host->accepted, 1);
    sim_rig_close(g);
}

/* ---- failure ---- */

static void test_waiters_hear_why_there_is_no_connection(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.backoff_min_ms = 100;
    g->pool_options.backoff_max_ms = 400;
    sim_rig_open(g, 1);
    g->host->answer = SIM_REFUSES;
    struct sim_call *c = begin(0, 0);
    finish_call(c);
    assert_int_equal(c->fault.err, MOOR_ECONNECT);
    assert_int_equal(c->fault.os_errno, ECONNREFUSED);
    assert_true(c->fault.safe_to_retry);
    assert_true(c->has_why);
    assert_int_equal(c->why.connect_err, MOOR_ECONNECT);
    assert_int_equal(c->why.connect_errno, ECONNREFUSED);
    assert_int_equal(c->why.conns_open, 0);
    /* Within the backoff nobody knocks, and callers hear at once. */
    const uint32_t knocks = g->w.wire_count;
    const int64_t then = g->w.now_ns;
    struct sim_call *d = begin(0, 0);
    finish_call(d);
    assert_int_equal(d->fault.err, MOOR_ECONNECT);
    assert_int_equal(d->why.reason, MOOR_WAIT_BACKOFF);
    assert_int_equal(ms_since(then), 0);
    assert_int_equal(g->w.wire_count, knocks);
    /* Back again. */
    g->host->answer = SIM_ACCEPTS;
    sim_rig_pass(g, 401);
    get(0);
    sim_rig_close(g);
}

static void test_after_an_outage_dials_grow_from_one(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.conns_max = 50;
    g->pool_options.dials_max = 16;
    g->pool_options.backoff_max_ms = 100;
    sim_rig_open(g, 1);
    g->host->answer = SIM_REFUSES;
    finish_call(begin(0, 0));
    sim_rig_pass(g, 101);
    g->host->answer = SIM_ACCEPTS;
    g->host->sockets_max = 0;
    for (int i = 0; i < 30; i++)
        begin(0, 5000);
    uint32_t most[6] = {0};
    for (int i = 0; i < 6; i++) {
        /* A round: until one more dial has succeeded, how many were under way at most? */
        const uint32_t before = g->host->established;
        while (g->host->established == before) {
            sim_rig_pass(g, 0);
            const uint32_t dials = g->host->sockets - g->host->established;
            most[i] = dials > most[i] ? dials : most[i];
            sim_advance(&g->w, sim_rig_next(g));
        }
    }
    assert_int_equal(most[0], 1);
    assert_true(most[1] <= 2);
    assert_true(most[2] <= 4);
    assert_true(sim_rig_until(g, sim_rig_is_quiet, NULL, 60000));
    sim_rig_close(g);
}

static void test_a_wait_ends_at_its_deadline(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.conns_max = 1;
    sim_rig_open(g, 1);
    struct sim_call *holder = begin(0, 200);
    struct sim_call *c = plan(0);
    c->connect_timeout_ms = 50;
    const int64_t then = g->w.now_ns;
    assert_true(sim_call_submit(c));
    finish_call(c);
    assert_int_equal(c->fault.err, MOOR_ETIMEDOUT);
    assert_true(c->fault.safe_to_retry);
    assert_int_equal(c->why.reason, MOOR_WAIT_AT_CAP);
    assert_int_equal(c->why.conns_leased, 1);
    assert_in_range(ms_since(then), 50, 52);
    expect_ok(holder);
    sim_rig_close(g);
}

static void test_a_queue_is_bounded(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.conns_max = 1;
    g->pool_options.waiters_max = 2;
    sim_rig_open(g, 1);
    begin(0, 5);
    sim_rig_pass(g, 3);
    begin(0, 0);
    begin(0, 0);
    struct sim_call *c = plan(0);
    assert_false(sim_call_submit(c));
    assert_int_equal(c->submitted, MOOR_EBUSY);
    assert_true(sim_rig_until(g, sim_rig_is_quiet, NULL, 1000));
    sim_rig_close(g);
}

static void test_out_of_descriptors(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->w.files_max = 1;
    sim_rig_open(g, 1);
    struct sim_call *holder = begin(0, 50);
    sim_rig_pass(g, 5);
    struct sim_call *c = begin(0, 0);
    expect_ok(holder);
    expect_ok(c); /* waited for the one there is */
    assert_int_equal(wire_of(c), wire_of(holder));
    sim_rig_close(g);
}

static void test_a_closed_idle_connection_costs_nobody(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    sim_rig_open(g, 1);
    struct sim_call *first = get(0);
    sim_peer_close(g->w.wires[wire_of(first)]);
    sim_rig_pass(g, 50);
    assert_int_equal(stats().conns_open, 0);
    assert_int_equal(stats().conns_retired, 1);
    struct sim_call *c = get(0);
    assert_int_equal(c->replays, 0);
    sim_rig_close(g);
}

static void test_a_dying_connection_is_replaced_where_that_is_safe(void **state)
{
    (void)state;
    static const struct {
        const char *method;
        bool is_idempotent;
        moor_err err;
    } table[] = {{"GET", false, MOOR_OK},
                 {"PUT", false, MOOR_OK},
                 {"POST", false, MOOR_ERESET},
                 {"POST", true, MOOR_OK}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct sim_rig *g = start();
        sim_rig_open(g, 1);
        struct sim_call *first = get(0);
        g->w.latency_ns = 10 * MR_NS_PER_MS;
        sim_peer_close(g->w.wires[wire_of(first)]); /* its FIN is on the way */
        struct sim_call *c = plan(0);
        c->method = table[i].method;
        c->is_idempotent = table[i].is_idempotent;
        assert_true(sim_call_submit(c));
        finish_call(c);
        assert_string_equal(moor_err_name(c->fault.err), moor_err_name(table[i].err));
        assert_int_equal(c->replays, table[i].err ? 0 : 1);
        assert_false(c->fault.safe_to_retry);
        sim_rig_close(g);
    }
}

/* ---- age ---- */

static void test_min_idle_is_kept(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.conns_max = 8;
    g->pool_options.conns_min_idle = 3;
    g->pool_options.dials_max = 2;
    g->pool_options.idle_timeout_ms = 500;
    sim_rig_open(g, 2);
    get(0);
    sim_rig_pass(g, 100);
    assert_in_range(stats().conns_idle, 3, 4); /* a dial for the request, three to keep */
    for (int i = 0; i < 8; i++)
        begin(0, 20);
    assert_true(sim_rig_until(g, sim_rig_is_quiet, NULL, 1000));
    assert_int_equal(stats().conns_idle, 8);
    sim_rig_pass(g, 1100);
    assert_int_equal(stats().conns_idle, 3);
    /* What the server closes is replaced. */
    for (uint32_t i = 0; i < g->w.wire_count; i++) {
        if (g->w.wires[i]->is_established)
            sim_peer_close(g->w.wires[i]);
    }
    sim_rig_pass(g, 300);
    assert_int_equal(stats().conns_idle, 3);
    sim_rig_close(g);
}

static void test_idle_connections_are_closed_in_time(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.idle_timeout_ms = 1000;
    sim_rig_open(g, 1);
    get(0);
    sim_rig_pass(g, 990);
    assert_int_equal(stats().conns_idle, 1);
    get(0);
    sim_rig_pass(g, 990);
    assert_int_equal(stats().conns_idle, 1);
    sim_rig_pass(g, 100);
    assert_int_equal(stats().conns_open, 0);
    assert_int_equal(g->host->accepted, 1);
    sim_rig_close(g);
}

static void test_lifetimes_are_spread_both_ways(void **state)
{
    (void)state;
    enum { CONNS = 16 };
    struct sim_rig *g = start();
    g->pool_options.conns_max = CONNS;
    g->pool_options.dials_max = CONNS;
    g->pool_options.lifetime_max_ms = 10000;
    g->pool_options.lifetime_jitter_percent = 20;
    sim_rig_open(g, 1);
    for (int i = 0; i < CONNS; i++)
        begin(0, 10);
    assert_true(sim_rig_until(g, sim_rig_is_quiet, NULL, 1000));
    assert_int_equal(stats().conns_idle, CONNS);
    sim_rig_pass(g, 7800);
    assert_int_equal(stats().conns_idle, CONNS);
    sim_rig_pass(g, 2150);
    const uint64_t half = stats().conns_idle;
    assert_in_range(half, 1, CONNS - 1);
    sim_rig_pass(g, 3200);
    assert_int_equal(stats().conns_open, 0);
    sim_rig_close(g);
}

static void test_a_connection_is_worn_out_by_its_uses(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.uses_max = 3;
    sim_rig_open(g, 1);
    for (int i = 0; i < 9; i++)
        get(0);
    assert_int_equal(g->host->accepted, 3);
    sim_rig_close(g);
}

/* ---- the end ---- */

static void count_drained(void *user)
{
    ++*(int *)user;
}

static void test_a_drain_lets_what_runs_finish(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    g->pool_options.conns_max = 1;
    sim_rig_open(g, 2);
    struct sim_call *running = begin(0, 50);
    sim_rig_pass(g, 5);
    struct sim_call *waiting = begin(1, 0);
    sim_rig_pass(g, 5);
    int drained = 0;
    moor_pool_drain(g->pool, 1000, count_drained, &drained);
    finish_call(waiting);
    assert_int_equal(waiting->fault.err, MOOR_ECLOSED);
    assert_true(waiting->fault.safe_to_retry);
    assert_false(running->is_done);
    struct sim_call *late = plan(0);
    assert_false(sim_call_submit(late));
    assert_int_equal(late->submitted, MOOR_ECLOSED);
    assert_int_equal(drained, 0);
    expect_ok(running);
    sim_rig_pass(g, 20);
    assert_int_equal(drained, 1);
    assert_int_equal(g->host->sockets, 0);
    g->is_drained = true;
    sim_rig_close(g);
    assert_int_equal(drained, 1);
}

static void test_a_drain_ends_at_its_deadline(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    sim_rig_open(g, 1);
    struct sim_call *running = begin(0, MOOR_FOREVER);
    sim_rig_pass(g, 5);
    int drained = 0;
    const int64_t then = g->w.now_ns;
    moor_pool_drain(g->pool, 100, count_drained, &drained);
    finish_call(running);
    assert_int_equal(running->fault.err, MOOR_ECANCELED);
    assert_false(running->fault.safe_to_retry);
    assert_in_range(ms_since(then), 100, 102);
    sim_rig_pass(g, 20);
    assert_int_equal(drained, 1);
    g->is_drained = true;
    sim_rig_close(g);
}

static void test_a_shard_leaves_and_the_pool_goes_on(void **state)
{
    (void)state;
    struct sim_rig *g = start();
    sim_rig_open(g, 2);
    struct sim_call *running = begin(1, MOOR_FOREVER);
    sim_rig_pass(g, 5);
    sim_rig_leave(g, 1);
    assert_true(running->is_done);
    assert_int_equal(running->fault.err, MOOR_ECANCELED);
    get(0);
    sim_rig_close(g);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_newest_idle_connection_is_taken),
        cmocka_unit_test(test_waiters_are_served_in_order),
        cmocka_unit_test(test_caps_are_exact_across_shards),
        cmocka_unit_test(test_a_waiter_takes_whichever_comes_first),
        cmocka_unit_test(test_giving_up_does_not_end_the_dial),
        cmocka_unit_test(test_connections_move_between_shards),
        cmocka_unit_test(test_a_shard_keeps_its_last_connections),
        cmocka_unit_test(test_an_older_waiter_elsewhere_goes_first),
        cmocka_unit_test(test_waiters_hear_why_there_is_no_connection),
        cmocka_unit_test(test_after_an_outage_dials_grow_from_one),
        cmocka_unit_test(test_a_wait_ends_at_its_deadline),
        cmocka_unit_test(test_a_queue_is_bounded),
        cmocka_unit_test(test_out_of_descriptors),
        cmocka_unit_test(test_a_closed_idle_connection_costs_nobody),
        cmocka_unit_test(test_a_dying_connection_is_replaced_where_that_is_safe),
        cmocka_unit_test(test_min_idle_is_kept),
        cmocka_unit_test(test_idle_connections_are_closed_in_time),
        cmocka_unit_test(test_lifetimes_are_spread_both_ways),
        cmocka_unit_test(test_a_connection_is_worn_out_by_its_uses),
        cmocka_unit_test(test_a_drain_lets_what_runs_finish),
        cmocka_unit_test(test_a_drain_ends_at_its_deadline),
        cmocka_unit_test(test_a_shard_leaves_and_the_pool_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
