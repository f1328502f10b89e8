/*
 * TLS handshakes against a scripted OpenSSL: what must succeed with what, and how many at a time.
 * Those that a server breaks are in tls_refuse_test.c.
 */
#include "tests/support/tls_fixture.h"

#include <stdlib.h>

static struct tls_fixture t;

static const struct tls_identity *client_identity(void)
{
    return tls_identity(TLS_P256, 1);
}

static void trust(moor_pool_options *o, const struct tls_identity *id)
{
    o->tls_ca_pem = (moor_span){id->root_pem, strlen(id->root_pem)};
}

static void present(moor_pool_options *o, const struct tls_identity *id)
{
    o->tls_cert_pem = (moor_span){id->cert_pem, strlen(id->cert_pem)};
    o->tls_key_pem = (moor_span){id->key_pem, strlen(id->key_pem)};
}

/* The conn of the last request is gone, on both sides. */
static void expect_closed(void)
{
    eventually(tls_server_open(t.server) == 0);
    eventually(fixture_stats(&t.f).conns_open == 0);
    peer_sleep_ms(3); /* the backoff is over */
}

/* ---- handshakes that succeed ---- */

static void expect_version(int version, enum tls_key key, bool is_dribbled)
{
    const struct tls_identity *id = tls_identity(key, 0);
    const struct tls_script script = {.version_min = version,
                                      .version_max = version,
                                      .identity = id,
                                      .is_dribbled = is_dribbled,
                                      .handshake_max = is_dribbled ? 512 : 0};
    moor_pool_options o;
    tls_server_set(t.server, &script);
    tls_options(&t, &o);
    trust(&o, id);
    tls_reopen(&t, NULL, &o);
    const unsigned nth = tls_server_conns(t.server);
    tls_expect_bytes(&t, 1000);
    tls_expect_bytes(&t, 10);
    assert_int_equal(tls_server_conns(t.server), nth + 1);
    const struct tls_seen seen = tls_server_seen(t.server, nth);
    assert_int_equal(seen.version, version);
    assert_false(seen.is_resumed);
    const struct tls_told told = tls_told(&t);
    assert_int_equal(told.version, version);
    assert_false(told.resumed);
    assert_true(told.has_certificate);
    assert_non_null(strstr(told.subject, tls_key_name(key)));
    assert_non_null(strstr(told.issuer, "root"));
    assert_non_null(strstr(told.cipher, "AES"));
    assert_true(told.group[0] != '\0');
    assert_true(told.expires_s > 0);
    const moor_stats s = fixture_stats(&t.f);
    assert_int_equal(s.tls_handshakes, 1);
    assert_int_equal(s.tls_failed, 0);
}

static void test_every_version_and_key(void **state)
{
    (void)state;
    tls_begin_closed(&t, NULL, NULL);
    for (int version = 12; version <= 13; version++)
        for (enum tls_key key = 0; key < TLS_KEYS; key++)
            for (int is_dribbled = 0; is_dribbled < 2; is_dribbled++)
                expect_version(version, key, is_dribbled);
    tls_end(&t);
}

