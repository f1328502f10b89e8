/*
 * Data through TLS: bodies of every size in records of every size, backpressure, rekeying and ends.
 * Records that should not be are in tls_record_test.c.
 */
#include "tests/support/tls_fixture.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>

static struct tls_fixture t;

static const size_t sizes[] = {0, 1, 16383, 16384, 16385, 100000, 1 << 20};
enum { SIZES = sizeof sizes / sizeof *sizes };

static struct tls_script script_of(int version)
{
    return (struct tls_script){.version_min = version, .version_max = version};
}

/* ---- bodies ---- */

static void test_bodies_down(void **state)
{
    (void)state;
    static const size_t records[] = {1, 100, 4096, 16384};
    for (int version = 12; version <= 13; version++)
        for (int i = 0; i < 4; i++) {
            struct tls_script script = script_of(version);
            script.record_max = records[i];
            tls_begin(&t, &script, NULL);
            for (int j = 0; j < SIZES; j++)
                if (records[i] > 1 || sizes[j] < 20000)
                    tls_expect_bytes(&t, sizes[j]);
            assert_int_equal(tls_server_conns(t.server), 1);
            tls_end(&t);
        }
}

static void test_bodies_up(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = script_of(version);
        tls_begin(&t, &script, NULL);
        for (int j = 0; j < SIZES; j++)
            tls_expect_echo(&t, sizes[j]);
        assert_int_equal(tls_server_conns(t.server), 1);
        tls_end(&t);
    }
}

static void test_bodies_byte_by_byte(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = script_of(version);
        script.is_dribbled = true;
        script.record_max = 700;
        tls_begin(&t, &script, NULL);
        tls_expect_bytes(&t, 20000);
        tls_expect_echo(&t, 20000);
        tls_end(&t);
    }
}

static void test_chunks_and_ends(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = script_of(version);
        tls_begin(&t, &script, NULL);
        for (int j = 0; j < SIZES; j++) {
            char path[32];
            snprintf(path, sizeof path, "/chunked/%zu", sizes[j]);
            tls_expect_get(&t, path, sizes[j]);
            snprintf(path, sizeof path, "/eof/%zu", sizes[j]);
            tls_expect_get(&t, path, sizes[j]);
        }
        assert_int_equal(tls_server_conns(t.server), SIZES);
        tls_end(&t);
    }
}

static void test_buffers_smaller_than_records(void **state)
{
    (void)state;
    moor_runtime_options ro;
    fixture_runtime_options(&t.f, &ro);
    ro.recv_buffer_size = 512;
    ro.recv_buffers = 8;
    tls_begin_closed(&t, NULL, &ro);
    tls_reopen(&t, NULL, NULL);
    tls_expect_bytes(&t, 300000);
    tls_expect_echo(&t, 300000);
    tls_end(&t);
}

static uint64_t bytes_of(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    const uint64_t n = c->bytes;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void test_a_slow_consumer(void **state)
{
    (void)state;
    enum { WINDOW = 64 << 10, BODY = 2 << 20, RECORD = 16384 };
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = script_of(version);
        moor_pool_options o;
        tls_options(&t, &o);
        o.window_bytes = WINDOW;
        tls_begin(&t, &script, &o);
        char path[32];
        snprintf(path, sizeof path, "/bytes/%d", BODY);
        struct call *c = malloc(sizeof *c);
        call_init(c, t.f.pool, path);
        c->is_holding = true;
        call_start(&t.f, c);
        eventually(bytes_of(c) >= WINDOW);
        peer_sleep_ms(100);
        const uint64_t stopped_at = bytes_of(c);
        assert_in_range(stopped_at, WINDOW, WINDOW + 2 * RECORD);
        peer_sleep_ms(50);
        assert_int_equal(bytes_of(c), stopped_at);
        tls_expect_bytes(&t, 1000); /* others go on */
        pthread_mutex_lock(&c->lock);
        c->is_holding = false;
        const int held = c->held_count;
        pthread_mutex_unlock(&c->lock);
        for (int i = 0; i < held; i++)
            moor_chunk_return(c->held[i]);
        call_wait(c);
        assert_err(c->done.fault.err, MOOR_OK);
        assert_int_equal(c->bytes, BODY);
        assert_true(c->is_pattern);
        call_fini(c);
        free(c);
        tls_end(&t);
    }
}

