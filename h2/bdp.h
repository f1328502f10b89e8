/*
 * Grows the receive windows of one connection to the bandwidth-delay product of what the peer
 * sends: bytes are counted from a PING of ours to its acknowledgement, which is one round trip.
 * Pure: time is an argument. Whoever owns the session owns the thread. Sends nothing itself.
 */
#ifndef MR_H2_BDP_H
#define MR_H2_BDP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Between two PINGs while the window grows: at most 50 a second, and a window can double only 31
 * times, so this pace cannot last. Servers count PINGs and close on a flood. */
#define MR_H2_BDP_GAP_MIN_NS INT64_C(20000000)
/* Doubled up to here by samples that grew nothing. */
#define MR_H2_BDP_GAP_MAX_NS INT64_C(1000000000)
/* No PING before this part of a window came since the last sample: a conn of short replies has
 * nothing to learn, and its peer sees no PINGs at all. */
#define MR_H2_BDP_WORTH(window) ((window) / 4)
/* The clock is read once a turn of the loop; a round trip that seems shorter is taken as this. */
#define MR_H2_BDP_RTT_MIN_NS INT64_C(1000)
/* RFC 9113 6.9.1. */
#define MR_H2_WINDOW_MAX 0x7fffffffu

struct mr_h2_bdp {
    size_t window;       /* in use */
    size_t window_max;   /* never above; reached, no more PINGs are asked for */
    size_t sample_bytes; /* since the PING and with what made us send it; stops at WINDOW_MAX */
    size_t bytes_since;  /* the last sample */
    uint64_t bandwidth;  /* the best sample so far, bytes per second */
    int64_t pinged_at_ns;
    int64_t next_at_ns; /* no PING before; 0 = at once */
    int64_t gap_ns;
    bool sampling; /* a PING is under way */
};

/* window_max below window_now (or equal) = never grow; more than MR_H2_WINDOW_MAX means that. */
void mr_h2_bdp_init(struct mr_h2_bdp *b, size_t window_now, size_t window_max);
/* So many bytes of DATA came (padding included). True = send a PING now; its acknowledgement is
 * told to mr_h2_bdp_pong. The caller tells its PINGs apart by their payload. */
bool mr_h2_bdp_received(struct mr_h2_bdp *b, size_t bytes, int64_t now_ns);
/* The PING of the sample came back: the window to use from now on, or 0 for no change. Without a
 * sample under way (a peer may acknowledge what was never sent) it is 0. */
size_t mr_h2_bdp_pong(struct mr_h2_bdp *b, int64_t now_ns);

#endif
