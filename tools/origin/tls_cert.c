/*
 * Makes the throw-away CA and the server certificate it signs. Runs once, before any thread.
 * The CA's key is never written and is freed here.
 */
#include "tls_cert.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { HOUR_S = 3600, RSA_BITS = 2048, PATH_SIZE = 4096 };
static const long valid_s = 30L * 24 * HOUR_S; /* longer than any test runs */

static X509 *make_certificate(const char *name, EVP_PKEY *key, X509 *issuer);
static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value);
static bool add_names(X509 *cert, const struct tls_options *o, const char *bind_to);
static bool sign(X509 *cert, EVP_PKEY *key);

static EVP_PKEY *make_key(enum tls_key_type type)
{
    switch (type) {
    case TLS_KEY_RSA:
        return EVP_RSA_gen(RSA_BITS);
    case TLS_KEY_ED25519:
        return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    default:
        return EVP_EC_gen("P-256");
    }
}

static bool fill_ca(X509 *ca)
{
    return add_extension(ca, ca, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
           add_extension(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign") &&
           add_extension(ca, ca, NID_subject_key_identifier, "hash");
}

static bool fill_server(X509 *cert, X509 *ca, const struct tls_options *o, const char *bind_to)
{
    return add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(cert, ca, NID_key_usage,
                         o->key_type == TLS_KEY_RSA ? "critical,digitalSignature,keyEncipherment"
                                                    : "critical,digitalSignature") &&
           add_extension(cert, ca, NID_ext_key_usage, "serverAuth") &&
           add_extension(cert, ca, NID_subject_key_identifier, "hash") &&
           add_extension(cert, ca, NID_authority_key_identifier, "keyid:always") &&
           add_names(cert, o, bind_to);
}

bool tls_identity_make(struct tls_identity *out_id, const struct tls_options *o,
                       const char *bind_to)
{
    struct tls_identity id = {0};
    EVP_PKEY *ca_key = make_key(o->key_type);
    id.key = make_key(o->key_type);
    bool is_made = ca_key && id.key;
    if (is_made) {
        id.ca = make_certificate("mooring-origin throw-away CA", ca_key, NULL);
        is_made = id.ca && fill_ca(id.ca) && sign(id.ca, ca_key);
    }
    if (is_made) {
        id.cert = make_certificate("mooring-origin", id.key, id.ca);
        is_made = id.cert && fill_server(id.cert, id.ca, o, bind_to) && sign(id.cert, ca_key);
    }
    EVP_PKEY_free(ca_key);
    if (is_made)
        *out_id = id;
    else
        tls_identity_fini(&id);
    return is_made;
}

void tls_identity_fini(struct tls_identity *id)
{
    EVP_PKEY_free(id->key);
    X509_free(id->cert);
    X509_free(id->ca);
    *id = (struct tls_identity){0};
}

/* Everything but the extensions; its own issuer if there is none. */
static X509 *make_certificate(const char *name, EVP_PKEY *key, X509 *issuer)
{
    uint64_t serial;
    X509 *cert = X509_new();
    if (!cert || RAND_bytes((unsigned char *)&serial, sizeof serial) != 1)
        goto fail;
    X509_NAME *subject = X509_get_subject_name(cert);
    /* RFC 5280 4.1.2.2: positive. An hour back, for clocks that differ. */
    if (X509_set_version(cert, X509_VERSION_3) != 1 ||
        ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1 | 1) != 1 ||
        !X509_gmtime_adj(X509_getm_notBefore(cert), -HOUR_S) ||
        !X509_gmtime_adj(X509_getm_notAfter(cert), valid_s) || X509_set_pubkey(cert, key) != 1 ||
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1,
                                   0) != 1 ||
        X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer) : subject) != 1)
        goto fail;
    return cert;
fail:
    X509_free(cert);
    return NULL;
}

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    const bool is_added = e && X509_add_ext(cert, e, -1) == 1;
    X509_EXTENSION_free(e);
    return is_added;
}

static bool add_name(GENERAL_NAMES *names, const char *name)
{
    GENERAL_NAME *g = GENERAL_NAME_new();
    ASN1_OCTET_STRING *address = a2i_IPADDRESS(name);
    ASN1_IA5STRING *text = address ? NULL : ASN1_IA5STRING_new();
    ERR_clear_error(); /* a name that is no address is no failure */
    if (!g || (text && ASN1_STRING_set(text, name, -1) != 1) || (!address && !text) ||
        sk_GENERAL_NAME_push(names, g) <= 0) {
        GENERAL_NAME_free(g);
        ASN1_OCTET_STRING_free(address);
        ASN1_IA5STRING_free(text);
        return false;
    }
    if (address)
        GENERAL_NAME_set0_value(g, GEN_IPADD, address);
    else
        GENERAL_NAME_set0_value(g, GEN_DNS, text);
    return true;
}

/* Below localhost, so that a resolver that knows RFC 6761 finds names for the wildcard, too. */
static bool add_names(X509 *cert, const struct tls_options *o, const char *bind_to)
{
    static const char *const usual[] = {"localhost", "*.origin.localhost", "127.0.0.1", "::1"};
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    bool is_added = names != NULL;
    bool is_usual = strncmp(bind_to, "unix:", 5) == 0;
    for (size_t i = 0; is_added && i < sizeof usual / sizeof *usual; i++) {
        is_usual = is_usual || strcmp(bind_to, usual[i]) == 0;
        is_added = add_name(names, usual[i]);
    }
    if (is_added && !is_usual)
        is_added = add_name(names, bind_to);
    for (unsigned i = 0; is_added && i < o->name_count; i++)
        is_added = add_name(names, o->names[i]);
    is_added = is_added && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, 0) == 1;
    GENERAL_NAMES_free(names);
    return is_added;
}

static bool sign(X509 *cert, EVP_PKEY *key)
{
    /* Ed25519 hashes by itself. */
    const EVP_MD *digest = EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256();
    return X509_sign(cert, key, digest) > 0;
}

bool tls_write_certificate(const char *path, X509 *cert)
{
    char beside[PATH_SIZE];
    const int len = snprintf(beside, sizeof beside, "%s.%ld.tmp", path, (long)getpid());
    if (len < 0 || len >= PATH_SIZE)
        return false;
    BIO *file = BIO_new_file(beside, "w");
    if (!file)
        return false;
    const bool is_written = PEM_write_bio_X509(file, cert) == 1 && BIO_flush(file) == 1;
    BIO_free(file);
    if (is_written && rename(beside, path) == 0)
        return true;
    unlink(beside);
    return false;
}
