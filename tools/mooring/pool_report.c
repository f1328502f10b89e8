/*
 * What a pool run found, for people and for programs. Pure but for writing to standard output. Main
 * thread.
 */
#include "pool.h"

#include "figures.h"

#include <stdio.h>

static void print_latency(const char *name, const struct latency *l)
{
    figures_print(name, latency_percentile(l, 50), latency_percentile(l, 99),
                  latency_percentile(l, 99.9), l->max_ns);
}

static void print_setting(const struct pool_plan *plan, const struct pool_report *r)
{
    char url[256], hold[24];
    printf("%s: %u thread%s, at most %u connection%s, %u shard%s, %s",
           cli_mask_url(plan->url, url, sizeof url), plan->threads, plan->threads == 1 ? "" : "s",
           plan->conns, plan->conns == 1 ? "" : "s", r->shards, r->shards == 1 ? "" : "s",
           r->backend);
    if (*r->backend_reason)
        printf(" (%s)", r->backend_reason);
    if (plan->rate > 0)
        printf(", %.10g acquires/s asked for", plan->rate);
    if (plan->hold_ns)
        printf(", each held for %s", cli_time(plan->hold_ns, hold, sizeof hold));
    printf("\n");
}

static void print_errors(const struct pool_report *r)
{
    printf("  %-14s %llu", "errors", (unsigned long long)r->errors);
    for (uint32_t i = 0; i < r->by_kind.count; i++)
        printf("%s%s %llu", i ? ", " : ": ", r->by_kind.kinds[i].kind,
               (unsigned long long)r->by_kind.kinds[i].count);
    if (r->unfinished)
        printf("; %llu still unfinished at the end", (unsigned long long)r->unfinished);
    printf("\n");
    for (uint32_t i = 0; i < r->by_kind.count; i++)
        printf("    %s: %s\n", r->by_kind.kinds[i].kind, r->by_kind.kinds[i].example);
}

void pool_report_print(const struct pool_plan *plan, const struct pool_report *r)
{
    print_setting(plan, r);
    printf("  %-14s %llu in %.2f s: %.1f/s\n", "acquires", (unsigned long long)r->acquires,
           r->seconds, (double)r->acquires / r->seconds);
    print_latency("wait", &r->wait);
    if (plan->query)
        print_latency("query", &r->query);
    printf("  %-14s %.3f %% of acquires\n", "reuse", 100 * figures_ratio(r->reused, r->acquires));
    printf("  %-14s %llu opened, %llu closed, %llu open, %llu of them idle\n", "connections",
           (unsigned long long)r->conns_opened, (unsigned long long)r->conns_closed,
           (unsigned long long)r->conns_open, (unsigned long long)r->conns_idle);
    printf("  %-14s %llu, %llu failed\n", "dials",
           (unsigned long long)r->conns_opened + r->dials_failed,
           (unsigned long long)r->dials_failed);
    printf("  %-14s at most %llu at a time, seen ten times a second\n", "waiting",
           (unsigned long long)r->waiters_most);
    if (r->leaks)
        printf("  %-14s %llu leases were reported as held for too long\n", "leaks",
               (unsigned long long)r->leaks);
    print_errors(r);
    printf("  %-14s %.2f us of CPU, %.3f system calls of the shards\n", "per acquire",
           r->cpu_us_per_acquire, r->syscalls_per_acquire);
    if (r->memory_bytes >= 0)
        printf("  %-14s %.1f MB written to by this process, its threads included\n", "memory",
               (double)r->memory_bytes / 1e6);
}

/* ---- for programs ---- */

static void print_latency_json(const char *key, const struct latency *l)
{
    figures_print_json(key, latency_percentile(l, 50), latency_percentile(l, 99),
                       latency_percentile(l, 99.9), l->max_ns);
}

static void print_errors_json(const struct pool_report *r)
{
    printf("\"errors\": %llu, \"errors_by_kind\": {", (unsigned long long)r->errors);
    for (uint32_t i = 0; i < r->by_kind.count; i++) {
        printf("%s", i ? ", " : "");
        figures_print_text_json(r->by_kind.kinds[i].kind);
        printf(": %llu", (unsigned long long)r->by_kind.kinds[i].count);
    }
    printf("}, \"error_examples\": {");
    for (uint32_t i = 0; i < r->by_kind.count; i++) {
        printf("%s", i ? ", " : "");
        figures_print_text_json(r->by_kind.kinds[i].kind);
        printf(": ");
        figures_print_text_json(r->by_kind.kinds[i].example);
    }
    printf("}, \"unfinished\": %llu, ", (unsigned long long)r->unfinished);
}

void pool_report_print_json(const struct pool_plan *plan, const struct pool_report *r)
{
    printf("{\"acquires\": %llu, \"queries\": %llu, \"seconds\": %.6f, "
           "\"acquires_per_second\": %.1f, ",
           (unsigned long long)r->acquires, (unsigned long long)r->queries, r->seconds,
           (double)r->acquires / r->seconds);
    print_errors_json(r);
    print_latency_json("wait_us", &r->wait);
    print_latency_json("query_us", &r->query);
    printf(
        "\"reuse\": %.6f, \"conns_opened\": %llu, \"conns_closed\": %llu, \"conns_open\": %llu, "
        "\"conns_idle\": %llu, \"dials_failed\": %llu, \"waiters_most\": %llu, \"leaks\": %llu, ",
        figures_ratio(r->reused, r->acquires), (unsigned long long)r->conns_opened,
        (unsigned long long)r->conns_closed, (unsigned long long)r->conns_open,
        (unsigned long long)r->conns_idle, (unsigned long long)r->dials_failed,
        (unsigned long long)r->waiters_most, (unsigned long long)r->leaks);
    printf("\"cpu_us_per_acquire\": %.3f, \"syscalls_per_acquire\": %.4f, ", r->cpu_us_per_acquire,
           r->syscalls_per_acquire);
    figures_print_bytes_json("memory_private_dirty", r->memory_bytes, ", ");
    printf("\"threads\": %u, \"conns_max\": %u, \"shards\": %u, \"backend\": \"%s\"}\n",
           plan->threads, plan->conns, r->shards, r->backend);
}
