/*
 * An upstream's part on one shard: its conns, which of them is handed out, and when one is closed.
 * Owner thread: the shard. Must not fail a claim but through mr_berth_fail_waiters.
 */
#include "core/berth_internal.h"

#include "core/attempt.h"
#include "core/move.h"
#include "core/place.h"

/* Expired conns among the idle are looked for at most this often: the scan is O(idle). */
#define SWEEP_GAP_NS (100 * MR_NS_PER_MS)

#define FLUSHED "the pool was flushed"

static void fire_sweep(struct mr_timer *t, int64_t now_ns);

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
    b->retry.fire = mr_berth_fire_retry;
    b->feed.run = mr_berth_run_feed;
    b->kick.run = mr_berth_run_kick;
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
    mr_addrs_unref(b->instead.addrs);
    mr_heap_free(&b->shard->runtime->heap, b, sizeof *b);
}

void mr_berth_quiet(struct mr_berth *b)
{
    mr_loop_untimer(mr_berth_loop(b), &b->sweep);
    mr_loop_untimer(mr_berth_loop(b), &b->retry);
    mr_loop_undefer(&b->feed);
}

/* ---- lists ---- */

static void publish_idle(struct mr_berth *b)
{
    /* The first that may move is announced with a full barrier: either a shard that begins to wait sees it,
     * or release() below sees that shard waiting. Further ones change nothing it could miss. */
    if (b->movable_count == 1)
        atomic_exchange(&b->idle_seen, 1);
    else
        atomic_store_explicit(&b->idle_seen, b->movable_count, memory_order_relaxed);
}

static void sweep_by(struct mr_berth *b, int64_t at_ns)
{
    if (!mr_timer_is_armed(&b->sweep) || at_ns < b->sweep.at_ns)
        mr_loop_timer(mr_berth_loop(b), &b->sweep, at_ns);
}

static int64_t check_due(struct mr_berth *b, const struct mr_conn *c)
{
    const int64_t since = c->proven_ns > c->idle_since_ns ? c->proven_ns : c->idle_since_ns;
    return c->protocol->check ? mr_deadline(since, MR_OPTION(mr_berth_options(b)->check_every_ms))
                              : MR_NEVER;
}

static void list_idle(struct mr_berth *b, struct mr_conn *c)
{
    mr_list_remove(&c->link);
    if (c->is_checked) { /* nobody used it: as old as before, and where it was */
        c->is_checked = false;
        c->proven_ns = mr_shard_now(b->shard);
        struct mr_list *at = b->idle.prev;
        while (at != &b->idle &&
               MR_CONTAINER_OF(at, struct mr_conn, link)->idle_since_ns < c->idle_since_ns)
            at = at->prev;
        mr_list_insert_after(at, &c->link);
    } else {
        mr_list_push_front(&b->idle, &c->link);
        c->idle_since_ns = mr_shard_now(b->shard);
    }
    c->is_listed_idle = true;
    b->idle_count++;
    b->movable_count += !c->protocol->is_multiplexed;
    MR_STAT_ADD(b->local, conns_idle, 1);
    atomic_fetch_add_explicit(&b->upstream->idle_total, 1, memory_order_relaxed);
    publish_idle(b);
    if (c->expires_ns < b->expires_min_ns) {
        b->expires_min_ns = c->expires_ns;
        sweep_by(b, c->expires_ns);
    }
    sweep_by(b, mr_deadline(c->idle_since_ns, MR_OPTION(mr_berth_options(b)->idle_timeout_ms)));
    sweep_by(b, check_due(b, c));
}

static void unlist_idle(struct mr_berth *b, struct mr_conn *c)
{
    c->is_listed_idle = false;
    b->idle_count--;
    b->movable_count -= !c->protocol->is_multiplexed;
    MR_STAT_ADD(b->local, conns_idle, -1);
    atomic_fetch_sub_explicit(&b->upstream->idle_total, 1, memory_order_relaxed);
    atomic_store_explicit(&b->idle_seen, b->movable_count, memory_order_relaxed);
}

void mr_berth_unlist(struct mr_conn *c)
{
    mr_list_remove(&c->link);
    mr_list_push_front(&c->berth->busy, &c->link);
    unlist_idle(c->berth, c);
}

struct mr_conn *mr_berth_take_idle(struct mr_berth *b, bool oldest)
{
    struct mr_list *l = oldest ? mr_list_last(&b->idle) : mr_list_first(&b->idle);
    struct mr_conn *c = l ? MR_CONTAINER_OF(l, struct mr_conn, link) : NULL;
    if (c)
        mr_berth_unlist(c);
    return c;
}

