/*
 * The system's clocks behind mr_clock. Any thread.
 */
#include "base/clock.h"

#include <time.h>

static int64_t system_now(void *ctx)
{
    (void)ctx;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * MR_NS_PER_SEC + ts.tv_nsec;
}

const struct mr_clock mr_clock_system = {.now = system_now};

int64_t mr_clock_wall(const struct mr_clock *c)
{
    if (c->wall)
        return c->wall(c->ctx);
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec;
}

void mr_clock_pause(const struct mr_clock *c, int64_t ns)
{
    const struct timespec t = {.tv_nsec = ns};
    if (c->now == system_now)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}
