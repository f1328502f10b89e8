/*
 * The command line of mooring pool, as a plan. Main thread, before anything else of the run. Must
 * not start or open anything.
 */
#include "pool.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    THREADS_MAX = 4096,
    CONNS_MAX = 1000000,
    DIALS_MAX = 10000,
    SHARDS_MAX = 64,
    THREADS_DEFAULT = 8,
    SECONDS_DEFAULT = 10
};

#define RATE_MAX    10000000.0
#define HOLD_MS_MAX 3600000.0

static const char usage[] =
    "usage: mooring pool [options] URL\n"
    "Threads acquire a connection, make a query over it and release it, over and over;\n"
    "then a report on speed, waits, errors and what the pool did. URL: postgres: mysql:\n"
    "redis: rediss: ssh: tcp: tls: unix:, as far as the build has them (mooring version).\n"
    "  -c N                threads (default 8)\n"
    "  -d SECONDS          for so long (default 10, unless -n is given)\n"
    "  -n N                until N acquires are made\n"
    "  --rate R            R acquires a second on a fixed schedule, over all threads; a wait\n"
    "                      then counts from when an acquire was due, so a stall is seen by\n"
    "                      all it delayed\n"
    "  --query Q           send Q (default: SELECT 1, PING, or run true; byte streams: nothing).\n"
    "                      Byte streams are to echo it; \\n \\r \\t \\\\ \\xHH are bytes there\n"
    "  --no-query          acquire and release alone\n"
    "  --hold-ms MS        hold the lease for so long after the query (fractions are fine)\n"
    "  --timeout MS        for each acquire, and for each query (also 500ms, 3s; default: the\n"
    "                      pool's for acquires, none for queries)\n"
    "  --conns N           most connections (default: as many as threads)\n"
    "  --min-idle N        connections kept warm (default 0)\n"
    "  --dials N           most connects at a time (default 8)\n"
    "  --shards N          loops, one thread each (default: one per CPU, at most -c)\n"
    "  --json              one JSON object on standard output instead of text\n"
    "  --progress          a line a second on standard error even if that is no terminal\n"
    "  --help              this text\n" TLS_USAGE
    "TLS options are for tls and rediss URLs, too. A server that cannot be reached at the\n"
    "start is an error; later it is counted. Ctrl-C ends early, with the report; a second one\n"
    "waits for nothing. Exit status: 0 no errors, 1 errors, 2 wrong usage, URL or variable;\n"
    "6, 7, 28, 35, 60 and 67, as in the manual, at the start.\n"
    "MOORING_* and MOORING_POOL_POOL_* override the options.\n";

enum {
    OPT_RATE = 256,
    OPT_QUERY,
    OPT_NO_QUERY,
    OPT_HOLD,
    OPT_TIMEOUT,
    OPT_CONNS,
    OPT_MIN_IDLE,
    OPT_DIALS,
    OPT_SHARDS,
    OPT_JSON,
    OPT_PROGRESS,
    OPT_HELP
};

static const struct option long_options[] = {
    {"rate", required_argument, NULL, OPT_RATE},
    {"query", required_argument, NULL, OPT_QUERY},
    {"no-query", no_argument, NULL, OPT_NO_QUERY},
    {"hold-ms", required_argument, NULL, OPT_HOLD},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"conns", required_argument, NULL, OPT_CONNS},
    {"min-idle", required_argument, NULL, OPT_MIN_IDLE},
    {"dials", required_argument, NULL, OPT_DIALS},
    {"shards", required_argument, NULL, OPT_SHARDS},
    {"json", no_argument, NULL, OPT_JSON},
    {"progress", no_argument, NULL, OPT_PROGRESS},
    TLS_LONG_OPTIONS,
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* What the command line says of the query, before the URL tells what that means. */
struct asked_query {
    const char *text; /* NULL = the protocol's usual one */
    bool is_none;
};

