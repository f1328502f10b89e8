/*
 * Whether an upstream may be dialled now: exact caps, bounded concurrent dials, jittered backoff while it
 * is down, and after an outage one probe, then 2, 4, ...
 * Pure: time and randomness are arguments. The owner serialises calls (the pool's lock).
 */
#ifndef MR_POLICY_GATE_H
#define MR_POLICY_GATE_H

#include <mooring/error.h>

#include <stdint.h>

struct mr_gate_limits {
    uint32_t conns_max;     /* open and being dialled */
    uint32_t dials_max;     /* being dialled */
    int64_t backoff_min_ns; /* after the first failure in a row */
    int64_t backoff_max_ns; /* doubled up to here */
};

enum mr_gate_verdict {
    MR_GATE_GO,         /* counted in: mr_gate_dialed or mr_gate_failed must follow */
    MR_GATE_AT_CAP,     /* when a conn closes */
    MR_GATE_SHARED_CAP, /* when a conn of any gate under a common cap closes: the owner says it */
    MR_GATE_DIALS,      /* when a dial ends */
    MR_GATE_BACKOFF     /* at retry_at_ns */
};

struct mr_gate {
    struct mr_gate_limits limits;
    uint32_t conns; /* open and being dialled */
    uint32_t dials;
    uint32_t failures;   /* in a row */
    uint32_t ramp;       /* dials allowed at once after an outage; 0 = no ramp */
    int64_t retry_at_ns; /* not before; 0 = no backoff */
    moor_fault last;     /* of the last failed dial; err OK = none failed yet */
};

void mr_gate_init(struct mr_gate *g, const struct mr_gate_limits *limits);
enum mr_gate_verdict mr_gate_enter(struct mr_gate *g, int64_t now_ns);
/* The dial counted in succeeded: its conn stays counted until mr_gate_left. */
void mr_gate_dialed(struct mr_gate *g);
/* It failed; `is_ours` = the fault is local (descriptors, memory), which is no sign of an outage: the
 * next try waits for the shortest backoff only. A dial that was given up leaves no trace at all.
 * random: any 64 bits. */
void mr_gate_failed(struct mr_gate *g, const moor_fault *fault, int is_ours, int64_t now_ns,
                    uint64_t random);
/* A conn that had been dialled is gone. */
void mr_gate_left(struct mr_gate *g);
/* A conn that had been dialled was of no use, though nothing failed: no dial before until_ns. `what` is static. */
void mr_gate_rest(struct mr_gate *g, int64_t until_ns, const char *what);

#endif
