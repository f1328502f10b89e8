/* Runtimes, pools, shards and moves, with each of their allocations failing in turn. */
#include "tests/fault/fault_fixture.h"

static void runtime_alone(void *arg)
{
    (void)arg;
    struct fault_fixture f;
    (void)fault_begin(&f, 0);
    fault_end(&f);
}

static void shard_adopted(void *arg)
{
    (void)arg;
    struct fault_fixture f;
    if (fault_begin(&f, 0)) {
        for (int i = 0; i < 2; i++) { /* the second time it finds the first one's memory */
            if (!fault_adopt(&f))
                continue;
            moor_shard_leave(f.shard);
            f.shard = NULL;
        }
    }
    fault_end(&f);
}

static void pool_alone(void *arg)
{
    (void)arg;
    struct fault_fixture f;
    if (fault_begin(&f, 0) && fault_open(&f)) {
        assert_int_equal(moor_pool_close(f.pool, 0), MOOR_OK);
        f.pool = NULL;
    }
    fault_end(&f);
}

static void any_origin(void *arg)
{
    (void)arg;
    struct fault_fixture f;
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_min_idle = 0;
    o.backoff_min_ms = 1;
    if (fault_begin(&f, 0) && fault_adopt(&f) &&
        fault_is_ok(moor_pool_open(f.runtime, NULL, &o, &f.pool))) {
        char url[96];
        snprintf(url, sizeof url, "%s/bytes/100", xor_server_url(f.server));
        struct fault_request r = {0};
        fault_run(&f, &r, url, 100);
    }
    fault_end(&f);
}

/* The thread gives its shard up while requests run, and takes one again. */
static void shard_left(void *arg)
{
    (void)arg;
    struct fault_fixture f;
    struct fault_request r[2] = {{.may_cancel = true}, {0}};
    if (fault_begin(&f, 0) && fault_adopt(&f)) {
        if (fault_open(&f)) {
            fault_send(&f, &r[0], "/bytes/50000");
            for (int i = 0; i < 3; i++)
                assert_int_equal(moor_shard_wait(f.shard, 1), MOOR_OK);
        }
        moor_shard_leave(f.shard);
        f.shard = NULL;
        fault_judge(&r[0], 50000);
        if (f.pool && fault_adopt(&f))
            fault_run(&f, &r[1], "/bytes/500", 500);
    }
    fault_end(&f);
}

/* Two shards of this thread. */
static void run_both(struct moor_shard *const *shards)
{
    for (int i = 0; i < 2; i++) {
        mr_shard_enter(shards[i]);
        assert_int_equal(mr_shard_turn(shards[i], MR_NS_PER_MS, 0), MOOR_OK);
    }
}

static void move_to_and_fro(struct fault_fixture *f, struct moor_shard *const *shards)
{
    for (int round = 0; round < 4; round++) {
        struct fault_request r[2] = {0};
        const int together = round < 2 ? 1 : 2;
        for (int i = 0; i < together; i++) {
            mr_shard_enter(shards[(round + i) % 2]);
            fault_send(f, &r[i], "/bytes/300");
        }
        for (int i = 0; i < together; i++) {
            for (int turns = 0; r[i].was_accepted && !r[i].dones; turns++) {
                assert_true(turns < 20000);
                run_both(shards);
            }
            fault_judge(&r[i], 300);
        }
    }
    moor_pool_drain(f->pool, 1000, NULL, NULL);
    while (!atomic_load(&f->pool->drained_word))
        run_both(shards);
}

static void conns_moved(void *arg)
{
    (void)arg;
    struct fault_fixture f;
    struct moor_shard *shards[2] = {0};
    if (fault_begin(&f, 0) && fault_is_ok(mr_runtime_add_shard(f.runtime, &shards[0])) &&
        fault_is_ok(mr_runtime_add_shard(f.runtime, &shards[1]))) {
        mr_shard_enter(shards[0]);
        if (fault_open(&f)) {
            f.pool->options.conns_max = 1;
            move_to_and_fro(&f, shards);
            mr_pool_free(f.pool);
            f.pool = NULL;
        }
    }
    for (int i = 0; i < 2; i++)
        if (shards[i]) {
            mr_shard_enter(shards[i]);
            mr_shard_leave(shards[i]);
        }
    mr_shard_enter(NULL);
    fault_end(&f);
}

static void test_runtime(void **state)
{
    (void)state;
    assert_true(fault_every_allocation(runtime_alone, NULL) > 1);
}

static void test_adopted_shard(void **state)
{
    (void)state;
    assert_true(fault_every_allocation(shard_adopted, NULL) > 5);
}

static void test_pool(void **state)
{
    (void)state;
    assert_true(fault_every_allocation(pool_alone, NULL) > 5);
}

static void test_any_origin(void **state)
{
    (void)state;
    assert_true(fault_every_allocation(any_origin, NULL) > 20);
}

static void test_a_shard_that_is_left(void **state)
{
    (void)state;
    assert_true(fault_every_allocation(shard_left, NULL) > 20);
}

static void test_moves(void **state)
{
    (void)state;
    assert_true(fault_every_allocation(conns_moved, NULL) > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runtime),
        cmocka_unit_test(test_adopted_shard),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_any_origin),
        cmocka_unit_test(test_a_shard_that_is_left),
        cmocka_unit_test(test_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
