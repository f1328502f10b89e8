/*
 * The system's monotonic clock behind mr_clock. Any thread.
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
