/*
 * What nghttp2 allocates, over and over: small blocks go back to the session that took them. Owner thread: the
 * session's. Bounded: what is kept is at most MR_H2_KEPT_BYTES_MAX.
 */
#ifndef MR_H2_MEMORY_H
#define MR_H2_MEMORY_H

#include "alloc/heap.h"

#include <stdint.h>

enum {
    MR_H2_BLOCK_STEP = 64,
    MR_H2_BLOCK_SIZES = 8,        /* the largest kept is 512 bytes with its head */
    MR_H2_KEPT_BYTES_MAX = 131072 /* what 100 requests at once take is 77,000 */
};

struct mr_h2_memory {
    struct mr_heap *heap;
    void *kept[MR_H2_BLOCK_SIZES];
    size_t kept_bytes;
};

void mr_h2_memory_init(struct mr_h2_memory *m, struct mr_heap *heap);
/* Gives back what is kept. */
void mr_h2_memory_trim(struct mr_h2_memory *m);
/* The same; everything handed out is back. */
void mr_h2_memory_fini(struct mr_h2_memory *m);

/* nghttp2's three; ctx is the memory. */
void *mr_h2_malloc(size_t size, void *ctx);
void mr_h2_free(void *p, void *ctx);
void *mr_h2_calloc(size_t n, size_t size, void *ctx);
void *mr_h2_realloc(void *p, size_t size, void *ctx);

#endif