static bool take_real(const char *option, double min, double max, double *out)
{
    char *end = NULL;
    const double n = strtod(optarg, &end);
    if (end != optarg && !*end && isfinite(n) && n >= min && n <= max) {
        *out = n;
        return true;
    }
    cli_misused("%s %s is not a number from %g to %.0f", option, optarg, min, max);
    return false;
}

static bool take_count(const char *option, uint64_t min, uint64_t max, uint32_t *out)
{
    uint64_t n = 0;
    const bool is_good = cli_number(option, optarg, min, max, &n);
    *out = (uint32_t)n;
    return is_good;
}

/* Returns false after a complaint. */
static bool take_option(struct pool_plan *p, struct asked_query *query, int opt)
{
    double hold_ms = 0;
    bool is_good = true;
    switch (opt) {
    case 'c':
        return take_count("-c", 1, THREADS_MAX, &p->threads);
    case 'd':
        return cli_seconds("-d", optarg, &p->seconds);
    case 'n':
        return cli_number("-n", optarg, 1, INT64_MAX, &p->count);
    case OPT_RATE:
        return take_real("--rate", 0.001, RATE_MAX, &p->rate);
    case OPT_QUERY:
        query->text = optarg;
        return true;
    case OPT_NO_QUERY:
        return query->is_none = true;
    case OPT_HOLD:
        is_good = take_real("--hold-ms", 0, HOLD_MS_MAX, &hold_ms);
        p->hold_ns = (int64_t)(hold_ms * 1e6);
        return is_good;
    case OPT_TIMEOUT:
        return cli_duration("--timeout", optarg, &p->timeout_ms);
    case OPT_CONNS:
        return take_count("--conns", 1, CONNS_MAX, &p->conns);
    case OPT_MIN_IDLE:
        return take_count("--min-idle", 0, CONNS_MAX, &p->min_idle);
    case OPT_DIALS:
        return take_count("--dials", 1, DIALS_MAX, &p->dials);
    case OPT_SHARDS:
        return take_count("--shards", 1, SHARDS_MAX, &p->shards);
    case OPT_JSON:
        return p->as_json = true;
    case OPT_PROGRESS:
        return p->shows_progress = true;
    default:
        if (tls_is_option(opt))
            return tls_take_option(&p->tls, opt);
        cli_misused("unknown option, or one without its value");
        return false;
    }
}

static int read_query(struct pool_plan *p, const struct asked_query *asked)
{
    if (asked->is_none && asked->text)
        return cli_misused("--query and --no-query exclude each other");
    const char *text = asked->text ? asked->text : p->drive->query;
    if (asked->is_none || !text)
        return -1;
    p->query = strdup(text);
    if (!p->query) {
        cli_complain("out of memory");
        return EXIT_MEMORY;
    }
    if (!drive_read_query(p->drive, p->query, &p->query_len))
        return EXIT_USAGE;
    return p->query_len > 0 ? -1 : cli_misused("--query is empty; see --no-query");
}

int pool_plan_read(struct pool_plan *p, int argc, char **argv)
{
    *p = (struct pool_plan){.threads = THREADS_DEFAULT, .shards = MOOR_SHARDS_AUTO};
    struct asked_query query = {0};
    opterr = 0;
    /* The URL may stand before the options, too. */
    for (int opt; (opt = getopt_long(argc, argv, "c:d:n:", long_options, NULL)) != -1;) {
        if (opt == OPT_HELP) {
            fputs(usage, stdout);
            return EXIT_OK;
        }
        if (!take_option(p, &query, opt))
            return EXIT_USAGE;
    }
    if (argc - optind != 1)
        return cli_misused(optind == argc ? "no URL" : "one URL only");
    if (p->seconds <= 0 && p->count == 0)
        p->seconds = SECONDS_DEFAULT;
    if (p->conns == 0)
        p->conns = p->threads;
    p->url = argv[optind];
    p->drive = drive_find(p->url);
    if (!p->drive)
        return EXIT_USAGE;
    return read_query(p, &query);
}

void pool_plan_free(struct pool_plan *p)
{
    free(p->query);
    tls_free(&p->tls);
}
