/*
 * mooring ping: a round trip a second over one connection, and what connecting took. One thread; the
 * runtime's shard only keeps the pool. Signals end what the main thread waits for, or the sleep
 * between two checks.
 */
#include "commands.h"

#include "cli.h"
#include "drive.h"
#include "measure.h"
#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS 1000000LL

enum { LINE_CAP = 512, URL_CAP = 256, TIME_CAP = 24 };

struct ping_plan {
    const char *url;
    const struct drive *drive; /* NULL: http */
    uint64_t count;            /* 0 = until interrupted */
    moor_ms interval_ms, timeout_ms;
    const char *query_text; /* as given; NULL = the protocol's usual one */
    char *query;            /* owned; NULL = connects are all there is to check */
    size_t query_len;
    bool connects_anew;
    struct tls_options tls;
};

/* Times of one kind over all checks. */
struct tally {
    uint64_t count;
    moor_ns min, max, sum;
};

struct ping {
    const struct ping_plan *plan;
    moor_pool *pool;
    uint64_t checks, failed;
    struct tally connects, trips;
    bool has_version;
    _Atomic(int64_t) handshake_ns; /* of the last TLS handshake; written by the shard */
};

/* What a check came to. */
struct check {
    bool is_good;
    bool is_new;      /* it connected */
    moor_ns acquired; /* how long getting the connection took */
    moor_ns trip;     /* -1 = there was no round trip */
    char version[DRIVE_VERSION_CAP];
    char line[LINE_CAP]; /* of a failure */
    int exit_code;       /* likewise: EXIT_USAGE ends it all */
};

static const char usage[] =
    "usage: mooring ping [options] URL\n"
    "Connects, then makes a round trip a second over that connection. URL: http: https: and\n"
    "what mooring pool takes. Over http a HEAD request, which any status below 500 answers\n"
    "well; over tcp, tls and unix a connect each time, or with --query an echo.\n"
    "  -n N             checks (default 5; 0 = until interrupted)\n"
    "  --interval MS    from check to check (also 500ms, 3s; default 1s)\n"
    "  --timeout MS     for each connect and each round trip (default 5s)\n"
    "  --query Q        send Q (default: SELECT 1, PING, or run true)\n"
    "  --new            a new connection for every check\n"
    "  --help           this text\n" TLS_USAGE
    "Exit status: 0 all checks were good, 1 one failed, 2 wrong usage, URL or variable.\n"
    "MOORING_* and MOORING_POOL_PING_* tune it.\n";

/* ---- signals ---- */

static volatile sig_atomic_t is_interrupted;
static volatile sig_atomic_t cut_fd = -1; /* our own descriptor of the handle that is asked */

static void take_signal(int number)
{
    const int saved = errno;
    if (number != SIGALRM)
        is_interrupted = 1;
    if (cut_fd >= 0)
        (void)shutdown((int)cut_fd, SHUT_RDWR);
    errno = saved;
}

static void take_signals(void)
{
    const struct sigaction a = {.sa_handler = take_signal};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGALRM, &a, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void set_alarm(moor_ms ms)
{
    const struct itimerval t = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};
    (void)setitimer(ITIMER_REAL, &t, NULL);
}

/* ---- a check through a lease ---- */

/* The library of a handle knows no timeout: an alarm ends its wait. */
static bool ask(const struct ping_plan *p, struct drive_call *c, bool (*run)(struct drive_call *c))
{
    if (!p->drive->fd)
        return run(c);
    const int fd = fcntl(p->drive->fd(c->native), F_DUPFD_CLOEXEC, 0);
    const int64_t began = now_ns();
    cut_fd = fd;
    set_alarm(p->timeout_ms);
    const bool is_good = run(c);
    set_alarm(0);
    cut_fd = -1;
    if (fd >= 0)
        close(fd);
    if (!is_good && now_ns() - began >= p->timeout_ms * NS_PER_MS)
        return drive_failed(c, MOOR_ETIMEDOUT, "query");
    return is_good;
}

static void ask_version(const struct ping_plan *p, const struct drive_call *made, struct check *out)
{
    struct drive_call c = *made;
    c.text[0] = '\0';
    if (p->drive->version && ask(p, &c, p->drive->version))
        snprintf(out->version, sizeof out->version, "%.*s", DRIVE_VERSION_CAP - 1, c.text);
}

