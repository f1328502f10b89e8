/*
 * Leases: acquiring, canceling, releasing and what closing a pool does to them, on both backends.
 */
#include "tests/support/fault.h"
#include "tests/support/lease_fixture.h"

#include <sys/wait.h>

static const char *backend;

#define SET_UP(f)                                                                                  \
    struct lease_fixture f;                                                                        \
    if (!lease_fixture_init(&f, backend, 0, true))                                                 \
    skip()

static void open_with_one_conn(struct lease_fixture *f, uint32_t waiters_max)
{
    moor_pool_options o;
    lease_pool_options(&o);
    o.conns_max = 1;
    o.waiters_max = waiters_max;
    lease_fixture_open(f, &o);
}

/* ---- acquiring ---- */

static void a_conn_is_dialled_once_and_then_reused(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_got got = {0};
    moor_op op;
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, &op), MOOR_OK);
    assert_int_equal(got.calls, 0);
    TURN_UNTIL(&f, got.calls);
    assert_int_equal(got.err, MOOR_OK);
    assert_false(got.reused);
    assert_false(got.has_why);
    assert_int_equal(lease_stats(&f).conns_leased, 1);
    moor_release(got.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_leased, 0);
    assert_int_equal(lease_stats(&f).conns_idle, 1);

    struct lease_got again = {0};
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &again, NULL), MOOR_OK);
    assert_int_equal(again.calls, 0);
    TURN_UNTIL(&f, again.calls);
    assert_true(again.reused);
    lease_turn_for(&f, 5);
    assert_int_equal(again.calls, 1);
    assert_int_equal(got.calls, 1);
    moor_release(again.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).acquires, 2);
    assert_int_equal(lease_stats(&f).acquires_reused, 1);
    TURN_UNTIL(&f, atomic_load(&f.server->served) == 1);
    lease_fixture_fini(&f);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_got got = {0};
    assert_int_equal(moor_acquire(NULL, NULL, lease_on_acquired, &got, NULL), MOOR_EINVAL);
    assert_int_equal(moor_acquire(f.pool, NULL, NULL, &got, NULL), MOOR_EINVAL);
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    assert_int_equal(o.timeout_ms, MOOR_TIMEOUT_OF_POOL);
    o.timeout_ms = -3;
    assert_int_equal(moor_acquire(f.pool, &o, lease_on_acquired, &got, NULL), MOOR_EINVAL);
    moor_pool *http;
    assert_int_equal(moor_pool_open(f.runtime, "http://127.0.0.1:1", NULL, &http), MOOR_OK);
    assert_int_equal(moor_acquire(http, NULL, lease_on_acquired, &got, NULL), MOOR_EINVAL);
    moor_acquired out;
    assert_int_equal(moor_acquire_wait(http, NULL, &out), MOOR_EINVAL);
    assert_int_equal(moor_pool_close(http, 0), MOOR_OK);
    assert_int_equal(got.calls, 0);
    moor_pool *p;
    assert_int_equal(moor_pool_open(f.runtime, "tcp://127.0.0.1:9/path", NULL, &p), MOOR_EINVAL);
    assert_int_equal(moor_pool_open(f.runtime, "tcp://u@127.0.0.1:9", NULL, &p), MOOR_EINVAL);
    assert_int_equal(moor_pool_open(f.runtime, "redis://127.0.0.1", NULL, &p), MOOR_ENOSYS);
    lease_fixture_fini(&f);
}

static void *acquire_from_outside(void *arg)
{
    struct lease_fixture *f = arg;
    struct lease_got got = {0};
    assert_int_equal(moor_acquire(f->pool, NULL, lease_on_acquired, &got, NULL), MOOR_EWRONGTHREAD);
    return NULL;
}

static void only_a_shard_acquires(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, acquire_from_outside, &f), 0);
    pthread_join(t, NULL);
    lease_fixture_fini(&f);
}

