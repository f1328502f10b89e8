/*
 * The keeper at work: who waits is dialled for, what came back is reset or closed, the pool's end.
 * Its shard; kick, drain and choosing a shard: any thread. Never runs a hook while it holds the lock.
 */
#include "core/keeper.h"

#include <string.h>

/* A goodbye may take this long. */
#define CLOSE_NS MR_NS_PER_SEC

static bool is_closed(const struct mr_rack *k)
{
    return atomic_load(&((struct mr_rack *)(uintptr_t)k)->gate) & MR_RACK_CLOSED;
}

static void ready(struct moor_link *l);
static void run_kick(struct mr_message *m);
static void run_end(struct mr_deferred *d);
static void feed(struct mr_rack *k);
static void fire_retry(struct mr_timer *t, int64_t now_ns);

struct mr_keeper *mr_keeper_create(struct mr_rack *k)
{
    struct mr_keeper *b = mr_heap_zalloc(&k->pool->runtime->heap, sizeof *b);
    if (!b)
        return NULL;
    b->rack = k;
    b->kick.run = run_kick;
    b->end.run = run_end;
    b->sweep.fire = mr_keeper_fire_sweep;
    b->sweep_gap_ns = MR_SWEEP_MIN_NS;
    b->retry.fire = fire_retry;
    mr_list_init(&b->tasks);
    return b;
}

void mr_keeper_destroy(struct mr_keeper *b)
{
    if (b)
        mr_heap_free(&b->rack->pool->runtime->heap, b, sizeof *b);
}

/* ---- which shard ---- */

/* In the place of a shard: a thread that ends the pool is at work, because the runtime has no shard. */
#define NOBODY ((struct moor_shard *)(uintptr_t)1)

static void end_without_shard(struct mr_rack *k);

/* Its own word is enough: who loses the race uses the winner's. */
static struct moor_shard *find_shard(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    struct moor_shard *s = atomic_load(&b->shard);
    if (s)
        return s == NOBODY ? NULL : s;
    struct moor_shard *self = moor_shard_self();
    const bool is_ours = self && self->runtime == k->pool->runtime &&
                         atomic_load(&self->shared.state) == MR_SHARD_RUNNING;
    struct moor_shard *picked = is_ours ? self : mr_runtime_pick(k->pool->runtime);
    if (picked && atomic_compare_exchange_strong(&b->shard, &s, picked))
        return picked;
    return s == NOBODY ? NULL : s;
}

void mr_keeper_kick(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    if (atomic_load(&b->is_kicked) || !mr_pool_hold_end(k->pool))
        return;
    if (!atomic_exchange(&b->is_kicked, true)) {
        for (struct moor_shard *s; (s = find_shard(k));) {
            if (mr_shard_post(s, &b->kick))
                return;
            /* Left since it was chosen: another one, if there is. */
            atomic_compare_exchange_strong(&b->shard, &s, NULL);
        }
        atomic_store(&b->is_kicked, false);
        if (is_closed(k))
            end_without_shard(k);
    }
    mr_pool_unhold_end(k->pool);
}

static void run_kick(struct mr_message *m)
{
    struct mr_keeper *b = MR_CONTAINER_OF(m, struct mr_keeper, kick);
    struct mr_rack *k = b->rack;
    struct moor_pool *p = k->pool;
    struct moor_shard *self = moor_shard_self();
    atomic_store(&b->is_kicked, false);
    /* Chosen while it was being left: it has told its keepers already. */
    if (atomic_load(&self->shared.state) != MR_SHARD_RUNNING) {
        struct moor_shard *mine = self;
        atomic_compare_exchange_strong(&b->shard, &mine, NULL);
    }
    if (atomic_load(&b->shard) != self) { /* left since: to whoever keeps it now */
        mr_keeper_kick(k);
    } else {
        if (!b->local || b->local->shard != self)
            b->local = mr_pool_local(p, self);
        if (!mr_list_is_linked(&b->here) && !b->is_over)
            mr_list_push_back(&self->mine.keepers, &b->here);
        if (!b->local)
            b->local = &b->spare; /* the pool drains: nothing new begins */
        feed(k);
    }
    mr_pool_unhold_end(p);
}

/* Where new links go. It lives as long as the pool. */
static struct mr_upstream *upstream_of(struct mr_rack *k)
{
    mr_lock_lock(&k->pool->lock);
    struct mr_upstream *u = k->route->upstream;
    mr_lock_unlock(&k->pool->lock);
    return u;
}

