/*
 * How long a thread that is no shard waits for a warm conn: `load_acquire [-t THREADS] [-d SECONDS]
 * tcp://HOST:PORT`. First every thread acquires and releases with the shortest of sleeps between,
 * which shows what threads and shard can do when each has to be woken; then at half that rate, or
 * at what takes half the cores if that is less, and this is measured. A thread that falls behind
 * its plan counts from when it should have begun.
 */
#include <mooring/mooring.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 16, SAMPLES_MAX = 1 << 20, SHORTEST_NS = 1000 };

struct worker {
    pthread_t thread;
    moor_pool *pool;
    double seconds;
    int64_t gap_ns;    /* between beginnings; 0 = the shortest of sleeps */
    uint32_t *samples; /* ns since each was planned */
    uint32_t *raw;     /* ns since each began */
    size_t count;
    uint64_t reused, errors;
};

struct outcome {
    size_t count;
    uint64_t reused, errors;
    double seconds, cpu;
    double p50, p99, p999, max; /* us, from when each was planned */
    double raw_p50, raw_p99;    /* us, from the call */
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Gives when the next acquire counts as begun. How late the timer wakes us is not the pool's doing;
 * how late the last acquire came is. */
static int64_t pause_until(int64_t planned)
{
    int64_t now = now_ns();
    if (now >= planned)
        return planned;
    const struct timespec t = {planned / 1000000000, planned % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    now = now_ns();
    return now;
}

static uint32_t clip(int64_t ns)
{
    return ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static void *work(void *user)
{
    struct worker *w = user;
    prctl(PR_SET_TIMERSLACK, 1UL);
    const int64_t end = now_ns() + (int64_t)(w->seconds * 1e9);
    int64_t begin = now_ns();
    while (begin < end && w->count < SAMPLES_MAX) {
        moor_acquired a = {.size = sizeof a};
        const int64_t called = now_ns();
        if (moor_acquire_wait(w->pool, NULL, &a) != MOOR_OK) {
            w->errors++;
            break;
        }
        const int64_t end_ns = now_ns();
        moor_release(a.lease, MOOR_REUSE);
        w->raw[w->count] = clip(end_ns - called);
        w->samples[w->count++] = clip(end_ns - begin);
        w->reused += a.reused;
        begin = pause_until(w->gap_ns ? begin + w->gap_ns : now_ns() + SHORTEST_NS);
    }
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static struct outcome measure(struct worker *workers, unsigned threads, double seconds,
                              int64_t gap_ns)
{
    struct outcome o = {0};
    const double cpu = cpu_seconds();
    const int64_t start = now_ns();
    for (unsigned i = 0; i < threads; i++) {
        struct worker *w = &workers[i];
        w->count = w->reused = w->errors = 0;
        w->seconds = seconds;
        w->gap_ns = gap_ns;
        if (pthread_create(&w->thread, NULL, work, w))
            abort();
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        o.count += workers[i].count;
        o.reused += workers[i].reused;
        o.errors += workers[i].errors;
    }
    o.seconds = (double)(now_ns() - start) * 1e-9;
    o.cpu = cpu_seconds() - cpu;
    return o;
}

/* Sorted, of all threads; caller frees. NULL if there is none. */
static uint32_t *sorted(const struct outcome *o, const struct worker *workers, unsigned threads,
                        bool is_raw)
{
    uint32_t *all = malloc((o->count + 1) * sizeof *all);
    size_t used = 0;
    if (!all || o->count == 0) {
        free(all);
        return NULL;
    }
    for (unsigned i = 0; i < threads; i++) {
        const struct worker *w = &workers[i];
        memcpy(all + used, is_raw ? w->raw : w->samples, w->count * sizeof *all);
        used += w->count;
    }
    qsort(all, used, sizeof *all, by_size);
    return all;
}

static bool find_percentiles(struct outcome *o, const struct worker *workers, unsigned threads)
{
    uint32_t *planned = sorted(o, workers, threads, false);
    uint32_t *raw = sorted(o, workers, threads, true);
    const bool is_found = planned && raw;
    if (is_found) {
        o->p50 = planned[o->count / 2] * 1e-3;
        o->p99 = planned[o->count * 99 / 100] * 1e-3;
        o->p999 = planned[o->count * 999 / 1000] * 1e-3;
        o->max = planned[o->count - 1] * 1e-3;
        o->raw_p50 = raw[o->count / 2] * 1e-3;
        o->raw_p99 = raw[o->count * 99 / 100] * 1e-3;
    }
    free(planned);
    free(raw);
    return is_found;
}

/* Dials as many conns as there are threads, by holding them all at once. */
static bool warm(moor_pool *pool, unsigned threads)
{
    moor_acquired held[THREADS_MAX];
    unsigned count = 0;
    while (count < threads) {
        held[count].size = sizeof held[count];
        const moor_err e = moor_acquire_wait(pool, NULL, &held[count]);
        if (e != MOOR_OK) {
            fprintf(stderr, "%s\n", moor_err_text(e));
            break;
        }
        count++;
    }
    for (unsigned i = 0; i < count; i++)
        moor_release(held[i].lease, MOOR_REUSE);
    return count == threads;
}

static void print_report(const struct outcome *fast, const struct outcome *paced, unsigned threads,
                         const char *backend)
{
    printf("{\"acquires\":%zu,\"errors\":%llu,\"reuse\":%.5f,\"threads\":%u,\"seconds\":%.3f,"
           "\"per_second\":%.0f,\"cores_used\":%.3f,\"cpu_us_per_acquire\":%.3f,"
           "\"acquire_us\":{\"p50\":%.2f,\"p99\":%.2f,\"p999\":%.2f,\"max\":%.2f},"
           "\"from_call_us\":{\"p50\":%.2f,\"p99\":%.2f},"
           "\"at_most\":{\"per_second\":%.0f,\"cores_used\":%.3f},\"backend\":\"%s\"}\n",
           paced->count, (unsigned long long)paced->errors,
           (double)paced->reused / (double)paced->count, threads, paced->seconds,
           (double)paced->count / paced->seconds, paced->cpu / paced->seconds,
           paced->cpu * 1e6 / (double)paced->count, paced->p50, paced->p99, paced->p999, paced->max,
           paced->raw_p50, paced->raw_p99, (double)fast->count / fast->seconds,
           fast->cpu / fast->seconds, backend);
}

static int run(moor_runtime *runtime, const char *url, unsigned threads, double seconds)
{
    static struct worker workers[THREADS_MAX];
    moor_pool *pool = NULL;
    moor_pool_options po;
    moor_pool_options_init(&po);
    po.conns_max = threads;
    po.conns_min_idle = 0;
    if (moor_pool_open(runtime, url, &po, &pool) != MOOR_OK || !warm(pool, threads))
        return 1;
    for (unsigned i = 0; i < threads; i++) {
        workers[i].pool = pool;
        workers[i].samples = malloc(SAMPLES_MAX * sizeof(uint32_t));
        workers[i].raw = malloc(SAMPLES_MAX * sizeof(uint32_t));
        if (!workers[i].samples || !workers[i].raw)
            return 1;
    }
    const double cores = (double)sysconf(_SC_NPROCESSORS_ONLN);
    struct outcome fast = measure(workers, threads, seconds / 4, 0);
    if (fast.errors || !find_percentiles(&fast, workers, threads))
        return 1;
    /* Half the cores, and at most half of what the threads can: no plan that cannot be kept. */
    const double cpu_each = fast.cpu / (double)fast.count;
    const double by_cpu = 0.5 * cores / cpu_each;
    const double by_rate = 0.5 * (double)fast.count / fast.seconds;
    const double rate = by_cpu < by_rate ? by_cpu : by_rate;
    struct outcome paced = measure(workers, threads, seconds, (int64_t)(1e9 * threads / rate));
    if (paced.errors || !find_percentiles(&paced, workers, threads))
        return 1;
    print_report(&fast, &paced, threads, moor_runtime_backend(runtime));
    for (unsigned i = 0; i < threads; i++) {
        free(workers[i].samples);
        free(workers[i].raw);
    }
    return moor_pool_close(pool, 1000) == MOOR_OK ? 0 : 1;
}

int main(int argc, char **argv)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned threads = cores > 1 ? (unsigned)cores / 2 : 1;
    double seconds = 4;
    for (int option; (option = getopt(argc, argv, "t:d:")) != -1;) {
        if (option == 't')
            threads = (unsigned)strtoul(optarg, NULL, 10);
        if (option == 'd')
            seconds = strtod(optarg, NULL);
    }
    if (optind + 1 != argc || threads < 1 || seconds <= 0) {
        fprintf(stderr, "usage: %s [-t THREADS] [-d SECONDS] tcp://HOST:PORT\n", argv[0]);
        return 2;
    }
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    moor_runtime_options o;
    moor_runtime *runtime = NULL;
    moor_runtime_options_init(&o);
    o.shards = 1;
    const moor_err e = moor_runtime_create(&o, &runtime);
    if (e != MOOR_OK) {
        fprintf(stderr, "%s\n", moor_err_text(e));
        return e == MOOR_ENOSYS ? 77 : 1;
    }
    const int status = run(runtime, argv[optind], threads, seconds);
    if (moor_runtime_destroy(runtime, 1000) != MOOR_OK)
        fprintf(stderr, "something is still out\n");
    return status;
}
