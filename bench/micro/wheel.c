/*
 * Timers: arming and disarming one, which every request does, moving one among many, and asking
 * for the next deadline. One thread; delays are drawn before the clock starts.
 */
#include "base/clock.h"
#include "bench/harness.h"
#include "core/wheel.h"

enum { TIMERS = 4096 };

static struct mr_wheel wheel;
static struct mr_timer timers[TIMERS];
static int64_t delays[TIMERS];

static void never_fires(struct mr_timer *t, int64_t now_ns)
{
    (void)t;
    (void)now_ns;
}

/* 10 to 330 seconds, as request, idle and lifetime deadlines are; all armed. */
static void setup(void)
{
    uint64_t seed = 0x9e3779b97f4a7c15;
    mr_wheel_init(&wheel, 0);
    for (size_t i = 0; i < TIMERS; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        delays[i] = (int64_t)(10 * MR_NS_PER_SEC + seed % (320 * (uint64_t)MR_NS_PER_SEC));
        timers[i] = (struct mr_timer){.fire = never_fires};
        mr_wheel_set(&wheel, &timers[i], delays[i]);
    }
}

static void set_and_remove(struct mr_bench *b)
{
    setup();
    struct mr_timer one = {.fire = never_fires};
    size_t at = 0;
    while (mr_bench_next(b, 64)) {
        for (size_t i = 0; i < 64; i++) {
            mr_wheel_set(&wheel, &one, delays[at + i]);
            mr_wheel_remove(&wheel, &one);
        }
        at = (at + 64) % TIMERS;
    }
    mr_bench_checksum(b, wheel.count);
}

static void move(struct mr_bench *b)
{
    setup();
    size_t at = 0;
    while (mr_bench_next(b, 64)) {
        for (size_t i = 0; i < 64; i++)
            mr_wheel_set(&wheel, &timers[at + i], delays[(at + 64 + i) % TIMERS]);
        at = (at + 64) % TIMERS;
    }
    mr_bench_checksum(b, wheel.count);
}

static void next(struct mr_bench *b)
{
    setup();
    int64_t when = 0;
    while (mr_bench_next(b, 64)) {
        for (size_t i = 0; i < 64; i++) {
            when = mr_wheel_next(&wheel);
            mr_bench_keep(when);
        }
    }
    mr_bench_checksum(b, (uint64_t)when);
}

/* A turn in which nothing is due: what most turns pay. */
static void expire_nothing(struct mr_bench *b)
{
    setup();
    int64_t now = 0;
    uint64_t fired = 0;
    while (mr_bench_next(b, 64)) {
        for (size_t i = 0; i < 64; i++) {
            now = (now + 1000) % (9 * MR_NS_PER_SEC);
            fired += mr_wheel_expire(&wheel, now);
        }
    }
    mr_bench_checksum(b, fired);
}

static void rearm(struct mr_timer *t, int64_t now_ns)
{
    mr_wheel_set(&wheel, t, now_ns + delays[t - timers]);
}

/* A timer's whole life: armed, cascaded, fired. Time advances by half a second an expire. */
static void fire(struct mr_bench *b)
{
    setup();
    for (size_t i = 0; i < TIMERS; i++)
        timers[i].fire = rearm;
    int64_t now = 0;
    while (mr_bench_next(b, 64))
        for (unsigned fired = 0; fired < 64;)
            fired += mr_wheel_expire(&wheel, now += MR_NS_PER_SEC / 2);
    mr_bench_checksum(b, wheel.count);
}

const struct mr_bench_case mr_bench_cases[] = {
    {.name = "wheel/set_and_remove", .run = set_and_remove},
    {.name = "wheel/move", .run = move},
    {.name = "wheel/next", .run = next},
    {.name = "wheel/expire_nothing", .run = expire_nothing},
    {.name = "wheel/fire", .run = fire},
    {.name = NULL},
};
