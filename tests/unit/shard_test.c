/*
 * Shards that come and go, and what a runtime gives back at its end.
 */
#include "tests/support/shards.h"

#include <mooring/stats.h>
#include <pthread.h>

static const char *backend;

static void a_pool_with_credentials_gives_all_its_memory_back(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 1, backend, NULL);
    const size_t before = atomic_load(&s.runtime->heap.used);
    moor_pool *p = NULL;
    assert_int_equal(moor_pool_open(s.runtime, "http://user:secret@127.0.0.1:9", NULL, &p),
                     MOOR_OK);
    shards_drain(&s, p);
    assert_int_equal(atomic_load(&s.runtime->heap.used), before);
    shards_fini(&s);
}

static void a_drain_that_has_ended_is_reported_by_a_shard_that_leaves(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 1, backend, NULL);
    moor_pool *p = shards_open(&s, s.port, NULL);
    struct taker t;
    shards_acquire(&s, 0, p, 1000, &t);
    SHARDS_UNTIL(&s, t.calls);
    shards_release(&s, 0, &t);
    struct mr_pool_shard *local = atomic_load(&p->locals[s.at[0]->index]);
    moor_pool_drain(p, 1000, NULL, NULL);
    SHARDS_UNTIL(&s, mr_list_is_linked(&local->report.link)); /* the conn closed in that turn */
    shards_leave(&s, 0);
    assert_true(atomic_load(&p->drained_word));
    assert_int_equal(moor_pool_close(p, 0), MOOR_OK);
    shards_fini(&s);
}

static void step_inside(void *user, const moor_acquired *a)
{
    moor_err *e = user;
    assert_int_not_equal(a->fault.err, MOOR_OK);
    *e = moor_shard_step(moor_shard_self(), 0);
    moor_shard_leave(moor_shard_self());
}

static void callbacks_of_a_leaving_shard_cannot_turn_or_leave_it(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 1, backend, NULL);
    moor_pool *p = shards_open(&s, s.port, NULL);
    moor_err e = MOOR_OK;
    mr_shard_enter(s.at[0]);
    assert_int_equal(moor_acquire(p, NULL, step_inside, &e, NULL), MOOR_OK);
    shards_leave(&s, 0);
    assert_int_equal(e, MOOR_EWRONGTHREAD);
    shards_fini(&s);
}

/* ---- others see the slot before the shard is ready ---- */

struct early {
    moor_runtime *runtime;
    moor_task task;
    moor_err err;
    unsigned runs;
};

static void count_run(void *user)
{
    ((struct early *)user)->runs++;
}

static moor_err post_early(void *ctx, const struct mr_io_config *c, struct mr_io **out_io)
{
    struct early *e = ctx;
    char why[160];
    if (e->runtime)
        e->err = moor_post(moor_shard_at(e->runtime, 0), &e->task);
    return mr_io_create(backend, c, out_io, why, sizeof why);
}

static void no_message_to_a_shard_that_starts_is_lost(void **state)
{
    (void)state;
    struct early early = {.task = {.run = count_run, .user = &early}};
    const struct mr_runtime_hooks hooks = {.io_create = post_early, .io_ctx = &early};
    moor_runtime_options o;
    shards_options(&o, backend);
    assert_int_equal(mr_runtime_create(&o, &hooks, &early.runtime), MOOR_OK);
    struct shards s = {.runtime = early.runtime, .listener = -1};
    if (mr_runtime_add_shard(s.runtime, &s.at[0]) != MOOR_OK)
        skip();
    s.count = 1;
    shards_turn_for(&s, 5);
    assert_int_equal(early.runs, early.err == MOOR_OK);
    shards_fini(&s);
}

struct watcher {
    moor_runtime *runtime;
    _Atomic(bool) is_over;
};

static void *watch(void *arg)
{
    struct watcher *w = arg;
    while (!atomic_load(&w->is_over)) {
        moor_runtime_stats sum;
        moor_runtime_stats_read(w->runtime, &sum);
    }
    return NULL;
}

static void statistics_are_read_while_shards_come_and_go(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 0, backend, NULL);
    struct watcher w = {.runtime = s.runtime};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, watch, &w), 0);
    for (int i = 0; i < 100; i++) {
        moor_shard *shard;
        if (moor_shard_adopt(s.runtime, &shard) != MOOR_OK)
            break; /* refused here */
        assert_int_equal(moor_shard_step(shard, 0), MOOR_OK);
        moor_shard_leave(shard);
    }
    atomic_store(&w.is_over, true);
    pthread_join(thread, NULL);
    shards_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_drain_that_has_ended_is_reported_by_a_shard_that_leaves),
        cmocka_unit_test(callbacks_of_a_leaving_shard_cannot_turn_or_leave_it),
        cmocka_unit_test(no_message_to_a_shard_that_starts_is_lost),
        cmocka_unit_test(statistics_are_read_while_shards_come_and_go),
        cmocka_unit_test(a_pool_with_credentials_gives_all_its_memory_back),
    };
    int failed = 0;
    static const char *const backends[] = {"io_uring", "epoll"};
    for (size_t i = 0; i < 2; i++) {
        backend = backends[i];
        failed += cmocka_run_group_tests_name(backend, tests, NULL, NULL);
    }
    return failed;
}
