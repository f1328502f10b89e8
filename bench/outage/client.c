/*
 * Acquires paced evenly, whatever becomes of the server: `outage_client [-r RATE] [-t THREADS] [-w MS]
 * [-q MS] [-c CONNS] postgres://...`. Says "ready" when the pool is warm and the pace begins, goes on until
 * its input ends, then prints the sampled maxima and a line for each acquire. Judges nothing itself: what
 * was in an outage only the script knows, which made it.
 *
 * Each thread takes the next place of the plan, sleeps until then, acquires, runs SELECT 1, reports what came
 * of it and releases. A place that no thread was free for within a tenth of a second is not made up for.
 */
#include <mooring/mooring.h>
#include <mooring/postgres.h>

#include <errno.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 1024, RECORDS_MAX = 4 << 20, TEXT_MAX = 400 };
static const int64_t TOO_LATE_NS = 100000000;

struct options {
    int rate, threads;
    moor_ms wait_ms, query_ms; /* query_ms 0: PQexec, which waits as long as the server does */
    uint32_t conns;
    const char *url;
};

enum query { QUERY_NONE, QUERY_OK, QUERY_FAILED };

struct record {
    int64_t planned, begun, ended, released;
    moor_err err;
    enum query query;
    moor_wait_reason reason;
    char *why; /* of a failure: the pool's text; of a query: libpq's */
};