static void a_waiter_times_out_and_learns_why(void **state)
{
    (void)state;
    SET_UP(f);
    open_with_one_conn(&f, 10);
    const moor_lease held = lease_acquire(&f);
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    o.timeout_ms = 20;
    struct lease_got got = {0};
    assert_int_equal(moor_acquire(f.pool, &o, lease_on_acquired, &got, NULL), MOOR_OK);
    TURN_UNTIL(&f, got.calls);
    assert_int_equal(got.err, MOOR_ETIMEDOUT);
    assert_true(got.safe_to_retry);
    assert_true(got.has_why);
    assert_int_equal(got.reason, MOOR_WAIT_AT_CAP);
    moor_release(held, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void time_away_from_the_loop_is_not_waiting(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    usleep(30000);
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    o.timeout_ms = 25;
    struct lease_got got = {0};
    assert_int_equal(moor_acquire(f.pool, &o, lease_on_acquired, &got, NULL), MOOR_OK);
    TURN_UNTIL(&f, got.calls);
    assert_int_equal(got.err, MOOR_OK);
    moor_release(got.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void waiters_are_bounded_and_served_in_turn(void **state)
{
    (void)state;
    SET_UP(f);
    open_with_one_conn(&f, 2);
    const moor_lease held = lease_acquire(&f);
    struct lease_got first = {0}, second = {0}, third = {0};
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &first, NULL), MOOR_OK);
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &second, NULL), MOOR_OK);
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &third, NULL), MOOR_EBUSY);
    moor_release(held, MOOR_REUSE);
    assert_int_equal(first.calls, 0);
    TURN_UNTIL(&f, first.calls);
    assert_int_equal(first.err, MOOR_OK);
    assert_true(first.reused);
    assert_int_equal(second.calls, 0);
    moor_release(first.lease, MOOR_REUSE);
    TURN_UNTIL(&f, second.calls);
    assert_int_equal(second.err, MOOR_OK);
    moor_release(second.lease, MOOR_REUSE);
    assert_int_equal(third.calls, 0);
    lease_fixture_fini(&f);
}

static void with_no_waiters_allowed_only_idle_conns_serve(void **state)
{
    (void)state;
    SET_UP(f);
    open_with_one_conn(&f, 0);
    struct lease_got got = {0};
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, NULL), MOOR_EBUSY);
    lease_turn_for(&f, 5);
    assert_int_equal(got.calls, 0);
    lease_fixture_fini(&f);
}

static void a_refused_connect_fails_the_acquire(void **state)
{
    (void)state;
    SET_UP(f);
    shutdown(f.server->fd, SHUT_RDWR); /* nobody listens on the port any more */
    lease_fixture_open(&f, NULL);
    struct lease_got got = {0};
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, NULL), MOOR_OK);
    TURN_UNTIL(&f, got.calls);
    assert_int_equal(got.err, MOOR_ECONNECT);
    assert_true(got.safe_to_retry);
    assert_true(got.has_why);
    lease_fixture_fini(&f);
}

/* ---- canceling ---- */

static void a_canceled_waiter_hears_it_once(void **state)
{
    (void)state;
    SET_UP(f);
    open_with_one_conn(&f, 10);
    const moor_lease held = lease_acquire(&f);
    struct lease_got got = {0};
    moor_op op;
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, &op), MOOR_OK);
    moor_cancel(op);
    moor_cancel(op);
    assert_int_equal(got.calls, 0);
    TURN_UNTIL(&f, got.calls);
    assert_int_equal(got.err, MOOR_ECANCELED);
    assert_true(got.has_why);
    moor_cancel(op);
    lease_turn_for(&f, 5);
    assert_int_equal(got.calls, 1);
    assert_int_equal(lease_stats(&f).waiters, 0);
    moor_release(held, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    lease_fixture_fini(&f);
}

static void canceling_during_the_dial_leaves_an_idle_conn(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_got got = {0};
    moor_op op;
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, &op), MOOR_OK);
    assert_int_equal(moor_shard_step(f.shard, 0), MOOR_OK); /* the dial begins */
    if (!got.calls) {
        moor_cancel(op);
        TURN_UNTIL(&f, got.calls);
        TURN_UNTIL(&f, lease_stats(&f).conns_open == 1);
    }
    if (got.err == MOOR_OK) /* loopback was faster */
        moor_release(got.lease, MOOR_REUSE);
    else
        assert_int_equal(got.err, MOOR_ECANCELED);
    lease_turn_for(&f, 5);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    lease_fixture_fini(&f);
}

static void canceling_a_grant_not_yet_told_gives_the_conn_back(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    moor_release(lease_acquire(&f), MOOR_REUSE);
    struct lease_got got = {0};
    moor_op op;
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, &op), MOOR_OK);
    assert_int_equal(lease_stats(&f).conns_leased, 1); /* granted inside the call */
    moor_cancel(op);
    TURN_UNTIL(&f, got.calls);
    assert_int_equal(got.err, MOOR_ECANCELED);
    assert_int_equal(lease_stats(&f).conns_leased, 0);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    lease_turn_for(&f, 5);
    assert_int_equal(got.calls, 1);
    lease_fixture_fini(&f);
}

