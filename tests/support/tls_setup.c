/*
 * How the scripted TLS server sets up OpenSSL: one context, so that tickets stay good from conn to conn,
 * and everything a script says on the connection. Called under tls_openssl_lock.
 */
#include "tests/support/tls_wire.h"

#include <ctype.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXTENSION_TICKET = 35, EXTENSION_PSK = 41, EXTENSION_EARLY = 42 };

static uint64_t hash_of(const unsigned char *bytes, size_t len)
{
    uint64_t h = 0xcbf29ce484222325;
    for (size_t i = 0; i < len; i++)
        h = (h ^ bytes[i]) * 0x100000001b3;
    return h;
}

static void keep_server_name(struct tls_seen *s, SSL *ssl)
{
    const unsigned char *e;
    size_t len;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &e, &len) || len < 5)
        return;
    len -= 5; /* lengths of list and name, and the name's type */
    if (len >= sizeof s->sni)
        len = sizeof s->sni - 1;
    memcpy(s->sni, e + 5, len);
}

static void keep_alpn(struct tls_seen *s, SSL *ssl)
{
    const unsigned char *e;
    size_t len;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &e,
                                   &len) ||
        len < 3)
        return;
    size_t n = 0;
    for (size_t at = 2; at < len; at += 1u + e[at]) {
        if (at + 1 + e[at] > len || n + 2 + e[at] > sizeof s->alpn_offered)
            return;
        n += (size_t)snprintf(s->alpn_offered + n, sizeof s->alpn_offered - n, "%s%.*s",
                              n ? "," : "", (int)e[at], (const char *)e + at + 1);
    }
}

static void keep_ticket(struct tls_seen *s, SSL *ssl)
{
    const unsigned char *e;
    size_t len;
    if (SSL_client_hello_get0_ext(ssl, EXTENSION_PSK, &e, &len) && len > 4) {
        const size_t id_len = (size_t)e[2] << 8 | e[3];
        s->has_offered = true;
        s->ticket = hash_of(e + 4, id_len < len - 4 ? id_len : len - 4);
    } else if (SSL_client_hello_get0_ext(ssl, EXTENSION_TICKET, &e, &len) && len > 0) {
        s->has_offered = true;
        s->ticket = hash_of(e, len);
    }
    s->offers_early |= SSL_client_hello_get0_ext(ssl, EXTENSION_EARLY, &e, &len);
}

static int saw_hello(SSL *ssl, int *alert, void *arg)
{
    (void)arg;
    struct tls_conn *c = SSL_get_app_data(ssl);
    *alert = SSL_AD_INTERNAL_ERROR; /* never sent: this always succeeds */
    c->seen.has_hello = true;
    keep_server_name(&c->seen, ssl);
    keep_alpn(&c->seen, ssl);
    keep_ticket(&c->seen, ssl);
    return SSL_CLIENT_HELLO_SUCCESS;
}

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                       const unsigned char *in, unsigned in_len, void *arg)
{
    (void)arg;
    struct tls_conn *c = SSL_get_app_data(ssl);
    const char *wanted = c->script.alpn;
    if (wanted)
        for (unsigned at = 0; at < in_len; at += 1u + in[at])
            if (in[at] == strlen(wanted) && !memcmp(in + at + 1, wanted, in[at])) {
                *out = in + at + 1;
                *out_len = in[at];
                return SSL_TLSEXT_ERR_OK;
            }
    return SSL_TLSEXT_ERR_NOACK;
}