/* ---- links that came back ---- */

static struct moor_link *take_errands(struct mr_rack *k)
{
    mr_lock_lock(&k->pool->lock);
    struct moor_link *newest = k->errands, *oldest = NULL;
    k->errands = NULL;
    mr_lock_unlock(&k->pool->lock);
    while (newest) {
        struct moor_link *next = newest->chain;
        newest->chain = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

static bool is_old(const struct moor_link *l)
{
    return l->generation != atomic_load_explicit(&l->rack->pool->generation, memory_order_relaxed);
}

void mr_keeper_check(struct mr_rack *k, struct moor_link *l)
{
    const int64_t now = mr_shard_now(mr_keeper_shard(k));
    k->keeper->coming++;
    mr_link_begin(l, MOOR_TASK_CHECK,
                  mr_deadline(now, MR_OPTION(k->pool->options.connect_timeout_ms)));
}

static bool is_spare(enum mr_link_errand e)
{
    return e == MR_ERRAND_SPARE || e == MR_ERRAND_SPARE_RESET;
}

static void run_errand(struct mr_rack *k, struct moor_link *l)
{
    const int64_t now = mr_shard_now(mr_keeper_shard(k));
    if (l->errand == MR_ERRAND_JOB) {
        mr_link_unblocked(l);
    } else if (l->errand == MR_ERRAND_CLOSE || (is_spare(l->errand) && mr_keeper_surplus(k)) ||
               is_closed(k) || is_old(l) || atomic_load(&l->is_worn)) {
        mr_keeper_close(l, l->close_why          ? l->close_why
                           : is_spare(l->errand) ? "above conns_max"
                                                 : "not reusable");
    } else if (l->errand == MR_ERRAND_SPARE) {
        ready(l);
    } else if (l->errand == MR_ERRAND_CHECK) {
        mr_keeper_check(k, l);
    } else {
        k->keeper->coming++;
        mr_link_begin(l, MOOR_TASK_RESET,
                      mr_deadline(now, MR_OPTION(k->pool->options.connect_timeout_ms)));
    }
}

/* ---- dialling ---- */

static moor_wait_reason reason_of(int verdict, moor_err last)
{
    if (verdict == MR_GATE_BACKOFF)
        return last == MOOR_ENOFILES ? MOOR_WAIT_FILES : MOOR_WAIT_BACKOFF;
    if (verdict == MR_GATE_DIALS)
        return MOOR_WAIT_DIALS;
    return verdict == MR_GATE_GO ? MOOR_WAIT_CONNECTING : MOOR_WAIT_AT_CAP;
}

/* An idle link that has to prove itself first. */
static struct moor_link *claim_stale(struct mr_rack *k)
{
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        struct moor_link *l = mr_rack_at(k, i);
        const uint64_t word = l ? mr_link_word(l) : 0;
        if (l && mr_link_state_of(word) == MR_LINK_STALE && mr_link_claim(l, word, MR_LINK_KEPT))
            return l;
    }
    return NULL;
}

static void retry_by(struct mr_rack *k, int64_t at_ns)
{
    struct mr_keeper *b = k->keeper;
    if (!mr_timer_is_armed(&b->retry) || at_ns < b->retry.at_ns)
        mr_loop_timer(mr_keeper_loop(k), &b->retry, at_ns);
}

static void fire_retry(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    feed(MR_CONTAINER_OF(t, struct mr_keeper, retry)->rack);
}

static uint32_t count_wanted(struct mr_rack *k)
{
    mr_lock_lock(&k->pool->lock);
    const uint32_t n = k->wanted;
    mr_lock_unlock(&k->pool->lock);
    return n;
}

static void feed_waiters(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    int verdict = MR_GATE_GO;
    uint32_t wanted;
    while (verdict == MR_GATE_GO && b->coming < (wanted = count_wanted(k))) {
        struct moor_link *l = claim_stale(k);
        if (l)
            mr_keeper_check(k, l);
        else
            verdict = mr_link_dial_begin(k);
    }
    atomic_store(&b->is_full, verdict == MR_GATE_AT_CAP);
    if (verdict == MR_GATE_GO)
        return;
    /* One came back while the keeper said it was not full yet. */
    mr_rack_serve(k);
    moor_fault last;
    int64_t retry_at;
    const bool is_down = mr_pool_is_upstream_down(upstream_of(k), &last, &retry_at);
    mr_rack_note_reason(k, reason_of(verdict, last.err));
    if (verdict == MR_GATE_SHARED_CAP)
        mr_pool_make_room(upstream_of(k));
    if (verdict != MR_GATE_BACKOFF)
        return;
    if (is_down && last.err) {
        last.safe_to_retry = true;
        mr_rack_fail_waiters(k, reason_of(verdict, last.err), &last);
    }
    retry_by(k, retry_at);
}

uint32_t mr_keeper_count_idle(const struct mr_rack *k)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        const struct moor_link *l = mr_rack_at(k, i);
        n += l && mr_link_lies_idle(mr_link_word(l));
    }
    return n;
}

