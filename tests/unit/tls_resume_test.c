/*
 * Session tickets: kept when they come, offered once, forgotten in time, and no harm when they are refused.
 * Whose they are is in tls_scope_test.c.
 */
#include "core/pool.h"
#include "tests/support/tls_fixture.h"
#include "tls/pool.h"

#include <stdlib.h>

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

/* Of all pools of the runtime, which is the only one there is. */
static size_t ticket_bytes(void)
{
    const struct mr_tls_pool *p = t.f.pool->security;
    return mr_tickets_bytes(p->state->tickets);
}

/* ---- kept and used ---- */

static void test_the_second_conn_resumes(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = one_each(version);
        tls_begin(&t, &script, NULL);
        for (unsigned i = 0; i < 4; i++) {
            get();
            expect_offered(i, i > 0, i > 0);
            const struct tls_told told = tls_told(&t);
            assert_int_equal(told.resumed, i > 0);
            assert_int_equal(told.has_certificate, i == 0);
            assert_int_equal(told.subject[0] != '\0', i == 0);
        }
        const moor_stats s = fixture_stats(&t.f);
        assert_int_equal(s.tls_handshakes, 4);
        assert_int_equal(s.tls_resumed, 3);
        assert_int_equal(s.tls_failed, 0);
        tls_end(&t);
    }
}

/* Nobody reads but for that: the conn is idle. */
static void test_tickets_that_come_while_idle(void **state)
{
    (void)state;
    struct tls_script script = {
        .version_min = 13, .tickets = -1, .at[TLS_AT_IDLE] = {TLS_TICKETS, .value = 2}};
    tls_begin(&t, &script, NULL);
    tls_expect_bytes(&t, 100);
    peer_sleep_ms(50);
    tls_expect_bytes(&t, 100);
    assert_int_equal(tls_server_conns(t.server), 1);
    struct call *c = malloc(sizeof *c); /* it holds that conn, so that another is dialled */
    call_init(c, t.f.pool, "/bytes/4000000");
    c->is_holding = true;
    call_start(&t.f, c);
    eventually(tls_server_requests(t.server) == 3);
    tls_expect_bytes(&t, 100);
    expect_offered(1, true, true);
    moor_cancel(c->op);
    call_wait(c);
    call_return_all(c);
    call_fini(c);
    free(c);
    tls_end(&t);
}

static void test_a_resumed_conn_still_asks_who_we_are(void **state)
{
    (void)state;
    const struct tls_identity *me = tls_identity(TLS_P256, 1);
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = one_each(version);
        script.client_issuer = me;
        moor_pool_options o;
        tls_options(&t, &o);
        o.tls_cert_pem = (moor_span){me->cert_pem, strlen(me->cert_pem)};
        o.tls_key_pem = (moor_span){me->key_pem, strlen(me->key_pem)};
        tls_begin(&t, &script, &o);
        get();
        get();
        expect_offered(1, true, true);
        assert_true(seen_of(1).has_client_cert);
        tls_end(&t);
    }
}

static atomic_bool gate;

static bool have_said_hello(unsigned n)
{
    bool all = tls_server_conns(t.server) >= n;
    for (unsigned i = 0; i < n && all; i++)
        all = tls_server_seen(t.server, i).has_hello;
    return all;
}

/* After one conn, n more that are all under way before any of them is answered: none of them brings new
 * tickets to the others. */
static void run_together(struct tls_script *script, unsigned n)
{
    script->gate = &gate;
    atomic_store(&gate, false);
    tls_server_set(t.server, script);
    struct call *calls = calloc(n, sizeof *calls);
    for (unsigned i = 0; i < n; i++) {
        call_init(&calls[i], t.f.pool, "/bytes/100");
        calls[i].request.timeout_ms = 20000;
        call_start(&t.f, &calls[i]);
    }
    eventually(have_said_hello(1 + n));
    atomic_store(&gate, true);
    for (unsigned i = 0; i < n; i++) {
        call_wait(&calls[i]);
        assert_err(calls[i].done.fault.err, MOOR_OK);
        call_fini(&calls[i]);
    }
    free(calls);
}

