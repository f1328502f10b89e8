/*
 * Handshakes that a scripted server breaks, in every way and at every stage: what the error says, and that
 * nothing is left.
 */
#include "core/pool.h"
#include "tests/support/tls_fixture.h"
#include "tls/pool.h"

static struct tls_fixture t;

static void trust(moor_pool_options *o, const struct tls_identity *id)
{
    o->tls_ca_pem = (moor_span){id->root_pem, strlen(id->root_pem)};
}

/* The conn of the last request is gone, on both sides. */
static void expect_closed(void)
{
    eventually(tls_server_open(t.server) == 0);
    eventually(fixture_stats(&t.f).conns_open == 0);
    peer_sleep_ms(3); /* the backoff is over */
}

static void test_certificates_that_are_not_trusted(void **state)
{
    (void)state;
    tls_begin_closed(&t, NULL, NULL);
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = {.version_min = version, .version_max = version};
        tls_server_set(t.server, &script);
        const unsigned first = tls_server_conns(t.server);
        moor_pool_options o;
        tls_options(&t, &o);
        trust(&o, tls_identity(TLS_P256, 1));
        tls_reopen(&t, NULL, &o);
        moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
        assert_true(fault.safe_to_retry);

        tls_options(&t, &o);
        o.tls_pins = tls_identity(TLS_P256, 1)->pin;
        tls_reopen(&t, NULL, &o);
        fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
        assert_true(fault.safe_to_retry);
        tls_assert_says(&fault, "pin");

        o.tls_pins = tls_identity(TLS_P256, 0)->pin;
        tls_reopen(&t, NULL, &o);
        tls_expect_bytes(&t, 10);
        /* What is not trusted has got nothing but an alert. */
        for (unsigned i = first; i < first + 2; i++) {
            eventually(tls_server_seen(t.server, i).is_over);
            assert_false(tls_server_seen(t.server, i).is_ready);
            assert_true(tls_server_seen(t.server, i).alert > 0);
        }
    }
    tls_end(&t);
}

/* A whole handshake, and then no: each time, as no ticket of it may stand for what was never shown. */
static void test_a_staple_that_is_missing(void **state)
{
    (void)state;
    const struct tls_identity *id = tls_identity_must_staple();
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = {
            .version_min = version, .version_max = version, .identity = id};
        tls_begin_closed(&t, &script, NULL);
        moor_pool_options o;
        tls_options(&t, &o);
        trust(&o, id);
        o.tls_tickets_max = 256;
        tls_reopen(&t, NULL, &o);
        const struct mr_tls_pool *p = t.f.pool->security;
        for (unsigned i = 0; i < 3; i++) {
            const int64_t from = fixture_now_ms();
            const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
            assert_in_range(fixture_now_ms() - from, 0, TIME_SLACK_MS);
            assert_true(fault.safe_to_retry);
            tls_assert_says(&fault, "staple");
            expect_closed();
            assert_false(tls_server_seen(t.server, i).has_offered);
            assert_int_equal(mr_tickets_bytes(p->state->tickets), 0);
        }
        assert_int_equal(tls_server_requests(t.server), 0);
        assert_int_equal(tls_told(&t).ready, 0);
        tls_end(&t);
    }
}

static void test_versions_that_do_not_meet(void **state)
{
    (void)state;
    tls_begin_closed(&t, NULL, NULL);
    static const struct {
        const char *client_min;
        int server_max;
    } cases[] = {{"1.2", 11}, {"1.2", 10}, {"1.3", 12}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct tls_script script = {.version_min = 10, .version_max = cases[i].server_max};
        moor_pool_options o;
        tls_server_set(t.server, &script);
        tls_options(&t, &o);
        o.tls_version_min = cases[i].client_min;
        tls_reopen(&t, NULL, &o);
        const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
        assert_true(fault.safe_to_retry);
        tls_assert_says(&fault, "version");
        expect_closed();
    }
    tls_end(&t);
}

static const int alerts[] = {10, 20, 22, 40, 42, 43,  44,  45,  46,  47,  48,  49, 50,
                             51, 70, 71, 80, 86, 109, 110, 112, 113, 115, 116, 120};
enum { ALERTS = sizeof alerts / sizeof *alerts };

