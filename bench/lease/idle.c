/*
 * Many pools at rest: `lease_idle POOLS CONNS` opens so many pools of so many conns each, leases every conn of
 * every pool at once, returns them, says in one line what was counted, and stays as it is until stdin ends.
 * Somebody else looks at its memory and CPU meanwhile. Status 1: a count is wrong.
 */
#include "void_driver.h"

#include <stdio.h>
#include <stdlib.h>

enum { WARM_MS = 30000, CLOSE_MS = 10000 };

struct counts {
    uint64_t open, idle, leased, waiters;
};

static bool is_ok(moor_err e, const char *what)
{
    if (e != MOOR_OK)
        fprintf(stderr, "%s: %s\n", what, moor_err_text(e));
    return e == MOOR_OK;
}

static struct counts count(moor_pool **pools, unsigned n)
{
    struct counts c = {0};
    for (unsigned i = 0; i < n; i++) {
        moor_stats s;
        moor_stats_read(pools[i], &s);
        c.open += s.conns_open;
        c.idle += s.conns_idle;
        c.leased += s.conns_leased;
        c.waiters += s.waiters;
    }
    return c;
}

static bool open_pools(moor_runtime *runtime, moor_pool **pools, unsigned n, unsigned conns)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_max = conns > 0 ? conns : 1;
    o.conns_min_idle = conns;
    for (unsigned i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "idle-%u", i);
        o.name = name;
        if (!is_ok(moor_pool_open(runtime, VOID_URL, &o, &pools[i]), "open") ||
            (conns > 0 && !is_ok(moor_pool_warm(pools[i], conns, WARM_MS, NULL, NULL), "warm")))
            return false;
    }
    return true;
}

/* Every conn of every pool, none of them twice. */
static bool lease_all(moor_pool **pools, unsigned n, unsigned conns, struct counts *out_held)
{
    const size_t all = (size_t)n * conns;
    moor_acquired *held = calloc(all ? all : 1, sizeof *held);
    size_t got = 0;
    bool is_fine = held != NULL;
    while (is_fine && got < all) {
        moor_acquired *a = &held[got];
        a->size = sizeof *a;
        is_fine = is_ok(moor_acquire_wait(pools[got / conns], NULL, a), "acquire");
        if (!is_fine)
            break;
        struct lease_handle *h = a->native;
        got++;
        if (h->uses++ != 0) {
            fprintf(stderr, "lease %zu: its handle is another's, too\n", got);
            is_fine = false;
        }
    }
    *out_held = count(pools, n);
    for (size_t i = 0; i < got; i++)
        moor_release(held[i].lease, MOOR_REUSE);
    free(held);
    return is_fine;
}

static bool close_pools(moor_pool **pools, unsigned n)
{
    bool is_fine = true;
    for (unsigned i = 0; i < n; i++)
        is_fine &= !pools[i] || is_ok(moor_pool_close(pools[i], CLOSE_MS), "close");
    return is_fine;
}

static bool run(moor_runtime *runtime, moor_pool **pools, unsigned n, unsigned conns)
{
    const uint64_t all = (uint64_t)n * conns;
    struct counts held = {0};
    if (!open_pools(runtime, pools, n, conns) || !lease_all(pools, n, conns, &held))
        return false;
    const struct counts rest = count(pools, n);
    moor_runtime_stats s;
    moor_runtime_stats_read(runtime, &s);
    printf("{\"pools\":%u,\"conns\":%u,\"leased_at_once\":%llu,\"open\":%llu,\"idle\":%llu,"
           "\"leased\":%llu,\"memory_used\":%llu,\"handle_bytes\":%zu,\"backend\":\"%s\"}\n",
           n, conns, (unsigned long long)held.leased, (unsigned long long)rest.open,
           (unsigned long long)rest.idle, (unsigned long long)rest.leased,
           (unsigned long long)s.memory_used, void_driver.handle_bytes,
           moor_runtime_backend(runtime));
    fflush(stdout);
    if (held.leased != all || held.idle != 0 || held.waiters != 0 || rest.open != all ||
        rest.idle != all || rest.leased != 0) {
        fprintf(stderr, "%llu conns: those counts are wrong\n", (unsigned long long)all);
        return false;
    }
    while (getchar() != EOF)
        ;
    return true;
}

int main(int argc, char **argv)
{
    const unsigned n = argc == 3 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    const unsigned conns = argc == 3 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    if (n < 1) {
        fprintf(stderr, "usage: %s POOLS CONNS\n", argv[0]);
        return 2;
    }
    moor_runtime *runtime = NULL;
    moor_pool **pools = calloc(n, sizeof *pools);
    int status = pools ? void_runtime(&runtime) : 1;
    if (status == 0) {
        status = run(runtime, pools, n, conns) ? 0 : 1;
        if (!close_pools(pools, n) ||
            !is_ok(moor_runtime_destroy(runtime, CLOSE_MS), "something is still out"))
            status = 1;
        else if (void_uses_taken() != (uint64_t)n * conns)
            status = 1;
    }
    free(pools);
    return status;
}