/* How many different tickets conns first..first + n - 1 showed. */
static unsigned count_distinct(unsigned first, unsigned n)
{
    unsigned count = 0;
    for (unsigned i = first; i < first + n; i++) {
        const struct tls_seen seen = seen_of(i);
        bool is_new = seen.has_offered;
        for (unsigned j = first; j < i; j++)
            is_new = is_new && tls_server_seen(t.server, j).ticket != seen.ticket;
        count += is_new;
    }
    return count;
}

static void test_a_ticket_is_used_once(void **state)
{
    (void)state;
    struct tls_script script = one_each(13);
    script.tickets = 4;
    tls_begin(&t, &script, NULL);
    get();
    run_together(&script, 4);
    assert_int_equal(count_distinct(1, 4), 4);
    tls_end(&t);
}

/* ---- bounds ---- */

static void test_tickets_max(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = one_each(version);
        moor_pool_options o;
        tls_options(&t, &o);
        o.tls_tickets_max = 0;
        tls_begin(&t, &script, &o);
        for (unsigned i = 0; i < 3; i++) {
            get();
            expect_offered(i, false, false);
        }
        assert_int_equal(fixture_stats(&t.f).tls_resumed, 0);
        tls_end(&t);
    }
    struct tls_script script = one_each(13);
    script.tickets = 8;
    moor_pool_options o;
    tls_options(&t, &o);
    o.tls_tickets_max = 2;
    tls_begin(&t, &script, &o);
    get();
    run_together(&script, 5);
    assert_int_equal(count_distinct(1, 5), 2);
    tls_end(&t);
}

static void test_tickets_end(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = one_each(version);
        script.ticket_lifetime_s = 1;
        tls_begin(&t, &script, NULL);
        get();
        peer_sleep_ms(2100); /* seconds are whole on both sides */
        get();
        expect_offered(1, false, false);
        tls_end(&t);
    }
}

/* A server that has forgotten: a whole handshake, and nobody notices. In 1.2 it takes another conn: the library
 * cannot go on after a refusal. */
static void test_tickets_that_are_refused(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = one_each(version);
        tls_begin(&t, &script, NULL);
        get();
        tls_server_forget(t.server);
        get();
        expect_offered(1, true, false);
        assert_false(tls_told(&t).resumed);
        assert_true(tls_told(&t).has_certificate);
        get();
        expect_offered(version == 12 ? 3 : 2, true, true);
        assert_int_equal(fixture_stats(&t.f).dials_failed, version == 12 ? 1 : 0);
        tls_end(&t);
    }
}

static void ticket_key(uint8_t out[MR_TLS_HASH_SIZE])
{
    const struct mr_tls_pool *p = t.f.pool->security;
    mr_tls_ticket_key(t.f.pool->upstream, p->context, out);
}

/* As many of the one there is as conns that shook hands at one time would have brought. */
static void hold_tickets(uint32_t count)
{
    const struct mr_tls_pool *p = t.f.pool->security;
    struct mr_tickets *store = p->state->tickets;
    uint8_t key[MR_TLS_HASH_SIZE];
    ticket_key(key);
    struct mr_ticket *one = mr_tickets_take(store, key, 0);
    assert_non_null(one);
    while (mr_tickets_count(store, key) < count)
        mr_tickets_put(store, key, count, one, (moor_span){one->bytes, one->len});
    mr_ticket_unref(&t.f.runtime->heap, one);
}

