/*
 * Requests on shards and from ordinary threads: the completion contract, and every shape of
 * response body, byte for byte.
 */
#include "tests/support/fixture_pool.h"

#include <stdlib.h>

static struct origin_process origin;
static struct fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_open(&f, NULL, origin.url, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_close(&f);
    return 0;
}

/* ---- bodies ---- */

static void expect_body(const char *method, const char *url, int status, uint64_t bytes)
{
    struct call c;
    call_init(&c, f.pool, url);
    c.request.method = method;
    call_expect(&f, &c, MOOR_OK);
    assert_int_equal(c.status, status);
    assert_int_equal(c.bytes, bytes);
    assert_int_equal(c.done.bytes_down, bytes);
    assert_true(c.is_pattern);
    call_fini(&c);
}

static void test_bodies_of_a_length(void **state)
{
    (void)state;
    expect_body("GET", "/bytes/0", 200, 0);
    expect_body("GET", "/bytes/1", 200, 1);
    expect_body("GET", "/bytes/65536", 200, 65536);
    expect_body("GET", "/bytes/10485760", 200, 10485760);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
}

static void test_chunked_bodies(void **state)
{
    (void)state;
    expect_body("GET", "/chunked/0", 200, 0);
    expect_body("GET", "/chunked/1?chunk=1", 200, 1);
    expect_body("GET", "/chunked/65536?chunk=7", 200, 65536);
    expect_body("GET", "/chunked/10485760?chunk=70000", 200, 10485760);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
}

static void test_responses_without_a_body(void **state)
{
    (void)state;
    expect_body("HEAD", "/bytes/1000", 200, 0);
    expect_body("GET", "/status/204", 204, 0);
    expect_body("GET", "/status/304", 304, 0);
    expect_body("HEAD", "/chunked/1000", 200, 0);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
}

static void test_a_body_that_ends_with_the_connection(void **state)
{
    (void)state;
    expect_body("GET", "/bad/eof-body?bytes=100000", 200, 100000);
    expect_body("GET", "/bytes/1", 200, 1);
    assert_int_equal(fixture_stats(&f).conns_created, 2);
}

static void test_interim_responses(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/bad/1xx?count=3");
    call_expect(&f, &c, MOOR_OK);
    assert_string_equal(c.events, "iiihcd");
    assert_string_equal(c.text, "ok\n");
    call_fini(&c);
}

static void say_trailers(struct peer_conn *c)
{
    while (peer_head(c))
        peer_say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Test\r\n\r\n"
                    "2;ext=1\r\nok\r\n0\r\nX-Test: after\r\n\r\n");
}

static void test_trailers(void **state)
{
    (void)state;
    struct peer peer;
    peer_start(&peer, say_trailers, NULL);
    struct fixture g;
    fixture_open(&g, NULL, peer.url, NULL);
    struct call c;
    call_init(&c, g.pool, "/");
    call_expect(&g, &c, MOOR_OK);
    assert_string_equal(c.events, "hctd");
    assert_string_equal(c.header, "after");
    call_fini(&c);
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/";
    moor_http_response *res = NULL;
    assert_err(moor_http_fetch(g.pool, &r, &res, NULL), MOOR_OK);
    assert_int_equal(res->trailer_count, 1);
    assert_memory_equal(res->trailers[0].value.base, "after", 5);
    moor_http_response_free(res);
    fixture_close(&g);
    peer_stop(&peer);
}

/* ---- the contract ---- */

static void test_every_callback_is_optional_but_done(void **state)
{
    (void)state;
    static const moor_http_handlers none = {.size = sizeof none};
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/";
    assert_err(moor_http_send(f.pool, &r, &none, NULL, NULL), MOOR_EINVAL);
    assert_err(moor_http_send(NULL, &r, &none, NULL, NULL), MOOR_EINVAL);
    assert_err(moor_http_send(f.pool, NULL, &none, NULL, NULL), MOOR_EINVAL);
    moor_http_response_free(NULL);
    moor_cancel((moor_op){NULL, 0});
    moor_body_resume((moor_op){NULL, 0});
    moor_chunk_return((moor_chunk){{NULL, 0}, NULL, 0});
}

