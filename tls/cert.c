/*
 * One pass over a certificate, from the outside in. Any thread; no state, no allocation.
 * Never recurses: nesting is as deep as the functions below, whatever the bytes say; what lies
 * deeper is not looked at.
 */
#include "tls/cert.h"
#include "tls/algorithm.h"
#include "tls/constraints.h"
#include "tls/der.h"
#include "tls/dn.h"
#include "base/assert.h"
#include "base/span.h"

struct parser {
    struct mr_cert *cert;
    const char *what;
    moor_span algorithm; /* of the signature, as the signed part has it */
    int32_t version;     /* 0 = v1, 2 = v3 */
};

static moor_err refuse(struct parser *p, const char *what)
{
    p->what = what;
    return MOOR_EPROTO;
}

static moor_err parse_certificate(struct parser *p, moor_span der);
static moor_err parse_tbs(struct parser *p, moor_span rest);
static moor_err parse_version(struct parser *p, moor_span *rest);
static moor_err parse_serial(struct parser *p, moor_span *rest);
static moor_err parse_name(struct parser *p, moor_span *rest, moor_span *out);
static moor_err parse_validity(struct parser *p, moor_span *rest);
static moor_err parse_unique_ids(struct parser *p, moor_span *rest);
static moor_err parse_extensions(struct parser *p, moor_span *rest);

moor_err mr_cert_parse(moor_span der, struct mr_cert *out, const char **out_what)
{
    struct mr_cert parsed = {.der = der, .path_len_max = -1, .may_sign = true, .may_serve = true};
    struct parser p = {.cert = &parsed};
    const moor_err e = parse_certificate(&p, der);
    MR_ASSERT((e == MOOR_OK) == (p.what == NULL));
    if (e == MOOR_OK)
        *out = parsed;
    else if (out_what)
        *out_what = p.what;
    return e;
}

/* GeneralName is a CHOICE of nine. */
static bool is_general_name(unsigned tag)
{
    switch (tag) {
    case MR_DER_CONTEXT_OF(0): /* otherName */
    case MR_DER_CONTEXT(1):    /* rfc822Name */
    case MR_DER_CONTEXT(2):    /* dNSName */
    case MR_DER_CONTEXT_OF(3): /* x400Address */
    case MR_DER_CONTEXT_OF(4): /* directoryName */
    case MR_DER_CONTEXT_OF(5): /* ediPartyName */
    case MR_DER_CONTEXT(6):    /* uniformResourceIdentifier */
    case MR_DER_CONTEXT(7):    /* iPAddress */
    case MR_DER_CONTEXT(8):    /* registeredID */
        return true;
    default:
        return false;
    }
}

bool mr_cert_next_san(moor_span *rest, struct mr_cert_san *out)
{
    struct mr_der name;
    if (!mr_der_next(rest, &name))
        return false;
    out->value = name.body;
    out->kind = MR_CERT_SAN_OTHER;
    if (name.tag == MR_DER_CONTEXT(2))
        out->kind = MR_CERT_SAN_DNS;
    else if (name.tag == MR_DER_CONTEXT(7))
        out->kind = MR_CERT_SAN_IP;
    return true;
}

const char *mr_cert_subject_text(const struct mr_cert *c, char *buf, size_t cap)
{
    return mr_dn_text(c->subject, buf, cap);
}

const char *mr_cert_issuer_text(const struct mr_cert *c, char *buf, size_t cap)
{
    return mr_dn_text(c->issuer, buf, cap);
}

static moor_err parse_certificate(struct parser *p, moor_span der)
{
    struct mr_der outer;
    struct mr_der tbs;
    struct mr_der algorithm;
    struct mr_der bits;
    moor_span signature;
    moor_span rest = der;
    if (!mr_der_take(&rest, MR_DER_SEQUENCE, &outer))
        return refuse(p, "the certificate is not a DER sequence, or is cut off");
    MR_FAIL_IF(rest.len, refuse(p, "bytes after the certificate"));
    rest = outer.body;
    if (!mr_der_take(&rest, MR_DER_SEQUENCE, &tbs))
        return refuse(p, "the signed part is not a sequence");
    if (!mr_der_take(&rest, MR_DER_SEQUENCE, &algorithm))
        return refuse(p, "the signature algorithm is not a sequence");
    if (!mr_der_take(&rest, MR_DER_BIT_STRING, &bits) || !mr_der_to_octets(bits.body, &signature))
        return refuse(p, "the signature is not a string of octets");
    MR_FAIL_IF(rest.len, refuse(p, "bytes after the signature"));
    p->cert->tbs = tbs.whole;
    MR_TRY(parse_tbs(p, tbs.body));
    /* RFC 5280 4.1.1.2. Only one of the two is signed, and one must not be judged for the other. */
    if (!mr_span_is_equal(algorithm.whole, p->algorithm))
        return refuse(p, "the two signature algorithms differ");
    return MOOR_OK;
}

