/*
 * Walks from a leaf to its authorities, signature by signature, until one has a pinned key.
 * On a shard, inside a handshake of a pool with pins of authorities; costs a verification a step.
 */
#include "tls/chain.h"

#include "base/span.h"
#include "tls/cert.h"
#include "tls/wolf.h"

#include <string.h>

/* With `issuer` as the only authority there is. */
static bool is_signed_by(const struct mr_cert *c, const struct mr_cert *issuer)
{
    if (!issuer->is_ca || !mr_span_is_equal(c->issuer, issuer->subject))
        return false;
    WOLFSSL_CERT_MANAGER *cm = wolfSSL_CertManagerNew();
    if (!cm)
        return false;
    const bool is_good =
        wolfSSL_CertManagerLoadCABuffer(cm, issuer->der.base, (long)issuer->der.len,
                                        WOLFSSL_FILETYPE_ASN1) == WOLFSSL_SUCCESS &&
        wolfSSL_CertManagerVerifyBuffer(cm, c->der.base, (long)c->der.len, WOLFSSL_FILETYPE_ASN1) ==
            WOLFSSL_SUCCESS;
    wolfSSL_CertManagerFree(cm);
    return is_good;
}

/* One of the trusted roots, of those only the pinned ones. */
static bool is_under_pinned_root(const struct mr_tls_context *x, const struct mr_cert *c)
{
    const char *at = x->roots_pem.base;
    uint8_t der[MR_TLS_ROOT_DER_MAX];
    struct mr_cert root;
    while (mr_tls_pem_next(&at, der, &root))
        if (mr_span_is_equal(c->issuer, root.subject) && mr_tls_context_has_pin(x, root.spki) &&
            is_signed_by(c, &root))
            return true;
    return false;
}

bool mr_tls_chain_has_pin(const struct mr_tls_context *x, const moor_span *chain, size_t count)
{
    struct mr_cert sent[MR_TLS_CHAIN_MAX];
    if (count > MR_TLS_CHAIN_MAX)
        return false;
    for (size_t i = 0; i < count; i++)
        if (mr_cert_parse(chain[i], &sent[i], NULL))
            return false;
    size_t at = 0;
    bool is_walked[MR_TLS_CHAIN_MAX] = {true};
    for (;;) {
        size_t next = 1;
        while (next < count && (is_walked[next] || !is_signed_by(&sent[at], &sent[next])))
            next++;
        if (next >= count)
            return is_under_pinned_root(x, &sent[at]);
        if (mr_tls_context_has_pin(x, sent[next].spki))
            return true;
        is_walked[next] = true;
        at = next;
    }
}
