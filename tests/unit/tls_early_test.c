/*
 * Early data (0-RTT): sent only when asked for and allowed, and a request whose early data is refused
 * reaches the server once, after the handshake.
 */
#include "tests/support/tls_fixture.h"

#include <stdlib.h>

static struct tls_fixture t = {.tickets_max = 256};

enum { EARLY_MAX = 2048 };

static struct tls_script early_script(void)
{
    return (struct tls_script){.early_max = EARLY_MAX, .requests_max = 1};
}

static void begin_early(const struct tls_script *script, bool is_on)
{
    moor_pool_options o;
    tls_options(&t, &o);
    o.tls_early_data = is_on;
    tls_begin(&t, script, &o);
}

struct early_call {
    bool is_marked;
    const char *path;
    const void *body;
    size_t body_len;
};

/* Must succeed. Its conn is over, and its tickets are in. */
static void run(const struct early_call *e)
{
    struct call c;
    call_init(&c, t.f.pool, e->path ? e->path : "/bytes/100");
    c.request.replayable = e->is_marked;
    c.request.timeout_ms = 20000;
    if (e->body_len) {
        c.request.method = "POST";
        c.request.body = (moor_span){e->body, e->body_len};
    }
    call_expect(&t.f, &c, MOOR_OK);
    assert_int_equal(c.status, 200);
    assert_int_equal(c.bytes, e->body_len ? e->body_len : 100);
    assert_true(c.is_pattern);
    call_fini(&c);
    eventually(fixture_stats(&t.f).conns_open == 0);
}

static const struct early_call marked = {.is_marked = true}, unmarked = {0};

static struct tls_seen seen_of(unsigned nth)
{
    eventually(tls_server_seen(t.server, nth).is_over);
    return tls_server_seen(t.server, nth);
}

static void expect_stats(uint64_t early, uint64_t refused)
{
    const moor_stats s = fixture_stats(&t.f);
    assert_int_equal(s.tls_early, early);
    assert_int_equal(s.tls_early_refused, refused);
}

static void test_accepted(void **state)
{
    (void)state;
    const struct tls_script script = early_script();
    begin_early(&script, true);
    run(&marked);
    assert_false(seen_of(0).offers_early);
    for (unsigned i = 1; i < 4; i++) {
        run(&marked);
        const struct tls_seen seen = seen_of(i);
        assert_true(seen.is_resumed);
        assert_true(seen.is_early_accepted);
        assert_true(seen.early_len > 0);
        assert_int_equal(seen.requests, 1);
        assert_int_equal(seen.data_records, 0); /* all of it was early */
        expect_stats(i, 0);
    }
    tls_end(&t);
}

static uint8_t body[8192];

static void test_accepted_with_a_body(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof body; i++)
        body[i] = tls_body(i);
    const struct early_call posts = {
        .is_marked = true, .path = "/echo", .body = body, .body_len = 300};
    const struct tls_script script = early_script();
    begin_early(&script, true);
    run(&posts);
    run(&posts);
    const struct tls_seen seen = seen_of(1);
    assert_int_equal(seen.requests, 1);
    assert_int_equal(seen.body_len, 300);
    assert_true(!seen.offers_early || seen.is_early_accepted);
    tls_end(&t);
}

/* By the server's choice, by a hello it wants again, and with the ticket. */
static void test_refused(void **state)
{
    (void)state;
    const struct early_call posts = {
        .is_marked = true, .path = "/echo", .body = body, .body_len = 300};
    for (int how = 0; how < 3; how++)
        for (int has_body = 0; has_body < 2; has_body++) {
            const struct early_call *e = has_body ? &posts : &marked;
            struct tls_script script = early_script();
            begin_early(&script, true);
            run(e);
            script.refuses_early = how == 0;
            script.groups = how == 1 ? "P-384" : NULL;
            if (how == 2)
                tls_server_forget(t.server);
            tls_server_set(t.server, &script);
            run(e);
            const struct tls_seen seen = seen_of(1);
            assert_int_equal(tls_server_conns(t.server), 2);
            if (!has_body)
                assert_true(seen.offers_early);
            assert_false(seen.is_early_accepted);
            assert_int_equal(seen.is_resumed, how != 2);
            assert_int_equal(seen.requests, 1);
            assert_int_equal(seen.body_len, has_body ? 300 : 0);
            expect_stats(seen.offers_early, seen.offers_early);
            assert_int_equal(fixture_stats(&t.f).requests_failed, 0);
            tls_end(&t);
        }
}

/* Nothing more comes after its Finished that would move what is to be sent again. */
static void test_refused_by_a_server_that_says_no_more(void **state)
{
    (void)state;
    for (int is_resumed = 0; is_resumed < 2; is_resumed++) {
        struct tls_script script = early_script();
        begin_early(&script, true);
        run(&marked);
        script.tickets = -1;
        script.refuses_early = is_resumed;
        script.early_max = is_resumed ? EARLY_MAX : 0;
        if (!is_resumed)
            tls_server_forget(t.server);
        tls_server_set(t.server, &script);
        const int64_t from = fixture_now_ms();
        run(&marked);
        assert_in_range(fixture_now_ms() - from, 0, TIME_SLACK_MS);
        const struct tls_seen seen = seen_of(1);
        assert_int_equal(tls_server_conns(t.server), 2);
        assert_true(seen.offers_early);
        assert_false(seen.is_early_accepted);
        assert_int_equal(seen.is_resumed, is_resumed);
        assert_int_equal(seen.requests, 1);
        expect_stats(1, 1);
        assert_int_equal(fixture_stats(&t.f).requests_failed, 0);
        tls_end(&t);
    }
}

