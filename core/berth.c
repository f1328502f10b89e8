/*
 * An upstream's part on one shard: who gets which conn, and when one is closed.
 * Owner thread: the shard. Never calls failed() from inside mr_berth_acquire.
 */
#include "core/berth.h"

#include "core/attempt.h"
#include "core/move.h"
#include "core/pool.h"

#include <string.h>

/* Expired conns among the idle are looked for at most this often: the scan is O(idle). */
#define SWEEP_GAP_NS (100 * MR_NS_PER_MS)

static void run_feed(struct mr_deferred *d);
static void note_wasted(struct mr_berth *b);
static void run_kick(struct mr_message *m);
static void fire_sweep(struct mr_timer *t, int64_t now_ns);
static void fire_retry(struct mr_timer *t, int64_t now_ns);
static void fire_deadline(struct mr_timer *t, int64_t now_ns);

static struct mr_loop *loop_of(struct mr_berth *b)
{
    return &b->shard->mine.loop;
}

static const moor_pool_options *options_of(struct mr_berth *b)
{
    return &b->upstream->pool->options;
}

struct mr_berth *mr_berth_of(struct mr_upstream *u, struct moor_shard *s)
{
    struct mr_berth *b = atomic_load_explicit(&u->berths[s->index], memory_order_acquire);
    if (b)
        return b;
    struct mr_pool_shard *local = mr_pool_local(u->pool, s);
    b = local ? mr_heap_zalloc(&s->runtime->heap, sizeof *b) : NULL;
    if (!b)
        return NULL;
    b->upstream = u;
    b->shard = s;
    b->local = local;
    mr_list_init(&b->idle);
    mr_list_init(&b->shared);
    mr_list_init(&b->busy);
    mr_list_init(&b->waiters);
    mr_list_init(&b->fresh);
    mr_list_init(&b->moves);
    b->expires_min_ns = MR_NEVER;
    b->sweep.fire = fire_sweep;
    b->retry.fire = fire_retry;
    b->feed.run = run_feed;
    b->kick.run = run_kick;
    atomic_store(&b->waiting_since, MR_NEVER);
    mr_list_push_back(&local->berths, &b->link);
    atomic_store_explicit(&u->berths[s->index], b, memory_order_release);
    mr_berth_feed_later(b); /* the first use of the upstream here: min idle */
    return b;
}

void mr_berth_destroy(struct mr_berth *b)
{
    MR_ASSERT(mr_list_is_empty(&b->idle) && mr_list_is_empty(&b->shared));
    MR_ASSERT(mr_list_is_empty(&b->busy) && b->waiter_count == 0);
    MR_ASSERT(mr_list_is_empty(&b->moves));
    mr_heap_free(&b->shard->runtime->heap, b, sizeof *b);
}

void mr_berth_quiet(struct mr_berth *b)
{
    mr_loop_untimer(loop_of(b), &b->sweep);
    mr_loop_untimer(loop_of(b), &b->retry);
    mr_loop_undefer(&b->feed);
}

/* ---- what other shards may see ---- */

static void publish_idle(struct mr_berth *b)
{
    /* The first idle conn is announced with a full barrier: either a shard that begins to wait sees it,
     * or release() below sees that shard waiting. Further ones change nothing it could miss. */
    if (b->idle_count == 1)
        atomic_exchange(&b->idle_seen, 1);
    else
        atomic_store_explicit(&b->idle_seen, b->idle_count, memory_order_relaxed);
}

static void publish_waiting(struct mr_berth *b)
{
    /* Not those who want a new conn: what others could give is not for them. */
    struct mr_list *first = mr_list_first(&b->waiters);
    atomic_store_explicit(&b->waiters_seen, b->waiter_count, memory_order_relaxed);
    const int64_t since =
        first ? MR_CONTAINER_OF(first, struct mr_claim, link)->since_ns : MR_NEVER;
    if (since != MR_NEVER)
        atomic_exchange(&b->waiting_since, since);
    else
        atomic_store_explicit(&b->waiting_since, since, memory_order_relaxed);
}

/* ---- lists ---- */

static void sweep_by(struct mr_berth *b, int64_t at_ns)
{
    if (!mr_timer_is_armed(&b->sweep) || at_ns < b->sweep.at_ns)
        mr_loop_timer(loop_of(b), &b->sweep, at_ns);
}

