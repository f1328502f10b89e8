/*
 * The table of a driver's links: taking one, giving it back, a place for a new one.
 * Take, put, send: any thread. Add, remove: the keeper. Never runs a driver's hook.
 */
#include "core/rack.h"

#include "core/keeper.h"

#include <string.h>

#define TABLE_MIN 64

/* Where this thread found its last link: threads settle on links of their own, and one alone keeps to one. It
 * is a hint, shared by all pools. In a library loaded late the four bytes still fit what libc sets aside. */
static _Thread_local uint32_t last_place __attribute__((tls_model("initial-exec")));

/* ---- hand-out ---- */

/* Only links that are fit: what was flushed, or is worn, goes to the keeper instead. */
static inline bool is_fit(struct mr_rack *k, struct moor_link *l)
{
    return l->generation == atomic_load_explicit(&k->pool->generation, memory_order_relaxed) &&
           !atomic_load_explicit(&l->is_worn, memory_order_relaxed);
}

static inline bool try_take(struct moor_link *l)
{
    uint64_t word = atomic_load_explicit(&l->slot.generation, memory_order_relaxed);
    return mr_link_state_of(word) == MR_LINK_IDLE && mr_link_claim(l, word, MR_LINK_LEASED);
}

/* Under the lock. The keeper hears of it by a kick. */
static void push_errand(struct mr_rack *k, struct moor_link *l, enum mr_link_errand errand,
                        const char *why)
{
    l->errand = errand;
    if (why)
        l->close_why = why;
    if (mr_link_state_of(mr_link_word(l)) != MR_LINK_KEPT)
        mr_link_set(l, MR_LINK_KEPT);
    l->chain = k->errands;
    k->errands = l;
}

/* What was flushed or is worn, and what is no link of ours any more: a place seen just before it was cleared
 * may show a link that by now serves another pool. */
static void turn_down(struct mr_rack *k, struct moor_link *l, bool is_locked)
{
    if (l->rack != k) {
        MR_ASSERT(!is_locked || l->rack->pool != k->pool);
        mr_link_set(l, MR_LINK_IDLE);
        if (!is_locked && atomic_load(&l->rack->gate))
            mr_rack_serve(l->rack);
    } else if (is_locked) {
        push_errand(k, l, MR_ERRAND_CLOSE, "the pool was flushed");
    } else {
        mr_rack_send(k, l, MR_ERRAND_CLOSE, "the pool was flushed");
    }
}

static struct moor_link *take_at(struct mr_rack *k, struct mr_rack_table *t, uint32_t i,
                                 bool is_locked)
{
    struct moor_link *l = atomic_load_explicit(&t->at[i], memory_order_acquire);
    if (!l || !try_take(l))
        return NULL;
    if (MR_LIKELY(l->rack == k && is_fit(k, l)))
        return l;
    turn_down(k, l, is_locked);
    return NULL;
}

/* Under the lock: the one that came back first. */
static struct moor_link *take_oldest(struct mr_rack *k, struct mr_rack_table *t, uint32_t n)
{
    for (;;) {
        uint64_t best = UINT64_MAX;
        uint32_t at = n;
        for (uint32_t i = 0; i < n; i++) {
            struct moor_link *l = atomic_load_explicit(&t->at[i], memory_order_acquire);
            if (l && mr_link_state_of(mr_link_word(l)) == MR_LINK_IDLE && l->order < best) {
                best = l->order;
                at = i;
            }
        }
        if (at == n)
            return NULL;
        struct moor_link *l = take_at(k, t, at, true);
        if (l)
            return l;
    }
}

static struct moor_link *take(struct mr_rack *k, bool is_locked)
{
    const uint32_t n = atomic_load_explicit(&k->used, memory_order_acquire);
    struct mr_rack_table *t = atomic_load_explicit(&k->table, memory_order_acquire);
    if (is_locked && (atomic_load_explicit(&k->gate, memory_order_relaxed) & MR_RACK_ORDERED))
        return take_oldest(k, t, n);
    const uint32_t first = last_place;
    struct moor_link *l = first < n ? take_at(k, t, first, is_locked) : NULL;
    if (l)
        return l;
    /* From the lowest place, so that those beyond the need stay unused and can go. */
    for (uint32_t i = 0; i < n; i++) {
        l = take_at(k, t, i, is_locked);
        if (l) {
            last_place = i;
            return l;
        }
    }
    return NULL;
}

struct moor_link *mr_rack_take(struct mr_rack *k)
{
    return take(k, false);
}

struct moor_link *mr_rack_take_locked(struct mr_rack *k)
{
    return take(k, true);
}

/* ---- return ---- */

void mr_rack_put(struct mr_rack *k, struct moor_link *l)
{
    struct mr_waiter *told = NULL;
    const int64_t now = mr_clock_now(k->pool->runtime->clock);
    mr_lock_lock(&k->pool->lock);
    mr_rack_settle(k, l, now, &told);
    mr_lock_unlock(&k->pool->lock);
    mr_rack_tell(told);
}

void mr_rack_send(struct mr_rack *k, struct moor_link *l, enum mr_link_errand errand,
                  const char *why)
{
    mr_lock_lock(&k->pool->lock);
    push_errand(k, l, errand, why);
    mr_lock_unlock(&k->pool->lock);
    mr_keeper_kick(k);
}

/* ---- places ---- */