/* In the handshake: nothing was asked yet. */
static void expect_alert(int version, enum tls_stage at, enum tls_act how, int alert)
{
    struct tls_script script = {.version_min = version, .version_max = version};
    script.at[at] = (struct tls_deed){how, .value = alert};
    tls_server_set(t.server, &script);
    const uint64_t failed = fixture_stats(&t.f).tls_failed;
    const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
    if (!tls_says(&fault, tls_alert_name(alert)))
        fail_msg("TLS 1.%d, stage %d, alert %d: \"%s\"", version - 10, (int)at, alert, fault.what);
    if (at < TLS_AT_READY) {
        assert_true(fault.safe_to_retry);
        assert_int_equal(fixture_stats(&t.f).tls_failed, failed + 1);
    }
    if (at == TLS_AT_BODY)
        assert_false(fault.safe_to_retry);
    expect_closed();
}

static void test_alerts_in_the_handshake(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        static const enum tls_stage stages[] = {TLS_AT_HELLO, TLS_AT_FLIGHT, TLS_AT_FINISHED};
        tls_begin(&t, NULL, NULL);
        for (int stage = 0; stage < 3; stage++)
            for (int i = 0; i < ALERTS; i++)
                expect_alert(version, stages[stage], TLS_ALERT, alerts[i]);
        tls_end(&t);
    }
}

static void test_alerts_after_the_handshake(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        static const enum tls_stage stages[] = {TLS_AT_READY, TLS_AT_REQUEST, TLS_AT_BODY};
        tls_begin(&t, NULL, NULL);
        for (int stage = 0; stage < 3; stage++)
            for (int i = 0; i < ALERTS; i++)
                expect_alert(version, stages[stage], TLS_ALERT, alerts[i]);
        tls_end(&t);
    }
}

/* Anybody on the path can write those: once there are keys, they are no alerts but broken records. */
static void test_alerts_that_are_not_sealed(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++)
        for (enum tls_stage at = TLS_AT_FINISHED; at <= TLS_AT_BODY; at++) {
            struct tls_script script = {.version_min = version, .version_max = version};
            script.at[at] = (struct tls_deed){TLS_PLAIN_ALERT, .value = 80};
            tls_begin(&t, &script, NULL);
            const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
            assert_int_equal(fault.safe_to_retry && at == TLS_AT_BODY, false);
            expect_closed();
            tls_end(&t);
        }
}

static void test_ends_in_the_handshake(void **state)
{
    (void)state;
    static const enum tls_act ways[] = {TLS_FIN, TLS_RST};
    for (int version = 12; version <= 13; version++)
        for (enum tls_stage at = TLS_AT_ACCEPT; at <= TLS_AT_FINISHED; at++)
            for (int i = 0; i < 2; i++) {
                struct tls_script script = {.version_min = version, .version_max = version};
                script.at[at].act = ways[i];
                tls_begin(&t, &script, NULL);
                struct call c;
                call_init(&c, t.f.pool, "/bytes/10");
                c.request.timeout_ms = 20000;
                call_start(&t.f, &c);
                call_wait(&c);
                call_check(&c);
                const moor_err e = c.done.fault.err;
                const bool may_be_connect = at == TLS_AT_ACCEPT && e == MOOR_ECONNECT;
                if (e != MOOR_ERESET && e != MOOR_ETLS && !may_be_connect)
                    fail_msg("%s: %s", moor_err_name(e), c.done.fault.what);
                assert_true(c.done.fault.safe_to_retry);
                call_fini(&c);
                expect_closed();
                tls_end(&t);
            }
}

static void test_records_cut_in_the_handshake(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++)
        for (unsigned nth = 0; nth < 4; nth++)
            for (size_t at = 1; at < 20; at += 6) {
                const struct tls_script script = {
                    .version_min = version,
                    .version_max = version,
                    .wire = {.how = TLS_CUT, .in_handshake = true, .nth = nth, .at = at}};
                tls_begin(&t, &script, NULL);
                struct call c;
                call_init(&c, t.f.pool, "/bytes/10");
                c.request.timeout_ms = 20000;
                call_start(&t.f, &c);
                call_wait(&c);
                if (c.done.fault.err != MOOR_ERESET && c.done.fault.err != MOOR_ETLS)
                    fail_msg("TLS 1.%d, record %u cut at %zu: %s", version - 10, nth, at,
                             moor_err_name(c.done.fault.err));
                assert_true(c.done.fault.safe_to_retry);
                call_fini(&c);
                tls_end(&t);
            }
}

