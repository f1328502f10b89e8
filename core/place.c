/*
 * A place under conns_max for a shard that has no conn. Knows no message: who is asked is kicked.
 */
#include "core/place.h"

#include "core/pool.h"

/* So long a conn that is in use keeps its place, lest shards end each other's all the time. */
#define KEPT_NS (100 * MR_NS_PER_MS)

/* A message to another shard and its dial's first step take less. */
#define YIELD_NS (2 * MR_NS_PER_MS)

static const char WHY[] = "another shard has none and needs its place under conns_max";

static struct mr_berth *berth_at(struct mr_berth *b, uint32_t i)
{
    return atomic_load_explicit(&b->upstream->berths[i], memory_order_acquire);
}

static uint32_t shard_count(struct mr_berth *b)
{
    return atomic_load_explicit(&b->shard->runtime->shard_count, memory_order_relaxed);
}

void mr_place_want(struct mr_berth *b)
{
    if (!mr_list_is_empty(&b->shared) || !mr_list_is_empty(&b->busy) || b->idle_count ||
        b->dialing || atomic_exchange(&b->upstream->wants_place, true))
        return;
    for (uint32_t i = 0; i < shard_count(b); i++) {
        struct mr_berth *o = berth_at(b, i);
        if (o && o != b)
            mr_berth_kick(o);
    }
}

static bool is_awaited(struct mr_berth *b)
{
    for (uint32_t i = 0; i < shard_count(b); i++) {
        struct mr_berth *o = berth_at(b, i);
        if (o && o != b &&
            atomic_load_explicit(&o->waiting_since, memory_order_relaxed) != MR_NEVER)
            return true;
    }
    return false;
}

static struct mr_conn *idle_one(struct mr_berth *b)
{
    for (struct mr_list *l = b->idle.prev; l != &b->idle; l = l->prev) {
        struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        if (c->protocol->is_multiplexed)
            return c;
    }
    return NULL;
}

/* False: not yet, and it is looked at again when it has; or never. */
static bool has_served(struct mr_berth *b, const struct mr_conn *c)
{
    if (!c->protocol->is_multiplexed || mr_conn_state(c) != MR_CONN_LEASED)
        return false;
    const bool is_young = mr_shard_now(b->shard) < c->born_ns + KEPT_NS;
    if (is_young)
        mr_berth_retry_by(b, c->born_ns + KEPT_NS);
    return !is_young;
}

void mr_place_give(struct mr_berth *b, struct mr_conn *used)
{
    if (!atomic_load_explicit(&b->upstream->wants_place, memory_order_relaxed))
        return;
    struct mr_conn *idle = idle_one(b);
    struct mr_list *l = used ? NULL : mr_list_first(&b->shared);
    if (l)
        used = MR_CONTAINER_OF(l, struct mr_conn, link);
    if (!idle && !(used && has_served(b, used)))
        return;
    if (!atomic_exchange(&b->upstream->wants_place, false) || !is_awaited(b))
        return;
    struct mr_conn *c = idle ? idle : used;
    c->gives_place = true;
    if (idle)
        mr_conn_close(c, WHY);
    else
        mr_conn_drain(c, WHY);
}

void mr_place_closed(struct mr_conn *c)
{
    if (c->gives_place)
        c->berth->yields_until_ns = mr_shard_now(c->berth->shard) + YIELD_NS;
}

bool mr_place_yields(struct mr_berth *b)
{
    if (mr_shard_now(b->shard) >= b->yields_until_ns || !is_awaited(b))
        return false;
    mr_berth_retry_by(b, b->yields_until_ns);
    return true;
}
