/* A certificate for this run only, signed by a CA for this run only. */
#ifndef ORIGIN_TLS_CERT_H
#define ORIGIN_TLS_CERT_H

#include <openssl/x509.h>

#include "tls.h"

struct tls_identity {
    EVP_PKEY *key;
    X509 *cert;
    X509 *ca; /* its key is gone: nothing else can be signed */
};

/* False with the reason in OpenSSL's error queue. */
bool tls_identity_make(struct tls_identity *out_id, const struct tls_options *o,
                       const char *bind_to);
void tls_identity_fini(struct tls_identity *id);

/* PEM; the file is whole as soon as it has its name. */
bool tls_write_certificate(const char *path, X509 *cert);

#endif
