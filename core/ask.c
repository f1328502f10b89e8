/*
 * moor_acquire of a handle lease: asked on a shard, told there, whoever returns the link.
 * The shard; over() comes from any thread and only posts. Never calls the asker inside the call.
 */
#include "core/handle.h"

#include "core/op.h"

struct ask {
    struct moor_slot_ slot;
    struct mr_pool_op op;
    struct mr_waiter w;
    struct mr_pool_shard *local;
    struct mr_timer deadline;
    struct mr_deferred tell; /* it was over inside the call */
    struct mr_message told;  /* it was over on some thread */
    moor_acquired_cb cb;
    void *user;
    bool is_canceled;
    const char *canceled_what;
};

static struct mr_slab *slab_of(struct moor_shard *s)
{
    return mr_shard_slab(s, MR_SLAB_ASK, sizeof(struct ask));
}

static struct mr_loop *loop_of(struct ask *a)
{
    return &a->slot.shard->mine.loop;
}

static void answer(struct ask *a)
{
    struct moor_shard *s = a->slot.shard;
    struct mr_rack *k = a->w.rack;
    moor_acquired out = {.size = sizeof out};
    moor_why why;
    mr_loop_untimer(loop_of(a), &a->deadline);
    mr_op_end(&a->slot);
    /* Canceled while a link was on its way: it goes to the next. */
    if (a->is_canceled && a->w.links) {
        mr_rack_put(k, a->w.links);
        a->w.links = NULL;
    }
    if (a->is_canceled)
        a->w.fault =
            (moor_fault){.err = MOOR_ECANCELED, .safe_to_retry = true, .what = a->canceled_what};
    if (a->w.fault.err) {
        out.fault = a->w.fault;
        mr_rack_why(k, a->w.reason, a->w.asked_ns, &why);
        out.why = &why;
        atomic_fetch_add_explicit(&k->failed, 1, memory_order_relaxed);
    } else {
        mr_handle_fill(&out, a->w.links, a->w.site);
    }
    out.waited = mr_shard_now(s) - a->w.asked_ns;
    const moor_acquired_cb cb = a->cb;
    void *user = a->user;
    mr_pool_op_end(a->local, &a->op);
    mr_slab_give(slab_of(s), a);
    cb(user, &out);
}

static void run_tell(struct mr_deferred *d)
{
    answer(MR_CONTAINER_OF(d, struct ask, tell));
}

static void run_told(struct mr_message *m)
{
    answer(MR_CONTAINER_OF(m, struct ask, told));
}

static void over(struct mr_waiter *w)
{
    struct ask *a = MR_CONTAINER_OF(w, struct ask, w);
    if (moor_shard_self() == a->slot.shard) {
        mr_loop_defer(loop_of(a), &a->tell);
        return;
    }
    const bool is_there = mr_shard_post(a->slot.shard, &a->told);
    MR_ASSERT(is_there && "a shard ends its asks before it goes");
}

static void give_up(struct ask *a, moor_fault fault)
{
    if (!mr_rack_unwait(&a->w))
        return;
    a->w.fault = fault;
    mr_loop_defer(loop_of(a), &a->tell);
}

static void fire_deadline(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    give_up(MR_CONTAINER_OF(t, struct ask, deadline),
            (moor_fault){
                .err = MOOR_ETIMEDOUT, .safe_to_retry = true, .what = "wait for a connection"});
}

static void cancel(struct ask *a, const char *what)
{
    a->is_canceled = true;
    a->canceled_what = what;
    give_up(a, (moor_fault){.err = MOOR_ECANCELED, .safe_to_retry = true, .what = what});
}

static void asked(struct moor_slot_ *slot, unsigned what)
{
    if (what == MR_ASK_CANCEL)
        cancel((struct ask *)(void *)slot, "canceled by the caller");
}

static void aborted(struct mr_pool_op *op)
{
    cancel(MR_CONTAINER_OF(op, struct ask, op), "the pool was closed or the shard left");
}

moor_err mr_handle_ask(struct mr_rack *k, const moor_acquire_options *o, int64_t deadline_ns,
                       const char *site, moor_acquired_cb cb, void *user, moor_op *out_op)
{
    struct moor_shard *s = moor_shard_self();
    struct mr_pool_shard *local = mr_pool_local(k->pool, s);
    MR_FAIL_IF(!local, mr_pool_is_open(k->pool) ? MOOR_ENOMEM : MOOR_ECLOSED);
    MR_FAIL_IF(!mr_pool_takes_work(local), MOOR_ECLOSED);
    struct ask *a = mr_slab_take(slab_of(s));
    MR_FAIL_IF(!a, MOOR_ENOMEM);
    a->local = local;
    a->cb = cb;
    a->user = user;
    a->op.abort = aborted;
    a->tell.run = run_tell;
    a->told.run = run_told;
    a->deadline.fire = fire_deadline;
    a->w = (struct mr_waiter){
        .over = over,
        .want = 1,
        .affinity = o->affinity,
        .priority = o->priority < MOOR_PRIORITIES ? o->priority : MOOR_PRIORITIES - 1,
        .site = site,
        .deadline_ns = deadline_ns,
    };
    const uint64_t generation = mr_op_begin(&a->slot, s, asked);
    mr_pool_op_begin(local, &a->op);
    bool is_served;
    const moor_err e = mr_rack_wait(k, &a->w, mr_shard_now(s), &is_served);
    if (e == MOOR_ETIMEDOUT) {
        a->w.fault = (moor_fault){.err = e, .safe_to_retry = true, .what = "wait for a connection"};
        mr_loop_defer(&s->mine.loop, &a->tell);
    } else if (e) {
        mr_op_end(&a->slot);
        mr_pool_op_end(local, &a->op);
        mr_slab_give(slab_of(s), a);
        return e;
    } else if (is_served) {
        mr_loop_defer(&s->mine.loop, &a->tell);
    } else {
        mr_loop_timer(&s->mine.loop, &a->deadline, deadline_ns);
    }
    if (out_op)
        *out_op = (moor_op){&a->slot, generation};
    return MOOR_OK;
}
