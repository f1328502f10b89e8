/*
 * The world's clock, chance and events. See sim_world.h. Driven by one thread.
 * Must depend on nothing but the seed: no addresses, no real time.
 */
#include "tests/support/sim_world.h"

#include "base/assert.h"
#include "tests/support/io_sim.h"
#include "tests/support/sim_net.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A day: arithmetic on times before the start must not go below zero. */
#define START_NS (INT64_C(86400) * MR_NS_PER_SEC)

static int64_t read_clock(void *ctx)
{
    return ((struct sim *)ctx)->now_ns;
}

static int64_t read_wall(void *ctx)
{
    const struct sim *w = ctx;
    return (w->now_ns + w->slept_ns) / MR_NS_PER_SEC;
}

void sim_init(struct sim *w, uint64_t seed)
{
    *w = (struct sim){.seed = seed, .random = seed, .now_ns = START_NS};
    w->clock = (struct mr_clock){.now = read_clock, .wall = read_wall, .ctx = w};
    w->latency_ns = 200 * MR_NS_PER_US;
    w->files_max = UINT32_MAX;
    w->block = sim_block_alone;
    mr_list_init(&w->hosts);
}

void sim_draw_faults(struct sim *w)
{
#define X(name, most, text)                                                                        \
    w->faults.name = (uint16_t)(sim_chance(w, 500) ? 0 : 1 + sim_below(w, (most)));
    SIM_FAULTS(X)
#undef X
    w->latency_ns = sim_between(w, 10, 2000) * MR_NS_PER_US;
    if (!w->is_traced)
        return;
#define X(name, most, text)                                                                        \
    if (w->faults.name)                                                                            \
        printf("fault %-20s %3u per mille: %s\n", #name, w->faults.name, text);
    SIM_FAULTS(X)
#undef X
}

void sim_fini(struct sim *w)
{
    while (w->event_count > 0)
        sim_forget(w, w->events[0]);
    sim_net_fini(w);
    free(w->events);
    w->events = NULL;
    w->event_count = w->event_cap = 0;
}

/* ---- chance ---- */

uint64_t sim_random(struct sim *w)
{
    /* splitmix64 */
    uint64_t z = (w->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t sim_below(struct sim *w, uint64_t bound)
{
    return bound ? sim_random(w) % bound : 0;
}

int64_t sim_between(struct sim *w, int64_t low, int64_t high)
{
    return low + (int64_t)sim_below(w, (uint64_t)(high - low) + 1);
}

bool sim_chance(struct sim *w, unsigned per_mille)
{
    return per_mille && sim_below(w, 1000) < per_mille;
}

int64_t sim_latency(struct sim *w)
{
    int64_t most = sim_chance(w, 30) ? 20 * w->latency_ns : 2 * w->latency_ns;
    return sim_between(w, 1, most);
}

/* ---- events ---- */

static bool is_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void put(struct sim *w, uint32_t place, struct sim_event *e)
{
    w->events[place - 1] = e;
    e->place = place;
}

static void sift(struct sim *w, struct sim_event *e)
{
    uint32_t place = e->place;
    while (place > 1 && is_before(e, w->events[place / 2 - 1])) {
        put(w, place, w->events[place / 2 - 1]);
        place /= 2;
    }
    for (;;) {
        uint32_t child = place * 2;
        if (child > w->event_count)
            break;
        if (child < w->event_count && is_before(w->events[child], w->events[child - 1]))
            child++;
        if (!is_before(w->events[child - 1], e))
            break;
        put(w, place, w->events[child - 1]);
        place = child;
    }
    put(w, place, e);
}

void sim_at(struct sim *w, struct sim_event *e, int64_t at_ns,
            void (*run)(struct sim *w, struct sim_event *e))
{
    sim_forget(w, e);
    if (w->event_count == w->event_cap) {
        w->event_cap = w->event_cap ? w->event_cap * 2 : 64;
        w->events = realloc(w->events, w->event_cap * sizeof *w->events);
        MR_ASSERT(w->events);
    }
    e->at_ns = at_ns > w->now_ns ? at_ns : w->now_ns;
    e->order = sim_random(w);
    e->run = run;
    put(w, ++w->event_count, e);
    sift(w, e);
}

void sim_forget(struct sim *w, struct sim_event *e)
{
    if (!e->place)
        return;
    struct sim_event *last = w->events[--w->event_count];
    uint32_t place = e->place;
    e->place = 0;
    if (last == e)
        return;
    put(w, place, last);
    sift(w, last);
}

int64_t sim_next(const struct sim *w)
{
    return w->event_count ? w->events[0]->at_ns : MR_NEVER;
}

void sim_run_due(struct sim *w)
{
    while (sim_next(w) <= w->now_ns) {
        struct sim_event *e = w->events[0];
        sim_forget(w, e);
        e->run(w, e);
    }
}

void sim_advance(struct sim *w, int64_t at_ns)
{
    sim_run_due(w);
    while (sim_next(w) <= at_ns) {
        w->now_ns = sim_next(w);
        sim_run_due(w);
    }
    if (at_ns > w->now_ns)
        w->now_ns = at_ns;
}

/* ---- telling ---- */

void sim_note(struct sim *w, const char *format, ...)
{
    w->digest = (w->digest ^ w->random ^ (uint64_t)w->now_ns) * UINT64_C(0x9e3779b97f4a7c15);
    w->digest ^= w->digest >> 29;
    if (!w->is_traced)
        return;
    va_list args;
    va_start(args, format);
    printf("%12.6f ms  ", (double)(w->now_ns - START_NS) / 1e6);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

_Noreturn void sim_fail(struct sim *w, const char *file, int line, const char *expression,
                        const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fprintf(stderr, "%s:%d: %s: ", file, line, expression);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (at %.6f ms)\n", (double)(w->now_ns - START_NS) / 1e6);
    va_end(args);
    mr_panic(file, line, expression);
}
