/*
 * Who waits for a link: one queue for each priority, absolute deadlines, direct hand-over.
 * Any thread, under the pool's lock, which is let go of before anybody is told.
 */
#include "core/rack.h"

#include "core/keeper.h"

#include <string.h>

/* ---- whose turn it is ---- */

static struct mr_waiter *first_in(struct mr_list *queue)
{
    struct mr_list *l = mr_list_first(queue);
    return l ? MR_CONTAINER_OF(l, struct mr_waiter, link) : NULL;
}

/* Of those the link may serve: all, and those whose key it has. */
static struct mr_waiter *first_for(struct mr_rack *k, struct moor_link *l)
{
    struct mr_waiter *own = l ? first_in(&l->wanted) : NULL;
    for (int i = 0; i < MOOR_PRIORITIES; i++) {
        struct mr_waiter *w = first_in(&k->queue[i]);
        if (own && own->priority == i && (!w || own->ticket < w->ticket))
            return own;
        if (w)
            return w;
    }
    return own;
}

/* Not at once: shutting it costs a barrier on every core, and where one waited others soon will. A lease that goes
 * and comes back is two looks. */
#define CALM_LOOKS 16

static void open_gate(struct mr_rack *k)
{
    if (k->waiting || atomic_load(&k->gate) & MR_RACK_ORDERED) { /* that shuts the way in anyhow */
        k->calm = 0;
    } else if (k->calm < CALM_LOOKS) {
        k->calm++;
    } else {
        k->calm = 0;
        atomic_fetch_and(&k->gate, ~(uint32_t)MR_RACK_WAITED);
    }
}

void mr_rack_shut(struct mr_rack *k, uint32_t bits)
{
    if ((atomic_fetch_or(&k->gate, bits) & bits) != bits)
        mr_runtime_barrier(k->pool->runtime);
}

/* ---- the queue ---- */

/* Where it is found by what it waits for; the count of links that are wanted follows. */
static void enqueue(struct mr_rack *k, struct mr_waiter *w)
{
    struct moor_link *own = mr_rack_link_of_key(k, w->affinity);
    w->is_bound = own;
    if (own) {
        k->bound++;
        w->reason = w->reason == MOOR_WAIT_PAUSED ? w->reason : MOOR_WAIT_AT_CAP;
        mr_rack_insert(&own->wanted, w);
    } else {
        k->wanted += w->want - w->got;
        mr_rack_insert(&k->queue[w->priority], w);
    }
}

static void dequeue(struct mr_rack *k, struct mr_waiter *w)
{
    mr_list_remove(&w->link);
    if (w->is_bound)
        k->bound--;
    else
        k->wanted -= w->want - w->got;
    w->is_bound = false;
}

static void unqueue(struct mr_rack *k, struct mr_waiter *w)
{
    dequeue(k, w);
    w->is_queued = false;
    k->waiting--;
    atomic_fetch_sub(&k->pool->runtime->waiters, 1);
    if (k->gatherer == w)
        k->gatherer = NULL;
}

/* ---- granting ---- */

static bool is_shut(struct mr_rack *k)
{
    return atomic_load(&k->gate) & (MR_RACK_PAUSED | MR_RACK_CLOSED);
}

static void add_to(struct mr_rack *k, struct mr_waiter *w, struct moor_link *l)
{
    if (mr_link_state_of(mr_link_word(l)) != MR_LINK_LEASED)
        mr_link_set(l, MR_LINK_LEASED);
    if (w->affinity && mr_rack_link_of_key(k, w->affinity) != l)
        mr_rack_bind_key(k, w->affinity, l);
    l->chain = w->links;
    w->links = l;
    w->got++;
}

/* Somebody waits for this one: if it lies idle it is the caller's now, or the keeper's to be checked before. */
static bool claim_wanted(struct mr_rack *k, struct moor_link *l)
{
    const uint64_t word = mr_link_word(l);
    const enum mr_link_state s = mr_link_state_of(word);
    if (s == MR_LINK_IDLE)
        return mr_link_claim(l, word, MR_LINK_LEASED);
    if (s == MR_LINK_STALE && mr_link_claim(l, word, MR_LINK_KEPT))
        mr_rack_push_errand(k, l, MR_ERRAND_CHECK, NULL);
    return false;
}

/* Who is to have l. Those whose key got a link since they came wait for that one from now on; if it lies idle it
 * is put before *more. */
static struct mr_waiter *choose(struct mr_rack *k, struct moor_link *l, struct moor_link **more)
{
    for (;;) {
        struct mr_waiter *w = first_for(k, l);
        struct moor_link *own = w && !w->is_bound ? mr_rack_link_of_key(k, w->affinity) : NULL;
        if (!own || own == l)
            return w;
        dequeue(k, w);
        enqueue(k, w);
        if (claim_wanted(k, own)) {
            own->chain = *more;
            *more = own;
        }
    }
}

