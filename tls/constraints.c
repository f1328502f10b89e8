/*
 * Subtrees of names and addresses. Any thread; no state.
 * Must not be the only check of DNS constraints: the TLS library's own comes first.
 */
#include "tls/constraints.h"

#include "base/span.h"
#include "tls/der.h"

#include <string.h>

enum { PERMITTED, EXCLUDED };

/* The list of subtrees, empty where it is left out. False: malformed. */
static bool subtrees_of(moor_span value, unsigned which, moor_span *out)
{
    struct mr_der all, list;
    *out = (moor_span){NULL, 0};
    if (!mr_der_take(&value, MR_DER_SEQUENCE, &all) || value.len)
        return false;
    for (unsigned i = PERMITTED; i <= EXCLUDED; i++) {
        if (!mr_der_is_next(all.body, MR_DER_CONTEXT_OF(i)))
            continue;
        if (!mr_der_next(&all.body, &list))
            return false;
        if (i == which)
            *out = list.body;
    }
    return all.body.len == 0;
}

/* Minimum and maximum may follow the name; RFC 5280 allows neither. */
static bool next_subtree(moor_span *rest, struct mr_der *out_base)
{
    struct mr_der subtree;
    return mr_der_take(rest, MR_DER_SEQUENCE, &subtree) && mr_der_next(&subtree.body, out_base) &&
           subtree.body.len == 0;
}

static bool is_valid_list(moor_span list)
{
    while (list.len) {
        struct mr_der base;
        if (!next_subtree(&list, &base))
            return false;
        /* An address and its mask. */
        if (base.tag == MR_DER_CONTEXT(7) && base.body.len != 8 && base.body.len != 32)
            return false;
    }
    return true;
}

bool mr_constraints_are_valid(moor_span value)
{
    moor_span permitted, excluded;
    return subtrees_of(value, PERMITTED, &permitted) && subtrees_of(value, EXCLUDED, &excluded) &&
           is_valid_list(permitted) && is_valid_list(excluded);
}

static bool holds_address(moor_span base, moor_span address)
{
    const uint8_t *net = base.base, *at = address.base;
    if (base.len != 2 * address.len)
        return false;
    for (size_t i = 0; i < address.len; i++)
        if ((at[i] ^ net[i]) & net[address.len + i])
            return false;
    return true;
}

/* "a.test" holds itself and what is below it, ".a.test" what is below it only. */
static bool holds_name(moor_span base, moor_span host)
{
    if (host.len && ((const char *)host.base)[host.len - 1] == '.')
        host.len--;
    if (base.len == 0)
        return true;
    if (base.len > host.len)
        return false;
    const moor_span end = mr_span_skip(host, host.len - base.len);
    const bool is_whole = base.len == host.len || ((const char *)base.base)[0] == '.' ||
                          ((const char *)end.base)[-1] == '.';
    return is_whole && mr_span_is_equal_nocase(base, end);
}

static bool allows_address(moor_span permitted, moor_span excluded, moor_span address)
{
    struct mr_der base;
    bool is_limited = false, is_permitted = false;
    while (permitted.len && next_subtree(&permitted, &base)) {
        is_limited |= base.tag == MR_DER_CONTEXT(7);
        is_permitted |= base.tag == MR_DER_CONTEXT(7) && holds_address(base.body, address);
    }
    while (excluded.len && next_subtree(&excluded, &base))
        if (base.tag == MR_DER_CONTEXT(7) && holds_address(base.body, address))
            return false;
    return is_permitted || !is_limited;
}

static bool excludes_host(moor_span excluded, moor_span host)
{
    struct mr_der base;
    while (excluded.len && next_subtree(&excluded, &base))
        if (base.tag == MR_DER_CONTEXT(2) && holds_name(base.body, host))
            return true;
    return false;
}

bool mr_constraints_allow(moor_span value, const struct mr_cert *leaf, moor_span host, bool is_ip)
{
    moor_span permitted, excluded;
    if (!subtrees_of(value, PERMITTED, &permitted) || !subtrees_of(value, EXCLUDED, &excluded))
        return false;
    struct mr_cert_san san;
    for (moor_span rest = leaf->san; mr_cert_next_san(&rest, &san);)
        if (san.kind == MR_CERT_SAN_IP && !allows_address(permitted, excluded, san.value))
            return false;
    return is_ip || !excludes_host(excluded, host);
}
