/*
 * Messages to a shard: a lock-free multi-producer stack the shard takes whole and runs in order.
 * Push: any thread, wait-free but for one CAS loop, never allocates. Take: the owner.
 */
#ifndef MR_CORE_INBOX_H
#define MR_CORE_INBOX_H

#include "base/message.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct mr_inbox {
    _Atomic(struct mr_message *) head; /* newest first */
};

/* Accepts messages from now on; as made by zeroing. Those in it are forgotten: only for one that is closed. */
void mr_inbox_open(struct mr_inbox *b);
/* False: the inbox is closed, nothing was kept. Release. */
bool mr_inbox_push(struct mr_inbox *b, struct mr_message *m);
/* No push succeeds from here on. Messages in it are dropped: run them before. */
void mr_inbox_close(struct mr_inbox *b);
/* As close, unless there is a message: then false. */
bool mr_inbox_close_if_empty(struct mr_inbox *b);
/* Everything pushed so far, oldest first, NULL if none. Acquire. */
struct mr_message *mr_inbox_take(struct mr_inbox *b);
static inline bool mr_inbox_is_empty(struct mr_inbox *b)
{
    return !atomic_load_explicit(&b->head, memory_order_relaxed);
}

#endif
