/*
 * Bad input: refused at the call, with nothing kept, and a record that says what was wrong and
 * never tells a secret.
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

/* ---- pools ---- */

static void refuse_pool(const char *url, moor_err err, const char *logged)
{
    moor_pool *p = NULL;
    const moor_err e = moor_pool_open(f.runtime, url, NULL, &p);
    if (e != err)
        print_error("%s: %s\n", url, moor_err_name(e));
    assert_err(e, err);
    assert_null(p);
    if (logged && !fixture_has_logged(&f, logged))
        fail_msg("%s: \"%s\" is not in the log:\n%s", url, logged, f.log);
}

static void test_urls_of_pools(void **state)
{
    (void)state;
    refuse_pool("", MOOR_EINVAL, NULL);
    refuse_pool("127.0.0.1", MOOR_EINVAL, NULL);
    refuse_pool("http://", MOOR_EINVAL, NULL);
    refuse_pool("http://127.0.0.1:0", MOOR_EINVAL, "port");
    refuse_pool("http://127.0.0.1:65536", MOOR_EINVAL, "port");
    refuse_pool("http://b\xc3\xbc"
                "cher.example",
                MOOR_EINVAL, NULL);
    refuse_pool("http://[::1", MOOR_EINVAL, NULL);
    refuse_pool("http://a b", MOOR_EINVAL, NULL);
    refuse_pool("gopher://127.0.0.1", MOOR_ENOSYS, "scheme");
    refuse_pool("http://127.0.0.1/path", MOOR_EINVAL, "no path");
    assert_err(moor_pool_open(NULL, origin.url, NULL, &(moor_pool *){NULL}), MOOR_EINVAL);
    assert_err(moor_pool_open(f.runtime, origin.url, NULL, NULL), MOOR_EINVAL);
}

static void test_what_this_build_does_not_speak(void **state)
{
    (void)state;
    refuse_pool("ws://127.0.0.1", MOOR_ENOSYS, "does not speak");
    refuse_pool("redis://127.0.0.1", MOOR_ENOSYS, "does not speak");
}

static void test_options_of_pools(void **state)
{
    (void)state;
    moor_pool_options po;
    moor_pool *p = NULL;
    fixture_pool_options(&po);
    po.conns_max = 0;
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_EINVAL);
    assert_true(fixture_has_logged(&f, "conns_max"));
    assert_true(fixture_has_logged(&f, "1..1000000"));
    fixture_pool_options(&po);
    po.lifetime_jitter_percent = 51;
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_EINVAL);
    fixture_pool_options(&po);
    po.idle_timeout_ms = -2;
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_EINVAL);
    assert_null(p);
}

static void test_variables_of_pools(void **state)
{
    (void)state;
    moor_pool *p = NULL;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.name = "orders-db";
    assert_int_equal(setenv("MOORING_POOL_ORDERS_DB_CONNS_MAX", "0", 1), 0);
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_EINVAL);
    assert_true(fixture_has_logged(&f, "MOORING_POOL_ORDERS_DB_CONNS_MAX=\"0\""));
    assert_true(fixture_has_logged(&f, "1..1000000"));
    assert_null(p);
    setenv("MOORING_POOL_ORDERS_DB_CONNS_MAX", "1", 1);
    setenv("MOORING_TOTAL_TIMEOUT_MS", "80", 1);
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_OK);
    unsetenv("MOORING_POOL_ORDERS_DB_CONNS_MAX");
    unsetenv("MOORING_TOTAL_TIMEOUT_MS");
    assert_string_equal(moor_pool_name(p), "orders-db");
    struct call c;
    call_init(&c, p, "/delay/10000");
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
}

static void test_options_of_runtimes(void **state)
{
    (void)state;
    moor_runtime_options ro;
    moor_runtime *r = NULL;
    fixture_runtime_options(&f, &ro);
    ro.recv_buffer_size = 1000;
    assert_err(moor_runtime_create(&ro, &r), MOOR_EINVAL);
    assert_true(fixture_has_logged(&f, "recv_buffer_size"));
    fixture_runtime_options(&f, &ro);
    ro.shards = 65;
    assert_err(moor_runtime_create(&ro, &r), MOOR_EINVAL);
    fixture_runtime_options(&f, &ro);
    ro.io_backend = "kqueue";
    const char *kept = getenv("MOORING_IO_BACKEND");
    unsetenv("MOORING_IO_BACKEND");
    assert_err(moor_runtime_create(&ro, &r), MOOR_EINVAL);
    ro.io_backend = "auto";
    ro.io_mask = "no_such_feature";
    assert_err(moor_runtime_create(&ro, &r), MOOR_EINVAL);
    if (kept)
        setenv("MOORING_IO_BACKEND", kept, 1);
    fixture_runtime_options(&f, &ro);
    setenv("MOORING_SHARDS", "many", 1);
    assert_err(moor_runtime_create(&ro, &r), MOOR_EINVAL);
    assert_true(fixture_has_logged(&f, "MOORING_SHARDS=\"many\""));
    unsetenv("MOORING_SHARDS");
    assert_null(r);
    assert_err(moor_runtime_create(&ro, NULL), MOOR_EINVAL);
}

