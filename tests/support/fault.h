/*
 * Failing every allocation: a scenario is run once to count them, then once for each, failing it.
 * One thread at a time allocates, or the order of allocations is not the same in each run.
 *
 *     static void scenario(void *arg) { ... ends with everything released ... }
 *     fault_every_allocation(scenario, NULL);
 *
 * The scenario must succeed or fail cleanly by itself: it asserts that nothing is left behind and
 * that every operation completed once. Heaps that it makes assert in debug builds that they are
 * empty; fault_heap_is_empty does in all.
 */
#ifndef MR_TESTS_FAULT_H
#define MR_TESTS_FAULT_H

#include "alloc/heap.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

/* Asked of every heap before mr_heap_fini. */
static inline bool fault_heap_is_empty(const struct mr_heap *h)
{
    return atomic_load(&h->used) == 0;
}

/* The number of allocations that were failed in turn. Prints which one it was at when a run does
 * not come back: the line is on stdout before the scenario starts. */
static inline long fault_every_allocation(void (*scenario)(void *arg), void *arg)
{
    mr_heap_fault_at(-1);
    scenario(arg);
    long count = mr_heap_fault_count();
    printf("failing each of %ld allocations in turn:", count);
    long i = 0;
    for (; i < count; i++) {
        printf(" %ld", i);
        fflush(stdout);
        mr_heap_fault_at(i);
        scenario(arg);
    }
    /* After a failure the scenario may take ways with more allocations; those of the first run are
     * what is promised. */
    mr_heap_fault_at(-1);
    printf("\n");
    return i;
}

#endif
