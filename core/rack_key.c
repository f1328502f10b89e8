/*
 * Affinity: which link serves a key. Each key has one link while that lives, a link any number of keys; so one key
 * never takes another's away. Under the pool's lock, on any thread.
 */
#include "core/keeper.h"

static size_t slot_of(uint64_t key)
{
    return (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 56) % MR_AFFINITY_SLOTS;
}

struct moor_link *mr_rack_link_of_key(struct mr_rack *k, uint64_t key)
{
    return key && k->affinity[slot_of(key)].key == key ? k->affinity[slot_of(key)].link : NULL;
}

void mr_rack_bind_key(struct mr_rack *k, uint64_t key, struct moor_link *l)
{
    const size_t at = slot_of(key);
    if (k->affinity[at].key)
        k->affinity[at].link->keys--;
    l->keys++;
    k->affinity[at].key = key;
    k->affinity[at].link = l;
}

/* By importance, then age. */
static bool is_before(const struct mr_waiter *a, const struct mr_waiter *b)
{
    return a->priority != b->priority ? a->priority < b->priority : a->ticket < b->ticket;
}

void mr_rack_insert(struct mr_list *queue, struct mr_waiter *w)
{
    struct mr_list *at = queue->prev;
    while (at != queue && is_before(w, MR_CONTAINER_OF(at, struct mr_waiter, link)))
        at = at->prev;
    mr_list_insert_after(at, &w->link);
}

bool mr_rack_release_wanted(struct mr_rack *k, struct moor_link *l)
{
    bool has_any = false;
    for (struct mr_list *at; (at = mr_list_pop_front(&l->wanted)); has_any = true) {
        struct mr_waiter *w = MR_CONTAINER_OF(at, struct mr_waiter, link);
        w->is_bound = false;
        k->bound--;
        k->wanted += w->want - w->got;
        mr_rack_insert(&k->queue[w->priority], w);
    }
    return has_any;
}

void mr_rack_unbind(struct mr_rack *k, struct moor_link *l)
{
    mr_lock_lock(&k->pool->lock);
    for (size_t i = 0; l->keys && i < MR_AFFINITY_SLOTS; i++)
        if (k->affinity[i].key && k->affinity[i].link == l) {
            k->affinity[i].key = 0;
            l->keys--;
        }
    const bool has_waiters = mr_rack_release_wanted(k, l);
    mr_lock_unlock(&k->pool->lock);
    if (has_waiters)
        mr_keeper_kick(k);
}
