/*
 * Whether an upstream may be dialled now. Pure; the owner serialises calls.
 */
#include "policy/gate.h"

#include "base/assert.h"

void mr_gate_init(struct mr_gate *g, const struct mr_gate_limits *limits)
{
    *g = (struct mr_gate){.limits = *limits};
}

enum mr_gate_verdict mr_gate_enter(struct mr_gate *g, int64_t now_ns)
{
    if (g->conns >= g->limits.conns_max)
        return MR_GATE_AT_CAP;
    if (now_ns < g->retry_at_ns)
        return MR_GATE_BACKOFF;
    const uint32_t allowed =
        g->ramp && g->ramp < g->limits.dials_max ? g->ramp : g->limits.dials_max;
    if (g->dials >= allowed)
        return MR_GATE_DIALS;
    g->conns++;
    g->dials++;
    return MR_GATE_GO;
}

void mr_gate_dialed(struct mr_gate *g)
{
    MR_ASSERT(g->dials > 0);
    g->dials--;
    g->failures = 0;
    g->retry_at_ns = 0;
    if (g->ramp)
        g->ramp = g->ramp * 2 >= g->limits.dials_max ? 0 : g->ramp * 2;
}

void mr_gate_failed(struct mr_gate *g, const moor_fault *fault, int is_ours, int64_t now_ns,
                    uint64_t random)
{
    MR_ASSERT(g->dials > 0 && g->conns > 0);
    g->dials--;
    g->conns--;
    if (fault->err == MOOR_ECANCELED)
        return;
    g->last = *fault;
    if (is_ours) { /* not the upstream's doing, yet trying again at once would spin */
        g->retry_at_ns = now_ns + g->limits.backoff_min_ns;
        return;
    }
    int64_t backoff = g->limits.backoff_min_ns;
    for (uint32_t i = 0; i < g->failures && backoff < g->limits.backoff_max_ns; i++)
        backoff *= 2;
    if (backoff > g->limits.backoff_max_ns)
        backoff = g->limits.backoff_max_ns;
    /* Between half and all of it, so that clients of one peer do not come back together. */
    if (backoff > 1)
        backoff = backoff / 2 + (int64_t)(random % (uint64_t)(backoff / 2 + 1));
    if (g->failures < UINT32_MAX)
        g->failures++;
    g->ramp = 1;
    g->retry_at_ns = now_ns + backoff;
}

void mr_gate_left(struct mr_gate *g)
{
    MR_ASSERT(g->conns > 0);
    g->conns--;
}

void mr_gate_rest(struct mr_gate *g, int64_t until_ns, const char *what)
{
    g->last = (moor_fault){.err = MOOR_OK, .what = what};
    if (g->retry_at_ns < until_ns)
        g->retry_at_ns = until_ns;
}