/* All of them are of the keys that are lost: the first refusal tells that of the others, too. */
static void test_many_tickets_that_are_refused(void **state)
{
    (void)state;
    const struct tls_script script = one_each(12);
    tls_begin(&t, &script, NULL);
    get();
    hold_tickets(8);
    tls_server_forget(t.server);
    for (int i = 0; i < 3; i++)
        get();
    assert_int_equal(fixture_stats(&t.f).requests_failed, 0);
    assert_int_equal(fixture_stats(&t.f).dials_failed, 1);
    assert_int_equal(tls_server_conns(t.server), 5);
    expect_offered(1, true, false);
    expect_offered(2, false, false);
    tls_end(&t);
}

/* The same of a server that knows no tickets at all any more. */
static void test_tickets_that_mean_nothing(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = one_each(version);
        tls_begin(&t, &script, NULL);
        get();
        script.has_no_tickets = true;
        tls_server_set(t.server, &script);
        get();
        expect_offered(1, true, false);
        assert_false(tls_told(&t).resumed);
        assert_true(tls_told(&t).has_certificate);
        tls_end(&t);
    }
}

/* A server of another version took the place of the one that gave the ticket. */
static void test_tickets_of_another_version(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = one_each(version);
        tls_begin(&t, &script, NULL);
        get();
        script = one_each(25 - version);
        tls_server_set(t.server, &script);
        get();
        assert_false(seen_of(1).is_resumed);
        get();
        tls_end(&t);
    }
}

/* A resumption that breaks is not tried for ever: the ticket is gone. */
static void test_a_ticket_that_fails(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = one_each(version);
        tls_begin(&t, &script, NULL);
        get();
        struct tls_script broken = script;
        broken.wire.how = TLS_FLIPPED;
        broken.wire.in_handshake = true;
        tls_server_set(t.server, &broken);
        for (int i = 0; i < 3; i++) {
            tls_expect_fault(&t, NULL, MOOR_ETLS);
            eventually(tls_server_open(t.server) == 0);
            peer_sleep_ms(3);
        }
        tls_server_set(t.server, &script);
        get();
        tls_end(&t);
    }
}

/* ---- believed only when proven ---- */

#define BYTES_32 "0123456789abcdef0123456789abcdef"

/* A hello that promises a ticket (TLS 1.2), the ticket, and an alert: anybody on the way can say that much. */
static const char unproven[] =
    "\x16\3\3\0\x34"
    "\2\0\0\x30\3\3" BYTES_32 "\0\xc0\x2f\0"
    "\0\x8\0\x17\0\0\0\x23\0\0"
    "\x16\3\3\0\x4a"
    "\4\0\0\x46\0\0\x1c\x20\0\x40" BYTES_32 BYTES_32 "\x15\3\3\0\2\2\x50";

static void test_a_ticket_of_an_unproven_handshake(void **state)
{
    (void)state;
    const struct tls_script script = {
        .at[TLS_AT_HELLO] = {TLS_BYTES, .bytes = unproven, .len = sizeof unproven - 1}};
    tls_begin(&t, &script, NULL);
    const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
    tls_assert_says(&fault, tls_alert_name(80)); /* so the ticket before it was read */
    eventually(fixture_stats(&t.f).conns_open == 0);
    assert_int_equal(ticket_bytes(), 0);
    const struct tls_script fair = one_each(12);
    tls_server_set(t.server, &fair);
    peer_sleep_ms(3); /* the backoff is over */
    get();
    expect_offered(1, false, false);
    tls_end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_second_conn_resumes),
        cmocka_unit_test(test_tickets_that_come_while_idle),
        cmocka_unit_test(test_a_resumed_conn_still_asks_who_we_are),
        cmocka_unit_test(test_a_ticket_is_used_once),
        cmocka_unit_test(test_tickets_max),
        cmocka_unit_test(test_tickets_end),
        cmocka_unit_test(test_tickets_that_are_refused),
        cmocka_unit_test(test_many_tickets_that_are_refused),
        cmocka_unit_test(test_tickets_that_mean_nothing),
        cmocka_unit_test(test_tickets_of_another_version),
        cmocka_unit_test(test_a_ticket_that_fails),
        cmocka_unit_test(test_a_ticket_of_an_unproven_handshake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
