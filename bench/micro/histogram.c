/*
 * Recording a latency, which every request does several times, and reading the result.
 * One thread; the values are drawn before the clock starts.
 */
#include "base/histogram.h"
#include "bench/harness.h"

enum { VALUES = 4096 };

/* Latencies spread over four decades, as a loaded server's are; always the same ones. */
static void draw(int64_t *values)
{
    uint64_t seed = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < VALUES; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        values[i] = (int64_t)((seed & 0xffff) << (seed >> 60));
    }
}

static void record(struct mr_bench *b)
{
    static struct mr_histogram h;
    static struct mr_histogram_snapshot once;
    int64_t values[VALUES];
    draw(values);
    mr_histogram_reset(&h);
    once = (struct mr_histogram_snapshot){0};
    for (size_t i = 0; i < VALUES; i++)
        mr_histogram_record(&h, values[i]);
    mr_histogram_read(&h, &once);

    size_t at = 0;
    while (mr_bench_next(b, 64)) {
        for (size_t i = 0; i < 64; i++)
            mr_histogram_record(&h, values[at + i]);
        at = (at + 64) % VALUES;
    }
    mr_bench_checksum(b, once.sum_ns ^ (uint64_t)mr_histogram_percentile(&once, 99));
}

static void read_percentile(struct mr_bench *b)
{
    static struct mr_histogram h;
    static struct mr_histogram_snapshot s;
    int64_t values[VALUES];
    uint64_t p99 = 0;
    draw(values);
    mr_histogram_reset(&h);
    for (size_t i = 0; i < VALUES; i++)
        mr_histogram_record(&h, values[i]);
    while (mr_bench_next(b, 1)) {
        s = (struct mr_histogram_snapshot){0};
        mr_histogram_read(&h, &s);
        p99 = (uint64_t)mr_histogram_percentile(&s, 99);
        mr_bench_keep(p99);
    }
    mr_bench_checksum(b, p99);
}

static void merge(struct mr_bench *b)
{
    static struct mr_histogram h;
    static struct mr_histogram_snapshot one, all;
    int64_t values[VALUES];
    draw(values);
    mr_histogram_reset(&h);
    for (size_t i = 0; i < VALUES; i++)
        mr_histogram_record(&h, values[i]);
    one = all = (struct mr_histogram_snapshot){0};
    mr_histogram_read(&h, &one);
    while (mr_bench_next(b, 1)) {
        mr_histogram_merge(&all, &one);
        mr_bench_keep(&all);
    }
    mr_bench_checksum(b, (uint64_t)mr_histogram_percentile(&all, 99));
}

const struct mr_bench_case mr_bench_cases[] = {
    {.name = "histogram/record", .run = record},
    {.name = "histogram/read_p99", .run = read_percentile},
    {.name = "histogram/merge", .run = merge},
    {.name = NULL},
};
