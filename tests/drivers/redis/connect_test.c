/*
 * Connecting to a real server: passwords, users, databases, names, TLS, sockets, rotation, replicas.
 */
#include "tests/drivers/redis/fixture.h"
#include "tests/drivers/redis/server.h"
#include "tests/support/tls_certs.h"

#include <stdatomic.h>
#include <stdio.h>

static struct redis_server server; /* with a password, an ACL user and TLS */
static char pem[160];

#define SECRET "s3cret/%"
#define QUOTED "s3cret%%2F%%25" /* in a format */

static int set_up(void **state)
{
    (void)state;
    const struct tls_identity *id = tls_identity(TLS_P256, 0);
    server_make(&server);
    const char *names[] = {"cert.pem", "key.pem", "root.pem"};
    const char *texts[] = {id->cert_pem, id->key_pem, id->root_pem};
    static char paths[3][160];
    for (int i = 0; i < 3; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s", server.dir, names[i]);
        FILE *f = fopen(paths[i], "w");
        assert_non_null(f);
        fputs(texts[i], f);
        fclose(f);
    }
    snprintf(pem, sizeof pem, "%s", paths[2]);
    static char tls_port[8];
    snprintf(tls_port, sizeof tls_port, "%d", server.tls_port);
    const char *args[] = {"--requirepass",
                          SECRET,
                          "--tls-port",
                          tls_port,
                          "--tls-cert-file",
                          paths[0],
                          "--tls-key-file",
                          paths[1],
                          "--tls-ca-cert-file",
                          paths[2],
                          "--tls-auth-clients",
                          "no",
                          "--user",
                          "app",
                          "on",
                          ">hush",
                          "~*",
                          "+@all",
                          "-ping",
                          NULL};
    memcpy(server.args, args, sizeof args);
    server.password = SECRET;
    server_run(&server);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    server_stop(&server);
    return 0;
}

static char url_text[256];
#define url_of(format, port) (snprintf(url_text, sizeof url_text, format, port), url_text)

static void works(const char *url, const moor_pool_options *o, const char *command,
                  const char *wanted)
{
    moor_runtime *r = fixture_runtime(1);
    moor_pool *p = fixture_pool(r, url, o);
    moor_acquired a;
    moor_redis *s = session_begin(p, &a);
    assert_string_equal(session_say(s, command), wanted);
    moor_redis_end(s, MOOR_REUSE);
    fixture_close(r, p);
}

static void password_alone(void **state)
{
    (void)state;
    works(url_of("redis://:" QUOTED "@127.0.0.1:%d", server.port), NULL, "ACL WHOAMI", "default");
}

static void user_and_password(void **state)
{
    (void)state;
    /* This one may not PING: whether a server serves must not depend on that. */
    works(url_of("redis://app:hush@127.0.0.1:%d", server.port), NULL, "ACL WHOAMI", "app");
}

static void database_and_name(void **state)
{
    (void)state;
    moor_runtime *r = fixture_runtime(1);
    moor_pool *p = fixture_pool(
        r, url_of("redis://:" QUOTED "@127.0.0.1:%d/7?client_name=harbour", server.port), NULL);
    moor_acquired a;
    moor_redis *s = session_begin(p, &a);
    assert_string_equal(session_say(s, "CLIENT GETNAME"), "harbour");
    assert_non_null(strstr(session_say(s, "CLIENT INFO"), " db=7 "));
    moor_redis_end(s, MOOR_REUSE);
    fixture_close(r, p);
}

static void over_a_socket(void **state)
{
    (void)state;
    char url[256], quoted[160] = "";
    for (const char *c = server.socket; *c; c++)
        snprintf(quoted + strlen(quoted), sizeof quoted - strlen(quoted), *c == '/' ? "%%2F" : "%c",
                 *c);
    snprintf(url, sizeof url, "redis://:" QUOTED "@%s/3", quoted);
    works(url, NULL, "ECHO hi", "hi");
}

static void over_tls(void **state)
{
    (void)state;
    moor_pool_options o;
    fixture_options(&o);
    o.tls_ca = pem;
    works(url_of("rediss://:" QUOTED "@localhost:%d/2", server.tls_port), &o, "ECHO hi", "hi");
}

/* The error of an acquire, and what the driver said. */
static moor_err refused(const char *url, moor_pool_options *o, char text[160])
{
    moor_pool_options plain;
    moor_acquire_options ao;
    moor_why why = {.size = sizeof why};
    moor_acquired a = {.size = sizeof a};
    fixture_options(&plain);
    moor_runtime *r = fixture_runtime(1);
    if (!o)
        o = &plain;
    o->acquire_timeout_ms = 1500;
    moor_pool *p = fixture_pool(r, url, o);
    moor_acquire_options_init(&ao);
    ao.why = &why;
    const moor_err e = moor_acquire_wait(p, &ao, &a);
    assert_int_not_equal(e, MOOR_OK);
    char line[512], snapshot[8192];
    size_t len;
    moor_why_text(&why, line, sizeof line);
    moor_pool_snapshot(p, snapshot, sizeof snapshot, &len);
    assert_null(strstr(line, "wr0ng"));
    assert_null(strstr(snapshot, "wr0ng"));
    snprintf(text, 160, "%.159s", why.connect_text);
    const moor_err connect_err = why.connect_err;
    fixture_close(r, p);
    return connect_err;
}

