/*
 * How a pool ends: what is live on each shard, drain, the report of the last one, and freeing.
 * Each shard for its own part, any thread for the whole. Frees nothing before the last report.
 */
#include "core/keeper.h"
#include "core/pool_internal.h"

#include "base/futex.h"

static void report(struct moor_pool *p);

/* ---- the end, on each shard ---- */

static bool is_done(const struct mr_pool_shard *local)
{
    return local->is_draining && local->live == 0 && !local->is_reported;
}

/* For a shard nobody drives; under gone_lock. */
static void report_gone(struct mr_pool_shard *local)
{
    local->is_reported = true;
    mr_list_remove(&local->link);
    report(local->pool);
}

void mr_pool_unhold(struct mr_pool_shard *local)
{
    MR_ASSERT(local->live > 0);
    local->live--;
    if (!is_done(local))
        return;
    if (mr_shard_is_gone(local->shard)) { /* a loan came home; gone_lock is held */
        report_gone(local);
    } else { /* later: whoever lets go may still be inside the berth */
        mr_loop_defer(&local->shard->mine.loop, &local->report);
    }
}

void mr_pool_op_begin(struct mr_pool_shard *local, struct mr_pool_op *op)
{
    mr_list_push_back(&local->ops, &op->link);
    mr_pool_hold(local);
}

void mr_pool_op_end(struct mr_pool_shard *local, struct mr_pool_op *op)
{
    mr_list_remove(&op->link);
    mr_pool_unhold(local);
}

static void finish(struct moor_pool *p)
{
    mr_pool_event(p, NULL, MOOR_EVENT_POOL_DRAINED, NULL);
    if (p->on_drained)
        p->on_drained(p->on_drained_user);
    atomic_store(&p->drained_word, 1);
    mr_futex_wake(&p->drained_word, UINT32_MAX);
}

static void run_finish(struct mr_message *m)
{
    finish(MR_CONTAINER_OF(m, struct moor_pool, finish));
}

/* The last one to report ends the pool, on a shard if the runtime has any. */
static void report(struct moor_pool *p)
{
    if (atomic_fetch_sub(&p->shards_live, 1) != 1)
        return;
    atomic_store_explicit(&p->state, MR_POOL_DRAINED, memory_order_release);
    /* on_drained runs later and on a shard, never inside a drain; nobody to tell needs no shard. */
    struct moor_shard *s = p->on_drained ? mr_runtime_pick(p->runtime) : NULL;
    p->finish.run = run_finish;
    if (!s || !mr_shard_post(s, &p->finish))
        finish(p);
}

void mr_pool_run_report(struct mr_deferred *d)
{
    struct mr_pool_shard *local = MR_CONTAINER_OF(d, struct mr_pool_shard, report);
    if (!is_done(local))
        return;
    local->is_reported = true;
    mr_pool_quiet(local);
    mr_list_remove(&local->link);
    report(local->pool);
}

void mr_pool_quiet(struct mr_pool_shard *local)
{
    for (struct mr_list *l = local->berths.next; l != &local->berths; l = l->next)
        mr_berth_quiet(MR_CONTAINER_OF(l, struct mr_berth, link));
    mr_loop_untimer(&local->shard->mine.loop, &local->deadline);
    mr_loop_undefer(&local->report);
}

static void drain_local(struct mr_pool_shard *local)
{
    struct mr_loop *l = &local->shard->mine.loop;
    if (!local->is_draining) {
        local->is_draining = true;
        for (struct mr_list *b = local->berths.next; b != &local->berths; b = b->next)
            mr_berth_drain(MR_CONTAINER_OF(b, struct mr_berth, link));
    }
    mr_lock_lock(&local->pool->lock);
    const int64_t deadline = local->pool->drain_deadline_ns;
    mr_lock_unlock(&local->pool->lock);
    if (!local->is_reported)
        mr_loop_timer(l, &local->deadline, deadline);
    if (is_done(local))
        mr_loop_defer(l, &local->report);
}

bool mr_pool_hold_end(struct moor_pool *p)
{
    uint32_t n = atomic_load_explicit(&p->shards_live, memory_order_relaxed);
    while (n && !atomic_compare_exchange_weak(&p->shards_live, &n, n + 1))
        ;
    return n > 0;
}

void mr_pool_unhold_end(struct moor_pool *p)
{
    report(p);
}

void mr_pool_run_drain(struct mr_message *m)
{
    struct mr_pool_shard *local = MR_CONTAINER_OF(m, struct mr_pool_shard, drain);
    struct moor_pool *p = local->pool;
    atomic_store(&local->is_drain_posted, false);
    drain_local(local);
    mr_pool_unhold_end(p);
}

/* Any thread. A shard nobody drives any more has no conns or operations; loans may be out. */
static void post_drain(struct mr_pool_shard *local)
{
    struct moor_pool *p = local->pool;
    if (!mr_pool_hold_end(p))
        return;
    if (atomic_exchange(&local->is_drain_posted, true)) {
        mr_pool_unhold_end(p);
        return;
    }
    do {
        if (mr_shard_post(local->shard, &local->drain))
            return;
    } while (!mr_shard_lock_gone(local->shard));
    atomic_store(&local->is_drain_posted, false);
    const bool is_last = !local->is_draining;
    local->is_draining = true;
    if (is_last && is_done(local))
        report_gone(local);
    mr_lock_unlock(&p->runtime->gone_lock);
    mr_pool_unhold_end(p);
}

