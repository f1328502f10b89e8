/*
 * Cancelling a request at every stage, from the shard and from another thread; and how time runs
 * out at each stage. on_done always runs once, and says what the request was doing.
 */
#include "tests/support/fixture_pool.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static struct origin_process origin;
static struct fixture f;

static int setup(void **state)
{
    (void)state;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.conns_max = 1;
    fixture_open(&f, NULL, origin.url, &po);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(fixture_stats(&f).waiters, 0);
    assert_int_equal(fixture_stats(&f).conns_leased, 0);
    fixture_close(&f);
    return 0;
}

/* A listener whose backlog is full: a SYN to it is never answered. */
struct black_hole {
    int listener, fillers[8];
    char url[64];
};

static void black_hole_open(struct black_hole *b)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    b->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(b->listener, (struct sockaddr *)&at, len), 0);
    assert_int_equal(getsockname(b->listener, (struct sockaddr *)&at, &len), 0);
    assert_int_equal(listen(b->listener, 0), 0);
    for (int i = 0; i < 8; i++) {
        b->fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(b->fillers[i], (struct sockaddr *)&at, len);
    }
    peer_sleep_ms(20);
    snprintf(b->url, sizeof b->url, "http://127.0.0.1:%d", ntohs(at.sin_port));
}

static void black_hole_close(struct black_hole *b)
{
    for (int i = 0; i < 8; i++)
        close(b->fillers[i]);
    close(b->listener);
}

/* ---- cancel ---- */

static void cancel_own(struct call *c)
{
    moor_cancel(c->op);
    moor_cancel(c->op);
}

static void expect_canceled(struct call *c, bool is_safe)
{
    call_wait(c);
    assert_err(c->done.fault.err, MOOR_ECANCELED);
    assert_string_equal(c->done.fault.what, "canceled by the caller");
    assert_int_equal(c->done.fault.safe_to_retry, is_safe);
    call_check(c);
    moor_cancel(c->op);
    call_fini(c);
}

/* Posts a call and its cancel in one turn of the shard. */
static void start_and_cancel(void *user)
{
    struct call *c = user;
    call_start_here(c);
    moor_cancel(c->op);
}

static void test_before_anything_happened(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/");
    c.task = (moor_task){.run = start_and_cancel, .user = &c};
    assert_err(moor_post(moor_shard_at(f.runtime, 0), &c.task), MOOR_OK);
    eventually(call_is_over(&c));
    expect_canceled(&c, true);
    /* The dial it caused goes on, and serves the next one. */
    eventually(fixture_stats(&f).conns_idle == 1);
}

static void test_while_waiting_for_a_connection(void **state)
{
    (void)state;
    struct call holder, c;
    call_init(&holder, f.pool, "/delay/300");
    call_start(&f, &holder);
    call_init(&c, f.pool, "/");
    call_start(&f, &c);
    eventually(fixture_stats(&f).waiters == 1);
    moor_cancel(c.op);
    expect_canceled(&c, true);
    assert_false(call_is_over(&holder));
    call_wait(&holder);
    assert_err(holder.done.fault.err, MOOR_OK);
    call_fini(&holder);
}

static void test_while_connecting(void **state)
{
    (void)state;
    struct black_hole hole;
    black_hole_open(&hole);
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, hole.url, NULL, &p), MOOR_OK);
    struct call c;
    call_init(&c, p, "/");
    call_start(&f, &c);
    peer_sleep_ms(50);
    assert_false(call_is_over(&c));
    moor_cancel(c.op);
    expect_canceled(&c, true);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    black_hole_close(&hole);
}

static void test_after_it_was_sent(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/delay/30000");
    call_start(&f, &c);
    eventually(fixture_stats(&f).bytes_out > 0);
    moor_cancel(c.op);
    expect_canceled(&c, false);
    eventually(fixture_stats(&f).conns_open == 0);
}