static void wrong_passwords(void **state)
{
    (void)state;
    char text[160];
    assert_int_equal(refused(url_of("redis://:wr0ng@127.0.0.1:%d", server.port), NULL, text),
                     MOOR_EAUTH);
    assert_non_null(strstr(text, "AUTH: WRONGPASS"));
    assert_int_equal(refused(url_of("redis://app:wr0ng@127.0.0.1:%d", server.port), NULL, text),
                     MOOR_EAUTH);
    assert_non_null(strstr(text, "AUTH: WRONGPASS"));
    assert_int_equal(refused(url_of("redis://127.0.0.1:%d", server.port), NULL, text), MOOR_EAUTH);
    assert_non_null(strstr(text, "PING: NOAUTH"));
}

static void no_such_database(void **state)
{
    (void)state;
    char text[160];
    assert_int_equal(
        refused(url_of("redis://:" QUOTED "@127.0.0.1:%d/99", server.port), NULL, text),
        MOOR_ECONNECT);
    assert_non_null(strstr(text, "SELECT: ERR DB index is out of range"));
}

static void untrusted_certificate(void **state)
{
    (void)state;
    char text[160];
    assert_int_equal(
        refused(url_of("rediss://:" QUOTED "@localhost:%d", server.tls_port), NULL, text),
        MOOR_ETLS);
}

static void urls_that_are_refused(void **state)
{
    (void)state;
    static const char *const urls[] = {"redis://h/x",
                                       "redis://h/-1",
                                       "redis://h/1/2",
                                       "redis://h/99999999999",
                                       "redis://h/?rest=always",
                                       "redis://h/?reset=sometimes",
                                       "redis://h/?protocol=4",
                                       "redis://h/?client_name=a%20b",
                                       "redis://h/?reply_bytes_max=1"};
    moor_runtime *r = fixture_runtime(1);
    for (unsigned i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        moor_pool *p = NULL;
        if (moor_pool_open(r, urls[i], NULL, &p) != MOOR_EINVAL)
            fail_msg("%s was not refused", urls[i]);
    }
    assert_int_equal(moor_runtime_destroy(r, LONG_MS), MOOR_OK);
}

/* ---- resets ---- */

static void dirty_is_reset(void **state)
{
    (void)state;
    moor_pool_options o;
    fixture_options(&o);
    o.conns_max = 1;
    moor_runtime *r = fixture_runtime(1);
    moor_pool *p = fixture_pool(
        r, url_of("redis://app:hush@127.0.0.1:%d/4?client_name=clean", server.port), &o);
    moor_acquired a;
    moor_redis *s = session_begin(p, &a);
    char id[32];
    snprintf(id, sizeof id, "%.31s", session_say(s, "CLIENT ID"));
    /* The session itself notices what each of these leaves behind. */
    assert_string_equal(session_say(s, "SELECT 9"), "OK");
    assert_string_equal(session_say(s, "CLIENT SETNAME soiled"), "OK");
    assert_string_equal(session_say(s, "WATCH k"), "OK");
    assert_string_equal(session_say(s, "MULTI"), "OK");
    assert_string_equal(session_say(s, "SET k v"), "QUEUED");
    moor_redis_end(s, MOOR_REUSE);

    s = session_begin(p, &a);
    assert_string_equal(session_say(s, "CLIENT ID"), id); /* reset, not replaced */
    assert_string_equal(session_say(s, "CLIENT GETNAME"), "clean");
    assert_string_equal(session_say(s, "ACL WHOAMI"), "app");
    assert_non_null(strstr(session_say(s, "CLIENT INFO"), " db=4 "));
    assert_string_equal(session_say(s, "EXEC"), "-ERR EXEC without MULTI");
    moor_redis_end(s, MOOR_REUSE);
    fixture_close(r, p);
}

static void never_replaces(void **state)
{
    (void)state;
    moor_pool_options o;
    fixture_options(&o);
    o.conns_max = 1;
    moor_runtime *r = fixture_runtime(1);
    moor_pool *p =
        fixture_pool(r, url_of("redis://:" QUOTED "@127.0.0.1:%d?reset=never", server.port), &o);
    moor_acquired a;
    moor_redis *s = session_begin(p, &a);
    char id[32];
    snprintf(id, sizeof id, "%.31s", session_say(s, "CLIENT ID"));
    assert_string_equal(session_say(s, "ECHO a"), "a");
    moor_redis_end(s, MOOR_REUSE);
    s = session_begin(p, &a);
    assert_string_equal(session_say(s, "CLIENT ID"), id);
    assert_string_equal(session_say(s, "SELECT 9"), "OK");
    moor_redis_end(s, MOOR_REUSE);
    s = session_begin(p, &a);
    assert_string_not_equal(session_say(s, "CLIENT ID"), id);
    moor_redis_end(s, MOOR_REUSE);
    fixture_close(r, p);
}