/* The peer has just ended some that nobody had used. */
static bool may_top_up(struct mr_rack *k)
{
    struct mr_upstream *u = upstream_of(k);
    if (!atomic_load_explicit(&u->wasted, memory_order_relaxed))
        return true;
    const int64_t until = atomic_load(&u->calm_until_ns);
    if (mr_shard_now(mr_keeper_shard(k)) >= until)
        return k->keeper->dialing == 0;
    retry_by(k, until);
    return false;
}

/* Dials that nobody waits for: min idle, and moor_pool_warm. */
static void top_up(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    const moor_pool_options *o = &k->pool->options;
    if (atomic_load(&k->gate) & MR_RACK_PAUSED)
        return;
    if (mr_pool_shares_caps(k->pool) && atomic_load(&k->pool->runtime->waiters))
        return;
    for (;;) {
        const uint32_t open = atomic_load_explicit(&k->open, memory_order_relaxed);
        const bool is_short = mr_keeper_count_idle(k) + b->coming < MR_OPTION(o->conns_min_idle) ||
                              open + b->dialing < b->warm;
        if (!is_short || !may_top_up(k))
            return;
        const int verdict = mr_link_dial_begin(k);
        if (verdict == MR_GATE_GO)
            continue;
        moor_fault last;
        int64_t retry_at;
        if (verdict == MR_GATE_BACKOFF) {
            mr_pool_is_upstream_down(upstream_of(k), &last, &retry_at);
            retry_by(k, retry_at);
        }
        return;
    }
}

/* The idle link in that place becomes the keeper's; NULL: there is none, or somebody was faster. */
static struct moor_link *claim_idle(struct mr_rack *k, uint32_t i,
                                    bool (*is_due)(const struct moor_link *l))
{
    struct moor_link *l = mr_rack_at(k, i);
    const uint64_t word = l ? mr_link_word(l) : 0;
    const bool is_ours = l && mr_link_lies_idle(word) && is_due(l);
    return is_ours && mr_link_claim(l, word, MR_LINK_KEPT) ? l : NULL;
}

static void close_idle_if(struct mr_rack *k, bool (*is_due)(const struct moor_link *l),
                          const char *why)
{
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        struct moor_link *l = claim_idle(k, i, is_due);
        if (l)
            mr_keeper_close(l, why);
    }
}

static bool is_any(const struct moor_link *l)
{
    (void)l;
    return true;
}

/* ---- the end ---- */

static void end_if_over(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    if (b->is_over || !is_closed(k) || b->links)
        return;
    b->is_over = true;
    mr_loop_untimer(mr_keeper_loop(k), &b->sweep);
    mr_loop_untimer(mr_keeper_loop(k), &b->retry);
    mr_loop_defer(mr_keeper_loop(k), &b->end);
}

static void run_end(struct mr_deferred *d)
{
    struct mr_keeper *b = MR_CONTAINER_OF(d, struct mr_keeper, end);
    mr_list_remove(&b->here);
    mr_pool_unhold_end(b->rack->pool);
}

/* Everything that is under way on this shard ends; what a helper has, when that is done. */
static void drop_tasks(struct mr_rack *k, const char *why)
{
    struct mr_keeper *b = k->keeper;
    for (struct mr_list *l; (l = mr_list_first(&b->tasks));) {
        struct moor_link *m = MR_CONTAINER_OF(l, struct moor_link, tasks);
        mr_link_unlist(m);
        m->close_why = why;
        if (m->dial) {
            mr_link_dial_abandon(m);
        } else if (mr_link_halt(m)) {
            b->coming -= mr_link_is_coming(m);
            mr_keeper_gone(m);
        }
    }
}