static void list_idle(struct mr_berth *b, struct mr_conn *c)
{
    mr_list_remove(&c->link);
    mr_list_push_front(&b->idle, &c->link);
    c->idle_since_ns = mr_shard_now(b->shard);
    c->is_listed_idle = true;
    b->idle_count++;
    MR_STAT_ADD(b->local, conns_idle, 1);
    atomic_fetch_add_explicit(&b->upstream->idle_total, 1, memory_order_relaxed);
    publish_idle(b);
    if (c->expires_ns < b->expires_min_ns) {
        b->expires_min_ns = c->expires_ns;
        sweep_by(b, c->expires_ns);
    }
    sweep_by(b, mr_deadline(c->idle_since_ns, options_of(b)->idle_timeout_ms));
}

static void unlist_idle(struct mr_berth *b, struct mr_conn *c)
{
    c->is_listed_idle = false;
    b->idle_count--;
    MR_STAT_ADD(b->local, conns_idle, -1);
    atomic_fetch_sub_explicit(&b->upstream->idle_total, 1, memory_order_relaxed);
    atomic_store_explicit(&b->idle_seen, b->idle_count, memory_order_relaxed);
}

struct mr_conn *mr_berth_take_idle(struct mr_berth *b, bool oldest)
{
    struct mr_list *l = oldest ? mr_list_last(&b->idle) : mr_list_first(&b->idle);
    if (!l)
        return NULL;
    struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
    mr_list_remove(l);
    mr_list_push_front(&b->busy, l);
    unlist_idle(b, c);
    return c;
}

static bool is_worn(struct mr_berth *b, const struct mr_conn *c)
{
    const uint32_t uses_max = options_of(b)->uses_max;
    return mr_shard_now(b->shard) >= c->expires_ns || (uses_max && c->uses >= uses_max);
}

/* Where claims look for it, or do not: by what it carries and whether it goes on. */
static bool has_room(const struct mr_conn *c)
{
    return mr_conn_state(c) == MR_CONN_LEASED && !c->has_ended && c->used < c->capacity;
}

static void relist(struct mr_berth *b, struct mr_conn *c)
{
    mr_list_remove(&c->link);
    mr_list_push_front(has_room(c) ? &b->shared : &b->busy, &c->link);
}

void mr_berth_withdraw(struct mr_conn *c)
{
    relist(c->berth, c);
}

/* Of conns with room for one claim more. */
static struct mr_conn *less_loaded_of_two(struct mr_berth *b)
{
    struct mr_list *one = mr_list_first(&b->shared);
    if (!one)
        return NULL;
    struct mr_conn *c = MR_CONTAINER_OF(one, struct mr_conn, link);
    struct mr_conn *d = MR_CONTAINER_OF(mr_list_last(&b->shared), struct mr_conn, link);
    return d->used < c->used ? d : c;
}

/* The newest idle one, else one that is shared. */
static struct mr_conn *pick(struct mr_berth *b)
{
    struct mr_conn *c;
    while ((c = mr_berth_take_idle(b, false))) {
        if (!is_worn(b, c))
            return c;
        mr_conn_close(c, "reached its maximum lifetime or uses");
    }
    while ((c = less_loaded_of_two(b))) {
        if (!is_worn(b, c))
            return c;
        mr_conn_drain(c, "reached its maximum lifetime or uses"); /* off the list */
    }
    return NULL;
}

/* ---- claims ---- */

static void grant(struct mr_berth *b, struct mr_conn *c, struct mr_claim *claim)
{
    const bool is_reused = c->uses > 0;
    const int64_t waited = mr_shard_now(b->shard) - claim->asked_ns;
    c->uses++;
    c->used++;
    if (mr_conn_state(c) == MR_CONN_IDLE) {
        mr_conn_move_to(c, MR_CONN_LEASED);
        MR_STAT_ADD(b->local, conns_leased, 1);
    }
    relist(b, c);
    MR_STAT_ADD(b->local, acquires, 1);
    if (is_reused)
        MR_STAT_ADD(b->local, acquires_reused, 1);
    mr_histogram_record(&b->local->histograms[MOOR_HISTOGRAM_ACQUIRE], waited);
    claim->granted(claim, c, is_reused);
}

