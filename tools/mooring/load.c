/*
 * mooring load: sets a run up, watches it, adds it up. Runs on the main thread; the requests are
 * the lanes' (load_lane.c), of which it reads nothing before they have finished.
 */
#include "load.h"

#include "commands.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    CONC_MAX = 1000000,
    SHARDS_MAX = 64,
    BODY_MAX = 64 * 1024 * 1024,
    GRACE_S = 5,  /* for what is in flight when the time is over; then it is cancelled */
    CANCEL_S = 5, /* for cancelled requests to say so; then the run is given up */
    FLIGHT_DEFAULT = 64,
    SECONDS_DEFAULT = 10
};

#define NS_PER_S     1000000000LL
#define TICK_NS      100000000LL /* lanes that hold back after failures try again so often */
#define PACE_TICK_NS 100000LL    /* the finest the schedule of --rate is followed */
#define RATE_MAX     10000000.0

static struct load *interrupted; /* the run that SIGINT ends early */

static const char usage[] =
    "usage: mooring load [options] URL\n"
    "Keeps requests in flight and reports speed, latency and what the pool did.\n"
    "  -c N                requests in flight, over all shards (default 64)\n"
    "  -d SECONDS          for so long (default 10, unless -n is given)\n"
    "  -n N                until N requests are made\n"
    "  --rate R            R requests a second on a fixed schedule; latency then counts from when "
    "a\n"
    "                      request was due, so a stall is seen by all it delayed\n"
    "  --shards N          loops, one thread each (default: one per CPU, at most -c)\n"
    "  -H 'Name: value'    add a header (again for more)\n"
    "  -X METHOD           use this method\n"
    "  --body DATA|@FILE   send this body, with POST\n"
    "  --timeout MS        for each request (also 500ms, 3s; default: none)\n"
    "  --json              one JSON object on standard output instead of text\n"
    "  --progress          a line a second on standard error even if that is no terminal\n"
    "  --help              this text\n"
    "An error is a request without a whole answer, or an answer of 400 and more. Ctrl-C ends "
    "early,\n"
    "with the report. Exit status: 0 no errors, 1 errors, 2 wrong usage, URL or variable.\n"
    "-c sets CONNS_MAX, and CONNS_MIN_IDLE is 0; MOORING_* and MOORING_POOL_LOAD_* override "
    "both.\n";

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

/* ---- measuring the process ---- */

static int64_t cpu_ns(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NS_PER_S +
           ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

/* Bytes that are this process's alone and were written to; -1 if the kernel does not say. */
static int64_t private_dirty(void)
{
    char line[256];
    long long kib = -1;
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    while (f && kib < 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "Private_Dirty: %lld kB", &kib) != 1)
            kib = -1;
    if (f)
        fclose(f);
    return kib < 0 ? -1 : kib * 1024;
}

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

