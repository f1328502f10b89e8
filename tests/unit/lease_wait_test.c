/*
 * The blocking calls on leases: from ordinary threads, from a thread that drives a shard, and where they
 * are refused; on both backends.
 */
#include "tests/support/lease_fixture.h"

static const char *backend;

#define SET_UP(f, threads, with_shard)                                                             \
    struct lease_fixture f;                                                                        \
    if (!lease_fixture_init(&f, backend, threads, with_shard))                                     \
    skip()

#define SAY(text) ((moor_span){text, strlen(text)})

static moor_lease acquire_waiting(struct lease_fixture *f)
{
    moor_acquired a;
    assert_int_equal(moor_acquire_wait(f->pool, NULL, &a), MOOR_OK);
    assert_int_equal(a.fault.err, MOOR_OK);
    assert_null(a.why);
    return a.lease;
}

/* Everything of one round trip, however many chunks it comes in. */
static void read_exactly(moor_lease lease, char *out, size_t len)
{
    for (size_t got = 0; got < len;) {
        moor_chunk c = {0};
        assert_int_equal(moor_stream_read_wait(lease, 5000, &c), MOOR_OK);
        assert_true(c.bytes.len > 0 && c.bytes.len <= len - got);
        memcpy(out + got, c.bytes.base, c.bytes.len);
        got += c.bytes.len;
        moor_chunk_return(c);
    }
}

/* ---- round trips ---- */

struct worker {
    struct lease_fixture *f;
    unsigned index, rounds;
    pthread_t thread;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (unsigned i = 0; i < w->rounds; i++) {
        const moor_lease lease = acquire_waiting(w->f);
        char text[32], back[32];
        snprintf(text, sizeof text, "thread %u round %u", w->index, i);
        assert_int_equal(moor_stream_send_wait(lease, SAY(text), 5000), MOOR_OK);
        read_exactly(lease, back, strlen(text));
        assert_memory_equal(text, back, strlen(text));
        moor_release(lease, MOOR_REUSE);
        moor_release(lease, MOOR_REUSE);
    }
    return NULL;
}

static void many_threads(uint32_t shards, uint32_t conns_max)
{
    SET_UP(f, shards, false);
    moor_pool_options o;
    lease_pool_options(&o);
    o.conns_max = conns_max;
    lease_fixture_open(&f, &o);
    struct worker workers[4];
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){.f = &f, .index = i, .rounds = 100};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(workers[i].thread, NULL);
    assert_true((uint32_t)atomic_load(&f.server->served) <= conns_max);
    lease_fixture_fini(&f);
}

static void four_threads_share_a_shard(void **state)
{
    (void)state;
    many_threads(1, 4);
}

static void four_threads_share_two_conns_of_two_shards(void **state)
{
    (void)state;
    many_threads(2, 2);
}

static void a_lease_changes_threads(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = acquire_waiting(&f);
    char back[8];
    assert_int_equal(moor_stream_send_wait(lease, SAY("one"), 5000), MOOR_OK);
    assert_int_equal(moor_stream_send_wait(lease, SAY("two"), 5000), MOOR_OK);
    assert_int_equal(moor_stream_send_wait(lease, (moor_span){NULL, 0}, 5000), MOOR_OK);
    read_exactly(lease, back, 6);
    assert_memory_equal(back, "onetwo", 6);
    moor_release(lease, MOOR_REUSE);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(lease, 5000, &c), MOOR_ESTALE);
    assert_int_equal(moor_stream_send_wait(lease, SAY("x"), 5000), MOOR_ESTALE);
    lease_fixture_fini(&f);
}

static void a_thread_drives_the_shard_it_adopted(void **state)
{
    (void)state;
    SET_UP(f, 0, true);
    lease_fixture_open(&f, NULL);
    struct worker w = {.f = &f, .rounds = 20};
    work(&w);
    assert_int_equal(atomic_load(&f.server->served), 1);
    lease_fixture_fini(&f);
}

struct handed {
    struct lease_fixture *f;
    moor_lease lease;
};

static void *acquire_it(void *arg)
{
    struct handed *h = arg;
    h->lease = acquire_waiting(h->f);
    return NULL;
}