moor_err mr_berth_acquire(struct mr_berth *b, struct mr_claim *claim)
{
    MR_ASSERT_ON(b->shard);
    MR_FAIL_IF(!mr_pool_takes_work(b->local), MOOR_ECLOSED);
    claim->asked_ns = mr_shard_now(b->shard);
    if (!claim->wants_fresh)
        claim->since_ns = claim->asked_ns;
    claim->reason = MOOR_WAIT_NONE;
    if (b->waiter_count == 0 && !claim->wants_fresh) {
        struct mr_conn *c = pick(b);
        if (c) {
            grant(b, c, claim);
            return MOOR_OK;
        }
    }
    if (atomic_fetch_add(&b->upstream->waiters, 1) >= options_of(b)->waiters_max) {
        atomic_fetch_sub(&b->upstream->waiters, 1);
        return MOOR_EBUSY;
    }
    claim->berth = b;
    claim->timer.fire = fire_deadline;
    claim->reason = MOOR_WAIT_CONNECTING;
    atomic_fetch_add(&b->shard->runtime->waiters, 1);
    mr_list_push_back(claim->wants_fresh ? &b->fresh : &b->waiters, &claim->link);
    b->waiter_count++;
    MR_STAT_ADD(b->local, waiters, 1);
    publish_waiting(b);
    mr_loop_timer(loop_of(b), &claim->timer, claim->deadline_ns);
    mr_berth_feed_later(b);
    return MOOR_OK;
}

static void unwait(struct mr_berth *b, struct mr_claim *claim)
{
    mr_list_remove(&claim->link);
    mr_loop_untimer(loop_of(b), &claim->timer);
    claim->berth = NULL;
    b->waiter_count--;
    atomic_fetch_sub(&b->upstream->waiters, 1);
    atomic_fetch_sub(&b->shard->runtime->waiters, 1);
    MR_STAT_ADD(b->local, waiters, -1);
}

void mr_berth_cancel(struct mr_claim *claim)
{
    struct mr_berth *b = claim->berth;
    if (!b)
        return;
    unwait(b, claim);
    publish_waiting(b);
}

static void fail_claim(struct mr_berth *b, struct mr_claim *claim, const moor_fault *fault)
{
    moor_why why;
    mr_berth_why(b, claim->reason, claim->asked_ns, &why);
    MR_STAT_ADD(b->local, acquires_failed, 1);
    claim->failed(claim, fault, &why);
}

static void fire_deadline(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct mr_claim *claim = MR_CONTAINER_OF(t, struct mr_claim, timer);
    struct mr_berth *b = claim->berth;
    unwait(b, claim);
    publish_waiting(b);
    fail_claim(b, claim,
               &(moor_fault){.err = MOOR_ETIMEDOUT, .safe_to_retry = true,
                             .what = "wait for a connection"});
}

/* No dial can be begun for those who want a new conn: a used one is better than none. They go first,
 * they have waited before. */
static void accept_any(struct mr_berth *b)
{
    if (mr_list_is_empty(&b->fresh))
        return;
    for (struct mr_list *l; (l = mr_list_last(&b->fresh));) {
        mr_list_remove(l);
        mr_list_push_front(&b->waiters, l);
    }
    publish_waiting(b);
}

static void fail_waiters(struct mr_berth *b, const moor_fault *fault)
{
    accept_any(b);
    /* Moved aside: a failed() that acquires again must not be failed by the same fault. */
    struct mr_list aside;
    mr_list_take_all(&aside, &b->waiters);
    struct mr_list *l;
    for (l = aside.next; l != &aside; l = l->next)
        mr_loop_untimer(loop_of(b), &MR_CONTAINER_OF(l, struct mr_claim, link)->timer);
    while ((l = mr_list_first(&aside))) {
        struct mr_claim *claim = MR_CONTAINER_OF(l, struct mr_claim, link);
        unwait(b, claim);
        fail_claim(b, claim, fault);
    }
    publish_waiting(b);
}

/* The newest idle conn is new: it is for those who want one. */
static void serve_fresh(struct mr_berth *b)
{
    struct mr_list *l = mr_list_first(&b->fresh);
    struct mr_conn *c = l ? mr_berth_take_idle(b, false) : NULL;
    if (!c)
        return;
    do {
        struct mr_claim *claim = MR_CONTAINER_OF(l, struct mr_claim, link);
        unwait(b, claim);
        grant(b, c, claim);
    } while (has_room(c) && (l = mr_list_first(&b->fresh)));
    publish_waiting(b);
}