static void expect_unused(const struct tls_script *script, bool is_on, const struct early_call *e)
{
    begin_early(script, is_on);
    run(e);
    run(e);
    const struct tls_seen seen = seen_of(1);
    assert_true(seen.is_resumed);
    /* A hello may announce what the server's limit then has no room for. */
    const bool may_offer = is_on && e->is_marked && script->early_max && script->version_max != 12;
    if ((seen.offers_early && !may_offer) || seen.early_len)
        fail_msg("max %u, body %zu, marked %d, on %d: offered %d, %zu bytes", script->early_max,
                 e->body_len, e->is_marked, is_on, seen.offers_early, seen.early_len);
    assert_int_equal(seen.requests, 1);
    expect_stats(0, 0);
    tls_end(&t);
}

static void test_not_for_everybody(void **state)
{
    (void)state;
    const struct early_call large = {
        .is_marked = true, .path = "/echo", .body = body, .body_len = sizeof body};
    struct tls_script script = early_script();
    expect_unused(&script, true, &unmarked);
    expect_unused(&script, false, &marked);
    expect_unused(&script, true, &large);
    script.early_max = 0;
    expect_unused(&script, true, &marked);
    script.early_max = 20; /* not even the request's line */
    expect_unused(&script, true, &marked);
    script = early_script();
    script.version_max = 12;
    expect_unused(&script, true, &marked);
}

static void test_off_by_default(void **state)
{
    (void)state;
    const struct tls_script script = early_script();
    tls_begin(&t, &script, NULL);
    run(&marked);
    run(&marked);
    assert_false(seen_of(1).offers_early);
    tls_end(&t);
}

/* A marked request takes the early data, one that is not marked never does, whoever asked first. */
static void test_mixed(void **state)
{
    (void)state;
    enum { CALLS = 8 };
    struct tls_script script = early_script();
    script.tickets = CALLS + 2;
    script.hello_delay_ms = 20;
    begin_early(&script, true);
    run(&marked);
    struct call *calls = calloc(CALLS, sizeof *calls);
    for (int i = 0; i < CALLS; i++) {
        call_init(&calls[i], t.f.pool, i % 2 ? "/bytes/100" : "/bytes/200");
        calls[i].request.replayable = i % 2;
        calls[i].request.timeout_ms = 20000;
        call_start(&t.f, &calls[i]);
    }
    for (int i = 0; i < CALLS; i++) {
        call_wait(&calls[i]);
        assert_err(calls[i].done.fault.err, MOOR_OK);
        assert_int_equal(calls[i].bytes, i % 2 ? 100 : 200);
        call_fini(&calls[i]);
    }
    free(calls);
    assert_int_equal(tls_server_requests(t.server), CALLS + 1);
    for (unsigned i = 1; i < tls_server_conns(t.server); i++) {
        const struct tls_seen seen = tls_server_seen(t.server, i);
        if (seen.early_len && strstr(seen.head, "/bytes/200"))
            fail_msg("conn %u: early data that nobody allowed: %s", i, seen.head);
    }
    tls_end(&t);
}

/* Bytes of it have left: nobody may say that the server cannot have acted on it. */
static void test_a_conn_that_ends_after_early_data(void **state)
{
    (void)state;
    static const enum tls_stage stages[] = {TLS_AT_HELLO, TLS_AT_FINISHED, TLS_AT_REQUEST};
    static const enum tls_act acts[] = {TLS_FIN, TLS_ALERT, TLS_RST};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            struct tls_script script = early_script();
            moor_pool_options o;
            tls_options(&t, &o);
            o.tls_early_data = true;
            o.replays_max = 0;
            tls_begin(&t, &script, &o);
            run(&marked);
            script.at[stages[i]] = (struct tls_deed){acts[j], .value = 80};
            tls_server_set(t.server, &script);
            struct call c;
            call_init(&c, t.f.pool, "/bytes/100");
            c.request.replayable = true;
            c.request.timeout_ms = 20000;
            call_start(&t.f, &c);
            call_wait(&c);
            assert_true(c.done.fault.err == MOOR_ERESET || c.done.fault.err == MOOR_ETLS);
            assert_false(c.done.fault.safe_to_retry);
            call_check(&c);
            call_fini(&c);
            eventually(tls_server_open(t.server) == 0);
            tls_end(&t);
        }
}

static void test_a_stall_after_early_data(void **state)
{
    (void)state;
    struct tls_script script = early_script();
    moor_pool_options o;
    tls_options(&t, &o);
    o.tls_early_data = true;
    o.connect_timeout_ms = 200;
    o.replays_max = 0;
    tls_begin(&t, &script, &o);
    run(&marked);
    script.at[TLS_AT_FINISHED].act = TLS_STALL;
    tls_server_set(t.server, &script);
    struct call c;
    call_init(&c, t.f.pool, "/bytes/100");
    c.request.replayable = true;
    c.request.timeout_ms = 20000;
    call_start(&t.f, &c);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_ETIMEDOUT);
    assert_false(c.done.fault.safe_to_retry);
    call_fini(&c);
    tls_end(&t);
}

int main(void)
{
#if !defined(MR_WOLFSSL_EARLY_DATA)
    puts("this build's TLS library has no early data");
    return 77;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_accepted_with_a_body),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_by_a_server_that_says_no_more),
        cmocka_unit_test(test_not_for_everybody),
        cmocka_unit_test(test_off_by_default),
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_a_conn_that_ends_after_early_data),
        cmocka_unit_test(test_a_stall_after_early_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