/* A bit in the last bytes of each record: signatures, Finished, seals. */
static void test_records_spoilt_in_the_handshake(void **state)
{
    (void)state;
    static const unsigned records[] = {4, 6}; /* before the last one of TLS 1.2, and of 1.3 */
    for (int version = 12; version <= 13; version++)
        for (unsigned nth = 0; nth < records[version - 12]; nth++) {
            const struct tls_script script = {
                .version_min = version,
                .version_max = version,
                .has_no_tickets = true,
                .wire = {.how = TLS_FLIPPED, .in_handshake = true, .nth = nth, .at = 3}};
            if (version == 13 && nth == 1)
                continue; /* a ChangeCipherSpec that means nothing */
            tls_begin(&t, &script, NULL);
            struct call c;
            call_init(&c, t.f.pool, "/bytes/10");
            c.request.timeout_ms = 20000;
            call_start(&t.f, &c);
            call_wait(&c);
            if (c.done.fault.err != MOOR_ETLS)
                fail_msg("TLS 1.%d, record %u: %s", version - 10, nth,
                         moor_err_name(c.done.fault.err));
            assert_true(c.done.fault.safe_to_retry);
            call_fini(&c);
            expect_closed();
            tls_end(&t);
        }
}

static void test_what_is_no_tls(void **state)
{
    (void)state;
    static const char http[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    static const struct {
        const char *name;
        struct tls_deed deed;
        const char *says;
    } cases[] = {
        {"HTTP", {TLS_BYTES, 0, http, sizeof http - 1}, "TLS"},
        {"zeros", {TLS_BYTES, 0, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16}, NULL},
        {"text", {TLS_BYTES, 0, "220 mail.test ESMTP ready\r\n", 27}, NULL},
        {"an unknown type", {TLS_BYTES, 0, "\x63\3\3\0\1\0", 6}, NULL},
        {"data", {TLS_BYTES, 0, "\x17\3\3\0\3abc", 8}, NULL},
        {"too long", {TLS_BYTES, 0, "\x16\3\3\x48\1\2\0\0\x4c", 9}, NULL},
        {"longest", {TLS_BYTES, 0, "\x16\3\3\xff\xff\2\0\0\x4c", 9}, NULL},
        {"an empty handshake record", {TLS_BYTES, 0, "\x16\3\3\0\0\x16\3\3\0\0", 10}, NULL},
        {"version 0.0", {TLS_BYTES, 0, "\x16\0\0\0\4\2\0\0\0", 9}, NULL},
        {"a hello of 16 MB", {TLS_BYTES, 0, "\x16\3\3\0\4\2\xff\xff\xff", 9}, NULL},
        {"half an alert", {TLS_BYTES, 0, "\x15\3\3\0\1\2", 6}, NULL},
    };
    tls_begin_closed(&t, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct tls_script script = {.at[TLS_AT_HELLO] = cases[i].deed};
        moor_pool_options o;
        tls_server_set(t.server, &script);
        tls_options(&t, &o);
        o.connect_timeout_ms = 3000;
        tls_reopen(&t, NULL, &o);
        struct call c;
        call_init(&c, t.f.pool, "/");
        c.request.timeout_ms = 20000;
        call_start(&t.f, &c);
        call_wait(&c);
        if (c.done.fault.err != MOOR_ETLS)
            fail_msg("%s: %s, %s", cases[i].name, moor_err_name(c.done.fault.err),
                     c.done.fault.what);
        assert_true(c.done.fault.safe_to_retry);
        if (cases[i].says)
            tls_assert_says(&c.done.fault, cases[i].says);
        call_fini(&c);
        expect_closed();
    }
    tls_end(&t);
}

static void test_data_before_finished(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = {.version_min = version,
                                          .version_max = version,
                                          .at[TLS_AT_FINISHED] = {TLS_RECORD, 23, "early", 5}};
        tls_begin(&t, &script, NULL);
        const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
        assert_true(fault.safe_to_retry);
        expect_closed();
        tls_end(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_certificates_that_are_not_trusted),
        cmocka_unit_test(test_a_staple_that_is_missing),
        cmocka_unit_test(test_versions_that_do_not_meet),
        cmocka_unit_test(test_alerts_in_the_handshake),
        cmocka_unit_test(test_alerts_after_the_handshake),
        cmocka_unit_test(test_alerts_that_are_not_sealed),
        cmocka_unit_test(test_ends_in_the_handshake),
        cmocka_unit_test(test_records_cut_in_the_handshake),
        cmocka_unit_test(test_records_spoilt_in_the_handshake),
        cmocka_unit_test(test_what_is_no_tls),
        cmocka_unit_test(test_data_before_finished),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
