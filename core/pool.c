/*
 * A pool: its upstreams and gates, what it has on each shard, and how all of it ends.
 * Any thread under the pool's lock, or the shard a mr_pool_shard belongs to; each function says which.
 */
#include "core/pool.h"

#include "base/futex.h"
#include "base/hash.h"
#include "base/span.h"

#include <stdio.h>
#include <string.h>

static void report(struct moor_pool *p);
static void run_drain(struct mr_message *m);
static void run_report(struct mr_deferred *d);
static void fire_deadline(struct mr_timer *t, int64_t now_ns);

static struct mr_heap *heap_of(struct moor_pool *p)
{
    return &p->runtime->heap;
}

/* ---- making ---- */

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
    p->protocol = spec->protocol;
    p->secure = spec->secure;
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

static bool is_same(const struct mr_upstream *u, moor_span host, uint16_t port, const char *path)
{
    if (path)
        return u->path && !strcmp(u->path, path);
    return u->host && u->port == port && mr_span_is_equal(mr_span_cstr(u->host), host);
}

static _Atomic(struct mr_upstream *) *bucket_of(struct moor_pool *p, moor_span host, uint16_t port,
                                                const char *path)
{
    const moor_span key = path ? mr_span_cstr(path) : host;
    return &p->upstreams[mr_hash_bytes(key.base, key.len, port) % MR_ORIGIN_BUCKETS];
}

static struct mr_upstream *find_upstream(struct moor_pool *p, moor_span host, uint16_t port,
                                         const char *path)
{
    struct mr_upstream *u =
        atomic_load_explicit(bucket_of(p, host, port, path), memory_order_acquire);
    while (u && !is_same(u, host, port, path))
        u = u->next;
    return u;
}

static void free_upstream(struct moor_pool *p, struct mr_upstream *u)
{
    mr_heap_free_text(heap_of(p), u->host);
    mr_heap_free_text(heap_of(p), u->path);
    mr_heap_free(heap_of(p), u, sizeof *u);
}

static struct mr_upstream *make_upstream(struct moor_pool *p, moor_span host, uint16_t port,
                                         const char *path)
{
    struct mr_upstream *u = mr_heap_zalloc(heap_of(p), sizeof *u);
    if (!u)
        return NULL;
    u->pool = p;
    u->port = port;
    if (path)
        u->path = mr_heap_copy_text(heap_of(p), mr_span_cstr(path));
    else
        u->host = mr_heap_copy_text(heap_of(p), host);
    if (!u->path && !u->host) {
        free_upstream(p, u);
        return NULL;
    }
    mr_gate_init(&u->gate, &(struct mr_gate_limits){
                               .conns_max = p->options.conns_max,
                               .dials_max = p->options.dials_max,
                               .backoff_min_ns = p->options.backoff_min_ms * MR_NS_PER_MS,
                               .backoff_max_ns = p->options.backoff_max_ms * MR_NS_PER_MS,
                           });
    return u;
}