static void check_lease(struct ping *g, struct check *out)
{
    const struct ping_plan *p = g->plan;
    moor_acquired a;
    moor_why why;
    const int64_t begin = now_ns();
    const moor_err e = drive_acquire(g->pool, p->timeout_ms, &a, &why);
    const int64_t got = now_ns();
    if (e != MOOR_OK) {
        drive_acquire_line(&a.fault, &why, out->line, sizeof out->line, &out->exit_code);
        return;
    }
    out->acquired = got - begin;
    out->is_new = !a.reused;
    out->is_good = true;
    struct drive_call c = {.lease = a.lease,
                           .native = a.native,
                           .query = p->query,
                           .query_len = p->query_len,
                           .timeout_ms = p->timeout_ms,
                           .how = MOOR_REUSE};
    if (p->query) {
        out->is_good = ask(p, &c, p->drive->run);
        out->trip = now_ns() - got;
        if (!out->is_good)
            snprintf(out->line, sizeof out->line, "%s: %s", c.kind, c.text);
    }
    if (out->is_good && !g->has_version)
        ask_version(p, &c, out);
    if (p->connects_anew || !p->query)
        c.how = MOOR_DISCARD;
    drive_release(p->drive, &c);
}

/* ---- a check through a request ---- */

static void check_http(struct ping *g, struct check *out)
{
    const struct ping_plan *p = g->plan;
    static const moor_header headers[] = {{{"User-Agent", 10}, {"mooring", 7}},
                                          {{"Accept", 6}, {"*/*", 3}},
                                          {{"Connection", 10}, {"close", 5}}};
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = p->url;
    r.method = "HEAD";
    r.headers = headers;
    r.header_count = p->connects_anew ? 3 : 2;
    r.timeout_ms = p->timeout_ms;
    moor_http_response *response = NULL;
    moor_fault fault = {0};
    const moor_err e = moor_http_fetch(g->pool, &r, &response, &fault);
    if (e != MOOR_OK) {
        fault.err = e;
        cli_fault_line(&fault, NULL, out->line, sizeof out->line);
        out->exit_code = cli_exit_code(e, fault.what, NULL);
        return;
    }
    const moor_span server = moor_http_header(&response->head, "Server");
    snprintf(out->version, sizeof out->version, "%s %d%s%.*s",
             cli_http_version(response->head.version), response->head.status,
             server.len ? ", " : "", (int)(server.len < 64 ? server.len : 64),
             server.len ? (const char *)server.base : "");
    out->acquired = response->done.waited;
    out->is_new = !response->done.reused;
    out->trip = response->done.total - response->done.waited;
    out->is_good = response->head.status < 500;
    if (!out->is_good)
        snprintf(out->line, sizeof out->line, "the server answered %d", response->head.status);
    moor_http_response_free(response);
}

/* ---- telling ---- */

static void tally_add(struct tally *t, moor_ns ns)
{
    t->min = t->count && t->min < ns ? t->min : ns;
    t->max = t->max > ns ? t->max : ns;
    t->sum += ns;
    t->count++;
}

static void tally_print(const char *name, const struct tally *t)
{
    char a[TIME_CAP], b[TIME_CAP], c[TIME_CAP];
    if (t->count)
        printf("%-10s min %s, avg %s, max %s\n", name, cli_time(t->min, a, sizeof a),
               cli_time(t->sum / (moor_ns)t->count, b, sizeof b), cli_time(t->max, c, sizeof c));
}

static void print_check(struct ping *g, struct check *c)
{
    char a[TIME_CAP], b[TIME_CAP];
    printf("%llu: ", (unsigned long long)g->checks);
    if (c->is_good || c->trip > 0) {
        printf("%s in %s", c->is_new ? "connected" : "acquired",
               cli_time(c->acquired, a, sizeof a));
        const int64_t handshake =
            atomic_exchange_explicit(&g->handshake_ns, 0, memory_order_relaxed);
        if (c->is_new && handshake)
            printf(" (of it TLS %s)", cli_time(handshake, b, sizeof b));
        printf("%s", c->is_good ? "" : "; ");
    }
    if (!c->is_good)
        printf("failed: %s", c->line);
    else if (c->trip >= 0)
        printf(", round trip %s", cli_time(c->trip, b, sizeof b));
    /* It comes from the peer: it may not talk to the terminal. */
    for (char *s = c->version; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
    if (c->is_good && *c->version && !g->has_version)
        printf(", %s", c->version);
    printf("\n");
    fflush(stdout);
}

static void note_check(struct ping *g, struct check *c)
{
    g->checks++;
    g->failed += !c->is_good;
    print_check(g, c);
    g->has_version |= *c->version && c->is_good;
    if (c->is_good && c->is_new)
        tally_add(&g->connects, c->acquired);
    if (c->is_good && c->trip >= 0)
        tally_add(&g->trips, c->trip);
}

static int print_end(const struct ping *g)
{
    char url[URL_CAP];
    printf("--- %s: %llu check%s, %llu failed\n", cli_mask_url(g->plan->url, url, sizeof url),
           (unsigned long long)g->checks, g->checks == 1 ? "" : "s", (unsigned long long)g->failed);
    tally_print("connect", &g->connects);
    tally_print("round trip", &g->trips);
    return g->failed || g->checks == 0 ? EXIT_OTHER : EXIT_OK;
}

/* ---- the run ---- */

static int ping_all(struct ping *g)
{
    const struct ping_plan *p = g->plan;
    const int64_t start = now_ns();
    for (uint64_t i = 0; (p->count == 0 || i < p->count) && !is_interrupted; i++) {
        const int64_t due = start + (int64_t)i * p->interval_ms * NS_PER_MS;
        const struct timespec t = {.tv_sec = due / NS_PER_S, .tv_nsec = due % NS_PER_S};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR &&
               !is_interrupted)
            ;
        if (is_interrupted)
            break;
        struct check c = {.trip = -1};
        if (p->drive)
            check_lease(g, &c);
        else
            check_http(g, &c);
        if (is_interrupted && !c.is_good)
            break;
        if (c.exit_code == EXIT_USAGE) {
            char url[URL_CAP];
            cli_complain("%s: %s", cli_mask_url(p->url, url, sizeof url), c.line);
            return EXIT_USAGE;
        }
        note_check(g, &c);
    }
    return print_end(g);
}

