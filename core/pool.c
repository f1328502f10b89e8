/*
 * A pool in the making: itself, its upstreams, and what it has on each shard.
 * Any thread, under the pool's lock where it says so; mr_pool_local on its shard. Ends nothing.
 */
#include "core/pool_internal.h"

#include "base/hash.h"
#include "base/span.h"

#include <string.h>

static struct mr_heap *heap_of(struct moor_pool *p)
{
    return &p->runtime->heap;
}

/* Texts of options are borrowed: this one is kept as one of ours. */
const char *mr_eviction_text(const char *given)
{
    return !strcmp(given, "fifo") ? "fifo" : !strcmp(given, "lru") ? "lru" : "lifo";
}

moor_err mr_pool_create(struct moor_runtime *r, const struct mr_pool_spec *spec,
                        struct moor_pool **out_pool)
{
    MR_ASSERT(spec->protocol->capacity_expected > 0);
    struct moor_pool *p = mr_heap_zalloc(&r->heap, sizeof *p);
    MR_FAIL_IF(!p, MOOR_ENOMEM);
    p->runtime = r;
    p->options = spec->options;
    p->name = mr_heap_copy_text(&r->heap, mr_span_cstr(spec->name));
    if (!p->name) {
        mr_heap_free(&r->heap, p, sizeof *p);
        return MOOR_ENOMEM;
    }
    p->options.name = p->name;
    p->options.eviction = mr_eviction_text(MR_OPTION(spec->options.eviction));
    p->protocol = spec->protocol;
    p->secure = spec->secure;
    p->choose = spec->choose;
    p->meets = spec->meets;
    p->capacity_hoped = spec->capacity_hoped;
    p->security = spec->security;
    p->wiring = spec->wiring;
    p->unwire = spec->unwire;
    p->sock_options = (struct mr_sock_options){
        .keepalive_idle_s = (int)spec->options.keepalive_idle_s,
        .keepalive_interval_s = (int)spec->options.keepalive_interval_s,
        .keepalive_count = (int)spec->options.keepalive_count,
        .user_timeout_ms = (uint32_t)spec->options.user_timeout_ms,
    };
    mr_lock_init(&p->lock);
    atomic_store(&p->shards_live, 1);
    mr_lock_lock(&r->lock);
    mr_list_push_back(&r->pools, &p->link);
    mr_lock_unlock(&r->lock);
    *out_pool = p;
    return MOOR_OK;
}

const char *moor_pool_name(const moor_pool *p)
{
    return p->name;
}

static bool is_same(const struct mr_upstream *u, const struct mr_place *at)
{
    if (u->is_secure != at->is_secure)
        return false;
    if (at->path)
        return u->path && !strcmp(u->path, at->path);
    return u->host && u->port == at->port && mr_span_is_equal(mr_span_cstr(u->host), at->host);
}

static _Atomic(struct mr_upstream *) *bucket_of(struct moor_pool *p, const struct mr_place *at)
{
    const moor_span key = at->path ? mr_span_cstr(at->path) : at->host;
    return &p->upstreams[mr_hash_bytes(key.base, key.len, at->port) % MR_ORIGIN_BUCKETS];
}

static struct mr_upstream *find_upstream(struct moor_pool *p, const struct mr_place *at)
{
    struct mr_upstream *u = atomic_load_explicit(bucket_of(p, at), memory_order_acquire);
    while (u && !is_same(u, at))
        u = u->next;
    return u;
}

void mr_upstream_free(struct moor_pool *p, struct mr_upstream *u)
{
    mr_heap_free_text(heap_of(p), u->host);
    mr_heap_free_text(heap_of(p), u->path);
    mr_heap_free(heap_of(p), u, sizeof *u);
}