static void canceling_after_the_callback_is_nothing(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_got got = {0};
    moor_op op;
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, &op), MOOR_OK);
    TURN_UNTIL(&f, got.calls);
    moor_cancel(op);
    moor_cancel((moor_op){got.lease.slot_, got.lease.generation_});
    moor_cancel((moor_op){0});
    lease_turn_for(&f, 5);
    assert_int_equal(got.calls, 1);
    assert_int_equal(lease_stats(&f).conns_leased, 1);
    struct lease_stream s = {.lease = got.lease};
    lease_read(&s);
    assert_int_equal(lease_send(&s, "still"), MOOR_OK);
    TURN_UNTIL(&f, s.len == 5);
    moor_release(got.lease, MOOR_REUSE);
    moor_cancel(op);
    lease_fixture_fini(&f);
}

/* An idle conn that dies between its grant and the callback is replaced, not reported. */
static void a_conn_that_dies_before_it_is_told_of_is_replaced(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    moor_release(lease_acquire(&f), MOOR_REUSE);
    struct lease_got got = {0};
    moor_op op;
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, &op), MOOR_OK);
    struct mr_lease *l = (struct mr_lease *)(void *)op.slot_;
    assert_non_null(l->conn);
    mr_conn_fail(l->conn, &(moor_fault){.err = MOOR_ERESET, .what = "test"});
    TURN_UNTIL(&f, got.calls);
    assert_int_equal(got.err, MOOR_OK);
    assert_false(got.reused);
    TURN_UNTIL(&f, atomic_load(&f.server->served) == 2);
    moor_release(got.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

/* ---- releasing ---- */

static void stale_handles_do_nothing(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    const moor_lease old = lease_acquire(&f);
    moor_release(old, MOOR_REUSE);
    moor_release(old, MOOR_DISCARD);
    moor_release((moor_lease){0}, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 1);
    struct lease_stream s = {.lease = old};
    assert_int_equal(moor_stream_read(old, &lease_handlers, &s), MOOR_ESTALE);
    assert_int_equal(lease_send(&s, "x"), MOOR_ESTALE);
    assert_int_equal(moor_stream_finish(old), MOOR_ESTALE);
    assert_int_equal(moor_stream_finish((moor_lease){0}), MOOR_ESTALE);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(old, 0, &c), MOOR_ESTALE);
    assert_int_equal(moor_stream_send_wait(old, (moor_span){"x", 1}, 0), MOOR_ESTALE);

    const moor_lease now = lease_acquire(&f); /* the same slot */
    assert_ptr_equal(now.slot_, old.slot_);
    moor_release(old, MOOR_DISCARD);
    assert_int_equal(lease_stats(&f).conns_leased, 1);
    moor_release(now, MOOR_REUSE);
    lease_fixture_fini(&f);
}

static void a_discarded_conn_is_closed(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    moor_release(lease_acquire(&f), MOOR_DISCARD);
    TURN_UNTIL(&f, lease_stats(&f).conns_open == 0);
    moor_release(lease_acquire(&f), MOOR_REUSE);
    TURN_UNTIL(&f, atomic_load(&f.server->served) == 2);
    lease_fixture_fini(&f);
}

static void a_conn_with_bytes_unread_is_closed(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_GREET);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = lease_acquire(&f);
    lease_turn_for(&f, 20); /* the greeting comes */
    moor_release(lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 0);
    lease_fixture_fini(&f);
}

static void a_conn_with_bytes_unsent_is_closed(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    assert_int_equal(lease_send(&s, "queued"), MOOR_OK);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 0);
    TURN_UNTIL(&f, s.sent);
    assert_int_equal(s.sent, 1);
    lease_fixture_fini(&f);
}

static void a_conn_at_its_end_is_closed(void **state)
{
    (void)state;
    SET_UP(f);
    atomic_store(&f.server->mode, STREAM_GOODBYE);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(s.end.err, MOOR_OK);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 0);
    lease_fixture_fini(&f);
}

static void a_conn_is_closed_after_finish(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = lease_acquire(&f);
    assert_int_equal(moor_stream_finish(lease), MOOR_OK);
    moor_release(lease, MOOR_REUSE);
    assert_int_equal(lease_stats(&f).conns_idle, 0);
    lease_fixture_fini(&f);
}