static bool is_old(struct mr_berth *b, const struct mr_conn *c)
{
    return c->generation !=
           atomic_load_explicit(&b->upstream->pool->generation, memory_order_relaxed);
}

static bool is_worn(struct mr_berth *b, const struct mr_conn *c)
{
    const uint32_t uses_max = MR_OPTION(mr_berth_options(b)->uses_max);
    return mr_shard_now(b->shard) >= c->expires_ns || (uses_max && c->uses >= uses_max) ||
           is_old(b, c);
}

bool mr_berth_has_room(const struct mr_conn *c)
{
    return mr_conn_state(c) == MR_CONN_LEASED && !c->has_ended && c->used < c->capacity;
}

static const char *why_worn(struct mr_berth *b, const struct mr_conn *c)
{
    return is_old(b, c) ? FLUSHED : "reached its maximum lifetime or uses";
}

void mr_berth_relist(struct mr_berth *b, struct mr_conn *c)
{
    mr_list_remove(&c->link);
    mr_list_push_front(mr_berth_has_room(c) ? &b->shared : &b->busy, &c->link);
}

void mr_berth_withdraw(struct mr_conn *c)
{
    if (c->is_listed_idle)
        unlist_idle(c->berth, c);
    mr_berth_relist(c->berth, c);
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

static struct mr_conn *pick_shared(struct mr_berth *b)
{
    struct mr_conn *c;
    while ((c = less_loaded_of_two(b))) {
        if (!is_worn(b, c))
            return c;
        mr_conn_drain(c, why_worn(b, c)); /* off the list */
    }
    return NULL;
}

/* One that is in use already and carries more, so that others may lie idle and end; above the ideal an idle
 * one, and another is made. */
struct mr_conn *mr_berth_pick(struct mr_berth *b)
{
    const uint32_t ideal = MR_OPTION(mr_berth_options(b)->h2_streams_ideal);
    struct mr_conn *shared = pick_shared(b), *c;
    if (shared && (!ideal || shared->used < ideal))
        return shared;
    while ((c = mr_berth_take_idle(b, false))) {
        if (!is_worn(b, c))
            return c;
        mr_conn_close(c, why_worn(b, c));
    }
    if (shared && !b->dialing) {
        b->wants_more = true;
        mr_berth_feed_later(b);
    }
    return shared;
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
    } else if (mr_conn_state(c) == MR_CONN_DRAINING || !is_open) {
        mr_conn_close(c, "drained");
    } else if (!c->capacity) {
        mr_berth_useless(c);
    } else if (!may_idle(c)) {
        mr_conn_close(c, "bytes or an end beyond the response");
    } else if (is_worn(b, c)) {
        mr_conn_close(c, why_worn(b, c));
    } else if (atomic_load_explicit(&b->upstream->is_above, memory_order_relaxed)) {
        mr_conn_close(c, "above conns_max");
    } else {
        mr_conn_move_to(c, MR_CONN_IDLE);
        MR_STAT_ADD(b->local, conns_leased, -1);
        mr_berth_ready(c);
    }
}

void mr_berth_useless(struct mr_conn *c)
{
    static const char why[] = "the peer takes no more, for now";
    struct mr_berth *b = c->berth;
    mr_pool_note_useless(b->upstream, why, mr_shard_now(b->shard),
                         mr_loop_random(mr_berth_loop(b)));
    mr_conn_close(c, why);
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
    if (c->used == 0 && is_old(b, c)) { /* dialled, or on its way here, when the pool was flushed */
        mr_conn_close(c, FLUSHED);
        return;
    }
    if (mr_conn_state(c) == MR_CONN_IDLE) {
        list_idle(b, c);
        if (c->uses == 0)
            mr_berth_serve_fresh(b);
        if (mr_conn_state(c) == MR_CONN_IDLE && mr_move_donate(b, c))
            return;
    } else if (mr_conn_state(c) == MR_CONN_LEASED) {
        mr_berth_relist(b, c);
    }
    if (b->waiter_count)
        mr_berth_serve(b);
    else
        mr_berth_give_way(b);
    mr_place_give(b, c);
    mr_berth_check(b);
}

