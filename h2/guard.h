/*
 * How much a peer may make us do for nothing: a token bucket for each kind of frame that costs it
 * less than us. What our own traffic explains (a WINDOW_UPDATE for each DATA frame sent) is added
 * by mr_h2_guard_allow, so that a busy legal peer never runs dry.
 * Pure: time is an argument. Whoever owns the session owns the thread. Closes nothing itself.
 */
#ifndef MR_H2_GUARD_H
#define MR_H2_GUARD_H

#include <stdint.h>

/* SETTINGS that are no acknowledgement: each is applied and acknowledged. CVE-2019-9515. A server
 * sends one, and now and then another. */
#define MR_H2_SETTINGS_BURST   32u
#define MR_H2_SETTINGS_PER_SEC 4u
/* PINGs that are no acknowledgement: each is answered, and answers queue up for a peer that does
 * not read. CVE-2019-9512. A peer that measures our upload sends many: allow by DATA sent. */
#define MR_H2_PING_BURST    256u
#define MR_H2_PING_PER_SEC  50u
#define MR_H2_PING_PER_DATA 1u
/* RST_STREAM received, and malformed frames that make us send one. CVE-2019-9514, CVE-2023-44487.
 * An overloaded server may refuse every stream: allow by streams opened. */
#define MR_H2_RST_STREAM_BURST       128u
#define MR_H2_RST_STREAM_PER_SEC     32u
#define MR_H2_RST_STREAM_PER_REQUEST 1u
/* DATA without bytes and without END_STREAM: nine octets that only cost. CVE-2019-9518. */
#define MR_H2_EMPTY_DATA_BURST   128u
#define MR_H2_EMPTY_DATA_PER_SEC 32u
/* PRIORITY, PRIORITY_UPDATE, ALTSVC, ORIGIN and unknown frames: read and dropped. CVE-2019-9513,
 * CVE-2019-9518. */
#define MR_H2_PRIORITY_BURST   256u
#define MR_H2_PRIORITY_PER_SEC 64u
/* Each may wake a stream, only to send one byte. CVE-2019-9511, CVE-2019-9517. A legal peer sends
 * one for the stream and one for the connection after each DATA frame: allow by DATA sent. */
#define MR_H2_WINDOW_UPDATE_BURST    1024u
#define MR_H2_WINDOW_UPDATE_PER_SEC  128u
#define MR_H2_WINDOW_UPDATE_PER_DATA 2u
/* Heads of 1xx: a reply that never begins. Allow by requests sent: each may be told 100 and 103. */
#define MR_H2_INTERIM_BURST       128u
#define MR_H2_INTERIM_PER_SEC     32u
#define MR_H2_INTERIM_PER_REQUEST 4u
/* A head that never ends, by many frames. CVE-2024-27316 and CVE-2024-28182. */
#define MR_H2_CONTINUATION_BURST       64u
#define MR_H2_CONTINUATION_PER_SEC     16u
#define MR_H2_CONTINUATION_PER_REQUEST 4u
/* Bytes of fields after HPACK: a byte on the wire can name kilobytes of the table. CVE-2016-6581,
 * CVE-2019-9516 (fields of no length: count the 32 of RFC 7541 4.1 for each). Allow by requests. */
#define MR_H2_HEADER_BYTES_BURST       (1024u * 1024u)
#define MR_H2_HEADER_BYTES_PER_SEC     (128u * 1024u)
#define MR_H2_HEADER_BYTES_PER_REQUEST (64u * 1024u)

/* What was allowed and not used is kept up to so many bursts: a peer that was quiet through a day
 * of traffic may not flood us with all of it at once. Yet 65,535 DATA frames of one byte fit a
 * window, and each may be answered. */
#define MR_H2_GUARD_BURSTS_MAX 256u

/* name, and the reason when it is too much. */
#define MR_H2_ABUSES(X)                                                                            \
    X(SETTINGS, "the peer floods with SETTINGS")                                                   \
    X(PING, "the peer floods with PING")                                                           \
    X(RST_STREAM, "the peer floods with RST_STREAM")                                               \
    X(EMPTY_DATA, "the peer floods with empty DATA")                                               \
    X(PRIORITY, "the peer floods with frames that carry nothing")                                  \
    X(WINDOW_UPDATE, "the peer floods with WINDOW_UPDATE")                                         \
    X(INTERIM, "the peer floods with interim heads")                                               \
    X(CONTINUATION, "the peer floods with CONTINUATION")                                           \
    X(HEADER_BYTES, "the peer floods with header fields")

enum mr_h2_abuse {
#define X(name, text) MR_H2_ABUSE_##name,
    MR_H2_ABUSES(X)
#undef X
        MR_H2_ABUSE_COUNT
};

struct mr_h2_guard {
    struct {
        uint64_t left; /* in billionths of a token: a nanosecond adds a whole number of them */
        int64_t filled_at_ns;
    } buckets[MR_H2_ABUSE_COUNT];
    uint64_t hits; /* how often a bucket was found empty */
};

/* Every bucket holds its burst. */
void mr_h2_guard_init(struct mr_h2_guard *g, int64_t now_ns);
/* The peer did it n times (or sent n bytes). NULL, or the reason to end the conn as static text;
 * the bucket is empty then, so the next is one too many as well. */
const char *mr_h2_guard_note(struct mr_h2_guard *g, enum mr_h2_abuse kind, uint32_t n,
                             int64_t now_ns);
/* Our own traffic explains n more, see MR_H2_..._PER_DATA and _PER_REQUEST. */
void mr_h2_guard_allow(struct mr_h2_guard *g, enum mr_h2_abuse kind, uint32_t n);

#endif