static size_t table_bytes(uint32_t size)
{
    return sizeof(struct mr_rack_table) + size * sizeof(_Atomic(struct moor_link *));
}

static struct mr_rack_table *make_table(struct mr_rack *k, uint32_t size)
{
    struct mr_rack_table *t = mr_heap_zalloc(&k->pool->runtime->heap, table_bytes(size));
    if (t)
        t->size = size;
    return t;
}

/* Who looks at the smaller one meanwhile sees the links that were there. */
static moor_err grow(struct mr_rack *k)
{
    struct mr_rack_table *old = atomic_load(&k->table);
    struct mr_rack_table *t = make_table(k, old->size * 2);
    MR_FAIL_IF(!t, MOOR_ENOMEM);
    for (uint32_t i = 0; i < old->size; i++)
        atomic_store_explicit(&t->at[i], atomic_load(&old->at[i]), memory_order_relaxed);
    t->smaller = old;
    atomic_store_explicit(&k->table, t, memory_order_release);
    return MOOR_OK;
}

moor_err mr_rack_add(struct mr_rack *k, struct moor_link *l)
{
    const uint32_t n = mr_rack_used(k);
    uint32_t i = 0;
    while (i < n && mr_rack_at(k, i))
        i++;
    if (i == atomic_load(&k->table)->size)
        MR_TRY(grow(k));
    l->place = i;
    atomic_store_explicit(&atomic_load(&k->table)->at[i], l, memory_order_release);
    if (i == n)
        atomic_store_explicit(&k->used, n + 1, memory_order_release);
    return MOOR_OK;
}

void mr_rack_remove(struct mr_rack *k, struct moor_link *l)
{
    /* A picture of the pool is made under the lock: no link in it is taken away meanwhile. */
    mr_lock_lock(&k->pool->lock);
    for (struct mr_rack_table *t = atomic_load(&k->table); t; t = t->smaller)
        if (l->place < t->size)
            atomic_store_explicit(&t->at[l->place], NULL, memory_order_release);
    uint32_t n = mr_rack_used(k);
    while (n > 0 && !mr_rack_at(k, n - 1))
        n--;
    atomic_store_explicit(&k->used, n, memory_order_release);
    mr_lock_unlock(&k->pool->lock);
}

/* ---- life ---- */

moor_err mr_rack_create(struct moor_pool *p, struct mr_route *route, struct mr_rack **out_rack)
{
    struct mr_heap *h = &p->runtime->heap;
    struct mr_rack *k = mr_heap_zalloc(h, sizeof *k);
    MR_FAIL_IF(!k, MOOR_ENOMEM);
    k->pool = p;
    k->driver = route->driver;
    atomic_store(&k->table, make_table(k, TABLE_MIN));
    k->keeper = mr_keeper_create(k);
    if (!atomic_load(&k->table) || !k->keeper) {
        mr_rack_destroy(k);
        return MOOR_ENOMEM;
    }
    k->route = route;
    for (int i = 0; i < MOOR_PRIORITIES; i++)
        mr_list_init(&k->queue[i]);
    if (!strcmp(p->options.eviction, "fifo"))
        atomic_store(&k->gate, MR_RACK_ORDERED);
    atomic_store(&k->uses_max, p->options.uses_max);
    atomic_store(&k->checks_returns, p->options.check_on_return && route->driver->check);
    *out_rack = k;
    return MOOR_OK;
}

void mr_rack_destroy(struct mr_rack *k)
{
    struct mr_heap *h = &k->pool->runtime->heap;
    MR_ASSERT(k->waiting == 0 && atomic_load(&k->used) == 0);
    for (struct mr_rack_table *t = atomic_load(&k->table), *next; t; t = next) {
        next = t->smaller;
        mr_heap_free(h, t, table_bytes(t->size));
    }
    mr_keeper_destroy(k->keeper);
    if (k->route)
        mr_route_unref(k->pool->runtime, k->route);
    mr_heap_free(h, k, sizeof *k);
}

struct mr_route *mr_rack_route(struct mr_rack *k)
{
    mr_lock_lock(&k->pool->lock);
    struct mr_route *route = k->route;
    atomic_fetch_add(&route->refs, 1);
    mr_lock_unlock(&k->pool->lock);
    return route;
}

moor_err mr_rack_reroute(struct mr_rack *k, struct mr_route *route)
{
    mr_lock_lock(&k->pool->lock);
    const bool is_open = !(atomic_load(&k->gate) & MR_RACK_CLOSED);
    struct mr_route *before = is_open ? k->route : NULL;
    if (is_open)
        k->route = route;
    mr_lock_unlock(&k->pool->lock);
    MR_FAIL_IF(!is_open, MOOR_ECLOSED);
    mr_route_unref(k->pool->runtime, before);
    mr_pool_flush_because(k->pool, "it was replaced");
    return MOOR_OK;
}

static void wipe(struct mr_heap *h, char *text, size_t len)
{
    if (!text)
        return;
    explicit_bzero(text, len);
    mr_heap_free(h, text, len + 1);
}

void mr_route_unref(struct moor_runtime *r, struct mr_route *route)
{
    if (atomic_fetch_sub(&route->refs, 1) != 1)
        return;
    if (route->driver && route->driver->shut)
        route->driver->shut(route->config);
    wipe(&r->heap, route->user, route->user_len);
    wipe(&r->heap, route->password, route->password_len);
    mr_heap_free(&r->heap, route, sizeof *route);
}
