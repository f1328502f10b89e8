/* Runtimes, pools, shards and moves, with each of their allocations failing in turn. */
#include "tests/fault/fault_fixture.h"
#include "tests/support/count_protocol.h"

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
    o.tls_insecure =
        true; /* the system's roots are thousands of allocations, and not the subject */
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

static unsigned moves;

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
    for (int i = 0; i < 2; i++) {
        const struct mr_pool_shard *local = atomic_load(&f->pool->locals[shards[i]->index]);
        moves += local ? (unsigned)atomic_load(&local->stats.conns_moved) : 0;
    }
    moor_pool_drain(f->pool, 1000, NULL, NULL);
    while (!atomic_load(&f->pool->drained_word))
        run_both(shards);
}

static moor_err secure(struct mr_upstream *u, struct mr_conn *c)
{
    return xor_filter_add(u, c, &(struct xor_options){.record_max = 3000});
}

/* arg: NULL, or anything for conns with a filter */
static void conns_moved(void *arg)
{
    struct fault_fixture f;
    struct moor_shard *shards[2] = {0};
    if (fault_begin(&f, arg ? 1 : 0) && fault_is_ok(mr_runtime_add_shard(f.runtime, &shards[0])) &&
        fault_is_ok(mr_runtime_add_shard(f.runtime, &shards[1]))) {
        mr_shard_enter(shards[0]);
        if (fault_open(&f)) {
            f.pool->options.conns_max_pool = 1;
            f.pool->secure = arg ? secure : NULL;
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

/* A multiplexed conn: three claims on it, one given up, its failure told to the others. */
static void claims_shared(void *arg)
{
    (void)arg;
    struct fault_fixture f;
    struct count_server server;
    struct count_request r[4] = {0};
    count_server_init(&server);
    struct mr_pool_spec spec = {.name = "count", .protocol = &count_protocol};
    moor_pool_options_init(&spec.options);
    spec.options.conns_min_idle = 0;
    spec.options.backoff_min_ms = 1;
    struct mr_upstream *u;
    struct mr_berth *b = NULL;
    if (fault_begin(&f, 0) && fault_adopt(&f) &&
        fault_is_ok(mr_pool_create(f.runtime, &spec, &f.pool)) &&
        fault_is_ok(mr_pool_upstream(
            f.pool, &(struct mr_place){.host = {"127.0.0.1", 9}, .port = server.port}, &u)))
        b = mr_berth_of(u, f.shard);
    for (unsigned i = 0; b && i < 4; i++)
        assert_int_equal(count_acquire(b, &r[i], i), MOOR_OK);
    for (unsigned i = 0; b && i < 4; i++)
        for (int turns = 0; !r[i].granted && !r[i].failed; turns++) {
            assert_true(turns < 20000);
            assert_int_equal(moor_shard_wait(f.shard, 1), MOOR_OK);
            count_server_look(&server, 3);
        }
    if (r[0].conn)
        count_give_up(&r[0], false);
    if (f.pool)
        assert_int_equal(moor_pool_close(f.pool, 0), MOOR_OK);
    f.pool = NULL;
    for (unsigned i = 1; b && i < 4; i++) {
        assert_int_equal(r[i].failed, 1);
        if (r[i].fault.err != MOOR_ECANCELED)
            (void)fault_is_ok(r[i].fault.err);
    }
    fault_end(&f);
    count_server_fini(&server);
    assert_int_equal(count_counts.opened, count_counts.dropped);
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
    for (int is_filtered = 0; is_filtered < 2; is_filtered++) {
        moves = 0;
        assert_true(fault_every_allocation(conns_moved, is_filtered ? (void *)&moves : NULL) > 30);
        assert_true(moves > 40);
    }
}

static void test_shared_claims(void **state)
{
    (void)state;
    assert_true(fault_every_allocation(claims_shared, NULL) > 20);
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
        cmocka_unit_test(test_shared_claims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
