/*
 * A heap: a jemalloc arena and a byte budget. One per shard, plus one shared by the runtime.
 * A shard's heap is used by that shard's thread only; a shared heap by any thread.
 */
#ifndef MR_ALLOC_HEAP_H
#define MR_ALLOC_HEAP_H

#include <mooring/error.h>
#include <mooring/types.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct mr_heap {
    unsigned arena;       /* jemalloc's index */
    unsigned cache;       /* jemalloc's index of our explicit cache; none when shared */
    int flags;            /* for mallocx/sdallocx */
    bool is_shared;       /* any thread may allocate and free */
    size_t limit;         /* bytes; SIZE_MAX = none */
    _Atomic(size_t) used; /* bytes handed out; one writer unless shared */
    _Atomic(size_t) peak;
};

/* ENOMEM if jemalloc refuses an arena. */
MOOR_NODISCARD moor_err mr_heap_init(struct mr_heap *h, size_t limit, bool is_shared);
/* Everything handed out is gone. Asserts used == 0 in debug builds. */
void mr_heap_fini(struct mr_heap *h);
/* Gives what is free back to the kernel. System calls: for a slow sweep of an idle shard. Caller: as
 * mr_heap_alloc. */
void mr_heap_trim(struct mr_heap *h);

/* Aligned to 16. NULL at the limit, out of memory, or when the fault plan says so. Not zeroed. */
void *mr_heap_alloc(struct mr_heap *h, size_t size);
void *mr_heap_zalloc(struct mr_heap *h, size_t size);
/* align: a power of two up to 2 MiB. */
void *mr_heap_alloc_aligned(struct mr_heap *h, size_t size, size_t align);
/* `size` (and `align`, 0 for the plain ones) as given at allocation. NULL is fine. */
void mr_heap_free(struct mr_heap *h, void *p, size_t size);
void mr_heap_free_aligned(struct mr_heap *h, void *p, size_t size, size_t align);
/* A copy with a NUL behind it, for mr_heap_free_text, which takes its length from the NUL: the text has
 * no other, and keeps it. NULL: out of memory. */
char *mr_heap_copy_text(struct mr_heap *h, moor_span text);
/* NULL is fine. */
void mr_heap_free_text(struct mr_heap *h, char *text);
/* For foreign libraries that free without a size (their allocator hooks). Charged by what the block
 * really has. Resizing to 0 keeps a block. */
void *mr_heap_alloc_unsized(struct mr_heap *h, size_t size);
void *mr_heap_realloc_unsized(struct mr_heap *h, void *p, size_t size);
void mr_heap_free_unsized(struct mr_heap *h, void *p);

/* Fails the nth (from 0) allocation from now on, counting over all heaps; -1 = none. Tests. */
void mr_heap_fault_at(long nth);
/* Allocations tried since mr_heap_fault_at. */
long mr_heap_fault_count(void);

#endif
