/*
 * Certificates made in memory: a root of its own for each identity, and a leaf for localhost,
 * a.test, b.test and 127.0.0.1 that serves servers and clients alike.
 */
#ifndef TESTS_SUPPORT_TLS_CERTS_H
#define TESTS_SUPPORT_TLS_CERTS_H

#include <pthread.h>

/* Held around every use of OpenSSL: its own locking is invisible to ThreadSanitizer. */
extern pthread_mutex_t tls_openssl_lock;

struct evp_pkey_st;
struct x509_st;

enum tls_key { TLS_P256, TLS_RSA2048, TLS_P384, TLS_ED25519, TLS_KEYS };

enum { TLS_IDENTITIES_MAX = 4 };

struct tls_identity {
    struct x509_st *root, *leaf;
    struct evp_pkey_st *key; /* the leaf's */
    char root_pem[2048], cert_pem[2048], key_pem[2048];
    char pin[64]; /* of the leaf's key, as tls_pins wants it */
    char root_pin[64];
};

/* The nth of its kind, made at first use and kept until the process ends. One thread. */
const struct tls_identity *tls_identity(enum tls_key kind, unsigned nth);
/* One whose leaf (P-256) demands a stapled OCSP response (RFC 7633). As above. */
const struct tls_identity *tls_identity_must_staple(void);
const char *tls_key_name(enum tls_key kind);

#endif