/* ---- requests ---- */

static void refuse(moor_pool *p, const char *method, const char *url, const moor_header *h,
                   moor_err err)
{
    struct call c;
    call_init(&c, p, url);
    c.request.method = method;
    c.request.headers = h;
    c.request.header_count = h ? 1 : 0;
    call_start(&f, &c);
    if (c.sent != err)
        print_error("%s %s: %s\n", method ? method : "GET", url, moor_err_name(c.sent));
    assert_err(c.sent, err);
    assert_null(c.op.slot_);
    peer_sleep_ms(1);
    assert_int_equal(c.done_count, 0);
    call_fini(&c);
}

static void test_urls_of_requests(void **state)
{
    (void)state;
    refuse(f.pool, NULL, NULL, NULL, MOOR_EINVAL);
    refuse(f.pool, NULL, "", NULL, MOOR_EINVAL);
    refuse(f.pool, NULL, "no-slash", NULL, MOOR_EINVAL);
    refuse(f.pool, NULL, "/a b", NULL, MOOR_EINVAL);
    refuse(f.pool, NULL, "/a\r\nX: y", NULL, MOOR_EINVAL);
    refuse(f.pool, NULL, "/\x7f", NULL, MOOR_EINVAL);
    refuse(f.pool, NULL, "http://127.0.0.1:1/", NULL, MOOR_EINVAL);
    refuse(f.pool, NULL, "http://other.example/", NULL, MOOR_EINVAL);
    assert_true(fixture_has_logged(&f, "another origin"));
    refuse(f.pool, NULL, "https://127.0.0.1/", NULL, MOOR_EINVAL); /* another origin */
    refuse(f.pool, NULL, "h2c://127.0.0.1/", NULL, MOOR_EINVAL); /* of a pool of h2 */
    refuse(f.pool, NULL, "ws://127.0.0.1/", NULL, MOOR_ENOSYS);
    refuse(f.pool, NULL, "ftp://127.0.0.1/", NULL, MOOR_ENOSYS);
    char whole[128];
    snprintf(whole, sizeof whole, "%s/bytes/3?x=y", origin.url);
    struct call c;
    call_init(&c, f.pool, whole);
    call_expect(&f, &c, MOOR_OK);
    assert_int_equal(c.bytes, 3);
    call_fini(&c);
}

static void test_methods(void **state)
{
    (void)state;
    refuse(f.pool, "", "/", NULL, MOOR_EINVAL);
    refuse(f.pool, "GE T", "/", NULL, MOOR_EINVAL);
    refuse(f.pool, "GET\r\n", "/", NULL, MOOR_EINVAL);
    refuse(f.pool, "CONNECT", "/", NULL, MOOR_EINVAL);
}

static void test_headers(void **state)
{
    (void)state;
#define H(n, v) (&(moor_header){{n, sizeof(n) - 1}, {v, sizeof(v) - 1}})
    refuse(f.pool, NULL, "/", H("X-A", "1\r\nX-B: 2"), MOOR_EINVAL);
    refuse(f.pool, NULL, "/", H("X-A", "1\n2"), MOOR_EINVAL);
    refuse(f.pool, NULL, "/",
           H("X-A", "1\0"
                    "2"),
           MOOR_EINVAL);
    refuse(f.pool, NULL, "/", H("X A", "1"), MOOR_EINVAL);
    refuse(f.pool, NULL, "/", H("", "1"), MOOR_EINVAL);
    refuse(f.pool, NULL, "/", H("X-A:", "1"), MOOR_EINVAL);
    refuse(f.pool, NULL, "/", H("X-A\r", "1"), MOOR_EINVAL);
    refuse(f.pool, NULL, "/", H("Content-Length", "5"), MOOR_EINVAL);
    refuse(f.pool, NULL, "/", H("Transfer-Encoding", "chunked"), MOOR_EINVAL);
#undef H
    struct call c;
    call_init(&c, f.pool, "/");
    c.request.header_count = 1; /* and no headers */
    call_start(&f, &c);
    assert_err(c.sent, MOOR_EINVAL);
    call_fini(&c);
}

static moor_body_more never_asked(void *user, moor_piece *out)
{
    (void)out;
    ((struct call *)user)->status = -1;
    return MOOR_BODY_ABORT;
}

static void test_contradictions(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/");
    c.request.body = (moor_span){"x", 1};
    c.request.body_cb = never_asked;
    call_start(&f, &c);
    assert_err(c.sent, MOOR_EINVAL);
    call_fini(&c);
    call_init(&c, f.pool, "/");
    c.request.body = (moor_span){NULL, 1};
    call_start(&f, &c);
    assert_err(c.sent, MOOR_EINVAL);
    call_fini(&c);
    call_init(&c, f.pool, "/");
    c.request.timeout_ms = -7;
    call_start(&f, &c);
    assert_err(c.sent, MOOR_EINVAL);
    assert_int_equal(c.status, 0);
    call_fini(&c);
}

