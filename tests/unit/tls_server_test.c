/* The scripted TLS server itself, against OpenSSL's own client: what it promises to other tests. */
#include "tests/support/tls_server.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct client {
    SSL_CTX *ctx;
    SSL *ssl;
    SSL_SESSION *session; /* the newest ticket */
    int fd;
    unsigned tickets, records, alert, key_updates;
};

static struct tls_server *server;

static int got_ticket(SSL *ssl, SSL_SESSION *session)
{
    struct client *c = SSL_get_app_data(ssl);
    SSL_SESSION_free(c->session);
    c->session = session;
    c->tickets++;
    return 1;
}

static void saw(int is_sent, int version, int type, const void *bytes, size_t len, SSL *ssl,
                void *arg)
{
    (void)version;
    (void)arg;
    struct client *c = SSL_get_app_data(ssl);
    const uint8_t *b = bytes;
    if (!c || is_sent)
        return;
    c->records += type == SSL3_RT_HEADER && len == 5;
    if (type == SSL3_RT_ALERT && len == 2)
        c->alert = b[1];
    if (type == SSL3_RT_HANDSHAKE && b[0] == SSL3_MT_KEY_UPDATE)
        c->key_updates++;
}

/* version: 12 or 13; identity: whose root is trusted. */
static void client_init(struct client *c, int version, const struct tls_identity *identity)
{
    memset(c, 0, sizeof *c);
    pthread_mutex_lock(&tls_openssl_lock);
    c->ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(c->ctx, version == 12 ? TLS1_2_VERSION : TLS1_3_VERSION);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(c->ctx), identity->root);
    SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(c->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(c->ctx, got_ticket);
    SSL_CTX_set_msg_callback(c->ctx, saw);
    pthread_mutex_unlock(&tls_openssl_lock);
}

/* The socket blocks, so the lock cannot be held: this client shares nothing with the server. */
static void dial(struct client *c)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)tls_server_port(server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(c->fd, (void *)&at, sizeof at), 0);
    c->ssl = SSL_new(c->ctx);
    SSL_set_app_data(c->ssl, c);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_tlsext_host_name(c->ssl, "a.test");
    SSL_set1_host(c->ssl, "a.test");
    SSL_set_alpn_protos(c->ssl, (const unsigned char *)"\x02h2\x08http/1.1", 12);
    if (c->session)
        SSL_set_session(c->ssl, c->session);
}

static void hang_up(struct client *c, bool with_notify)
{
    if (with_notify)
        (void)SSL_shutdown(c->ssl);
    SSL_free(c->ssl);
    close(c->fd);
    c->ssl = NULL;
}

static void client_fini(struct client *c)
{
    SSL_SESSION_free(c->session);
    SSL_CTX_free(c->ctx);
}

/* Reads to the end or until the response has all. Returns the bytes of the body, -1: it broke. */
static long get(struct client *c, const char *path, size_t wanted)
{
    char text[128];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: a.test\r\n\r\n", path);
    if (SSL_write(c->ssl, text, (int)strlen(text)) <= 0)
        return -1;
    char *all = calloc(1, wanted + 1024);
    size_t len = 0, head = 0;
    while (!head || len - head < wanted) {
        const int n = SSL_read(c->ssl, all + len, (int)(wanted + 1023 - len));
        if (n <= 0)
            break;
        len += (size_t)n;
        const char *end = strstr(all, "\r\n\r\n");
        head = end ? (size_t)(end - all) + 4 : 0;
    }
    long body = head ? (long)(len - head) : -1;
    for (size_t i = 0; body > 0 && !strstr(path, "chunked") && i < (size_t)body; i++)
        if ((uint8_t)all[head + i] != tls_body(i))
            body = -1;
    free(all);
    return body;
}

static void begin(const struct tls_script *s)
{
    server = tls_server_start(s);
}

static void wait_over(unsigned nth)
{
    for (int i = 0; i < 5000 && !tls_server_seen(server, nth).is_over; i++)
        peer_sleep_ms(2);
    assert_true(tls_server_seen(server, nth).is_over);
}

static void wait_alert(int alert)
{
    for (int i = 0; i < 5000 && tls_server_seen(server, 0).alert < 0; i++)
        peer_sleep_ms(2);
    assert_int_equal(tls_server_seen(server, 0).alert, alert);
}

static void test_every_version_and_key(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++)
        for (enum tls_key key = 0; key < TLS_KEYS; key++)
            for (int is_dribbled = 0; is_dribbled < 2; is_dribbled++) {
                const struct tls_identity *id = tls_identity(key, 0);
                begin(&(struct tls_script){.version_min = version,
                                           .version_max = version,
                                           .identity = id,
                                           .is_dribbled = is_dribbled,
                                           .handshake_max = is_dribbled ? 512 : 0,
                                           .alpn = "http/1.1"});
                struct client c;
                client_init(&c, 13, id);
                dial(&c);
                assert_int_equal(SSL_connect(c.ssl), 1);
                assert_int_equal(get(&c, "/bytes/20000", 20000), 20000);
                assert_true(get(&c, "/chunked/2500", 2526) >= 2526);
                hang_up(&c, true);
                wait_over(0);
                const struct tls_seen s = tls_server_seen(server, 0);
                assert_true(s.is_ready);
                assert_int_equal(s.version, version);
                assert_string_equal(s.sni, "a.test");
                assert_string_equal(s.alpn_offered, "h2,http/1.1");
                assert_int_equal(s.requests, 2);
                assert_int_equal(s.data_records, 2);
                assert_int_equal(s.close_notifies, 1);
                assert_int_equal(s.late_len, 0);
                assert_int_equal(s.alert, -1);
                assert_int_equal(tls_server_peak(server), 1);
                client_fini(&c);
                tls_server_stop(server);
            }
}