/* Dials are given up at once, checks, resets and goodbyes when the time to drain is over. */
static void drain(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    close_idle_if(k, is_any, "pool is draining");
    for (struct mr_list *l = b->tasks.next, *next; l != &b->tasks; l = next) {
        struct moor_link *m = MR_CONTAINER_OF(l, struct moor_link, tasks);
        next = l->next;
        if (m->dial)
            mr_link_dial_abandon(m);
    }
    mr_lock_lock(&k->pool->lock);
    const int64_t deadline = k->pool->drain_deadline_ns;
    mr_lock_unlock(&k->pool->lock);
    if (mr_shard_now(mr_keeper_shard(k)) >= deadline)
        drop_tasks(k, "the pool was closed");
    else if (!mr_list_is_empty(&b->tasks))
        retry_by(k, deadline);
    end_if_over(k);
}

static void feed_once(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    for (struct moor_link *l = take_errands(k), *next; l; l = next) {
        next = l->chain;
        l->chain = NULL;
        run_errand(k, l);
    }
    if (is_closed(k)) {
        drain(k);
        return;
    }
    close_idle_if(k, is_old, "the pool was flushed");
    if (mr_pool_wants_room(k->pool)) /* what comes back is looked at by the sweep */
        b->sweep_gap_ns = MR_SWEEP_MIN_NS;
    if (mr_keeper_count_idle(k) && mr_pool_gives_way(upstream_of(k)))
        mr_keeper_evict(k, 1, "others needed its place under a shared cap, or its descriptor");
    if (!(atomic_load(&k->gate) & MR_RACK_PAUSED)) {
        mr_rack_serve(k);
        feed_waiters(k);
    } else {
        mr_rack_note_reason(k, MOOR_WAIT_PAUSED);
    }
    top_up(k);
    mr_keeper_sweep_by(k, mr_shard_now(mr_keeper_shard(k)) + b->sweep_gap_ns);
}

/* Hooks may end in calls that feed: one pass at a time, and one more after. */
static void feed(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    b->feeds_again = true;
    if (b->is_feeding || b->is_over)
        return;
    b->is_feeding = true;
    while (b->feeds_again && !b->is_over) {
        b->feeds_again = false;
        feed_once(k);
    }
    b->is_feeding = false;
}

static void drop_idle(struct mr_rack *k)
{
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        struct moor_link *l = claim_idle(k, i, is_any);
        if (l)
            mr_keeper_gone(l);
    }
}

/* The pool ends and no shard is there to close its links gently: this thread drops them. */
static void end_without_shard(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    bool goes_on = true;
    while (goes_on) {
        struct moor_shard *none = NULL;
        if (!atomic_compare_exchange_strong(&b->shard, &none, NOBODY))
            return;
        b->local = &b->spare;
        b->is_feeding = true;
        for (struct moor_link *l = take_errands(k), *next; l; l = next) {
            next = l->chain;
            l->is_working = l->is_ended = false;
            b->coming += l->is_late && mr_link_is_coming(l);
            if (l->dial)
                mr_link_dial_task_over(l, false);
            else
                mr_keeper_gone(l);
        }
        drop_idle(k);
        b->is_feeding = false;
        const bool is_over = !b->links && !b->is_over;
        b->is_over = b->is_over || is_over;
        atomic_store(&b->shard, NULL);
        if (is_over) {
            mr_pool_unhold_end(k->pool);
            return;
        }
        /* Who came meanwhile found this thread at work and left. */
        mr_lock_lock(&k->pool->lock);
        goes_on = k->errands;
        mr_lock_unlock(&k->pool->lock);
        goes_on = goes_on || mr_keeper_count_idle(k);
    }
}

void mr_keeper_drain(struct mr_rack *k)
{
    static const moor_fault closed = {
        .err = MOOR_ECLOSED, .safe_to_retry = true, .what = "the pool is draining"};
    mr_rack_shut(k, MR_RACK_CLOSED);
    mr_rack_fail_waiters(k, MOOR_WAIT_NONE, &closed);
    mr_keeper_kick(k);
}