static void test_every_cipher(void **state)
{
    (void)state;
    static const struct tls_script scripts[] = {
        {.version_min = 13, .suites = "TLS_AES_128_GCM_SHA256"},
        {.version_min = 13, .suites = "TLS_AES_256_GCM_SHA384"},
        {.version_min = 13, .suites = "TLS_CHACHA20_POLY1305_SHA256"},
        {.version_max = 12, .ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256"},
        {.version_max = 12, .ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384"},
        {.version_max = 12, .ciphers = "ECDHE-ECDSA-CHACHA20-POLY1305"},
    };
    tls_begin_closed(&t, NULL, NULL);
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        tls_server_set(t.server, &scripts[i]);
        tls_reopen(&t, NULL, NULL);
        tls_expect_bytes(&t, 20000);
        const struct tls_seen seen = tls_server_seen(t.server, (unsigned)i);
        assert_string_equal(seen.cipher,
                            scripts[i].version_max ? scripts[i].ciphers : scripts[i].suites);
    }
    tls_end(&t);
}

static void test_groups(void **state)
{
    (void)state;
    static const char *const groups[] = {"X25519", "P-256", "P-384"};
    tls_begin_closed(&t, NULL, NULL);
    for (int version = 12; version <= 13; version++)
        for (size_t i = 0; i < 3; i++) {
            const struct tls_script script = {.version_min = version,
                                              .version_max = version,
                                              .groups = groups[i],
                                              .is_dribbled = i == 1};
            tls_server_set(t.server, &script);
            tls_reopen(&t, NULL, NULL);
            tls_expect_bytes(&t, 1000);
            const struct tls_told told = tls_told(&t);
            if (!strstr(told.group, i == 0 ? "25519" : i == 1 ? "256" : "384"))
                fail_msg("\"%s\" for %s", told.group, groups[i]);
        }
    tls_end(&t);
}

static void test_client_certificates(void **state)
{
    (void)state;
    tls_begin_closed(&t, NULL, NULL);
    for (int version = 12; version <= 13; version++)
        for (enum tls_key key = 0; key < TLS_KEYS; key++) {
            const struct tls_identity *id = tls_identity(key, 1);
            const struct tls_script script = {
                .version_min = version, .version_max = version, .client_issuer = id};
            moor_pool_options o;
            tls_server_set(t.server, &script);
            tls_options(&t, &o);
            present(&o, id);
            tls_reopen(&t, NULL, &o);
            const unsigned nth = tls_server_conns(t.server);
            tls_expect_bytes(&t, 1000);
            const struct tls_seen seen = tls_server_seen(t.server, nth);
            assert_true(seen.has_client_cert);
            assert_non_null(strstr(seen.client_name, tls_key_name(key)));
        }
    tls_end(&t);
}

static void test_a_certificate_nobody_asks_for(void **state)
{
    (void)state;
    tls_begin_closed(&t, NULL, NULL);
    moor_pool_options o;
    tls_options(&t, &o);
    present(&o, client_identity());
    tls_reopen(&t, NULL, &o);
    tls_expect_bytes(&t, 10);
    assert_false(tls_server_seen(t.server, 0).has_client_cert);
    tls_end(&t);
}

static void test_a_missing_client_certificate(void **state)
{
    (void)state;
    tls_begin_closed(&t, NULL, NULL);
    for (int version = 12; version <= 13; version++)
        for (int is_optional = 0; is_optional < 2; is_optional++) {
            const struct tls_script script = {.version_min = version,
                                              .version_max = version,
                                              .client_issuer = client_identity(),
                                              .client_optional = is_optional};
            tls_server_set(t.server, &script);
            tls_reopen(&t, NULL, NULL);
            if (is_optional) {
                tls_expect_bytes(&t, 10);
                continue;
            }
            const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
            tls_assert_says(&fault, tls_alert_name(version == 12 ? 40 : 116));
            if (version == 12)
                assert_true(fault.safe_to_retry);
            expect_closed();
        }
    tls_end(&t);
}

static void test_alpn(void **state)
{
    (void)state;
    static const char *const selected[] = {"http/1.1", NULL};
    tls_begin_closed(&t, NULL, NULL);
    for (int version = 12; version <= 13; version++)
        for (unsigned i = 0; i < 2; i++) {
            const struct tls_script script = {
                .version_min = version, .version_max = version, .alpn = selected[i]};
            tls_server_set(t.server, &script);
            tls_reopen(&t, NULL, NULL);
            const unsigned nth = tls_server_conns(t.server);
            tls_expect_bytes(&t, 10);
            const struct tls_seen seen = tls_server_seen(t.server, nth);
            assert_non_null(strstr(seen.alpn_offered, "http/1.1"));
            assert_string_equal(tls_told(&t).alpn, selected[i] ? selected[i] : "");
        }
    tls_end(&t);
}

static void test_server_names(void **state)
{
    (void)state;
    tls_begin_closed(&t, NULL, NULL);
    moor_pool_options o;
    tls_options(&t, &o);
    tls_reopen(&t, NULL, &o);
    tls_expect_bytes(&t, 10);
    assert_string_equal(tls_server_seen(t.server, 0).sni, "");

    char url[64];
    snprintf(url, sizeof url, "https://localhost:%d", tls_server_port(t.server));
    tls_reopen(&t, url, &o);
    tls_expect_bytes(&t, 10);
    assert_string_equal(tls_server_seen(t.server, 1).sni, "localhost");

    o.tls_server_name = "b.test";
    tls_reopen(&t, NULL, &o);
    tls_expect_bytes(&t, 10);
    assert_string_equal(tls_server_seen(t.server, 2).sni, "b.test");

    o.tls_server_name = "c.test";
    tls_reopen(&t, NULL, &o);
    const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
    assert_true(fault.safe_to_retry);
    tls_assert_says(&fault, "not for this host");
    expect_closed();
    tls_end(&t);
}

static void test_stalls(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++)
        for (enum tls_stage at = TLS_AT_ACCEPT; at <= TLS_AT_FINISHED; at++) {
            struct tls_script script = {.version_min = version, .version_max = version};
            script.at[at].act = TLS_STALL;
            moor_pool_options o;
            tls_options(&t, &o);
            o.connect_timeout_ms = 150;
            tls_begin(&t, &script, &o);
            const int64_t from = fixture_now_ms();
            const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETIMEDOUT);
            const int64_t took = fixture_now_ms() - from;
            assert_in_range(took, 100, 150 + TIME_SLACK_MS); /* a turn's clock may be behind */
            assert_true(fault.safe_to_retry);
            if (!tls_says(&fault, "secur") && !tls_says(&fault, "handshake"))
                fail_msg("\"%s\"", fault.what);
            expect_closed();
            tls_end(&t);
        }
}