static void test_many_small_requests(void **state)
{
    (void)state;
    enum { REQUESTS = 300 };
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = script_of(version);
        tls_begin(&t, &script, NULL);
        for (int i = 0; i < REQUESTS; i++)
            tls_expect_bytes(&t, (size_t)i);
        const struct tls_seen seen = tls_server_seen(t.server, 0);
        assert_int_equal(tls_server_conns(t.server), 1);
        assert_int_equal(seen.requests, REQUESTS);
        assert_int_equal(seen.data_records, REQUESTS); /* each left as one */
        tls_end(&t);
    }
}

/* Head and body of a small request are one record. */
static void test_a_small_post_is_one_record(void **state)
{
    (void)state;
    static char body[200];
    for (size_t i = 0; i < sizeof body; i++)
        body[i] = (char)tls_body(i);
    tls_begin(&t, NULL, NULL);
    for (unsigned i = 0; i < 3; i++) {
        struct call c;
        call_init(&c, t.f.pool, "/echo");
        c.request.method = "POST";
        c.request.body = (moor_span){body, sizeof body};
        call_expect(&t.f, &c, MOOR_OK);
        assert_int_equal(c.bytes, sizeof body);
        assert_true(c.is_pattern);
        call_fini(&c);
        assert_int_equal(tls_server_seen(t.server, 0).data_records, i + 1);
    }
    tls_end(&t);
}

/* ---- rekeying ---- */

static void test_key_updates(void **state)
{
    (void)state;
    static const enum tls_stage stages[] = {TLS_AT_READY, TLS_AT_REQUEST, TLS_AT_BODY};
    for (int i = 0; i < 3; i++)
        for (int asks = 0; asks < 2; asks++)
            for (size_t more = 0; more < 6; more += 5) {
                struct tls_script script = script_of(13);
                script.at[stages[i]] =
                    (struct tls_deed){TLS_KEY_UPDATE, .value = asks, .len = more};
                tls_begin(&t, &script, NULL);
                tls_expect_bytes(&t, 100000);
                tls_expect_echo(&t, 100000);
                const unsigned answers = tls_server_seen(t.server, 0).key_updates;
                assert_in_range(answers, asks, asks ? more + 1 : 0);
                tls_end(&t);
            }
}

/* What the filter says for itself is no reason to give the conn up. */
static void test_a_conn_outlives_key_updates(void **state)
{
    (void)state;
    struct tls_script script = script_of(13);
    script.at[TLS_AT_BODY] = (struct tls_deed){TLS_KEY_UPDATE, .value = 1};
    for (int i = 0; i < 20; i++) {
        tls_begin(&t, &script, NULL);
        tls_expect_bytes(&t, 1000);
        tls_expect_bytes(&t, 1000);
        const struct tls_told told = tls_told(&t);
        const unsigned conns = tls_server_conns(t.server);
        tls_end(&t);
        if (conns != 1)
            fail_msg("a new conn, as the other was closed: %s", told.why_closed);
    }
}

static void test_a_key_update_in_an_upload(void **state)
{
    (void)state;
    struct tls_script script = script_of(13);
    script.at[TLS_AT_READY] = (struct tls_deed){TLS_KEY_UPDATE, .value = 1, .len = 3};
    tls_begin(&t, &script, NULL);
    tls_expect_echo(&t, 1 << 20);
    tls_end(&t);
}

/* ---- ends ---- */

static void expect_end(int version, const char *path, enum tls_stage at, struct tls_deed deed,
                       moor_err err)
{
    struct tls_script script = script_of(version);
    script.at[at] = deed;
    tls_begin(&t, &script, NULL);
    struct call c;
    call_init(&c, t.f.pool, path);
    c.request.timeout_ms = 20000;
    call_start(&t.f, &c);
    call_wait(&c);
    call_check(&c);
    if (c.done.fault.err != err)
        fail_msg("TLS 1.%d, %s, stage %d, act %d: %s, %s", version - 10, path, (int)at,
                 (int)deed.act, moor_err_name(c.done.fault.err),
                 c.done.fault.what ? c.done.fault.what : "");
    assert_true(c.is_pattern);
    assert_int_equal(c.bytes, at == TLS_AT_END ? 5000 : 2500);
    assert_false(c.done.fault.safe_to_retry);
    call_fini(&c);
    eventually(tls_server_open(t.server) == 0);
    tls_end(&t);
}

