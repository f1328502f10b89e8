/*
 * The receive buffers of one shard: made when first needed, recycled newest first.
 * Owner thread only. Must not free a buffer before the pool ends: the kernel knows it by its id.
 */
#include "alloc/buf.h"

#include "alloc/sanitize.h"
#include "base/assert.h"
#include "base/count.h"

enum { CACHE_LINE = 64, PAGE = 4096, SIZE_MIN = 512, SIZE_LIMIT = 1 << 20 };

/* Each buffer is an allocation of its own: what was never posted is never touched, hence free. */
static size_t data_align(const struct mr_buf_pool *p)
{
    return p->buf_size >= PAGE ? PAGE : CACHE_LINE;
}

static struct mr_buf *make(struct mr_buf_pool *p);
static void make_spare(struct mr_buf *b);

moor_err mr_buf_pool_init(struct mr_buf_pool *p, struct mr_heap *heap, uint32_t buf_size,
                          uint32_t count_max, uint32_t reserve)
{
    MR_ASSERT(buf_size >= SIZE_MIN && buf_size <= SIZE_LIMIT && (buf_size & (buf_size - 1)) == 0);
    MR_ASSERT(count_max >= 4 && count_max <= UINT16_MAX && reserve < count_max);
    *p = (struct mr_buf_pool){
        .heap = heap, .buf_size = buf_size, .count_max = count_max, .reserve = reserve};
    p->all = mr_heap_alloc(heap, count_max * sizeof *p->all);
    return p->all ? MOOR_OK : MOOR_ENOMEM;
}

void mr_buf_pool_fini(struct mr_buf_pool *p)
{
    if (!p->all)
        return;
    MR_ASSERT(p->held == 0 && "a conn, a filter or the application still has a chunk");
    MR_ASSERT(p->spare_count == p->count && "the kernel may still write to a posted buffer");
    for (uint32_t i = 0; i < p->count; i++) {
        MR_UNPOISON(p->all[i].data, p->buf_size);
        mr_heap_free_aligned(p->heap, p->all[i].data, p->buf_size, data_align(p));
    }
    mr_heap_free(p->heap, p->all, p->count_max * sizeof *p->all);
    *p = (struct mr_buf_pool){0};
}

struct mr_buf *mr_buf_take(struct mr_buf_pool *p)
{
    struct mr_buf *b = p->spare;
    if (MR_LIKELY(b)) {
        p->spare = b->next;
        p->spare_count--;
        b->next = NULL;
        MR_UNPOISON(b->data, b->cap);
        return b;
    }
    b = p->count < p->count_max ? make(p) : NULL;
    if (!b)
        p->starved++;
    return b;
}

void mr_buf_untake(struct mr_buf *b)
{
    MR_ASSERT(b->refs == 0);
    make_spare(b);
}

void mr_buf_fill(struct mr_buf *b)
{
    MR_ASSERT(b->refs == 0);
    b->is_posted = false;
    b->refs = 1;
    MR_COUNT(b->pool->held, 1);
}

void mr_buf_ref(struct mr_buf *b)
{
    MR_ASSERT(b->refs > 0 && b->refs < UINT32_MAX);
    b->refs++;
}

void mr_buf_unref(struct mr_buf *b)
{
    MR_ASSERT(b->refs > 0 && "a chunk was returned twice");
    if (--b->refs > 0)
        return;
    if (b->is_loose) {
        mr_heap_free(b->pool->heap, b, sizeof *b + b->cap);
        return;
    }
    MR_COUNT(b->pool->held, -1);
    make_spare(b);
}

struct mr_buf *mr_buf_make_loose(struct mr_buf_pool *p, uint32_t cap)
{
    struct mr_buf *b = mr_heap_alloc(p->heap, sizeof *b + cap);
    if (!b)
        return NULL;
    *b = (struct mr_buf){
        .data = (uint8_t *)(b + 1), .pool = p, .cap = cap, .refs = 1, .is_loose = true};
    return b;
}

bool mr_buf_pool_is_low(const struct mr_buf_pool *p)
{
    return p->held + p->reserve >= p->count_max;
}

uint32_t mr_buf_pool_available(const struct mr_buf_pool *p)
{
    return p->spare_count + (p->count_max - p->count);
}

static struct mr_buf *make(struct mr_buf_pool *p)
{
    uint8_t *data = mr_heap_alloc_aligned(p->heap, p->buf_size, data_align(p));
    if (!data)
        return NULL;
    struct mr_buf *b = &p->all[p->count];
    *b = (struct mr_buf){.data = data, .pool = p, .cap = p->buf_size, .id = (uint16_t)p->count};
    p->count++;
    return b;
}

static void make_spare(struct mr_buf *b)
{
    struct mr_buf_pool *p = b->pool;
    MR_ASSERT(p->spare_count < p->count && "given back twice");
    b->is_posted = false;
    b->next = p->spare;
    p->spare = b;
    p->spare_count++;
    MR_POISON(b->data, b->cap);
}
