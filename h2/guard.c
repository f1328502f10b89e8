/*
 * What a peer may do only so often. Pure.
 */
#include "h2/guard.h"

static const struct {
    double burst, per_second;
    const char *what;
} bounds[] = {
#define X(name, burst, per_second, what) {burst, per_second, what},
    MR_H2_ABUSES(X)
#undef X
};

void mr_h2_guard_init(struct mr_h2_guard *g, int64_t now_ns)
{
    g->hits = 0;
    for (int i = 0; i < MR_H2_ABUSE_COUNT; i++) {
        g->left[i] = bounds[i].burst;
        g->at_ns[i] = now_ns;
    }
}

const char *mr_h2_guard_note(struct mr_h2_guard *g, enum mr_h2_abuse kind, uint32_t n,
                             int64_t now_ns)
{
    const double gained = (double)(now_ns - g->at_ns[kind]) / 1e9 * bounds[kind].per_second;
    if (gained > 0) {
        const double full = bounds[kind].burst;
        if (g->left[kind] < full)
            g->left[kind] = g->left[kind] + gained < full ? g->left[kind] + gained : full;
        g->at_ns[kind] = now_ns;
    }
    g->left[kind] -= n;
    if (g->left[kind] >= 0)
        return NULL;
    g->hits++;
    return bounds[kind].what;
}

void mr_h2_guard_allow(struct mr_h2_guard *g, enum mr_h2_abuse kind, uint32_t n)
{
    const double most = bounds[kind].burst * MR_H2_GUARD_BURSTS_MAX;
    g->left[kind] = g->left[kind] + n < most ? g->left[kind] + n : most;
}
