/* What the statistics say of servers that go away, refuse, break rules or fall silent. */
#include "tests/support/fixture_pool.h"
#include "tests/support/h2_server.h"

static struct fixture f;

static void begin(const char *url, moor_ms ping_ms)
{
    moor_pool_options po;
    fixture_pool_options(&po);
    po.http_version = "2";
    po.h2_ping_after_ms = po.h2_ping_timeout_ms = ping_ms;
    fixture_open(&f, NULL, url, &po);
}

static uint8_t byte(size_t i)
{
    return (uint8_t)i;
}

static void get(moor_err err)
{
    struct call c;
    call_init(&c, f.pool, "/bytes/10");
    call_expect(&f, &c, err);
    call_fini(&c);
}

static void expect(uint64_t goaways, uint64_t refused, uint64_t broken, uint64_t silent)
{
    const moor_stats s = fixture_stats(&f);
    assert_int_equal(s.h2_goaways, goaways);
    assert_int_equal(s.h2_refused, refused);
    assert_int_equal(s.h2_broken, broken);
    assert_int_equal(s.h2_silent, silent);
}

static void test_going_away(void **state)
{
    (void)state;
    struct h2_server *s =
        h2_server_start(&(struct h2_server_options){.requests_max = 2, .body = byte});
    begin(h2_server_url(s), 60000);
    for (int i = 0; i < 6; i++)
        get(MOOR_OK);
    assert_int_equal(h2_server_conns(s), 3);
    expect(3, 0, 0, 0);
    fixture_close(&f);
    h2_server_stop(s);
}

static void test_refusing(void **state)
{
    (void)state;
    struct h2_server *s = h2_server_start(&(struct h2_server_options){.refuses = 2, .body = byte});
    begin(h2_server_url(s), 60000);
    get(MOOR_OK);
    assert_int_equal(h2_server_requests(s), 3);
    assert_int_equal(fixture_stats(&f).replays, 2);
    expect(0, 2, 0, 0);
    fixture_close(&f);
    h2_server_stop(s);
}

static void serve_http1(struct peer_conn *c)
{
    peer_say(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    peer_linger(c);
}

static void test_breaking_rules(void **state)
{
    (void)state;
    struct peer p;
    peer_start(&p, serve_http1, NULL);
    begin(p.url, 60000);
    get(MOOR_EPROTO);
    assert_int_equal(atomic_load(&p.accepted), 1);
    expect(0, 0, 1, 0);
    fixture_close(&f);
    peer_stop(&p);
}

static void serve_nothing(struct peer_conn *c)
{
    peer_linger(c);
}

static void test_falling_silent(void **state)
{
    (void)state;
    struct peer p;
    peer_start(&p, serve_nothing, NULL);
    begin(p.url, 30);
    get(MOOR_ERESET);
    expect(0, 0, 0, 1);
    eventually(atomic_load(&p.accepted) == 1);
    fixture_close(&f);
    peer_stop(&p);
}

/* Each conn that lies idle is asked, and closed if it does not answer. */
static void test_silent_while_idle(void **state)
{
    (void)state;
    struct h2_server *s =
        h2_server_start(&(struct h2_server_options){.is_deaf_to_pings = true, .body = byte});
    moor_pool_options po;
    fixture_pool_options(&po);
    po.check_every_ms = 20;
    po.h2_ping_timeout_ms = 30;
    fixture_open(&f, NULL, h2_server_url(s), &po);
    get(MOOR_OK);
    eventually(fixture_stats(&f).conns_open == 0);
    expect(0, 0, 0, 1);
    fixture_close(&f);
    h2_server_stop(s);
}

static void test_alive_while_idle(void **state)
{
    (void)state;
    struct h2_server *s = h2_server_start(&(struct h2_server_options){.body = byte});
    moor_pool_options po;
    fixture_pool_options(&po);
    po.check_every_ms = 20;
    po.h2_ping_timeout_ms = 60000;
    fixture_open(&f, NULL, h2_server_url(s), &po);
    get(MOOR_OK);
    eventually(h2_server_pings(s) >= 3);
    get(MOOR_OK);
    assert_int_equal(h2_server_conns(s), 1);
    expect(0, 0, 0, 0);
    fixture_close(&f);
    h2_server_stop(s);
}

/* Who comes while a conn is asked need not wait for its answer, nor for another conn. */
static void test_asked_is_no_gate(void **state)
{
    (void)state;
    struct h2_server *s =
        h2_server_start(&(struct h2_server_options){.is_deaf_to_pings = true, .body = byte});
    moor_pool_options po;
    fixture_pool_options(&po);
    po.check_every_ms = 20;
    po.h2_ping_timeout_ms = 60000;
    fixture_open(&f, NULL, h2_server_url(s), &po);
    get(MOOR_OK);
    eventually(h2_server_pings(s) >= 1);
    get(MOOR_OK);
    get(MOOR_OK);
    assert_int_equal(h2_server_conns(s), 1);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
    fixture_close(&f);
    h2_server_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_going_away),        cmocka_unit_test(test_refusing),
        cmocka_unit_test(test_breaking_rules),    cmocka_unit_test(test_falling_silent),
        cmocka_unit_test(test_silent_while_idle), cmocka_unit_test(test_alive_while_idle),
        cmocka_unit_test(test_asked_is_no_gate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
