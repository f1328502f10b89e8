/*
 * Reading what pools and runtimes count: sums over shards, without stopping any.
 * Any thread.
 */
#include "core/keeper.h"

#include <mooring/stats.h>

#include <string.h>

struct moor_histogram {
    struct mr_heap *heap;
    struct mr_histogram_snapshot snapshot;
};

static moor_pool *unconst(const moor_pool *p)
{
    return (moor_pool *)(uintptr_t)p;
}

static void add_local(struct mr_pool_shard *local, moor_stats *sum)
{
#define X(name, text) sum->name += atomic_load_explicit(&local->stats.name, memory_order_relaxed);
    MOOR_STATS(X)
#undef X
}

void moor_stats_read_sized(const moor_pool *p, moor_stats *out, size_t size)
{
    moor_stats sum = {.size = size};
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_pool_shard *local =
            atomic_load_explicit(&unconst(p)->locals[i], memory_order_acquire);
        if (local)
            add_local(local, &sum);
    }
    if (p->rack) {
        add_local(&p->rack->keeper->spare, &sum);
        mr_rack_stats(p->rack, &sum);
    }
    memset(out, 0, size);
    memcpy(out, &sum, size < sizeof sum ? size : sizeof sum);
}

static moor_runtime *unconst_runtime(const moor_runtime *r)
{
    return (moor_runtime *)(uintptr_t)r;
}

/* Written by the shard without atomics: a figure may be a turn old, as statistics may. */
static void add_shard(moor_runtime_stats *sum, struct moor_shard *s)
{
    const struct mr_io_stats *io = &s->mine.loop.io->stats;
    sum->turns += __atomic_load_n(&s->mine.loop.turns, __ATOMIC_RELAXED);
    sum->enters += __atomic_load_n(&io->enters, __ATOMIC_RELAXED);
    sum->syscalls += __atomic_load_n(&io->syscalls, __ATOMIC_RELAXED);
    sum->events += __atomic_load_n(&io->events, __ATOMIC_RELAXED);
    sum->recv_starved += __atomic_load_n(&io->starved, __ATOMIC_RELAXED);
    sum->buffers_held += __atomic_load_n(&s->mine.bufs.held, __ATOMIC_RELAXED);
    sum->memory_used += atomic_load_explicit(&s->mine.heap.used, memory_order_relaxed);
    sum->memory_peak += atomic_load_explicit(&s->mine.heap.peak, memory_order_relaxed);
}

void moor_runtime_stats_read_sized(const moor_runtime *r, moor_runtime_stats *out, size_t size)
{
    moor_runtime_stats sum = {.size = size};
    const uint32_t count = moor_runtime_shard_count(r);
    sum.memory_used = atomic_load_explicit(&unconst_runtime(r)->heap.used, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        struct moor_shard *s = moor_shard_at(r, i);
        if (!s)
            continue;
        /* A shard begins and ends its loop under this lock. */
        mr_lock_lock(&unconst_runtime(r)->gone_lock);
        if (mr_shard_has_loop(s))
            add_shard(&sum, s);
        mr_lock_unlock(&unconst_runtime(r)->gone_lock);
    }
    memset(out, 0, size);
    memcpy(out, &sum, size < sizeof sum ? size : sizeof sum);
}

moor_err moor_histogram_read(const moor_pool *p, moor_histogram_id id, moor_histogram **out)
{
    MR_FAIL_IF(!p || !out || (unsigned)id >= MOOR_HISTOGRAM_COUNT_, MOOR_EINVAL);
    struct mr_heap *heap = &unconst(p)->runtime->heap;
    moor_histogram *h = mr_heap_zalloc(heap, sizeof *h);
    MR_FAIL_IF(!h, MOOR_ENOMEM);
    h->heap = heap;
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_pool_shard *local =
            atomic_load_explicit(&unconst(p)->locals[i], memory_order_acquire);
        if (local)
            mr_histogram_read(&local->histograms[id], &h->snapshot);
    }
    if (p->rack && id == MOOR_HISTOGRAM_ACQUIRE)
        mr_rack_waits(p->rack, &h->snapshot);
    *out = h;
    return MOOR_OK;
}

void moor_histogram_merge(moor_histogram *into, const moor_histogram *from)
{
    mr_histogram_merge(&into->snapshot, &from->snapshot);
}

moor_ns moor_histogram_percentile(const moor_histogram *h, double percent)
{
    return mr_histogram_percentile(&h->snapshot, percent);
}

uint64_t moor_histogram_count(const moor_histogram *h)
{
    return h->snapshot.count;
}

void moor_histogram_free(moor_histogram *h)
{
    if (h)
        mr_heap_free(h->heap, h, sizeof *h);
}

const char *moor_wait_reason_text(moor_wait_reason w)
{
    switch (w) {
    case MOOR_WAIT_NONE:
        return "did not wait";
    case MOOR_WAIT_AT_CAP:
        return "every connection allowed is in use";
    case MOOR_WAIT_CONNECTING:
        return "a connection was being made";
    case MOOR_WAIT_DIALS:
        return "as many connects as allowed were under way";
    case MOOR_WAIT_BACKOFF:
        return "connects fail and the next try is later";
    case MOOR_WAIT_FILES:
        return "out of file descriptors";
    case MOOR_WAIT_PAUSED:
        return "the pool is paused";
    case MOOR_WAIT_TURN:
        return "others waited before it";
    default:
        return "unknown";
    }
}