static moor_err parse_tbs(struct parser *p, moor_span rest)
{
    struct mr_cert *c = p->cert;
    struct mr_der algorithm;
    struct mr_der spki;
    enum mr_strength strength = MR_STRENGTH_UNKNOWN;
    MR_TRY(parse_version(p, &rest));
    MR_TRY(parse_serial(p, &rest));
    if (!mr_der_take(&rest, MR_DER_SEQUENCE, &algorithm) ||
        !mr_algorithm_signature(algorithm.body, &strength))
        return refuse(p, "malformed signature algorithm");
    p->algorithm = algorithm.whole;
    c->is_weakly_signed = strength == MR_STRENGTH_WEAK;
    c->has_unknown_signature = strength == MR_STRENGTH_UNKNOWN;
    MR_TRY(parse_name(p, &rest, &c->issuer));
    MR_TRY(parse_validity(p, &rest));
    MR_TRY(parse_name(p, &rest, &c->subject));
    if (!mr_der_take(&rest, MR_DER_SEQUENCE, &spki) ||
        !mr_algorithm_key(spki.body, &c->key, &c->key_bits))
        return refuse(p, "malformed public key");
    c->spki = spki.whole;
    MR_TRY(parse_unique_ids(p, &rest));
    MR_TRY(parse_extensions(p, &rest));
    MR_FAIL_IF(rest.len, refuse(p, "bytes after the last field"));
    return MOOR_OK;
}

static moor_err parse_version(struct parser *p, moor_span *rest)
{
    struct mr_der explicit;
    struct mr_der version;
    if (!mr_der_is_next(*rest, MR_DER_CONTEXT_OF(0)))
        return MOOR_OK;
    if (!mr_der_next(rest, &explicit) || !mr_der_take(&explicit.body, MR_DER_INTEGER, &version) ||
        explicit.body.len || !mr_der_to_int(version.body, &p->version))
        return refuse(p, "malformed version");
    /* v1 is the default: DER leaves it out. */
    MR_FAIL_IF(p->version != 1 && p->version != 2, refuse(p, "unknown version"));
    return MOOR_OK;
}

/* Zero and negative ones exist, and nobody here computes with them. */
static moor_err parse_serial(struct parser *p, moor_span *rest)
{
    struct mr_der serial;
    if (!mr_der_take(rest, MR_DER_INTEGER, &serial) || !mr_der_is_integer(serial.body))
        return refuse(p, "malformed serial number");
    MR_FAIL_IF(serial.body.len > MR_CERT_SERIAL_BYTES_MAX,
               refuse(p, "the serial number is longer than 20 bytes"));
    return MOOR_OK;
}

static moor_err parse_name(struct parser *p, moor_span *rest, moor_span *out)
{
    struct mr_der name;
    if (!mr_der_take(rest, MR_DER_SEQUENCE, &name) || !mr_dn_is_valid(name.body))
        return refuse(p, "malformed issuer or subject");
    *out = name.whole;
    return MOOR_OK;
}

static moor_err parse_validity(struct parser *p, moor_span *rest)
{
    struct mr_der validity;
    struct mr_der before;
    struct mr_der after;
    if (!mr_der_take(rest, MR_DER_SEQUENCE, &validity) || !mr_der_next(&validity.body, &before) ||
        !mr_der_next(&validity.body, &after) || validity.body.len)
        return refuse(p, "malformed validity");
    if (!mr_der_to_time(before.tag, before.body, &p->cert->not_before_s) ||
        !mr_der_to_time(after.tag, after.body, &p->cert->not_after_s))
        return refuse(p, "a date is not written as RFC 5280 asks");
    return MOOR_OK;
}

static moor_err parse_unique_ids(struct parser *p, moor_span *rest)
{
    for (unsigned tag = MR_DER_CONTEXT(1); tag <= MR_DER_CONTEXT(2); tag++) {
        struct mr_der id;
        if (!mr_der_is_next(*rest, tag))
            continue;
        MR_FAIL_IF(p->version < 1, refuse(p, "unique identifiers need version 2"));
        /* A BIT STRING begins with its number of unused bits. */
        if (!mr_der_next(rest, &id) || id.body.len == 0 || *(const unsigned char *)id.body.base > 7)
            return refuse(p, "malformed unique identifier");
    }
    return MOOR_OK;
}