static void grant(struct mr_rack *k, struct mr_waiter *w, struct moor_link *l, int64_t now_ns,
                  struct mr_waiter **told)
{
    /* A new word either way: the handle of the lease before must not fit this one. */
    mr_link_set(l, MR_LINK_LEASED);
    add_to(k, w, l);
    k->wanted -= !w->is_bound;
    if (w->got < w->want) {
        k->gatherer = w;
        return;
    }
    unqueue(k, w);
    mr_histogram_record(&k->waits, now_ns - w->asked_ns);
    w->next = *told;
    *told = w;
}

void mr_rack_settle(struct mr_rack *k, struct moor_link *l, int64_t now_ns, struct mr_waiter **told)
{
    l->chain = NULL;
    while (l) {
        struct moor_link *more = l->chain;
        struct mr_waiter *w = is_shut(k) ? NULL : choose(k, l, &more);
        open_gate(k);
        if (w) {
            grant(k, w, l, now_ns, told);
        } else {
            l->order = ++k->orders;
            mr_link_set(l, MR_LINK_IDLE);
        }
        l = more;
    }
}

void mr_rack_tell(struct mr_waiter *told)
{
    struct mr_waiter *first = NULL; /* who was served first hears of it first */
    for (struct mr_waiter *next; told; told = next) {
        next = told->next;
        told->next = first;
        first = told;
    }
    while (first) {
        struct mr_waiter *w = first;
        first = w->next;
        w->over(w);
    }
}

static void serve(struct mr_rack *k, int64_t now_ns, struct mr_waiter **told)
{
    for (uint32_t i = 0; k->bound && !is_shut(k) && i < mr_rack_used(k); i++) {
        struct moor_link *l = mr_rack_at(k, i);
        if (l && !mr_list_is_empty(&l->wanted) && claim_wanted(k, l))
            mr_rack_settle(k, l, now_ns, told);
    }
    while (k->wanted && !is_shut(k)) {
        struct moor_link *l = mr_rack_take_locked(k);
        if (!l)
            break;
        const uint32_t wanted = k->wanted;
        mr_rack_settle(k, l, now_ns, told);
        if (k->wanted == wanted)
            break;
    }
}

void mr_rack_serve(struct mr_rack *k)
{
    struct mr_waiter *told = NULL;
    const int64_t now = mr_clock_now(k->pool->runtime->clock);
    mr_lock_lock(&k->pool->lock);
    serve(k, now, &told);
    open_gate(k);
    const bool has_work = k->errands || atomic_load(&k->gate) & MR_RACK_CLOSED;
    mr_lock_unlock(&k->pool->lock);
    mr_rack_tell(told);
    if (has_work)
        mr_keeper_kick(k);
}

void mr_rack_serve_as_guest(struct mr_rack *k)
{
    atomic_fetch_add(&k->guests, 1);
    if (!atomic_load(&k->is_gone))
        mr_rack_serve(k);
    atomic_fetch_sub(&k->guests, 1);
}

/* ---- waiting ---- */

/* Under the lock, nobody being before w. */
static bool serve_now(struct mr_rack *k, struct mr_waiter *w)
{
    while (w->got < w->want) {
        struct moor_link *l = mr_rack_link_of_key(k, w->affinity);
        if (l)
            l = claim_wanted(k, l) ? l : NULL;
        else
            l = w->affinity ? mr_rack_take_unkeyed(k) : mr_rack_take_locked(k);
        if (!l)
            return false;
        add_to(k, w, l);
    }
    return true;
}

static bool is_first(struct mr_rack *k, uint8_t priority)
{
    for (int i = 0; i <= priority; i++)
        if (!mr_list_is_empty(&k->queue[i]))
            return false;
    return true;
}

/* What a batch has gathered goes back. Under the lock. */
static void put_back(struct mr_rack *k, struct mr_waiter *w, int64_t now_ns,
                     struct mr_waiter **told)
{
    struct moor_link *l = w->links;
    w->links = NULL;
    w->got = 0;
    for (struct moor_link *next; l; l = next) {
        next = l->chain;
        mr_rack_settle(k, l, now_ns, told);
    }
}

/* Under the lock. A batch that has a part lets go of it for who goes before: it would hold that up, or wait for
 * another batch that waits for it. */
static void join_queue(struct mr_rack *k, struct mr_waiter *w, int64_t now_ns,
                       struct mr_waiter **told)
{
    struct mr_waiter *before = k->gatherer;
    w->ticket = ++k->tickets;
    w->is_queued = true;
    k->waiting++;
    atomic_fetch_add(&k->pool->runtime->waiters, 1);
    enqueue(k, w);
    if (w->is_bound) {
        struct moor_link *own = mr_rack_link_of_key(k, w->affinity);
        if (claim_wanted(k, own))
            mr_rack_settle(k, own, now_ns, told);
        return;
    }
    if (before && before->priority <= w->priority)
        return;
    k->gatherer = w->got ? w : NULL;
    if (before) {
        k->wanted += before->got;
        put_back(k, before, now_ns, told);
    }
}

