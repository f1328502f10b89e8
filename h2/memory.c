/*
 * Blocks for nghttp2, each with a head that says its size. Owner thread: the session's.
 */
#include "h2/memory.h"

#include <string.h>

/* Keeps what follows aligned for any type. */
struct head {
    _Alignas(16) size_t size; /* with the head */
    struct head *next;        /* while it is kept */
};

void mr_h2_memory_init(struct mr_h2_memory *m, struct mr_heap *heap)
{
    memset(m, 0, sizeof *m);
    m->heap = heap;
}

void mr_h2_memory_trim(struct mr_h2_memory *m)
{
    for (int i = 0; i < MR_H2_BLOCK_SIZES; i++) {
        for (struct head *b; (b = m->kept[i]);) {
            m->kept[i] = b->next;
            mr_heap_free(m->heap, b, b->size);
        }
    }
    m->kept_bytes = 0;
}

void mr_h2_memory_fini(struct mr_h2_memory *m)
{
    mr_h2_memory_trim(m);
}

static size_t index_of(size_t size)
{
    return size / MR_H2_BLOCK_STEP - 1;
}

void *mr_h2_malloc(size_t size, void *ctx)
{
    struct mr_h2_memory *m = ctx;
    if (size > SIZE_MAX / 2)
        return NULL;
    const size_t whole =
        (size + sizeof(struct head) + MR_H2_BLOCK_STEP - 1) / MR_H2_BLOCK_STEP * MR_H2_BLOCK_STEP;
    const size_t i = index_of(whole);
    struct head *b = NULL;
    if (i < MR_H2_BLOCK_SIZES && m->kept[i]) {
        b = m->kept[i];
        m->kept[i] = b->next;
        m->kept_bytes -= whole;
        return b + 1;
    }
    b = mr_heap_alloc(m->heap, whole);
    if (!b)
        return NULL;
    b->size = whole;
    return b + 1;
}

void mr_h2_free(void *p, void *ctx)
{
    struct mr_h2_memory *m = ctx;
    if (!p)
        return;
    struct head *b = (struct head *)p - 1;
    const size_t i = index_of(b->size);
#if !defined(__SANITIZE_ADDRESS__) /* which is to see each block's end */
    if (i < MR_H2_BLOCK_SIZES && m->kept_bytes + b->size <= MR_H2_KEPT_BYTES_MAX) {
        b->next = m->kept[i];
        m->kept[i] = b;
        m->kept_bytes += b->size;
        return;
    }
#else
    (void)i;
#endif
    mr_heap_free(m->heap, b, b->size);
}

void *mr_h2_calloc(size_t n, size_t size, void *ctx)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        return NULL;
    void *p = mr_h2_malloc(bytes, ctx);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void *mr_h2_realloc(void *p, size_t size, void *ctx)
{
    if (!p)
        return mr_h2_malloc(size, ctx);
    const size_t room = ((struct head *)p - 1)->size - sizeof(struct head);
    if (size <= room)
        return p;
    void *larger = mr_h2_malloc(size, ctx);
    if (!larger)
        return NULL;
    memcpy(larger, p, room);
    mr_h2_free(p, ctx);
    return larger;
}