static void test_resumption(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        begin(&(struct tls_script){.tickets = 3, .ticket_lifetime_s = 77});
        struct client c;
        client_init(&c, version, tls_identity(TLS_P256, 0));
        for (unsigned i = 0; i < 2; i++) {
            dial(&c);
            assert_int_equal(SSL_connect(c.ssl), 1);
            assert_int_equal(get(&c, "/bytes/5", 5), 5);
            assert_int_equal(SSL_session_reused(c.ssl), i);
            assert_int_equal(SSL_SESSION_get_ticket_lifetime_hint(c.session), 77);
            hang_up(&c, true);
            wait_over(i);
            assert_int_equal(tls_server_seen(server, i).has_offered, i);
            assert_int_equal(tls_server_seen(server, i).is_resumed, i);
        }
        assert_int_equal(c.tickets, version == 12 ? 1 : 4 /* one more when resumed */);
        client_fini(&c);
        tls_server_stop(server);
    }
}

static void test_early_data(void **state)
{
    (void)state;
    for (int refuses = 0; refuses < 2; refuses++) {
        struct tls_script script = {.early_max = 4096};
        begin(&script);
        struct client c;
        client_init(&c, 13, tls_identity(TLS_P256, 0));
        dial(&c);
        assert_int_equal(SSL_connect(c.ssl), 1);
        assert_int_equal(get(&c, "/bytes/5", 5), 5);
        hang_up(&c, true);
        script.refuses_early = refuses;
        tls_server_set(server, &script);
        dial(&c);
        size_t n;
        static const char ask[] = "GET /bytes/70 HTTP/1.1\r\n";
        assert_int_equal(SSL_write_early_data(c.ssl, ask, sizeof ask - 1, &n), 1);
        assert_int_equal(SSL_connect(c.ssl), 1);
        if (!refuses)
            assert_int_equal(SSL_write(c.ssl, "\r\n", 2), 2);
        char reply[512];
        assert_true(refuses ? get(&c, "/bytes/5", 5) == 5
                            : SSL_read(c.ssl, reply, sizeof reply) > 0);
        hang_up(&c, true);
        wait_over(1);
        const struct tls_seen s = tls_server_seen(server, 1);
        assert_true(s.is_resumed && s.offers_early);
        assert_int_equal(s.is_early_accepted, !refuses);
        assert_int_equal(s.early_len, refuses ? 0 : sizeof ask - 1);
        assert_int_equal(s.requests, 1);
        client_fini(&c);
        tls_server_stop(server);
    }
}

static void test_client_certificates(void **state)
{
    (void)state;
    const struct tls_identity *mine = tls_identity(TLS_P256, 1);
    for (int version = 12; version <= 13; version++)
        for (int has = 0; has < 2; has++) {
            begin(&(struct tls_script){.client_issuer = mine});
            struct client c;
            client_init(&c, version, tls_identity(TLS_P256, 0));
            if (has) {
                SSL_CTX_use_certificate(c.ctx, mine->leaf);
                SSL_CTX_use_PrivateKey(c.ctx, mine->key);
            }
            dial(&c);
            const bool is_up = SSL_connect(c.ssl) == 1;
            const long n = is_up ? get(&c, "/bytes/5", 5) : -1;
            assert_int_equal(n, has ? 5 : -1);
            if (has)
                assert_string_equal(tls_server_seen(server, 0).client_name, "leaf P-256 1");
            else
                assert_int_equal(c.alert, version == 12 ? 40 : 116);
            hang_up(&c, false);
            client_fini(&c);
            tls_server_stop(server);
        }
}

/* One conn, one request; what is left of it. */
static long run(const struct tls_script *script, struct client *c, int version, const char *path,
                size_t n)
{
    begin(script);
    client_init(c, version, tls_identity(TLS_P256, 0));
    dial(c);
    const long got = SSL_connect(c->ssl) == 1 ? get(c, path, n) : -2;
    return got;
}

static void finish(struct client *c)
{
    hang_up(c, false);
    client_fini(c);
    tls_server_stop(server);
}

