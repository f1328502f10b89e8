/*
 * The TLS context: versions, tickets, groups, certificates, ALPN. Made before any thread runs and
 * then only read: OpenSSL itself guards the ticket keys and the session cache the loops share.
 * Must never see a conn.
 */
#include "tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>

#include "text.h"
#include "tls_cert.h"
#include "tls_conn.h"

static bool use_certificate(SSL_CTX *ctx, const struct tls_options *o, const char *bind_to);
static bool set_up(SSL_CTX *ctx, const struct tls_options *o);
static bool demand_client_certificate(SSL_CTX *ctx, const char *ca_file);
static void offer_alpn(SSL_CTX *ctx, bool offers_h2);

static bool complain(const char *what, const char *detail)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    fprintf(stderr, "mooring-origin: %s%s%s: %s\n", what, detail ? " " : "", detail ? detail : "",
            reason ? reason : "failed");
    ERR_clear_error();
    return false;
}

struct ssl_ctx_st *tls_open(const struct tls_options *o, const char *bind_to, bool offers_h2)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx || !tls_conn_init()) {
        complain("TLS cannot be set up", NULL);
    } else if (set_up(ctx, o) && use_certificate(ctx, o, bind_to)) {
        offer_alpn(ctx, offers_h2);
        return ctx;
    }
    tls_close(ctx);
    return NULL;
}

void tls_close(struct ssl_ctx_st *ctx)
{
    SSL_CTX_free(ctx);
    tls_conn_exit();
}

static bool use_throw_away(SSL_CTX *ctx, const struct tls_options *o, const char *bind_to)
{
    struct tls_identity id;
    if (!tls_identity_make(&id, o, bind_to))
        return complain("cannot make a certificate", NULL);
    bool is_done =
        SSL_CTX_use_certificate(ctx, id.cert) == 1 && SSL_CTX_use_PrivateKey(ctx, id.key) == 1;
    if (!is_done)
        complain("cannot use the throw-away certificate", NULL);
    else if (o->ca_out && !tls_write_certificate(o->ca_out, id.ca))
        is_done = complain("cannot write", o->ca_out);
    tls_identity_fini(&id);
    return is_done;
}

static bool use_certificate(SSL_CTX *ctx, const struct tls_options *o, const char *bind_to)
{
    if (!o->cert)
        return use_throw_away(ctx, o, bind_to);
    if (SSL_CTX_use_certificate_chain_file(ctx, o->cert) != 1)
        return complain("cannot use the certificate", o->cert);
    if (SSL_CTX_use_PrivateKey_file(ctx, o->key, SSL_FILETYPE_PEM) != 1)
        return complain("cannot use the key", o->key);
    return true;
}

/* A callback must say yes, or OpenSSL forgets the name that the client asked for. */
/* NOLINTNEXTLINE(readability-non-const-parameter): the signature is OpenSSL's. */
static int take_any_name(SSL *ssl, int *alert, void *user)
{
    (void)ssl, (void)alert, (void)user;
    return SSL_TLSEXT_ERR_OK;
}

/* RFC 7301 3.2: a client that offers only what is not spoken here is refused. */
static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                       const unsigned char *offered, unsigned offered_len, void *user)
{
    const struct span *spoken = user;
    unsigned char *chosen;
    (void)ssl;
    if (SSL_select_next_proto(&chosen, out_len, (const unsigned char *)spoken->ptr,
                              (unsigned)spoken->len, offered,
                              offered_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* The order is the server's preference. */
static void offer_alpn(SSL_CTX *ctx, bool offers_h2)
{
    static struct span both = SPAN("\x02h2\x08http/1.1"), h1_only = SPAN("\x08http/1.1");
    SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, offers_h2 ? &both : &h1_only);
}

static bool set_up(SSL_CTX *ctx, const struct tls_options *o)
{
    uint64_t options = SSL_OP_NO_RENEGOTIATION;
    if (o->tickets == 0)
        options |= SSL_OP_NO_TICKET;
    if (o->allows_replay)
        options |= SSL_OP_NO_ANTI_REPLAY;
    SSL_CTX_set_options(ctx, options);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_tlsext_servername_callback(ctx, take_any_name);
    SSL_CTX_set_client_hello_cb(ctx, tls_conn_count_hello, NULL);
    /* Tickets hold the whole session, with one exception: OpenSSL proves by its cache that a ticket
     * for early data is used once. */
    const bool needs_cache = o->takes_early_data && !o->allows_replay && o->tickets;
    SSL_CTX_set_session_cache_mode(ctx, needs_cache ? SSL_SESS_CACHE_SERVER : SSL_SESS_CACHE_OFF);
    static const unsigned char context_id[] = "mooring-origin";
    const uint32_t early_max = o->takes_early_data ? TLS_EARLY_BYTES_MAX : 0;
    if (SSL_CTX_set_session_id_context(ctx, context_id, sizeof context_id - 1) != 1 ||
        SSL_CTX_set_min_proto_version(ctx, o->version_min) != 1 ||
        SSL_CTX_set_max_proto_version(ctx, o->version_max) != 1 ||
        SSL_CTX_set_num_tickets(ctx, o->tickets) != 1 ||
        SSL_CTX_set_max_early_data(ctx, early_max) != 1)
        return complain("TLS cannot be set up", NULL);
    if (o->groups && SSL_CTX_set1_groups_list(ctx, o->groups) != 1)
        return complain("no such groups:", o->groups);
    return !o->client_ca || demand_client_certificate(ctx, o->client_ca);
}

static bool demand_client_certificate(SSL_CTX *ctx, const char *ca_file)
{
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(ca_file);
    if (!names || SSL_CTX_load_verify_locations(ctx, ca_file, NULL) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return complain("cannot use the client CA", ca_file);
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return true;
}