moor_err mr_pool_upstream(struct moor_pool *p, moor_span host, uint16_t port, const char *path,
                          struct mr_upstream **out_upstream)
{
    *out_upstream = find_upstream(p, host, port, path);
    if (*out_upstream)
        return MOOR_OK;
    struct mr_upstream *made = make_upstream(p, host, port, path);
    MR_FAIL_IF(!made, MOOR_ENOMEM);
    moor_err e = MOOR_OK;
    mr_lock_lock(&p->lock);
    struct mr_upstream *found = find_upstream(p, host, port, path);
    if (!found && p->upstream_count >= p->options.origins_max)
        e = MOOR_EBUSY;
    if (!found && !e) {
        _Atomic(struct mr_upstream *) *bucket = bucket_of(p, host, port, path);
        made->next = atomic_load_explicit(bucket, memory_order_relaxed);
        p->upstream_count++;
        atomic_store_explicit(bucket, made, memory_order_release);
    }
    mr_lock_unlock(&p->lock);
    if (found || e)
        free_upstream(p, made);
    if (!e)
        *out_upstream = found ? found : made;
    return e;
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
    local->is_leaving = atomic_load_explicit(&s->shared.state, memory_order_relaxed) ==
                        MR_SHARD_STOPPING;
    local->drain.run = run_drain;
    local->deadline.fire = fire_deadline;
    local->report.run = run_report;
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

/* ---- gates ---- */

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
    const uint32_t pool_max = u->pool->options.conns_max_pool;
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

/* A cap shared by upstreams or pools has room or wants some: whoever waits, or has an idle conn, may be of
 * any, on any shard. */
static void tell_sharers(struct mr_upstream *u, bool has_room)
{
    struct moor_runtime *r = u->pool->runtime;
    const uint32_t count = atomic_load_explicit(&r->shard_count, memory_order_acquire);
    for (uint32_t i = 0; mr_pool_shares_caps(u->pool) && i < count; i++) {
        struct moor_shard *s = atomic_load_explicit(&r->shards[i], memory_order_acquire);
        if (s)
            mr_shard_feed_all(s, has_room);
    }
}

void mr_pool_feed_shard(struct moor_shard *s, bool has_room)
{
    for (struct mr_list *l = s->mine.locals.next; l != &s->mine.locals; l = l->next) {
        struct mr_list *berths = &MR_CONTAINER_OF(l, struct mr_pool_shard, link)->berths;
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
    tell_sharers(u, true);
    return is_first && !is_ours;
}

void mr_pool_conn_left(struct mr_upstream *u)
{
    mr_lock_lock(&u->pool->lock);
    mr_gate_left(&u->gate);
    u->pool->conns--;
    mr_lock_unlock(&u->pool->lock);
    atomic_fetch_sub(&u->pool->runtime->conns, 1);
    tell_sharers(u, true);
}

void mr_pool_make_room(struct mr_upstream *u)
{
    struct moor_pool *p = u->pool;
    mr_lock_lock(&p->lock);
    const bool is_of_pool = p->options.conns_max_pool && p->conns >= p->options.conns_max_pool;
    mr_lock_unlock(&p->lock);
    /* Already wanted: every shard was told, and what becomes idle looks for itself. */
    if (!atomic_exchange(is_of_pool ? &p->wants_room : &p->runtime->wants_room, true))
        tell_sharers(u, false);
}

bool mr_pool_gives_way(struct mr_upstream *u)
{
    struct moor_pool *p = u->pool;
    return mr_pool_shares_caps(p) &&
           ((atomic_load(&p->wants_room) && atomic_exchange(&p->wants_room, false)) ||
            (atomic_load(&p->runtime->wants_room) &&
             atomic_exchange(&p->runtime->wants_room, false)));
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

bool mr_pool_is_home(struct mr_upstream *u, const struct moor_shard *s)
{
    uint32_t home = atomic_load_explicit(&u->home, memory_order_relaxed);
    if (!home && atomic_compare_exchange_strong(&u->home, &home, s->index + 1))
        return true;
    return home == s->index + 1;
}

void mr_pool_log_dial_failed(struct mr_upstream *u, const moor_fault *fault)
{
    mr_log(&u->pool->runtime->log, MOOR_LOG_WARN, "pool.dial_failed", "pool %s: connect to %s:%u: %s: %s%s%s",
           u->pool->name, u->host ? u->host : u->path, u->port, moor_err_name(fault->err),
           fault->what, fault->os_errno ? ": " : "",
           fault->os_errno ? strerrordesc_np(fault->os_errno) : "");
}

void mr_pool_why(struct mr_upstream *u, moor_why *out)
{
    struct moor_pool *p = u->pool;
    mr_lock_lock(&p->lock);
    const struct mr_gate g = u->gate;
    mr_lock_unlock(&p->lock);
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

/* ---- the end, on each shard ---- */

static bool is_done(const struct mr_pool_shard *local)
{
    return local->is_draining && local->live == 0 && !local->is_reported;
}

/* For a shard nobody drives; under gone_lock. */
static void report_gone(struct mr_pool_shard *local)
{
    local->is_reported = true;
    mr_list_remove(&local->link);
    report(local->pool);
}

void mr_pool_unhold(struct mr_pool_shard *local)
{
    MR_ASSERT(local->live > 0);
    local->live--;
    if (!is_done(local))
        return;
    if (mr_shard_is_gone(local->shard)) { /* a loan came home; gone_lock is held */
        report_gone(local);
    } else { /* later: whoever lets go may still be inside the berth */
        mr_loop_defer(&local->shard->mine.loop, &local->report);
    }
}

void mr_pool_op_begin(struct mr_pool_shard *local, struct mr_pool_op *op)
{
    mr_list_push_back(&local->ops, &op->link);
    mr_pool_hold(local);
}

void mr_pool_op_end(struct mr_pool_shard *local, struct mr_pool_op *op)
{
    mr_list_remove(&op->link);
    mr_pool_unhold(local);
}

static void finish(struct moor_pool *p)
{
    mr_pool_event(p, NULL, MOOR_EVENT_POOL_DRAINED, NULL);
    if (p->on_drained)
        p->on_drained(p->on_drained_user);
    atomic_store(&p->drained_word, 1);
    mr_futex_wake(&p->drained_word, UINT32_MAX);
}

static void run_finish(struct mr_message *m)
{
    finish(MR_CONTAINER_OF(m, struct moor_pool, finish));
}

/* The last one to report ends the pool, on a shard if the runtime has any. */
static void report(struct moor_pool *p)
{
    if (atomic_fetch_sub(&p->shards_live, 1) != 1)
        return;
    atomic_store_explicit(&p->state, MR_POOL_DRAINED, memory_order_release);
    /* on_drained runs later and on a shard, never inside a drain; nobody to tell needs no shard. */
    struct moor_shard *s = p->on_drained ? mr_runtime_pick(p->runtime) : NULL;
    p->finish.run = run_finish;
    if (!s || !mr_shard_post(s, &p->finish))
        finish(p);
}

static void run_report(struct mr_deferred *d)
{
    struct mr_pool_shard *local = MR_CONTAINER_OF(d, struct mr_pool_shard, report);
    if (!is_done(local))
        return;
    local->is_reported = true;
    mr_pool_quiet(local);
    mr_list_remove(&local->link);
    report(local->pool);
}

void mr_pool_quiet(struct mr_pool_shard *local)
{
    for (struct mr_list *l = local->berths.next; l != &local->berths; l = l->next)
        mr_berth_quiet(MR_CONTAINER_OF(l, struct mr_berth, link));
    mr_loop_untimer(&local->shard->mine.loop, &local->deadline);
    mr_loop_undefer(&local->report);
}

static void drain_local(struct mr_pool_shard *local)
{
    struct mr_loop *l = &local->shard->mine.loop;
    if (!local->is_draining) {
        local->is_draining = true;
        for (struct mr_list *b = local->berths.next; b != &local->berths; b = b->next)
            mr_berth_drain(MR_CONTAINER_OF(b, struct mr_berth, link));
    }
    mr_lock_lock(&local->pool->lock);
    const int64_t deadline = local->pool->drain_deadline_ns;
    mr_lock_unlock(&local->pool->lock);
    if (!local->is_reported)
        mr_loop_timer(l, &local->deadline, deadline);
    if (is_done(local))
        mr_loop_defer(l, &local->report);
}

bool mr_pool_hold_end(struct moor_pool *p)
{
    uint32_t n = atomic_load_explicit(&p->shards_live, memory_order_relaxed);
    while (n && !atomic_compare_exchange_weak(&p->shards_live, &n, n + 1))
        ;
    return n > 0;
}

void mr_pool_unhold_end(struct moor_pool *p)
{
    report(p);
}

static void run_drain(struct mr_message *m)
{
    struct mr_pool_shard *local = MR_CONTAINER_OF(m, struct mr_pool_shard, drain);
    struct moor_pool *p = local->pool;
    atomic_store(&local->is_drain_posted, false);
    drain_local(local);
    mr_pool_unhold_end(p);
}

/* Any thread. A shard nobody drives any more has no conns or operations; loans may be out. */
static void post_drain(struct mr_pool_shard *local)
{
    struct moor_pool *p = local->pool;
    if (!mr_pool_hold_end(p))
        return;
    if (atomic_exchange(&local->is_drain_posted, true)) {
        mr_pool_unhold_end(p);
        return;
    }
    do {
        if (mr_shard_post(local->shard, &local->drain))
            return;
    } while (!mr_shard_lock_gone(local->shard));
    atomic_store(&local->is_drain_posted, false);
    const bool is_last = !local->is_draining;
    local->is_draining = true;
    if (is_last && is_done(local))
        report_gone(local);
    mr_lock_unlock(&p->runtime->gone_lock);
    mr_pool_unhold_end(p);
}

static void abort_local(struct mr_pool_shard *local)
{
    struct mr_list aside;
    mr_list_take_all(&aside, &local->ops);
    for (struct mr_list *l; (l = mr_list_pop_front(&aside));) {
        struct mr_pool_op *op = MR_CONTAINER_OF(l, struct mr_pool_op, link);
        mr_list_push_back(&local->ops, l);
        op->abort(op);
    }
    for (struct mr_list *b = local->berths.next; b != &local->berths; b = b->next)
        mr_berth_abort(MR_CONTAINER_OF(b, struct mr_berth, link));
}

static void fire_deadline(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    abort_local(MR_CONTAINER_OF(t, struct mr_pool_shard, deadline));
}

void mr_pool_leave(struct mr_pool_shard *local)
{
    local->is_leaving = true;
    for (struct mr_list *l = local->berths.next; l != &local->berths; l = l->next) {
        struct mr_berth *b = MR_CONTAINER_OF(l, struct mr_berth, link);
        uint32_t home = local->shard->index + 1; /* another shard may keep min idle from now on */
        atomic_compare_exchange_strong(&b->upstream->home, &home, 0);
        mr_berth_drain(b);
    }
    abort_local(local);
}

bool mr_pool_is_quiet(struct mr_pool_shard *local)
{
    return local->live == atomic_load_explicit(&local->stats.chunks_lent, memory_order_relaxed) &&
           !is_done(local); /* else its report is due */
}

/* ---- the end, from any thread ---- */

void moor_pool_drain(moor_pool *p, moor_ms timeout_ms, void (*on_drained)(void *user), void *user)
{
    if (!p || mr_runtime_is_forked(p->runtime))
        return;
    const int64_t deadline = mr_deadline(mr_clock_now(p->runtime->clock), timeout_ms);
    mr_lock_lock(&p->lock);
    const bool is_first = mr_pool_is_open(p);
    if (is_first) {
        p->on_drained = on_drained;
        p->on_drained_user = user;
        atomic_store_explicit(&p->state, MR_POOL_DRAINING, memory_order_release);
    }
    if (is_first || deadline < p->drain_deadline_ns)
        p->drain_deadline_ns = deadline;
    mr_lock_unlock(&p->lock);
    if (is_first)
        mr_pool_event(p, NULL, MOOR_EVENT_POOL_DRAINING, NULL);
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_pool_shard *local = atomic_load_explicit(&p->locals[i], memory_order_acquire);
        if (local)
            post_drain(local);
    }
    if (is_first)
        report(p);
}

moor_err mr_pool_wait_drained(struct moor_pool *p, int64_t deadline_ns)
{
    while (!atomic_load(&p->drained_word)) {
        const moor_err e = mr_futex_wait(&p->drained_word, 0, deadline_ns);
        if (e == MOOR_ETIMEDOUT && !atomic_load(&p->drained_word))
            return MOOR_EBUSY;
    }
    return MOOR_OK;
}

static void end_upstream(struct moor_pool *p, struct mr_upstream *u)
{
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_berth *b = atomic_load(&u->berths[i]);
        if (b)
            mr_berth_destroy(b);
    }
    free_upstream(p, u);
}

void mr_pool_free(struct moor_pool *p)
{
    struct moor_runtime *r = p->runtime;
    MR_ASSERT(atomic_load(&p->drained_word));
    mr_lock_lock(&r->lock);
    mr_list_remove(&p->link);
    mr_lock_unlock(&r->lock);
    for (uint32_t i = 0; i < MR_ORIGIN_BUCKETS; i++)
        for (struct mr_upstream *u = atomic_load(&p->upstreams[i]), *next; u; u = next) {
            next = u->next;
            end_upstream(p, u);
        }
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct mr_pool_shard *local = atomic_load(&p->locals[i]);
        if (local)
            mr_heap_free(&r->heap, local, sizeof *local);
    }
    if (p->unwire)
        p->unwire(p);
    mr_heap_free_text(&r->heap, p->name);
    mr_lock_fini(&p->lock);
    mr_heap_free(&r->heap, p, sizeof *p);
}

const char *moor_pool_name(const moor_pool *p)
{
    return p->name;
}

/* Everything that is cancelled at the deadline still has to hear of it. */
#define CLOSE_GRACE_NS MR_NS_PER_SEC

moor_err moor_pool_close(moor_pool *p, moor_ms timeout_ms)
{
    if (!p)
        return MOOR_OK;
    struct moor_runtime *r = p->runtime;
    MR_FAIL_IF(mr_runtime_is_forked(r), MOOR_EFORKED);
    struct moor_shard *s = moor_shard_self();
    MR_FAIL_IF(s && (s->mine.is_turning || !s->is_adopted), MOOR_EWRONGTHREAD);
    const int64_t deadline = mr_deadline(mr_clock_now(r->clock), timeout_ms);
    const int64_t last = deadline == MR_NEVER ? MR_NEVER : deadline + CLOSE_GRACE_NS;
    moor_pool_drain(p, timeout_ms, NULL, NULL);
    if (!s) {
        MR_TRY(mr_pool_wait_drained(p, last));
    } else {
        while (!atomic_load(&p->drained_word)) {
            MR_FAIL_IF(mr_clock_now(r->clock) >= last, MOOR_EBUSY);
            MR_TRY(moor_shard_wait(s, 10));
        }
    }
    mr_pool_free(p);
    return MOOR_OK;
}