static void abort_local(struct mr_pool_shard *local)
{
    struct mr_list aside;
    mr_list_take_all(&aside, &local->ops);
    for (struct mr_list *l; (l = mr_list_pop_front(&aside));) {
        struct mr_pool_op *op = MR_CONTAINER_OF(l, struct mr_pool_op, link);
        mr_list_push_back(&local->ops, l);
        op->abort(op);
    }
    for (struct mr_list *b = local->berths.next; b != &local->berths; b = b->next)
        mr_berth_abort(MR_CONTAINER_OF(b, struct mr_berth, link));
}

void mr_pool_fire_deadline(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    abort_local(MR_CONTAINER_OF(t, struct mr_pool_shard, deadline));
}

void mr_pool_leave(struct mr_pool_shard *local)
{
    local->is_leaving = true;
    for (struct mr_list *l = local->berths.next; l != &local->berths; l = l->next) {
        struct mr_berth *b = MR_CONTAINER_OF(l, struct mr_berth, link);
        uint32_t home = local->shard->index + 1; /* another shard may keep min idle from now on */
        atomic_compare_exchange_strong(&b->upstream->home, &home, 0);
        mr_berth_drain(b);
    }
    abort_local(local);
}

bool mr_pool_is_quiet(struct mr_pool_shard *local)
{
    return local->live == atomic_load_explicit(&local->stats.chunks_lent, memory_order_relaxed) &&
           !is_done(local); /* else its report is due */
}

/* ---- the end, from any thread ---- */

void moor_pool_drain(moor_pool *p, moor_ms timeout_ms, void (*on_drained)(void *user), void *user)
{
    if (!p || mr_runtime_is_forked(p->runtime))
        return;
    const int64_t deadline = mr_deadline(mr_clock_now(p->runtime->clock), timeout_ms);
    mr_lock_lock(&p->lock);
    const bool is_first = mr_pool_is_open(p);
    if (is_first) {
        p->on_drained = on_drained;
        p->on_drained_user = user;
        atomic_store_explicit(&p->state, MR_POOL_DRAINING, memory_order_release);
    }
    if (is_first || deadline < p->drain_deadline_ns)
        p->drain_deadline_ns = deadline;
    mr_lock_unlock(&p->lock);
    if (is_first)
        mr_pool_event(p, NULL, MOOR_EVENT_POOL_DRAINING, NULL);
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_pool_shard *local = atomic_load_explicit(&p->locals[i], memory_order_acquire);
        if (local)
            post_drain(local);
    }
    if (p->rack)
        mr_keeper_drain(p->rack);
    if (is_first)
        report(p);
}

moor_err mr_pool_wait_drained(struct moor_pool *p, int64_t deadline_ns)
{
    while (!atomic_load(&p->drained_word)) {
        const moor_err e = mr_futex_wait(&p->drained_word, 0, deadline_ns);
        if (e == MOOR_ETIMEDOUT && !atomic_load(&p->drained_word))
            return MOOR_EBUSY;
    }
    return MOOR_OK;
}

static void end_upstream(struct moor_pool *p, struct mr_upstream *u)
{
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_berth *b = atomic_load(&u->berths[i]);
        if (b)
            mr_berth_destroy(b);
    }
    mr_upstream_free(p, u);
}

void mr_pool_free(struct moor_pool *p)
{
    struct moor_runtime *r = p->runtime;
    MR_ASSERT(atomic_load(&p->drained_word));
    mr_lock_lock(&r->lock);
    mr_list_remove(&p->link);
    mr_lock_unlock(&r->lock);
    for (uint32_t i = 0; i < MR_ORIGIN_BUCKETS; i++)
        for (struct mr_upstream *u = atomic_load(&p->upstreams[i]), *next; u; u = next) {
            next = u->next;
            end_upstream(p, u);
        }
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_pool_shard *local = atomic_load(&p->locals[i]);
        if (local)
            mr_heap_free(&r->heap, local, sizeof *local);
    }
    if (p->rack)
        mr_rack_destroy(p->rack);
    if (p->unwire)
        p->unwire(p);
    mr_heap_free_text(&r->heap, p->name);
    mr_lock_fini(&p->lock);
    mr_heap_free(&r->heap, p, sizeof *p);
}

/* Everything that is cancelled at the deadline still has to hear of it. */
#define CLOSE_GRACE_NS MR_NS_PER_SEC

moor_err moor_pool_close(moor_pool *p, moor_ms timeout_ms)
{
    if (!p)
        return MOOR_OK;
    struct moor_runtime *r = p->runtime;
    MR_FAIL_IF(mr_runtime_is_forked(r), MOOR_EFORKED);
    struct moor_shard *s = moor_shard_self();
    MR_FAIL_IF(s && (s->mine.is_turning || !s->is_adopted), MOOR_EWRONGTHREAD);
    const int64_t deadline = mr_deadline(mr_clock_now(r->clock), timeout_ms);
    const int64_t last = deadline == MR_NEVER ? MR_NEVER : deadline + CLOSE_GRACE_NS;
    moor_pool_drain(p, timeout_ms, NULL, NULL);
    if (!s) {
        MR_TRY(mr_pool_wait_drained(p, last));
    } else {
        while (!atomic_load(&p->drained_word)) {
            MR_FAIL_IF(mr_clock_now(r->clock) >= last, MOOR_EBUSY);
            MR_TRY(moor_shard_wait(s, 10));
        }
    }
    mr_pool_free(p);
    return MOOR_OK;
}
