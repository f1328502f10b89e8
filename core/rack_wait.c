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

static void open_gate(struct mr_rack *k)
{
    if (k->waiting == 0)
        atomic_fetch_and(&k->gate, ~(uint32_t)MR_RACK_WAITED);
}

static void unqueue(struct mr_rack *k, struct mr_waiter *w)
{
    mr_list_remove(&w->link);
    w->is_queued = false;
    k->waiting--;
    k->wanted -= w->want - w->got;
    open_gate(k);
}

/* ---- affinity ---- */

static size_t slot_of(uint64_t key)
{
    return (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 56) % MR_AFFINITY_SLOTS;
}

static struct moor_link *link_of_key(struct mr_rack *k, uint64_t key)
{
    if (!key || k->affinity[slot_of(key)].key != key)
        return NULL;
    struct moor_link *l = k->affinity[slot_of(key)].link;
    return l && l->rack == k && l->affinity == key ? l : NULL;
}

static void bind_key(struct mr_rack *k, uint64_t key, struct moor_link *l)
{
    if (!key || l->affinity == key)
        return;
    const size_t at = slot_of(key);
    struct moor_link *before = k->affinity[at].key ? k->affinity[at].link : NULL;
    if (before && before->rack == k && before->affinity == k->affinity[at].key)
        before->affinity = 0;
    if (l->affinity && k->affinity[slot_of(l->affinity)].link == l)
        k->affinity[slot_of(l->affinity)].key = 0;
    l->affinity = key;
    k->affinity[at].key = key;
    k->affinity[at].link = l;
}

/* Those who waited for this one wait for any: it goes, or serves another key. */
static void release_wanted(struct mr_rack *k, struct moor_link *l)
{
    struct mr_waiter *w;
    while ((w = first_in(&l->wanted))) {
        struct mr_list *queue = &k->queue[w->priority];
        struct mr_list *at = queue->next;
        mr_list_remove(&w->link);
        while (at != queue && MR_CONTAINER_OF(at, struct mr_waiter, link)->ticket < w->ticket)
            at = at->next;
        mr_list_push_back(at, &w->link);
    }
}

void mr_rack_unbind(struct mr_rack *k, struct moor_link *l)
{
    mr_lock_lock(&k->pool->lock);
    release_wanted(k, l);
    if (l->affinity && k->affinity[slot_of(l->affinity)].link == l)
        k->affinity[slot_of(l->affinity)].key = 0;
    l->affinity = 0;
    mr_lock_unlock(&k->pool->lock);
}

/* ---- granting ---- */

static void add_to(struct mr_rack *k, struct mr_waiter *w, struct moor_link *l)
{
    if (mr_link_state_of(mr_link_word(l)) != MR_LINK_LEASED)
        mr_link_set(l, MR_LINK_LEASED);
    if (w->affinity && w->affinity != l->affinity) {
        release_wanted(k, l);
        bind_key(k, w->affinity, l);
    }
    w->is_reused = atomic_load_explicit(&l->uses, memory_order_relaxed) > 0;
    l->chain = w->links;
    w->links = l;
    w->got++;
}

void mr_rack_settle(struct mr_rack *k, struct moor_link *l, int64_t now_ns, struct mr_waiter **told)
{
    const bool is_shut = atomic_load(&k->gate) & (MR_RACK_PAUSED | MR_RACK_CLOSED);
    struct mr_waiter *w = is_shut ? NULL : first_for(k, l);
    if (!w) {
        l->order = ++k->orders;
        mr_link_set(l, MR_LINK_IDLE);
        return;
    }
    /* A new word either way: the handle of the lease before must not fit this one. */
    mr_link_set(l, MR_LINK_LEASED);
    add_to(k, w, l);
    k->wanted--;
    if (w->got < w->want)
        return;
    unqueue(k, w);
    mr_histogram_record(&k->waits, now_ns - w->asked_ns);
    w->next = *told;
    *told = w;
}

