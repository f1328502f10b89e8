/*
 * Messages to a shard: pushed by any thread, taken whole by the owner.
 * Must not touch a message after it is pushed: the owner may have run and freed it.
 */
#include "core/inbox.h"

#include <stddef.h>

/* The head of an inbox that takes nothing any more. */
static struct mr_message closed;

void mr_inbox_open(struct mr_inbox *b)
{
    atomic_store_explicit(&b->head, NULL, memory_order_release);
}

bool mr_inbox_push(struct mr_inbox *b, struct mr_message *m)
{
    struct mr_message *head = atomic_load_explicit(&b->head, memory_order_relaxed);
    do {
        if (head == &closed)
            return false;
        m->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&b->head, &head, m, memory_order_release,
                                                    memory_order_relaxed));
    return true;
}

void mr_inbox_close(struct mr_inbox *b)
{
    atomic_store_explicit(&b->head, &closed, memory_order_release);
}

bool mr_inbox_close_if_empty(struct mr_inbox *b)
{
    struct mr_message *none = NULL;
    return atomic_compare_exchange_strong_explicit(&b->head, &none, &closed, memory_order_acq_rel,
                                                   memory_order_acquire);
}

struct mr_message *mr_inbox_take(struct mr_inbox *b)
{
    /* Most turns bring none: a load leaves the line shared where an exchange would claim it. */
    if (mr_inbox_is_empty(b))
        return NULL;
    /* Acquire pairs with the push of every message taken: each push continues the release sequence
     * of those below it. Nobody pops one by one, so a message pushed again cannot confuse a CAS. */
    struct mr_message *newest = atomic_exchange_explicit(&b->head, NULL, memory_order_acquire);
    struct mr_message *oldest = NULL;
    while (newest) {
        struct mr_message *older = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = older;
    }
    return oldest;
}
