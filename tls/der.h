/*
 * DER (X.690 section 10), strictly, one element at a time: tags of one byte, definite lengths in
 * their shortest form. Pure; any thread.
 */
#ifndef MR_TLS_DER_H
#define MR_TLS_DER_H

#include <mooring/types.h>

enum mr_der_tag {
    MR_DER_BOOLEAN = 0x01,
    MR_DER_INTEGER = 0x02,
    MR_DER_BIT_STRING = 0x03,
    MR_DER_OCTET_STRING = 0x04,
    MR_DER_NULL = 0x05,
    MR_DER_OID = 0x06,
    MR_DER_UTC_TIME = 0x17,
    MR_DER_GENERALIZED_TIME = 0x18,
    MR_DER_SEQUENCE = 0x30,
    MR_DER_SET = 0x31,
};
/* [n] IMPLICIT of a primitive type; [n] EXPLICIT, or IMPLICIT of a constructed one. */
#define MR_DER_CONTEXT(n)    (0x80u | (n))
#define MR_DER_CONTEXT_OF(n) (0xa0u | (n))

/* TLS carries certificates of up to 2^24 - 1 bytes: longer length fields are refused. */
#define MR_DER_LENGTH_BYTES_MAX 3

struct mr_der {
    unsigned tag;
    moor_span whole; /* header and contents */
    moor_span body;  /* contents */
};

/* Takes the first element off *rest. False if it is malformed or there is none; nothing changes. */
MOOR_NODISCARD bool mr_der_next(moor_span *rest, struct mr_der *out);
/* The same, but false if its tag is another. */
MOOR_NODISCARD bool mr_der_take(moor_span *rest, unsigned tag, struct mr_der *out);
/* Does the first element have this tag? To be asked before an optional one is taken. */
bool mr_der_is_next(moor_span rest, unsigned tag);

/* What follows reads contents. *out only on success. */
MOOR_NODISCARD bool mr_der_to_bool(moor_span body, bool *out);
/* An integer in its shortest form, of any size and sign? */
bool mr_der_is_integer(moor_span body);
/* One from 0 to 2^31 - 1. */
MOOR_NODISCARD bool mr_der_to_int(moor_span body, int32_t *out);
/* Bits of a positive integer, without leading zeros; 0 if it is malformed, negative or zero. */
uint32_t mr_der_integer_bits(moor_span body);
/* At least one sub-identifier, each in its shortest form, the last one complete? */
bool mr_der_is_oid(moor_span body);
/* A BIT STRING of whole octets. */
MOOR_NODISCARD bool mr_der_to_octets(moor_span body, moor_span *out);
/*
 * UTCTime or GeneralizedTime, as the tag says, in the one form RFC 5280 4.1.2.5 leaves: to the
 * second, Z, no fraction. Seconds since 1970, negative before. Two digits of a year mean
 * 1950 to 2049. A leap second is refused: no certificate needs one, and no clock here counts it.
 */
MOOR_NODISCARD bool mr_der_to_time(unsigned tag, moor_span body, int64_t *out_s);

#endif
