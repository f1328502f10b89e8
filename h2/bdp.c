/*
 * The bandwidth-delay product of what is received. Pure.
 */
#include "h2/bdp.h"

void mr_h2_bdp_init(struct mr_h2_bdp *b, size_t window, size_t window_max)
{
    *b = (struct mr_h2_bdp){
        .window = window,
        .window_max = window_max > window ? window_max : window,
        .gap_ns = MR_H2_BDP_GAP_MIN_NS,
    };
}

bool mr_h2_bdp_received(struct mr_h2_bdp *b, size_t bytes, int64_t now_ns)
{
    if (b->begun_ns) {
        b->sample += bytes;
        return false;
    }
    if (b->window >= b->window_max)
        return false;
    if (b->since < MR_H2_BDP_WORTH(b->window)) /* far enough: no sum can overflow */
        b->since += bytes;
    if (b->since < MR_H2_BDP_WORTH(b->window) || now_ns < b->next_ns)
        return false;
    b->since = 0;
    b->begun_ns = now_ns ? now_ns : 1;
    b->sample = bytes;
    return true;
}

size_t mr_h2_bdp_pong(struct mr_h2_bdp *b, int64_t now_ns)
{
    if (!b->begun_ns)
        return 0;
    const int64_t took_ns = now_ns > b->begun_ns ? now_ns - b->begun_ns : 1;
    const double rate = (double)b->sample / (double)took_ns;
    b->begun_ns = 0;
    /* A window that was nearly filled within a round trip held the path back; unless the path gave no more
     * than it had given through a smaller one. */
    const bool is_filled = b->sample >= b->window / 3 * 2;
    if (is_filled && rate > b->rate_max) {
        b->rate_max = rate;
        b->window = b->window < b->window_max / 2 ? b->window * 2 : b->window_max;
        b->gap_ns = MR_H2_BDP_GAP_MIN_NS;
        b->next_ns = now_ns;
        return b->window;
    }
    b->gap_ns = b->gap_ns < MR_H2_BDP_GAP_MAX_NS / 4 ? b->gap_ns * 4 : MR_H2_BDP_GAP_MAX_NS;
    b->next_ns = now_ns + b->gap_ns;
    return 0;
}