void mr_rack_tell(struct mr_waiter *told)
{
    while (told) {
        struct mr_waiter *w = told;
        told = w->next;
        w->over(w);
    }
}

void mr_rack_serve(struct mr_rack *k)
{
    struct mr_waiter *told = NULL;
    const int64_t now = mr_clock_now(k->pool->runtime->clock);
    mr_lock_lock(&k->pool->lock);
    while (k->waiting && !(atomic_load(&k->gate) & (MR_RACK_PAUSED | MR_RACK_CLOSED))) {
        struct moor_link *l = mr_rack_take_locked(k);
        if (!l)
            break;
        const uint32_t wanted = k->wanted;
        mr_rack_settle(k, l, now, &told);
        if (k->wanted == wanted) /* only for links of their own */
            break;
    }
    const bool has_errands = k->errands;
    mr_lock_unlock(&k->pool->lock);
    mr_rack_tell(told);
    if (has_errands)
        mr_keeper_kick(k);
}

/* ---- waiting ---- */

/* Under the lock, nobody being before w. */
static bool serve_now(struct mr_rack *k, struct mr_waiter *w)
{
    while (w->got < w->want) {
        struct moor_link *own = link_of_key(k, w->affinity);
        struct moor_link *l = NULL;
        if (own) {
            uint64_t word = mr_link_word(own);
            if (mr_link_state_of(word) == MR_LINK_IDLE && mr_link_claim(own, word, MR_LINK_LEASED))
                l = own;
        } else {
            l = mr_rack_take_locked(k);
        }
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
    while (w->links) {
        struct moor_link *l = w->links;
        w->links = l->chain;
        mr_rack_settle(k, l, now_ns, told);
    }
    w->got = 0;
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
    mr_lock_lock(&p->lock);
    /* Before it looks: who returns a link from here on sees that somebody waits. */
    const uint32_t gate = atomic_fetch_or(&k->gate, MR_RACK_WAITED);
    const bool is_shut = gate & (MR_RACK_CLOSED | MR_RACK_PAUSED);
    w->reason = gate & MR_RACK_PAUSED ? MOOR_WAIT_PAUSED
                : k->waiting          ? MOOR_WAIT_TURN
                                      : MOOR_WAIT_CONNECTING;
    const bool is_done = !is_shut && is_first(k, w->priority) && serve_now(k, w);
    if (gate & MR_RACK_CLOSED || (gate & MR_RACK_PAUSED && k->is_pause_failing))
        e = MOOR_ECLOSED;
    else if (!is_done && w->deadline_ns <= now_ns)
        e = MOOR_ETIMEDOUT;
    else if (!is_done && k->waiting >= p->options.waiters_max)
        e = MOOR_EBUSY;
    if (e) {
        put_back(k, w, now_ns, &told);
    } else if (!is_done) {
        struct moor_link *own = link_of_key(k, w->affinity);
        w->ticket = ++k->tickets;
        w->is_queued = true;
        k->waiting++;
        k->wanted += w->want - w->got;
        mr_list_push_back(own ? &own->wanted : &k->queue[w->priority], &w->link);
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
    mr_lock_unlock(&k->pool->lock);
    mr_rack_tell(told);
    return was_queued;
}

void mr_rack_fail_waiters(struct mr_rack *k, const moor_fault *fault)
{
    struct mr_waiter *told = NULL;
    const int64_t now = mr_clock_now(k->pool->runtime->clock);
    mr_lock_lock(&k->pool->lock);
    for (uint32_t i = 0; i < mr_rack_used(k); i++)
        if (mr_rack_at(k, i))
            release_wanted(k, mr_rack_at(k, i));
    struct mr_waiter *w;
    for (int i = 0; i < MOOR_PRIORITIES; i++)
        while ((w = first_in(&k->queue[i]))) {
            unqueue(k, w);
            put_back(k, w, now, &told);
            w->fault = *fault;
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
