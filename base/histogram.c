/*
 * Reading, merging and ageing histograms. Records are made inline, in the header.
 * Any thread for snapshots; the writer's thread for halve and reset.
 */
#include "base/histogram.h"
#include "base/clock.h"

_Static_assert(INT64_C(1) << MR_HISTOGRAM_TOP_BITS > 3600 * MR_NS_PER_SEC, "an hour fits");

/*
 * Percentiles need shares, not totals: when a bucket has counted 2^32 all are halved, and what was
 * seen since weighs double. count, sum and max are not touched.
 */
void mr_histogram_halve(struct mr_histogram *h)
{
    for (size_t i = 0; i < MR_HISTOGRAM_BUCKETS; i++) {
        const uint32_t n = atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
        if (n)
            atomic_store_explicit(&h->buckets[i], n - n / 2, memory_order_relaxed);
    }
}

void mr_histogram_reset(struct mr_histogram *h)
{
    atomic_store_explicit(&h->count, 0, memory_order_relaxed);
    atomic_store_explicit(&h->sum_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&h->max_ns, 0, memory_order_relaxed);
    for (size_t i = 0; i < MR_HISTOGRAM_BUCKETS; i++)
        if (atomic_load_explicit(&h->buckets[i], memory_order_relaxed))
            atomic_store_explicit(&h->buckets[i], 0, memory_order_relaxed);
}

void mr_histogram_read(const struct mr_histogram *h, struct mr_histogram_snapshot *into)
{
    const uint64_t max = atomic_load_explicit(&h->max_ns, memory_order_relaxed);
    into->count += atomic_load_explicit(&h->count, memory_order_relaxed);
    into->sum_ns += atomic_load_explicit(&h->sum_ns, memory_order_relaxed);
    if (max > into->max_ns)
        into->max_ns = max;
    for (size_t i = 0; i < MR_HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
}

void mr_histogram_merge(struct mr_histogram_snapshot *into,
                        const struct mr_histogram_snapshot *from)
{
    into->count += from->count;
    into->sum_ns += from->sum_ns;
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
    for (size_t i = 0; i < MR_HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

/* The middle of a bucket: at most half its width, 1/128 of its value, from anything in it. */
static uint64_t bucket_middle(size_t i)
{
    if (i < (1U << MR_HISTOGRAM_SUB_BITS))
        return i;
    const unsigned shift = (unsigned)(i >> MR_HISTOGRAM_SUB_BITS) - 1;
    const uint64_t low = (uint64_t)(i - ((uint64_t)shift << MR_HISTOGRAM_SUB_BITS)) << shift;
    return low + ((UINT64_C(1) << shift) >> 1);
}

moor_ns mr_histogram_percentile(const struct mr_histogram_snapshot *s, double percent)
{
    /* Not s->count: buckets may have been halved, and a copy taken during a record may lack one. */
    uint64_t total = 0;
    for (size_t i = 0; i < MR_HISTOGRAM_BUCKETS; i++)
        total += s->buckets[i];
    if (total == 0)
        return 0;
    if (percent >= 100.0)
        return (moor_ns)s->max_ns;
    double rank = percent > 0.0 ? (double)total * (percent / 100.0) : 0.0;
    if (rank < 1.0)
        rank = 1.0;
    uint64_t seen = 0;
    size_t i = 0;
    for (; i < MR_HISTOGRAM_BUCKETS - 1; i++) {
        seen += s->buckets[i];
        if ((double)seen >= rank)
            break;
    }
    const uint64_t value = bucket_middle(i);
    return (moor_ns)(value > s->max_ns ? s->max_ns : value);
}

moor_ns mr_histogram_mean(const struct mr_histogram_snapshot *s)
{
    return s->count ? (moor_ns)(s->sum_ns / s->count) : 0;
}