static void test_what_done_says(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/delay/100");
    call_expect(&f, &c, MOOR_OK);
    assert_false(c.done.reused);
    assert_int_equal(c.done.replays, 0);
    assert_null(c.done.why);
    assert_true(c.done.first_byte >= 100 * 1000000LL);
    assert_true(c.done.total >= c.done.first_byte);
    assert_true(c.done.waited >= 0 && c.done.waited <= c.done.first_byte);
    call_fini(&c);
    call_init(&c, f.pool, "/bytes/1");
    call_expect(&f, &c, MOOR_OK);
    assert_true(c.done.reused);
    call_fini(&c);
    const moor_stats s = fixture_stats(&f);
    assert_int_equal(s.requests, 2);
    assert_int_equal(s.requests_failed, 0);
    assert_int_equal(s.acquires, 2);
    assert_int_equal(s.acquires_reused, 1);
    assert_int_equal(s.conns_open, 1);
    assert_int_equal(s.conns_idle, 1);
    assert_int_equal(s.conns_leased, 0);
    assert_int_equal(s.chunks_lent, 0);
}

static void test_bytes_are_counted(void **state)
{
    (void)state;
    expect_body("GET", "/bytes/100000", 200, 100000);
    const moor_stats s = fixture_stats(&f);
    assert_in_range(s.bytes_in, 100000, 101000);
    assert_in_range(s.bytes_out, 30, 1000);
}

enum { CROWD = 200 };

static void test_a_crowd_on_one_shard(void **state)
{
    (void)state;
    struct call *calls = calloc(CROWD, sizeof *calls);
    for (int i = 0; i < CROWD; i++) {
        call_init(&calls[i], f.pool, i % 2 ? "/bytes/20000" : "/chunked/20000?chunk=999");
        call_start(&f, &calls[i]);
    }
    for (int i = 0; i < CROWD; i++) {
        call_wait(&calls[i]);
        assert_err(calls[i].done.fault.err, MOOR_OK);
        assert_int_equal(calls[i].bytes, 20000);
        assert_true(calls[i].is_pattern);
        call_check(&calls[i]);
        call_fini(&calls[i]);
    }
    assert_true(fixture_stats(&f).conns_created <= 100);
    free(calls);
}

/* A callback that sends again on the same pool, and the last of the chain ends the test. */
static void send_again(struct call *c)
{
    struct call *next = c->user;
    if (next)
        call_start_here(next);
}

static void test_a_callback_sends_again(void **state)
{
    (void)state;
    struct call a, b;
    call_init(&b, f.pool, "/bytes/5");
    call_init(&a, f.pool, "/bytes/4");
    a.user = &b;
    a.on_done = send_again;
    call_expect(&f, &a, MOOR_OK);
    call_wait(&b);
    call_check(&b);
    assert_true(b.done.reused);
    assert_true(pthread_equal(a.shard_thread, b.shard_thread));
    call_fini(&a);
    call_fini(&b);
}

/* ---- threads ---- */

static void test_send_from_an_ordinary_thread_is_refused(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/");
    call_start_here(&c);
    assert_err(c.sent, MOOR_EWRONGTHREAD);
    assert_int_equal(c.done_count, 0);
    assert_null(c.op.slot_);
    call_fini(&c);
    assert_null(moor_shard_self());
}

struct inside {
    struct fixture *f;
    moor_err fetch, close, destroy, adopt;
};

static void block_inside(struct call *c)
{
    struct inside *i = c->user;
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/";
    moor_http_response *res = NULL;
    moor_shard *s = NULL;
    i->fetch = moor_http_fetch(i->f->pool, &r, &res, NULL);
    i->close = moor_pool_close(i->f->pool, 0);
    i->destroy = moor_runtime_destroy(i->f->runtime, 0);
    i->adopt = moor_shard_adopt(i->f->runtime, &s);
}

static void test_blocking_inside_a_callback_is_refused(void **state)
{
    (void)state;
    struct inside i = {.f = &f};
    struct call c;
    call_init(&c, f.pool, "/bytes/1");
    c.user = &i;
    c.on_head = block_inside;
    call_expect(&f, &c, MOOR_OK);
    assert_err(i.fetch, MOOR_EWRONGTHREAD);
    assert_err(i.close, MOOR_EWRONGTHREAD);
    assert_err(i.destroy, MOOR_EWRONGTHREAD);
    assert_err(i.adopt, MOOR_EBUSY);
    call_fini(&c);
}