static struct mr_upstream *make_upstream(struct moor_pool *p, const struct mr_place *at)
{
    struct mr_upstream *u = mr_heap_zalloc(heap_of(p), sizeof *u);
    if (!u)
        return NULL;
    u->pool = p;
    u->port = at->port;
    u->is_secure = at->is_secure;
    atomic_store(&u->capacity, at->is_secure && p->capacity_hoped ? p->capacity_hoped
                                                                  : p->protocol->capacity_expected);
    if (at->path)
        u->path = mr_heap_copy_text(heap_of(p), mr_span_cstr(at->path));
    else
        u->host = mr_heap_copy_text(heap_of(p), at->host);
    if (!u->path && !u->host) {
        mr_upstream_free(p, u);
        return NULL;
    }
    mr_gate_init(&u->gate,
                 &(struct mr_gate_limits){
                     .conns_max = MR_OPTION(p->options.conns_max),
                     .dials_max = MR_OPTION(p->options.dials_max),
                     .backoff_min_ns = MR_OPTION(p->options.backoff_min_ms) * MR_NS_PER_MS,
                     .backoff_max_ns = MR_OPTION(p->options.backoff_max_ms) * MR_NS_PER_MS,
                 });
    return u;
}

moor_err mr_pool_upstream(struct moor_pool *p, const struct mr_place *at,
                          struct mr_upstream **out_upstream)
{
    *out_upstream = find_upstream(p, at);
    if (*out_upstream)
        return MOOR_OK;
    struct mr_upstream *made = make_upstream(p, at);
    MR_FAIL_IF(!made, MOOR_ENOMEM);
    moor_err e = MOOR_OK;
    mr_lock_lock(&p->lock);
    struct mr_upstream *found = find_upstream(p, at);
    if (!found && p->upstream_count >= p->options.origins_max)
        e = MOOR_EBUSY;
    if (!found && !e) {
        _Atomic(struct mr_upstream *) *bucket = bucket_of(p, at);
        made->next = atomic_load_explicit(bucket, memory_order_relaxed);
        p->upstream_count++;
        atomic_store_explicit(bucket, made, memory_order_release);
    }
    mr_lock_unlock(&p->lock);
    if (found || e)
        mr_upstream_free(p, made);
    if (!e)
        *out_upstream = found ? found : made;
    return e;
}

bool mr_pool_is_home(struct mr_upstream *u, const struct moor_shard *s)
{
    uint32_t home = atomic_load_explicit(&u->home, memory_order_relaxed);
    if (!home && atomic_compare_exchange_strong(&u->home, &home, s->index + 1))
        return true;
    return home == s->index + 1;
}

struct mr_pool_shard *mr_pool_local(struct moor_pool *p, struct moor_shard *s)
{
    struct mr_pool_shard *local = atomic_load_explicit(&p->locals[s->index], memory_order_acquire);
    if (local)
        return local;
    local = mr_heap_zalloc(heap_of(p), sizeof *local);
    if (!local)
        return NULL;
    local->pool = p;
    local->shard = s;
    mr_list_init(&local->berths);
    mr_list_init(&local->ops);
    /* Made by a message that came while the thread is leaving: it must not begin anything either. */
    local->is_leaving =
        atomic_load_explicit(&s->shared.state, memory_order_relaxed) == MR_SHARD_STOPPING;
    local->drain.run = mr_pool_run_drain;
    local->deadline.fire = mr_pool_fire_deadline;
    local->report.run = mr_pool_run_report;
    for (int i = 0; i < MOOR_HISTOGRAM_COUNT_; i++)
        mr_histogram_reset(&local->histograms[i]);
    mr_lock_lock(&p->lock);
    const bool is_open = mr_pool_is_open(p);
    if (is_open) {
        atomic_fetch_add(&p->shards_live, 1);
        atomic_store_explicit(&p->locals[s->index], local, memory_order_release);
    }
    mr_lock_unlock(&p->lock);
    if (!is_open) {
        mr_heap_free(heap_of(p), local, sizeof *local);
        return NULL;
    }
    mr_list_push_back(&s->mine.locals, &local->link);
    return local;
}
