/*
 * What a peer may do only so often: frames that cost us work or answers and carry nothing. Pure: time is an
 * argument. A bucket for each kind: a burst at once, then so many a second.
 */
#ifndef MR_H2_GUARD_H
#define MR_H2_GUARD_H

#include <stddef.h>
#include <stdint.h>

/* What was allowed and not used is kept up to so many bursts, so that a day of traffic is no licence to
 * flood. Yet 65,535 DATA frames of a byte fit the smallest window, and a peer that is legal may answer
 * each by two WINDOW_UPDATEs, all of them late. */
#define MR_H2_GUARD_BURSTS_MAX 256

/* kind, burst, per second, what is said when it is exceeded */
#define MR_H2_ABUSES(X)                                                                            \
    X(SETTINGS, 100, 10, "the peer floods with SETTINGS") /* CVE-2019-9515: each is answered */    \
    X(PING, 100, 10, "the peer floods with PING")         /* CVE-2019-9512: so is each */          \
    X(RST_STREAM, 1000, 200, "the peer resets too many streams") /* CVE-2019-9514, 2023-44487 */   \
    X(EMPTY_DATA, 100, 10, "the peer floods with empty DATA")    /* CVE-2019-9518 */               \
    X(PRIORITY, 200, 20,                                                                           \
      "the peer floods with frames of no use") /* and unknown ones: CVE-2019-9513 */               \
    X(TINY_WINDOW, 1000, 100, "the peer's windows are tiny") /* cut DATA of ours */                \
    X(WINDOW_UPDATE, 1000, 100,                                                                    \
      "the peer floods with WINDOW_UPDATE") /* beyond two a DATA frame of ours */

/* Below it DATA that a window cut is tiny; each frame of ours that is not allows one that is. */
enum { MR_H2_TINY_BYTES = 64 };

enum mr_h2_abuse {
#define X(name, ...) MR_H2_ABUSE_##name,
    MR_H2_ABUSES(X)
#undef X
        MR_H2_ABUSE_COUNT
};

struct mr_h2_guard {
    double left[MR_H2_ABUSE_COUNT];
    int64_t at_ns[MR_H2_ABUSE_COUNT];
    uint64_t hits; /* times a bound was passed */
};

void mr_h2_guard_init(struct mr_h2_guard *g, int64_t now_ns);
/* n of the kind came. NULL, or static text: the bound is passed. */
const char *mr_h2_guard_note(struct mr_h2_guard *g, enum mr_h2_abuse kind, uint32_t n,
                             int64_t now_ns);
/* We did what allows the peer n more. Never above MR_H2_GUARD_BURSTS_MAX bursts. */
void mr_h2_guard_allow(struct mr_h2_guard *g, enum mr_h2_abuse kind, uint32_t n);

#endif
