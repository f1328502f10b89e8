/*
 * mooring pool: sets a run up, watches it, adds it up. Runs on the main thread; the leases are the
 * workers' (pool_worker.c), of which it reads nothing before they have finished but what is atomic.
 */
#include "pool.h"

#include "commands.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    GRACE_S = 5,  /* for what runs when the time is over; then it is cancelled */
    CANCEL_S = 5, /* for what was cancelled to say so; then the run is given up */
    TICK_NS = 100000000,
    REACH_MS_MAX = 30000 /* the first connection, before the run */
};

static struct pool_run *interrupted; /* the run that SIGINT ends early */

/* ---- watching ---- */

static void interrupt_run(int signal_number)
{
    (void)signal_number;
    const int saved = errno;
    if (atomic_exchange_explicit(&interrupted->is_stopping, true, memory_order_relaxed))
        atomic_store_explicit(&interrupted->is_hurried, true, memory_order_relaxed);
    sem_post(&interrupted->news);
    errno = saved;
}

static void print_progress(const struct pool_run *r, const moor_stats *s, int64_t now,
                           bool is_terminal)
{
    moor_histogram *h = NULL;
    char p99[24] = "?";
    if (moor_histogram_read(r->pool, MOOR_HISTOGRAM_ACQUIRE, &h) == MOOR_OK)
        cli_time(moor_histogram_percentile(h, 99), p99, sizeof p99);
    moor_histogram_free(h);
    uint64_t failed = 0;
    for (uint32_t i = 0; i < r->started; i++)
        failed += atomic_load_explicit(&r->workers[i].failed, memory_order_relaxed);
    const double seconds = (double)(now - r->start_ns) / 1e9;
    fprintf(stderr,
            "%s%4.0f s  %llu acquires  %.0f/s  %llu failed  wait p99 %s  %llu connections, "
            "%llu idle, %llu dials, %llu waiting%s",
            is_terminal ? "\r\033[K" : "", seconds, (unsigned long long)s->acquires,
            (double)s->acquires / seconds, (unsigned long long)failed, p99,
            (unsigned long long)s->conns_open, (unsigned long long)s->conns_idle,
            (unsigned long long)s->dials, (unsigned long long)s->waiters, is_terminal ? "" : "\n");
    fflush(stderr);
}

static void await_news(struct pool_run *r, int64_t until)
{
    const struct timespec t = {.tv_sec = until / NS_PER_S, .tv_nsec = until % NS_PER_S};
    (void)sem_clockwait(&r->news, CLOCK_MONOTONIC, &t);
}

static bool is_finished(const struct pool_run *r)
{
    /* Acquire: what a worker counted is readable once it is in this count. */
    return atomic_load_explicit(&r->finished, memory_order_acquire) == r->started;
}

/* Statistics as they are before cancelling closes everything. Releases of shard leases are messages, so the
 * last ones are given a moment to arrive. */
static void take_picture(const struct pool_run *r, struct pool_report *out)
{
    enum { LOOKS = 50 };
    const struct timespec moment = {.tv_nsec = 2000000};
    moor_stats s;
    moor_stats_read(r->pool, &s);
    for (int i = 0; i < LOOKS && s.conns_leased && is_finished(r); i++) {
        nanosleep(&moment, NULL);
        moor_stats_read(r->pool, &s);
    }
    out->conns_opened = s.conns_created;
    out->conns_closed = s.conns_closed;
    out->conns_open = s.conns_open;
    out->conns_idle = s.conns_idle;
    out->dials_failed = s.dials_failed;
    out->leaks = s.leases_held_long;
}

/* One step of ending, *give_up being when the next is due. False: nothing helps. */
static bool end_run(struct pool_run *r, int64_t now, int64_t *give_up, struct pool_report *out)
{
    const bool is_canceling = atomic_load_explicit(&r->is_canceling, memory_order_relaxed);
    const bool is_hurried = atomic_load_explicit(&r->is_hurried, memory_order_relaxed);
    if (*give_up == INT64_MAX) {
        *give_up = now + GRACE_S * NS_PER_S;
        pool_workers_wake(r);
    } else if (now >= *give_up || (is_hurried && !is_canceling)) {
        if (atomic_exchange_explicit(&r->is_canceling, true, memory_order_relaxed))
            return false;
        *give_up = now + CANCEL_S * NS_PER_S;
        take_picture(r, out);
        moor_pool_drain(r->pool, 0, NULL, NULL);
        pool_workers_wake(r);
    }
    return true;
}

/* Runs until every worker is done. False: some query ended in no way, not even when cut. */
static bool watch(struct pool_run *r, struct pool_report *out)
{
    const bool is_terminal = isatty(STDERR_FILENO);
    const bool shows_progress = r->plan.shows_progress || (is_terminal && !r->plan.as_json);
    const int64_t end = r->plan.seconds > 0
                            ? r->start_ns + (int64_t)(r->plan.seconds * (double)NS_PER_S)
                            : INT64_MAX;
    int64_t progress = r->start_ns + NS_PER_S, tick = r->start_ns;
    int64_t give_up = INT64_MAX; /* next step of ending: cancel, then return false */
    while (!is_finished(r)) {
        tick += TICK_NS;
        await_news(r, tick < end ? tick : end);
        const int64_t now = now_ns();
        if (now >= end)
            atomic_store_explicit(&r->is_stopping, true, memory_order_relaxed);
        if (atomic_load_explicit(&r->is_stopping, memory_order_relaxed) &&
            !end_run(r, now, &give_up, out))
            return false;
        pool_workers_cut(r, now);
        moor_stats s;
        moor_stats_read(r->pool, &s);
        if (s.waiters > r->waiters_most)
            r->waiters_most = s.waiters;
        if (now >= progress) {
            progress += NS_PER_S;
            if (shows_progress)
                print_progress(r, &s, now, is_terminal);
        }
        tick = tick < now ? now : tick;
    }
    if (!atomic_load_explicit(&r->is_canceling, memory_order_relaxed))
        take_picture(r, out);
    if (shows_progress && is_terminal)
        fputs("\r\033[K", stderr);
    return true;
}