static void always_resets(void **state)
{
    (void)state;
    moor_pool_options o;
    moor_redis_options ro;
    fixture_options(&o);
    moor_redis_options_init(&ro);
    ro.reset = MOOR_REDIS_RESET_ALWAYS;
    o.conns_max = 1;
    o.driver_config = &ro;
    moor_runtime *r = fixture_runtime(1);
    moor_pool *p = fixture_pool(r, url_of("redis://:" QUOTED "@127.0.0.1:%d", server.port), &o);
    moor_acquired a = {.size = sizeof a};
    /* Raw bytes on the lease: no session notices the SELECT. */
    assert_int_equal(moor_acquire_wait(p, NULL, &a), MOOR_OK);
    moor_chunk c;
    assert_int_equal(moor_stream_send_wait(a.lease, (moor_span){"SELECT 9\r\n", 10}, LONG_MS),
                     MOOR_OK);
    assert_int_equal(moor_stream_read_wait(a.lease, LONG_MS, &c), MOOR_OK);
    moor_chunk_return(c);
    moor_release(a.lease, MOOR_REUSE);
    moor_redis *s = session_begin(p, &a);
    assert_non_null(strstr(session_say(s, "CLIENT INFO"), " db=0 "));
    moor_redis_end(s, MOOR_REUSE);
    fixture_close(r, p);
}

/* ---- credentials that change ---- */

static _Atomic int token;

static moor_err give_token(void *user, moor_credentials *out)
{
    (void)user;
    snprintf(out->user, sizeof out->user, "rotating");
    snprintf(out->password, sizeof out->password, "token%d", atomic_load(&token));
    out->lifetime_ms = 300;
    return MOOR_OK;
}

static void rotating_password(void **state)
{
    (void)state;
    moor_pool_options o;
    fixture_options(&o);
    o.hooks.credentials = give_token;
    o.conns_max = 2;
    server_ask(&server, "ACL SETUSER rotating on >token0 ~* +@all");
    moor_runtime *r = fixture_runtime(1);
    moor_pool *p = fixture_pool(r, url_of("redis://127.0.0.1:%d", server.port), &o);
    const int64_t end = now_ms() + 3000;
    int done = 0;
    for (int64_t next = now_ms() + 500; now_ms() < end; done++) {
        if (now_ms() >= next) { /* both are good for a while, as with tokens that overlap */
            const int n = atomic_load(&token) + 1;
            server_ask(&server, "ACL SETUSER rotating >token%d", n);
            atomic_store(&token, n);
            if (n > 1)
                server_ask(&server, "ACL SETUSER rotating <token%d", n - 2);
            next += 500;
        }
        moor_acquired a;
        moor_redis *s = session_begin(p, &a);
        assert_string_equal(session_say(s, "ACL WHOAMI"), "rotating");
        moor_redis_end(s, done % 7 ? MOOR_REUSE : MOOR_DIRTY);
    }
    assert_true(atomic_load(&token) >= 3 && done > 10);
    moor_stats st = {.size = sizeof st};
    moor_stats_read(p, &st);
    assert_true(st.conns_created >= 4); /* the tokens' lifetimes ended connections */
    fixture_close(r, p);
}

/* ---- a primary that becomes a replica ---- */

static void read_only_flushes(void **state)
{
    (void)state;
    struct redis_server s2;
    moor_pool_options o;
    fixture_options(&o);
    o.conns_max = 4;
    server_start(&s2, NULL);
    moor_runtime *r = fixture_runtime(1);
    moor_pool *p = fixture_pool(r, url_of("redis://127.0.0.1:%d", s2.port), &o);
    moor_acquired a, b;
    moor_redis *sa = session_begin(p, &a), *sb = session_begin(p, &b);
    char id_b[32];
    assert_string_equal(session_say(sa, "SET k v"), "OK");
    snprintf(id_b, sizeof id_b, "%.31s", session_say(sb, "CLIENT ID"));
    moor_redis_end(sb, MOOR_REUSE); /* idle now */
    server_ask(&s2, "REPLICAOF 127.0.0.1 1");
    assert_non_null(strstr(session_say(sa, "SET k w"), "-READONLY"));
    moor_redis_end(sa, MOOR_REUSE);
    server_ask(&s2, "REPLICAOF NO ONE");
    sb = session_begin(p, &b);
    assert_false(b.reused);
    assert_string_equal(session_say(sb, "SET k w"), "OK");
    moor_redis_end(sb, MOOR_REUSE);
    fixture_close(r, p);
    server_stop(&s2);
}

int main(void)
{
    server_need();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(password_alone),
        cmocka_unit_test(user_and_password),
        cmocka_unit_test(database_and_name),
        cmocka_unit_test(over_a_socket),
        cmocka_unit_test(over_tls),
        cmocka_unit_test(wrong_passwords),
        cmocka_unit_test(no_such_database),
        cmocka_unit_test(untrusted_certificate),
        cmocka_unit_test(urls_that_are_refused),
        cmocka_unit_test(dirty_is_reset),
        cmocka_unit_test(never_replaces),
        cmocka_unit_test(always_resets),
        cmocka_unit_test(rotating_password),
        cmocka_unit_test(read_only_flushes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
