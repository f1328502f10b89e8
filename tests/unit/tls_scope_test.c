/*
 * Whose session tickets are: of one host, port and configuration, on every shard, and until a reload.
 */
#include "tests/support/tls_fixture.h"

#include <stdlib.h>
#include <unistd.h>

static struct tls_fixture t = {.tickets_max = 256};

/* Every request gets a conn of its own. */
static struct tls_script one_each(int version)
{
    return (struct tls_script){.version_min = version, .version_max = version, .requests_max = 1};
}

static struct tls_seen seen_of(unsigned nth)
{
    eventually(tls_server_seen(t.server, nth).is_ready || tls_server_seen(t.server, nth).is_over);
    return tls_server_seen(t.server, nth);
}

/* The conn of the request is over, and its tickets are in. */
static void get(void)
{
    tls_expect_bytes(&t, 100);
    eventually(fixture_stats(&t.f).conns_open == 0);
}

static void expect_offered(unsigned nth, bool is_offered, bool is_resumed)
{
    const struct tls_seen seen = seen_of(nth);
    if (seen.has_offered != is_offered || seen.is_resumed != is_resumed)
        fail_msg("conn %u: offered %d, resumed %d", nth, seen.has_offered, seen.is_resumed);
}

static char hosts_path[64];

static void write_hosts(void)
{
    snprintf(hosts_path, sizeof hosts_path, "/tmp/tls_resume_hosts.XXXXXX");
    const int fd = mkstemp(hosts_path);
    assert_true(fd >= 0);
    static const char text[] = "127.0.0.1 a.test\n127.0.0.1 b.test\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
}

static void get_of(const char *host, int port)
{
    char url[64];
    struct call c;
    snprintf(url, sizeof url, "https://%s:%d/bytes/100", host, port);
    call_init(&c, t.f.pool, url);
    c.request.timeout_ms = 20000;
    call_expect(&t.f, &c, MOOR_OK);
    call_fini(&c);
    eventually(fixture_stats(&t.f).conns_open == 0);
}

static void test_hosts_and_ports_are_apart(void **state)
{
    (void)state;
    write_hosts();
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = one_each(version);
        moor_runtime_options ro;
        fixture_runtime_options(&t.f, &ro);
        ro.hosts_file = hosts_path;
        tls_begin_closed(&t, &script, &ro);
        struct tls_server *other = tls_server_start(&script);
        moor_pool_options o;
        tls_options(&t, &o);
        assert_err(moor_pool_open(t.f.runtime, NULL, &o, &t.f.pool), MOOR_OK);
        const int port = tls_server_port(t.server);
        get_of("a.test", port);
        get_of("b.test", port);
        get_of("127.0.0.1", port);
        get_of("a.test", tls_server_port(other));
        for (unsigned i = 0; i < 3; i++)
            expect_offered(i, false, false);
        eventually(tls_server_seen(other, 0).is_over);
        assert_false(tls_server_seen(other, 0).has_offered);
        get_of("a.test", port);
        get_of("b.test", port);
        get_of("127.0.0.1", port);
        for (unsigned i = 3; i < 6; i++)
            expect_offered(i, true, true);
        tls_end(&t);
        tls_server_stop(other);
    }
    unlink(hosts_path);
}

static void test_pools_that_differ_are_apart(void **state)
{
    (void)state;
    const struct tls_identity *id = tls_identity(TLS_P256, 0), *me = tls_identity(TLS_P256, 1);
    char roots[4096];
    snprintf(roots, sizeof roots, "%s%s", id->root_pem, me->root_pem);
    moor_pool_options o[6];
    for (int i = 0; i < 6; i++)
        tls_options(&t, &o[i]);
    o[1].tls_ca_pem = (moor_span){roots, strlen(roots)};
    o[2].tls_pins = id->pin;
    o[3].tls_cert_pem = (moor_span){me->cert_pem, strlen(me->cert_pem)};
    o[3].tls_key_pem = (moor_span){me->key_pem, strlen(me->key_pem)};
    o[4].tls_server_name = "b.test";
    o[5].tls_insecure = true;
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = one_each(version);
        tls_begin_closed(&t, &script, NULL);
        moor_pool *pools[6];
        for (int i = 0; i < 6; i++)
            assert_err(moor_pool_open(t.f.runtime, tls_server_url(t.server), &o[i], &pools[i]),
                       MOOR_OK);
        for (int round = 0; round < 2; round++)
            for (unsigned i = 0; i < 6; i++) {
                t.f.pool = pools[i];
                get();
                expect_offered((unsigned)round * 6 + i, round, round);
            }
        for (int i = 0; i < 6; i++)
            assert_err(moor_pool_close(pools[i], 5000), MOOR_OK);
        t.f.pool = NULL;
        tls_end(&t);
    }
}