static void test_alerts_everywhere(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++)
        for (enum tls_stage at = TLS_AT_ACCEPT; at <= TLS_AT_BODY; at++) {
            struct client c;
            struct tls_script s = {0};
            if (version == 12 && at == TLS_AT_FINISHED)
                continue; /* OpenSSL's client looks at nothing but a Finished there */
            s.at[at] = (struct tls_deed){TLS_ALERT, .value = 80};
            const long n = run(&s, &c, version, "/bytes/1000", 1000);
            assert_true(n == (at < TLS_AT_READY  ? -2
                              : at < TLS_AT_BODY ? -1
                                                 : 500) ||
                        (version == 13 && n == -1));
            if (c.alert != 80)
                fail_msg("TLS 1.%d, stage %d: alert %u", version - 10, (int)at, c.alert);
            finish(&c);
        }
}

static void test_data_before_finished(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        struct client c;
        struct tls_script s = {.at[TLS_AT_FINISHED] = {TLS_RECORD, 23, "early", 5}};
        assert_int_equal(run(&s, &c, version, "/bytes/1", 1), -2);
        wait_alert(10);
        finish(&c);
    }
}

static void test_spoilt_records(void **state)
{
    (void)state;
    static const enum tls_mischief ways[] = {TLS_FLIPPED, TLS_TWICE};
    for (int version = 12; version <= 13; version++)
        for (int i = 0; i < 2; i++) {
            struct client c;
            struct tls_script s = {.record_max = 100, .wire = {.how = ways[i], .nth = 3}};
            run(&s, &c, version, "/bytes/1000", 1000);
            wait_alert(20); /* bad_record_mac */
            finish(&c);
        }
    struct client c;
    struct tls_script s = {.record_max = 100, .wire = {.how = TLS_CUT, .nth = 3, .at = 50}};
    assert_int_equal(run(&s, &c, 13, "/bytes/1000", 1000), 200);
    finish(&c);
}

static void test_deeds_in_mid_body(void **state)
{
    (void)state;
    static const struct {
        int version;
        struct tls_deed deed;
    } cases[] = {
        {13, {TLS_KEY_UPDATE, .value = 0}}, {13, {TLS_KEY_UPDATE, .value = 1}},
        {13, {TLS_TICKETS, .value = 10}},   {13, {TLS_EMPTIES, .value = 5}},
        {12, {TLS_EMPTIES, .value = 5}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client c;
        struct tls_script s = {.record_max = 1000, .at[TLS_AT_BODY] = cases[i].deed};
        assert_int_equal(run(&s, &c, cases[i].version, "/bytes/10000", 10000), 10000);
        assert_int_equal(c.key_updates, cases[i].deed.act == TLS_KEY_UPDATE);
        assert_int_equal(c.tickets, cases[i].deed.act == TLS_TICKETS ? 12
                                    : cases[i].version == 13         ? 2
                                                                     : 1);
        finish(&c);
    }
}

static void test_a_hello_request(void **state)
{
    (void)state;
    struct client c;
    struct tls_script s = {.at[TLS_AT_REQUEST] = {TLS_HELLO_REQUEST, .value = 1}};
    begin(&s);
    client_init(&c, 12, tls_identity(TLS_P256, 0));
    SSL_CTX_set_options(c.ctx, SSL_OP_NO_RENEGOTIATION);
    dial(&c);
    assert_int_equal(SSL_connect(c.ssl), 1);
    assert_int_equal(get(&c, "/bytes/10", 10), 10);
    wait_alert(100); /* no_renegotiation */
    finish(&c);
}

static void test_ends(void **state)
{
    (void)state;
    for (int version = 12; version <= 13; version++) {
        static const struct tls_deed ends[] = {
            {.act = TLS_NOTHING}, {.act = TLS_FIN}, {TLS_CLOSE, .value = 9}};
        for (int i = 0; i < 3; i++) {
            struct client c;
            struct tls_script s = {.at[TLS_AT_END] = ends[i]};
            assert_int_equal(run(&s, &c, version, "/eof/500", 600), 500);
            assert_int_equal(SSL_get_shutdown(c.ssl) & SSL_RECEIVED_SHUTDOWN,
                             i == 1 ? 0 : SSL_RECEIVED_SHUTDOWN);
            finish(&c);
        }
    }
}

static void test_what_is_no_tls(void **state)
{
    (void)state;
    static const char http[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    struct client c;
    struct tls_script s = {.at[TLS_AT_HELLO] = {TLS_BYTES, 0, http, sizeof http - 1}};
    assert_int_equal(run(&s, &c, 13, "/", 1), -2);
    finish(&c);
    s = (struct tls_script){.at[TLS_AT_FLIGHT] = {.act = TLS_RST}};
    assert_int_equal(run(&s, &c, 13, "/", 1), -2);
    finish(&c);
    s = (struct tls_script){.groups = "P-384", .version_min = 13};
    assert_int_equal(run(&s, &c, 13, "/bytes/10", 10), 10);
    finish(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_version_and_key),
        cmocka_unit_test(test_resumption),
        cmocka_unit_test(test_early_data),
        cmocka_unit_test(test_client_certificates),
        cmocka_unit_test(test_alerts_everywhere),
        cmocka_unit_test(test_data_before_finished),
        cmocka_unit_test(test_spoilt_records),
        cmocka_unit_test(test_deeds_in_mid_body),
        cmocka_unit_test(test_a_hello_request),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_what_is_no_tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
