/*
 * Flushing a pool: one number makes every conn of an older generation unfit for use.
 * Any thread; each shard then closes its own idle ones.
 */
#include "core/keeper.h"

static void flushed(struct moor_pool *p)
{
    if (p->rack)
        atomic_fetch_add(&p->rack->stamp, 1);
    mr_pool_event(p, NULL, MOOR_EVENT_POOL_FLUSHED, NULL);
    mr_pool_kick_all(p);
}

void moor_pool_flush(moor_pool *p)
{
    if (!p || mr_runtime_is_forked(p->runtime))
        return;
    atomic_fetch_add(&p->generation, 1);
    flushed(p);
}

void mr_pool_kick_all(struct moor_pool *p)
{
    if (p->rack)
        mr_keeper_kick(p->rack);
    for (size_t i = 0; i < MR_ORIGIN_BUCKETS; i++) {
        struct mr_upstream *u = atomic_load_explicit(&p->upstreams[i], memory_order_acquire);
        for (; u; u = u->next)
            for (uint32_t s = 0; s < MR_SHARDS_MAX; s++) {
                struct mr_berth *b = atomic_load_explicit(&u->berths[s], memory_order_acquire);
                if (b)
                    mr_berth_kick(b);
            }
    }
}

static void log_flush(struct moor_pool *p, const char *why)
{
    mr_log(&p->runtime->log, MOOR_LOG_WARN, "pool.flushed",
           "pool %s: every connection is replaced: %s", p->name, why);
}

void mr_pool_flush_of(struct moor_pool *p, uint32_t generation, const char *why)
{
    if (!atomic_compare_exchange_strong(&p->generation, &generation, generation + 1))
        return;
    log_flush(p, why);
    flushed(p);
}

void mr_pool_flush_because(struct moor_pool *p, const char *why)
{
    log_flush(p, why);
    moor_pool_flush(p);
}
