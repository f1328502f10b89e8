/*
 * How long to let responses gather before they are received. Pure.
 */
#include "h2/gather.h"

static void count(struct mr_h2_gather *g, uint32_t ended, int64_t now_ns)
{
    const int64_t span = now_ns - g->begun_ns;
    if (span >= MR_H2_GATHER_SPAN_NS) {
        g->each_ns = g->ended ? span / g->ended : 0;
        g->ended = 0;
        g->begun_ns = now_ns;
    }
    g->now = (now_ns == g->heard_ns ? g->now : 0) + ended;
    g->heard_ns = now_ns;
    g->ended += ended;
}

int64_t mr_h2_gather(struct mr_h2_gather *g, uint32_t ended, uint32_t open, int64_t max_ns,
                     int64_t now_ns)
{
    count(g, ended, now_ns);
    const uint32_t worth = open / MR_H2_GATHER_SHARE;
    if (worth < 2 || g->each_ns == 0 || g->now >= worth)
        return 0;
    int64_t wait = worth * g->each_ns;
    if (wait > max_ns)
        wait = max_ns;
    return 2 * wait >= 3 * g->each_ns ? wait : 0;
}