/* A line "LABEL client_random secret", both in hexadecimal digits. */
static void keep_secret(const SSL *ssl, const char *line)
{
    struct tls_conn *c = SSL_get_app_data(ssl);
    uint8_t *to = NULL;
    if (!strncmp(line, "SERVER_HANDSHAKE_TRAFFIC_SECRET ", 32))
        to = c->handshake_secret;
    else if (!strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24))
        to = c->traffic_secret;
    const char *digits = strrchr(line, ' ');
    if (!to || !digits || strlen(digits + 1) != 2 * (size_t)TLS_SECRET_LEN)
        return;
    for (size_t i = 0; i < TLS_SECRET_LEN; i++) {
        const char byte[3] = {digits[1 + 2 * i], digits[2 + 2 * i], '\0'};
        to[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
}

static void saw_message(int is_sent, int version, int type, const void *bytes, size_t len, SSL *ssl,
                        void *arg)
{
    (void)version;
    (void)arg;
    struct tls_conn *c = SSL_get_app_data(ssl);
    const uint8_t *b = bytes;
    if (is_sent || !c)
        return;
    if (type == SSL3_RT_ALERT && len == 2) {
        if (b[1] == SSL_AD_CLOSE_NOTIFY)
            c->seen.close_notifies++;
        else
            c->seen.alert = b[1];
    }
    if (type == SSL3_RT_HANDSHAKE && len && b[0] == SSL3_MT_KEY_UPDATE)
        c->seen.key_updates++;
}

SSL_CTX *tls_setup_ctx(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx)
        abort();
    /* Tickets hold the whole session: none is kept here, and none is refused as a replay. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_ANTI_REPLAY | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                 SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"tests", 5);
    SSL_CTX_set_client_hello_cb(ctx, saw_hello, NULL);
    SSL_CTX_set_alpn_select_cb(ctx, select_alpn, NULL);
    SSL_CTX_set_keylog_callback(ctx, keep_secret);
    SSL_CTX_set_msg_callback(ctx, saw_message);
    return ctx;
}

static int wire_version(int version, int otherwise)
{
    static const int versions[] = {TLS1_VERSION, TLS1_1_VERSION, TLS1_2_VERSION, TLS1_3_VERSION};
    return versions[(version ? version : otherwise) - 10];
}

static void demand_certificate(SSL *ssl, const struct tls_script *s)
{
    X509_STORE *store = X509_STORE_new();
    STACK_OF(X509_NAME) *names = sk_X509_NAME_new_null();
    X509_STORE_add_cert(store, s->client_issuer->root);
    if (s->client_issuer2)
        X509_STORE_add_cert(store, s->client_issuer2->root);
    SSL_set0_verify_cert_store(ssl, store);
    sk_X509_NAME_push(names, X509_NAME_dup(X509_get_subject_name(s->client_issuer->root)));
    SSL_set0_CA_list(ssl, names);
    SSL_set_verify(
        ssl, SSL_VERIFY_PEER | (s->client_optional ? 0 : SSL_VERIFY_FAIL_IF_NO_PEER_CERT), NULL);
}

static void limit_versions(SSL *ssl, const struct tls_script *s)
{
    SSL_set_min_proto_version(ssl, wire_version(s->version_min, 12));
    SSL_set_max_proto_version(ssl, wire_version(s->version_max, 13));
    const bool is_old = s->version_max && s->version_max < 12;
    const char *ciphers = s->ciphers ? s->ciphers : "ECDHE+AES128+AESGCM";
    SSL_set_cipher_list(ssl, is_old ? "DEFAULT:@SECLEVEL=0" : ciphers);
    SSL_set_ciphersuites(ssl, s->suites ? s->suites : "TLS_AES_128_GCM_SHA256");
    if (s->groups)
        SSL_set1_groups_list(ssl, s->groups);
}

void tls_setup_conn(struct tls_conn *c)
{
    const struct tls_script *s = &c->script;
    const struct tls_identity *id = s->identity;
    c->ssl = SSL_new(c->server->ctx);
    c->in = BIO_new(BIO_s_mem());
    c->out = BIO_new(BIO_s_mem());
    if (!c->ssl || !c->in || !c->out)
        abort();
    BIO_set_mem_eof_return(c->in, -1);
    SSL_set_app_data(c->ssl, c);
    SSL_set_bio(c->ssl, c->in, c->out);
    SSL_set_accept_state(c->ssl);
    SSL_use_certificate(c->ssl, id->leaf);
    SSL_use_PrivateKey(c->ssl, id->key);
    limit_versions(c->ssl, s);
    const int tickets = s->has_no_tickets || s->tickets < 0 ? 0 : s->tickets ? s->tickets : 2;
    SSL_set_num_tickets(c->ssl, (size_t)tickets);
    if (s->has_no_tickets)
        SSL_set_options(c->ssl, SSL_OP_NO_TICKET);
    if (s->client_issuer)
        demand_certificate(c->ssl, s);
    if (s->handshake_max)
        SSL_set_max_send_fragment(c->ssl, (long)s->handshake_max);
    SSL_set_max_early_data(c->ssl, s->early_max);
    SSL_set_recv_max_early_data(c->ssl, TLS_RECORD_MAX);
}
