/*
 * A filter for tests with everything a real one has: a handshake, records, its own end marker,
 * limited room for output, input kept while a record is not whole. Secret it is not: bytes xored
 * with a count.
 *
 * Wire, each way: 4 bytes of handshake ("XOR1" from the client, "YES!" or "NO!!" back), then
 * records of a 16-bit big-endian length and as many bytes; length 0 is the end.
 */
#ifndef TESTS_SUPPORT_XOR_FILTER_H
#define TESTS_SUPPORT_XOR_FILTER_H

#include "core/conn.h"
#include "core/pool.h"

#define XOR_RECORD_LIMIT 65535
#define XOR_ASK          "XOR1"
#define XOR_GRANT        "YES!"
#define XOR_REFUSE       "NO!!"

struct xor_options {
    uint32_t record_max; /* bytes of one record out; the room a filter has for output */
};

/* What all filters of a test did; one thread. */
struct xor_counts {
    unsigned made, opened, dropped;
    unsigned shut, ended; /* end markers sent, received */
    unsigned truncated;   /* ends that were not announced */
    unsigned partial;     /* records that came in several pieces */
    size_t idle_bytes;    /* of one filter with nothing under way */
};
extern struct xor_counts xor_counts;

/* Byte number `at` of a stream is xored with this. */
static inline uint8_t xor_key(bool is_from_client, uint64_t at)
{
    return (uint8_t)((is_from_client ? 0x5a : 0xa5) + at * 7 + (at >> 8));
}

/* Adds one on top; its memory is the runtime's. */
MOOR_NODISCARD moor_err xor_filter_add(struct mr_upstream *u, struct mr_conn *c,
                                       const struct xor_options *o);

#endif