/* The thread drives its own shard while another one works. */
static void a_driver_may_use_a_lease_of_another_shard(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    lease_fixture_open(&f, NULL);
    struct handed h = {.f = &f};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, acquire_it, &h), 0);
    pthread_join(t, NULL);
    assert_int_equal(moor_shard_adopt(f.runtime, &f.shard), MOOR_OK);
    char back[8];
    assert_int_equal(moor_stream_send_wait(h.lease, SAY("across"), 5000), MOOR_OK);
    read_exactly(h.lease, back, 6);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(h.lease, 5, &c), MOOR_ETIMEDOUT);
    moor_release(h.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

/* ---- ends ---- */

static void the_end_is_an_empty_chunk(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    atomic_store(&f.server->mode, STREAM_GOODBYE);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = acquire_waiting(&f);
    char back[8];
    read_exactly(lease, back, 5);
    assert_memory_equal(back, "hello", 5);
    for (int i = 0; i < 2; i++) {
        moor_chunk c = {.bytes = {"x", 1}};
        assert_int_equal(moor_stream_read_wait(lease, 5000, &c), MOOR_OK);
        assert_int_equal(c.bytes.len, 0);
        moor_chunk_return(c);
    }
    moor_release(lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void a_reset_is_an_error(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    atomic_store(&f.server->mode, STREAM_RESET);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = acquire_waiting(&f);
    assert_int_equal(moor_stream_send_wait(lease, SAY("x"), 5000), MOOR_OK);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(lease, 5000, &c), MOOR_ERESET);
    assert_int_equal(moor_stream_read_wait(lease, 5000, &c), MOOR_ERESET);
    assert_int_equal(moor_stream_send_wait(lease, SAY("x"), 5000), MOOR_ERESET);
    moor_release(lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void a_read_that_times_out_leaves_the_stream_as_it_was(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = acquire_waiting(&f);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(lease, 0, &c), MOOR_ETIMEDOUT);
    assert_int_equal(moor_stream_read_wait(lease, 20, &c), MOOR_ETIMEDOUT);
    assert_int_equal(moor_stream_read_wait(lease, -2, &c), MOOR_EINVAL);
    assert_int_equal(moor_stream_read_wait(lease, 0, NULL), MOOR_EINVAL);
    char back[8];
    assert_int_equal(moor_stream_send_wait(lease, SAY("here"), 0), MOOR_OK);
    moor_err e = MOOR_ETIMEDOUT;
    for (int i = 0; e == MOOR_ETIMEDOUT && i < 5000; i++, usleep(1000))
        e = moor_stream_read_wait(lease, 0, &c); /* what is there, at once */
    assert_int_equal(e, MOOR_OK);
    assert_int_equal(c.bytes.len, 4);
    moor_chunk_return(c);
    assert_int_equal(moor_stream_send_wait(lease, SAY("again"), MOOR_FOREVER), MOOR_OK);
    read_exactly(lease, back, 5);
    moor_release(lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static char large[16 << 20];

static void a_send_that_times_out_ends_the_conn(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    atomic_store(&f.server->mode, STREAM_SILENT);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = acquire_waiting(&f);
    assert_int_equal(moor_stream_send_wait(lease, (moor_span){large, sizeof large}, 30),
                     MOOR_ETIMEDOUT);
    memset(large, 1, sizeof large); /* ours again */
    assert_int_equal(moor_stream_send_wait(lease, SAY("x"), 5000), MOOR_ERESET);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(lease, 5000, &c), MOOR_ERESET);
    moor_release(lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void an_acquire_times_out_and_learns_of_a_full_queue(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    moor_pool_options o;
    lease_pool_options(&o);
    o.conns_max = 1;
    o.waiters_max = 1;
    lease_fixture_open(&f, &o);
    const moor_lease held = acquire_waiting(&f);
    moor_acquire_options a;
    moor_acquire_options_init(&a);
    a.timeout_ms = 20;
    moor_acquired out;
    assert_int_equal(moor_acquire_wait(f.pool, &a, &out), MOOR_ETIMEDOUT);
    assert_int_equal(out.fault.err, MOOR_ETIMEDOUT);
    assert_null(out.why);
    assert_true(out.waited > 0 && out.waited < 5000 * MR_NS_PER_MS);
    struct handed h = {.f = &f};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, acquire_it, &h), 0);
    while (lease_stats(&f).waiters == 0)
        usleep(1000);
    assert_int_equal(moor_acquire_wait(f.pool, NULL, &out), MOOR_EBUSY);
    assert_int_equal(out.fault.err, MOOR_EBUSY);
    moor_release(held, MOOR_REUSE);
    pthread_join(t, NULL);
    moor_release(h.lease, MOOR_REUSE);
    moor_pool_drain(f.pool, 0, NULL, NULL);
    assert_int_equal(moor_acquire_wait(f.pool, NULL, &out), MOOR_ECLOSED);
    lease_fixture_fini(&f);
}

/* ---- others end it ---- */

struct reader {
    moor_lease lease;
    moor_err err, send_err;
};

static void *read_for_ever(void *arg)
{
    struct reader *r = arg;
    moor_chunk c;
    r->err = moor_stream_read_wait(r->lease, MOOR_FOREVER, &c);
    return NULL;
}

static void *send_for_ever(void *arg)
{
    struct reader *r = arg;
    r->send_err = moor_stream_send_wait(r->lease, (moor_span){large, sizeof large}, MOOR_FOREVER);
    return NULL;
}

/* Another thread waits in a read, one in a send; cut ends the lease meanwhile. */
static void ends_under(void (*cut)(struct lease_fixture *f, moor_lease lease), moor_err expected)
{
    SET_UP(f, 1, false);
    atomic_store(&f.server->mode, STREAM_SILENT);
    lease_fixture_open(&f, NULL);
    struct reader r = {.lease = acquire_waiting(&f)};
    pthread_t reading, sending;
    assert_int_equal(pthread_create(&reading, NULL, read_for_ever, &r), 0);
    assert_int_equal(pthread_create(&sending, NULL, send_for_ever, &r), 0);
    usleep(20000);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(r.lease, 1000, &c), MOOR_EBUSY);
    cut(&f, r.lease);
    pthread_join(reading, NULL);
    pthread_join(sending, NULL);
    assert_int_equal(r.err, expected);
    assert_int_equal(r.send_err, expected);
    lease_fixture_fini(&f);
}

static void by_release(struct lease_fixture *f, moor_lease lease)
{
    (void)f;
    moor_release(lease, MOOR_REUSE);
}

static void by_close(struct lease_fixture *f, moor_lease lease)
{
    (void)lease;
    assert_int_equal(moor_pool_close(f->pool, 10), MOOR_OK);
    f->pool = NULL;
}

static void a_release_wakes_who_waits_on_the_lease(void **state)
{
    (void)state;
    ends_under(by_release, MOOR_ESTALE);
}

static void closing_the_pool_wakes_who_waits_on_a_lease(void **state)
{
    (void)state;
    ends_under(by_close, MOOR_ECANCELED);
}

static void *release_soon(void *arg)
{
    usleep(20000);
    moor_release(*(moor_lease *)arg, MOOR_REUSE);
    return NULL;
}

static void leases_are_waited_for_until_the_deadline(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    lease_fixture_open(&f, NULL);
    moor_lease lease = acquire_waiting(&f);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, release_soon, &lease), 0);
    assert_int_equal(moor_pool_close(f.pool, 60000), MOOR_OK);
    f.pool = NULL;
    pthread_join(t, NULL);
    moor_release(lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void *leave_while_read(void *arg)
{
    struct lease_fixture *f = arg;
    assert_int_equal(moor_shard_adopt(f->runtime, &f->shard), MOOR_OK);
    for (int i = 0; i < 100; i++)
        assert_int_equal(moor_shard_wait(f->shard, 1), MOOR_OK);
    moor_shard_leave(f->shard);
    f->shard = NULL;
    return NULL;
}

/* Threads race a shard that leaves: every call ends, one way or the other. */
static void a_shard_that_leaves_ends_what_others_wait_for(void **state)
{
    (void)state;
    SET_UP(f, 0, false);
    lease_fixture_open(&f, NULL);
    for (int round = 0; round < 3; round++) {
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, leave_while_read, &f), 0);
        moor_err e = MOOR_OK;
        while (!e) {
            moor_acquired a;
            e = moor_acquire_wait(f.pool, NULL, &a);
            if (e == MOOR_ECLOSED && round >= 0 && lease_stats(&f).acquires == 0) {
                e = MOOR_OK; /* not adopted yet */
                continue;
            }
            if (!e)
                e = moor_stream_send_wait(a.lease, SAY("x"), 5000);
            moor_chunk c = {0};
            if (!e)
                e = moor_stream_read_wait(a.lease, 5000, &c);
            moor_chunk_return(c);
            moor_release(a.lease, MOOR_REUSE);
        }
        assert_true(e == MOOR_ECLOSED || e == MOOR_ECANCELED || e == MOOR_ESTALE);
        pthread_join(t, NULL);
    }
    lease_fixture_fini(&f);
}

/* ---- where they are refused ---- */

struct inside {
    struct lease_fixture *f;
    moor_lease lease;
    _Atomic(bool) is_done;
};

static void call_inside(void *user)
{
    struct inside *in = user;
    moor_acquired a;
    moor_chunk c;
    assert_int_equal(moor_acquire_wait(in->f->pool, NULL, &a), MOOR_EWRONGTHREAD);
    assert_int_equal(moor_stream_read_wait(in->lease, 0, &c), MOOR_EWRONGTHREAD);
    assert_int_equal(moor_stream_send_wait(in->lease, SAY("x"), 0), MOOR_EWRONGTHREAD);
    atomic_store(&in->is_done, true);
}

static void no_blocking_call_runs_inside_a_callback(void **state)
{
    (void)state;
    SET_UP(f, 1, false);
    lease_fixture_open(&f, NULL);
    struct inside in = {.f = &f, .lease = acquire_waiting(&f)};
    moor_task task = {.run = call_inside, .user = &in};
    assert_int_equal(moor_post(moor_shard_at(f.runtime, 0), &task), MOOR_OK);
    while (!atomic_load(&in.is_done))
        usleep(1000);
    struct lease_stream s = {.lease = in.lease}; /* and no other call off the shard */
    assert_int_equal(moor_stream_read(in.lease, &lease_handlers, &s), MOOR_EWRONGTHREAD);
    assert_int_equal(lease_send(&s, "x"), MOOR_EWRONGTHREAD);
    assert_int_equal(moor_stream_finish(in.lease), MOOR_EWRONGTHREAD);
    moor_release(in.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void without_a_shard_there_is_no_lease(void **state)
{
    (void)state;
    SET_UP(f, 0, false);
    lease_fixture_open(&f, NULL);
    moor_acquired a;
    assert_int_equal(moor_acquire_wait(f.pool, NULL, &a), MOOR_ECLOSED);
    assert_int_equal(moor_acquire_wait(f.pool, NULL, NULL), MOOR_EINVAL);
    lease_fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_threads_share_a_shard),
        cmocka_unit_test(four_threads_share_two_conns_of_two_shards),
        cmocka_unit_test(a_lease_changes_threads),
        cmocka_unit_test(a_thread_drives_the_shard_it_adopted),
        cmocka_unit_test(a_driver_may_use_a_lease_of_another_shard),
        cmocka_unit_test(the_end_is_an_empty_chunk),
        cmocka_unit_test(a_reset_is_an_error),
        cmocka_unit_test(a_read_that_times_out_leaves_the_stream_as_it_was),
        cmocka_unit_test(a_send_that_times_out_ends_the_conn),
        cmocka_unit_test(an_acquire_times_out_and_learns_of_a_full_queue),
        cmocka_unit_test(a_release_wakes_who_waits_on_the_lease),
        cmocka_unit_test(closing_the_pool_wakes_who_waits_on_a_lease),
        cmocka_unit_test(leases_are_waited_for_until_the_deadline),
        cmocka_unit_test(a_shard_that_leaves_ends_what_others_wait_for),
        cmocka_unit_test(no_blocking_call_runs_inside_a_callback),
        cmocka_unit_test(without_a_shard_there_is_no_lease),
    };
    backend = "io_uring";
    int failed = cmocka_run_group_tests_name("lease_wait io_uring", tests, NULL, NULL);
    backend = "epoll";
    return failed + cmocka_run_group_tests_name("lease_wait epoll", tests, NULL, NULL);
}
