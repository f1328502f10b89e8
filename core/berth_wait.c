/*
 * Claims on an upstream's conns on one shard: who waits, who is served or fails, what is dialled.
 * Owner thread: the shard; kicks come from any. Never calls failed() from inside mr_berth_acquire.
 */
#include "core/berth_internal.h"

#include "core/attempt.h"
#include "core/move.h"
#include "core/place.h"

static void fire_deadline(struct mr_timer *t, int64_t now_ns);

/* ---- claims ---- */

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

static void grant(struct mr_berth *b, struct mr_conn *c, struct mr_claim *claim)
{
    const bool is_reused = c->uses > 0;
    const int64_t waited = mr_shard_now(b->shard) - claim->asked_ns;
    c->uses++;
    c->used++;
    c->is_checked = false;
    c->is_replayable = claim->is_replayable;
    if (mr_conn_state(c) == MR_CONN_IDLE) {
        mr_conn_move_to(c, MR_CONN_LEASED);
        MR_STAT_ADD(b->local, conns_leased, 1);
    }
    mr_berth_relist(b, c);
    MR_STAT_ADD(b->local, acquires, 1);
    if (is_reused)
        MR_STAT_ADD(b->local, acquires_reused, 1);
    mr_histogram_record(&b->local->histograms[MOOR_HISTOGRAM_ACQUIRE], waited);
    claim->granted(claim, c, is_reused);
}

/* Behind all that are older; of those that ask for the first time, at the end. */
static void line_up(struct mr_list *waiters, struct mr_claim *claim)
{
    struct mr_list *at = waiters->prev;
    while (claim->is_again && at != waiters &&
           MR_CONTAINER_OF(at, struct mr_claim, link)->since_ns > claim->since_ns)
        at = at->prev;
    mr_list_insert_after(at, &claim->link);
}

moor_err mr_berth_acquire(struct mr_berth *b, struct mr_claim *claim)
{
    MR_ASSERT_ON(b->shard);
    MR_FAIL_IF(!mr_pool_takes_work(b->local), MOOR_ECLOSED);
    claim->asked_ns = mr_shard_now(b->shard);
    if (!claim->is_again && !claim->wants_fresh)
        claim->since_ns = claim->asked_ns;
    claim->reason = MOOR_WAIT_NONE;
    if (b->waiter_count == 0 && !claim->wants_fresh) {
        struct mr_conn *c = mr_berth_pick(b);
        if (c) {
            grant(b, c, claim);
            return MOOR_OK;
        }
    }
    if (atomic_fetch_add(&b->upstream->waiters, 1) >= MR_OPTION(mr_berth_options(b)->waiters_max)) {
        atomic_fetch_sub(&b->upstream->waiters, 1);
        return MOOR_EBUSY;
    }
    claim->berth = b;
    claim->timer.fire = fire_deadline;
    claim->reason = MOOR_WAIT_CONNECTING;
    atomic_fetch_add(&b->shard->runtime->waiters, 1);
    line_up(claim->wants_fresh ? &b->fresh : &b->waiters, claim);
    b->waiter_count++;
    MR_STAT_ADD(b->local, waiters, 1);
    publish_waiting(b);
    mr_loop_timer(mr_berth_loop(b), &claim->timer, claim->deadline_ns);
    mr_berth_feed_later(b);
    return MOOR_OK;
}

static void unwait(struct mr_berth *b, struct mr_claim *claim)
{
    mr_list_remove(&claim->link);
    mr_loop_untimer(mr_berth_loop(b), &claim->timer);
    claim->berth = NULL;
    b->waiter_count--;
    atomic_fetch_sub(&b->upstream->waiters, 1);
    atomic_fetch_sub(&b->shard->runtime->waiters, 1);
    MR_STAT_ADD(b->local, waiters, -1);
}

