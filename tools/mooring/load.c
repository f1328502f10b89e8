/*
 * mooring load: sets a run up, watches it, adds it up. Runs on the main thread; the requests are
 * the lanes' (load_lane.c), of which it reads nothing before they have finished.
 */
#include "load.h"

#include "commands.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    GRACE_S = 5, /* for what is in flight when the time is over; then it is cancelled */
    CANCEL_S = 5 /* for cancelled requests to say so; then the run is given up */
};

#define TICK_NS      100000000LL /* lanes that hold back after failures try again so often */
#define PACE_TICK_NS 100000LL    /* the finest the schedule of --rate is followed */

static struct load *interrupted; /* the run that SIGINT ends early */

/* ---- watching ---- */

static void interrupt_run(int signal_number)
{
    (void)signal_number;
    const int saved = errno;
    atomic_store_explicit(&interrupted->is_stopping, true, memory_order_relaxed);
    sem_post(&interrupted->news);
    errno = saved;
}

static void print_progress(const struct load *l, int64_t now, bool is_terminal)
{
    moor_stats s;
    moor_stats_read(l->pool, &s);
    moor_histogram *h = NULL;
    char p99[24] = "?";
    if (moor_histogram_read(l->pool, MOOR_HISTOGRAM_REQUEST, &h) == MOOR_OK)
        cli_time(moor_histogram_percentile(h, 99), p99, sizeof p99);
    moor_histogram_free(h);
    const double seconds = (double)(now - l->start_ns) / 1e9;
    fprintf(stderr, "%s%4.0f s  %llu requests  %.0f/s  %llu failed  p99 %s  %llu connections%s",
            is_terminal ? "\r\033[K" : "", seconds, (unsigned long long)s.requests,
            (double)s.requests / seconds, (unsigned long long)s.requests_failed, p99,
            (unsigned long long)s.conns_open, is_terminal ? "" : "\n");
    fflush(stderr);
}

static void sleep_until(struct load *l, int64_t until)
{
    const struct timespec t = {.tv_sec = until / NS_PER_S, .tv_nsec = until % NS_PER_S};
    (void)sem_clockwait(&l->news, CLOCK_MONOTONIC, &t);
}