moor_err mr_rack_wait(struct mr_rack *k, struct mr_waiter *w, int64_t now_ns, bool *out_served)
{
    struct moor_pool *p = k->pool;
    struct mr_waiter *told = NULL;
    moor_err e = MOOR_OK;
    w->rack = k;
    w->links = NULL;
    w->got = 0;
    w->is_queued = false;
    w->asked_ns = now_ns;
    w->fault = (moor_fault){0};
    /* Before it looks: who returns a link after the barrier sees that somebody waits, and what was returned
     * before it is seen here. Whoever shut the gate looks for all who came in between. */
    uint32_t gate;
    for (;;) {
        const bool was_shut = atomic_fetch_or(&k->gate, MR_RACK_WAITED) & MR_RACK_WAITED;
        if (!was_shut)
            mr_runtime_barrier(p->runtime);
        mr_lock_lock(&p->lock);
        gate = atomic_load(&k->gate);
        if (gate & MR_RACK_WAITED) {
            if (!was_shut)
                serve(k, now_ns, &told);
            break;
        }
        mr_lock_unlock(&p->lock);
    }
    w->reason = gate & MR_RACK_PAUSED              ? MOOR_WAIT_PAUSED
                : atomic_load(&k->keeper->is_full) ? MOOR_WAIT_AT_CAP
                : k->waiting                       ? MOOR_WAIT_TURN
                                                   : MOOR_WAIT_CONNECTING;
    const bool is_done = !is_shut(k) && is_first(k, w->priority) && serve_now(k, w);
    if (gate & MR_RACK_CLOSED || (gate & MR_RACK_PAUSED && k->is_pause_failing))
        e = MOOR_ECLOSED;
    else if (!is_done && w->deadline_ns <= now_ns)
        e = MOOR_ETIMEDOUT;
    else if (!is_done && k->waiting >= MR_OPTION(p->options.waiters_max))
        e = MOOR_EBUSY;
    if (e) {
        put_back(k, w, now_ns, &told);
    } else if (!is_done) {
        k->calm = 0;
        join_queue(k, w, now_ns, &told);
    } else if (atomic_load_explicit(&k->shortness, memory_order_relaxed)) {
        open_gate(
            k); /* who would have queued yields instead: they are not to be kept here by each other */
    } else {
        k->calm = 0;
    }
    open_gate(k);
    /* From here on w may be granted by somebody else. */
    *out_served = is_done && !e;
    const bool has_errands = k->errands;
    mr_lock_unlock(&p->lock);
    mr_rack_tell(told);
    if (has_errands || (!is_done && e != MOOR_ECLOSED && !atomic_load(&k->keeper->is_full)))
        mr_keeper_kick(k);
    return e;
}

bool mr_rack_unwait(struct mr_waiter *w)
{
    struct mr_rack *k = w->rack;
    struct mr_waiter *told = NULL;
    const int64_t now = mr_clock_now(k->pool->runtime->clock);
    mr_lock_lock(&k->pool->lock);
    const bool was_queued = w->is_queued;
    if (was_queued) {
        unqueue(k, w);
        put_back(k, w, now, &told);
    }
    const bool has_errands = k->errands;
    mr_lock_unlock(&k->pool->lock);
    mr_rack_tell(told);
    if (has_errands)
        mr_keeper_kick(k);
    return was_queued;
}

void mr_rack_fail_waiters(struct mr_rack *k, moor_wait_reason reason, const moor_fault *fault)
{
    struct mr_waiter *told = NULL;
    const int64_t now = mr_clock_now(k->pool->runtime->clock);
    mr_lock_lock(&k->pool->lock);
    for (uint32_t i = 0; i < mr_rack_used(k); i++)
        if (mr_rack_at(k, i))
            (void)mr_rack_release_wanted(k, mr_rack_at(k, i));
    struct mr_waiter *w;
    for (int i = 0; i < MOOR_PRIORITIES; i++)
        while ((w = first_in(&k->queue[i]))) {
            unqueue(k, w);
            put_back(k, w, now, &told);
            w->fault = *fault;
            if (reason)
                w->reason = reason;
            w->next = told;
            told = w;
        }
    mr_lock_unlock(&k->pool->lock);
    mr_rack_tell(told);
}

void mr_rack_note_reason(struct mr_rack *k, moor_wait_reason reason)
{
    mr_lock_lock(&k->pool->lock);
    for (int i = 0; i < MOOR_PRIORITIES; i++) {
        /* The first few are enough to explain; a long queue must not cost a walk each time. */
        unsigned n = 0;
        for (struct mr_list *l = k->queue[i].next; l != &k->queue[i] && n < 64; l = l->next, n++)
            MR_CONTAINER_OF(l, struct mr_waiter, link)->reason = reason;
    }
    mr_lock_unlock(&k->pool->lock);
}
