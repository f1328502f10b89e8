/*
 * A lease's life: waiting for a conn, told of it, released or cut, its end.
 * Owner thread: the shard it was acquired on; moor_release claims it from any thread by its generation.
 * Must never call the holder from inside moor_acquire.
 */
#include "core/lease.h"

#include "core/driver_stream.h"
#include "core/handle.h"
#include "core/stream.h"

#include <string.h>

static void granted(struct mr_claim *claim, struct mr_conn *conn, bool is_reused);
static void failed(struct mr_claim *claim, const moor_fault *fault, const moor_why *why);
static void asked(struct moor_slot_ *slot, unsigned what);
static void aborted(struct mr_pool_op *op);
static void run_tell(struct mr_deferred *d);
static void run_give_back(struct mr_deferred *d);
static void run_released(struct mr_message *m);

static struct mr_loop *loop_of(struct mr_lease *l)
{
    return &l->slot.shard->mine.loop;
}

static struct mr_slab *lease_slab(struct moor_shard *s)
{
    return mr_shard_slab(s, MR_SLAB_LEASE, sizeof(struct mr_lease));
}

/* ---- asking ---- */

void moor_acquire_options_init_sized(moor_acquire_options *o, size_t size)
{
    const moor_acquire_options defaults = {
        .size = size, .timeout_ms = MOOR_TIMEOUT_OF_POOL, .priority = 1};
    memset(o, 0, size);
    memcpy(o, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

void mr_lease_options(const moor_acquire_options *given, moor_acquire_options *out)
{
    moor_acquire_options_init(out);
    if (given)
        memcpy(out, given, given->size < sizeof *out ? given->size : sizeof *out);
    if (out->priority >= MOOR_PRIORITIES)
        out->priority = MOOR_PRIORITIES - 1;
}

moor_err mr_lease_deadline(const struct moor_pool *p, const moor_acquire_options *given,
                           int64_t now_ns, int64_t *out_deadline_ns)
{
    moor_acquire_options o;
    mr_lease_options(given, &o);
    MR_FAIL_IF(o.timeout_ms < MOOR_TIMEOUT_OF_POOL, MOOR_EINVAL);
    *out_deadline_ns = mr_deadline(now_ns, o.timeout_ms == MOOR_TIMEOUT_OF_POOL
                                               ? MR_OPTION(p->options.acquire_timeout_ms)
                                               : o.timeout_ms);
    return MOOR_OK;
}

moor_err moor_acquire_at(moor_pool *p, const moor_acquire_options *options, moor_acquired_cb cb,
                         void *user, moor_op *out_op, const char *site)
{
    MR_FAIL_IF(!p || !cb, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(p->runtime), MOOR_EFORKED);
    struct moor_shard *s = moor_shard_self();
    MR_FAIL_IF(!s || s->runtime != p->runtime, MOOR_EWRONGTHREAD);
    MR_FAIL_IF(!p->rack && !p->protocol->is_stream, MOOR_EINVAL);
    moor_acquire_options o;
    mr_lease_options(options, &o);
    int64_t deadline;
    MR_TRY(mr_lease_deadline(p, options, mr_shard_refresh(s), &deadline));
    if (p->rack)
        return mr_handle_ask(p->rack, &o, deadline, site, cb, user, out_op);
    return mr_lease_acquire(p, deadline, site, cb, user, out_op);
}

static void discard(struct mr_lease *l)
{
    mr_driver_stream_unref(l->link);
    l->link = NULL;
    mr_pool_op_end(l->berth->local, &l->op);
    mr_slab_give(lease_slab(l->slot.shard), l);
}

moor_err mr_lease_acquire(struct moor_pool *p, int64_t deadline_ns, const char *site,
                          moor_acquired_cb cb, void *user, moor_op *out_op)
{
    struct moor_shard *s = moor_shard_self();
    struct mr_berth *b = mr_berth_of(p->upstream, s);
    MR_FAIL_IF(!b, mr_pool_is_open(p) ? MOOR_ENOMEM : MOOR_ECLOSED);
    struct mr_lease *l = mr_slab_take(lease_slab(s));
    MR_FAIL_IF(!l, MOOR_ENOMEM);
    l->berth = b;
    l->cb = cb;
    l->user = user;
    l->asked_ns = mr_shard_now(s);
    l->site = site;
    l->claim.granted = granted;
    l->claim.failed = failed;
    l->claim.deadline_ns = deadline_ns;
    l->op.abort = aborted;
    l->tell.run = run_tell;
    l->give_back.run = run_give_back;
    l->released.run = run_released;
    mr_stream_init(l);
    const uint64_t generation = mr_op_begin(&l->slot, s, asked);
    mr_pool_op_begin(b->local, &l->op);
    const moor_err e = mr_berth_acquire(b, &l->claim);
    if (e) {
        mr_op_end(&l->slot);
        discard(l);
        return e;
    }
    if (out_op)
        *out_op = (moor_op){&l->slot, generation};
    return MOOR_OK;
}

/* ---- the answer ---- */

static void granted(struct mr_claim *claim, struct mr_conn *conn, bool is_reused)
{
    struct mr_lease *l = MR_CONTAINER_OF(claim, struct mr_lease, claim);
    l->conn = conn;
    l->is_reused = is_reused;
    l->state = MR_LEASE_GRANTED;
    mr_driver_stream_unref(l->link);
    l->link = mr_driver_stream_ref(conn);
    conn->claim = l;
    mr_loop_defer(loop_of(l), &l->tell);
}

static void free_if_over(struct mr_lease *l)
{
    if (l->state != MR_LEASE_OVER || l->outs || l->inside)
        return;
    mr_loop_undefer(&l->tell);
    mr_loop_undefer(&l->give_back);
    discard(l);
}

void mr_lease_exit(struct mr_lease *l)
{
    MR_ASSERT(l->inside > 0);
    l->inside--;
    free_if_over(l);
}

void mr_lease_out_gone(struct mr_lease *l)
{
    MR_ASSERT(l->outs > 0);
    l->outs--;
    free_if_over(l);
}

/* It never became a lease. */
static void refuse(struct mr_lease *l, const moor_fault *fault, const moor_why *why)
{
    mr_op_end(&l->slot);
    l->state = MR_LEASE_OVER;
    const moor_acquired a = {
        .size = sizeof a,
        .fault = *fault,
        .waited = mr_shard_now(l->slot.shard) - l->asked_ns,
        .why = why,
    };
    mr_lease_enter(l);
    l->cb(l->user, &a);
    mr_lease_exit(l);
}

static void failed(struct mr_claim *claim, const moor_fault *fault, const moor_why *why)
{
    refuse(MR_CONTAINER_OF(claim, struct mr_lease, claim), fault, why);
}

static void refuse_with(struct mr_lease *l, moor_fault fault)
{
    fault.safe_to_retry = true; /* nobody had the conn: nothing was sent on it */
    moor_why why;
    mr_berth_why(l->berth, l->claim.reason, l->asked_ns, &why);
    refuse(l, &fault, &why);
}

static void let_go_of_conn(struct mr_lease *l, bool is_reusable)
{
    struct mr_conn *c = l->conn;
    if (!c)
        return;
    l->conn = NULL;
    c->claim = NULL;
    mr_berth_release(c, is_reusable);
}

/* An idle conn that ended between its grant and now was dead already: nobody has to hear of it. Each try
 * uses up one conn and a new one is not reused, so this ends. */
static void try_again(struct mr_lease *l)
{
    let_go_of_conn(l, false);
    l->state = MR_LEASE_WAITING;
    l->has_ended = false;
    l->fault = (moor_fault){0};
    const moor_err e = mr_berth_acquire(l->berth, &l->claim);
    if (e)
        refuse_with(l, (moor_fault){.err = e, .what = "wait for another connection"});
}

static void fire_held(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct mr_lease *l = MR_CONTAINER_OF(t, struct mr_lease, held);
    l->is_told_held = true;
    MR_STAT_ADD(l->berth->local, leases_held_long, 1);
    mr_pool_tell_lease(l->berth->upstream, l->site, mr_shard_now(l->slot.shard) - l->held_since_ns,
                       false);
}

static void run_tell(struct mr_deferred *d)
{
    struct mr_lease *l = MR_CONTAINER_OF(d, struct mr_lease, tell);
    MR_ASSERT(l->state == MR_LEASE_GRANTED);
    if (l->is_reused && l->has_ended) {
        try_again(l);
        return;
    }
    if (!l->conn) {
        refuse_with(l, l->fault);
        return;
    }
    mr_op_end(&l->slot);
    const uint64_t generation = mr_op_begin(&l->slot, l->slot.shard, asked);
    l->state = MR_LEASE_HELD;
    l->held_since_ns = mr_shard_now(l->slot.shard);
    l->held.fire = fire_held;
    mr_loop_timer(
        loop_of(l), &l->held,
        mr_deadline(l->held_since_ns, MR_OPTION(l->berth->local->pool->options.leak_after_ms)));
    const moor_acquired a = {
        .size = sizeof a,
        .lease = {&l->slot, generation},
        .reused = l->is_reused,
        .waited = mr_shard_now(l->slot.shard) - l->asked_ns,
    };
    mr_lease_enter(l);
    l->cb(l->user, &a);
    mr_lease_exit(l);
}

/* ---- the end ---- */

static void give_back(struct mr_lease *l)
{
    struct mr_conn *c = l->conn;
    l->state = MR_LEASE_OVER;
    if (c && c->protocol == &mr_driver_stream_protocol) {
        l->conn = NULL;
        c->claim = NULL;
        if (mr_driver_stream_returns(c, l->how))
            mr_berth_release(c, l->how != MOOR_DISCARD && !mr_driver_stream_is_worn(c));
    } else {
        let_go_of_conn(l, l->how == MOOR_REUSE);
    }
    free_if_over(l);
}

static void run_give_back(struct mr_deferred *d)
{
    give_back(MR_CONTAINER_OF(d, struct mr_lease, give_back));
}

/* The handle is stale: by moor_release (fault NULL) or by us. */
static void end(struct mr_lease *l, const moor_fault *fault)
{
    MR_ASSERT(l->state == MR_LEASE_HELD);
    l->state = MR_LEASE_ENDING;
    mr_loop_untimer(loop_of(l), &l->held);
    if (l->is_told_held)
        mr_pool_tell_lease(l->berth->upstream, l->site,
                           mr_shard_now(l->slot.shard) - l->held_since_ns, true);
    mr_lease_enter(l);
    mr_stream_fini(l, fault);
    l->inside--;
    /* Inside a call of the conn it may still be about to keep bytes or to drop its queue: what it is fit
     * for is known when that has returned. */
    if (l->inside)
        mr_loop_defer(loop_of(l), &l->give_back);
    else
        give_back(l);
}

static void run_released(struct mr_message *m)
{
    end(MR_CONTAINER_OF(m, struct mr_lease, released), NULL);
}

/* Only the one that steps the generation on may touch the lease after. */
static bool claim_end(struct moor_slot_ *slot, uint64_t generation)
{
    return atomic_compare_exchange_strong_explicit(&slot->generation, &generation, generation + 1,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

void mr_lease_release(moor_lease lease, moor_release_how how)
{
    struct moor_slot_ *slot = lease.slot_;
    if (mr_runtime_is_forked(slot->shard->runtime) || !claim_end(slot, lease.generation_))
        return;
    struct mr_lease *l = (struct mr_lease *)(void *)slot;
    l->how = how;
    if (moor_shard_self() == slot->shard) {
        end(l, NULL);
        return;
    }
    const bool is_there = mr_shard_post(slot->shard, &l->released);
    MR_ASSERT(is_there && "a shard ends its leases before it goes");
}

static void cancel(struct mr_lease *l, const char *what)
{
    if (l->state == MR_LEASE_WAITING)
        mr_berth_cancel(&l->claim);
    mr_loop_undefer(&l->tell);
    let_go_of_conn(l, true);
    refuse_with(l, (moor_fault){.err = MOOR_ECANCELED, .what = what});
}

static void asked(struct moor_slot_ *slot, unsigned what)
{
    struct mr_lease *l = (struct mr_lease *)(void *)slot;
    if (what == MR_ASK_CANCEL && l->state < MR_LEASE_HELD)
        cancel(l, "canceled by the caller");
}

static void aborted(struct mr_pool_op *op)
{
    struct mr_lease *l = MR_CONTAINER_OF(op, struct mr_lease, op);
    if (l->state < MR_LEASE_HELD) {
        cancel(l, "the pool was closed");
        return;
    }
    /* An even generation: a release is on its way here, and keeps the pool until it comes. */
    const uint64_t generation = atomic_load_explicit(&l->slot.generation, memory_order_relaxed);
    if (l->state != MR_LEASE_HELD || generation % 2 == 0 || !claim_end(&l->slot, generation))
        return;
    l->how = MOOR_DISCARD;
    end(l, &(moor_fault){.err = MOOR_ECANCELED, .what = "the pool was closed"});
}

moor_err mr_lease_find(moor_lease handle, struct mr_lease **out_lease)
{
    struct moor_slot_ *slot = handle.slot_;
    MR_FAIL_IF(!slot || !slot->shard, slot ? MOOR_EINVAL : MOOR_ESTALE);
    MR_FAIL_IF(mr_runtime_is_forked(slot->shard->runtime), MOOR_EFORKED);
    MR_FAIL_IF(!mr_op_is_current(slot, handle.generation_), MOOR_ESTALE);
    MR_FAIL_IF(moor_shard_self() != slot->shard, MOOR_EWRONGTHREAD);
    struct mr_lease *l = (struct mr_lease *)(void *)slot;
    MR_FAIL_IF(l->state != MR_LEASE_HELD, MOOR_ESTALE);
    *out_lease = l;
    return MOOR_OK;
}
