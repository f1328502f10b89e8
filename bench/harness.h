/*
 * The benchmarks' harness, as C sees it. One executable per subject: it defines mr_bench_cases,
 * the harness has main() and measures with Google Benchmark.
 *
 *     static void add(struct mr_bench *b)
 *     {
 *         uint64_t sum = 0;
 *         while (mr_bench_next(b, 64))
 *             for (int i = 0; i < 64; i++)
 *                 ...
 *         mr_bench_checksum(b, sum_of_one_pass);
 *     }
 *     const struct mr_bench_case mr_bench_cases[] = {
 *         {.name = "add", .run = add, .args = {8, 64}, .arg_count = 2},
 *         {.name = NULL},
 *     };
 */
#ifndef BENCH_HARNESS_H
#define BENCH_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { MR_BENCH_ARGS_MAX = 12 };

/* One run of a case on one thread. */
struct mr_bench;

struct mr_bench_case {
    const char *name; /* NULL ends the list */
    void (*run)(struct mr_bench *b);
    int64_t args[MR_BENCH_ARGS_MAX]; /* run once with each; with none if arg_count is 0 */
    size_t arg_count;
    unsigned threads; /* 0 and 1: one. More are measured by wall clock and share the work */
    bool real_time;   /* for what waits for another thread or the kernel */
    const void *user;
};

extern const struct mr_bench_case mr_bench_cases[];

/*
 * True while there is more to measure; each time `batch` operations are to be done. Time runs
 * from the first call to the one that gives false, and is divided by operations. A case returns
 * only after false or mr_bench_fail.
 */
bool mr_bench_next(struct mr_bench *b, uint32_t batch);

int64_t mr_bench_arg(const struct mr_bench *b);
const void *mr_bench_user(const struct mr_bench *b);
unsigned mr_bench_thread(const struct mr_bench *b); /* 0 to threads - 1 */
bool mr_bench_is_smoke(const struct mr_bench *b);   /* make setups small: only run, not measured */
uint64_t mr_bench_operations(const struct mr_bench *b); /* done, after next gave false */

/*
 * What the work came to, the same however often it was repeated: printed, and different values
 * for the same case and argument fail the program. Every case must give one.
 */
void mr_bench_checksum(struct mr_bench *b, uint64_t sum);

/* After the loop. Bytes of one operation: adds bytes per second. */
void mr_bench_bytes(struct mr_bench *b, uint64_t bytes_per_operation);
/* A figure beside the time, such as a percentile; averaged over threads. */
void mr_bench_figure(struct mr_bench *b, const char *name, double value);

/* The case is reported as failed, and the program fails. The loop ends. */
void mr_bench_fail(struct mr_bench *b, const char *why);
/* The same, but not a failure: a feature is missing here. */
void mr_bench_skip(struct mr_bench *b, const char *why);

/* The compiler must assume the value is used and memory is read. */
#define mr_bench_keep(value) __asm__ volatile("" : : "g"(value) : "memory")

#ifdef __cplusplus
}
#endif
#endif