static void test_in_the_callback_of_the_head(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/drip?bytes=100000&interval=5&piece=100");
    c.on_head = cancel_own;
    call_start(&f, &c);
    expect_canceled(&c, false);
}

static void test_in_the_callback_of_a_chunk(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/bytes/100000000");
    c.on_chunk = cancel_own;
    call_start(&f, &c);
    expect_canceled(&c, false);
    assert_true(c.bytes < 100000000);
}

static void test_in_the_body_with_chunks_held(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/bytes/100000000");
    c.is_holding = true;
    call_start(&f, &c);
    eventually(call_event_count(&c) > 5);
    moor_cancel(c.op);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_ECANCELED);
    /* The bytes stay until they are returned. */
    assert_int_equal(fixture_stats(&f).chunks_lent, (uint64_t)c.held_count);
    for (int i = 0; i < c.held_count; i++)
        for (size_t k = 0, at = 0; k < c.held[i].bytes.len; k += 997, at++)
            assert_true(((const uint8_t *)c.held[i].bytes.base)[k] < 251);
    call_return_all(&c);
    eventually(fixture_stats(&f).chunks_lent == 0);
    call_fini(&c);
}

static void test_in_the_callback_of_done(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/bytes/1");
    c.on_done = cancel_own;
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
    struct call next; /* the stale op names nothing, not its slot's next user */
    call_init(&next, f.pool, "/delay/50");
    const moor_op stale = c.op;
    call_start(&f, &next);
    moor_cancel(stale);
    call_wait(&next);
    assert_err(next.done.fault.err, MOOR_OK);
    call_fini(&next);
}

static void *cancel_soon(void *arg)
{
    struct call *c = arg;
    peer_sleep_ms((int)(intptr_t)c->user);
    moor_cancel(c->op);
    return NULL;
}

static void test_a_race_of_cancel_and_completion(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        struct call c;
        call_init(&c, f.pool, i % 2 ? "/delay/3" : "/bytes/300000");
        c.user = (void *)(intptr_t)(i % 6);
        call_start(&f, &c);
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, cancel_soon, &c), 0);
        call_wait(&c);
        pthread_join(t, NULL);
        if (c.done.fault.err)
            assert_err(c.done.fault.err, MOOR_ECANCELED);
        call_check(&c);
        call_fini(&c);
    }
}

/* ---- the rest of a canceled response ---- */

enum { REST_MAX = 1000 };

/* A peer that answers the first request with a head, and with its body when told. */
struct rest {
    struct peer peer;
    moor_pool *pool;
    int len;
    atomic_bool may_come;
};

static void answer_with_a_late_rest(struct peer_conn *c)
{
    struct rest *r = c->peer->user;
    static const char body[REST_MAX + 1];
    char head[64];
    while (peer_head(c)) {
        if (atomic_load(&c->peer->requests) > 1) {
            if (!peer_say(c, PEER_OK))
                return;
            continue;
        }
        snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", r->len);
        if (!peer_say(c, head))
            return;
        while (!atomic_load(&r->may_come) && !atomic_load(&c->peer->is_stopping))
            peer_sleep_ms(1);
        if (!peer_send(c, body, (size_t)r->len))
            return;
    }
}

static moor_stats rest_stats(struct rest *r)
{
    moor_stats s;
    moor_stats_read(r->pool, &s);
    return s;
}

/* Cancels a request that has its head and `len` bytes to come. */
static void rest_open(struct rest *r, int len)
{
    *r = (struct rest){.len = len};
    peer_start(&r->peer, answer_with_a_late_rest, r);
    moor_pool_options po;
    fixture_pool_options(&po);
    po.drain_unread_max = REST_MAX;
    assert_err(moor_pool_open(f.runtime, r->peer.url, &po, &r->pool), MOOR_OK);
    struct call c;
    call_init(&c, r->pool, "/");
    call_start(&f, &c);
    eventually(call_event_count(&c) == 1);
    moor_cancel(c.op);
    expect_canceled(&c, false);
}

