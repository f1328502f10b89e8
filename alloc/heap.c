/*
 * Budgets, and the fault plan of the tests, before every allocation.
 * Threads as in heap.h: a shard's heap has one writer, a shared heap has many.
 * Must not know what stands behind a heap: that is heap_store.h.
 */
#include "alloc/heap.h"

#include "alloc/heap_store.h"
#include "base/assert.h"

#include <stdint.h>
#include <string.h>

/* Off until a test asks: production reads one byte that never changes. */
static _Atomic(bool) fault_is_counting;
static _Atomic(long) fault_tried;
static _Atomic(long) fault_nth = -1;

static void *allocate(struct mr_heap *h, size_t size, size_t align, bool is_zeroed);
static bool charge(struct mr_heap *h, size_t size);
static void refund(struct mr_heap *h, size_t size);

moor_err mr_heap_init(struct mr_heap *h, size_t limit, bool is_shared)
{
    *h = (struct mr_heap){.is_shared = is_shared, .limit = limit};
    return mr_heap_store_open(h);
}

void mr_heap_fini(struct mr_heap *h)
{
    MR_DEBUG_ASSERT(atomic_load(&h->used) == 0 && "somebody still holds memory of this heap");
    mr_heap_store_close(h);
}

void mr_heap_trim(struct mr_heap *h)
{
    mr_heap_store_trim(h);
}

void *mr_heap_alloc(struct mr_heap *h, size_t size)
{
    return allocate(h, size, 0, false);
}

void *mr_heap_zalloc(struct mr_heap *h, size_t size)
{
    return allocate(h, size, 0, true);
}

void *mr_heap_alloc_aligned(struct mr_heap *h, size_t size, size_t align)
{
    MR_ASSERT(align != 0 && (align & (align - 1)) == 0);
    return allocate(h, size, align, false);
}

void mr_heap_free(struct mr_heap *h, void *p, size_t size)
{
    mr_heap_free_aligned(h, p, size, 0);
}

void mr_heap_free_aligned(struct mr_heap *h, void *p, size_t size, size_t align)
{
    if (!p)
        return;
    refund(h, size);
    mr_heap_store_free(h, p, size ? size : 1, align);
}

char *mr_heap_copy_text(struct mr_heap *h, moor_span text)
{
    char *copy = mr_heap_alloc(h, text.len + 1);
    if (!copy)
        return NULL;
    if (text.len)
        memcpy(copy, text.base, text.len);
    copy[text.len] = '\0';
    return copy;
}

void mr_heap_free_text(struct mr_heap *h, char *text)
{
    if (text)
        mr_heap_free(h, text, strlen(text) + 1);
}

void *mr_heap_alloc_unsized(struct mr_heap *h, size_t size)
{
    /* Charged by what the block really has: that is all free will be able to tell. */
    size_t rounded = mr_heap_store_round(h, size ? size : 1);
    return rounded ? allocate(h, rounded, 0, false) : NULL;
}

void *mr_heap_realloc_unsized(struct mr_heap *h, void *p, size_t size)
{
    if (!p)
        return mr_heap_alloc_unsized(h, size);
    size_t have = mr_heap_store_usable(h, p);
    size_t want = mr_heap_store_round(h, size ? size : 1);
    if (want == have)
        return p;
    void *moved = mr_heap_alloc_unsized(h, size);
    if (!moved)
        return NULL;
    memcpy(moved, p, size < have ? size : have);
    mr_heap_free_unsized(h, p);
    return moved;
}

void mr_heap_free_unsized(struct mr_heap *h, void *p)
{
    if (p)
        mr_heap_free(h, p, mr_heap_store_usable(h, p));
}

void mr_heap_fault_at(long nth)
{
    atomic_store(&fault_nth, nth);
    atomic_store(&fault_tried, 0);
    atomic_store(&fault_is_counting, true);
}

long mr_heap_fault_count(void)
{
    return atomic_load(&fault_tried);
}

static bool fault_is_due(void)
{
    if (MR_LIKELY(!atomic_load_explicit(&fault_is_counting, memory_order_relaxed)))
        return false;
    return atomic_fetch_add(&fault_tried, 1) == atomic_load(&fault_nth);
}

static void *allocate(struct mr_heap *h, size_t size, size_t align, bool is_zeroed)
{
    if (MR_UNLIKELY(fault_is_due()) || MR_UNLIKELY(!charge(h, size)))
        return NULL;
    void *p = mr_heap_store_alloc(h, size ? size : 1, align, is_zeroed);
    if (MR_UNLIKELY(!p))
        refund(h, size);
    return p;
}

static bool charge_shared(struct mr_heap *h, size_t size)
{
    /* By compare and swap, so that a claim that does not fit never makes another one fail. */
    size_t used = atomic_load_explicit(&h->used, memory_order_relaxed);
    do {
        if (size > h->limit || used > h->limit - size)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&h->used, &used, used + size,
                                                    memory_order_relaxed, memory_order_relaxed));
    size_t peak = atomic_load_explicit(&h->peak, memory_order_relaxed);
    while (used + size > peak &&
           !atomic_compare_exchange_weak_explicit(&h->peak, &peak, used + size,
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
    return true;
}

static bool charge(struct mr_heap *h, size_t size)
{
    if (h->is_shared)
        return charge_shared(h, size);
    /* One writer: plain loads and stores, atomic only for those who read the statistics. */
    size_t used = atomic_load_explicit(&h->used, memory_order_relaxed);
    if (MR_UNLIKELY(size > h->limit || used > h->limit - size))
        return false;
    atomic_store_explicit(&h->used, used + size, memory_order_relaxed);
    if (used + size > atomic_load_explicit(&h->peak, memory_order_relaxed))
        atomic_store_explicit(&h->peak, used + size, memory_order_relaxed);
    return true;
}

static void refund(struct mr_heap *h, size_t size)
{
    if (h->is_shared) {
        size_t before = atomic_fetch_sub_explicit(&h->used, size, memory_order_relaxed);
        MR_ASSERT(before >= size && "freed with another size than allocated");
        return;
    }
    size_t used = atomic_load_explicit(&h->used, memory_order_relaxed);
    MR_ASSERT(used >= size && "freed with another size than allocated");
    atomic_store_explicit(&h->used, used - size, memory_order_relaxed);
}
