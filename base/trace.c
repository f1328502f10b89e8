/*
 * Printing traces, from a process that is about to abort: no allocation, no stdio buffers, no
 * locks. The only thread-local variable is here, read on that path alone.
 */
#include "base/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

static _Thread_local struct mr_trace *current;

void mr_trace_use(struct mr_trace *t)
{
    current = t;
}

void mr_trace_panic(void)
{
    if (current)
        mr_trace_print(current, STDERR_FILENO);
}

void mr_trace_print(const struct mr_trace *t, int fd)
{
    const uint64_t first = t->count > MR_TRACE_EVENTS ? t->count - MR_TRACE_EVENTS : 0;
    const int64_t base = t->count ? t->events[first % MR_TRACE_EVENTS].at_ns : 0;
    for (uint64_t i = first; i < t->count; i++) {
        const struct mr_trace_event *e = &t->events[i % MR_TRACE_EVENTS];
        char line[160];
        const int len =
            snprintf(line, sizeof line,
                     "mooring: trace %" PRIu64 " +%" PRId64 " us %.64s %#" PRIx64 " %" PRIu64 "\n",
                     i, (e->at_ns - base) / 1000, e->what, e->a, e->b);
        /* A short or failed write to stderr has no remedy here. */
        if (len > 0 &&
            write(fd, line, (size_t)len < sizeof line ? (size_t)len : sizeof line - 1) < 0)
            return;
    }
}