static void serve(struct mr_berth *b)
{
    struct mr_list *l;
    const uint32_t before = b->waiter_count;
    while ((l = mr_list_first(&b->waiters))) {
        struct mr_conn *c = pick(b);
        if (!c)
            break;
        struct mr_claim *claim = MR_CONTAINER_OF(l, struct mr_claim, link);
        unwait(b, claim);
        grant(b, c, claim);
    }
    if (b->waiter_count != before)
        publish_waiting(b);
}

/* ---- conns come, change and go ---- */

/* Bytes under way belong to the claim that ends; on a multiplexed conn they may be the protocol's. */
static bool may_idle(const struct mr_conn *c)
{
    return c->protocol->is_multiplexed ? !c->has_ended && !c->is_finishing : mr_conn_is_clean(c);
}

void mr_berth_release(struct mr_conn *c, bool is_reusable)
{
    struct mr_berth *b = c->berth;
    MR_ASSERT_ON(b->shard);
    MR_ASSERT(c->used > 0);
    c->used--;
    if (is_reusable && atomic_load_explicit(&b->upstream->wasted, memory_order_relaxed))
        atomic_store(&b->upstream->wasted, 0);
    if (mr_conn_state(c) >= MR_CONN_CLOSING)
        return;
    const bool is_open = mr_pool_takes_work(b->local);
    if (!is_reusable && c->used > 0) {
        mr_conn_drain(c, "not reusable"); /* others still use it */
    } else if (!is_reusable) {
        mr_conn_close(c, "not reusable");
    } else if (c->used > 0) {
        mr_berth_ready(c);
    } else if (mr_conn_state(c) == MR_CONN_DRAINING || !is_open || !c->capacity) {
        mr_conn_close(c, "drained");
    } else if (!may_idle(c)) {
        mr_conn_close(c, "bytes or an end beyond the response");
    } else if (is_worn(b, c)) {
        mr_conn_close(c, "reached its maximum lifetime or uses");
    } else {
        mr_conn_move_to(c, MR_CONN_IDLE);
        MR_STAT_ADD(b->local, conns_leased, -1);
        mr_berth_ready(c);
    }
}

void mr_berth_ready(struct mr_conn *c)
{
    struct mr_berth *b = c->berth;
    if (!c->is_ready) {
        c->is_ready = true;
        c->is_settled = true;
        mr_attempt_succeeded(c);
    }
    if (!mr_pool_takes_work(b->local) && c->used == 0) {
        mr_conn_close(c, "pool is draining");
        return;
    }
    if (mr_conn_state(c) == MR_CONN_IDLE) {
        list_idle(b, c);
        if (c->uses == 0)
            serve_fresh(b);
        if (mr_conn_state(c) == MR_CONN_IDLE && mr_move_donate(b, c))
            return;
    } else if (mr_conn_state(c) == MR_CONN_LEASED) {
        relist(b, c);
    }
    if (b->waiter_count)
        serve(b);
    else
        mr_berth_give_way(b);
    mr_berth_check(b);
}

void mr_berth_lost(struct mr_conn *c, const moor_fault *fault)
{
    c->is_settled = true;
    mr_attempt_lost(c, fault);
}

void mr_berth_closing(struct mr_conn *c, enum mr_conn_state was)
{
    struct mr_berth *b = c->berth;
    if (c->is_listed_idle)
        unlist_idle(b, c);
    if (c->is_retired) {
        MR_STAT_ADD(b->local, conns_retired, 1);
        if (!c->uses)
            note_wasted(b);
    }
    if (!c->is_settled)
        mr_berth_lost(c, &(moor_fault){.err = MOOR_ECANCELED, .what = "the dial was abandoned"});
    if (was == MR_CONN_LEASED || was == MR_CONN_DRAINING)
        MR_STAT_ADD(b->local, conns_leased, -1);
    if (was == MR_CONN_MOVING)
        mr_move_failed(c);
    mr_list_remove(&c->link);
    mr_list_push_back(&b->busy, &c->link);
}

/* Idle conns are kept at the minimum by one shard, wherever they are. */
static void kick_home(struct mr_berth *b)
{
    const uint32_t home = atomic_load_explicit(&b->upstream->home, memory_order_relaxed);
    if (!options_of(b)->conns_min_idle || !home || home - 1 == b->shard->index)
        return;
    struct mr_berth *o =
        atomic_load_explicit(&b->upstream->berths[home - 1], memory_order_acquire);
    if (o)
        mr_berth_kick(o);
}

