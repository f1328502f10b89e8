/*
 * Records that should not be: broken, repeated, out of place, without end. A conn that gets one is over, and
 * what it had delivered before stays delivered.
 */
#include "tests/support/tls_fixture.h"

static struct tls_fixture t;

static struct tls_script script_of(int version)
{
    return (struct tls_script){.version_min = version, .version_max = version};
}

static void expect_broken(const struct tls_script *script)
{
    tls_begin(&t, script, NULL);
    const moor_fault fault = tls_expect_fault(&t, "/bytes/5000", MOOR_ETLS);
    assert_false(fault.safe_to_retry);
    eventually(tls_server_open(t.server) == 0);
    assert_int_equal(tls_server_seen(t.server, 0).requests, 1);
    tls_end(&t);
}

static void test_spoilt_records(void **state)
{
    (void)state;
    static const struct {
        enum tls_mischief how;
        size_t at;
    } ways[] = {{TLS_FLIPPED, 0}, {TLS_FLIPPED, 100}, {TLS_TWICE, 0},
                {TLS_OTHER, 24},  {TLS_OTHER, 0},     {TLS_OTHER, 22}};
    for (int version = 12; version <= 13; version++)
        for (unsigned nth = 0; nth < 6; nth += 5)
            for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
                struct tls_script script = script_of(version);
                script.record_max = 500;
                script.wire.how = ways[i].how;
                script.wire.nth = nth;
                /* The first record is the response's head, and short. */
                script.wire.at = ways[i].at == 100 && !nth ? 20 : ways[i].at;
                expect_broken(&script);
            }
}

static void test_misplaced_records(void **state)
{
    (void)state;
    static uint8_t large[16385];
    static const struct {
        int version; /* 0: both */
        struct tls_deed deed;
    } cases[] = {
        {0, {TLS_BYTES, 0, "\x17\3\3\x48\1", 5}},        /* 16 KB + 2049 */
        {0, {TLS_BYTES, 0, "\x17\3\3\xff\xff", 5}},      /* 64 KB */
        {0, {TLS_BYTES, 0, "\x17\3\3\0\0", 5}},          /* no room for a tag */
        {0, {TLS_BYTES, 0, "\x63\3\3\0\1x", 6}},         /* no such type */
        {0, {TLS_RECORD, 99, "x", 1}},                   /* nor inside */
        {0, {TLS_RECORD, 23, large, sizeof large}},      /* one byte too long */
        {0, {TLS_RECORD, 22, "\2\0\0\2\3\3", 6}},        /* a server's hello */
        {0, {TLS_RECORD, 22, "\x0e\0\0\0", 4}},          /* ServerHelloDone */
        {0, {TLS_RECORD, 22, "\x63\0\0\0", 4}},          /* no such message */
        {0, {TLS_RECORD, 21, "\2", 1}},                  /* half an alert */
        {0, {TLS_RECORD, 20, "\1", 1}},                  /* ChangeCipherSpec */
        {13, {TLS_RECORD, 22, "", 0}},                   /* an empty message */
        {13, {TLS_RECORD, 22, "\0\0\0\0", 4}},           /* HelloRequest */
        {13, {TLS_RECORD, 22, "\x18\0\0\1\2", 5}},       /* KeyUpdate of neither kind */
        {13, {TLS_RECORD, 22, "\4\0\0\5\0\0\0\1\0", 9}}, /* a ticket cut short */
        {13, {TLS_RECORD, 22, "\x14\0\0\4\1\2\3\4", 8}}, /* another Finished */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int version = 12; version <= 13; version++) {
            if (cases[i].version && cases[i].version != version)
                continue;
            struct tls_script script = script_of(version);
            script.at[TLS_AT_BODY] = cases[i].deed;
            tls_begin(&t, &script, NULL);
            struct call c;
            call_init(&c, t.f.pool, "/bytes/5000");
            c.request.timeout_ms = 3000;
            call_start(&t.f, &c);
            call_wait(&c);
            if (c.done.fault.err != MOOR_ETLS)
                fail_msg("TLS 1.%d, case %zu: %s", version - 10, i,
                         moor_err_name(c.done.fault.err));
            assert_false(c.done.fault.safe_to_retry);
            call_fini(&c);
            tls_end(&t);
        }
}

/* RFC 8446 5.1 allows records without data; a few harm nobody. */
static void test_empty_records(void **state)
{
    (void)state;
    static const enum tls_stage stages[] = {TLS_AT_READY, TLS_AT_REQUEST, TLS_AT_BODY};
    for (int version = 12; version <= 13; version++)
        for (int i = 0; i < 3; i++) {
            struct tls_script script = script_of(version);
            script.at[stages[i]] = (struct tls_deed){TLS_EMPTIES, .value = 5};
            tls_begin(&t, &script, NULL);
            tls_expect_bytes(&t, 50000);
            tls_end(&t);
        }
}

static void test_a_hello_request(void **state)
{
    (void)state;
    static const enum tls_stage stages[] = {TLS_AT_REQUEST, TLS_AT_BODY};
    for (int i = 0; i < 2; i++) {
        struct tls_script script = script_of(12);
        script.at[stages[i]] = (struct tls_deed){TLS_HELLO_REQUEST, .value = 1};
        tls_begin(&t, &script, NULL);
        tls_expect_bytes(&t, 50000);
        assert_int_equal(tls_told(&t).ready, 1);
        tls_end(&t);
    }
}

/* A server that never stops: it costs little memory, and either the response comes or the conn goes. */
static void test_floods(void **state)
{
    (void)state;
    static const struct {
        int version;
        struct tls_deed deed;
    } cases[] = {
        {12, {TLS_EMPTIES, .value = 20000}},
        {13, {TLS_EMPTIES, .value = 20000}},
        {12, {TLS_HELLO_REQUEST, .value = 20000}},
        {13, {TLS_TICKETS, .value = 3000}},
        {13, {TLS_KEY_UPDATE, .value = 0, .len = 3000}},
        {13, {TLS_KEY_UPDATE, .value = 1, .len = 3000}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tls_script script = script_of(cases[i].version);
        script.at[TLS_AT_BODY] = cases[i].deed;
        tls_begin(&t, &script, NULL);
        struct call c;
        call_init(&c, t.f.pool, "/bytes/50000");
        c.request.timeout_ms = 30000;
        call_start(&t.f, &c);
        call_wait(&c);
        call_check(&c);
        if (c.done.fault.err != MOOR_OK && c.done.fault.err != MOOR_ETLS)
            fail_msg("case %zu: %s", i, moor_err_name(c.done.fault.err));
        assert_int_equal(c.bytes, c.done.fault.err ? 25000 : 50000);
        assert_true(c.is_pattern);
        call_fini(&c);
        moor_runtime_stats s;
        moor_runtime_stats_read(t.f.runtime, &s);
        assert_in_range(s.memory_peak, 0, 8 << 20);
        tls_end(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spoilt_records), cmocka_unit_test(test_misplaced_records),
        cmocka_unit_test(test_empty_records),  cmocka_unit_test(test_a_hello_request),
        cmocka_unit_test(test_floods),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
