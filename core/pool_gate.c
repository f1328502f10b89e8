/*
 * Gates of upstreams and the caps they share: who may dial, who hears of room, and why not.
 * Any thread, gates under the pool's lock; mr_pool_feed_shard on its shard. Must not touch a berth while
 * it holds the lock.
 */
#include "core/keeper.h"

#include <stdio.h>
#include <string.h>

/* By compare and swap: a refusal must not be seen, for a moment, as a place that is taken; who is refused for
 * it would not be woken. */
static bool take_place(struct moor_runtime *r)
{
    const uint32_t max = r->options.conns_max_runtime;
    uint32_t n = atomic_load(&r->conns);
    do {
        if (max && n >= max)
            return false;
    } while (!atomic_compare_exchange_weak(&r->conns, &n, n + 1));
    return true;
}

enum mr_gate_verdict mr_pool_gate_enter(struct mr_upstream *u, int64_t now_ns)
{
    struct moor_runtime *r = u->pool->runtime;
    if (!take_place(r))
        return MR_GATE_SHARED_CAP;
    mr_lock_lock(&u->pool->lock);
    const uint32_t pool_max = MR_OPTION(u->pool->options.conns_max_pool);
    const bool is_full = pool_max && u->pool->conns >= pool_max;
    const enum mr_gate_verdict v = is_full ? MR_GATE_SHARED_CAP : mr_gate_enter(&u->gate, now_ns);
    if (v == MR_GATE_GO)
        u->pool->conns++;
    mr_lock_unlock(&u->pool->lock);
    if (v != MR_GATE_GO)
        atomic_fetch_sub(&r->conns, 1);
    return v;
}

bool mr_pool_gate_dialed(struct mr_upstream *u)
{
    mr_lock_lock(&u->pool->lock);
    const bool had_failed = u->gate.failures > 0;
    mr_gate_dialed(&u->gate);
    mr_lock_unlock(&u->pool->lock);
    return had_failed;
}

static void tell_everyone(struct moor_runtime *r, bool has_room)
{
    const uint32_t count = atomic_load_explicit(&r->shard_count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        struct moor_shard *s = atomic_load_explicit(&r->shards[i], memory_order_acquire);
        if (s)
            mr_shard_feed_all(s, has_room);
    }
}

/* A cap shared by upstreams or pools has room or wants some: whoever waits, or has an idle conn, may be of
 * any, on any shard. */
static void tell_sharers(struct mr_upstream *u, bool has_room)
{
    if (mr_pool_shares_caps(u->pool))
        tell_everyone(u->pool->runtime, has_room);
}

void mr_pool_feed_shard(struct moor_shard *s, bool has_room)
{
    for (struct mr_list *l = s->mine.keepers.next; l != &s->mine.keepers; l = l->next)
        mr_keeper_kick(MR_CONTAINER_OF(l, struct mr_keeper, here)->rack);
    for (struct mr_list *l = s->mine.locals.next; l != &s->mine.locals; l = l->next) {
        struct mr_pool_shard *local = MR_CONTAINER_OF(l, struct mr_pool_shard, link);
        struct mr_list *berths = &local->berths;
        for (struct mr_list *at = berths->next; at != berths; at = at->next) {
            struct mr_berth *b = MR_CONTAINER_OF(at, struct mr_berth, link);
            if (!b->waiter_count)
                mr_berth_give_way(b);
            if (has_room)
                mr_berth_feed_later(b);
        }
    }
}

bool mr_pool_gate_failed(struct mr_upstream *u, const moor_fault *fault, bool is_ours,
                         int64_t now_ns, uint64_t random)
{
    mr_lock_lock(&u->pool->lock);
    const bool is_first = u->gate.failures == 0;
    mr_gate_failed(&u->gate, fault, is_ours, now_ns, random);
    u->pool->conns--;
    mr_lock_unlock(&u->pool->lock);
    atomic_fetch_sub(&u->pool->runtime->conns, 1);
    /* Out of descriptors: an idle conn of any pool gives its own. */
    if (fault->err == MOOR_ENOFILES && !atomic_exchange(&u->pool->runtime->wants_room, true))
        tell_everyone(u->pool->runtime, true);
    else
        tell_sharers(u, true);
    return is_first && !is_ours;
}

uint32_t mr_pool_conn_count(struct mr_upstream *u)
{
    mr_lock_lock(&u->pool->lock);
    const uint32_t n = u->gate.conns;
    mr_lock_unlock(&u->pool->lock);
    return n;
}

void mr_pool_conn_left(struct mr_upstream *u)
{
    mr_lock_lock(&u->pool->lock);
    mr_gate_left(&u->gate);
    atomic_store(&u->is_above, u->gate.conns > u->gate.limits.conns_max);
    u->pool->conns--;
    mr_lock_unlock(&u->pool->lock);
    atomic_fetch_sub(&u->pool->runtime->conns, 1);
    tell_sharers(u, true);
}