static moor_err parse_subject_key_id(struct parser *p, moor_span value)
{
    struct mr_der id;
    if (!mr_der_take(&value, MR_DER_OCTET_STRING, &id) || value.len)
        return refuse(p, "malformed subjectKeyIdentifier");
    p->cert->subject_key_id = id.body;
    return MOOR_OK;
}

static moor_err parse_san(struct parser *p, moor_span value)
{
    struct mr_der names;
    if (!mr_der_take(&value, MR_DER_SEQUENCE, &names) || value.len || names.body.len == 0)
        return refuse(p, "malformed subjectAltName");
    for (moor_span rest = names.body; rest.len;) {
        struct mr_der name;
        if (!mr_der_next(&rest, &name) || !is_general_name(name.tag))
            return refuse(p, "malformed name in subjectAltName");
        if (name.tag == MR_DER_CONTEXT(7) && name.body.len != 4 && name.body.len != 16)
            return refuse(p, "an IP address that is neither of 4 nor of 16 bytes");
    }
    p->cert->san = names.body;
    return MOOR_OK;
}

static moor_err parse_basic_constraints(struct parser *p, moor_span value)
{
    struct mr_der constraints;
    struct mr_der ca;
    struct mr_der path_len;
    bool is_ca = false;
    int32_t path_len_max = -1;
    if (!mr_der_take(&value, MR_DER_SEQUENCE, &constraints) || value.len)
        return refuse(p, "malformed basicConstraints");
    moor_span rest = constraints.body;
    /* DER leaves the default out, but issuers write cA FALSE and the web lives with it. */
    if (mr_der_is_next(rest, MR_DER_BOOLEAN) &&
        (!mr_der_next(&rest, &ca) || !mr_der_to_bool(ca.body, &is_ca)))
        return refuse(p, "malformed cA in basicConstraints");
    if (mr_der_is_next(rest, MR_DER_INTEGER) &&
        (!mr_der_next(&rest, &path_len) || !mr_der_to_int(path_len.body, &path_len_max)))
        return refuse(p, "malformed pathLenConstraint");
    MR_FAIL_IF(rest.len, refuse(p, "bytes after basicConstraints"));
    p->cert->is_ca = is_ca;
    p->cert->path_len_max = is_ca ? path_len_max : -1;
    return MOOR_OK;
}

/* The issuer's name and serial number, which may follow, only repeat what the chain shows. */
static moor_err parse_authority_key_id(struct parser *p, moor_span value)
{
    static const unsigned tags[] = {MR_DER_CONTEXT(0), MR_DER_CONTEXT_OF(1), MR_DER_CONTEXT(2)};
    struct mr_der ids;
    if (!mr_der_take(&value, MR_DER_SEQUENCE, &ids) || value.len)
        return refuse(p, "malformed authorityKeyIdentifier");
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        struct mr_der id;
        if (!mr_der_is_next(ids.body, tags[i]))
            continue;
        if (!mr_der_next(&ids.body, &id))
            return refuse(p, "malformed authorityKeyIdentifier");
        if (i == 0)
            p->cert->authority_key_id = id.body;
    }
    MR_FAIL_IF(ids.body.len, refuse(p, "malformed authorityKeyIdentifier"));
    return MOOR_OK;
}

static moor_err parse_tls_feature(struct parser *p, moor_span value)
{
    struct mr_der features;
    if (!mr_der_take(&value, MR_DER_SEQUENCE, &features) || value.len)
        return refuse(p, "malformed TLS feature");
    for (moor_span rest = features.body; rest.len;) {
        const int32_t status_request = 5;
        struct mr_der feature;
        int32_t number;
        if (!mr_der_take(&rest, MR_DER_INTEGER, &feature) || !mr_der_to_int(feature.body, &number))
            return refuse(p, "malformed TLS feature");
        if (number == status_request)
            p->cert->has_must_staple = true;
    }
    return MOOR_OK;
}

/* A BIT STRING begins with its number of unused bits; its first bit is digitalSignature. */
static moor_err parse_key_usage(struct parser *p, moor_span value)
{
    struct mr_der usage;
    if (!mr_der_take(&value, MR_DER_BIT_STRING, &usage) || value.len || usage.body.len < 2 ||
        usage.body.len > 3 || *(const unsigned char *)usage.body.base > 7)
        return refuse(p, "malformed keyUsage");
    p->cert->may_sign = ((const unsigned char *)usage.body.base)[1] & 0x80;
    return MOOR_OK;
}