static struct options options = {.rate = 1000, .threads = 64, .wait_ms = 500, .conns = 20};
static moor_runtime *runtime;
static moor_pool *pool;
static struct record *records;
static _Atomic(size_t) record_count;
static _Atomic(int64_t) places; /* of the plan, taken so far */
static _Atomic(uint64_t) skipped;
static _Atomic(bool) is_over;
static int64_t plan_begins;
static uint64_t dials_max, conns_max;
static int64_t sleep_late_ns, turn_late_ns; /* most */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(int64_t ns)
{
    const struct timespec t = {ns / 1000000000, ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

static char *copy_line(const char *text)
{
    char *copy = strdup(text);
    for (char *at = copy; at && *at; at++)
        if (*at == '\n' || *at == '\t')
            *at = ' ';
    return copy;
}

/* ---- one acquire ---- */

static void query(moor_acquired *got, struct record *r)
{
    PGconn *conn = got->native;
    PGresult *result = NULL;
    moor_err e = MOOR_OK;
    if (options.query_ms) {
        e = moor_postgres_query(got->lease, "SELECT 1", 0, NULL, options.query_ms, &result);
    } else {
        result = PQexec(conn, "SELECT 1");
        moor_postgres_report(got->lease, result);
    }
    r->query = PQresultStatus(result) == PGRES_TUPLES_OK ? QUERY_OK : QUERY_FAILED;
    if (r->query == QUERY_FAILED)
        r->why = copy_line(e == MOOR_ETIMEDOUT ? "the query timed out" : PQerrorMessage(conn));
    PQclear(result);
}

static void acquire(int64_t planned)
{
    const size_t at = atomic_fetch_add(&record_count, 1);
    if (at >= RECORDS_MAX)
        return;
    struct record *r = &records[at];
    moor_why why = {.size = sizeof why};
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    o.timeout_ms = options.wait_ms;
    o.why = &why;
    moor_acquired got = {.size = sizeof got};
    r->planned = planned;
    r->begun = now_ns();
    r->err = moor_acquire_wait(pool, &o, &got);
    r->ended = now_ns();
    if (r->err) {
        char text[TEXT_MAX];
        r->reason = why.reason;
        r->why = copy_line(moor_why_text(&why, text, sizeof text));
    } else {
        query(&got, r);
        moor_release(got.lease, MOOR_REUSE);
    }
    r->released = now_ns();
}

static void *work(void *arg)
{
    (void)arg;
    prctl(PR_SET_TIMERSLACK, 1UL);
    while (!atomic_load(&is_over)) {
        const int64_t planned =
            plan_begins + atomic_fetch_add(&places, 1) * (1000000000LL / options.rate);
        if (now_ns() - planned > TOO_LATE_NS) {
            atomic_fetch_add(&skipped, 1);
            continue;
        }
        sleep_until(planned);
        if (!atomic_load(&is_over))
            acquire(planned);
    }
    return NULL;
}

/* How late a shard runs what it is asked to: beside how late a thread comes that only sleeps, it tells a hook
 * that blocks from a machine that is busy. */
struct ping {
    moor_task task;
    int64_t posted;
    _Atomic(int64_t) run;
};

static void answer(void *user)
{
    struct ping *p = user;
    atomic_store(&p->run, now_ns());
}

static void ping(struct ping *p, int64_t now)
{
    const int64_t run = atomic_load(&p->run);
    const int64_t late = (run ? run : now) - p->posted;
    if (p->posted && late > turn_late_ns)
        turn_late_ns = late;
    if (p->posted && !run)
        return;
    p->task = (moor_task){.run = answer, .user = p};
    p->posted = now;
    atomic_store(&p->run, 0);
    if (moor_post(moor_shard_at(runtime, 0), &p->task))
        p->posted = 0;
}

static void *sample(void *arg)
{
    static struct ping p;
    (void)arg;
    prctl(PR_SET_TIMERSLACK, 1UL);
    while (!atomic_load(&is_over)) {
        moor_stats s;
        moor_stats_read(pool, &s);
        dials_max = s.dials > dials_max ? s.dials : dials_max;
        conns_max = s.conns_open > conns_max ? s.conns_open : conns_max;
        const int64_t until = now_ns() + 500000;
        sleep_until(until);
        const int64_t now = now_ns();
        if (now - until > sleep_late_ns)
            sleep_late_ns = now - until;
        ping(&p, now);
    }
    while (p.posted && !atomic_load(&p.run))
        sleep_until(now_ns() + 1000000);
    return NULL;
}

/* ---- begin and end ---- */

static void print_records(void)
{
    static const char *const queries[] = {"none", "ok", "failed"};
    const size_t count = atomic_load(&record_count);
    for (size_t i = 0; i < count && i < RECORDS_MAX; i++) {
        const struct record *r = &records[i];
        printf("%lld\t%lld\t%lld\t%lld\t%s\t%s\t%s\t%s\n", (long long)r->planned,
               (long long)r->begun, (long long)r->ended, (long long)r->released,
               moor_err_name(r->err), queries[r->query],
               r->err ? moor_wait_reason_text(r->reason) : "", r->why ? r->why : "");
        free(r->why);
    }
}

static int run(void)
{
    pthread_t workers[THREADS_MAX], sampler;
    records = calloc(RECORDS_MAX, sizeof *records); /* pages come as they are written */
    if (!records)
        return 1;
    if (moor_pool_warm(pool, 0, 10000, NULL, NULL)) {
        fprintf(stderr, "outage_client: the pool does not become warm\n");
        return 1;
    }
    plan_begins = now_ns();
    int started = 0;
    while (started < options.threads && !pthread_create(&workers[started], NULL, work, NULL))
        started++;
    const bool is_sampled = !pthread_create(&sampler, NULL, sample, NULL);
    printf("ready %lld\n", (long long)plan_begins);
    fflush(stdout);
    char rest[64];
    while (read(STDIN_FILENO, rest, sizeof rest) > 0)
        ;
    atomic_store(&is_over, true);
    for (int i = 0; i < started; i++)
        pthread_join(workers[i], NULL);
    if (is_sampled)
        pthread_join(sampler, NULL);
    moor_stats s;
    moor_stats_read(pool, &s);
    printf("max dials %llu conns %llu skipped %llu leased %llu waiters %llu dials_failed %llu "
           "sleep_late_us %lld turn_late_us %lld\n",
           (unsigned long long)dials_max, (unsigned long long)conns_max,
           (unsigned long long)atomic_load(&skipped), (unsigned long long)s.conns_leased,
           (unsigned long long)s.waiters, (unsigned long long)s.dials_failed,
           (long long)sleep_late_ns / 1000, (long long)turn_late_ns / 1000);
    print_records();
    free(records);
    return started == options.threads && is_sampled ? 0 : 1;
}

static int usage(void)
{
    fprintf(stderr, "usage: outage_client [-r RATE] [-t THREADS] [-w ACQUIRE_MS] [-q QUERY_MS] "
                    "[-c CONNS] postgres://...\n");
    return 2;
}

static bool read_options(int argc, char **argv)
{
    for (int c; (c = getopt(argc, argv, "r:t:w:q:c:")) != -1;) {
        const long n = c == '?' ? 0 : strtol(optarg, NULL, 10);
        if (n <= 0)
            return false;
        if (c == 'r')
            options.rate = (int)n;
        else if (c == 't')
            options.threads = n < THREADS_MAX ? (int)n : THREADS_MAX;
        else if (c == 'w')
            options.wait_ms = n;
        else if (c == 'q')
            options.query_ms = n;
        else
            options.conns = (uint32_t)n;
    }
    options.url = argv[optind];
    return optind + 1 == argc;
}

int main(int argc, char **argv)
{
    if (!read_options(argc, argv))
        return usage();
    moor_runtime_options ro;
    moor_runtime_options_init(&ro);
    ro.shards = 1;
    ro.log_level = MOOR_LOG_ERROR;
    if (moor_runtime_create(&ro, &runtime))
        return 1;
    moor_pool_options po;
    moor_pool_options_init(&po);
    po.name = "outage";
    po.conns_max = options.conns;
    int status = 1;
    if (!moor_driver_use(runtime, moor_postgres_driver()) &&
        !moor_pool_open(runtime, options.url, &po, &pool))
        status = run();
    if (moor_pool_close(pool, 2000) || moor_runtime_destroy(runtime, 2000)) {
        fprintf(stderr, "outage_client: something of the pool is still out\n");
        status = 1;
    }
    return status;
}