void mr_berth_closed(struct mr_conn *c)
{
    struct mr_berth *b = c->berth;
    if (c->is_ready) {
        MR_STAT_ADD(b->local, conns_open, -1);
        MR_STAT_ADD(b->local, conns_closed, 1);
        mr_pool_conn_left(b->upstream);
        mr_pool_event(b->upstream->pool, b->upstream, MOOR_EVENT_CONN_CLOSED,
                      &(moor_fault){.what = c->close_why});
    }
    mr_conn_destroy(c);
    mr_berth_kick_waiting(b->upstream);
    kick_home(b);
    mr_berth_feed_later(b);
    mr_pool_unhold(b->local);
}

/* ---- getting conns for waiters ---- */

void mr_berth_feed_later(struct mr_berth *b)
{
    mr_loop_defer(loop_of(b), &b->feed);
}

static moor_wait_reason reason_of(int verdict, moor_err last)
{
    if (verdict == MR_GATE_BACKOFF && last == MOOR_ENOFILES)
        return MOOR_WAIT_FILES;
    switch (verdict) {
    case MR_GATE_AT_CAP:
    case MR_GATE_SHARED_CAP:
        return MOOR_WAIT_AT_CAP;
    case MR_GATE_DIALS:
        return MOOR_WAIT_DIALS;
    case MR_GATE_BACKOFF:
        return MOOR_WAIT_BACKOFF;
    default:
        return MOOR_WAIT_CONNECTING;
    }
}

static void note_reason(struct mr_berth *b, moor_wait_reason reason)
{
    /* The first few are enough to explain; a long queue must not cost a walk each time. */
    unsigned n = 0;
    for (struct mr_list *l = b->waiters.next; l != &b->waiters && n < 64; l = l->next, n++)
        MR_CONTAINER_OF(l, struct mr_claim, link)->reason = reason;
}

/* Dials or waits, until what is coming would serve everyone who waits. */
static void feed_waiters(struct mr_berth *b)
{
    const uint32_t each = b->upstream->pool->protocol->capacity_expected;
    const bool is_alone = atomic_load_explicit(&b->shard->runtime->shard_count,
                                               memory_order_relaxed) == 1;
    int verdict = MR_GATE_GO;
    for (;;) {
        const uint64_t coming = (uint64_t)b->dialing * each + (uint64_t)b->asking * each +
                                atomic_load_explicit(&b->donated, memory_order_relaxed);
        if (coming >= b->waiter_count)
            return;
        if (!is_alone && !mr_list_is_empty(&b->waiters) && mr_move_ask(b, false))
            continue; /* not for those who want a new conn: idle ones would come and be left */
        verdict = mr_attempt_begin(b);
        if (verdict == MR_GATE_GO)
            continue;
        if (!is_alone && mr_move_ask(b, true)) /* rather the last one of another shard than none */
            continue;
        break;
    }
    moor_fault last;
    int64_t retry_at;
    const bool is_down = mr_pool_is_upstream_down(b->upstream, &last, &retry_at);
    accept_any(b);
    serve(b);
    note_reason(b, reason_of(verdict, last.err));
    if (verdict == MR_GATE_SHARED_CAP && b->waiter_count)
        mr_pool_make_room(b->upstream);
    if (verdict != MR_GATE_BACKOFF || !b->waiter_count)
        return;
    if (is_down && last.err) {
        last.safe_to_retry = true;
        fail_waiters(b, &last);
    } else {
        mr_berth_retry_by(b, retry_at);
    }
}

/* The peer ended a conn before its first use. Dialling the next at once, for nobody, would go on for as
 * long as the peer does that: a pause first, doubled each time, then one dial at a time. */
static void note_wasted(struct mr_berth *b)
{
    struct mr_upstream *u = b->upstream;
    const moor_pool_options *o = options_of(b);
    const uint32_t before = atomic_fetch_add(&u->wasted, 1);
    int64_t pause = o->backoff_min_ms * MR_NS_PER_MS;
    for (uint32_t i = 0; i < before && pause < o->backoff_max_ms * MR_NS_PER_MS; i++)
        pause *= 2;
    atomic_store(&u->calm_until_ns, mr_shard_now(b->shard) + pause / 2 +
                                        (int64_t)(mr_loop_random(loop_of(b)) % (uint64_t)pause) / 2);
}