/* Streams offer no ALPN: another session. */
static void test_streams_and_requests_are_apart(void **state)
{
    (void)state;
    const struct tls_script script = one_each(13);
    tls_begin(&t, &script, NULL);
    get();
    char url[64];
    snprintf(url, sizeof url, "tls://127.0.0.1:%d", tls_server_port(t.server));
    moor_pool *streams = NULL;
    moor_pool_options o;
    tls_options(&t, &o);
    assert_err(moor_pool_open(t.f.runtime, url, &o, &streams), MOOR_OK);
    moor_acquired a;
    memset(&a, 0, sizeof a);
    a.size = sizeof a;
    assert_err(moor_acquire_wait(streams, NULL, &a), MOOR_OK);
    moor_release(a.lease, MOOR_DISCARD);
    expect_offered(1, false, false);
    assert_err(moor_pool_close(streams, 5000), MOOR_OK);
    tls_end(&t);
}

static void test_after_a_flush(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = {.version_min = version, .version_max = version};
        tls_begin(&t, &script, NULL);
        tls_expect_bytes(&t, 100);
        moor_pool_flush(t.f.pool);
        eventually(fixture_stats(&t.f).conns_open == 0);
        tls_expect_bytes(&t, 100);
        assert_int_equal(tls_server_conns(t.server), 2);
        assert_true(seen_of(1).is_ready);
        tls_end(&t);
    }
}

static void expect_reload(int version, const moor_pool_options *before,
                          const moor_pool_options *after, bool forgets)
{
    const struct tls_script script = one_each(version);
    tls_begin(&t, &script, before);
    get();
    get();
    expect_offered(1, true, true);
    assert_err(moor_pool_tls_reload(t.f.pool, after), MOOR_OK);
    get();
    expect_offered(2, !forgets, !forgets);
    get();
    expect_offered(3, true, true);
    tls_end(&t);
}

static void test_after_a_reload(void **state)
{
    (void)state;
    char roots[4096];
    snprintf(roots, sizeof roots, "%s%s", tls_identity(TLS_P256, 0)->root_pem,
             tls_identity(TLS_P256, 1)->root_pem);
    moor_pool_options o, other;
    tls_options(&t, &o);
    other = o;
    other.tls_ca_pem = (moor_span){roots, strlen(roots)};
    for (int version = 12; version <= 13; version++)
        expect_reload(version, &o, &other, true);
}

/* Whom a ticket was got from is still trusted for the same reasons. */
static void test_after_a_reload_of_the_same(void **state)
{
    (void)state;
    moor_pool_options o;
    tls_options(&t, &o);
    for (int version = 12; version <= 13; version++)
        expect_reload(version, &o, &o, false);
}

static void test_conns_and_tickets_move_between_shards(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = {.version_min = version, .version_max = version};
        moor_runtime_options ro;
        fixture_runtime_options(&t.f, &ro);
        ro.shards = 2;
        tls_begin_closed(&t, &script, &ro);
        moor_pool_options o;
        tls_options(&t, &o);
        o.conns_max = 1;
        o.steal_keep = 0;
        tls_reopen(&t, NULL, &o);
        for (unsigned i = 0; i < 20; i++) {
            struct call c;
            call_init(&c, t.f.pool, "/bytes/20000");
            c.request.timeout_ms = 20000;
            call_start_on(&c, t.f.runtime, i % 2);
            call_wait(&c);
            assert_err(c.done.fault.err, MOOR_OK);
            assert_true(c.is_pattern);
            call_fini(&c);
        }
        assert_int_equal(tls_server_conns(t.server), 1);
        assert_true(fixture_stats(&t.f).conns_moved >= 19);
        script.requests_max = 1;
        tls_server_set(t.server, &script);
        moor_pool_flush(t.f.pool);
        eventually(fixture_stats(&t.f).conns_open == 0);
        for (unsigned i = 0; i < 6; i++) {
            struct call c;
            call_init(&c, t.f.pool, "/bytes/20000");
            c.request.timeout_ms = 20000;
            call_start_on(&c, t.f.runtime, i % 2);
            call_wait(&c);
            assert_err(c.done.fault.err, MOOR_OK);
            call_fini(&c);
            eventually(fixture_stats(&t.f).conns_open == 0);
            if (i > 0)
                expect_offered(1 + i, true, true);
        }
        tls_end(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts_and_ports_are_apart),
        cmocka_unit_test(test_pools_that_differ_are_apart),
        cmocka_unit_test(test_streams_and_requests_are_apart),
        cmocka_unit_test(test_after_a_flush),
        cmocka_unit_test(test_after_a_reload),
        cmocka_unit_test(test_after_a_reload_of_the_same),
        cmocka_unit_test(test_conns_and_tickets_move_between_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
