/*
 * Requests from any thread to an operation that lives on a shard: cancel, resume, set. The request travels
 * in the slot's header, which outlives the operation, so it never allocates and never hits a successor.
 */
#ifndef MR_CORE_OP_H
#define MR_CORE_OP_H

#include "alloc/slab.h"

enum { MR_ASK_CANCEL, MR_ASK_RESUME, MR_ASK_SET };

/* The operation begins: `asked` will hear requests on the shard, later, never inside a call. Returns the
 * generation of its handle. */
uint64_t mr_op_begin(struct moor_slot_ *slot, struct moor_shard *s,
                     void (*asked)(struct moor_slot_ *slot, unsigned what));
/* Its handles are stale from here on. */
void mr_op_end(struct moor_slot_ *slot);
/* Any thread; stale generations are nothing. */
void mr_op_ask(struct moor_slot_ *slot, uint64_t generation, unsigned what);
/* MR_ASK_SET with a value of 4 bits; asked() finds the last one by mr_op_value. */
void mr_op_ask_set(struct moor_slot_ *slot, uint64_t generation, unsigned value);
unsigned mr_op_value(const struct moor_slot_ *slot);

static inline bool mr_op_is_current(const struct moor_slot_ *slot, uint64_t generation)
{
    return slot && atomic_load_explicit(&((struct moor_slot_ *)(uintptr_t)slot)->generation,
                                        memory_order_acquire) == generation;
}

#endif