/* ---- many at once ---- */

static void test_handshakes_at_a_time(void **state)
{
    (void)state;
    enum { CALLS = 24, LIMIT = 3 };
    const struct tls_script script = {.hello_delay_ms = 10};
    moor_runtime_options ro;
    fixture_runtime_options(&t.f, &ro);
    ro.tls_handshakes_max = LIMIT;
    tls_begin_closed(&t, &script, &ro);
    moor_pool_options o;
    tls_options(&t, &o);
    o.conns_max = CALLS;
    o.dials_max = CALLS;
    tls_reopen(&t, NULL, &o);
    struct call *calls = calloc(CALLS, sizeof *calls);
    for (int i = 0; i < CALLS; i++) {
        call_init(&calls[i], t.f.pool, "/bytes/100");
        calls[i].request.timeout_ms = 20000;
        call_start(&t.f, &calls[i]);
    }
    for (int i = 0; i < CALLS; i++) {
        call_wait(&calls[i]);
        assert_err(calls[i].done.fault.err, MOOR_OK);
        assert_int_equal(calls[i].bytes, 100);
        call_fini(&calls[i]);
    }
    free(calls);
    assert_in_range(tls_server_peak(t.server), 1, LIMIT);
    tls_end(&t);
}

/* Those that stall give their place to others when their time is up. */
static void test_stalled_handshakes_give_way(void **state)
{
    (void)state;
    struct tls_script script = {.at[TLS_AT_FLIGHT] = {.act = TLS_STALL}};
    moor_runtime_options ro;
    fixture_runtime_options(&t.f, &ro);
    ro.tls_handshakes_max = 2;
    tls_begin_closed(&t, &script, &ro);
    moor_pool_options o;
    tls_options(&t, &o);
    o.connect_timeout_ms = 300;
    o.http_version = "1.1"; /* else one is hoped to serve them all */
    tls_reopen(&t, NULL, &o);
    struct call calls[6];
    for (int i = 0; i < 6; i++) {
        call_init(&calls[i], t.f.pool, "/bytes/100");
        calls[i].request.timeout_ms = 20000;
        call_start(&t.f, &calls[i]);
    }
    eventually(tls_server_conns(t.server) >= 2);
    tls_server_set(t.server, NULL);
    for (int i = 0; i < 6; i++) {
        call_wait(&calls[i]);
        call_fini(&calls[i]);
    }
    eventually(fixture_stats(&t.f).dials == 0);
    peer_sleep_ms(3); /* the backoff is over */
    tls_expect_bytes(&t, 100);
    tls_end(&t);
}

