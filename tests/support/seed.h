/*
 * Random numbers for tests: seeded afresh each run, printed, replayed with MOORING_TEST_SEED=0x...
 */
#ifndef MR_TESTS_SEED_H
#define MR_TESTS_SEED_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

static inline uint64_t seed_start(void)
{
    uint64_t seed = 1;
    const char *given = getenv("MOORING_TEST_SEED");
    if (given)
        seed = strtoull(given, NULL, 0);
    else if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        seed = 1;
    printf("MOORING_TEST_SEED=0x%" PRIx64 "\n", seed);
    fflush(stdout);
    return seed;
}

/* splitmix64 */
static inline uint64_t seed_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 .. bound - 1 */
static inline uint64_t seed_below(uint64_t *state, uint64_t bound)
{
    return seed_next(state) % bound;
}

#endif
