/*
 * Our own rules for certificates: names, dates, weak keys and signatures, pins.
 * On a shard, inside a handshake. Must not accept what the TLS library has refused: it is not asked then.
 */
#include "tls/verify.h"

#include "base/span.h"
#include "tls/chain.h"
#include "tls/constraints.h"
#include "tls/name.h"

#include <string.h>

#define REFUSED "verify the certificate: "

static bool is_self_issued(const struct mr_cert *c)
{
    return mr_span_is_equal(c->subject, c->issuer);
}

static const char *check_strength(const struct mr_cert *c)
{
    if (c->is_weakly_signed)
        return REFUSED "signed with SHA-1, MD5 or DSA, which can be forged";
    const bool is_rsa = c->key == MR_CERT_KEY_RSA || c->key == MR_CERT_KEY_RSA_PSS;
    if ((is_rsa && c->key_bits < MR_TLS_RSA_BITS_MIN) ||
        (c->key == MR_CERT_KEY_EC && c->key_bits && c->key_bits < MR_TLS_EC_BITS_MIN))
        return REFUSED "a key is too short";
    return NULL;
}

const char *mr_tls_verify_authority(moor_span der)
{
    struct mr_cert c;
    if (mr_cert_parse(der, &c, NULL))
        return REFUSED "malformed";
    if (!c.may_serve)
        return REFUSED "an authority in its chain may not vouch for servers";
    /* Its own signature proves nothing about a root; if it is one of ours nobody follows it. */
    return is_self_issued(&c) ? NULL : check_strength(&c);
}

/* ---- the path ---- */

struct path {
    const struct mr_tls_check *q;
    struct mr_cert sent[MR_TLS_CHAIN_MAX];
    bool is_on[MR_TLS_CHAIN_MAX]; /* reached from the leaf by the names of issuers */
    size_t count;
    uint32_t authorities;           /* on it, but for self-issued ones */
    const struct mr_tls_root *root; /* where it ends; NULL = nowhere */
};

/* Whatever could have signed it, of what was sent; nothing beyond a name that we trust. */
static void follow(struct path *p, size_t from)
{
    const struct mr_cert *c = &p->sent[from];
    const struct mr_tls_root *root = mr_tls_roots_find(&p->q->context->roots, c->issuer);
    if (root) {
        p->root = root;
        return;
    }
    for (size_t i = 1; i < p->count; i++) {
        if (p->is_on[i] || !mr_span_is_equal(p->sent[i].subject, c->issuer))
            continue;
        p->is_on[i] = true;
        p->authorities += !is_self_issued(&p->sent[i]);
        follow(p, i); /* as deep as there are certificates: each is marked once */
    }
}

/* Again, for what the library remembers of earlier handshakes and does not look at any more. */
static const char *check_member(const struct path *p, const struct mr_cert *c)
{
    const struct mr_cert *leaf = &p->sent[0];
    if (p->q->now_s < c->not_before_s)
        return REFUSED "not valid yet";
    if (p->q->now_s > c->not_after_s)
        return REFUSED "expired";
    if (!c->may_serve)
        return c == leaf ? REFUSED "not meant for servers"
                         : REFUSED "an authority in its chain may not vouch for servers";
    if (c != leaf && c->name_constraints.base &&
        !mr_constraints_allow(c->name_constraints, leaf, p->q->host, p->q->is_ip))
        return REFUSED "its authority may not sign for this name";
    const bool is_trusted_itself =
        is_self_issued(c) && mr_tls_roots_find(&p->q->context->roots, c->subject);
    return is_trusted_itself ? NULL : check_strength(c);
}

static const char *check_path(struct path *p)
{
    p->is_on[0] = true;
    follow(p, 0);
    if (!p->root)
        return REFUSED "its chain is incomplete";
    if (p->q->now_s > p->root->not_after_s)
        return REFUSED "expired, the authority it leads to";
    if (p->root->path_len_max >= 0 && p->authorities > (uint32_t)p->root->path_len_max)
        return REFUSED "the chain is longer than its authority allows";
    for (size_t i = 0; i < p->count; i++) {
        const char *why = p->is_on[i] ? check_member(p, &p->sent[i]) : NULL;
        if (why)
            return why;
    }
    return p->sent[0].may_sign ? NULL : REFUSED "its key may not be used for this";
}

const char *mr_tls_verify(const struct mr_tls_check *q, const moor_span *chain, size_t count,
                          struct mr_cert *out_leaf)
{
    const struct mr_tls_context *x = q->context;
    struct path p = {.q = q, .count = count};
    if (!count || count > MR_TLS_CHAIN_MAX)
        return count ? REFUSED "the chain is too long" : REFUSED "there is none";
    for (size_t i = 0; i < count; i++)
        if (mr_cert_parse(chain[i], &p.sent[i], NULL))
            return REFUSED "malformed";
    *out_leaf = p.sent[0];
    const char *why = check_path(&p);
    if (why)
        return why;
    if (!mr_tls_name_matches(out_leaf, q->host, q->is_ip))
        return REFUSED "it is not for this host";
    if (!x->pin_count || mr_tls_context_has_pin(x, out_leaf->spki) ||
        (x->pins_chain && mr_tls_chain_has_pin(x, chain, count)))
        return NULL;
    return REFUSED "its key is not pinned";
}
