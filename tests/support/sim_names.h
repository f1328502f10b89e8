/*
 * Scripted names instead of a network: a table of names and their addresses, answers that are late or
 * fail as the world's faults say. Implements core/resolver.h.
 */
#ifndef TESTS_SUPPORT_SIM_NAMES_H
#define TESTS_SUPPORT_SIM_NAMES_H

#include "core/resolver.h"
#include "tests/support/sim_world.h"

enum { SIM_NAMES_MAX = 8, SIM_ADDRESSES_MAX = 4 };

struct sim_names {
    struct mr_resolver base; /* what mr_runtime_hooks.resolver gets; storage stays the test's */
    struct sim *w;
    struct mr_heap *heap; /* shared: of answers */
    struct mr_heap own;
    struct {
        const char *host;
        struct mr_addr addresses[SIM_ADDRESSES_MAX];
        uint32_t count;
    } names[SIM_NAMES_MAX];
    uint32_t count;
    uint32_t asked; /* lookups so far */
};

void sim_names_init(struct sim_names *n, struct sim *w);
/* 10.0.0.<last>; several times for several addresses. */
void sim_names_add(struct sim_names *n, const char *host, unsigned last);

#endif
