/*
 * Received bytes lent to the application. A loan holds a buffer, or a copy when buffers are low.
 * Owner thread: the shard that lent, except moor_chunk_return, which claims the loan by its generation.
 */
#include "core/loan.h"

#include "core/pool.h"

#include <string.h>

struct mr_loan {
    struct moor_slot_ slot;
    struct mr_message message;
    struct mr_pool_shard *local;
    struct mr_window *window; /* NULL = its owner has ended */
    struct mr_list link;
    struct mr_buf *buf; /* NULL = a copy */
    void *copy;
    size_t len;
};

static void run_return(struct mr_message *m);

static struct mr_slab *loan_slab(struct moor_shard *s)
{
    return mr_shard_slab(s, MR_SLAB_LOAN, sizeof(struct mr_loan));
}

void mr_window_init(struct mr_window *w, size_t limit, void (*reopened)(struct mr_window *w))
{
    *w = (struct mr_window){.limit = limit, .reopened = reopened};
    mr_list_init(&w->list);
}

void mr_window_fini(struct mr_window *w)
{
    for (struct mr_list *l; (l = mr_list_pop_front(&w->list));)
        MR_CONTAINER_OF(l, struct mr_loan, link)->window = NULL;
    w->lent = 0;
    w->loans = 0;
}

/* A buffer may be lent while enough are left to go on receiving for everyone else. */
static bool fill(struct mr_loan *n, struct moor_shard *s, const struct mr_in *in, size_t len)
{
    n->len = len;
    if (in->buf->is_loose || !mr_buf_pool_is_low(&s->mine.bufs)) {
        n->buf = in->buf;
        mr_buf_ref(n->buf);
        return true;
    }
    n->copy = mr_heap_alloc(&s->mine.heap, len);
    if (!n->copy)
        return false;
    memcpy(n->copy, in->base, len);
    return true;
}

bool mr_loan_make(struct mr_pool_shard *local, struct mr_window *w, const struct mr_in *in,
                  size_t len, moor_chunk *out_chunk)
{
    struct moor_shard *s = local->shard;
    struct mr_loan *n = mr_slab_take(loan_slab(s));
    if (!n)
        return false;
    if (!fill(n, s, in, len)) {
        mr_slab_give(loan_slab(s), n);
        return false;
    }
    mr_slot_own(&n->slot, s);
    n->local = local;
    n->window = w;
    mr_list_push_back(&w->list, &n->link);
    w->lent += len;
    w->loans++;
    mr_pool_hold(local);
    MR_STAT_ADD(local, chunks_lent, 1);
    if (n->copy)
        MR_STAT_ADD(local, chunks_copied, 1);
    const uint64_t generation = atomic_load_explicit(&n->slot.generation, memory_order_relaxed) + 1;
    atomic_store_explicit(&n->slot.generation, generation, memory_order_relaxed);
    *out_chunk = (moor_chunk){
        .bytes = {n->copy ? n->copy : in->base, len},
        .slot_ = &n->slot,
        .generation_ = generation,
    };
    return true;
}

static void take_back(struct mr_loan *n)
{
    struct moor_shard *s = n->slot.shard;
    struct mr_window *w = n->window;
    struct mr_pool_shard *local = n->local;
    if (n->buf)
        mr_buf_unref(n->buf);
    else
        mr_heap_free(&s->mine.heap, n->copy, n->len);
    bool is_reopened = false;
    const size_t len = n->len;
    if (w) {
        const bool was_open = mr_window_is_open(w);
        mr_list_remove(&n->link);
        w->lent -= n->len;
        w->loans--;
        is_reopened = !was_open && mr_window_is_open(w);
    }
    MR_STAT_ADD(local, chunks_lent, -1);
    mr_slab_give(loan_slab(s), n);
    if (w && w->returned)
        w->returned(w, len);
    if (is_reopened)
        w->reopened(w);
    mr_pool_unhold(local);
}

static void run_return(struct mr_message *m)
{
    take_back(MR_CONTAINER_OF(m, struct mr_loan, message));
}

void moor_chunk_return(moor_chunk c)
{
    if (!c.slot_)
        return;
    struct moor_shard *s = c.slot_->shard;
    uint64_t expected = c.generation_;
    if (mr_runtime_is_forked(s->runtime) ||
        !atomic_compare_exchange_strong_explicit(&c.slot_->generation, &expected, expected + 1,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return;
    struct mr_loan *n = (struct mr_loan *)(void *)c.slot_;
    if (moor_shard_self() == s && !mr_shard_is_gone(s)) {
        take_back(n);
        return;
    }
    n->message.run = run_return;
    do {
        if (mr_shard_post(s, &n->message))
            return;
    } while (!mr_shard_lock_gone(s));
    /* If this is the last thing of its pool, that is told after the lock. */
    struct moor_pool *p = n->local->pool;
    const bool is_held = mr_pool_hold_end(p);
    MR_ASSERT(is_held && "a pool with a loan out has not ended");
    take_back(n);
    mr_lock_unlock(&s->runtime->gone_lock);
    mr_pool_unhold_end(p);
}
