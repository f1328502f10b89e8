/*
 * Latencies of one thread: a log-linear histogram, 0 to 4398 s, within 1.6 %. The library's own measures
 * from the call; this one can start earlier, at the moment a paced request was due.
 */
#ifndef TOOL_LATENCY_H
#define TOOL_LATENCY_H

#include <stdint.h>

enum { LATENCY_BUCKETS = 38 * 64 };

struct latency {
    uint64_t counts[LATENCY_BUCKETS];
    uint64_t count;
    int64_t max_ns;
};

void latency_record(struct latency *l, int64_t ns);
void latency_merge(struct latency *into, const struct latency *from);
/* percent: 0..100. The upper end of the bucket, never above max_ns; 0 if empty. */
int64_t latency_percentile(const struct latency *l, double percent);

#endif