void mr_pool_make_room(struct mr_upstream *u)
{
    struct moor_pool *p = u->pool;
    mr_lock_lock(&p->lock);
    const bool is_of_pool =
        MR_OPTION(p->options.conns_max_pool) && p->conns >= MR_OPTION(p->options.conns_max_pool);
    mr_lock_unlock(&p->lock);
    /* Already wanted: every shard was told, and what becomes idle looks for itself. */
    if (!atomic_exchange(is_of_pool ? &p->wants_room : &p->runtime->wants_room, true))
        tell_sharers(u, false);
}

bool mr_pool_wants_room(struct moor_pool *p)
{
    return atomic_load(&p->wants_room) || atomic_load(&p->runtime->wants_room);
}

bool mr_pool_gives_way(struct mr_upstream *u)
{
    struct moor_pool *p = u->pool;
    return (atomic_load(&p->wants_room) && atomic_exchange(&p->wants_room, false)) ||
           (atomic_load(&p->runtime->wants_room) &&
            atomic_exchange(&p->runtime->wants_room, false));
}

bool mr_pool_is_upstream_down(struct mr_upstream *u, moor_fault *out_last, int64_t *out_retry_at)
{
    mr_lock_lock(&u->pool->lock);
    const bool is_down = u->gate.conns == 0;
    *out_last = u->gate.last;
    *out_retry_at = u->gate.retry_at_ns;
    mr_lock_unlock(&u->pool->lock);
    return is_down;
}

void mr_pool_log_dial_failed(struct mr_upstream *u, const moor_fault *fault)
{
    mr_log(&u->pool->runtime->log, MOOR_LOG_WARN, "pool.dial_failed",
           "pool %s: connect to %s:%u: %s: %s%s%s", u->pool->name, mr_upstream_text(u), u->port,
           moor_err_name(fault->err), fault->what, fault->os_errno ? ": " : "",
           fault->os_errno ? strerrordesc_np(fault->os_errno) : "");
}

void mr_pool_note_failure(struct mr_upstream *u, const moor_fault *fault)
{
    mr_lock_lock(&u->pool->lock);
    u->gate.last = *fault;
    u->connect_text[0] = 0;
    mr_lock_unlock(&u->pool->lock);
}

void mr_pool_note_connect_text(struct mr_upstream *u, const char *text)
{
    mr_lock_lock(&u->pool->lock);
    snprintf(u->connect_text, sizeof u->connect_text, "%s", text);
    mr_lock_unlock(&u->pool->lock);
}

/* Dialling the next at once, for nobody, would go on for as long as the peer does that: a pause first, doubled
 * each time, then one dial at a time. */
void mr_pool_note_wasted(struct mr_upstream *u, int64_t now_ns, uint64_t random)
{
    const moor_pool_options *o = &u->pool->options;
    const uint32_t before = atomic_fetch_add(&u->wasted, 1);
    int64_t pause = MR_OPTION(o->backoff_min_ms) * MR_NS_PER_MS;
    for (uint32_t i = 0; i < before && pause < MR_OPTION(o->backoff_max_ms) * MR_NS_PER_MS; i++)
        pause *= 2;
    atomic_store(&u->calm_until_ns, now_ns + pause / 2 + (int64_t)(random % (uint64_t)pause) / 2);
}

void mr_pool_note_useless(struct mr_upstream *u, const char *what, int64_t now_ns, uint64_t random)
{
    mr_pool_note_wasted(u, now_ns, random);
    mr_lock_lock(&u->pool->lock);
    mr_gate_rest(&u->gate, atomic_load(&u->calm_until_ns), what);
    mr_lock_unlock(&u->pool->lock);
}

/* Two-sided, so that conns made together do not expire together. */
int64_t mr_pool_draw_expiry(const struct moor_pool *p, int64_t now_ns, uint64_t random)
{
    const moor_pool_options *o = &p->options;
    if (MR_OPTION(o->lifetime_max_ms) < 0)
        return MR_NEVER;
    const int64_t life = MR_OPTION(o->lifetime_max_ms) * MR_NS_PER_MS;
    const int64_t spread = life / 100 * MR_OPTION(o->lifetime_jitter_percent);
    const int64_t jitter = spread ? (int64_t)(random % (uint64_t)(2 * spread + 1)) - spread : 0;
    return now_ns + life + jitter;
}

void mr_pool_why(struct mr_upstream *u, moor_why *out)
{
    struct moor_pool *p = u->pool;
    mr_lock_lock(&p->lock);
    const struct mr_gate g = u->gate;
    memcpy(out->connect_text, u->connect_text, sizeof out->connect_text);
    mr_lock_unlock(&p->lock);
    out->held_site = "";
    out->conns_open = g.conns - g.dials;
    out->dials = g.dials;
    out->conns_idle = atomic_load_explicit(&u->idle_total, memory_order_relaxed);
    out->conns_leased = out->conns_open > out->conns_idle ? out->conns_open - out->conns_idle : 0;
    out->connect_err = g.last.err;
    out->connect_errno = g.last.os_errno;
    out->connect_what = g.last.what ? g.last.what : "";
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_berth *b = atomic_load_explicit(&u->berths[i], memory_order_acquire);
        if (b)
            out->waiters += atomic_load_explicit(&b->waiters_seen, memory_order_relaxed);
    }
}
