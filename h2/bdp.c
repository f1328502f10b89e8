/*
 * Window growth by the bandwidth-delay product. Owns nothing; on the thread of the session; never
 * sends and never reads a clock.
 */
#include "h2/bdp.h"

#define SECOND_NS UINT64_C(1000000000)

void mr_h2_bdp_init(struct mr_h2_bdp *b, size_t window_now, size_t window_max)
{
    *b = (struct mr_h2_bdp){.window = window_now,
                            .window_max =
                                window_max < MR_H2_WINDOW_MAX ? window_max : MR_H2_WINDOW_MAX,
                            .gap_ns = MR_H2_BDP_GAP_MIN_NS};
}

/* Saturates: a peer may break its window, and the session finds that, not this. */
static size_t sum_of(size_t a, size_t b)
{
    return b > MR_H2_WINDOW_MAX - a ? MR_H2_WINDOW_MAX : a + b;
}

bool mr_h2_bdp_received(struct mr_h2_bdp *b, size_t bytes, int64_t now_ns)
{
    if (b->sampling) {
        b->sample_bytes = sum_of(b->sample_bytes, bytes);
        return false;
    }
    b->bytes_since = sum_of(b->bytes_since, bytes);
    if (!bytes || b->window >= b->window_max || now_ns < b->next_at_ns ||
        b->bytes_since < MR_H2_BDP_WORTH(b->window))
        return false;
    /* What made us ping counts: when a whole window comes at once, nothing else is under way. */
    b->sample_bytes = sum_of(0, bytes);
    b->bytes_since = 0;
    b->pinged_at_ns = now_ns;
    b->sampling = true;
    return true;
}

size_t mr_h2_bdp_pong(struct mr_h2_bdp *b, int64_t now_ns)
{
    if (!b->sampling)
        return 0;
    b->sampling = false;
    int64_t rtt_ns = now_ns - b->pinged_at_ns;
    if (rtt_ns < MR_H2_BDP_RTT_MIN_NS)
        rtt_ns = MR_H2_BDP_RTT_MIN_NS;
    /* At most 2^31 bytes, so the product fits. */
    const uint64_t bandwidth = (uint64_t)b->sample_bytes * SECOND_NS / (uint64_t)rtt_ns;
    const bool is_faster = bandwidth > b->bandwidth;
    if (is_faster)
        b->bandwidth = bandwidth;
    /* A full window that is no faster than before only fills queues on the way. */
    if (!is_faster || b->sample_bytes < b->window - b->window / 3) {
        b->gap_ns = b->gap_ns > MR_H2_BDP_GAP_MAX_NS / 2 ? MR_H2_BDP_GAP_MAX_NS : b->gap_ns * 2;
        b->next_at_ns = b->pinged_at_ns + b->gap_ns;
        return 0;
    }
    b->window = b->window > b->window_max / 2 ? b->window_max : b->window * 2;
    b->gap_ns = MR_H2_BDP_GAP_MIN_NS;
    b->next_at_ns = b->pinged_at_ns + b->gap_ns;
    return b->window;
}
