/*
 * Whether memory stays flat: what the library says it has allocated, and what the kernel says is the
 * process's own. Pools breathe, so it is the peaks that are compared: of the second quarter of the run and of
 * its last. The main thread.
 */
#include "tests/soak/soak.h"

#include "alloc/sanitize.h"

#include <mooring/stats.h>

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

enum { SAMPLES = 128, EIGHTHS = 8 };
/* Allowed on top of a fiftieth: a slab more, a thread's stack touched for the first time. */
static const uint64_t USED_SLACK = 64 << 10, DIRTY_SLACK = 768 << 10;

static uint64_t private_dirty(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    char line[128];
    uint64_t kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Private_Dirty: %" SCNu64, &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib << 10;
}

static uint64_t memory_used(struct soak *s)
{
    moor_runtime_stats r;
    moor_runtime_stats_read(s->runtime, &r);
    return r.memory_used;
}

static uint64_t peak(const uint64_t *samples, int from, int to)
{
    uint64_t most = 0;
    for (int i = from; i < to; i++)
        most = samples[i] > most ? samples[i] : most;
    return most;
}

static void compare(const char *what, const uint64_t *samples, uint64_t slack)
{
    const uint64_t before = peak(samples, SAMPLES / 4, SAMPLES / 2);
    const uint64_t after = peak(samples, SAMPLES * 3 / 4, SAMPLES);
    printf("%s, KiB at most in each eighth of the run:", what);
    for (int i = 0; i < EIGHTHS; i++)
        printf(" %" PRIu64,
               peak(samples, SAMPLES / EIGHTHS * i, SAMPLES / EIGHTHS * (i + 1)) >> 10);
    printf("\n");
    if (!before)
        soak_complain("%s could not be read", what);
    if (after > before + before / 50 + slack)
        soak_complain("%s grows", what);
}

void soak_watch_memory(struct soak *s, int64_t ms)
{
    static uint64_t used[SAMPLES], dirty[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        soak_sleep_us((uint64_t)ms * 1000 / SAMPLES);
        used[i] = memory_used(s);
        dirty[i] = private_dirty();
    }
    compare("memory_used", used, USED_SLACK);
    /* A sanitizer's own memory grows: blocks that were freed are kept for a while, threads remembered. */
    if (!MR_HEAP_ON_HOST)
        compare("Private_Dirty", dirty, DIRTY_SLACK);
}
