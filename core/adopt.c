/*
 * Shards that threads of the program drive themselves: taken over, turned, waited on, left.
 * The adopting thread; slots under the runtime's lock. Must not turn a shard inside its own turn.
 */
#include "core/runtime.h"

#include "core/keeper.h"
#include "core/shard.h"

/* Held, for the caller to let go of. NULL: there are not so many. One that ends at this moment may take another's
 * number: that hears of the shard when it next asks. */
static struct moor_pool *hold_nth(struct moor_runtime *r, uint32_t n)
{
    struct moor_pool *found = NULL;
    mr_lock_lock(&r->lock);
    for (struct mr_list *l = r->pools.next; l != &r->pools && !found; l = l->next) {
        struct moor_pool *p = MR_CONTAINER_OF(l, struct moor_pool, link);
        if (p->rack && n-- == 0 && mr_pool_hold_end(p))
            found = p;
    }
    mr_lock_unlock(&r->lock);
    return found;
}

/* Racks whose shard was left, with nobody to take them over: who waits there is served from here. */
static void keep_racks(struct moor_runtime *r)
{
    struct moor_pool *p;
    for (uint32_t i = 0; (p = hold_nth(r, i)); i++) {
        if (!mr_keeper_shard(p->rack) && mr_keeper_is_wanted(p->rack))
            mr_keeper_kick(p->rack);
        mr_pool_unhold_end(p);
    }
}

static moor_err adopt(struct moor_runtime *r, bool is_bound, struct moor_shard **out_shard)
{
    struct moor_shard *s = NULL;
    mr_lock_lock(&r->lock);
    const uint32_t count = atomic_load(&r->shard_count);
    for (uint32_t i = 0; i < count && !s; i++) {
        struct moor_shard *old = atomic_load(&r->shards[i]);
        if (old->is_adopted && atomic_load(&old->shared.state) == MR_SHARD_VACANT)
            s = old;
    }
    if (s)
        atomic_store(&s->shared.state, MR_SHARD_STARTING);
    const uint32_t index = s ? s->index : count;
    mr_lock_unlock(&r->lock);
    MR_FAIL_IF(index >= MR_SHARDS_MAX, MOOR_EBUSY);
    if (!s) {
        s = mr_runtime_make_shard(r, index, true);
        MR_FAIL_IF(!s, MOOR_ENOMEM);
        mr_lock_lock(&r->lock);
        const uint32_t at = atomic_load(&r->shard_count);
        if (at < MR_SHARDS_MAX) {
            s->index = at;
            atomic_store(&r->shards[at], s);
            atomic_store(&r->shard_count, at + 1);
        }
        mr_lock_unlock(&r->lock);
        if (at >= MR_SHARDS_MAX) {
            mr_shard_free(s);
            return MOOR_EBUSY;
        }
    }
    const moor_err e = mr_runtime_open_shard(s, is_bound);
    if (e) {
        atomic_store(&s->shared.state, MR_SHARD_VACANT);
        return e;
    }
    keep_racks(r);
    *out_shard = s;
    return MOOR_OK;
}

moor_err mr_runtime_add_shard(struct moor_runtime *r, struct moor_shard **out_shard)
{
    return adopt(r, false, out_shard);
}

moor_err moor_shard_adopt(moor_runtime *r, moor_shard **out_shard)
{
    MR_FAIL_IF(!r || !out_shard, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(r), MOOR_EFORKED);
    MR_FAIL_IF(moor_shard_self(), MOOR_EBUSY);
    MR_TRY(adopt(r, true, out_shard));
    mr_shard_enter(*out_shard);
    return MOOR_OK;
}

int moor_shard_fd(const moor_shard *s)
{
    return s && moor_shard_self() == s ? mr_io_fd(s->mine.loop.io) : -1;
}

moor_ms moor_shard_timeout(moor_shard *s)
{
    if (!s || moor_shard_self() != s)
        return 0;
    /* The caller is about to sleep in its own loop: from here a poster makes the descriptor
     * readable. */
    atomic_store(&s->shared.is_sleeping, true);
    atomic_thread_fence(memory_order_seq_cst);
    if (!mr_inbox_is_empty(&s->shared.inbox))
        return 0;
    /* Wheel times are of the last turn's clock; the caller may have been away since. */
    const int64_t away = mr_clock_now(s->mine.loop.clock) - s->mine.loop.now_ns;
    const int64_t ns = mr_loop_timeout(&s->mine.loop);
    if (ns == MR_NEVER)
        return MOOR_FOREVER;
    return ns > away ? (ns - away + MR_NS_PER_MS - 1) / MR_NS_PER_MS : 0;
}

static moor_err turn_adopted(moor_shard *s, int64_t timeout_ns, unsigned budget)
{
    MR_FAIL_IF(!s, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(s->runtime), MOOR_EFORKED);
    MR_FAIL_IF(moor_shard_self() != s || s->mine.is_turning, MOOR_EWRONGTHREAD);
    s->mine.loop.now_ns = mr_clock_now(s->mine.loop.clock);
    return mr_shard_turn(s, timeout_ns, budget);
}

moor_err moor_shard_step(moor_shard *s, unsigned budget)
{
    return turn_adopted(s, 0, budget);
}

moor_err moor_shard_wait(moor_shard *s, moor_ms timeout_ms)
{
    return turn_adopted(s, timeout_ms < 0 ? MR_NEVER : timeout_ms * MR_NS_PER_MS, 0);
}

/* Conns close and operations end; only loans may remain. */
static bool is_quiet(struct moor_shard *s)
{
    for (struct mr_list *l = s->mine.locals.next; l != &s->mine.locals; l = l->next)
        if (!mr_pool_is_quiet(MR_CONTAINER_OF(l, struct mr_pool_shard, link)))
            return false;
    return mr_inbox_is_empty(&s->shared.inbox);
}

void mr_shard_leave(struct moor_shard *s)
{
    atomic_store_explicit(&s->shared.state, MR_SHARD_STOPPING, memory_order_release);
    /* Callbacks run in here: as inside a turn they may neither block nor leave. */
    s->mine.is_turning = true;
    for (struct mr_list *l; (l = mr_list_first(&s->mine.keepers));)
        mr_keeper_leave(MR_CONTAINER_OF(l, struct mr_keeper, here)->rack);
    for (struct mr_list *l = s->mine.locals.next, *next; l != &s->mine.locals; l = next) {
        next = l->next;
        mr_pool_leave(MR_CONTAINER_OF(l, struct mr_pool_shard, link));
    }
    s->mine.is_turning = false;
    while (!is_quiet(s) || !mr_shard_seal(s))
        if (mr_shard_turn(s, MR_NS_PER_MS, 0))
            break;
    mr_shard_shut(s);
    atomic_store_explicit(&s->shared.state, MR_SHARD_VACANT, memory_order_release);
}

void moor_shard_leave(moor_shard *s)
{
    if (!s || mr_runtime_is_forked(s->runtime) || moor_shard_self() != s || s->mine.is_turning)
        return;
    mr_shard_leave(s);
    mr_shard_enter(NULL);
}
