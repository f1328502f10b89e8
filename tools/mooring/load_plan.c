/*
 * The command line of mooring load, as a plan. Main thread, before anything else of the run. Must
 * not start or open anything but the file of --body.
 */
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    CONC_MAX = 1000000,
    SHARDS_MAX = 64,
    STREAMS_MAX = 100000,
    BODY_MAX = 64 * 1024 * 1024,
    FLIGHT_DEFAULT = 64,
    SECONDS_DEFAULT = 10
};

#define RATE_MAX 10000000.0

static const char usage[] =
    "usage: mooring load [options] URL\n"
    "Keeps requests in flight and reports speed, latency and what the pool did.\n"
    "  -c N                requests in flight, over all shards (default 64); with -m connections\n"
    "  --h2                HTTP/2 only, in clear text with prior knowledge\n"
    "  -m STREAMS          with --h2: requests in flight on each of -c connections (default -c 1)\n"
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
    "  --flush SECONDS     give up all connections so often: what do new ones cost?\n"
    "  --help              this text\n" TLS_USAGE
    "An error is a request without a whole answer, or an answer of 400 and more. Ctrl-C ends "
    "early,\n"
    "with the report. Exit status: 0 no errors, 1 errors, 2 wrong usage, URL or variable.\n"
    "-c sets CONNS_MAX, and CONNS_MIN_IDLE is 0; MOORING_* and MOORING_POOL_LOAD_* override "
    "both.\n";

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

enum {
    OPT_RATE = 256,
    OPT_SHARDS,
    OPT_BODY,
    OPT_TIMEOUT,
    OPT_JSON,
    OPT_PROGRESS,
    OPT_FLUSH,
    OPT_H2,
    OPT_HELP
};

static const struct option long_options[] = {
    {"rate", required_argument, NULL, OPT_RATE},
    {"shards", required_argument, NULL, OPT_SHARDS},
    {"body", required_argument, NULL, OPT_BODY},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"json", no_argument, NULL, OPT_JSON},
    {"progress", no_argument, NULL, OPT_PROGRESS},
    {"flush", required_argument, NULL, OPT_FLUSH},
    {"h2", no_argument, NULL, OPT_H2},
    TLS_LONG_OPTIONS,
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
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

static bool take_flush(struct plan *p)
{
    if (!cli_seconds("--flush", optarg, &p->flush_s))
        return false;
    if (p->flush_s >= 0.001)
        return true;
    cli_misused("--flush %s is less than 0.001", optarg);
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
    case OPT_FLUSH:
        return take_flush(p);
    case OPT_H2:
        return p->is_h2 = true;
    case 'm':
        is_good = cli_number("-m", optarg, 1, STREAMS_MAX, &n);
        p->streams = (uint32_t)n;
        return is_good;
    default:
        if (tls_is_option(opt))
            return tls_take_option(&p->tls, opt);
        cli_misused("unknown option, or one without its value");
        return false;
    }
}

/* How many requests and connections: -c counts the one or the other. */
static bool settle_flight(struct plan *p)
{
    if (!p->streams) {
        p->conc = p->conc ? p->conc : FLIGHT_DEFAULT;
        p->conns_max = p->conc;
        return true;
    }
    p->conns_max = p->conc ? p->conc : 1;
    if (!p->is_h2)
        cli_misused("-m is of HTTP/2: it needs --h2");
    else if ((uint64_t)p->conns_max * p->streams > CONC_MAX)
        cli_misused("-c %u times -m %u is more than %d requests", p->conns_max, p->streams,
                    CONC_MAX);
    else
        p->conc = p->conns_max * p->streams;
    return p->conc == p->conns_max * p->streams;
}

int plan_read(struct plan *p, int argc, char **argv)
{
    *p = (struct plan){.shards = MOOR_SHARDS_AUTO};
    opterr = 0;
    /* The URL may stand before the options, too. */
    for (int opt; (opt = getopt_long(argc, argv, "c:d:m:n:H:X:", long_options, NULL)) != -1;) {
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
    if (!settle_flight(p))
        return EXIT_USAGE;
    p->url = argv[optind];
    if (!split_url(p)) {
        cli_complain("out of memory");
        return EXIT_MEMORY;
    }
    return -1;
}

void plan_free(struct plan *p)
{
    cli_header_free(&p->headers);
    free(p->upstream);
    free(p->target);
    free(p->body);
    tls_free(&p->tls);
}
