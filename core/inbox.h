/*
 * Messages to a shard: a lock-free multi-producer stack the shard takes whole and runs in order.
 * Push: any thread, wait-free but for one CAS loop, never allocates. Take: the owner.
 */
#ifndef MR_CORE_INBOX_H
#define MR_CORE_INBOX_H

#include <stdatomic.h>
#include <stdbool.h>

struct mr_message {
    struct mr_message *next;
    void (*run)(struct mr_message *m); /* on the owner; may free or post the message again */
};

struct mr_inbox {
    _Atomic(struct mr_message *) head; /* newest first */
};

/* Returns true if the inbox was empty, i.e. the owner may have to be woken. Release. */
bool mr_inbox_push(struct mr_inbox *b, struct mr_message *m);
/* Everything pushed so far, oldest first, NULL if none. Acquire. */
struct mr_message *mr_inbox_take(struct mr_inbox *b);
static inline bool mr_inbox_is_empty(struct mr_inbox *b)
{
    return !atomic_load_explicit(&b->head, memory_order_relaxed);
}

#endif
