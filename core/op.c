/*
 * Requests from any thread to an operation of a shard. Begin and end: the shard. Ask: any thread.
 */
#include "core/op.h"

#include "core/runtime.h"
#include "core/shard.h"

static void run_asked(struct mr_message *m);

uint64_t mr_op_begin(struct moor_slot_ *slot, struct moor_shard *s,
                     void (*asked)(struct moor_slot_ *slot, unsigned what))
{
    const uint64_t generation = atomic_load_explicit(&slot->generation, memory_order_relaxed) + 1;
    mr_slot_own(slot, s);
    slot->asked = asked;
    atomic_store_explicit(&slot->generation, generation, memory_order_release);
    return generation;
}

void mr_op_end(struct moor_slot_ *slot)
{
    atomic_fetch_add_explicit(&slot->generation, 1, memory_order_release);
}

void mr_op_ask(struct moor_slot_ *slot, uint64_t generation, unsigned what)
{
    if (!mr_op_is_current(slot, generation) || mr_runtime_is_forked(slot->shard->runtime))
        return;
    /* Generations only grow: an older one that lost the race named an operation that is over. */
    uint64_t seen = atomic_load_explicit(&slot->asked_generation[what], memory_order_relaxed);
    while (seen < generation &&
           !atomic_compare_exchange_weak(&slot->asked_generation[what], &seen, generation))
        ;
    if (atomic_exchange(&slot->is_posted, true))
        return;
    slot->message.run = run_asked;
    if (!mr_shard_post(slot->shard, &slot->message))
        atomic_store(&slot->is_posted, false); /* gone: its operations are over */
}

/* A stale caller must not replace what was said of a later operation. */
void mr_op_ask_set(struct moor_slot_ *slot, uint64_t generation, unsigned value)
{
    const uint64_t wanted = generation << 4 | (value & 15);
    uint64_t seen = atomic_load_explicit(&slot->asked_value, memory_order_relaxed);
    while (seen >> 4 <= generation &&
           !atomic_compare_exchange_weak(&slot->asked_value, &seen, wanted))
        ;
    mr_op_ask(slot, generation, MR_ASK_SET);
}

unsigned mr_op_value(const struct moor_slot_ *slot)
{
    return atomic_load(&((struct moor_slot_ *)(uintptr_t)slot)->asked_value) & 15;
}

static void run_asked(struct mr_message *m)
{
    struct moor_slot_ *slot = MR_CONTAINER_OF(m, struct moor_slot_, message);
    atomic_store(&slot->is_posted, false);
    for (unsigned what = 0; what <= MR_ASK_SET; what++) {
        const uint64_t generation = atomic_exchange(&slot->asked_generation[what], 0);
        if (generation && mr_op_is_current(slot, generation))
            slot->asked(slot, what);
    }
}

void moor_cancel(moor_op op)
{
    if (op.slot_)
        mr_op_ask(op.slot_, op.generation_, MR_ASK_CANCEL);
}