static void test_nothing_refused_was_kept(void **state)
{
    (void)state;
    test_urls_of_requests(state);
    test_methods(state);
    test_headers(state);
    moor_runtime_stats before, after;
    moor_runtime_stats_read(f.runtime, &before);
    for (int i = 0; i < 50; i++) {
        refuse(f.pool, "GE T", "/", NULL, MOOR_EINVAL);
        refuse(f.pool, NULL, "http://user:pw@other.example/", NULL, MOOR_EINVAL);
    }
    moor_runtime_stats_read(f.runtime, &after);
    assert_int_equal(after.memory_used, before.memory_used);
    assert_int_equal(fixture_stats(&f).requests, 1);
}

/* ---- secrets ---- */

static void expect_authorization(moor_pool *p, const char *url, const char *wanted)
{
    struct call c;
    call_init(&c, p, url);
    call_expect(&f, &c, MOOR_OK);
    if (!strstr(c.text, wanted))
        fail_msg("\"%s\" is not in:\n%s", wanted, c.text);
    call_fini(&c);
}

static void test_userinfo_is_sent_and_never_logged(void **state)
{
    (void)state;
    char url[160];
    moor_pool *p = NULL;
    snprintf(url, sizeof url, "http://me:s3cr%%3At@127.0.0.1:%d", origin.port);
    assert_err(moor_pool_open(f.runtime, url, NULL, &p), MOOR_OK);
    expect_authorization(p, "/headers", "Authorization: Basic bWU6czNjcjp0\r\n");
    moor_pool *open = NULL;
    assert_err(moor_pool_open(f.runtime, NULL, NULL, &open), MOOR_OK);
    snprintf(url, sizeof url, "http://me:s3cr%%3At@127.0.0.1:%d/headers", origin.port);
    expect_authorization(open, url, "Authorization: Basic bWU6czNjcjp0\r\n");
    /* What fails is logged, without the password in any spelling. */
    refuse_pool("http://me:s3cr%3At@127.0.0.1/path", MOOR_EINVAL, "no path");
    refuse_pool("gopher://me:s3cr%3At@127.0.0.1", MOOR_ENOSYS, NULL);
    refuse(f.pool, NULL, "http://me:s3cr%3At@other.example/", NULL, MOOR_EINVAL);
    refuse(f.pool, NULL, "ftp://me:s3cr%3At@other.example/", NULL, MOOR_ENOSYS);
    struct call c;
    call_init(&c, open, "http://me:s3cr%3At@127.0.0.1:1/");
    call_expect(&f, &c, MOOR_ECONNECT);
    call_fini(&c);
    assert_false(fixture_has_logged(&f, "s3cr"));
    assert_false(fixture_has_logged(&f, "bWU6"));
    assert_null(strstr(moor_pool_name(p), "s3cr"));
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    assert_err(moor_pool_close(open, 1000), MOOR_OK);
}

static void test_a_pool_with_userinfo_leaves_nothing(void **state)
{
    (void)state;
    moor_runtime_stats before, after;
    moor_runtime_stats_read(f.runtime, &before);
    for (int i = 0; i < 10; i++) {
        moor_pool *p = NULL;
        assert_err(moor_pool_open(f.runtime, "http://me:pw@127.0.0.1:1", NULL, &p), MOOR_OK);
        assert_err(moor_pool_close(p, 1000), MOOR_OK);
    }
    moor_runtime_stats_read(f.runtime, &after);
    assert_int_equal(after.memory_used, before.memory_used);
}

static void test_a_given_authorization_wins(void **state)
{
    (void)state;
    char url[160];
    moor_pool *p = NULL;
    snprintf(url, sizeof url, "http://me:pw@127.0.0.1:%d", origin.port);
    assert_err(moor_pool_open(f.runtime, url, NULL, &p), MOOR_OK);
    const moor_header h = {{"authorization", 13}, {"Bearer t", 8}};
    struct call c;
    call_init(&c, p, "/headers");
    c.request.headers = &h;
    c.request.header_count = 1;
    call_expect(&f, &c, MOOR_OK);
    assert_non_null(strstr(c.text, "authorization: Bearer t"));
    assert_null(strstr(c.text, "Basic"));
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        T(urls_of_pools),
        T(what_this_build_does_not_speak),
        T(options_of_pools),
        T(variables_of_pools),
        T(options_of_runtimes),
        T(urls_of_requests),
        T(methods),
        T(headers),
        T(contradictions),
        T(nothing_refused_was_kept),
        T(userinfo_is_sent_and_never_logged),
        T(a_pool_with_userinfo_leaves_nothing),
        T(a_given_authorization_wins),
#undef T
    };
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
