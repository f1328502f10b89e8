/*
 * One-shot polls of foreign descriptors: the objects and ids both kernel backends share.
 * An id is the slot's address and its generation, so that a stale one is recognised without a
 * table. Owner thread only.
 */
#ifndef MR_CORE_IO_POLL_H
#define MR_CORE_IO_POLL_H

#include "alloc/slab.h"
#include "core/io.h"

struct mr_poll {
    struct moor_slot_ slot; /* first: outlives the poll */
    struct mr_list link;    /* backend: what is to be submitted, or what is out */
    struct mr_poll *next;   /* epoll: other polls of the same descriptor */
    mr_poll_fn fn;
    void *ctx;
    int fd;
    uint32_t mask;
    bool is_armed;     /* io_uring: the kernel has it; a completion will come */
    bool is_cancelled; /* io_uring: fn must not be called */
};

#define MR_POLL_GENERATION_BITS 20
#define MR_POLL_GENERATION_MASK ((UINT64_C(1) << MR_POLL_GENERATION_BITS) - 1)

/* NULL: out of memory. */
static inline struct mr_poll *mr_poll_take(struct mr_slab *slab, int fd, uint32_t mask,
                                           mr_poll_fn fn, void *ctx)
{
    struct mr_poll *p = mr_slab_take(slab);
    if (!p)
        return NULL;
    atomic_fetch_add_explicit(&p->slot.generation, 1, memory_order_relaxed);
    mr_list_init(&p->link);
    p->fd = fd;
    p->mask = mask;
    p->fn = fn;
    p->ctx = ctx;
    return p;
}

/* 8-byte aligned user-space addresses need 44 bits once shifted. */
static inline uint64_t mr_poll_id(const struct mr_poll *p)
{
    uint64_t generation = atomic_load_explicit(&p->slot.generation, memory_order_relaxed);
    return ((uint64_t)(uintptr_t)p >> 3 << MR_POLL_GENERATION_BITS) |
           (generation & MR_POLL_GENERATION_MASK);
}

/* NULL for an id whose poll has fired or was cancelled. */
static inline struct mr_poll *mr_poll_find(uint64_t id)
{
    struct mr_poll *p = (struct mr_poll *)(uintptr_t)(id >> MR_POLL_GENERATION_BITS << 3);
    return p && mr_poll_id(p) == id ? p : NULL;
}

/* From here on the id is stale. The object may still be out in the kernel. */
static inline void mr_poll_retire(struct mr_poll *p)
{
    atomic_fetch_add_explicit(&p->slot.generation, 1, memory_order_relaxed);
}

static inline void mr_poll_give(struct mr_slab *slab, struct mr_poll *p)
{
    mr_list_remove(&p->link);
    mr_slab_give(slab, p);
}

#endif