void mr_keeper_leave(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    struct moor_shard *self = moor_shard_self();
    MR_ASSERT(atomic_load(&b->shard) == self);
    if (b->is_over) { /* all that is left to do here is to say so */
        mr_loop_undefer(&b->end);
        run_end(&b->end);
        return;
    }
    mr_list_remove(&b->here);
    b->is_feeding = true; /* nothing begins in here */
    drop_tasks(k, "the shard was left");
    for (uint32_t i = 0; i < mr_rack_used(k); i++)
        if (mr_rack_at(k, i))
            mr_link_unwatch(mr_rack_at(k, i));
    mr_loop_untimer(&self->mine.loop, &b->sweep);
    mr_loop_untimer(&self->mine.loop, &b->retry);
    b->is_feeding = false;
    b->local = NULL;
    atomic_store(&b->is_full, false);
    /* From here on another shard may have it, or the thread that ends the pool. */
    const bool is_held = mr_pool_hold_end(k->pool);
    MR_ASSERT(is_held && "it is not over");
    atomic_store(&b->shard, NULL);
    mr_keeper_kick(k); /* who waits, what is idle and the pool's end are another's now */
    mr_pool_unhold_end(k->pool);
}

bool mr_keeper_is_wanted(struct mr_rack *k)
{
    mr_lock_lock(&k->pool->lock);
    const bool is_wanted = k->waiting || k->errands;
    mr_lock_unlock(&k->pool->lock);
    return is_wanted || mr_rack_used(k);
}

/* ---- outcomes ---- */

/* After moor_pool_replace those that serve out their leases count against the place they go to, as in its gate. */
static uint32_t count_open_to(const struct mr_rack *k, const struct mr_upstream *u)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        const struct moor_link *l = mr_rack_at(k, i);
        n += l && !l->is_closing && l->route->upstream == u;
    }
    return n;
}

uint32_t mr_keeper_surplus(struct mr_rack *k)
{
    const uint32_t max = MR_OPTION(k->pool->options.conns_max);
    const uint32_t all = atomic_load_explicit(&k->open, memory_order_relaxed) - k->keeper->closing;
    if (all <= max)
        return 0;
    const uint32_t open = count_open_to(k, upstream_of(k));
    return open > max ? open - max : 0;
}

void mr_keeper_close(struct moor_link *l, const char *why)
{
    struct mr_rack *k = l->rack;
    mr_link_unwatch(l);
    mr_rack_unbind(k, l);
    l->close_why = why;
    k->keeper->closing += !l->is_closing;
    l->is_closing = true;
    mr_link_begin(l, MOOR_TASK_CLOSE, mr_shard_now(mr_keeper_shard(k)) + CLOSE_NS);
}

/* Under the lock, as a change of conns_max: one of the two sees the other. */
static void count_out(struct mr_rack *k)
{
    mr_lock_lock(&k->pool->lock);
    const uint32_t open = atomic_fetch_sub_explicit(&k->open, 1, memory_order_relaxed) - 1;
    if (open <= MR_OPTION(k->pool->options.conns_max))
        atomic_fetch_and(&k->gate, ~(uint32_t)MR_RACK_ABOVE);
    mr_lock_unlock(&k->pool->lock);
}

void mr_keeper_gone(struct moor_link *l)
{
    struct mr_rack *k = l->rack;
    struct mr_keeper *b = k->keeper;
    struct mr_upstream *u = l->route->upstream;
    mr_keeper_tell_returned(l);
    mr_link_unwatch(l);
    mr_rack_unbind(k, l);
    mr_link_drop(l);
    mr_rack_remove(k, l);
    atomic_fetch_add_explicit(&k->gone_uses, atomic_load_explicit(&l->uses, memory_order_relaxed),
                              memory_order_relaxed);
    if (atomic_load_explicit(&l->uses, memory_order_relaxed))
        atomic_fetch_add_explicit(&k->first_uses, 1, memory_order_relaxed);
    b->links--;
    b->closing -= l->is_closing;
    count_out(k);
    MR_STAT_ADD(b->local, conns_open, -1);
    MR_STAT_ADD(b->local, conns_closed, 1);
    atomic_store(&b->is_full, false);
    mr_pool_conn_left(u);
    mr_pool_event(k->pool, u, MOOR_EVENT_CONN_CLOSED,
                  &(moor_fault){.what = l->close_why ? l->close_why : "closed"});
    mr_link_give(k->pool->runtime, l);
    feed(k);
}

