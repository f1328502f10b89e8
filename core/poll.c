/*
 * One-shot polls and timers of the program's own on a shard. That shard's thread.
 */
#include "core/runtime.h"
#include "core/shard.h"

#include <mooring/driver.h>

struct poll {
    struct mr_timer timer;
    uint64_t id;
    struct moor_shard *shard; /* NULL: not armed */
};
_Static_assert(sizeof(struct poll) <= sizeof(((moor_poll *)0)->private_), "room in moor_poll");
_Static_assert(_Alignof(struct poll) <= _Alignof(void *), "room in moor_poll");

static struct poll *inside(moor_poll *p)
{
    return (struct poll *)(void *)p->private_;
}

static moor_poll *around(struct poll *q)
{
    return MR_CONTAINER_OF((void *)q, moor_poll, private_);
}

static void disarm(struct poll *q)
{
    struct mr_loop *l = &q->shard->mine.loop;
    if (q->id)
        mr_io_poll_cancel(l->io, q->id);
    q->id = 0;
    mr_loop_untimer(l, &q->timer);
    q->shard = NULL;
}

static void fire(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct poll *q = MR_CONTAINER_OF(t, struct poll, timer);
    disarm(q);
    around(q)->ready(around(q), 0);
}

static void on_events(void *ctx, uint32_t events)
{
    struct poll *q = ctx;
    q->id = 0;
    disarm(q);
    around(q)->ready(around(q), events);
}

moor_err moor_poll_start(moor_poll *p, int fd, short events, moor_ms timeout_ms)
{
    MR_FAIL_IF(!p || !p->ready || (fd < 0 && timeout_ms < 0), MOOR_EINVAL);
    struct moor_shard *s = moor_shard_self();
    MR_FAIL_IF(!s, MOOR_EWRONGTHREAD);
    MR_FAIL_IF(mr_runtime_is_forked(s->runtime), MOOR_EFORKED);
    struct poll *q = inside(p);
    MR_FAIL_IF(q->shard, MOOR_EBUSY);
    if (fd >= 0) {
        q->id = mr_io_poll(s->mine.loop.io, fd, (uint32_t)(unsigned short)events, on_events, q);
        MR_FAIL_IF(!q->id, MOOR_ENOMEM);
    }
    q->shard = s;
    q->timer.fire = fire;
    if (timeout_ms >= 0)
        mr_loop_timer(&s->mine.loop, &q->timer, mr_deadline(mr_shard_refresh(s), timeout_ms));
    return MOOR_OK;
}

void moor_poll_stop(moor_poll *p)
{
    struct poll *q = p ? inside(p) : NULL;
    if (q && q->shard && q->shard == moor_shard_self() && !mr_runtime_is_forked(q->shard->runtime))
        disarm(q);
}
