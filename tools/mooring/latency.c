/*
 * Buckets of 1/64 of an octave, exact below 64 ns. Each histogram has one writer; merging is for
 * after the writers have stopped.
 */
#include "latency.h"

enum { SUB_BITS = 6, SUB = 1 << SUB_BITS };

static unsigned bucket_of(int64_t ns)
{
    const uint64_t n = ns > 0 ? (uint64_t)ns : 0;
    if (n < SUB)
        return (unsigned)n;
    const unsigned octave = 63U - (unsigned)__builtin_clzll(n) - SUB_BITS;
    const unsigned bucket = (octave + 1) * SUB + (unsigned)(n >> octave) - SUB;
    return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

static int64_t upper_end(unsigned bucket)
{
    if (bucket < SUB)
        return bucket;
    const unsigned octave = bucket / SUB - 1;
    return (int64_t)(((uint64_t)(bucket % SUB + SUB + 1) << octave) - 1);
}

void latency_record(struct latency *l, int64_t ns)
{
    l->counts[bucket_of(ns)]++;
    l->count++;
    if (ns > l->max_ns)
        l->max_ns = ns;
}

void latency_merge(struct latency *into, const struct latency *from)
{
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        into->counts[i] += from->counts[i];
    into->count += from->count;
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
}

int64_t latency_percentile(const struct latency *l, double percent)
{
    if (l->count == 0)
        return 0;
    double wanted = (double)l->count * percent / 100;
    if (wanted < 1)
        wanted = 1;
    uint64_t seen = 0;
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += l->counts[i];
        if ((double)seen >= wanted)
            return upper_end(i) < l->max_ns ? upper_end(i) : l->max_ns;
    }
    return l->max_ns;
}