static bool is_finished(const struct load *l)
{
    /* Acquire: what a lane counted is readable once it is in this count. */
    return atomic_load_explicit(&l->finished_lanes, memory_order_acquire) == l->lane_count;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The first one starts the count of handshakes that could have been resumed. */
static void flush(struct load *l)
{
    if (l->flushes++ == 0) {
        moor_stats s;
        moor_stats_read(l->pool, &s);
        l->handshakes_before = s.tls_handshakes;
        l->resumed_before = s.tls_resumed;
    }
    moor_pool_flush(l->pool);
}

/* Runs until every lane is done. False: some request ended in no way, not even when cancelled. */
static bool watch(struct load *l)
{
    const bool is_terminal = isatty(STDERR_FILENO);
    const bool shows_progress = l->plan.shows_progress || (is_terminal && !l->plan.as_json);
    const int64_t end = l->plan.seconds > 0
                            ? l->start_ns + (int64_t)(l->plan.seconds * (double)NS_PER_S)
                            : INT64_MAX;
    const int64_t flush_ns = (int64_t)(l->plan.flush_s * (double)NS_PER_S);
    int64_t next_flush = flush_ns ? l->start_ns + flush_ns : INT64_MAX;
    int64_t progress = l->start_ns + NS_PER_S, tick = l->start_ns + TICK_NS;
    int64_t give_up = INT64_MAX; /* next step of ending: cancel, then return false */
    uint64_t paced = 0;
    load_wake_all(l);
    while (!is_finished(l)) {
        int64_t until =
            earlier(earlier(earlier(tick, progress), earlier(end, give_up)), next_flush);
        if (l->interval_ns > 0) {
            const int64_t due = l->start_ns + (int64_t)((double)paced * l->interval_ns);
            const int64_t finest = now_ns() + PACE_TICK_NS;
            until = earlier(until, due > finest ? due : finest);
        }
        sleep_until(l, until);
        const int64_t now = now_ns();
        if (now >= end)
            atomic_store_explicit(&l->is_stopping, true, memory_order_relaxed);
        const bool is_stopping = atomic_load_explicit(&l->is_stopping, memory_order_relaxed);
        if (is_stopping && give_up == INT64_MAX) {
            give_up = now + GRACE_S * NS_PER_S;
            load_wake_all(l);
        } else if (now >= give_up) {
            if (atomic_exchange_explicit(&l->is_canceling, true, memory_order_relaxed))
                return false;
            give_up = now + CANCEL_S * NS_PER_S;
            load_wake_all(l);
        }
        if (l->interval_ns > 0 && !is_stopping)
            paced = load_wake_due(l, paced, now);
        if (now >= next_flush) {
            next_flush = is_stopping ? INT64_MAX : now + flush_ns;
            if (!is_stopping)
                flush(l);
        }
        if (now >= tick) {
            tick = now + TICK_NS;
            load_wake_all(l);
        }
        if (now >= progress) {
            progress += NS_PER_S;
            if (shows_progress)
                print_progress(l, now, is_terminal);
        }
    }
    if (shows_progress && is_terminal)
        fputs("\r\033[K", stderr);
    return true;
}

/* ---- adding up ---- */

static void add_lanes(const struct load *l, struct report *r)
{
    r->first_fault = "";
    for (uint32_t i = 0; i < l->lane_count; i++) {
        const struct lane *lane = &l->lanes[i];
        r->requests += lane->requests;
        r->bytes_down += lane->bytes_down;
        r->unfinished += lane->unfinished;
        r->status_4xx += lane->status_4xx;
        r->status_5xx += lane->status_5xx;
        for (unsigned e = 0; e < ERR_COUNT; e++) {
            r->by_err[e] += lane->errors[e];
            r->errors += lane->errors[e];
        }
        latency_merge(&r->latency, &lane->latency);
        if (lane->has_fault && !*r->first_fault)
            r->first_fault = lane->fault_line;
    }
    r->errors += r->status_4xx + r->status_5xx;
}

static void add_tls(const struct load *l, const moor_stats *s, struct report *r)
{
    struct tls_report *t = &r->tls;
    r->has_tls = tls_is_asked(l->plan.url);
    t->handshakes = s->tls_handshakes;
    t->resumed = s->tls_resumed;
    t->failed = s->tls_failed;
    if (r->flushes) {
        t->flushed_handshakes = s->tls_handshakes - l->handshakes_before;
        t->flushed_resumed = s->tls_resumed - l->resumed_before;
    }
    moor_histogram *h = NULL;
    if (moor_histogram_read(l->pool, MOOR_HISTOGRAM_HANDSHAKE, &h) == MOOR_OK) {
        t->p50 = moor_histogram_percentile(h, 50);
        t->p99 = moor_histogram_percentile(h, 99);
        t->p999 = moor_histogram_percentile(h, 99.9);
        t->max = moor_histogram_percentile(h, 100);
    }
    moor_histogram_free(h);
}

static void add_pool(const struct load *l, struct report *r)
{
    moor_stats s;
    moor_stats_read(l->pool, &s);
    r->acquires = s.acquires;
    r->acquires_reused = s.acquires_reused;
    r->conns_opened = s.conns_created;
    r->conns_open = s.conns_open;
    r->flushes = l->flushes;
    add_tls(l, &s, r);
    moor_histogram *h = NULL;
    if (moor_histogram_read(l->pool, MOOR_HISTOGRAM_ACQUIRE, &h) == MOOR_OK) {
        r->acquire_p50 = moor_histogram_percentile(h, 50);
        r->acquire_p99 = moor_histogram_percentile(h, 99);
        r->acquire_p999 = moor_histogram_percentile(h, 99.9);
        r->acquire_max = moor_histogram_percentile(h, 100);
    }
    moor_histogram_free(h);
}

/* The run itself, with everything open. */
static bool run_and_measure(struct load *l, moor_runtime *runtime, int64_t memory_before,
                            struct report *r)
{
    moor_runtime_stats before, after;
    moor_runtime_stats_read(runtime, &before);
    const int64_t cpu_before = cpu_ns();
    l->start_ns = now_ns();
    if (!watch(l))
        return false;
    r->seconds = (double)(now_ns() - l->start_ns) / 1e9;
    const int64_t cpu = cpu_ns() - cpu_before;
    moor_runtime_stats_read(runtime, &after);
    add_lanes(l, r);
    add_pool(l, r);
    const uint64_t calls = after.enters - before.enters + after.syscalls - before.syscalls;
    const double requests = r->requests ? (double)r->requests : 1;
    r->cpu_us_per_request = (double)cpu / 1e3 / requests;
    r->syscalls_per_request = (double)calls / requests;
    r->memory_bytes = private_dirty();
    r->memory_per_conn = -1;
    if (memory_before >= 0 && r->memory_bytes >= memory_before && r->conns_open)
        r->memory_per_conn = (r->memory_bytes - memory_before) / (int64_t)r->conns_open;
    r->backend = moor_runtime_backend(runtime);
    r->backend_reason = moor_runtime_backend_reason(runtime);
    r->shards = moor_runtime_shard_count(runtime);
    return true;
}

/* ---- setting up ---- */

static uint32_t shards_for(const struct plan *p)
{
    if (p->shards != MOOR_SHARDS_AUTO)
        return p->shards;
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus > 0 && p->conns_max < (uint64_t)cpus ? p->conns_max : MOOR_SHARDS_AUTO;
}

static void prepare_request(struct load *l)
{
    const struct plan *p = &l->plan;
    moor_http_request_init(&l->request);
    l->request.url = p->target;
    l->request.method = p->method;
    l->request.headers = p->headers.items;
    l->request.header_count = p->headers.count;
    l->request.body = (moor_span){p->body, p->body_len};
    if (p->body && !p->method)
        l->request.method = "POST";
    if (p->timeout_ms)
        l->request.timeout_ms = p->timeout_ms;
    l->interval_ns = p->rate > 0 ? (double)NS_PER_S / p->rate : 0;
    atomic_init(&l->tickets, p->count ? (int64_t)p->count : INT64_MAX);
}

static int open_pool(struct load *l, moor_runtime *runtime)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.name = "load";
    o.conns_max = l->plan.conns_max;
    if (l->plan.is_h2)
        o.http_version = "2";
    if (l->plan.streams)
        o.h2_streams_max = l->plan.streams;
    o.conns_min_idle = 0;
    if (o.waiters_max < l->plan.conc)
        o.waiters_max = l->plan.conc;
    tls_apply(&l->plan.tls, &o);
    return cli_pool_open(runtime, l->plan.upstream, &o, &l->pool);
}

