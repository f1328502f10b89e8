/*
 * Object identifiers that name signatures, digests, keys and curves, and what we think of them.
 * Any thread; no state. Never calls unknown what is known to be broken: the caller refuses only
 * what is called weak.
 */
#include "tls/algorithm.h"
#include "tls/der.h"
#include "base/span.h"

struct named {
    moor_span oid;
    enum mr_strength strength;
};

/* The contents of an OBJECT IDENTIFIER, as they stand in the certificate. */
#define OID(text)                                                                                  \
    {                                                                                              \
        (text), sizeof(text) - 1                                                                   \
    }

#define PKCS1       "\x2a\x86\x48\x86\xf7\x0d\x01\x01" /* 1.2.840.113549.1.1 */
#define RSADSI_HASH "\x2a\x86\x48\x86\xf7\x0d\x02"     /* 1.2.840.113549.2 */
#define X9_62       "\x2a\x86\x48\xce\x3d"             /* 1.2.840.10045 */
#define OIW         "\x2b\x0e\x03\x02"                 /* 1.3.14.3.2 */
#define NIST        "\x60\x86\x48\x01\x65\x03\x04"     /* 2.16.840.1.101.3.4 */

static const moor_span rsa_pss = OID(PKCS1 "\x0a");

static const struct named signatures[] = {
    {OID(PKCS1 "\x0b"), MR_STRENGTH_GOOD},                   /* RSA with SHA-256 */
    {OID(PKCS1 "\x0c"), MR_STRENGTH_GOOD},                   /* SHA-384 */
    {OID(PKCS1 "\x0d"), MR_STRENGTH_GOOD},                   /* SHA-512 */
    {OID(PKCS1 "\x0e"), MR_STRENGTH_GOOD},                   /* SHA-224 */
    {OID(X9_62 "\x04\x03\x01"), MR_STRENGTH_GOOD},           /* ECDSA with SHA-224 */
    {OID(X9_62 "\x04\x03\x02"), MR_STRENGTH_GOOD},           /* SHA-256 */
    {OID(X9_62 "\x04\x03\x03"), MR_STRENGTH_GOOD},           /* SHA-384 */
    {OID(X9_62 "\x04\x03\x04"), MR_STRENGTH_GOOD},           /* SHA-512 */
    {OID("\x2b\x65\x70"), MR_STRENGTH_GOOD},                 /* Ed25519 */
    {OID("\x2b\x65\x71"), MR_STRENGTH_GOOD},                 /* Ed448 */
    {OID(PKCS1 "\x02"), MR_STRENGTH_WEAK},                   /* RSA with MD2 */
    {OID(PKCS1 "\x03"), MR_STRENGTH_WEAK},                   /* MD4 */
    {OID(PKCS1 "\x04"), MR_STRENGTH_WEAK},                   /* MD5 */
    {OID(PKCS1 "\x05"), MR_STRENGTH_WEAK},                   /* SHA-1 */
    {OID(X9_62 "\x04\x01"), MR_STRENGTH_WEAK},               /* ECDSA with SHA-1 */
    {OID(OIW "\x02"), MR_STRENGTH_WEAK},                     /* older names: RSA with MD4 */
    {OID(OIW "\x03"), MR_STRENGTH_WEAK},                     /* RSA with MD5 */
    {OID(OIW "\x04"), MR_STRENGTH_WEAK},                     /* RSA with MD4 */
    {OID(OIW "\x0d"), MR_STRENGTH_WEAK},                     /* DSA with SHA-0 */
    {OID(OIW "\x0f"), MR_STRENGTH_WEAK},                     /* RSA with SHA-0 */
    {OID(OIW "\x1b"), MR_STRENGTH_WEAK},                     /* DSA with SHA-1 */
    {OID(OIW "\x1d"), MR_STRENGTH_WEAK},                     /* RSA with SHA-1 */
    {OID("\x2a\x86\x48\xce\x38\x04\x03"), MR_STRENGTH_WEAK}, /* DSA with SHA-1 */
    {OID(NIST "\x03\x01"), MR_STRENGTH_WEAK},                /* DSA with SHA-224 */
    {OID(NIST "\x03\x02"), MR_STRENGTH_WEAK},                /* SHA-256 */
    {OID(NIST "\x03\x03"), MR_STRENGTH_WEAK},                /* SHA-384 */
    {OID(NIST "\x03\x04"), MR_STRENGTH_WEAK},                /* SHA-512 */
    {OID(NIST "\x03\x05"), MR_STRENGTH_WEAK},                /* SHA3-224 */
    {OID(NIST "\x03\x06"), MR_STRENGTH_WEAK},                /* SHA3-256 */
    {OID(NIST "\x03\x07"), MR_STRENGTH_WEAK},                /* SHA3-384 */
    {OID(NIST "\x03\x08"), MR_STRENGTH_WEAK},                /* SHA3-512 */
};

