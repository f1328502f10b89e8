/*
 * What stands behind a heap: jemalloc, or the host's malloc in sanitizer builds. heap.c alone calls
 * this; it adds the budget and the fault plan. Threads as in heap.h.
 */
#ifndef MR_ALLOC_HEAP_STORE_H
#define MR_ALLOC_HEAP_STORE_H

#include "alloc/heap.h"

/* Sets arena and flags of `h`, whose is_shared is set. ENOMEM: nothing kept. */
MOOR_NODISCARD moor_err mr_heap_store_open(struct mr_heap *h);
/* Gives everything of the heap back to the kernel; of a heap with an arena of its own also what is
 * still out. */
void mr_heap_store_close(struct mr_heap *h);
void mr_heap_store_trim(struct mr_heap *h);

/* size > 0; align: 0 or a power of two. NULL: out of memory. */
void *mr_heap_store_alloc(const struct mr_heap *h, size_t size, size_t align, bool is_zeroed);
/* size, align: as given at allocation, or any size up to mr_heap_store_usable. */
void mr_heap_store_free(const struct mr_heap *h, void *p, size_t size, size_t align);

/* The bytes a block of `size` will really have; 0: too large. */
size_t mr_heap_store_round(const struct mr_heap *h, size_t size);
/* The same of a block that exists; allocated by the size mr_heap_store_round gave. */
size_t mr_heap_store_usable(const struct mr_heap *h, void *p);

#endif
