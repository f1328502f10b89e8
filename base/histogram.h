/*
 * Log-linear histogram of nanoseconds: below 64 ns exact, above that 64 buckets an octave, so that
 * a percentile is within 0.8 % of a value that was recorded. 1 ns to 2.4 hours; longer counts as
 * that.
 *
 * One writer, any number of readers, no locks: a reader copies into a snapshot, which may be an
 * instant's mixture of before and after a record. Snapshots merge, over shards and over pools.
 */
#ifndef MR_BASE_HISTOGRAM_H
#define MR_BASE_HISTOGRAM_H

#include <mooring/types.h>

#include <stdatomic.h>

#define MR_HISTOGRAM_SUB_BITS 6  /* 64 buckets an octave */
#define MR_HISTOGRAM_TOP_BITS 43 /* values are below 2^43 ns */
#define MR_HISTOGRAM_BUCKETS                                                                       \
    ((MR_HISTOGRAM_TOP_BITS - MR_HISTOGRAM_SUB_BITS + 1) << MR_HISTOGRAM_SUB_BITS)

/* 9.8 KB, of which only the pages of octaves in use are ever touched. Zeroed = empty. */
struct mr_histogram {
    _Atomic uint64_t count;
    _Atomic uint64_t sum_ns;
    _Atomic uint64_t max_ns;
    _Atomic uint32_t buckets[MR_HISTOGRAM_BUCKETS];
};

/* A reader's copy. Zeroed = empty. 64-bit, so that merging many cannot overflow. */
struct mr_histogram_snapshot {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns;
    uint64_t buckets[MR_HISTOGRAM_BUCKETS];
};

/* The rare path of a record: a bucket is full. The writer only. */
void mr_histogram_halve(struct mr_histogram *h);

static inline uint32_t mr_histogram_bucket(uint64_t ns)
{
    if (ns < (1U << MR_HISTOGRAM_SUB_BITS))
        return (uint32_t)ns;
    if (ns >> MR_HISTOGRAM_TOP_BITS)
        return MR_HISTOGRAM_BUCKETS - 1;
    const unsigned shift = 63U - (unsigned)__builtin_clzll(ns) - MR_HISTOGRAM_SUB_BITS;
    return (shift << MR_HISTOGRAM_SUB_BITS) + (uint32_t)(ns >> shift);
}

/* The writer only. Negative counts as 0: clocks of two cores may disagree by a tick. */
static inline void mr_histogram_record(struct mr_histogram *h, int64_t ns)
{
    const uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    _Atomic uint32_t *bucket = &h->buckets[mr_histogram_bucket(value)];
    /* Loads and stores instead of read-modify-write: with one writer nothing can come between. */
    const uint32_t seen = atomic_load_explicit(bucket, memory_order_relaxed);
    atomic_store_explicit(bucket, seen + 1, memory_order_relaxed);
    atomic_store_explicit(&h->count, atomic_load_explicit(&h->count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    atomic_store_explicit(&h->sum_ns,
                          atomic_load_explicit(&h->sum_ns, memory_order_relaxed) + value,
                          memory_order_relaxed);
    if (value > atomic_load_explicit(&h->max_ns, memory_order_relaxed))
        atomic_store_explicit(&h->max_ns, value, memory_order_relaxed);
    if (__builtin_expect(seen == UINT32_MAX - 1, 0))
        mr_histogram_halve(h);
}

/* The writer, or anybody while it is at rest. */
void mr_histogram_reset(struct mr_histogram *h);

/* Adds what `h` has to the snapshot. Any thread, while the writer writes. */
void mr_histogram_read(const struct mr_histogram *h, struct mr_histogram_snapshot *into);
void mr_histogram_merge(struct mr_histogram_snapshot *into,
                        const struct mr_histogram_snapshot *from);
/* percent 0..100 (clamped): the value at or below which that share lies; 100 = the largest. Empty:
 * 0. */
moor_ns mr_histogram_percentile(const struct mr_histogram_snapshot *s, double percent);
/* Exact up to the rounding; empty: 0. */
moor_ns mr_histogram_mean(const struct mr_histogram_snapshot *s);

#endif