static void on_event(void *user, const moor_event *e)
{
    struct ping *g = user;
    if (e->type == MOOR_EVENT_TLS_READY)
        atomic_store_explicit(&g->handshake_ns, e->tls->handshake, memory_order_relaxed);
}

static int run(const struct ping_plan *p)
{
    struct ping g = {.plan = p};
    moor_runtime *runtime = NULL;
    int code = cli_runtime_create(1, false, &runtime);
    if (code == EXIT_OK && moor_runtime_shard_count(runtime) == 0)
        code = cli_misused("ping needs a shard: MOORING_SHARDS is 0");
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.name = "ping";
    o.conns_max = 1;
    o.conns_min_idle = 0;
    o.connect_timeout_ms = p->timeout_ms;
    o.on_event = on_event;
    o.event_user = &g;
    tls_apply(&p->tls, &o);
    if (code == EXIT_OK && p->drive)
        code = drive_use(p->drive, runtime);
    if (code == EXIT_OK)
        code = cli_pool_open(runtime, p->drive ? p->url : NULL, &o, &g.pool);
    if (code == EXIT_OK) {
        take_signals();
        code = ping_all(&g);
    }
    cli_runtime_close(runtime, g.pool);
    return code;
}

/* ---- the command line ---- */

enum { OPT_INTERVAL = 256, OPT_TIMEOUT, OPT_QUERY, OPT_NEW, OPT_HELP };

static const struct option long_options[] = {
    {"interval", required_argument, NULL, OPT_INTERVAL},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"query", required_argument, NULL, OPT_QUERY},
    {"new", no_argument, NULL, OPT_NEW},
    TLS_LONG_OPTIONS,
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* Returns false after a complaint. */
static bool take_option(struct ping_plan *p, int opt)
{
    switch (opt) {
    case 'n':
        return cli_number("-n", optarg, 0, INT64_MAX, &p->count);
    case OPT_INTERVAL:
        return cli_duration("--interval", optarg, &p->interval_ms);
    case OPT_TIMEOUT:
        return cli_duration("--timeout", optarg, &p->timeout_ms);
    case OPT_QUERY:
        p->query_text = optarg;
        return true;
    case OPT_NEW:
        return p->connects_anew = true;
    default:
        if (tls_is_option(opt))
            return tls_take_option(&p->tls, opt);
        cli_misused("unknown option, or one without its value");
        return false;
    }
}

static int read_target(struct ping_plan *p)
{
    if (drive_has_scheme(p->url, "http https"))
        return p->query_text ? cli_misused("--query is not for http URLs") : -1;
    p->drive = drive_find(p->url);
    if (!p->drive)
        return EXIT_USAGE;
    const char *text = p->query_text ? p->query_text : p->drive->query;
    if (!text)
        return -1;
    p->query = strdup(text);
    if (!p->query) {
        cli_complain("out of memory");
        return EXIT_MEMORY;
    }
    if (!drive_read_query(p->drive, p->query, &p->query_len))
        return EXIT_USAGE;
    return p->query_len > 0 ? -1 : cli_misused("--query is empty");
}

int ping_main(int argc, char **argv)
{
    struct ping_plan p = {.count = 5, .interval_ms = 1000, .timeout_ms = 5000};
    int code = -1;
    opterr = 0;
    for (int opt; code < 0 && (opt = getopt_long(argc, argv, "n:", long_options, NULL)) != -1;) {
        if (opt == OPT_HELP) {
            fputs(usage, stdout);
            code = EXIT_OK;
        } else if (!take_option(&p, opt)) {
            code = EXIT_USAGE;
        }
    }
    if (code < 0 && argc - optind != 1)
        code = cli_misused(optind == argc ? "no URL" : "one URL only");
    if (code < 0) {
        p.url = argv[optind];
        code = read_target(&p);
    }
    if (code < 0)
        code = run(&p);
    free(p.query);
    tls_free(&p.tls);
    return code;
}
