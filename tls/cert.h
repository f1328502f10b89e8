/*
 * One X.509 certificate (RFC 5280), taken apart without being trusted: names, key, times and the
 * few extensions a client asks about. It proves no signature and no chain: the TLS library does,
 * and what it also does not do is here. Everything points into the given bytes. Pure; any thread.
 */
#ifndef MR_TLS_CERT_H
#define MR_TLS_CERT_H

#include <mooring/error.h>

/* Extensions are compared pairwise, to find duplicates: their number must be bounded. */
#define MR_CERT_EXTENSIONS_MAX   64
#define MR_CERT_SERIAL_BYTES_MAX 20 /* RFC 5280 4.1.2.2 */

enum mr_cert_key {
    MR_CERT_KEY_RSA,
    MR_CERT_KEY_RSA_PSS,
    MR_CERT_KEY_EC,
    MR_CERT_KEY_ED25519,
    MR_CERT_KEY_ED448,
    MR_CERT_KEY_OTHER,
};

struct mr_cert {
    moor_span der;     /* the whole certificate: exactly one SEQUENCE, nothing after it */
    moor_span tbs;     /* the signed part, with its header */
    moor_span issuer;  /* Name, with its header: compared byte by byte */
    moor_span subject; /* the same; may be an empty SEQUENCE */
    moor_span spki;    /* SubjectPublicKeyInfo, with its header: what pins hash (RFC 7469 2.4) */
    enum mr_cert_key key;
    uint32_t key_bits; /* RSA: of the modulus; EC: 256, 384 or 521, 0 = another curve; others: 0 */
    /* MD2, MD4, MD5, SHA-0, SHA-1 or DSA, or RSA-PSS whose parameters say or default to one of these
     * digests, for itself or its mask: to be refused anywhere but on a trust anchor. */
    bool is_weakly_signed;
    /* An algorithm that is on neither list. Never set with is_weakly_signed. The TLS library can be
     * left to refuse what it does not know; a caller of stricter mind refuses. */
    bool has_unknown_signature;
    bool has_must_staple; /* TLS Feature (RFC 7633) that lists status_request */
    bool is_ca;           /* basicConstraints says so */
    int32_t path_len_max; /* CAs that may follow a CA; -1 = no limit, or not a CA */
    bool may_sign;        /* keyUsage has digitalSignature, or there is no keyUsage */
    bool may_serve;       /* extKeyUsage has serverAuth or any, or there is none */
    moor_span
        name_constraints;     /* the extension's value, a SEQUENCE; base NULL when there is none */
    int64_t not_before_s;     /* seconds since 1970; both ends belong to the validity, */
    int64_t not_after_s;      /* which is empty if they are out of order. 9999-12-31: no end */
    moor_span san;            /* contents of GeneralNames; base NULL when there is none */
    moor_span subject_key_id; /* contents; base NULL when there is none */
    moor_span authority_key_id; /* the same */
};

/*
 * OK, or EPROTO with *out_what (static text; may be NULL) saying what is wrong; *out only on
 * success. Refused are: any encoding but DER where a field is looked at, trailing bytes anywhere,
 * an extension given twice, extensions without version 3, two signature algorithms that differ, and
 * a SAN that cannot be read to its end. Of an extension not named above only the frame is read:
 * whether a critical one is understood is for the TLS library to ask.
 * Two habits of real issuers are let pass: cA FALSE written out, and GeneralizedTime before 2050.
 */
MOOR_NODISCARD moor_err mr_cert_parse(moor_span der, struct mr_cert *out, const char **out_what);

enum mr_cert_san_kind { MR_CERT_SAN_DNS, MR_CERT_SAN_IP, MR_CERT_SAN_OTHER };

struct mr_cert_san {
    enum mr_cert_san_kind kind;
    moor_span value; /* DNS: any bytes at all; IP: 4 or 16; other: contents, undecoded */
};

/*
 * The next name of *rest, which starts as a parsed certificate's san. False: there are no more. It
 * cannot fail on the way, since mr_cert_parse has been through the list.
 */
MOOR_NODISCARD bool mr_cert_next_san(moor_span *rest, struct mr_cert_san *out);

/*
 * For people, never to be compared: "C=DE, O=Acme\, Inc., CN=localhost", in the certificate's own
 * order. A comma, plus or backslash inside a value has a backslash before it, so that no value looks
 * like two; bytes that are not printable ASCII become '?'. Types without a short name are dotted
 * numbers. Cut to fit (cap > 0), always ends in NUL. Return buf.
 */
const char *mr_cert_subject_text(const struct mr_cert *c, char *buf, size_t cap);
const char *mr_cert_issuer_text(const struct mr_cert *c, char *buf, size_t cap);

#endif