static void a_callback_may_release(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    for (int i = 0; i < 2; i++) {
        struct lease_stream s = {.lease = lease_acquire(&f)};
        s.releases_in_chunk = i == 0;
        s.releases_in_sent = i == 1;
        if (i == 0)
            lease_read(&s);
        assert_int_equal(lease_send(&s, "answer"), MOOR_OK);
        TURN_UNTIL(&f, i == 0 ? s.len == 6 : s.sent == 1);
        if (i == 0) { /* all was read: the conn is as good as new */
            TURN_UNTIL(&f, lease_stats(&f).conns_idle == 1);
        } else { /* the echo meets an idle conn, or the end of it */
            TURN_UNTIL(&f, lease_stats(&f).conns_leased == 0);
        }
        lease_turn_for(&f, 10);
    }
    atomic_store(&f.server->mode, STREAM_GOODBYE);
    TURN_UNTIL(&f, lease_stats(&f).conns_open == 0);
    struct lease_stream s = {.lease = lease_acquire(&f), .releases_in_end = true};
    lease_read(&s);
    TURN_UNTIL(&f, s.ends);
    TURN_UNTIL(&f, lease_stats(&f).conns_open == 0);
    lease_fixture_fini(&f);
}

static void release_when_told(void *user, const moor_acquired *a)
{
    assert_int_equal(a->fault.err, MOOR_OK);
    moor_release(a->lease, MOOR_REUSE);
    ++*(int *)user;
}

static void a_lease_may_end_in_its_first_callback(void **state)
{
    (void)state;
    SET_UP(f);
    open_with_one_conn(&f, 10);
    int calls = 0;
    for (int i = 0; i < 5; i++)
        assert_int_equal(moor_acquire(f.pool, NULL, release_when_told, &calls, NULL), MOOR_OK);
    TURN_UNTIL(&f, calls == 5);
    TURN_UNTIL(&f, lease_stats(&f).conns_idle == 1);
    TURN_UNTIL(&f, atomic_load(&f.server->served) == 1);
    lease_fixture_fini(&f);
}

static void *release_it(void *arg)
{
    moor_release(*(moor_lease *)arg, MOOR_REUSE);
    return NULL;
}

static void any_thread_may_release_and_only_one_does(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    for (int i = 0; i < 20; i++) {
        moor_lease lease = lease_acquire(&f);
        pthread_t t[2];
        for (int j = 0; j < 2; j++)
            assert_int_equal(pthread_create(&t[j], NULL, release_it, &lease), 0);
        if (i % 2)
            moor_release(lease, MOOR_REUSE);
        for (int j = 0; j < 2; j++)
            pthread_join(t[j], NULL);
        struct lease_stream s = {.lease = lease};
        assert_int_equal(lease_send(&s, "x"), MOOR_ESTALE);
        TURN_UNTIL(&f, lease_stats(&f).conns_idle == 1);
    }
    assert_int_equal(lease_stats(&f).conns_leased, 0);
    TURN_UNTIL(&f, atomic_load(&f.server->served) == 1);
    lease_fixture_fini(&f);
}

/* ---- the end of the pool, of the shard, of the process ---- */

static void draining_fails_waiters_and_cuts_leases_at_the_deadline(void **state)
{
    (void)state;
    SET_UP(f);
    open_with_one_conn(&f, 10);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    struct lease_got got = {0};
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, NULL), MOOR_OK);
    moor_pool_drain(f.pool, 50, NULL, NULL);
    TURN_UNTIL(&f, got.calls);
    assert_int_equal(got.err, MOOR_ECLOSED);
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &got, NULL), MOOR_ECLOSED);
    assert_int_equal(lease_send(&s, "late"), MOOR_OK); /* what runs goes on */
    TURN_UNTIL(&f, s.len == 4);
    assert_int_equal(s.ends, 0);
    TURN_UNTIL(&f, s.ends);
    assert_int_equal(s.end.err, MOOR_ECANCELED);
    assert_int_equal(lease_send(&s, "x"), MOOR_ESTALE);
    moor_release(s.lease, MOOR_REUSE);
    assert_int_equal(moor_pool_close(f.pool, 1000), MOOR_OK);
    f.pool = NULL;
    assert_int_equal(s.ends, 1);
    assert_int_equal(got.calls, 1);
    lease_fixture_fini(&f);
}

static void a_release_during_a_drain_ends_it(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = lease_acquire(&f);
    moor_pool_drain(f.pool, 60000, NULL, NULL);
    lease_turn_for(&f, 5);
    moor_release(lease, MOOR_REUSE);
    assert_int_equal(moor_pool_close(f.pool, 5000), MOOR_OK);
    f.pool = NULL;
    lease_fixture_fini(&f);
}