static void test_ends(void **state)
{
    (void)state;
    static const struct tls_deed fin = {.act = TLS_FIN}, notified = {.act = TLS_CLOSE},
                                 late = {TLS_CLOSE, .value = 100};
    for (int version = 12; version <= 13; version++) {
        expect_end(version, "/eof/5000", TLS_AT_END, (struct tls_deed){0}, MOOR_OK);
        expect_end(version, "/eof/5000", TLS_AT_END, late, MOOR_OK);
        expect_end(version, "/eof/5000", TLS_AT_END, fin, MOOR_ERESET);
        expect_end(version, "/eof/5000", TLS_AT_BODY, fin, MOOR_ERESET);
        expect_end(version, "/bytes/5000", TLS_AT_BODY, fin, MOOR_ERESET);
        expect_end(version, "/bytes/5000", TLS_AT_BODY, notified, MOOR_ERESET);
        expect_end(version, "/bytes/5000", TLS_AT_BODY, late, MOOR_ERESET);
        expect_end(version, "/chunked/5000", TLS_AT_BODY, fin, MOOR_ERESET);
        expect_end(version, "/chunked/5000", TLS_AT_BODY, notified, MOOR_ERESET);
    }
}

static void test_a_stall(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = script_of(version);
        script.at[TLS_AT_BODY].act = TLS_STALL;
        tls_begin(&t, &script, NULL);
        struct call c;
        call_init(&c, t.f.pool, "/bytes/5000");
        c.request.timeout_ms = 150;
        call_expect(&t.f, &c, MOOR_ETIMEDOUT);
        assert_int_equal(c.bytes, 2500);
        assert_false(c.done.fault.safe_to_retry);
        call_fini(&c);
        eventually(tls_server_open(t.server) == 0);
        tls_end(&t);
    }
}

static void test_resets(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct tls_script script = script_of(version);
        script.at[TLS_AT_BODY].act = TLS_RST;
        tls_begin(&t, &script, NULL);
        const moor_fault fault = tls_expect_fault(&t, "/bytes/5000", MOOR_ERESET);
        assert_false(fault.safe_to_retry);
        tls_end(&t);
    }
}

static void test_cut_records(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++)
        for (size_t at = 0; at < 200; at += 33) {
            struct tls_script script = script_of(version);
            script.record_max = 500;
            script.wire.how = TLS_CUT;
            script.wire.nth = 4;
            script.wire.at = at;
            tls_begin(&t, &script, NULL);
            const moor_fault fault = tls_expect_fault(&t, "/eof/5000", MOOR_ERESET);
            assert_false(fault.safe_to_retry);
            tls_end(&t);
        }
}

/* What a server says of an idle conn ends it without anybody's noticing. */
static void test_idle_conns_end(void **state)
{
    (void)state;
    static const struct tls_deed ways[] = {
        {.act = TLS_CLOSE},
        {.act = TLS_FIN},
        {.act = TLS_RST},
        {TLS_CLOSE, .value = 50},
        {TLS_RECORD, 23, "unasked", 7},
        {TLS_ALERT, .value = 80},
        {TLS_BYTES, 0, "\x17\3\3\0\x20garbage garbage garbage garbage.", 37},
        {TLS_BYTES, 0, "HTTP/1.1 408 Timeout\r\n\r\n", 24},
    };
    for (int version = 12; version <= 13; version++)
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            struct tls_script script = script_of(version);
            script.requests_max = 1;
            script.at[TLS_AT_END] = ways[i];
            tls_begin(&t, &script, NULL);
            for (unsigned nth = 0; nth < 3; nth++) {
                tls_expect_bytes(&t, 100);
                eventually(fixture_stats(&t.f).conns_open == 0);
                assert_int_equal(tls_server_conns(t.server), nth + 1);
            }
            tls_end(&t);
        }
}

