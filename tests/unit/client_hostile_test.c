/*
 * Servers that break the protocol: an error that says so, the connection closed, and the next
 * request served by a new one.
 */
#include "tests/support/fixture_pool.h"

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

static void expect_broken(moor_pool *p, const char *url, moor_err err)
{
    struct call c;
    call_init(&c, p, url);
    c.request.timeout_ms = 10000;
    call_expect(&f, &c, err);
    if (err)
        assert_false(c.done.fault.safe_to_retry);
    call_fini(&c);
}

static void expect_next_is_fine(void)
{
    struct call c;
    call_init(&c, f.pool, "/bytes/1000");
    c.request.method = "POST";
    call_expect(&f, &c, MOOR_OK);
    assert_int_equal(c.bytes, 1000);
    assert_true(c.is_pattern);
    assert_false(c.done.reused);
    call_fini(&c);
}

static void test_garbage(void **state)
{
    (void)state;
    expect_broken(f.pool, "/bad/garbage", MOOR_EPROTO);
    expect_next_is_fine();
}

static void test_huge_headers(void **state)
{
    (void)state;
    expect_broken(f.pool, "/bad/huge-headers?bytes=1048576", MOOR_ETOOBIG);
    expect_next_is_fine();
}

static void test_smuggling(void **state)
{
    (void)state;
    expect_broken(f.pool, "/bad/smuggle", MOOR_EPROTO);
    expect_broken(f.pool, "/bad/cl-conflict", MOOR_EPROTO);
    expect_next_is_fine();
}

static void test_bytes_beyond_the_response(void **state)
{
    (void)state;
    expect_broken(f.pool, "/bad/extra?bytes=10", MOOR_OK);
    expect_next_is_fine();
}

static void test_one_byte_at_a_time(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/bad/split-writes?bytes=20&after=1");
    call_expect(&f, &c, MOOR_OK);
    assert_int_equal(c.bytes, 20);
    assert_true(c.is_pattern);
    call_fini(&c);
}

/* ---- what a script says, exactly ---- */

static void say_script(struct peer_conn *c)
{
    if (peer_head(c))
        peer_say(c, c->peer->user);
}

static void expect_script(const char *script, moor_err err, const char *events)
{
    struct peer peer;
    peer_start(&peer, say_script, (void *)(uintptr_t)script);
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, NULL, &p), MOOR_OK);
    struct call c;
    call_init(&c, p, "/");
    c.request.timeout_ms = 10000;
    call_start(&f, &c);
    call_wait(&c);
    if (c.done.fault.err != err)
        print_error("%s\n", script);
    assert_err(c.done.fault.err, err);
    if (err)
        assert_non_null(c.done.fault.what);
    if (events)
        assert_string_equal(c.events, events);
    call_check(&c);
    call_fini(&c);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    peer_stop(&peer);
}

static void test_scripts(void **state)
{
    (void)state;
    expect_script("HTTP/2.0 200 OK\r\n\r\n", MOOR_EPROTO, "d");
    expect_script("HTTP/1.1 20 OK\r\n\r\n", MOOR_EPROTO, "d");
    expect_script("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", MOOR_EPROTO, "d");
    expect_script("HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n", MOOR_EPROTO, "d");
    expect_script("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", MOOR_EPROTO, "d");
    expect_script("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", MOOR_EPROTO,
                  "d");
    expect_script("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", MOOR_EPROTO,
                  "hd");
    expect_script("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokNO", MOOR_EPROTO,
                  NULL);
    expect_script("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", MOOR_ERESET,
                  "hcd");
    expect_script("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", MOOR_EPROTO, NULL);
    expect_script("", MOOR_ERESET, "d");
    expect_script("HTTP/1.0 200 OK\r\n\r\nto the end", MOOR_OK, "hcd");
    expect_script("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", MOOR_OK,
                  "hcd");
}

static void say_many_headers(struct peer_conn *c)
{
    if (!peer_head(c))
        return;
    peer_send(c, "HTTP/1.1 200 OK\r\n", 17);
    for (int i = 0; i < 200; i++)
        peer_send(c, "X-A: 1\r\n", 8);
    peer_say(c, "\r\n");
}

static void say_1xx_for_ever(struct peer_conn *c)
{
    if (!peer_head(c))
        return;
    while (!atomic_load(&c->peer->is_stopping) &&
           peer_send(c, "HTTP/1.1 103 Early Hints\r\n\r\n", 28))
        ;
}

static void say_endless_head(struct peer_conn *c)
{
    if (!peer_head(c))
        return;
    peer_send(c, "HTTP/1.1 200 OK\r\nX: ", 20);
    while (!atomic_load(&c->peer->is_stopping) && peer_send(c, "aaaaaaaaaaaaaaaa", 16))
        ;
}

static void say_endless_trailers(struct peer_conn *c)
{
    if (!peer_head(c))
        return;
    peer_send(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 50);
    while (!atomic_load(&c->peer->is_stopping) && peer_send(c, "X-A: aaaaaaaaa\r\n", 16))
        ;
}

static void expect_bounded(peer_fn serve)
{
    struct peer peer;
    peer_start(&peer, serve, NULL);
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, NULL, &p), MOOR_OK);
    expect_broken(p, "/", MOOR_ETOOBIG);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    peer_stop(&peer);
}

static void test_what_never_ends_is_bounded(void **state)
{
    (void)state;
    expect_bounded(say_many_headers);
    expect_bounded(say_endless_head);
    expect_bounded(say_endless_trailers);
    expect_bounded(say_1xx_for_ever);
}

static void test_a_body_is_bounded(void **state)
{
    (void)state;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.body_bytes_max = 1000;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_OK);
    expect_broken(p, "/bytes/1001", MOOR_ETOOBIG);
    expect_broken(p, "/chunked/1001?chunk=10", MOOR_ETOOBIG);
    expect_broken(p, "/bad/eof-body?bytes=1001", MOOR_ETOOBIG);
    expect_broken(p, "/bytes/1000", MOOR_OK);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
}

/* A server that answers before it is asked: at connect, and to a conn that lies idle. */
static void speak_first(struct peer_conn *c)
{
    peer_send(c, PEER_OK, strlen(PEER_OK));
    peer_linger(c);
}

static void test_a_response_before_the_request(void **state)
{
    (void)state;
    struct peer peer;
    peer_start(&peer, speak_first, NULL);
    moor_pool_options po;
    fixture_pool_options(&po);
    po.conns_min_idle = 1;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, &po, &p), MOOR_OK);
    struct call c;
    call_init(&c, p, "/");
    c.request.timeout_ms = 300;
    call_start(&f, &c);
    call_wait(&c); /* whichever comes first, request or bytes; never a crash, never a stuck conn */
    call_check(&c);
    call_fini(&c);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    peer_stop(&peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        T(garbage),
        T(huge_headers),
        T(smuggling),
        T(bytes_beyond_the_response),
        T(one_byte_at_a_time),
        T(scripts),
        T(what_never_ends_is_bounded),
        T(a_body_is_bounded),
        T(a_response_before_the_request),
#undef T
    };
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