/* The report, and the exit code it means. */
static int tell(const struct load *l, const struct report *r)
{
    if (l->plan.as_json)
        report_print_json(&l->plan, r);
    else
        report_print(&l->plan, r);
    fflush(stdout);
    if (*r->first_fault) {
        char url[256];
        cli_complain("%s: first error: %s", cli_mask_url(l->plan.url, url, sizeof url),
                     r->first_fault);
    }
    return r->errors ? EXIT_OTHER : EXIT_OK;
}

static int run(struct load *l)
{
    moor_runtime *runtime = NULL;
    /* Held back until the lanes exist; the shards, started in between, never take it. */
    sigset_t held, before;
    sigemptyset(&held);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &held, &before);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    int code = cli_runtime_create(shards_for(&l->plan), false, &runtime);
    if (code == EXIT_OK && moor_runtime_shard_count(runtime) == 0)
        code = cli_misused("load needs a shard: MOORING_SHARDS is 0");
    struct report *r = calloc(1, sizeof *r);
    if (code == EXIT_OK && (!r || !load_lanes_create(l, runtime))) {
        cli_complain("out of memory");
        code = EXIT_MEMORY;
    }
    const int64_t memory_before = private_dirty();
    if (code == EXIT_OK)
        code = open_pool(l, runtime);
    if (code == EXIT_OK) {
        prepare_request(l);
        sem_init(&l->news, 0, 0);
        interrupted = l;
        const struct sigaction stop = {.sa_handler = interrupt_run, .sa_flags = SA_RESTART};
        sigaction(SIGINT, &stop, NULL);
        sigaction(SIGTERM, &stop, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (!run_and_measure(l, runtime, memory_before, r)) {
            cli_complain("requests hang even after they were cancelled");
            /* Their callbacks may still come: nothing they touch can be freed. */
            _exit(EXIT_OTHER);
        }
        code = tell(l, r);
    }
    cli_runtime_close(runtime, l->pool);
    load_lanes_destroy(l);
    free(r);
    return code;
}

int load_main(int argc, char **argv)
{
    struct load l = {0};
    int code = plan_read(&l.plan, argc, argv);
    if (code < 0)
        code = run(&l);
    plan_free(&l.plan);
    return code;
}