static void chunks_that_are_out_keep_the_pool(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f), .keeps = true};
    lease_read(&s);
    assert_int_equal(lease_send(&s, "kept"), MOOR_OK);
    TURN_UNTIL(&f, s.len == 4);
    assert_int_equal(moor_pool_close(f.pool, 0), MOOR_EBUSY);
    assert_int_equal(s.ends, 1);
    assert_memory_equal(s.chunks[0].bytes.base, "kept", 4); /* still there */
    lease_return_all(&s);
    assert_int_equal(moor_pool_close(f.pool, 1000), MOOR_OK);
    f.pool = NULL;
    lease_fixture_fini(&f);
}

static void leaving_ends_leases_and_acquires(void **state)
{
    (void)state;
    SET_UP(f);
    open_with_one_conn(&f, 10);
    struct lease_stream s = {.lease = lease_acquire(&f), .keeps = true};
    lease_read(&s);
    assert_int_equal(lease_send(&s, "kept"), MOOR_OK);
    TURN_UNTIL(&f, s.len == 4);
    struct lease_got waiting = {0};
    assert_int_equal(moor_acquire(f.pool, NULL, lease_on_acquired, &waiting, NULL), MOOR_OK);
    assert_int_equal(lease_send(&s, "queued"), MOOR_OK);
    moor_shard_leave(f.shard);
    f.shard = NULL;
    assert_int_equal(s.ends, 1);
    assert_int_equal(s.end.err, MOOR_ECANCELED);
    assert_int_equal(s.sent, 2);
    assert_int_equal(waiting.calls, 1);
    assert_true(waiting.err == MOOR_ECANCELED || waiting.err == MOOR_ECLOSED);
    moor_release(s.lease, MOOR_REUSE);
    moor_chunk c;
    assert_int_equal(moor_stream_read_wait(s.lease, 0, &c), MOOR_ESTALE);
    assert_memory_equal(s.chunks[0].bytes.base, "kept", 4);
    lease_return_all(&s);
    lease_fixture_fini(&f);
}

