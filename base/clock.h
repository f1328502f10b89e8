/*
 * The only source of time. Shards sample it once a turn; tests and the simulator own it.
 */
#ifndef MR_BASE_CLOCK_H
#define MR_BASE_CLOCK_H

#include <stdint.h>

#define MR_NS_PER_US  INT64_C(1000)
#define MR_NS_PER_MS  INT64_C(1000000)
#define MR_NS_PER_SEC INT64_C(1000000000)
#define MR_NEVER      INT64_MAX /* a deadline that does not come */

struct mr_clock {
    int64_t (*now)(void *ctx);  /* monotonic nanoseconds; any thread */
    int64_t (*wall)(void *ctx); /* seconds since 1970, UTC; any thread; NULL = the system's */
    void *ctx;
};

/* CLOCK_MONOTONIC. */
extern const struct mr_clock mr_clock_system;

static inline int64_t mr_clock_now(const struct mr_clock *c)
{
    return c->now(c->ctx);
}

/* What certificates and tickets are dated in. Never for deadlines: it jumps. */
int64_t mr_clock_wall(const struct mr_clock *c);

/* Sleeps so long, under a second; not at all where the clock is not the system's. One caller: see mr_shard_turn. */
void mr_clock_pause(const struct mr_clock *c, int64_t ns);

/* Relative milliseconds as callers give them (negative = for ever) to an absolute deadline, saturating. */
static inline int64_t mr_deadline(int64_t now_ns, int64_t relative_ms)
{
    if (relative_ms < 0 || relative_ms > (MR_NEVER - now_ns) / MR_NS_PER_MS)
        return MR_NEVER;
    return now_ns + relative_ms * MR_NS_PER_MS;
}

#endif
