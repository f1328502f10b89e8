/*
 * Abuse bounds of one HTTP/2 connection. Owns its buckets; on the thread of the session; never
 * closes, never reads a clock.
 */
#include "h2/guard.h"

#include "base/assert.h"

/* A token, in the unit of a bucket. 256 bursts of a megabyte stay below 2^58. */
#define TOKEN UINT64_C(1000000000)

static const struct {
    uint64_t burst;   /* in tokens */
    uint64_t per_sec; /* in tokens, hence per nanosecond in the unit of a bucket */
    const char *reason;
} kinds[] = {
#define X(name, text) {MR_H2_##name##_BURST, MR_H2_##name##_PER_SEC, text},
    MR_H2_ABUSES(X)
#undef X
};

void mr_h2_guard_init(struct mr_h2_guard *g, int64_t now_ns)
{
    g->hits = 0;
    for (size_t k = 0; k < MR_H2_ABUSE_COUNT; k++) {
        g->buckets[k].left = kinds[k].burst * TOKEN;
        g->buckets[k].filled_at_ns = now_ns;
    }
}

/* Time fills up to the burst; what lies above was allowed, and stays. */
static void refill(struct mr_h2_guard *g, enum mr_h2_abuse kind, int64_t now_ns)
{
    const int64_t passed_ns = now_ns - g->buckets[kind].filled_at_ns;
    if (passed_ns <= 0)
        return;
    g->buckets[kind].filled_at_ns = now_ns;
    const uint64_t full = kinds[kind].burst * TOKEN;
    if (g->buckets[kind].left >= full)
        return;
    const uint64_t missing = full - g->buckets[kind].left;
    if ((uint64_t)passed_ns >= missing / kinds[kind].per_sec + 1)
        g->buckets[kind].left = full;
    else /* below missing + per_sec: no overflow */
        g->buckets[kind].left += (uint64_t)passed_ns * kinds[kind].per_sec;
}

const char *mr_h2_guard_note(struct mr_h2_guard *g, enum mr_h2_abuse kind, uint32_t n,
                             int64_t now_ns)
{
    MR_ASSERT((unsigned)kind < MR_H2_ABUSE_COUNT);
    const uint64_t taken = n * TOKEN;
    refill(g, kind, now_ns);
    if (g->buckets[kind].left >= taken) {
        g->buckets[kind].left -= taken;
        return NULL;
    }
    g->buckets[kind].left = 0;
    g->hits++;
    return kinds[kind].reason;
}

void mr_h2_guard_allow(struct mr_h2_guard *g, enum mr_h2_abuse kind, uint32_t n)
{
    MR_ASSERT((unsigned)kind < MR_H2_ABUSE_COUNT);
    const uint64_t most = kinds[kind].burst * MR_H2_GUARD_BURSTS_MAX * TOKEN;
    const uint64_t added = n * TOKEN;
    g->buckets[kind].left =
        added < most - g->buckets[kind].left ? g->buckets[kind].left + added : most;
}
