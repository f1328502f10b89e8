/*
 * Deadlines of one connection's commands: a binary heap whose members know their place. The connection's shard.
 */
#include "drivers/redis/shared.h"

#include <stdlib.h>

static void put(struct conn *c, size_t at, struct slot *slot)
{
    c->heap[at - 1] = slot;
    slot->heap_at = at;
}

static void rise(struct conn *c, size_t at, struct slot *slot)
{
    while (at > 1 && c->heap[at / 2 - 1]->deadline_ns > slot->deadline_ns) {
        put(c, at, c->heap[at / 2 - 1]);
        at /= 2;
    }
    put(c, at, slot);
}

static void sink(struct conn *c, size_t at, struct slot *slot)
{
    for (size_t child; (child = at * 2) <= c->heap_count; at = child) {
        if (child < c->heap_count && c->heap[child]->deadline_ns < c->heap[child - 1]->deadline_ns)
            child++;
        if (c->heap[child - 1]->deadline_ns >= slot->deadline_ns)
            break;
        put(c, at, c->heap[child - 1]);
    }
    put(c, at, slot);
}

moor_err heap_add(struct conn *c, struct slot *slot)
{
    if (c->heap_count == c->heap_cap) {
        const size_t cap = c->heap_cap ? c->heap_cap * 2 : 64;
        struct slot **grown = reallocarray(c->heap, cap, sizeof(struct slot *));
        if (!grown)
            return MOOR_ENOMEM;
        c->heap = grown;
        c->heap_cap = cap;
    }
    c->heap_count++;
    rise(c, c->heap_count, slot);
    return MOOR_OK;
}

void heap_remove(struct conn *c, struct slot *slot)
{
    const size_t at = slot->heap_at;
    if (!at)
        return;
    slot->heap_at = 0;
    struct slot *last = c->heap[--c->heap_count];
    if (last == slot)
        return;
    if (at > 1 && c->heap[at / 2 - 1]->deadline_ns > last->deadline_ns)
        rise(c, at, last);
    else
        sink(c, at, last);
}