bool mr_berth_wants_early(const struct mr_berth *b)
{
    const struct mr_list *first = mr_list_first(&b->fresh);
    if (!first)
        first = mr_list_first(&b->waiters);
    return first && MR_CONTAINER_OF(first, struct mr_claim, link)->is_replayable;
}

void mr_berth_cancel(struct mr_claim *claim)
{
    struct mr_berth *b = claim->berth;
    if (!b)
        return;
    unwait(b, claim);
    publish_waiting(b);
}

void mr_berth_why(struct mr_berth *b, moor_wait_reason reason, int64_t asked_ns, moor_why *out)
{
    *out = (moor_why){.size = sizeof *out,
                      .reason = reason,
                      .conns_max = MR_OPTION(mr_berth_options(b)->conns_max),
                      .waited = mr_shard_now(b->shard) - asked_ns,
                      .connect_what = ""};
    mr_pool_why(b->upstream, out);
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
               &(moor_fault){
                   .err = MOOR_ETIMEDOUT, .safe_to_retry = true, .what = "wait for a connection"});
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

void mr_berth_fail_waiters(struct mr_berth *b, const moor_fault *fault)
{
    accept_any(b);
    /* Moved aside: a failed() that acquires again must not be failed by the same fault. */
    struct mr_list aside;
    mr_list_take_all(&aside, &b->waiters);
    struct mr_list *l;
    for (l = aside.next; l != &aside; l = l->next)
        mr_loop_untimer(mr_berth_loop(b), &MR_CONTAINER_OF(l, struct mr_claim, link)->timer);
    while ((l = mr_list_first(&aside))) {
        struct mr_claim *claim = MR_CONTAINER_OF(l, struct mr_claim, link);
        unwait(b, claim);
        fail_claim(b, claim, fault);
    }
    publish_waiting(b);
}

void mr_berth_redirect(struct mr_berth *b, struct mr_berth *to)
{
    accept_any(b);
    for (struct mr_list *l; (l = mr_list_first(&b->waiters));) {
        struct mr_claim *claim = MR_CONTAINER_OF(l, struct mr_claim, link);
        unwait(b, claim);
        claim->is_again = true;
        claim->wants_fresh = false;
        const moor_err e = mr_berth_acquire(to, claim);
        if (e)
            fail_claim(to, claim, &(moor_fault){.err = e, .safe_to_retry = true, .what = "wait"});
    }
    publish_waiting(b);
}

void mr_berth_serve_fresh(struct mr_berth *b)
{
    struct mr_list *l = mr_list_first(&b->fresh);
    struct mr_conn *c = l ? mr_berth_take_idle(b, false) : NULL;
    if (!c)
        return;
    do {
        struct mr_claim *claim = MR_CONTAINER_OF(l, struct mr_claim, link);
        unwait(b, claim);
        grant(b, c, claim);
    } while (mr_berth_has_room(c) && (l = mr_list_first(&b->fresh)));
    publish_waiting(b);
}

void mr_berth_serve(struct mr_berth *b)
{
    struct mr_list *l;
    const uint32_t before = b->waiter_count;
    while ((l = mr_list_first(&b->waiters))) {
        struct mr_conn *c = mr_berth_pick(b);
        if (!c)
            break;
        struct mr_claim *claim = MR_CONTAINER_OF(l, struct mr_claim, link);
        unwait(b, claim);
        grant(b, c, claim);
    }
    if (b->waiter_count != before)
        publish_waiting(b);
}

/* ---- getting conns for waiters ---- */