/* A check or reset failed, or worse. */
static void lose(struct moor_link *l, const char *why)
{
    struct mr_keeper *b = l->rack->keeper;
    l->close_why = why;
    MR_STAT_ADD(b->local, conns_retired, 1);
    mr_log(&l->rack->pool->runtime->log, MOOR_LOG_INFO, "pool.conn_lost", "pool %s: %s: %s%s%s",
           l->rack->pool->name, why, l->fault.what ? l->fault.what : "", l->text[0] ? ": " : "",
           l->text);
    mr_keeper_gone(l);
}

/* Fit for its next holder, or not any more. */
static void ready(struct moor_link *l)
{
    struct mr_rack *k = l->rack;
    if (is_closed(k) || is_old(l) || atomic_load(&l->is_worn)) {
        mr_keeper_close(l, is_closed(k) ? "pool is draining" : "worn or flushed");
        return;
    }
    mr_rack_put(k, l);
    mr_keeper_sweep_by(k, mr_shard_now(mr_keeper_shard(k)) + k->keeper->sweep_gap_ns);
}

void mr_keeper_task_over(struct moor_link *l, moor_task_kind task, bool is_well)
{
    struct mr_rack *k = l->rack;
    struct mr_keeper *b = k->keeper;
    const int64_t now = mr_shard_now(mr_keeper_shard(k));
    if (l->dial) {
        mr_link_dial_task_over(l, is_well);
        return;
    }
    if (task == MOOR_TASK_CLOSE) {
        mr_keeper_gone(l);
        return;
    }
    if (is_well)
        atomic_store_explicit(&l->alive_ns, now, memory_order_relaxed);
    if (is_well && task == MOOR_TASK_RESET && MR_OPTION(k->pool->options.check_on_return) &&
        k->driver->check) {
        mr_link_begin(l, MOOR_TASK_CHECK,
                      mr_deadline(now, MR_OPTION(k->pool->options.connect_timeout_ms)));
        return;
    }
    MR_ASSERT(b->coming > 0);
    b->coming--;
    if (is_well)
        ready(l);
    else
        lose(l, task == MOOR_TASK_RESET ? "its reset failed" : "its check failed");
}

void mr_keeper_task_late(struct moor_link *l)
{
    struct mr_rack *k = l->rack;
    struct mr_keeper *b = k->keeper;
    moor_fault fault = l->fault;
    MR_ASSERT(b->coming > 0);
    b->coming--;
    if (l->dial) {
        mr_pool_note_failure(l->route->upstream, &fault);
        fault.safe_to_retry = true;
        if (!atomic_load(&k->open) && !b->coming)
            mr_rack_fail_waiters(k, MOOR_WAIT_CONNECTING, &fault);
    }
    feed(k);
}

void mr_keeper_dial_over(struct mr_rack *k, struct mr_upstream *u, struct moor_link *l,
                         const moor_fault *fault)
{
    struct mr_keeper *b = k->keeper;
    struct moor_shard *s = mr_keeper_shard(k);
    s = s == NOBODY ? NULL : s;
    MR_ASSERT(b->dialing > 0 && b->coming > 0);
    b->dialing--;
    b->coming--;
    MR_STAT_ADD(b->local, dials, -1);
    if (l) {
        atomic_fetch_add_explicit(&k->open, 1, memory_order_relaxed);
        MR_STAT_ADD(b->local, conns_open, 1);
        MR_STAT_ADD(b->local, conns_created, 1);
        const bool had_failed = mr_pool_gate_dialed(u);
        mr_pool_event(k->pool, u, MOOR_EVENT_CONN_OPENED, NULL);
        if (had_failed)
            mr_pool_event(k->pool, u, MOOR_EVENT_UPSTREAM_UP, NULL);
        ready(l);
    } else {
        const bool is_ours = fault->err == MOOR_ENOMEM || fault->err == MOOR_ENOFILES ||
                             fault->err == MOOR_ECANCELED;
        b->links--;
        MR_STAT_ADD(b->local, dials_failed, 1);
        const bool is_first = mr_pool_gate_failed(
            u, fault, is_ours, s ? mr_shard_now(s) : mr_clock_now(k->pool->runtime->clock),
            s ? mr_loop_random(&s->mine.loop) : 0);
        if (fault->err != MOOR_ECANCELED) {
            mr_pool_log_dial_failed(u, fault);
            mr_pool_event(k->pool, u, MOOR_EVENT_DIAL_FAILED, fault);
        }
        if (is_first)
            mr_pool_event(k->pool, u, MOOR_EVENT_UPSTREAM_DOWN, fault);
    }
    feed(k);
}
