/*
 * Fixed-size objects at stable addresses: memory is returned to the heap only by mr_slab_fini, so a
 * handle may look at an object's slot header long after the object is gone.
 * Owner thread: the shard of its heap; reading a slot's generation: any thread.
 */
#ifndef MR_ALLOC_SLAB_H
#define MR_ALLOC_SLAB_H

#include "alloc/heap.h"
#include "base/message.h"

#include <stdint.h>

struct moor_shard;

/* First member of every object a public handle can point to. Survives the object: mr_slab_give
 * leaves it alone (and unpoisoned), and mr_slab_take zeroes everything but it. */
struct moor_slot_ {
    _Atomic(uint64_t) generation; /* odd while in use by a handle, even while free */
    struct moor_shard *shard;     /* owner; set once, when the slot is first taken */
    /* Requests of other threads, see core/op.h. They live here, not in the object, because they
     * may be on their way when the object ends. */
    void (*asked)(struct moor_slot_ *slot, unsigned what);
    struct mr_message message;
    _Atomic(bool) is_posted;
    _Atomic(uint64_t) asked_generation[3];
    _Atomic(uint64_t) asked_value; /* generation and 4 bits: what was asked for last */
};

/* Written once: other threads read it through stale handles while the slot is taken again. */
static inline void mr_slot_own(struct moor_slot_ *slot, struct moor_shard *s)
{
    if (!slot->shard)
        slot->shard = s;
}

struct mr_slab {
    struct mr_heap *heap;
    size_t item_size; /* rounded up to 16; at least sizeof(struct moor_slot_) + a link */
    size_t per_page;
    void *free; /* LIFO */
    void *pages;
    size_t used;  /* items out */
    size_t count; /* items made */
};

void mr_slab_init(struct mr_slab *s, struct mr_heap *heap, size_t item_size, size_t per_page);
/* Every page back to the heap. Items still out are gone: asserts used == 0 in debug builds. */
void mr_slab_fini(struct mr_slab *s);
/* Zeroed but for the slot header (zero the first time). NULL: out of memory or budget. O(1). */
void *mr_slab_take(struct mr_slab *s);
/* Poisoned in asan builds but for the slot header. */
void mr_slab_give(struct mr_slab *s, void *item);

#endif
