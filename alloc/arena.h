/*
 * A bump allocator for everything one exchange needs, freed at once.
 * Owner thread: the shard of its heap. Never frees one piece.
 */
#ifndef MR_ALLOC_ARENA_H
#define MR_ALLOC_ARENA_H

#include "alloc/heap.h"

struct mr_arena_block; /* a run of bytes from the heap; blocks of the usual size are cached */

/* Recently freed blocks of the usual size, kept for the next exchange. One per shard. */
struct mr_arena_cache {
    struct mr_heap *heap;
    struct mr_arena_block *free; /* LIFO, hot first */
    unsigned count;
    unsigned count_max;
};

struct mr_arena {
    struct mr_arena_cache *cache;
    struct mr_arena_block *blocks; /* newest first */
    size_t used;                   /* bytes of the blocks, for limits */
    size_t limit;                  /* bytes; reached = NULL, never an abort */
};

void mr_arena_cache_init(struct mr_arena_cache *c, struct mr_heap *heap, unsigned count_max);
void mr_arena_cache_fini(struct mr_arena_cache *c);

/* Cannot fail: the first block comes with the first allocation. */
void mr_arena_init(struct mr_arena *a, struct mr_arena_cache *cache, size_t limit);
/* Aligned to 16; NULL at the limit or out of memory. Larger pieces than the usual block get their own. */
void *mr_arena_alloc(struct mr_arena *a, size_t size);
/* A copy of len bytes plus a NUL; NULL as above. */
char *mr_arena_copy(struct mr_arena *a, const void *bytes, size_t len);
/* Frees all; the arena may be used again. */
void mr_arena_fini(struct mr_arena *a);

#endif
