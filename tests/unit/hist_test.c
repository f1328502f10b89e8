/* The histogram against sorted values: error bounds, edges, merging, a reader beside the writer. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/histogram.h"

#include <pthread.h>

static struct mr_histogram h;
static struct mr_histogram_snapshot s;

static int fresh(void **state)
{
    (void)state;
    mr_histogram_reset(&h);
    memset(&s, 0, sizeof s);
    return 0;
}

static void test_buckets_are_contiguous(void **state)
{
    (void)state;
    uint32_t last = 0;
    for (uint64_t ns = 0; ns < 1U << 20; ns++) {
        const uint32_t i = mr_histogram_bucket(ns);
        assert_in_range(i, last, last + 1);
        last = i;
    }
    assert_int_equal(mr_histogram_bucket((UINT64_C(1) << 43) - 1), MR_HISTOGRAM_BUCKETS - 1);
    assert_int_equal(mr_histogram_bucket(UINT64_MAX), MR_HISTOGRAM_BUCKETS - 1);
    /* Every octave's first value opens a bucket. */
    for (unsigned bit = 6; bit < 43; bit++)
        assert_int_equal(mr_histogram_bucket(UINT64_C(1) << bit),
                         mr_histogram_bucket((UINT64_C(1) << bit) - 1) + 1);
}

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a;
    const int64_t y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_percentiles_are_within_one_percent(void **state)
{
    (void)state;
    enum { N = 50000 };
    static int64_t values[N];
    uint64_t random = 12345;
    for (int i = 0; i < N; i++) {
        random = random * UINT64_C(6364136223846793005) + 1;
        /* Evenly over the octaves from 1 ns to an hour. */
        const unsigned octave = (unsigned)(random >> 33) % 42;
        values[i] = (int64_t)((UINT64_C(1) << octave) + (random >> 20) % (UINT64_C(1) << octave));
        if (values[i] > 3600 * MR_NS_PER_SEC)
            values[i] = 3600 * MR_NS_PER_SEC;
        mr_histogram_record(&h, values[i]);
    }
    qsort(values, N, sizeof *values, by_value);
    mr_histogram_read(&h, &s);
    static const double percents[] = {0.1, 1, 10, 25, 50, 75, 90, 99, 99.9, 99.99};
    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        const int64_t exact = values[(size_t)(percents[i] / 100 * N + 0.5) - 1];
        const int64_t got = mr_histogram_percentile(&s, percents[i]);
        assert_true(llabs(got - exact) <= exact / 100);
    }
    assert_int_equal(mr_histogram_percentile(&s, 100), values[N - 1]);
    assert_int_equal(s.count, N);
}

static void test_edges(void **state)
{
    (void)state;
    mr_histogram_read(&h, &s);
    assert_int_equal(mr_histogram_percentile(&s, 50), 0);
    assert_int_equal(mr_histogram_mean(&s), 0);
    mr_histogram_record(&h, -5);
    mr_histogram_record(&h, 0);
    mr_histogram_record(&h, 1000001);
    mr_histogram_read(&h, &s);
    assert_int_equal(s.count, 3);
    assert_int_equal(s.max_ns, 1000001);
    assert_int_equal(mr_histogram_mean(&s), 333333);
    assert_int_equal(mr_histogram_percentile(&s, 50), 0);
    /* Never above the largest seen, though the bucket's middle is. */
    assert_true(mr_histogram_percentile(&s, 99.9) <= 1000001);
    assert_int_equal(mr_histogram_percentile(&s, 1e9), 1000001);
    assert_int_equal(mr_histogram_percentile(&s, -1), 0);
    mr_histogram_record(&h, INT64_MAX);
    memset(&s, 0, sizeof s);
    mr_histogram_read(&h, &s);
    assert_true(mr_histogram_percentile(&s, 99.9) > 3600 * MR_NS_PER_SEC);
    assert_true(mr_histogram_percentile(&s, 100) == INT64_MAX);
}

static void test_merge_is_as_recording_into_one(void **state)
{
    (void)state;
    static struct mr_histogram other;
    static struct mr_histogram_snapshot t;
    mr_histogram_reset(&other);
    memset(&t, 0, sizeof t);
    for (int i = 1; i <= 1000; i++)
        mr_histogram_record(i % 2 ? &h : &other, i * 1000);
    mr_histogram_read(&h, &s);
    mr_histogram_read(&other, &t);
    mr_histogram_merge(&s, &t);
    assert_int_equal(s.count, 1000);
    assert_int_equal(s.max_ns, 1000000);
    assert_in_range(mr_histogram_percentile(&s, 50), 495000, 505000);
    assert_int_equal(mr_histogram_mean(&s), 500500);
}

static void test_full_bucket_halves_and_keeps_the_shape(void **state)
{
    (void)state;
    atomic_store(&h.buckets[10], UINT32_MAX - 1);
    atomic_store(&h.buckets[20], UINT32_MAX / 2);
    atomic_store(&h.buckets[30], 1);
    atomic_store(&h.max_ns, 30);
    mr_histogram_record(&h, 10);
    assert_in_range(atomic_load(&h.buckets[10]), UINT32_MAX / 2, UINT32_MAX / 2 + 1);
    assert_int_equal(atomic_load(&h.buckets[30]), 1);
    mr_histogram_read(&h, &s);
    assert_int_equal(mr_histogram_percentile(&s, 60), 10);
    assert_int_equal(mr_histogram_percentile(&s, 70), 20);
}

static atomic_bool stop;

static void *read_often(void *unused)
{
    static struct mr_histogram_snapshot seen;
    while (!atomic_load(&stop)) {
        memset(&seen, 0, sizeof seen);
        mr_histogram_read(&h, &seen);
        assert_true(mr_histogram_percentile(&seen, 99) <= 2000);
    }
    return unused;
}

static void test_reader_beside_the_writer(void **state)
{
    (void)state;
    pthread_t reader;
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&reader, NULL, read_often, NULL), 0);
    for (int i = 0; i < 200000; i++)
        mr_histogram_record(&h, i % 2000);
    atomic_store(&stop, true);
    pthread_join(reader, NULL);
    mr_histogram_read(&h, &s);
    assert_int_equal(s.count, 200000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_buckets_are_contiguous, fresh),
        cmocka_unit_test_setup(test_percentiles_are_within_one_percent, fresh),
        cmocka_unit_test_setup(test_edges, fresh),
        cmocka_unit_test_setup(test_merge_is_as_recording_into_one, fresh),
        cmocka_unit_test_setup(test_full_bucket_halves_and_keeps_the_shape, fresh),
        cmocka_unit_test_setup(test_reader_beside_the_writer, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
