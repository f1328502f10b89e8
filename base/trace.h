/*
 * The last 64 things a shard did, for the panic that follows. Always on: one record is a handful of
 * stores. Owner thread only, but for printing.
 */
#ifndef MR_BASE_TRACE_H
#define MR_BASE_TRACE_H

#include <stdint.h>

#define MR_TRACE_EVENTS 64 /* a power of two */

struct mr_trace_event {
    int64_t at_ns;
    const char *what; /* static text: it outlives everything a panic may have broken */
    uint64_t a, b;    /* what they mean is the event's; often an object and a number */
};

/* Zeroed = empty and without a clock. */
struct mr_trace {
    const int64_t *now_ns; /* the owner's time of turn, borrowed; NULL = 0 is recorded */
    uint64_t count;        /* ever recorded */
    struct mr_trace_event events[MR_TRACE_EVENTS];
};

/* NULL is fine and records nothing. */
static inline void mr_trace_add(struct mr_trace *t, const char *what, uint64_t a, uint64_t b)
{
    if (!t)
        return;
    struct mr_trace_event *e = &t->events[t->count++ % MR_TRACE_EVENTS];
    *e = (struct mr_trace_event){.at_ns = t->now_ns ? *t->now_ns : 0, .what = what, .a = a, .b = b};
}

/* This thread's trace for mr_trace_panic; NULL when the thread is no shard any more. Any thread. */
void mr_trace_use(struct mr_trace *t);
/* The hook for mr_panic_set_hook: prints this thread's trace to stderr, oldest first. Never
 * allocates. */
void mr_trace_panic(void);
/* The same for any trace, to any descriptor, while its owner is at rest. */
void mr_trace_print(const struct mr_trace *t, int fd);

#endif