void mr_berth_feed_later(struct mr_berth *b)
{
    mr_loop_defer(mr_berth_loop(b), &b->feed);
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
    const uint32_t each = atomic_load_explicit(&b->upstream->capacity, memory_order_relaxed);
    const bool is_alone =
        atomic_load_explicit(&b->shard->runtime->shard_count, memory_order_relaxed) == 1;
    int verdict = MR_GATE_GO;
    for (;;) {
        const uint64_t coming = (uint64_t)b->dialing * each + b->asking +
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
    mr_berth_serve(b);
    note_reason(b, reason_of(verdict, last.err));
    if (verdict == MR_GATE_AT_CAP && b->waiter_count && !is_alone)
        mr_place_want(b);
    if (verdict == MR_GATE_SHARED_CAP && b->waiter_count)
        mr_pool_make_room(b->upstream);
    if (verdict != MR_GATE_BACKOFF || !b->waiter_count)
        return;
    if (is_down && last.err) {
        last.safe_to_retry = true;
        mr_berth_fail_waiters(b, &last);
    } else {
        mr_berth_retry_by(b, retry_at);
    }
}

uint32_t mr_berth_min_idle(struct mr_berth *b)
{
    const uint32_t min = MR_OPTION(mr_berth_options(b)->conns_min_idle);
    const bool is_shared = atomic_load_explicit(&b->upstream->capacity, memory_order_relaxed) > 1;
    return is_shared && min > 1 ? 1 : min;
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

/* A conn that carries many claims is spare capacity by itself, idle or not. */
static bool has_enough(struct mr_berth *b, uint32_t min)
{
    struct mr_upstream *u = b->upstream;
    if (atomic_load_explicit(&u->capacity, memory_order_relaxed) > 1)
        return b->dialing || b->waiter_count || mr_pool_conn_count(u) >= min;
    return atomic_load_explicit(&u->idle_total, memory_order_relaxed) + b->dialing >=
           min + b->waiter_count;
}

/* Keeps min idle conns over all shards: dials that no waiter asked for. */
static void top_up(struct mr_berth *b)
{
    struct mr_upstream *u = b->upstream;
    const uint32_t min = mr_berth_min_idle(b);
    /* A place under a shared cap is theirs who wait: they may have closed an idle conn of ours for it. */
    if (mr_pool_shares_caps(u->pool) && atomic_load(&u->pool->runtime->waiters))
        return;
    while (!has_enough(b, min) && may_top_up(b)) {
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

void mr_berth_run_feed(struct mr_deferred *d)
{
    struct mr_berth *b = MR_CONTAINER_OF(d, struct mr_berth, feed);
    if (!mr_pool_takes_work(b->local))
        return;
    mr_move_note_late(b);
    mr_berth_serve(b);
    mr_place_give(b, NULL);
    if (b->waiter_count && !mr_place_yields(b))
        feed_waiters(b);
    if (b->wants_more && !b->dialing)
        (void)mr_attempt_begin(b); /* at a cap those there are have to do */
    b->wants_more = false;
    if (MR_OPTION(mr_berth_options(b)->conns_min_idle) && mr_pool_is_home(b->upstream, b->shard))
        top_up(b);
}

void mr_berth_retry_by(struct mr_berth *b, int64_t at_ns)
{
    if (!mr_timer_is_armed(&b->retry) || at_ns < b->retry.at_ns)
        mr_loop_timer(mr_berth_loop(b), &b->retry, at_ns);
}

void mr_berth_fire_retry(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    mr_berth_feed_later(MR_CONTAINER_OF(t, struct mr_berth, retry));
}

/* ---- across shards ---- */

void mr_berth_run_kick(struct mr_message *m)
{
    struct mr_berth *b = MR_CONTAINER_OF(m, struct mr_berth, kick);
    struct moor_pool *p = b->upstream->pool;
    atomic_store(&b->is_kicked, false);
    if (mr_pool_takes_work(b->local)) {
        mr_berth_close_unfit(b);
        mr_berth_feed_later(b);
    }
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
    const uint32_t count =
        atomic_load_explicit(&u->pool->runtime->shard_count, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        struct mr_berth *b = atomic_load_explicit(&u->berths[i], memory_order_acquire);
        if (b && atomic_load_explicit(&b->waiting_since, memory_order_relaxed) != MR_NEVER)
            mr_berth_kick(b);
    }
}