static bool may_top_up(struct mr_berth *b)
{
    if (!atomic_load_explicit(&b->upstream->wasted, memory_order_relaxed))
        return true;
    const int64_t until = atomic_load(&b->upstream->calm_until_ns);
    if (mr_shard_now(b->shard) >= until)
        return b->dialing == 0;
    mr_berth_retry_by(b, until);
    return false;
}

/* Keeps min idle conns over all shards: dials that no waiter asked for. */
static void top_up(struct mr_berth *b)
{
    struct mr_upstream *u = b->upstream;
    const uint32_t min = options_of(b)->conns_min_idle;
    /* A place under a shared cap is theirs who wait: they may have closed an idle conn of ours for it. */
    if (mr_pool_shares_caps(u->pool) && atomic_load(&u->pool->runtime->waiters))
        return;
    while (atomic_load_explicit(&u->idle_total, memory_order_relaxed) + b->dialing <
               min + b->waiter_count &&
           may_top_up(b)) {
        const int verdict = mr_attempt_begin(b);
        if (verdict == MR_GATE_GO)
            continue;
        moor_fault last;
        int64_t retry_at;
        if (verdict == MR_GATE_BACKOFF) {
            mr_pool_is_upstream_down(u, &last, &retry_at);
            mr_berth_retry_by(b, retry_at);
        }
        return;
    }
}

void mr_berth_give_way(struct mr_berth *b)
{
    struct mr_conn *c =
        b->idle_count && mr_pool_gives_way(b->upstream) ? mr_berth_take_idle(b, true) : NULL;
    if (c)
        mr_conn_close(c, "another upstream needed its place under a shared cap");
}

static void run_feed(struct mr_deferred *d)
{
    struct mr_berth *b = MR_CONTAINER_OF(d, struct mr_berth, feed);
    if (!mr_pool_takes_work(b->local))
        return;
    mr_move_note_late(b);
    serve(b);
    if (b->waiter_count)
        feed_waiters(b);
    if (options_of(b)->conns_min_idle && mr_pool_is_home(b->upstream, b->shard))
        top_up(b);
}

void mr_berth_retry_by(struct mr_berth *b, int64_t at_ns)
{
    if (!mr_timer_is_armed(&b->retry) || at_ns < b->retry.at_ns)
        mr_loop_timer(loop_of(b), &b->retry, at_ns);
}

static void fire_retry(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    mr_berth_feed_later(MR_CONTAINER_OF(t, struct mr_berth, retry));
}

/* ---- across shards ---- */

static void run_kick(struct mr_message *m)
{
    struct mr_berth *b = MR_CONTAINER_OF(m, struct mr_berth, kick);
    struct moor_pool *p = b->upstream->pool;
    atomic_store(&b->is_kicked, false);
    if (mr_pool_takes_work(b->local))
        mr_berth_feed_later(b);
    mr_pool_unhold_end(p);
}

void mr_berth_kick(struct mr_berth *b)
{
    struct moor_pool *p = b->upstream->pool;
    if (atomic_load(&b->is_kicked) || !mr_pool_hold_end(p))
        return;
    if (!atomic_exchange(&b->is_kicked, true)) {
        if (mr_shard_post(b->shard, &b->kick))
            return;
        atomic_store(&b->is_kicked, false);
    }
    mr_pool_unhold_end(p);
}

void mr_berth_kick_waiting(struct mr_upstream *u)
{
    const uint32_t count = atomic_load_explicit(&u->pool->runtime->shard_count,
                                                memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        struct mr_berth *b = atomic_load_explicit(&u->berths[i], memory_order_acquire);
        if (b && atomic_load_explicit(&b->waiting_since, memory_order_relaxed) != MR_NEVER)
            mr_berth_kick(b);
    }
}

/* ---- time ---- */