static const struct named digests[] = {
    {OID(NIST "\x02\x01"), MR_STRENGTH_GOOD},    /* SHA-256 */
    {OID(NIST "\x02\x02"), MR_STRENGTH_GOOD},    /* SHA-384 */
    {OID(NIST "\x02\x03"), MR_STRENGTH_GOOD},    /* SHA-512 */
    {OID(NIST "\x02\x04"), MR_STRENGTH_GOOD},    /* SHA-224 */
    {OID(RSADSI_HASH "\x02"), MR_STRENGTH_WEAK}, /* MD2 */
    {OID(RSADSI_HASH "\x04"), MR_STRENGTH_WEAK}, /* MD4 */
    {OID(RSADSI_HASH "\x05"), MR_STRENGTH_WEAK}, /* MD5 */
    {OID(OIW "\x12"), MR_STRENGTH_WEAK},         /* SHA-0 */
    {OID(OIW "\x1a"), MR_STRENGTH_WEAK},         /* SHA-1 */
};

static enum mr_strength find(const struct named *list, size_t count, moor_span oid)
{
    for (size_t i = 0; i < count; i++)
        if (mr_span_is_equal(list[i].oid, oid))
            return list[i].strength;
    return MR_STRENGTH_UNKNOWN;
}

/* AlgorithmIdentifier: an OID and at most one element of parameters, empty if there is none. */
static bool split(moor_span identifier, moor_span *out_oid, moor_span *out_parameters)
{
    struct mr_der oid;
    struct mr_der parameters;
    if (!mr_der_take(&identifier, MR_DER_OID, &oid) || !mr_der_is_oid(oid.body))
        return false;
    *out_oid = oid.body;
    *out_parameters = identifier;
    return identifier.len == 0 || (mr_der_next(&identifier, &parameters) && identifier.len == 0);
}

static bool split_sequence(moor_span rest, moor_span *out_oid, moor_span *out_parameters)
{
    struct mr_der identifier;
    return mr_der_take(&rest, MR_DER_SEQUENCE, &identifier) && rest.len == 0 &&
           split(identifier.body, out_oid, out_parameters);
}

static bool judge_pss(moor_span parameters, enum mr_strength *out);

bool mr_algorithm_signature(moor_span identifier, enum mr_strength *out)
{
    moor_span oid;
    moor_span parameters;
    if (!split(identifier, &oid, &parameters))
        return false;
    if (mr_span_is_equal(oid, rsa_pss))
        return judge_pss(parameters, out);
    *out = find(signatures, sizeof signatures / sizeof *signatures, oid);
    return true;
}

/* The weaker of two; what is known to be weak says more than what is unknown. */
static enum mr_strength weaker(enum mr_strength a, enum mr_strength b)
{
    if (a == MR_STRENGTH_WEAK || b == MR_STRENGTH_WEAK)
        return MR_STRENGTH_WEAK;
    return a == MR_STRENGTH_GOOD ? b : a;
}

static bool judge_digest(moor_span sequence, enum mr_strength *out)
{
    moor_span oid;
    moor_span parameters;
    if (!split_sequence(sequence, &oid, &parameters))
        return false;
    *out = find(digests, sizeof digests / sizeof *digests, oid);
    return true;
}

static bool judge_mask(moor_span sequence, enum mr_strength *out)
{
    static const moor_span mgf1 = OID(PKCS1 "\x08");
    moor_span oid;
    moor_span parameters;
    if (!split_sequence(sequence, &oid, &parameters))
        return false;
    *out = MR_STRENGTH_UNKNOWN;
    return !mr_span_is_equal(oid, mgf1) || judge_digest(parameters, out);
}

/*
 * RSASSA-PSS-params (RFC 4055 3.1): four optional fields in order. Hash and mask default to SHA-1;
 * so does the mask of a good hash, which TLS 1.3 would refuse anyway.
 */