/* A silent server has the one turn there is; a pool to it whose call waits. */
struct silence {
    struct tls_server *server;
    moor_pool *pool;
    struct call call;
};

static void begin_silence(struct silence *s)
{
    const struct tls_script script = {.at[TLS_AT_ACCEPT].act = TLS_STALL};
    moor_runtime_options ro;
    moor_pool_options o;
    fixture_runtime_options(&t.f, &ro);
    ro.tls_handshakes_max = 1;
    tls_begin_closed(&t, NULL, &ro);
    s->server = tls_server_start(&script);
    tls_options(&t, &o);
    o.connect_timeout_ms = 20000;
    assert_err(moor_pool_open(t.f.runtime, tls_server_url(s->server), &o, &s->pool), MOOR_OK);
    tls_reopen(&t, NULL, &o);
    call_init(&s->call, s->pool, "/bytes/100");
    call_start(&t.f, &s->call);
    eventually(tls_server_conns(s->server) == 1);
    peer_sleep_ms(20); /* its handshake has begun */
}

static void end_silence(struct silence *s)
{
    assert_false(call_is_over(&s->call));
    moor_cancel(s->call.op);
    call_wait(&s->call);
    call_fini(&s->call);
    assert_err(moor_pool_close(s->pool, 0), MOOR_OK);
    tls_server_stop(s->server);
    tls_end(&t);
}

enum { PATIENCE_MS = 1000 };

static void test_silent_servers_keep_no_turn(void **state)
{
    (void)state;
    static struct silence s;
    begin_silence(&s);
    const int64_t from = fixture_now_ms();
    tls_expect_bytes(&t, 100);
    assert_in_range(fixture_now_ms() - from, 0, PATIENCE_MS + TIME_SLACK_MS);
    end_silence(&s);
}

/* What it says comes before its handshake has a turn, and nothing after that. */
static void test_a_server_that_speaks_first(void **state)
{
    (void)state;
    static const char banner[] = "220 mail.test ESMTP ready\r\n";
    const struct tls_script script = {
        .at[TLS_AT_ACCEPT] = {TLS_BYTES, .bytes = banner, .len = sizeof banner - 1}};
    static struct silence s;
    begin_silence(&s);
    tls_server_set(t.server, &script);
    const int64_t from = fixture_now_ms();
    const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
    assert_in_range(fixture_now_ms() - from, 0, PATIENCE_MS + TIME_SLACK_MS);
    tls_assert_says(&fault, "does not speak TLS");
    end_silence(&s);
}

static void test_a_pool_that_closes_in_the_handshake(void **state)
{
    (void)state;
    for (enum tls_stage at = TLS_AT_ACCEPT; at <= TLS_AT_FINISHED; at++) {
        struct tls_script script = {0};
        script.at[at].act = TLS_STALL;
        tls_begin(&t, &script, NULL);
        struct call c;
        call_init(&c, t.f.pool, "/");
        call_start(&t.f, &c);
        eventually(at == TLS_AT_ACCEPT ? tls_server_conns(t.server) == 1
                                       : tls_server_seen(t.server, 0).has_hello);
        assert_err(moor_pool_close(t.f.pool, 0), MOOR_OK);
        t.f.pool = NULL;
        call_wait(&c);
        assert_true(c.done.fault.err == MOOR_ECLOSED || c.done.fault.err == MOOR_ECANCELED);
        assert_true(c.done.fault.safe_to_retry);
        call_fini(&c);
        tls_end(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_version_and_key),
        cmocka_unit_test(test_every_cipher),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_client_certificates),
        cmocka_unit_test(test_a_certificate_nobody_asks_for),
        cmocka_unit_test(test_a_missing_client_certificate),
        cmocka_unit_test(test_alpn),
        cmocka_unit_test(test_server_names),
        cmocka_unit_test(test_stalls),
        cmocka_unit_test(test_handshakes_at_a_time),
        cmocka_unit_test(test_stalled_handshakes_give_way),
        cmocka_unit_test(test_silent_servers_keep_no_turn),
        cmocka_unit_test(test_a_server_that_speaks_first),
        cmocka_unit_test(test_a_pool_that_closes_in_the_handshake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