/* ---- our ends ---- */

static void expect_one_notify(void)
{
    eventually(tls_server_seen(t.server, 0).is_over);
    const struct tls_seen seen = tls_server_seen(t.server, 0);
    assert_int_equal(seen.close_notifies, 1);
    assert_int_equal(seen.late_len, 0);
    assert_int_equal(seen.alert, -1);
    assert_false(seen.was_reset);
}

static void test_we_say_goodbye_once(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = script_of(version);
        moor_pool_options o;
        tls_options(&t, &o);
        o.idle_timeout_ms = 50;
        tls_begin(&t, &script, &o);
        tls_expect_bytes(&t, 100);
        expect_one_notify();
        tls_end(&t);

        tls_begin(&t, &script, NULL);
        tls_expect_bytes(&t, 100);
        assert_err(moor_pool_close(t.f.pool, 5000), MOOR_OK);
        t.f.pool = NULL;
        expect_one_notify();
        tls_end(&t);

        tls_begin(&t, &script, NULL);
        tls_expect_bytes(&t, 100);
        moor_pool_flush(t.f.pool);
        expect_one_notify();
        tls_end(&t);
    }
}

struct finish {
    moor_task task;
    moor_lease lease;
    moor_err err;
    atomic_bool is_done;
};

static void finish_stream(void *user)
{
    struct finish *f = user;
    f->err = moor_stream_finish(f->lease);
    atomic_store(&f->is_done, true);
}

static void test_a_stream(void **state)
{
    (void)state;
    static const char ask[] = "GET /bytes/300 HTTP/1.1\r\nHost: x\r\n\r\n";
    for (int version = 12; version <= 13; version++) {
        const struct tls_script script = script_of(version);
        tls_begin_closed(&t, &script, NULL);
        char url[64];
        snprintf(url, sizeof url, "tls://127.0.0.1:%d", tls_server_port(t.server));
        tls_reopen(&t, url, NULL);
        moor_acquired a;
        memset(&a, 0, sizeof a);
        a.size = sizeof a;
        assert_err(moor_acquire_wait(t.f.pool, NULL, &a), MOOR_OK);
        assert_err(moor_stream_send_wait(a.lease, (moor_span){ask, sizeof ask - 1}, 5000), MOOR_OK);
        struct finish f = {.task = {.run = finish_stream, .user = &f}, .lease = a.lease};
        size_t came = 0;
        for (bool has_ended = false; !has_ended;) {
            moor_chunk c;
            assert_err(moor_stream_read_wait(a.lease, 5000, &c), MOOR_OK);
            has_ended = c.bytes.len == 0;
            if (!came && c.bytes.len) {
                assert_err(moor_post(moor_shard_at(t.f.runtime, 0), &f.task), MOOR_OK);
                eventually(atomic_load(&f.is_done));
                assert_err(f.err, MOOR_OK);
            }
            came += c.bytes.len;
            if (c.bytes.len)
                moor_chunk_return(c);
        }
        assert_true(came > 300);
        moor_release(a.lease, MOOR_DISCARD);
        expect_one_notify();
        assert_string_equal(tls_server_seen(t.server, 0).alpn_offered, "");
        tls_end(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies_down),
        cmocka_unit_test(test_bodies_up),
        cmocka_unit_test(test_bodies_byte_by_byte),
        cmocka_unit_test(test_chunks_and_ends),
        cmocka_unit_test(test_buffers_smaller_than_records),
        cmocka_unit_test(test_a_slow_consumer),
        cmocka_unit_test(test_many_small_requests),
        cmocka_unit_test(test_a_small_post_is_one_record),
        cmocka_unit_test(test_key_updates),
        cmocka_unit_test(test_a_conn_outlives_key_updates),
        cmocka_unit_test(test_a_key_update_in_an_upload),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_a_stall),
        cmocka_unit_test(test_resets),
        cmocka_unit_test(test_cut_records),
        cmocka_unit_test(test_idle_conns_end),
        cmocka_unit_test(test_we_say_goodbye_once),
        cmocka_unit_test(test_a_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
