/*
 * What a load run found, for people and for programs. Pure but for writing to standard output.
 */
#include "load.h"

#include <stdio.h>

enum { TIME_CAP = 24 };

static double ratio(uint64_t a, uint64_t b)
{
    return b > 0 ? (double)a / (double)b : 0;
}

static void print_error(const char *key, uint64_t count, bool as_json, const char **before)
{
    if (count == 0)
        return;
    printf(as_json ? "%s\"%s\": %llu" : "%s%s %llu", *before, key, (unsigned long long)count);
    *before = ", ";
}

static void print_errors(const struct report *r, bool as_json)
{
    const char *before = "";
    for (unsigned e = 1; e < ERR_COUNT; e++)
        print_error(e == ERR_COUNT - 1 ? "MOOR_UNKNOWN" : moor_err_name((moor_err)e), r->by_err[e],
                    as_json, &before);
    print_error("http_4xx", r->status_4xx, as_json, &before);
    print_error("http_5xx", r->status_5xx, as_json, &before);
}

/* ---- for people ---- */

static void print_percentiles(const char *name, moor_ns p50, moor_ns p99, moor_ns p999, moor_ns max)
{
    char a[TIME_CAP], b[TIME_CAP], c[TIME_CAP], d[TIME_CAP];
    printf("  %-14s p50 %s, p99 %s, p99.9 %s, max %s\n", name, cli_time(p50, a, sizeof a),
           cli_time(p99, b, sizeof b), cli_time(p999, c, sizeof c), cli_time(max, d, sizeof d));
}

static void print_tls(const struct report *r)
{
    const struct tls_report *t = &r->tls;
    print_percentiles("handshake", t->p50, t->p99, t->p999, t->max);
    printf("  %-14s %llu, %.2f %% of them resumed; %llu failed\n", "handshakes",
           (unsigned long long)t->handshakes, 100 * ratio(t->resumed, t->handshakes),
           (unsigned long long)t->failed);
    if (r->flushes)
        printf("  %-14s %llu, %.2f %% of them resumed\n", "  after flush",
               (unsigned long long)t->flushed_handshakes,
               100 * ratio(t->flushed_resumed, t->flushed_handshakes));
}

void report_print(const struct plan *plan, const struct report *r)
{
    char url[256];
    printf("%s: %u in flight on %u shard%s, %s", cli_mask_url(plan->url, url, sizeof url),
           plan->conc, r->shards, r->shards == 1 ? "" : "s", r->backend);
    if (*r->backend_reason)
        printf(" (%s)", r->backend_reason);
    if (plan->rate > 0)
        printf(", %.10g requests/s asked for", plan->rate);
    printf("\n  %-14s %llu in %.2f s: %.1f/s, %.2f MB/s of bodies\n", "requests",
           (unsigned long long)r->requests, r->seconds, (double)r->requests / r->seconds,
           (double)r->bytes_down / r->seconds / 1e6);
    print_percentiles("latency", latency_percentile(&r->latency, 50),
                      latency_percentile(&r->latency, 99), latency_percentile(&r->latency, 99.9),
                      r->latency.max_ns);
    print_percentiles("acquire", r->acquire_p50, r->acquire_p99, r->acquire_p999, r->acquire_max);
    printf("  %-14s %.3f %% of acquires; %llu connections opened", "reuse",
           100 * ratio(r->acquires_reused, r->acquires), (unsigned long long)r->conns_opened);
    if (r->flushes)
        printf("; flushed %llu times", (unsigned long long)r->flushes);
    printf("\n");
    if (r->has_tls)
        print_tls(r);
    printf("  %-14s %llu", "errors", (unsigned long long)r->errors);
    if (r->errors) {
        printf(": ");
        print_errors(r, false);
    }
    if (r->unfinished)
        printf("; %llu still unanswered at the end", (unsigned long long)r->unfinished);
    printf("\n  %-14s %.2f us of CPU, %.3f system calls\n", "per request", r->cpu_us_per_request,
           r->syscalls_per_request);
    if (r->memory_per_conn >= 0)
        printf("  %-14s %lld bytes per open connection, what requests left behind included\n",
               "memory", (long long)r->memory_per_conn);
}

/* ---- for programs ---- */

static void print_times_json(const char *key, moor_ns p50, moor_ns p99, moor_ns p999, moor_ns max)
{
    printf("\"%s\": {\"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}, ", key,
           (double)p50 / 1e3, (double)p99 / 1e3, (double)p999 / 1e3, (double)max / 1e3);
}

static void print_bytes_json(const char *key, int64_t bytes, const char *after)
{
    if (bytes < 0)
        printf("\"%s\": null%s", key, after);
    else
        printf("\"%s\": %lld%s", key, (long long)bytes, after);
}

static void print_tls_json(const struct tls_report *t)
{
    printf("{\"handshakes\": %llu, \"resumed\": %llu, \"resumption\": %.6f, \"failed\": %llu, ",
           (unsigned long long)t->handshakes, (unsigned long long)t->resumed,
           ratio(t->resumed, t->handshakes), (unsigned long long)t->failed);
    print_times_json("handshake_us", t->p50, t->p99, t->p999, t->max);
    printf("\"after_flush\": {\"handshakes\": %llu, \"resumption\": %.6f}}, ",
           (unsigned long long)t->flushed_handshakes,
           ratio(t->flushed_resumed, t->flushed_handshakes));
}

void report_print_json(const struct plan *plan, const struct report *r)
{
    printf("{\"requests\": %llu, \"errors\": %llu, \"errors_by_kind\": {",
           (unsigned long long)r->requests, (unsigned long long)r->errors);
    print_errors(r, true);
    printf("}, \"unfinished\": %llu, \"seconds\": %.6f, \"requests_per_second\": %.1f, "
           "\"body_bytes\": %llu, ",
           (unsigned long long)r->unfinished, r->seconds, (double)r->requests / r->seconds,
           (unsigned long long)r->bytes_down);
    print_times_json("latency_us", latency_percentile(&r->latency, 50),
                     latency_percentile(&r->latency, 99), latency_percentile(&r->latency, 99.9),
                     r->latency.max_ns);
    print_times_json("acquire_us", r->acquire_p50, r->acquire_p99, r->acquire_p999, r->acquire_max);
    printf("\"reuse\": %.6f, \"conns_opened\": %llu, \"conns_open\": %llu, "
           "\"cpu_us_per_request\": %.3f, \"syscalls_per_request\": %.4f, ",
           ratio(r->acquires_reused, r->acquires), (unsigned long long)r->conns_opened,
           (unsigned long long)r->conns_open, r->cpu_us_per_request, r->syscalls_per_request);
    printf("\"flushes\": %llu, \"tls\": ", (unsigned long long)r->flushes);
    if (r->has_tls)
        print_tls_json(&r->tls);
    else
        printf("null, ");
    print_bytes_json("memory_per_conn", r->memory_per_conn, ", ");
    print_bytes_json("memory_private_dirty", r->memory_bytes, ", ");
    printf("\"in_flight\": %u, \"shards\": %u, \"backend\": \"%s\"}\n", plan->conc, r->shards,
           r->backend);
}