void mr_berth_give_way(struct mr_berth *b)
{
    struct mr_conn *c =
        b->idle_count && mr_pool_gives_way(b->upstream) ? mr_berth_take_idle(b, true) : NULL;
    if (c)
        mr_conn_close(c, "another upstream needed its place under a shared cap");
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
            mr_pool_note_wasted(b->upstream, mr_shard_now(b->shard),
                                mr_loop_random(mr_berth_loop(b)));
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
    if (!MR_OPTION(mr_berth_options(b)->conns_min_idle) || !home || home - 1 == b->shard->index)
        return;
    struct mr_berth *o = atomic_load_explicit(&b->upstream->berths[home - 1], memory_order_acquire);
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
    mr_place_closed(c);
    mr_conn_destroy(c);
    if (atomic_load_explicit(&b->upstream->is_above, memory_order_relaxed))
        mr_berth_close_unfit(b);
    mr_berth_kick_waiting(b->upstream);
    kick_home(b);
    mr_berth_feed_later(b);
    mr_pool_unhold(b->local);
}

void mr_berth_close_unfit(struct mr_berth *b)
{
    struct mr_list *l;
    for (l = b->idle.next; l != &b->idle;) {
        struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        l = l->next;
        if (is_old(b, c))
            mr_conn_close(c, FLUSHED);
    }
    if (atomic_load(&b->upstream->is_above) && (l = mr_list_last(&b->idle)))
        mr_conn_close(MR_CONTAINER_OF(l, struct mr_conn, link), "above conns_max");
}

/* ---- time ---- */

/* Begins what is due; returns when the next is. */
static int64_t check_idle(struct mr_berth *b, int64_t now_ns)
{
    int64_t next = MR_NEVER;
    if (!b->upstream->pool->protocol->check && b->movable_count == b->idle_count)
        return next; /* its conns have no check, and none became another protocol's that has */
    for (struct mr_list *l = b->idle.next; l != &b->idle;) {
        struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        const int64_t due = check_due(b, c);
        l = l->next;
        if (due > now_ns) {
            next = due < next ? due : next;
            continue;
        }
        mr_berth_unlist(c);
        c->used++;
        c->is_checked = true;
        mr_conn_move_to(c, MR_CONN_LEASED);
        MR_STAT_ADD(b->local, conns_leased, 1);
        mr_berth_relist(b, c); /* one that carries several is there for others meanwhile */
        c->protocol->check(c);
    }
    return next;
}

static void fire_sweep(struct mr_timer *t, int64_t now_ns)
{
    struct mr_berth *b = MR_CONTAINER_OF(t, struct mr_berth, sweep);
    const moor_pool_options *o = mr_berth_options(b);
    const uint32_t keep = mr_berth_min_idle(b);
    int64_t next = MR_NEVER;
    struct mr_list *l;
    while (MR_OPTION(o->idle_timeout_ms) >= 0 && (l = mr_list_last(&b->idle))) {
        struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        const int64_t due = mr_deadline(c->idle_since_ns, MR_OPTION(o->idle_timeout_ms));
        if (due > now_ns) {
            next = due;
            break;
        }
        if (atomic_load_explicit(&b->upstream->idle_total, memory_order_relaxed) <= keep) {
            next = mr_deadline(now_ns, MR_OPTION(o->idle_timeout_ms));
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
    const int64_t check_at = check_idle(b, now_ns);
    if (check_at < next)
        next = check_at;
    if (mr_timer_is_armed(&b->sweep) &&
        b->sweep.at_ns < next) /* by one that is idle again already */
        next = b->sweep.at_ns;
    if (next != MR_NEVER && next < now_ns + SWEEP_GAP_NS)
        next = now_ns + SWEEP_GAP_NS;
    mr_loop_timer(mr_berth_loop(b), &b->sweep, next);
}

/* ---- drain ---- */

void mr_berth_drain(struct mr_berth *b)
{
    const moor_fault closed = {
        .err = MOOR_ECLOSED, .safe_to_retry = true, .what = "the pool is draining"};
    const moor_fault left = {
        .err = MOOR_ECANCELED, .safe_to_retry = true, .what = "the shard was left"};
    mr_berth_fail_waiters(b, b->local->is_leaving ? &left : &closed);
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

#if defined(MR_DEBUG)
void mr_berth_check(struct mr_berth *b)
{
    uint32_t n = 0, movable = 0;
    for (struct mr_list *l = b->idle.next; l != &b->idle; l = l->next, n++) {
        const struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        MR_ASSERT(mr_conn_state(c) == MR_CONN_IDLE);
        MR_ASSERT(c->used == 0);
        movable += !c->protocol->is_multiplexed;
    }
    for (struct mr_list *l = b->shared.next; l != &b->shared; l = l->next) {
        const struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        MR_ASSERT(mr_conn_state(c) == MR_CONN_LEASED);
        MR_ASSERT(c->used > 0 && c->used < c->capacity);
    }
    MR_ASSERT(n == b->idle_count);
    MR_ASSERT(movable == b->movable_count);
    MR_ASSERT(atomic_load(&b->idle_seen) == b->movable_count);
}
#endif