/* The next request, and everything's end. */
static void rest_close(struct rest *r, bool is_reused)
{
    struct call c;
    call_init(&c, r->pool, "/");
    call_expect(&f, &c, MOOR_OK);
    assert_string_equal(c.text, "ok");
    assert_int_equal(c.done.reused, is_reused);
    call_fini(&c);
    assert_int_equal(atomic_load(&r->peer.accepted), is_reused ? 1 : 2);
    assert_err(moor_pool_close(r->pool, 1000), MOOR_OK);
    peer_stop(&r->peer);
}

static void test_a_small_rest_is_read_and_the_connection_kept(void **state)
{
    (void)state;
    struct rest r;
    rest_open(&r, REST_MAX);
    assert_int_equal(rest_stats(&r).conns_leased, 1);
    atomic_store(&r.may_come, true);
    eventually(rest_stats(&r).conns_idle == 1);
    rest_close(&r, true);
}

static void test_a_rest_beyond_the_option_closes_the_connection(void **state)
{
    (void)state;
    struct rest r;
    const int64_t began = fixture_now_ms();
    rest_open(&r, REST_MAX + 1);
    eventually(rest_stats(&r).conns_open == 0);
    assert_true(fixture_now_ms() - began < 1000); /* not for want of bytes */
    atomic_store(&r.may_come, true);
    rest_close(&r, false);
}

static void test_a_rest_that_never_comes_is_waited_for_a_second(void **state)
{
    (void)state;
    struct rest r;
    const int64_t began = fixture_now_ms();
    rest_open(&r, 1);
    eventually(rest_stats(&r).conns_open == 0);
    assert_in_range(fixture_now_ms() - began, 998, 1000 + TIME_SLACK_MS);
    atomic_store(&r.may_come, true);
    rest_close(&r, false);
}

/* ---- time ---- */

static void expect_late(struct call *c, int64_t after_ms, const char *what, bool is_safe)
{
    const int64_t began = fixture_now_ms();
    call_expect(&f, c, MOOR_ETIMEDOUT);
    const int64_t took = fixture_now_ms() - began;
    assert_string_equal(c->done.fault.what, what);
    assert_int_equal(c->done.fault.safe_to_retry, is_safe);
    assert_in_range(took, after_ms - 2, after_ms + TIME_SLACK_MS);
    call_fini(c);
}

static void test_total_timeout_while_waiting_for_the_answer(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/bad/stall-head");
    c.request.timeout_ms = 100;
    expect_late(&c, 100, "wait for the response", false);
}

static void test_total_timeout_in_the_body(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/bad/stall?after=100");
    c.request.timeout_ms = 100;
    c.request.first_byte_timeout_ms = 50;
    expect_late(&c, 100, "wait for the response", false);
}

static void test_total_timeout_while_waiting_for_a_connection(void **state)
{
    (void)state;
    struct call holder, c;
    call_init(&holder, f.pool, "/delay/400");
    call_start(&f, &holder);
    call_init(&c, f.pool, "/");
    c.request.timeout_ms = 100;
    expect_late(&c, 100, "wait for a connection", true);
    call_wait(&holder);
    call_fini(&holder);
}

static void test_connect_timeout_says_why(void **state)
{
    (void)state;
    struct call holder, c;
    call_init(&holder, f.pool, "/delay/400");
    call_start(&f, &holder);
    eventually(fixture_stats(&f).conns_leased == 1);
    call_init(&c, f.pool, "/");
    c.request.connect_timeout_ms = 100;
    call_start(&f, &c);
    call_wait(&c);
    assert_non_null(c.done.why);
    assert_int_equal(c.why.reason, MOOR_WAIT_AT_CAP);
    assert_int_equal(c.why.conns_max, 1);
    assert_int_equal(c.why.conns_open, 1);
    assert_int_equal(c.why.conns_leased, 1);
    assert_int_equal(c.why.conns_idle, 0);
    assert_err(c.why.connect_err, MOOR_OK);
    assert_true(c.why.waited >= 100 * 1000000LL);
    assert_true(c.done.waited >= 100 * 1000000LL);
    assert_string_equal(c.done.fault.what, "wait for a connection");
    assert_true(c.done.fault.safe_to_retry);
    call_wait(&holder);
    call_fini(&holder);
    call_fini(&c);
}

