/*
 * Receive buffers of one shard: fixed size, reference counted, recycled last-in first-out so that
 * what is posted next is what the cache still holds.
 * Owner thread only; chunks come back from other threads as messages, never by touching a buffer.
 */
#ifndef MR_ALLOC_BUF_H
#define MR_ALLOC_BUF_H

#include "alloc/heap.h"

#include <stdint.h>

struct mr_buf_pool;

struct mr_buf {
    uint8_t *data; /* cap bytes, on a page if at least as large, else on a line */
    struct mr_buf_pool *pool;
    struct mr_buf *next; /* spare list */
    uint32_t cap;
    uint32_t refs;  /* 0 = spare or posted */
    uint16_t id;    /* index into pool->all, the kernel's buffer id */
    bool is_posted; /* in the ring: the kernel may write to it */
    bool is_loose;  /* a heap block of its own, see mr_buf_make_loose */
};

struct mr_buf_pool {
    struct mr_heap *heap;
    struct mr_buf *all;   /* count_max headers */
    struct mr_buf *spare; /* LIFO */
    uint32_t buf_size;
    uint32_t count_max; /* at most this many exist */
    uint32_t count;     /* made so far: grown on demand */
    uint32_t spare_count;
    uint32_t held;    /* refs > 0: with a conn, a filter or lent */
    uint32_t reserve; /* of count_max, never lent (see mr_buf_pool_is_low) */
    uint64_t starved; /* times take found nothing */
};

/* buf_size: 512..1 MiB, a power of two. count_max: 4..65535. ENOMEM, nothing kept. */
MOOR_NODISCARD moor_err mr_buf_pool_init(struct mr_buf_pool *p, struct mr_heap *heap,
                                         uint32_t buf_size, uint32_t count_max, uint32_t reserve);
/* Asserts that nothing is held or posted. */
void mr_buf_pool_fini(struct mr_buf_pool *p);

/* For the backend: a buffer with refs 0 to post or to fill; NULL = dry (counted in starved).
 * In asan builds the data is unpoisoned here and poisoned by mr_buf_untake and by the
 * last mr_buf_unref. The taker sets is_posted; fill and untake clear it. */
struct mr_buf *mr_buf_take(struct mr_buf_pool *p);
/* A taken buffer that was never filled goes back (a posted one taken out, a read that gave nothing). */
void mr_buf_untake(struct mr_buf *b);
/* Filled: refs 0 -> 1. The caller owns that reference. */
void mr_buf_fill(struct mr_buf *b);
void mr_buf_ref(struct mr_buf *b);
/* The last one puts it on top of the spare list. */
void mr_buf_unref(struct mr_buf *b);
/* A buffer beyond the pool's count, of any size, from its heap: for bytes that have to be kept or
 * made while the pool is low or dry. refs 1; the last unref frees it. NULL: out of memory. */
struct mr_buf *mr_buf_make_loose(struct mr_buf_pool *p, uint32_t cap);
/* True when all but the reserve are held: new data is to be copied instead of lent. */
bool mr_buf_pool_is_low(const struct mr_buf_pool *p);
/* Buffers a take could still give, made or not yet made. */
uint32_t mr_buf_pool_available(const struct mr_buf_pool *p);

#endif
