/*
 * Our own rules for certificates: names, dates, weak keys and signatures, pins.
 * On a shard, inside a handshake. Must not accept what the TLS library has refused: it is not asked then.
 */
#include "tls/verify.h"

#include "base/span.h"
#include "tls/chain.h"
#include "tls/name.h"

#include <string.h>

#define RSA_BITS_MIN 2048
#define EC_BITS_MIN  256

static const char *check_strength(const struct mr_cert *c)
{
    /* Its own signature proves nothing about a root: it is trusted for being in the store. */
    const bool is_root = c->is_ca && mr_span_is_equal(c->subject, c->issuer);
    if (c->is_weakly_signed && !is_root)
        return "verify the certificate: signed with SHA-1, MD5 or DSA, which can be forged";
    const bool is_rsa = c->key == MR_CERT_KEY_RSA || c->key == MR_CERT_KEY_RSA_PSS;
    if ((is_rsa && c->key_bits < RSA_BITS_MIN) ||
        (c->key == MR_CERT_KEY_EC && c->key_bits && c->key_bits < EC_BITS_MIN))
        return "verify the certificate: a key is too short";
    return NULL;
}

static const char *check_one(const struct mr_tls_check *q, const struct mr_cert *c)
{
    /* Again, for members the library remembers from an earlier handshake and does not look at. */
    if (q->now_s < c->not_before_s)
        return "verify the certificate: not valid yet";
    if (q->now_s > c->not_after_s)
        return "verify the certificate: expired";
    return check_strength(c);
}

static bool is_pinned(const struct mr_tls_context *x, const struct mr_cert *c)
{
    uint8_t hash[MR_TLS_HASH_SIZE];
    mr_tls_hash(&c->spki, 1, hash);
    return mr_tls_context_has_pin(x, hash);
}

const char *mr_tls_verify(const struct mr_tls_check *q, const moor_span *chain, size_t count,
                          struct mr_cert *out_leaf)
{
    const struct mr_tls_context *x = q->context;
    for (size_t i = 0; i < count; i++) {
        struct mr_cert c;
        if (mr_cert_parse(chain[i], &c, NULL))
            return "verify the certificate: malformed";
        const char *why = check_one(q, &c);
        if (why)
            return why;
        if (i == 0)
            *out_leaf = c;
    }
    if (!count)
        return "verify the certificate: there is none";
    if (!mr_tls_name_matches(out_leaf, q->host, q->is_ip))
        return "verify the certificate: it is not for this host";
    if (!x->pin_count || is_pinned(x, out_leaf) ||
        (x->pins_chain && mr_tls_chain_has_pin(x, chain, count)))
        return NULL;
    return "verify the certificate: its key is not pinned";
}
