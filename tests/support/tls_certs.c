/*
 * Roots and leaves of the tests' TLS servers and clients, made with OpenSSL. Owns them for the life of
 * the process; the test's thread makes them.
 */
#include "tests/support/tls_certs.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(x)                                                                                    \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "tls_certs: %s\n", #x);                                                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

pthread_mutex_t tls_openssl_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tls_identity *made[TLS_KEYS][TLS_IDENTITIES_MAX], *made_must_staple;

const char *tls_key_name(enum tls_key kind)
{
    static const char *const names[TLS_KEYS] = {"P-256", "RSA-2048", "P-384", "Ed25519"};
    return names[kind];
}

static EVP_PKEY *make_key(enum tls_key kind)
{
    switch (kind) {
    case TLS_RSA2048:
        return EVP_RSA_gen(2048);
    case TLS_P384:
        return EVP_EC_gen("P-384");
    case TLS_ED25519:
        return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    default:
        return EVP_EC_gen("P-256");
    }
}

static void extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    MUST(e && X509_add_ext(cert, e, -1));
    X509_EXTENSION_free(e);
}

static void set_name(X509_NAME *name, const char *common_name)
{
    MUST(X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC, (const unsigned char *)"Tests", -1, -1,
                                    0));
    MUST(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common_name,
                                    -1, -1, 0));
}

/* issuer NULL: signs itself. */
static X509 *make_cert(EVP_PKEY *key, const char *common_name, X509 *issuer, EVP_PKEY *signer,
                       bool must_staple)
{
    static long serial = 1000;
    X509 *c = X509_new();
    MUST(c && X509_set_version(c, X509_VERSION_3) && X509_set_pubkey(c, key));
    MUST(ASN1_INTEGER_set(X509_get_serialNumber(c), serial++));
    MUST(X509_gmtime_adj(X509_getm_notBefore(c), -86400L));
    MUST(X509_gmtime_adj(X509_getm_notAfter(c), 30 * 86400L));
    set_name(X509_get_subject_name(c), common_name);
    MUST(X509_set_issuer_name(c, X509_get_subject_name(issuer ? issuer : c)));
    if (!issuer) {
        extend(c, c, NID_basic_constraints, "critical,CA:TRUE");
        extend(c, c, NID_key_usage, "critical,keyCertSign,cRLSign");
        extend(c, c, NID_subject_key_identifier, "hash");
    } else {
        extend(c, issuer, NID_basic_constraints, "critical,CA:FALSE");
        extend(c, issuer, NID_key_usage, "critical,digitalSignature");
        extend(c, issuer, NID_ext_key_usage, "serverAuth,clientAuth");
        extend(c, issuer, NID_authority_key_identifier, "keyid");
        extend(c, issuer, NID_subject_alt_name, "DNS:localhost,DNS:a.test,DNS:b.test,IP:127.0.0.1");
    }
    if (must_staple)
        extend(c, issuer, NID_tlsfeature, "status_request");
    MUST(X509_sign(c, signer, EVP_sha256()));
    return c;
}

static void keep_text(BIO *from, char *to, size_t cap)
{
    const int n = BIO_read(from, to, (int)cap - 1);
    MUST(n > 0 && BIO_pending(from) == 0);
    to[n] = '\0';
    BIO_free(from);
}

static void write_cert(X509 *cert, char *to, size_t cap)
{
    BIO *b = BIO_new(BIO_s_mem());
    MUST(PEM_write_bio_X509(b, cert));
    keep_text(b, to, cap);
}

static void write_pin(EVP_PKEY *key, char *to, size_t cap)
{
    unsigned char *der = NULL;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned char text[64];
    const int len = i2d_PUBKEY(key, &der);
    MUST(len > 0 && EVP_Digest(der, (size_t)len, digest, NULL, EVP_sha256(), NULL));
    EVP_EncodeBlock(text, digest, 32);
    snprintf(to, cap, "sha256/%.44s", (const char *)text);
    OPENSSL_free(der);
}

static struct tls_identity *make_identity(enum tls_key kind, unsigned nth, bool must_staple)
{
    struct tls_identity *id = calloc(1, sizeof *id);
    char name[64];
    EVP_PKEY *root_key = EVP_EC_gen("P-256");
    MUST(id && root_key);
    snprintf(name, sizeof name, "root %s %u", tls_key_name(kind), nth);
    id->root = make_cert(root_key, name, NULL, root_key, false);
    id->key = make_key(kind);
    MUST(id->key);
    snprintf(name, sizeof name, "leaf %s %u", tls_key_name(kind), nth);
    id->leaf = make_cert(id->key, name, id->root, root_key, must_staple);
    write_cert(id->root, id->root_pem, sizeof id->root_pem);
    write_cert(id->leaf, id->cert_pem, sizeof id->cert_pem);
    BIO *b = BIO_new(BIO_s_mem());
    MUST(PEM_write_bio_PKCS8PrivateKey(b, id->key, NULL, NULL, 0, NULL, NULL));
    keep_text(b, id->key_pem, sizeof id->key_pem);
    write_pin(id->key, id->pin, sizeof id->pin);
    write_pin(root_key, id->root_pin, sizeof id->root_pin);
    EVP_PKEY_free(root_key);
    return id;
}

const struct tls_identity *tls_identity(enum tls_key kind, unsigned nth)
{
    MUST(kind < TLS_KEYS && nth < TLS_IDENTITIES_MAX);
    pthread_mutex_lock(&tls_openssl_lock);
    if (!made[kind][nth])
        made[kind][nth] = make_identity(kind, nth, false);
    pthread_mutex_unlock(&tls_openssl_lock);
    return made[kind][nth];
}

const struct tls_identity *tls_identity_must_staple(void)
{
    pthread_mutex_lock(&tls_openssl_lock);
    if (!made_must_staple)
        made_must_staple = make_identity(TLS_P256, TLS_IDENTITIES_MAX, true);
    pthread_mutex_unlock(&tls_openssl_lock);
    return made_must_staple;
}