static void test_zero_means_take_or_fail(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/");
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
    call_init(&c, f.pool, "/");
    c.request.connect_timeout_ms = 0;
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
    struct call holder;
    call_init(&holder, f.pool, "/delay/200");
    call_start(&f, &holder);
    call_init(&c, f.pool, "/");
    c.request.connect_timeout_ms = 0;
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    assert_true(c.done.total < 150 * 1000000LL);
    call_fini(&c);
    call_wait(&holder);
    call_fini(&holder);
}

static void test_first_byte_timeout(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/delay/30000");
    c.request.first_byte_timeout_ms = 100;
    expect_late(&c, 100, "wait for the response's first byte", false);
    call_init(&c, f.pool, "/drip?bytes=6&interval=100&piece=1");
    c.request.first_byte_timeout_ms = 300;
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
}

static void test_the_pool_gives_the_timeouts(void **state)
{
    (void)state;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.total_timeout_ms = 100;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_OK);
    struct call c;
    call_init(&c, p, "/delay/30000");
    expect_late(&c, 100, "wait for the response", false);
    call_init(&c, p, "/delay/200");
    c.request.timeout_ms = MOOR_FOREVER;
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
}

static void test_the_pool_bounds_the_wait_for_a_connection(void **state)
{
    (void)state;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.conns_max = 1;
    po.acquire_timeout_ms = 200;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_OK);
    struct call holder, c;
    call_init(&holder, p, "/delay/600");
    call_start(&f, &holder);
    call_init(&c, p, "/");
    expect_late(&c, 200, "wait for a connection", true);
    call_wait(&holder);
    assert_err(holder.done.fault.err, MOOR_OK);
    call_fini(&holder);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
}

static void test_a_black_hole_costs_the_connect_timeout(void **state)
{
    (void)state;
    struct black_hole hole;
    black_hole_open(&hole);
    moor_pool_options po;
    fixture_pool_options(&po);
    po.connect_timeout_ms = 150;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, hole.url, &po, &p), MOOR_OK);
    struct call c;
    call_init(&c, p, "/");
    const int64_t began = fixture_now_ms();
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    assert_in_range(fixture_now_ms() - began, 148, 150 + TIME_SLACK_MS);
    assert_true(c.done.fault.safe_to_retry);
    assert_non_null(c.done.why);
    assert_err(c.why.connect_err, MOOR_ETIMEDOUT);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    black_hole_close(&hole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        T(before_anything_happened),
        T(while_waiting_for_a_connection),
        T(while_connecting),
        T(after_it_was_sent),
        T(in_the_callback_of_the_head),
        T(in_the_callback_of_a_chunk),
        T(in_the_body_with_chunks_held),
        T(in_the_callback_of_done),
        T(a_race_of_cancel_and_completion),
        T(a_small_rest_is_read_and_the_connection_kept),
        T(a_rest_beyond_the_option_closes_the_connection),
        T(a_rest_that_never_comes_is_waited_for_a_second),
        T(total_timeout_while_waiting_for_the_answer),
        T(total_timeout_in_the_body),
        T(total_timeout_while_waiting_for_a_connection),
        T(connect_timeout_says_why),
        T(zero_means_take_or_fail),
        T(first_byte_timeout),
        T(the_pool_gives_the_timeouts),
        T(the_pool_bounds_the_wait_for_a_connection),
        T(a_black_hole_costs_the_connect_timeout),
#undef T
    };
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
