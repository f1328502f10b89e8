/*
 * Handle leases where the program drives the shards itself: alone on one thread, and with no shard at all.
 */
#include "tests/support/handle_fixture.h"

static void open_without_threads(struct handles *h)
{
    memset(h, 0, sizeof *h);
    moor_runtime_options ro;
    fixture_runtime_options(&h->f, &ro);
    ro.shards = 0;
    fixture_open_runtime(&h->f, &ro);
    handles_open_pool(h, NULL);
}

static void test_one_thread_serves_itself(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    moor_shard *s;
    assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
    atomic_store(&h.script.connect_ms, 5);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_release(a.lease, MOOR_DIRTY);
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_int_equal(atomic_load(&h.script.resets), 1);
    moor_release(a.lease, MOOR_REUSE);
    assert_err(moor_pool_close(h.pool, 5000), MOOR_OK);
    moor_shard_leave(s);
    fixture_close(&h.f);
    assert_int_equal(atomic_load(&h.script.dropped), atomic_load(&h.script.connects));
}

static void test_links_outlive_their_shard(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    moor_shard *s;
    assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
    moor_acquired a, b;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK);
    moor_release(b.lease, MOOR_REUSE);
    moor_shard_leave(s);
    void *native = b.native;
    assert_err(moor_acquire_try(h.pool, NULL, &b), MOOR_OK);
    assert_ptr_equal(b.native, native);
    moor_release(b.lease, MOOR_REUSE);
    assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
    moor_release(a.lease, MOOR_DISCARD);
    for (int i = 0; i < 1000 && handles_stats(&h).conns_open != 1; i++)
        assert_err(moor_shard_wait(s, 5), MOOR_OK);
    assert_int_equal(handles_stats(&h).conns_open, 1);
    moor_shard_leave(s);
    handles_close(&h);
}

static void test_closing_without_a_shard(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    moor_shard *s;
    assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
    moor_acquired a, b;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_err(moor_acquire_wait(h.pool, NULL, &b), MOOR_OK);
    moor_release(b.lease, MOOR_REUSE);
    moor_shard_leave(s);
    assert_err(moor_pool_close(h.pool, 0), MOOR_EBUSY);
    assert_int_equal(atomic_load(&h.script.dropped), 1);
    moor_release(a.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_leaving_amid_a_dial(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    for (int blocks = 0; blocks < 2; blocks++) {
        moor_shard *s;
        assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
        atomic_store(blocks ? &h.script.block_ms : &h.script.connect_ms, 50);
        moor_acquire_options o;
        moor_acquire_options_init(&o);
        o.timeout_ms = 5;
        moor_acquired a;
        assert_err(moor_acquire_wait(h.pool, &o, &a), MOOR_ETIMEDOUT);
        moor_shard_leave(s);
        atomic_store(&h.script.block_ms, 0);
    }
    handles_close(&h);
}

enum { CROWD = 100 };

struct crowd {
    unsigned told, in_backoff;
};

static void count_reason(void *user, const moor_acquired *a)
{
    struct crowd *c = user;
    c->told++;
    c->in_backoff += a->fault.err == MOOR_ECONNECT && a->why->reason == MOOR_WAIT_BACKOFF;
}

/* Also those who stood so far behind that nobody had looked at them. */
static void test_each_of_a_crowd_is_told_of_the_backoff(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    moor_shard *s;
    assert_err(moor_shard_adopt(h.f.runtime, &s), MOOR_OK);
    atomic_store(&h.script.connect_ms, 5);
    atomic_store(&h.script.connects_fail, -1);
    struct crowd c = {0};
    for (int i = 0; i < CROWD; i++)
        assert_err(moor_acquire(h.pool, NULL, count_reason, &c, NULL), MOOR_OK);
    for (int i = 0; i < 5000 && c.told < CROWD; i++)
        assert_err(moor_shard_wait(s, 5), MOOR_OK);
    assert_int_equal(c.told, CROWD);
    assert_int_equal(c.in_backoff, CROWD);
    moor_shard_leave(s);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_thread_serves_itself),
        cmocka_unit_test(test_links_outlive_their_shard),
        cmocka_unit_test(test_closing_without_a_shard),
        cmocka_unit_test(test_leaving_amid_a_dial),
        cmocka_unit_test(test_each_of_a_crowd_is_told_of_the_backoff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
