/*
 * The bandwidth-delay product of what is received, measured by PINGs, so that windows grow only where a path
 * carries more. Pure: time is an argument. Never says to shrink.
 */
#ifndef MR_H2_BDP_H
#define MR_H2_BDP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Between two samples; four times as much while they say the same. Bounds our own PINGs. */
#define MR_H2_BDP_GAP_MIN_NS (100 * 1000000LL)
#define MR_H2_BDP_GAP_MAX_NS (1000000000LL)
/* No sample before this part of a window came since the last one: short replies teach nothing, so they cost
 * no PING and do not lengthen the gap that a long one then has to wait out. */
#define MR_H2_BDP_WORTH(window) ((window) / 4)

struct mr_h2_bdp {
    size_t window, window_max;
    size_t sample;    /* bytes since the PING left */
    size_t since;     /* bytes since the last sample */
    int64_t begun_ns; /* of the sample under way; 0 = none */
    int64_t next_ns;  /* none begins before */
    int64_t gap_ns;
    double rate_max; /* bytes a nanosecond, the most seen */
};

void mr_h2_bdp_init(struct mr_h2_bdp *b, size_t window, size_t window_max);
/* True: a PING is to leave now, a sample begins. */
bool mr_h2_bdp_received(struct mr_h2_bdp *b, size_t bytes, int64_t now_ns);
/* Its answer: the window to use from now on, or 0 for no change. */
size_t mr_h2_bdp_pong(struct mr_h2_bdp *b, int64_t now_ns);

#endif