static bool judge_pss(moor_span parameters, enum mr_strength *out)
{
    enum mr_strength part[2] = {MR_STRENGTH_WEAK, MR_STRENGTH_WEAK};
    bool (*const judge[2])(moor_span, enum mr_strength *) = {judge_digest, judge_mask};
    struct mr_der list = {.body = {NULL, 0}};
    moor_span rest = parameters;
    if (rest.len && (!mr_der_take(&rest, MR_DER_SEQUENCE, &list) || rest.len))
        return false;
    rest = list.body;
    for (unsigned i = 0; i < 4; i++) {
        struct mr_der field;
        struct mr_der number;
        if (!mr_der_is_next(rest, MR_DER_CONTEXT_OF(i)))
            continue;
        if (!mr_der_next(&rest, &field))
            return false;
        if (i < 2 && !judge[i](field.body, &part[i]))
            return false;
        if (i >= 2 && (!mr_der_take(&field.body, MR_DER_INTEGER, &number) || field.body.len ||
                       !mr_der_is_integer(number.body)))
            return false;
    }
    *out = weaker(part[0], part[1]);
    return rest.len == 0;
}

/* RSAPublicKey: modulus and exponent. */
static bool read_rsa(moor_span octets, uint32_t *out_bits)
{
    struct mr_der key;
    struct mr_der modulus;
    struct mr_der exponent;
    if (!mr_der_take(&octets, MR_DER_SEQUENCE, &key) || octets.len ||
        !mr_der_take(&key.body, MR_DER_INTEGER, &modulus) ||
        !mr_der_take(&key.body, MR_DER_INTEGER, &exponent) || key.body.len)
        return false;
    *out_bits = mr_der_integer_bits(modulus.body);
    return *out_bits > 0 && mr_der_integer_bits(exponent.body) > 0;
}

/* ECParameters: the name of a curve, or a description, which nobody may use (RFC 5480 2.1.1). */
static bool read_curve(moor_span parameters, uint32_t *out_bits)
{
    static const struct {
        moor_span oid;
        uint32_t bits;
    } curves[] = {
        {OID(X9_62 "\x03\x01\x07"), 256},   /* P-256 */
        {OID("\x2b\x81\x04\x00\x22"), 384}, /* P-384 */
        {OID("\x2b\x81\x04\x00\x23"), 521}, /* P-521 */
    };
    struct mr_der curve;
    if (!mr_der_next(&parameters, &curve))
        return false;
    *out_bits = 0;
    if (curve.tag != MR_DER_OID)
        return true;
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++)
        if (mr_span_is_equal(curve.body, curves[i].oid))
            *out_bits = curves[i].bits;
    return mr_der_is_oid(curve.body);
}

bool mr_algorithm_key(moor_span spki, enum mr_cert_key *out_key, uint32_t *out_bits)
{
    static const struct {
        moor_span oid;
        enum mr_cert_key key;
    } keys[] = {
        {OID(PKCS1 "\x01"), MR_CERT_KEY_RSA},     {OID(PKCS1 "\x0a"), MR_CERT_KEY_RSA_PSS},
        {OID(X9_62 "\x02\x01"), MR_CERT_KEY_EC},  {OID("\x2b\x65\x70"), MR_CERT_KEY_ED25519},
        {OID("\x2b\x65\x71"), MR_CERT_KEY_ED448},
    };
    struct mr_der identifier;
    struct mr_der bits;
    moor_span oid;
    moor_span parameters;
    moor_span octets;
    enum mr_cert_key key = MR_CERT_KEY_OTHER;
    uint32_t key_bits = 0;
    if (!mr_der_take(&spki, MR_DER_SEQUENCE, &identifier) ||
        !split(identifier.body, &oid, &parameters) ||
        !mr_der_take(&spki, MR_DER_BIT_STRING, &bits) || spki.len ||
        !mr_der_to_octets(bits.body, &octets))
        return false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (mr_span_is_equal(oid, keys[i].oid))
            key = keys[i].key;
    if ((key == MR_CERT_KEY_RSA || key == MR_CERT_KEY_RSA_PSS) && !read_rsa(octets, &key_bits))
        return false;
    if (key == MR_CERT_KEY_EC && !read_curve(parameters, &key_bits))
        return false;
    *out_key = key;
    *out_bits = key_bits;
    return true;
}