static void *fetch_many(void *arg)
{
    moor_pool *p = arg;
    long bad = 0;
    for (int i = 0; i < 50; i++) {
        moor_http_request r;
        moor_http_request_init(&r);
        r.url = i % 2 ? "/bytes/70000" : "/chunked/3000?chunk=100";
        const size_t wanted = i % 2 ? 70000 : 3000;
        moor_http_response *res = NULL;
        moor_fault fault;
        if (moor_http_fetch(p, &r, &res, &fault)) {
            bad++;
            continue;
        }
        const uint8_t *at = res->body.base;
        bad += res->head.status != 200 || res->body.len != wanted || at[wanted] != 0;
        for (size_t k = 0; k < res->body.len; k++)
            bad += at[k] != (uint8_t)(k % 251 * 131 % 251);
        bad += moor_http_header(&res->head, "CONTENT-TYPE").len == 0;
        moor_http_response_free(res);
    }
    return (void *)bad;
}

static void test_fetch_from_four_threads(void **state)
{
    (void)state;
    moor_runtime_options ro;
    struct fixture g;
    fixture_runtime_options(&g, &ro);
    ro.shards = 2;
    fixture_open(&g, &ro, origin.url, NULL);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fetch_many, g.pool), 0);
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        assert_ptr_equal(bad, NULL);
    }
    const moor_stats s = fixture_stats(&g);
    assert_int_equal(s.requests, 200);
    assert_int_equal(s.requests_failed, 0);
    moor_histogram *h = NULL;
    assert_err(moor_histogram_read(g.pool, MOOR_HISTOGRAM_REQUEST, &h), MOOR_OK);
    assert_int_equal(moor_histogram_count(h), 200);
    assert_true(moor_histogram_percentile(h, 50) > 0);
    moor_histogram_free(h);
    fixture_close(&g);
}

static void test_fetch_says_why_it_failed(void **state)
{
    (void)state;
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/bad/garbage";
    moor_http_response *res = NULL;
    moor_fault fault = {0};
    assert_err(moor_http_fetch(f.pool, &r, &res, &fault), MOOR_EPROTO);
    assert_null(res);
    assert_err(fault.err, MOOR_EPROTO);
    assert_non_null(fault.what);
    r.url = "no url at all";
    assert_err(moor_http_fetch(f.pool, &r, &res, &fault), MOOR_EINVAL);
    assert_true(fault.safe_to_retry);
}

static void test_fetch_bounds_the_body(void **state)
{
    (void)state;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.fetch_body_max = 1000;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_OK);
    moor_http_request r;
    moor_http_request_init(&r);
    moor_http_response *res = NULL;
    static const char *const over[] = {"/bytes/1001", "/chunked/1001?chunk=10"};
    for (int i = 0; i < 2; i++) {
        r.url = over[i];
        moor_fault fault = {0};
        assert_err(moor_http_fetch(p, &r, &res, &fault), MOOR_ETOOBIG);
        assert_string_equal(fault.what, "the body exceeds fetch_body_max");
    }
    r.url = "/bytes/1000";
    assert_err(moor_http_fetch(p, &r, &res, NULL), MOOR_OK);
    assert_int_equal(res->body.len, 1000);
    moor_http_response_free(res);
    r.url = "/bytes/1001"; /* announced, but no byte of it comes */
    r.method = "HEAD";
    assert_err(moor_http_fetch(p, &r, &res, NULL), MOOR_OK);
    assert_int_equal(res->body.len, 0);
    moor_http_response_free(res);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
}

static void test_two_runtimes_do_not_meet(void **state)
{
    (void)state;
    struct fixture g;
    fixture_open(&g, NULL, origin.url, NULL);
    expect_body("GET", "/bytes/1", 200, 1);
    struct call c;
    call_init(&c, f.pool, "/bytes/1"); /* f's pool on g's shard */
    call_start(&g, &c);
    assert_err(c.sent, MOOR_EWRONGTHREAD);
    call_fini(&c);
    call_init(&c, g.pool, "/bytes/2");
    call_expect(&g, &c, MOOR_OK);
    call_fini(&c);
    fixture_close(&g);
    expect_body("GET", "/bytes/3", 200, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        T(bodies_of_a_length),
        T(chunked_bodies),
        T(responses_without_a_body),
        T(a_body_that_ends_with_the_connection),
        T(interim_responses),
        T(trailers),
        T(every_callback_is_optional_but_done),
        T(what_done_says),
        T(bytes_are_counted),
        T(a_crowd_on_one_shard),
        T(a_callback_sends_again),
        T(send_from_an_ordinary_thread_is_refused),
        T(blocking_inside_a_callback_is_refused),
        T(fetch_from_four_threads),
        T(fetch_says_why_it_failed),
        T(fetch_bounds_the_body),
        T(two_runtimes_do_not_meet),
#undef T
    };
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
