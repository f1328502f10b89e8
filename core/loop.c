/*
 * One loop: backend, timers, the time of this turn, and work put off to the turn's end.
 * Owner thread only. Knows no conn, pool or protocol.
 */
#include "core/loop.h"

#include "base/assert.h"
#include "base/count.h"

#include <string.h>

void mr_loop_init(struct mr_loop *l, struct mr_io *io, struct mr_heap *heap,
                  const struct mr_clock *clock, uint64_t seed)
{
    memset(l, 0, sizeof *l);
    l->io = io;
    l->heap = heap;
    l->clock = clock;
    l->now_ns = mr_clock_now(clock);
    l->random = seed ? seed : 1;
    mr_wheel_init(&l->wheel, l->now_ns);
    mr_list_init(&l->deferred);
    mr_list_init(&l->flushes);
}

void mr_loop_fini(struct mr_loop *l)
{
    MR_ASSERT(mr_list_is_empty(&l->deferred));
    MR_ASSERT(mr_list_is_empty(&l->flushes));
    MR_ASSERT(l->wheel.count == 0);
    mr_io_destroy(l->io);
    l->io = NULL;
}

void mr_loop_defer(struct mr_loop *l, struct mr_deferred *d)
{
    if (!mr_list_is_linked(&d->link))
        mr_list_push_back(&l->deferred, &d->link);
}

void mr_loop_flush_later(struct mr_loop *l, struct mr_deferred *d)
{
    if (!mr_list_is_linked(&d->link))
        mr_list_push_back(&l->flushes, &d->link);
}

void mr_loop_undefer(struct mr_deferred *d)
{
    mr_list_remove(&d->link);
}

static unsigned run_list(struct mr_list *queue)
{
    /* What these calls queue waits for the next round, so that one turn stays finite. */
    struct mr_list now;
    unsigned count = 0;
    mr_list_take_all(&now, queue);
    for (struct mr_list *l; (l = mr_list_pop_front(&now));) {
        struct mr_deferred *d = MR_CONTAINER_OF(l, struct mr_deferred, link);
        d->run(d);
        count++;
    }
    return count;
}

int64_t mr_loop_timeout(const struct mr_loop *l)
{
    if (!mr_list_is_empty(&l->deferred) || !mr_list_is_empty(&l->flushes) || mr_io_is_ready(l->io))
        return 0;
    int64_t next = mr_wheel_next(&l->wheel);
    if (next == MR_NEVER)
        return MR_NEVER;
    return next > l->now_ns ? next - l->now_ns : 0;
}

int64_t mr_loop_prepare(struct mr_loop *l, int64_t timeout_ns)
{
    MR_COUNT(l->turns, 1);
    l->calls += mr_wheel_expire(&l->wheel, l->now_ns);
    l->calls += run_list(&l->deferred);
    run_list(&l->flushes);

    if (!mr_list_is_empty(&l->deferred) || !mr_list_is_empty(&l->flushes))
        return 0;
    int64_t next = mr_wheel_next(&l->wheel);
    if (next == MR_NEVER || next - l->now_ns >= timeout_ns)
        return timeout_ns;
    return next > l->now_ns ? next - l->now_ns : 0;
}

moor_err mr_loop_finish(struct mr_loop *l, int64_t timeout_ns, unsigned budget)
{
    moor_err e = mr_io_wait(l->io, timeout_ns);
    l->now_ns = mr_clock_now(l->clock);
    mr_io_dispatch(l->io, budget);
    return e;
}

moor_err mr_loop_turn(struct mr_loop *l, int64_t timeout_ns, unsigned budget)
{
    timeout_ns = mr_loop_prepare(l, timeout_ns);
    return mr_loop_finish(l, timeout_ns, budget);
}

uint64_t mr_loop_random(struct mr_loop *l)
{
    /* splitmix64: small, fast, good enough to spread dials and jitter. */
    uint64_t z = (l->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