/* ---- the run ---- */

/* The run itself, with everything open. */
static bool run_and_measure(struct pool_run *r, moor_runtime *runtime, struct pool_report *out)
{
    moor_runtime_stats before, after;
    moor_runtime_stats_read(runtime, &before);
    const int64_t cpu_before = cpu_ns();
    r->start_ns = now_ns();
    if (!pool_workers_start(r)) {
        cli_complain("only %u of %u threads could be started", r->started, r->plan.threads);
        atomic_store_explicit(&r->is_stopping, true, memory_order_relaxed);
    }
    if (!watch(r, out))
        return false;
    out->seconds = (double)(now_ns() - r->start_ns) / 1e9;
    const int64_t cpu = cpu_ns() - cpu_before;
    moor_runtime_stats_read(runtime, &after);
    pool_workers_join(r, out);
    const uint64_t calls = after.enters - before.enters + after.syscalls - before.syscalls;
    const double acquires = out->acquires ? (double)out->acquires : 1;
    out->cpu_us_per_acquire = (double)cpu / 1e3 / acquires;
    out->syscalls_per_acquire = (double)calls / acquires;
    out->memory_bytes = private_dirty();
    out->waiters_most = r->waiters_most;
    out->backend = moor_runtime_backend(runtime);
    out->backend_reason = moor_runtime_backend_reason(runtime);
    out->shards = moor_runtime_shard_count(runtime);
    return true;
}

/* The report, and the exit code it means. */
static int tell(const struct pool_run *r, const struct pool_report *out)
{
    if (r->plan.as_json)
        pool_report_print_json(&r->plan, out);
    else
        pool_report_print(&r->plan, out);
    fflush(stdout);
    if (r->plan.as_json && out->by_kind.count) {
        char url[256];
        cli_complain("%s: first error: %s", cli_mask_url(r->plan.url, url, sizeof url),
                     out->by_kind.kinds[0].example);
    }
    return out->errors || r->started < r->plan.threads ? EXIT_OTHER : EXIT_OK;
}

/* ---- setting up ---- */

static uint32_t shards_for(const struct pool_plan *p)
{
    if (p->shards != MOOR_SHARDS_AUTO)
        return p->shards;
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus > 0 && p->threads < (uint64_t)cpus ? p->threads : MOOR_SHARDS_AUTO;
}

static int open_pool(struct pool_run *r, moor_runtime *runtime)
{
    const struct pool_plan *p = &r->plan;
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.name = "pool";
    o.conns_max = p->conns;
    o.conns_min_idle = p->min_idle;
    if (p->dials)
        o.dials_max = p->dials;
    if (o.waiters_max < p->threads)
        o.waiters_max = p->threads;
    tls_apply(&p->tls, &o);
    const int code = drive_use(p->drive, runtime);
    return code == EXIT_OK ? cli_pool_open(runtime, p->url, &o, &r->pool) : code;
}

/* One connection before the run: what is wrong with the address or the password is told at once. */
static int reach(struct pool_run *r)
{
    moor_acquired a;
    moor_why why;
    const moor_ms timeout = r->plan.timeout_ms ? r->plan.timeout_ms : REACH_MS_MAX;
    const moor_err e = drive_acquire(r->pool, timeout, &a, &why);
    if (e == MOOR_OK) {
        moor_release(a.lease, MOOR_REUSE);
        return EXIT_OK;
    }
    char url[256], line[512];
    int code = EXIT_OTHER;
    drive_acquire_line(&a.fault, &why, line, sizeof line, &code);
    cli_complain("%s: %s", cli_mask_url(r->plan.url, url, sizeof url), line);
    return code;
}

static void take_signals(struct pool_run *r, const sigset_t *before)
{
    interrupted = r;
    const struct sigaction stop = {.sa_handler = interrupt_run, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static int run(struct pool_run *r)
{
    moor_runtime *runtime = NULL;
    /* Held back until the pool is open; the shards, started in between, never take it. */
    sigset_t held, before;
    sigemptyset(&held);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &held, &before);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    int code = cli_runtime_create(shards_for(&r->plan), false, &runtime);
    if (code == EXIT_OK && moor_runtime_shard_count(runtime) == 0)
        code = cli_misused("pool needs a shard: MOORING_SHARDS is 0");
    struct pool_report *out = calloc(1, sizeof *out);
    if (code == EXIT_OK && !out) {
        cli_complain("out of memory");
        code = EXIT_MEMORY;
    }
    if (code == EXIT_OK)
        code = open_pool(r, runtime);
    sem_init(&r->news, 0, 0);
    if (code == EXIT_OK) {
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        code = reach(r);
    }
    if (code == EXIT_OK) {
        r->interval_ns = r->plan.rate > 0 ? (double)NS_PER_S / r->plan.rate : 0;
        take_signals(r, &before);
        if (!run_and_measure(r, runtime, out)) {
            cli_complain("queries hang even after they were cut");
            /* Their threads still use everything there is. */
            _exit(EXIT_OTHER);
        }
        code = tell(r, out);
    }
    cli_runtime_close(runtime, r->pool);
    pool_workers_destroy(r);
    sem_destroy(&r->news);
    free(out);
    return code;
}

int pool_main(int argc, char **argv)
{
    struct pool_run r = {0};
    int code = pool_plan_read(&r.plan, argc, argv);
    if (code < 0)
        code = run(&r);
    pool_plan_free(&r.plan);
    return code;
}
