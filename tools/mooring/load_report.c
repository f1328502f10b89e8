/*
 * What a load run found, for people and for programs. Pure but for writing to standard output.
 */
#include "figures.h"
#include "load.h"

#include <stdio.h>

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

static void print_tls(const struct report *r)
{
    const struct tls_report *t = &r->tls;
    figures_print("handshake", t->p50, t->p99, t->p999, t->max);
    printf("  %-14s %llu, %.2f %% of them resumed; %llu failed\n", "handshakes",
           (unsigned long long)t->handshakes, 100 * figures_ratio(t->resumed, t->handshakes),
           (unsigned long long)t->failed);
    if (r->flushes)
        printf("  %-14s %llu, %.2f %% of them resumed\n", "  after flush",
               (unsigned long long)t->flushed_handshakes,
               100 * figures_ratio(t->flushed_resumed, t->flushed_handshakes));
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
    figures_print("latency", latency_percentile(&r->latency, 50),
                  latency_percentile(&r->latency, 99), latency_percentile(&r->latency, 99.9),
                  r->latency.max_ns);
    figures_print("acquire", r->acquire_p50, r->acquire_p99, r->acquire_p999, r->acquire_max);
    printf("  %-14s %.3f %% of acquires; %llu connections opened", "reuse",
           100 * figures_ratio(r->acquires_reused, r->acquires),
           (unsigned long long)r->conns_opened);
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

static void print_tls_json(const struct tls_report *t)
{
    printf("{\"handshakes\": %llu, \"resumed\": %llu, \"resumption\": %.6f, \"failed\": %llu, ",
           (unsigned long long)t->handshakes, (unsigned long long)t->resumed,
           figures_ratio(t->resumed, t->handshakes), (unsigned long long)t->failed);
    figures_print_json("handshake_us", t->p50, t->p99, t->p999, t->max);
    printf("\"after_flush\": {\"handshakes\": %llu, \"resumption\": %.6f}}, ",
           (unsigned long long)t->flushed_handshakes,
           figures_ratio(t->flushed_resumed, t->flushed_handshakes));
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
    figures_print_json("latency_us", latency_percentile(&r->latency, 50),
                       latency_percentile(&r->latency, 99), latency_percentile(&r->latency, 99.9),
                       r->latency.max_ns);
    figures_print_json("acquire_us", r->acquire_p50, r->acquire_p99, r->acquire_p999,
                       r->acquire_max);
    printf("\"reuse\": %.6f, \"conns_opened\": %llu, \"conns_open\": %llu, "
           "\"cpu_us_per_request\": %.3f, \"syscalls_per_request\": %.4f, ",
           figures_ratio(r->acquires_reused, r->acquires), (unsigned long long)r->conns_opened,
           (unsigned long long)r->conns_open, r->cpu_us_per_request, r->syscalls_per_request);
    printf("\"flushes\": %llu, \"tls\": ", (unsigned long long)r->flushes);
    if (r->has_tls)
        print_tls_json(&r->tls);
    else
        printf("null, ");
    figures_print_bytes_json("memory_per_conn", r->memory_per_conn, ", ");
    figures_print_bytes_json("memory_private_dirty", r->memory_bytes, ", ");
    printf("\"in_flight\": %u, \"shards\": %u, \"backend\": \"%s\"}\n", plan->conc, r->shards,
           r->backend);
}