/* Of conns in use: their time comes when they are idle. */
static void fire_sweep(struct mr_timer *t, int64_t now_ns)
{
    struct mr_berth *b = MR_CONTAINER_OF(t, struct mr_berth, sweep);
    const moor_pool_options *o = options_of(b);
    const uint32_t keep = o->conns_min_idle;
    int64_t next = MR_NEVER;
    struct mr_list *l;
    while (o->idle_timeout_ms >= 0 && (l = mr_list_last(&b->idle))) {
        struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        const int64_t due = mr_deadline(c->idle_since_ns, o->idle_timeout_ms);
        if (due > now_ns) {
            next = due;
            break;
        }
        if (atomic_load_explicit(&b->upstream->idle_total, memory_order_relaxed) <= keep) {
            next = mr_deadline(now_ns, o->idle_timeout_ms);
            break;
        }
        mr_conn_close(c, "idle for longer than idle_timeout_ms");
    }
    if (b->expires_min_ns <= now_ns) {
        b->expires_min_ns = MR_NEVER;
        for (l = b->idle.next; l != &b->idle;) {
            struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
            l = l->next;
            if (c->expires_ns <= now_ns)
                mr_conn_close(c, "reached its maximum lifetime");
            else if (c->expires_ns < b->expires_min_ns)
                b->expires_min_ns = c->expires_ns;
        }
    }
    if (b->expires_min_ns < next)
        next = b->expires_min_ns;
    if (next != MR_NEVER && next < now_ns + SWEEP_GAP_NS)
        next = now_ns + SWEEP_GAP_NS;
    mr_loop_timer(loop_of(b), &b->sweep, next);
}

/* ---- drain ---- */

void mr_berth_drain(struct mr_berth *b)
{
    const moor_fault closed = {
        .err = MOOR_ECLOSED, .safe_to_retry = true, .what = "the pool is draining"};
    const moor_fault left = {
        .err = MOOR_ECANCELED, .safe_to_retry = true, .what = "the shard was left"};
    fail_waiters(b, b->local->is_leaving ? &left : &closed);
    struct mr_list *l;
    while ((l = mr_list_first(&b->idle)))
        mr_conn_close(MR_CONTAINER_OF(l, struct mr_conn, link), "pool is draining");
    while ((l = mr_list_first(&b->shared)))
        mr_conn_drain(MR_CONTAINER_OF(l, struct mr_conn, link), "pool is draining");
    for (l = b->busy.next; l != &b->busy;) {
        struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        l = l->next;
        if (mr_conn_state(c) < MR_CONN_IDLE)
            mr_conn_close(c, "pool is draining"); /* to the end of this list, or later */
        else if (mr_conn_state(c) == MR_CONN_LEASED && c->protocol->is_multiplexed)
            mr_conn_drain(c, "pool is draining"); /* to its front */
    }
}

static void close_all(struct mr_berth *b, struct mr_list *conns)
{
    /* Moved aside and back one by one: ended() may release or close any other conn meanwhile. */
    struct mr_list aside;
    mr_list_take_all(&aside, conns);
    for (struct mr_list *l; (l = mr_list_pop_front(&aside));) {
        mr_list_push_back(&b->busy, l);
        mr_conn_fail(MR_CONTAINER_OF(l, struct mr_conn, link),
                     &(moor_fault){.err = MOOR_ECANCELED, .what = "the pool was closed"});
    }
}

void mr_berth_abort(struct mr_berth *b)
{
    close_all(b, &b->shared);
    close_all(b, &b->busy);
}

void mr_berth_why(struct mr_berth *b, moor_wait_reason reason, int64_t asked_ns, moor_why *out)
{
    *out = (moor_why){.size = sizeof *out,
                      .reason = reason,
                      .conns_max = options_of(b)->conns_max,
                      .waited = mr_shard_now(b->shard) - asked_ns,
                      .connect_what = ""};
    mr_pool_why(b->upstream, out);
}

#if defined(MR_DEBUG)
void mr_berth_check(struct mr_berth *b)
{
    uint32_t n = 0;
    for (struct mr_list *l = b->idle.next; l != &b->idle; l = l->next, n++) {
        const struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        MR_ASSERT(mr_conn_state(c) == MR_CONN_IDLE);
        MR_ASSERT(c->used == 0);
    }
    for (struct mr_list *l = b->shared.next; l != &b->shared; l = l->next) {
        const struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        MR_ASSERT(mr_conn_state(c) == MR_CONN_LEASED);
        MR_ASSERT(c->used > 0 && c->used < c->capacity);
    }
    MR_ASSERT(n == b->idle_count);
    MR_ASSERT(atomic_load(&b->idle_seen) == b->idle_count);
}
#endif