/* Runs until every lane is done. False: some request ended in no way, not even when cancelled. */
static bool watch(struct load *l)
{
    const bool is_terminal = isatty(STDERR_FILENO);
    const bool shows_progress = l->plan.shows_progress || (is_terminal && !l->plan.as_json);
    const int64_t end = l->plan.seconds > 0
                            ? l->start_ns + (int64_t)(l->plan.seconds * (double)NS_PER_S)
                            : INT64_MAX;
    int64_t progress = l->start_ns + NS_PER_S, tick = l->start_ns + TICK_NS;
    int64_t give_up = INT64_MAX; /* next step of ending: cancel, then return false */
    uint64_t paced = 0;
    load_wake_all(l);
    while (!is_finished(l)) {
        int64_t until = earlier(earlier(tick, progress), earlier(end, give_up));
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

static void add_pool(const struct load *l, struct report *r)
{
    moor_stats s;
    moor_stats_read(l->pool, &s);
    r->acquires = s.acquires;
    r->acquires_reused = s.acquires_reused;
    r->conns_opened = s.conns_created;
    r->conns_open = s.conns_open;
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

/* A descriptor per connection, and some for the shards. */
static void raise_descriptor_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
}

static uint32_t shards_for(const struct plan *p)
{
    if (p->shards != MOOR_SHARDS_AUTO)
        return p->shards;
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus > 0 && p->conc < (uint64_t)cpus ? p->conc : MOOR_SHARDS_AUTO;
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
    o.conns_max = l->plan.conc;
    o.conns_min_idle = 0;
    if (o.waiters_max < l->plan.conc)
        o.waiters_max = l->plan.conc;
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

/* ---- the command line ---- */

/* The pool takes scheme and authority, each request the rest. */
static bool split_url(struct plan *p)
{
    const char *scheme_end = strstr(p->url, "://");
    const char *authority = scheme_end ? scheme_end + 3 : p->url;
    const char *rest = authority + strcspn(authority, "/?#");
    const size_t rest_len = strcspn(rest, "#");
    const bool has_path = *rest == '/';
    p->upstream = strndup(p->url, (size_t)(rest - p->url));
    p->target = malloc(rest_len + 2);
    if (!p->upstream || !p->target)
        return false;
    snprintf(p->target, rest_len + 2, "%s%.*s", has_path ? "" : "/", (int)rest_len, rest);
    return true;
}

static bool read_body(struct plan *p, const char *argument)
{
    if (*argument != '@') {
        p->body = strdup(argument);
        p->body_len = strlen(argument);
        return p->body;
    }
    struct stat st;
    const char *path = argument + 1;
    FILE *f = fopen(path, "re");
    if (!f || fstat(fileno(f), &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > BODY_MAX) {
        cli_complain("--body %s: %s", argument,
                     f ? "not a file of at most 64 MiB" : strerror(errno));
        if (f)
            fclose(f);
        return false;
    }
    p->body = malloc((size_t)st.st_size + 1);
    p->body_len = p->body ? fread(p->body, 1, (size_t)st.st_size, f) : 0;
    fclose(f);
    return p->body;
}

enum { OPT_RATE = 256, OPT_SHARDS, OPT_BODY, OPT_TIMEOUT, OPT_JSON, OPT_PROGRESS, OPT_HELP };

static const struct option long_options[] = {
    {"rate", required_argument, NULL, OPT_RATE}, {"shards", required_argument, NULL, OPT_SHARDS},
    {"body", required_argument, NULL, OPT_BODY}, {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"json", no_argument, NULL, OPT_JSON},       {"progress", no_argument, NULL, OPT_PROGRESS},
    {"help", no_argument, NULL, OPT_HELP},       {NULL, 0, NULL, 0},
};

static bool take_rate(struct plan *p)
{
    char *end = NULL;
    p->rate = strtod(optarg, &end);
    if (end != optarg && !*end && p->rate >= 0.001 && p->rate <= RATE_MAX)
        return true;
    cli_misused("--rate %s is not a number of requests a second from 0.001 to %.0f", optarg,
                RATE_MAX);
    return false;
}

/* Returns false after a complaint. */
static bool take_option(struct plan *p, int opt)
{
    uint64_t n = 0;
    bool is_good = true;
    switch (opt) {
    case 'c':
        is_good = cli_number("-c", optarg, 1, CONC_MAX, &n);
        p->conc = (uint32_t)n;
        return is_good;
    case 'd':
        return cli_seconds("-d", optarg, &p->seconds);
    case 'n':
        return cli_number("-n", optarg, 1, INT64_MAX, &p->count);
    case 'H':
        return cli_header_add(&p->headers, optarg);
    case 'X':
        p->method = optarg;
        return true;
    case OPT_RATE:
        return take_rate(p);
    case OPT_SHARDS:
        is_good = cli_number("--shards", optarg, 1, SHARDS_MAX, &n);
        p->shards = (uint32_t)n;
        return is_good;
    case OPT_BODY:
        free(p->body);
        return read_body(p, optarg);
    case OPT_TIMEOUT:
        return cli_duration("--timeout", optarg, &p->timeout_ms);
    case OPT_JSON:
        return p->as_json = true;
    case OPT_PROGRESS:
        return p->shows_progress = true;
    default:
        cli_misused("unknown option, or one without its value");
        return false;
    }
}

static int read_plan(struct plan *p, int argc, char **argv)
{
    *p = (struct plan){.conc = FLIGHT_DEFAULT, .shards = MOOR_SHARDS_AUTO};
    opterr = 0;
    /* The URL may stand before the options, too. */
    for (int opt; (opt = getopt_long(argc, argv, "c:d:n:H:X:", long_options, NULL)) != -1;) {
        if (opt == OPT_HELP) {
            fputs(usage, stdout);
            return EXIT_OK;
        }
        if (!take_option(p, opt))
            return EXIT_USAGE;
    }
    if (argc - optind != 1)
        return cli_misused(optind == argc ? "no URL" : "one URL only");
    if (p->seconds <= 0 && p->count == 0)
        p->seconds = SECONDS_DEFAULT;
    p->url = argv[optind];
    if (!split_url(p)) {
        cli_complain("out of memory");
        return EXIT_MEMORY;
    }
    return -1;
}

int load_main(int argc, char **argv)
{
    struct load l = {0};
    int code = read_plan(&l.plan, argc, argv);
    if (code < 0)
        code = run(&l);
    cli_header_free(&l.plan.headers);
    free(l.plan.upstream);
    free(l.plan.target);
    free(l.plan.body);
    return code;
}
