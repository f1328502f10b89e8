/*
 * Pools of handle leases with each of their allocations failing in turn. One thread that drives its own shard; what
 * runs on a helper allocates nothing.
 */
#include "tests/support/dummy_driver.h"
#include "tests/support/fault.h"

#include <mooring/mooring.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct rig {
    moor_runtime *runtime;
    moor_shard *shard;
    moor_pool *pool;
    struct dummy_script script;
};

static bool is_ok(moor_err e)
{
    if (e != MOOR_OK && e != MOOR_ENOMEM)
        fail_msg("%s instead of MOOR_ENOMEM", moor_err_name(e));
    return e == MOOR_OK;
}

static bool begin(struct rig *g)
{
    memset(g, 0, sizeof *g);
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    o.recv_buffer_size = 2048;
    o.recv_buffers = 16;
    o.log_level = MOOR_LOG_OFF;
    return is_ok(moor_runtime_create(&o, &g->runtime)) &&
           is_ok(moor_shard_adopt(g->runtime, &g->shard)) &&
           is_ok(moor_driver_use(g->runtime, &dummy_driver));
}

static bool open_pool(struct rig *g, moor_credentials_fn provider)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_min_idle = 0;
    o.conns_max = 80;
    o.backoff_min_ms = 1;
    o.backoff_max_ms = 2;
    o.hooks.credentials = provider;
    o.driver_config = &g->script;
    return is_ok(moor_pool_open(g->runtime, "dummy://me:secret@127.0.0.1:1/path", &o, &g->pool));
}

static void end(struct rig *g)
{
    if (g->pool)
        assert_int_equal(moor_pool_close(g->pool, 2000), MOOR_OK);
    moor_shard_leave(g->shard);
    assert_int_equal(moor_runtime_destroy(g->runtime, 2000), MOOR_OK);
    assert_int_equal(atomic_load(&g->script.dropped), atomic_load(&g->script.connects));
}

static bool take(struct rig *g, uint64_t affinity, moor_acquired *a)
{
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.affinity = affinity;
    w.timeout_ms = 5000;
    const bool is_there = is_ok(moor_acquire_wait(g->pool, &w, a));
    if (is_there)
        dummy_enter(a->native);
    return is_there;
}

static void give(const moor_acquired *a, moor_release_how how)
{
    dummy_leave(a->native);
    moor_release(a->lease, how);
}

static void one_after_the_other(void *arg)
{
    (void)arg;
    struct rig g;
    if (begin(&g) && open_pool(&g, NULL)) {
        atomic_store(&g.script.has_fd, true);
        for (int i = 0; i < 6; i++) {
            moor_acquired a, b;
            const bool has_a = take(&g, 0, &a), has_b = take(&g, (uint64_t)i, &b);
            if (has_a)
                give(&a, i % 2 ? MOOR_DIRTY : MOOR_REUSE);
            if (has_b)
                give(&b, i % 3 ? MOOR_REUSE : MOOR_DISCARD);
        }
    }
    end(&g);
}

/* More than the first table holds. */
static void many_at_once(void *arg)
{
    (void)arg;
    struct rig g;
    static moor_acquired a[80];
    if (begin(&g) && open_pool(&g, NULL) && is_ok(moor_acquire_many(g.pool, NULL, 80, a)))
        for (int i = 0; i < 80; i++)
            moor_release(a[i].lease, MOOR_REUSE);
    end(&g);
}

static moor_err provide(void *user, moor_credentials *out)
{
    (void)user;
    snprintf(out->password, sizeof out->password, "token");
    return MOOR_OK;
}

static void with_helpers(void *arg)
{
    (void)arg;
    struct rig g;
    if (begin(&g) && open_pool(&g, provide)) {
        atomic_store(&g.script.block_ms, 1);
        moor_acquired a;
        for (int i = 0; i < 3; i++)
            if (take(&g, 0, &a))
                give(&a, MOOR_DISCARD);
    }
    end(&g);
}

static void replaced(void *arg)
{
    (void)arg;
    struct rig g;
    static struct dummy_script other;
    memset(&other, 0, sizeof other);
    if (begin(&g) && open_pool(&g, NULL)) {
        moor_pool_options o;
        moor_pool_options_init(&o);
        o.driver_config = &other;
        moor_acquired a;
        if (take(&g, 0, &a))
            give(&a, MOOR_REUSE);
        (void)is_ok(moor_pool_replace(g.pool, "dummy://you:other@127.0.0.2:2/x", &o));
        if (take(&g, 0, &a))
            give(&a, MOOR_REUSE);
    }
    end(&g);
    assert_int_equal(atomic_load(&other.dropped), atomic_load(&other.connects));
}

struct asked {
    int calls;
    moor_acquired got;
};

static void on_acquired(void *user, const moor_acquired *a)
{
    struct asked *q = user;
    q->calls++;
    q->got = *a;
}

static void asked_on_a_shard(void *arg)
{
    (void)arg;
    struct rig g;
    if (begin(&g) && open_pool(&g, NULL))
        for (int i = 0; i < 3; i++) {
            struct asked q = {0};
            moor_op op;
            if (!is_ok(moor_acquire(g.pool, NULL, on_acquired, &q, &op)))
                continue;
            for (int turns = 0; !q.calls; turns++) {
                assert_true(turns < 20000);
                assert_int_equal(moor_shard_wait(g.shard, 1), MOOR_OK);
            }
            assert_int_equal(q.calls, 1);
            if (is_ok(q.got.fault.err))
                moor_release(q.got.lease, MOOR_REUSE);
        }
    end(&g);
}

static void run(void (*scenario)(void *arg), long least)
{
    const long n = fault_every_allocation(scenario, NULL);
    assert_true(n >= least);
}

static void test_one_after_the_other(void **state)
{
    (void)state;
    run(one_after_the_other, 20);
}

static void test_many_at_once(void **state)
{
    (void)state;
    run(many_at_once, 80);
}

static void test_with_helpers(void **state)
{
    (void)state;
    run(with_helpers, 15);
}

static void test_replaced(void **state)
{
    (void)state;
    run(replaced, 20);
}

static void test_asked_on_a_shard(void **state)
{
    (void)state;
    run(asked_on_a_shard, 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_after_the_other), cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_with_helpers),        cmocka_unit_test(test_replaced),
        cmocka_unit_test(test_asked_on_a_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
