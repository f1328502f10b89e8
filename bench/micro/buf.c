/*
 * Memory on the way of a request: a receive buffer taken, filled and returned, an exchange's arena
 * from first to last, a slab item. One thread.
 */
#include "alloc/arena.h"
#include "alloc/buf.h"
#include "alloc/slab.h"
#include "bench/harness.h"

enum { BUFFERS = 64, BATCH = 64 };

/* arg: buffers out at a time. */
static void buffer(struct mr_bench *b)
{
    struct mr_heap heap;
    struct mr_buf_pool pool;
    struct mr_buf *out[BUFFERS];
    size_t group = (size_t)mr_bench_arg(b);
    if (mr_heap_init(&heap, SIZE_MAX, false) != MOOR_OK ||
        mr_buf_pool_init(&pool, &heap, 16384, BUFFERS, 4) != MOOR_OK) {
        mr_bench_fail(b, "no memory");
        return;
    }
    while (mr_bench_next(b, BATCH)) {
        for (size_t i = 0; i < BATCH; i += group) {
            for (size_t j = 0; j < group; j++) {
                out[j] = mr_buf_take(&pool);
                mr_buf_fill(out[j]);
            }
            for (size_t j = 0; j < group; j++)
                mr_buf_unref(out[j]);
        }
    }
    mr_bench_checksum(b, pool.count);
    mr_buf_pool_fini(&pool);
    mr_heap_fini(&heap);
}

/* arg: pieces of 100 bytes. */
static void arena(struct mr_bench *b)
{
    struct mr_heap heap;
    struct mr_arena_cache cache;
    size_t pieces = (size_t)mr_bench_arg(b);
    size_t used = 0;
    if (mr_heap_init(&heap, SIZE_MAX, false) != MOOR_OK) {
        mr_bench_fail(b, "no memory");
        return;
    }
    mr_arena_cache_init(&cache, &heap, 8);
    while (mr_bench_next(b, 1)) {
        struct mr_arena a;
        mr_arena_init(&a, &cache, SIZE_MAX);
        for (size_t i = 0; i < pieces; i++)
            mr_bench_keep(mr_arena_alloc(&a, 100));
        used = a.used;
        mr_arena_fini(&a);
    }
    mr_bench_checksum(b, used);
    mr_arena_cache_fini(&cache);
    mr_heap_fini(&heap);
}

/* arg: bytes of an item; half of the time is zeroing it. */
static void slab(struct mr_bench *b)
{
    struct mr_heap heap;
    struct mr_slab s;
    if (mr_heap_init(&heap, SIZE_MAX, false) != MOOR_OK) {
        mr_bench_fail(b, "no memory");
        return;
    }
    mr_slab_init(&s, &heap, (size_t)mr_bench_arg(b), 32);
    while (mr_bench_next(b, BATCH)) {
        for (size_t i = 0; i < BATCH; i++) {
            void *item = mr_slab_take(&s);
            mr_bench_keep(item);
            mr_slab_give(&s, item);
        }
    }
    mr_bench_checksum(b, s.count);
    mr_slab_fini(&s);
    mr_heap_fini(&heap);
}

/* arg: bytes. user: NULL for a shard's heap. */
static void heap_block(struct mr_bench *b)
{
    struct mr_heap heap;
    size_t size = (size_t)mr_bench_arg(b);
    if (mr_heap_init(&heap, SIZE_MAX, mr_bench_user(b) != NULL) != MOOR_OK) {
        mr_bench_fail(b, "no memory");
        return;
    }
    while (mr_bench_next(b, BATCH)) {
        for (size_t i = 0; i < BATCH; i++) {
            void *p = mr_heap_alloc(&heap, size);
            mr_bench_keep(p);
            mr_heap_free(&heap, p, size);
        }
    }
    mr_bench_checksum(b, atomic_load(&heap.peak));
    mr_heap_fini(&heap);
}

const struct mr_bench_case mr_bench_cases[] = {
    {.name = "buf/take_fill_unref", .run = buffer, .args = {1, 32}, .arg_count = 2},
    {.name = "arena/exchange", .run = arena, .args = {1, 20, 100}, .arg_count = 3},
    {.name = "slab/take_give", .run = slab, .args = {64, 512}, .arg_count = 2},
    {.name = "heap/shard", .run = heap_block, .args = {64, 4096, 20000}, .arg_count = 3},
    {.name = "heap/shared", .run = heap_block, .args = {64, 4096}, .arg_count = 2, .user = ""},
    {.name = NULL},
};