static moor_err parse_extended_key_usage(struct parser *p, moor_span value)
{
    static const moor_span serving[] = {{"\x2b\x06\x01\x05\x05\x07\x03\x01", 8}, /* serverAuth */
                                        {"\x55\x1d\x25\x00", 4}};                /* any */
    struct mr_der usages;
    if (!mr_der_take(&value, MR_DER_SEQUENCE, &usages) || value.len || !usages.body.len)
        return refuse(p, "malformed extKeyUsage");
    p->cert->may_serve = false;
    for (moor_span rest = usages.body; rest.len;) {
        struct mr_der oid;
        if (!mr_der_take(&rest, MR_DER_OID, &oid) || !mr_der_is_oid(oid.body))
            return refuse(p, "malformed extKeyUsage");
        p->cert->may_serve |=
            mr_span_is_equal(oid.body, serving[0]) || mr_span_is_equal(oid.body, serving[1]);
    }
    return MOOR_OK;
}

static moor_err parse_name_constraints(struct parser *p, moor_span value)
{
    p->cert->name_constraints = value;
    return mr_constraints_are_valid(value) ? MOOR_OK : refuse(p, "malformed nameConstraints");
}

static moor_err parse_known_extension(struct parser *p, moor_span oid, moor_span value)
{
    static const struct {
        moor_span oid;
        moor_err (*parse)(struct parser *p, moor_span value);
    } known[] = {
        {{"\x55\x1d\x0e", 3}, parse_subject_key_id},
        {{"\x55\x1d\x11", 3}, parse_san},
        {{"\x55\x1d\x13", 3}, parse_basic_constraints},
        {{"\x55\x1d\x23", 3}, parse_authority_key_id},
        {{"\x55\x1d\x0f", 3}, parse_key_usage},
        {{"\x55\x1d\x25", 3}, parse_extended_key_usage},
        {{"\x55\x1d\x1e", 3}, parse_name_constraints},
        {{"\x2b\x06\x01\x05\x05\x07\x01\x18", 8}, parse_tls_feature},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (mr_span_is_equal(oid, known[i].oid))
            return known[i].parse(p, value);
    return MOOR_OK;
}

static moor_err parse_extension(struct parser *p, moor_span *rest, moor_span *out_oid)
{
    struct mr_der extension;
    struct mr_der oid;
    struct mr_der critical;
    struct mr_der value;
    bool is_critical = true;
    if (!mr_der_take(rest, MR_DER_SEQUENCE, &extension) ||
        !mr_der_take(&extension.body, MR_DER_OID, &oid) || !mr_der_is_oid(oid.body))
        return refuse(p, "malformed extension");
    if (mr_der_is_next(extension.body, MR_DER_BOOLEAN) &&
        (!mr_der_next(&extension.body, &critical) || !mr_der_to_bool(critical.body, &is_critical)))
        return refuse(p, "malformed critical flag of an extension");
    /* The default is left out. */
    MR_FAIL_IF(!is_critical, refuse(p, "an extension says critical FALSE"));
    if (!mr_der_take(&extension.body, MR_DER_OCTET_STRING, &value) || extension.body.len)
        return refuse(p, "malformed value of an extension");
    *out_oid = oid.body;
    return parse_known_extension(p, oid.body, value.body);
}

static moor_err parse_extensions(struct parser *p, moor_span *rest)
{
    struct mr_der explicit;
    struct mr_der list;
    moor_span seen[MR_CERT_EXTENSIONS_MAX];
    size_t count = 0;
    if (!mr_der_is_next(*rest, MR_DER_CONTEXT_OF(3)))
        return MOOR_OK;
    MR_FAIL_IF(p->version != 2, refuse(p, "extensions need version 3"));
    if (!mr_der_next(rest, &explicit) || !mr_der_take(&explicit.body, MR_DER_SEQUENCE, &list) ||
        explicit.body.len || list.body.len == 0)
        return refuse(p, "malformed extensions");
    while (list.body.len) {
        moor_span oid;
        MR_FAIL_IF(count == MR_CERT_EXTENSIONS_MAX, refuse(p, "more than 64 extensions"));
        MR_TRY(parse_extension(p, &list.body, &oid));
        for (size_t i = 0; i < count; i++)
            MR_FAIL_IF(mr_span_is_equal(oid, seen[i]), refuse(p, "an extension given twice"));
        seen[count++] = oid;
    }
    return MOOR_OK;
}
