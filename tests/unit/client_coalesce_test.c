/* HTTP/2 conns that serve further hosts: which do, which do not, and what a server's 421 makes of it. */
#include "tests/support/fixture_pool.h"

#include <stdlib.h>
#include <unistd.h>

enum { BURST = 50 };

static struct origin_process origin;
static struct fixture f;
static char ca[] = "/tmp/mooring-coalesce-ca-XXXXXX";

static void start_origin(const char *address, const char *flag)
{
    origin_start_with(&origin, address,
                      (const char *const[]){"--tls", "--tls-ca-out", ca, "--tls-name", "127.0.0.1",
                                            "--bind", address, flag, NULL});
}

static void begin_at(const char *address, const char *flag, bool coalesces)
{
    start_origin(address, flag);
    moor_pool_options o;
    fixture_pool_options(&o);
    o.tls_ca = ca;
    o.h2_coalesce = coalesces;
    fixture_open(&f, NULL, NULL, &o);
}

static void begin(bool coalesces)
{
    begin_at("127.0.0.1", NULL, coalesces);
}

static void end(void)
{
    fixture_close(&f);
    origin_stop(&origin);
}

static void start(struct call *c, const char *host, const char *path)
{
    static char urls[BURST][128];
    static unsigned next;
    char *url = urls[next++ % BURST];
    snprintf(url, sizeof urls[0], "https://%s:%d%s", host, origin.port, path);
    call_init(c, f.pool, url);
    call_start(&f, c);
}

static void finish(struct call *c, int status)
{
    call_wait(c);
    call_check(c);
    assert_err(c->done.fault.err, MOOR_OK);
    assert_int_equal(c->status, status);
}

static void get(const char *host)
{
    struct call c;
    start(&c, host, "/bytes/1000");
    finish(&c, 200);
    assert_int_equal(c.bytes, 1000);
    assert_true(c.is_pattern);
    call_fini(&c);
}

static moor_err get_fails(const char *host)
{
    struct call c;
    start(&c, host, "/bytes/1000");
    call_wait(&c);
    const moor_err e = c.done.fault.err;
    call_fini(&c);
    return e;
}

static void expect(unsigned conns, unsigned coalesced)
{
    assert_int_equal(fixture_stats(&f).conns_created, conns);
    assert_int_equal(fixture_stats(&f).h2_coalesced, coalesced);
    assert_int_equal(fixture_stats(&f).dials_failed, 0);
}

static void test_hosts_of_one_certificate_share_a_conn(void **state)
{
    (void)state;
    begin(true);
    get("localhost");
    get("127.0.0.1");
    get("a.origin.localhost");
    get("127.0.0.1");
    expect(1, 3);
    end();
}

static void test_off_by_default(void **state)
{
    (void)state;
    moor_pool_options o;
    moor_pool_options_init(&o);
    assert_false(o.h2_coalesce);
    begin(false);
    get("localhost");
    get("127.0.0.1");
    expect(2, 0);
    end();
}

static void test_a_burst(void **state)
{
    (void)state;
    static struct call calls[BURST];
    begin(true);
    get("localhost");
    for (int i = 0; i < BURST; i++)
        start(&calls[i], "127.0.0.1", "/bytes/1000");
    for (int i = 0; i < BURST; i++) {
        finish(&calls[i], 200);
        call_fini(&calls[i]);
    }
    expect(1, BURST);
    end();
}

/* Its own dial fails at the same certificate: nothing was asked under a name it does not give. */
static void test_a_host_the_certificate_does_not_name(void **state)
{
    (void)state;
    begin(true);
    get("localhost");
    assert_err(get_fails("other.localhost"), MOOR_ETLS);
    assert_int_equal(fixture_stats(&f).h2_coalesced, 0);
    end();
}

/* The certificate names 127.0.0.1, but nobody listens there. */
static void test_another_address(void **state)
{
    (void)state;
    begin_at("127.0.0.2", NULL, true);
    get("127.0.0.2");
    assert_err(get_fails("127.0.0.1"), MOOR_ECONNECT);
    assert_int_equal(fixture_stats(&f).h2_coalesced, 0);
    end();
}

static void test_http_1_is_not_shared(void **state)
{
    (void)state;
    begin_at("127.0.0.1", "--no-h2", true);
    get("localhost");
    get("127.0.0.1");
    expect(2, 0);
    end();
}

/* RFC 9110 15.5.20: asked again on a conn of its own, once; and the server is not tried so any more. */
static void test_a_server_that_does_not_want_it(void **state)
{
    (void)state;
    struct call c;
    begin(true);
    get("localhost");
    start(&c, "127.0.0.1", "/status/421");
    finish(&c, 421);
    assert_int_equal(c.done.replays, 1);
    call_fini(&c);
    expect(2, 1);
    get("127.0.0.1");
    expect(2, 1);
    start(&c, "localhost", "/status/421");
    finish(&c, 421);
    assert_int_equal(c.done.replays, 0);
    call_fini(&c);
    end();
}

static moor_body_more give(void *user, moor_piece *out)
{
    (void)user;
    *out = (moor_piece){.bytes = {"0123456789", 10}};
    return MOOR_BODY_LAST;
}

static void post(bool is_streamed, uint32_t replays)
{
    struct call c;
    static char url[128];
    begin(true);
    get("localhost");
    snprintf(url, sizeof url, "https://127.0.0.1:%d/status/421", origin.port);
    call_init(&c, f.pool, url);
    c.request.method = "POST";
    if (is_streamed) {
        c.request.body_cb = give;
        c.request.body_length = 10;
    } else {
        c.request.body = (moor_span){"0123456789", 10};
    }
    call_start(&f, &c);
    finish(&c, 421);
    assert_int_equal(c.done.replays, replays);
    call_fini(&c);
    end();
}

/* Nobody has acted on it, so that the method does not matter; a streamed body is gone. */
static void test_bodies_that_are_not_wanted_there(void **state)
{
    (void)state;
    post(false, 1);
    post(true, 0);
}

/* The other host's server ends: each host hears of its own trouble, soon. */
static void test_a_server_that_ends(void **state)
{
    (void)state;
    begin(true);
    get("localhost");
    get("127.0.0.1");
    origin_stop(&origin);
    assert_err(get_fails("127.0.0.1"), MOOR_ECONNECT);
    assert_err(get_fails("localhost"), MOOR_ECONNECT);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts_of_one_certificate_share_a_conn),
        cmocka_unit_test(test_off_by_default),
        cmocka_unit_test(test_a_burst),
        cmocka_unit_test(test_a_host_the_certificate_does_not_name),
        cmocka_unit_test(test_another_address),
        cmocka_unit_test(test_http_1_is_not_shared),
        cmocka_unit_test(test_a_server_that_does_not_want_it),
        cmocka_unit_test(test_bodies_that_are_not_wanted_there),
        cmocka_unit_test(test_a_server_that_ends),
    };
    const int fd = mkstemp(ca);
    if (fd < 0)
        return 1;
    close(fd);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(ca);
    return failed;
}