static void leaving_during_a_drain_lets_the_pool_close(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    const moor_lease lease = lease_acquire(&f);
    moor_pool_drain(f.pool, 60000, NULL, NULL);
    lease_turn_for(&f, 2);
    moor_shard_leave(f.shard);
    f.shard = NULL;
    assert_int_equal(moor_pool_close(f.pool, 0), MOOR_OK);
    f.pool = NULL;
    moor_release(lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

/* In the child; exits with the line that failed. */
#define CHILD_ASSERT(x)                                                                            \
    do {                                                                                           \
        if (!(x))                                                                                  \
            _exit(__LINE__ % 255 + 1);                                                             \
    } while (0)

static void a_forked_child_is_told(void **state)
{
    (void)state;
    SET_UP(f);
    lease_fixture_open(&f, NULL);
    struct lease_stream s = {.lease = lease_acquire(&f)};
    lease_read(&s);
    const pid_t child = fork();
    if (child == 0) {
        struct lease_got got = {0};
        moor_acquired out;
        moor_chunk c;
        CHILD_ASSERT(moor_acquire(f.pool, NULL, lease_on_acquired, &got, NULL) == MOOR_EFORKED);
        CHILD_ASSERT(moor_acquire_wait(f.pool, NULL, &out) == MOOR_EFORKED);
        CHILD_ASSERT(moor_stream_read(s.lease, &lease_handlers, &s) == MOOR_EFORKED);
        CHILD_ASSERT(lease_send(&s, "child") == MOOR_EFORKED);
        CHILD_ASSERT(moor_stream_finish(s.lease) == MOOR_EFORKED);
        CHILD_ASSERT(moor_stream_read_wait(s.lease, 0, &c) == MOOR_EFORKED);
        CHILD_ASSERT(moor_stream_send_wait(s.lease, (moor_span){"c", 1}, 0) == MOOR_EFORKED);
        moor_release(s.lease, MOOR_DISCARD);
        _exit(0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(lease_send(&s, "parent"), MOOR_OK);
    TURN_UNTIL(&f, s.len == 6);
    moor_release(s.lease, MOOR_REUSE);
    lease_fixture_fini(&f);
}

/* ---- out of memory ---- */

/* A dial, a stream, a release, a reuse. Each step may fail; nothing may stay behind. */
static void use_twice(struct lease_fixture *f)
{
    for (int i = 0; i < 2; i++) {
        struct lease_got got = {0};
        if (moor_acquire(f->pool, NULL, lease_on_acquired, &got, NULL))
            continue;
        TURN_UNTIL(f, got.calls);
        if (got.err)
            continue;
        struct lease_stream s = {.lease = got.lease, .keeps = true};
        unsigned queued = 0;
        for (int j = 0; j < 3; j++)
            queued += lease_send(&s, "0123456789") == MOOR_OK;
        queued += lease_send(&s, "") == MOOR_OK;
        lease_turn_for(f, 2);
        lease_read(&s);
        for (int turns = 0; turns < 20 && !s.ends && s.len < 30; turns++)
            assert_int_equal(moor_shard_wait(f->shard, 1), MOOR_OK);
        moor_release(got.lease, MOOR_REUSE);
        TURN_UNTIL(f, s.sent == queued);
        assert_int_equal(got.calls, 1);
        lease_return_all(&s);
    }
}

/* In a runtime of its own: slabs that an earlier run has filled would hide allocations. */
static void a_life(void *arg)
{
    struct lease_fixture f = *(struct lease_fixture *)arg;
    moor_runtime_options ro;
    lease_runtime_options(&ro, backend, 0);
    if (moor_runtime_create(&ro, &f.runtime))
        return;
    moor_pool_options po;
    lease_pool_options(&po);
    po.acquire_timeout_ms = 50;
    if (moor_shard_adopt(f.runtime, &f.shard) == MOOR_OK) {
        if (moor_pool_open(f.runtime, f.server->url, &po, &f.pool) == MOOR_OK)
            use_twice(&f);
        assert_int_equal(moor_pool_close(f.pool, 1000), MOOR_OK);
        moor_shard_leave(f.shard);
    }
    assert_int_equal(moor_runtime_destroy(f.runtime, 1000), MOOR_OK);
}

static void failing_any_allocation_leaves_nothing_behind(void **state)
{
    (void)state;
    struct lease_fixture f;
    if (!lease_fixture_init(&f, backend, 0, false))
        skip();
    fault_every_allocation(a_life, &f);
    lease_fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_conn_is_dialled_once_and_then_reused),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(only_a_shard_acquires),
        cmocka_unit_test(a_waiter_times_out_and_learns_why),
        cmocka_unit_test(time_away_from_the_loop_is_not_waiting),
        cmocka_unit_test(waiters_are_bounded_and_served_in_turn),
        cmocka_unit_test(with_no_waiters_allowed_only_idle_conns_serve),
        cmocka_unit_test(a_refused_connect_fails_the_acquire),
        cmocka_unit_test(a_canceled_waiter_hears_it_once),
        cmocka_unit_test(canceling_during_the_dial_leaves_an_idle_conn),
        cmocka_unit_test(canceling_a_grant_not_yet_told_gives_the_conn_back),
        cmocka_unit_test(canceling_after_the_callback_is_nothing),
        cmocka_unit_test(a_conn_that_dies_before_it_is_told_of_is_replaced),
        cmocka_unit_test(stale_handles_do_nothing),
        cmocka_unit_test(a_discarded_conn_is_closed),
        cmocka_unit_test(a_conn_with_bytes_unread_is_closed),
        cmocka_unit_test(a_conn_with_bytes_unsent_is_closed),
        cmocka_unit_test(a_conn_at_its_end_is_closed),
        cmocka_unit_test(a_conn_is_closed_after_finish),
        cmocka_unit_test(a_callback_may_release),
        cmocka_unit_test(a_lease_may_end_in_its_first_callback),
        cmocka_unit_test(any_thread_may_release_and_only_one_does),
        cmocka_unit_test(draining_fails_waiters_and_cuts_leases_at_the_deadline),
        cmocka_unit_test(a_release_during_a_drain_ends_it),
        cmocka_unit_test(chunks_that_are_out_keep_the_pool),
        cmocka_unit_test(leaving_ends_leases_and_acquires),
        cmocka_unit_test(leaving_during_a_drain_lets_the_pool_close),
        cmocka_unit_test(a_forked_child_is_told),
        cmocka_unit_test(failing_any_allocation_leaves_nothing_behind),
    };
    backend = "io_uring";
    int failed = cmocka_run_group_tests_name("lease io_uring", tests, NULL, NULL);
    backend = "epoll";
    return failed + cmocka_run_group_tests_name("lease epoll", tests, NULL, NULL);
}
