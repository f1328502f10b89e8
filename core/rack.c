/*
 * The table of a driver's links: taking one, giving it back, a place for a new one.
 * Take, put, send: any thread. Add, remove: the keeper. Never runs a driver's hook.
 */
#include "core/rack.h"

#include "core/keeper.h"

#include <sched.h>
#include <string.h>

#define TABLE_MIN 64

static _Atomic(uint64_t) last_id;

/* ---- hand-out ---- */

static inline bool try_take(struct moor_link *l)
{
    const uint64_t word = atomic_load_explicit(&l->slot.generation, memory_order_relaxed);
    return mr_link_state_of(word) == MR_LINK_IDLE && mr_link_claim(l, word, MR_LINK_LEASED);
}

void mr_rack_push_errand(struct mr_rack *k, struct moor_link *l, enum mr_link_errand errand,
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

static void turn_down(struct mr_rack *k, struct moor_link *l, bool is_locked)
{
    if (l->rack != k) {
        MR_ASSERT(!is_locked || l->rack->pool != k->pool);
        mr_rack_put(l->rack, l);
    } else if (is_locked) {
        mr_rack_push_errand(k, l, MR_ERRAND_CLOSE, "the pool was flushed");
    } else {
        mr_rack_send(k, l, MR_ERRAND_CLOSE, "the pool was flushed");
    }
}

void mr_rack_turn_down(struct mr_rack *k, struct moor_link *l)
{
    turn_down(k, l, false);
}

static struct moor_link *take_at(struct mr_rack *k, struct mr_rack_table *t, uint32_t i,
                                 bool is_locked)
{
    struct moor_link *l = atomic_load_explicit(&t->at[i], memory_order_acquire);
    if (!l || !try_take(l))
        return NULL;
    if (MR_LIKELY(mr_rack_is_fit(k, l)))
        return l;
    turn_down(k, l, is_locked);
    return NULL;
}

static uint64_t order_of(const struct moor_link *l)
{
    return l->order;
}

static uint64_t keys_of(const struct moor_link *l)
{
    return l->keys;
}

/* Under the lock: the idle one of which `rank` is least. */
static struct moor_link *take_least(struct mr_rack *k, uint64_t (*rank)(const struct moor_link *l))
{
    const uint32_t n = atomic_load_explicit(&k->used, memory_order_acquire);
    struct mr_rack_table *t = atomic_load_explicit(&k->table, memory_order_acquire);
    for (;;) {
        uint64_t best = UINT64_MAX;
        uint32_t at = n;
        for (uint32_t i = 0; i < n; i++) {
            struct moor_link *l = atomic_load_explicit(&t->at[i], memory_order_acquire);
            if (l && mr_link_state_of(mr_link_word(l)) == MR_LINK_IDLE && rank(l) < best) {
                best = rank(l);
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
        return take_least(k, order_of);
    struct mr_hint *hint = mr_rack_hint(k);
    /* From the lowest place, so that those beyond the need stay unused and can go. */
    for (uint32_t i = 0; i < n; i++) {
        struct moor_link *l = take_at(k, t, i, is_locked);
        if (l) {
            atomic_store_explicit(&hint->link, l, memory_order_release);
            atomic_store_explicit(&hint->id, k->id, memory_order_relaxed);
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

struct moor_link *mr_rack_take_unkeyed(struct mr_rack *k)
{
    return take_least(k, keys_of);
}

/* ---- return ---- */

/* The link is the pool's last, perhaps, and somebody waits to free that: only what is held is touched after. */
static void hold(struct moor_pool *p)
{
    const bool is_there = mr_pool_hold_end(p);
    MR_ASSERT(is_there && "a pool that has a link");
}

void mr_rack_put(struct mr_rack *k, struct moor_link *l)
{
    struct moor_pool *p = k->pool;
    struct mr_waiter *told = NULL;
    const int64_t now = mr_clock_now(p->runtime->clock);
    hold(p);
    mr_lock_lock(&p->lock);
    mr_rack_settle(k, l, now, &told);
    const bool has_work = k->errands || atomic_load(&k->gate) & MR_RACK_CLOSED;
    mr_lock_unlock(&p->lock);
    mr_rack_tell(told);
    if (has_work)
        mr_keeper_kick(k);
    mr_pool_unhold_end(p);
}

void mr_rack_put_unproven(struct mr_rack *k, struct moor_link *l)
{
    struct moor_pool *p = k->pool;
    hold(p);
    mr_lock_lock(&p->lock);
    const bool is_wanted = k->waiting || atomic_load(&k->gate) & MR_RACK_CLOSED;
    if (is_wanted) {
        mr_rack_push_errand(k, l, MR_ERRAND_CHECK, NULL);
    } else {
        l->order = ++k->orders;
        mr_link_set(l, MR_LINK_STALE);
        atomic_store(&k->keeper->is_full, false);
    }
    mr_lock_unlock(&p->lock);
    if (is_wanted)
        mr_keeper_kick(k);
    mr_pool_unhold_end(p);
}

void mr_rack_send(struct mr_rack *k, struct moor_link *l, enum mr_link_errand errand,
                  const char *why)
{
    struct moor_pool *p = k->pool;
    hold(p);
    mr_lock_lock(&p->lock);
    mr_rack_push_errand(k, l, errand, why);
    mr_lock_unlock(&p->lock);
    mr_keeper_kick(k);
    mr_pool_unhold_end(p);
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

void mr_rack_read_options(struct mr_rack *k)
{
    const moor_pool_options *o = &k->pool->options;
    const bool checks = MR_OPTION(o->check_on_return) && k->driver->check;
    const bool checks_takes = MR_OPTION(o->check_after_ms) == 0 && k->driver->check;
    uint32_t bits = 0;
    bits |= strcmp(MR_OPTION(o->eviction), "fifo") ? 0 : MR_RACK_ORDERED;
    bits |= checks || checks_takes || k->driver->returned ? MR_RACK_ASKS : 0;
    bits |= MR_OPTION(o->uses_max) ? MR_RACK_WEARS : 0;
    bits |= atomic_load(&k->open) > MR_OPTION(o->conns_max) ? MR_RACK_ABOVE : 0;
    bits |= k->pool->runtime->has_membarrier ? 0 : MR_RACK_FENCED;
    atomic_store(&k->uses_max, MR_OPTION(o->uses_max));
    atomic_store(&k->checks_returns, checks);
    atomic_store(&k->checks_takes, checks_takes);
    const uint32_t all =
        MR_RACK_ORDERED | MR_RACK_ASKS | MR_RACK_WEARS | MR_RACK_ABOVE | MR_RACK_FENCED;
    atomic_fetch_or(&k->gate, bits);
    atomic_fetch_and(&k->gate, ~(all & ~bits));
}

/* The memory of an earlier one, if there is: late guests may still look at its gate. */
static struct mr_rack *make(struct moor_runtime *r)
{
    mr_lock_lock(&r->lock);
    struct mr_rack *k = r->racks_free;
    if (k)
        r->racks_free = k->next_free;
    mr_lock_unlock(&r->lock);
    if (!k)
        return mr_heap_zalloc(&r->heap, sizeof *k);
    const size_t from = offsetof(struct mr_rack, id);
    memset((char *)k + from, 0, sizeof *k - from);
    return k;
}

moor_err mr_rack_create(struct moor_pool *p, struct mr_route *route, struct mr_rack **out_rack)
{
    struct mr_rack *k = make(p->runtime);
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
    k->id = atomic_fetch_add(&last_id, 1) + 1;
    k->hints = &p->runtime->hints->of[k->id % MR_HINT_WAYS];
    atomic_store(&k->stamp, mr_rack_stamp(k, atomic_load(&p->generation)));
    k->fork_page = p->runtime->fork_page;
    atomic_store(&k->gate, 0);
    mr_rack_read_options(k);
    atomic_store(&k->is_gone, false);
    *out_rack = k;
    return MOOR_OK;
}

void mr_rack_destroy(struct mr_rack *k)
{
    struct moor_runtime *r = k->pool->runtime;
    struct mr_heap *h = &r->heap;
    MR_ASSERT(k->waiting == 0 && atomic_load(&k->used) == 0);
    atomic_store(&k->is_gone, true);
    while (atomic_load(&k->guests)) /* each is on its way out */
        sched_yield();
    for (struct mr_rack_table *t = atomic_load(&k->table), *next; t; t = next) {
        next = t->smaller;
        mr_heap_free(h, t, table_bytes(t->size));
    }
    mr_keeper_destroy(k->keeper);
    if (k->route)
        mr_route_unref(r, k->route);
    mr_lock_lock(&r->lock);
    k->next_free = r->racks_free;
    r->racks_free = k;
    mr_lock_unlock(&r->lock);
}

void mr_racks_free(struct moor_runtime *r)
{
    for (struct mr_rack *k = r->racks_free, *next; k; k = next) {
        next = k->next_free;
        mr_heap_free(&r->heap, k, sizeof *k);
    }
    r->racks_free = NULL;
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
