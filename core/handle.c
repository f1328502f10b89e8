/*
 * Handle leases on any thread: take one, wait for one or several, report, release. The fast path makes one
 * call, reads no clock and writes nothing that two threads share but the link's own word.
 * Must never run a hook that may do I/O.
 */
#include "core/handle.h"

#include "base/futex.h"
#include "core/driver_stream.h"
#include "core/keeper.h"
#include "core/lease.h"

#include <sched.h>
#include <string.h>

static bool is_handle(moor_lease lease)
{
    return lease.slot_ && !lease.slot_->shard;
}

/* The link of a current handle lease, else NULL. */
static struct moor_link *find(moor_lease lease)
{
    struct moor_link *l = (struct moor_link *)(void *)lease.slot_;
    if (!is_handle(lease) || mr_link_word(l) != lease.generation_ ||
        mr_link_state_of(lease.generation_) != MR_LINK_LEASED)
        return NULL;
    return mr_runtime_is_forked(l->rack->pool->runtime) ? NULL : l;
}

/* ---- taking ---- */

static inline bool is_open(struct mr_rack *k)
{
    return !(atomic_load_explicit(&k->gate, memory_order_acquire) & MR_RACK_SHUT_IN);
}

static moor_err fill_fault(struct mr_rack *k, const struct mr_waiter *w, moor_err e,
                           const moor_acquire_options *o, moor_acquired *out)
{
    out->fault =
        w->fault.err
            ? w->fault
            : (moor_fault){.err = e, .safe_to_retry = true, .what = "wait for a connection"};
    out->waited = mr_clock_now(k->pool->runtime->clock) - w->asked_ns;
    atomic_fetch_add_explicit(&k->failed, 1, memory_order_relaxed);
    if (o->why)
        mr_rack_why(k, w->reason, w->asked_ns, o->why);
    return out->fault.err;
}

static void take_granted(struct mr_waiter *w, moor_acquired *out, const char *site, moor_ns waited)
{
    for (struct moor_link *l = w->links, *next; l; l = next, out++) {
        next = l->chain;
        mr_handle_fill(out, l, site);
        out->waited = waited;
    }
}

/* ---- waiting on any thread ---- */

enum { SPINNING, SLEEPING, OVER };

struct sleeper {
    struct mr_waiter w;
    _Atomic(uint32_t) word;    /* futex: SPINNING, SLEEPING, OVER */
    struct moor_shard *driven; /* the shard this thread drives meanwhile, or NULL */
    struct mr_message wake;
};

static void run_wake(struct mr_message *m)
{
    struct sleeper *s = MR_CONTAINER_OF(m, struct sleeper, wake);
    atomic_store_explicit(&s->word, OVER, memory_order_release);
}

/* Late: only who sleeps is woken. After the exchange s may be gone; its address alone is used. */
static void wake(struct mr_waiter *w)
{
    struct sleeper *s = MR_CONTAINER_OF(w, struct sleeper, w);
    if (s->driven && s->driven != moor_shard_self()) {
        const bool is_there = mr_shard_post(s->driven, &s->wake);
        MR_ASSERT(is_there && "a shard does not leave while its thread waits here");
        return;
    }
    _Atomic(uint32_t) *word = &s->word;
    if (atomic_exchange_explicit(word, OVER, memory_order_acq_rel) == SLEEPING)
        mr_futex_wake(word, 1);
}

static bool is_over(struct sleeper *s)
{
    return atomic_load_explicit(&s->word, memory_order_acquire) == OVER;
}

/* True: granted or failed. */
static bool sleep_until_over(struct sleeper *s, const struct mr_clock *clock)
{
    while (!is_over(s)) {
        const int64_t now = mr_clock_now(clock);
        if (now >= s->w.deadline_ns) {
            if (mr_rack_unwait(&s->w))
                return false;
            s->w.deadline_ns = MR_NEVER; /* it is about to be told */
            continue;
        }
        if (s->driven) {
            const int64_t left = s->w.deadline_ns == MR_NEVER ? MR_NEVER : s->w.deadline_ns - now;
            const moor_ms ms = left == MR_NEVER ? MOOR_FOREVER : left / MR_NS_PER_MS + 1;
            if (moor_shard_wait(s->driven, ms) == MOOR_EFORKED)
                return false;
            continue;
        }
        uint32_t seen = SPINNING;
        atomic_compare_exchange_strong(&s->word, &seen, SLEEPING);
        if (seen != OVER)
            (void)!mr_futex_wait(&s->word, SLEEPING, s->w.deadline_ns);
    }
    return true;
}

static moor_err ask_and_wait(struct mr_rack *k, const moor_acquire_options *o, uint32_t count,
                             moor_acquired *out, const char *site, bool is_try)
{
    const struct moor_pool *p = k->pool;
    const struct mr_clock *clock = p->runtime->clock;
    const int64_t now = mr_clock_now(clock);
    struct sleeper s = {
        .w = {.over = wake,
              .want = count,
              .affinity = o->affinity,
              .priority = o->priority,
              .site = site},
        .driven = moor_shard_self(),
        .wake.run = run_wake,
    };
    out->size = sizeof *out;
    out->lease = (moor_lease){0};
    out->native = NULL;
    out->reused = false;
    out->why = NULL;
    MR_FAIL_IF(o->timeout_ms < MOOR_TIMEOUT_OF_POOL, MOOR_EINVAL);
    s.w.asked_ns = now;
    s.w.deadline_ns = is_try ? now
                             : mr_deadline(now, o->timeout_ms == MOOR_TIMEOUT_OF_POOL
                                                    ? MR_OPTION(p->options.acquire_timeout_ms)
                                                    : o->timeout_ms);
    bool is_served;
    const moor_err e = mr_rack_wait(k, &s.w, now, &is_served);
    if (e)
        return fill_fault(k, &s.w, e, o, out);
    moor_ns waited = 0;
    if (!is_served) {
        if (!sleep_until_over(&s, clock))
            return fill_fault(k, &s.w, MOOR_ETIMEDOUT, o, out);
        if (s.w.fault.err)
            return fill_fault(k, &s.w, s.w.fault.err, o, out);
        waited = mr_clock_now(clock) - now;
    }
    take_granted(&s.w, out, site, waited);
    return MOOR_OK;
}

/* Whoever closes the pool frees it when those who waited have heard of it and left. */
static moor_err wait_for(struct mr_rack *k, const moor_acquire_options *o, uint32_t count,
                         moor_acquired *out, const char *site, bool is_try)
{
    struct moor_pool *p = k->pool;
    if (!mr_pool_hold_end(p)) {
        out->lease = (moor_lease){0};
        out->native = NULL;
        out->fault = (moor_fault){
            .err = MOOR_ECLOSED, .safe_to_retry = true, .what = "wait for a connection"};
        return MOOR_ECLOSED;
    }
    const moor_err e = ask_and_wait(k, o, count, out, site, is_try);
    mr_pool_unhold_end(p);
    return e;
}

/*
 * How long leases are, seen on those that were hard to get: their release takes the slow way and looks at the clock.
 * A few long ones are forgiven: a holder can lose its CPU.
 */
#define SHORT_LEASE_NS 10000 /* a sleep and a wake cost about as much */
#define SHORT_MEMORY   8

static void time_lease(struct mr_rack *k, struct moor_link *l)
{
    l->taken_ns = mr_clock_now(k->pool->runtime->clock);
    atomic_fetch_or_explicit(&l->fit, MR_LINK_TIMED, memory_order_relaxed);
}

static void note_length(struct mr_rack *k, struct moor_link *l)
{
    if (!(atomic_load_explicit(&l->fit, memory_order_relaxed) & MR_LINK_TIMED))
        return;
    atomic_fetch_and_explicit(&l->fit, ~MR_LINK_TIMED, memory_order_relaxed);
    const uint32_t was = atomic_load_explicit(&k->shortness, memory_order_relaxed);
    const bool is_short = mr_clock_now(k->pool->runtime->clock) - l->taken_ns < SHORT_LEASE_NS;
    const uint32_t is = is_short ? SHORT_MEMORY : was ? was - 1 : 0;
    if (is != was)
        atomic_store_explicit(&k->shortness, is, memory_order_relaxed);
}

/*
 * Somebody may be about to return one: cheaper than a sleep and a wake. And while leases are shorter than that,
 * nobody who can help it should be queued: what is queued is handed from thread to thread, a switch for each lease,
 * for as long as those who return come back for more. So the CPU is given to those who hold links but lost theirs.
 * Who finds a queue does the same: it is served after them either way, and they are gone the sooner.
 */
#define YIELDS_MAX 64

static struct moor_link *spin(struct mr_rack *k)
{
    const int64_t until = (int64_t)MR_OPTION(k->pool->options.acquire_spin_us) * MR_NS_PER_US;
    if (!until || !atomic_load_explicit(&k->open, memory_order_relaxed))
        return NULL;
    const struct mr_clock *clock = k->pool->runtime->clock;
    const int64_t begun = mr_clock_now(clock);
    for (uint32_t yields = 0; yields < YIELDS_MAX; yields++) {
        sched_yield();
        if (is_open(k)) {
            struct moor_link *l = mr_rack_take(k);
            if (l)
                return l;
        } else if (!atomic_load_explicit(&k->waiting, memory_order_relaxed)) {
            return NULL; /* it is still shut, but nobody is before us: the lock will do */
        }
        if (!atomic_load_explicit(&k->shortness, memory_order_relaxed) &&
            mr_clock_now(clock) - begun >= until)
            return NULL;
    }
    return NULL;
}

/* The hint did not help. */
static moor_err take_any(struct mr_rack *k, const moor_acquire_options *options, moor_acquired *out,
                         const char *site, bool is_try)
{
    moor_acquire_options o;
    mr_lease_options(options, &o);
    struct moor_link *l = NULL;
    if (!is_try)
        MR_TRY(mr_check_blocking(k->pool->runtime));
    if (is_open(k) && !o.affinity)
        l = mr_rack_take(k);
    if (!l && !o.affinity && !is_try && o.timeout_ms) {
        l = spin(k);
        if (l)
            time_lease(k, l);
    }
    if (l) {
        mr_handle_fill(out, l, site);
        return MOOR_OK;
    }
    const moor_err e = wait_for(k, &o, 1, out, site, is_try);
    if (!e)
        time_lease(k, (struct moor_link *)(void *)out->lease.slot_);
    return e;
}

#define COLD __attribute__((noinline, cold))

static COLD moor_err wait_slow(moor_pool *p, const moor_acquire_options *options,
                               moor_acquired *out, const char *site)
{
    MR_FAIL_IF(!p || !out, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(p->runtime), MOOR_EFORKED);
    if (!p->rack)
        return mr_lease_wait(p, options, out, site);
    return take_any(p->rack, options, out, site, false);
}

static COLD moor_err try_slow(moor_pool *p, const moor_acquire_options *options, moor_acquired *out,
                              const char *site)
{
    MR_FAIL_IF(!p || !out || !p->rack, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(p->runtime), MOOR_EFORKED);
    return take_any(p->rack, options, out, site, true);
}

typedef moor_err (*slow_path)(moor_pool *p, const moor_acquire_options *options, moor_acquired *out,
                              const char *site);

static COLD moor_err turn_down_and(slow_path then, moor_pool *p,
                                   const moor_acquire_options *options, moor_acquired *out,
                                   const char *site, struct moor_link *l)
{
    mr_rack_turn_down(p->rack, l);
    return then(p, options, out, site);
}

/* The rack if nothing is unusual, else NULL: the slow path finds out what. */
static inline struct mr_rack *usual_rack(moor_pool *p, const moor_acquire_options *options,
                                         const moor_acquired *out)
{
    struct mr_rack *k = MR_LIKELY(p && out) ? p->rack : NULL;
    if (MR_UNLIKELY(!k || !is_open(k) || (options && options->affinity)))
        return NULL;
    return k;
}

/* Slow paths are tail calls, so that the fast one saves no registers. */
moor_err moor_acquire_wait_at(moor_pool *p, const moor_acquire_options *options, moor_acquired *out,
                              const char *site)
{
    struct mr_rack *k = usual_rack(p, options, out);
    struct moor_link *l;
    uint64_t word;
    if (MR_UNLIKELY(!k || !mr_rack_retake(k, &l, &word)))
        return wait_slow(p, options, out, site);
    if (MR_UNLIKELY(!mr_rack_is_fit(k, l)))
        return turn_down_and(wait_slow, p, options, out, site, l);
    mr_handle_fill_as(out, l, word, site);
    return MOOR_OK;
}

moor_err moor_acquire_try_at(moor_pool *p, const moor_acquire_options *options, moor_acquired *out,
                             const char *site)
{
    struct mr_rack *k = usual_rack(p, options, out);
    struct moor_link *l;
    uint64_t word;
    if (MR_UNLIKELY(!k || !mr_rack_retake(k, &l, &word)))
        return try_slow(p, options, out, site);
    if (MR_UNLIKELY(!mr_rack_is_fit(k, l)))
        return turn_down_and(try_slow, p, options, out, site, l);
    mr_handle_fill_as(out, l, word, site);
    return MOOR_OK;
}

moor_err moor_acquire_many_at(moor_pool *p, const moor_acquire_options *options, uint32_t count,
                              moor_acquired *out, const char *site)
{
    MR_FAIL_IF(!p || !out || !p->rack || !count || count > MR_OPTION(p->options.conns_max),
               MOOR_EINVAL);
    MR_TRY(mr_check_blocking(p->runtime));
    moor_acquire_options o;
    mr_lease_options(options, &o);
    o.affinity = 0;
    return wait_for(p->rack, &o, count, out, site, false);
}

moor_err moor_with_lease_at(moor_pool *p, const moor_acquire_options *options,
                            moor_release_how (*fn)(void *arg, moor_lease lease, void *native),
                            void *arg, const char *site)
{
    MR_FAIL_IF(!fn, MOOR_EINVAL);
    moor_acquired a;
    MR_TRY(moor_acquire_wait_at(p, options, &a, site));
    moor_release(a.lease, fn(arg, a.lease, a.native));
    return MOOR_OK;
}

/* ---- holding ---- */

void *moor_lease_native(moor_lease lease)
{
    const struct moor_link *l = find(lease);
    return l ? l->native : NULL;
}

moor_link *moor_lease_link(moor_lease lease)
{
    return is_handle(lease) ? find(lease) : mr_driver_stream_link(lease);
}

void moor_lease_report(moor_lease lease, const char *sqlstate, int code)
{
    struct moor_link *l = moor_lease_link(lease);
    const moor_verdict v =
        l && l->driver->judge ? l->driver->judge(l, sqlstate, code) : MOOR_VERDICT_KEEP;
    if (v == MOOR_VERDICT_KEEP)
        return;
    if (v == MOOR_VERDICT_RESET) {
        l->is_marked = true;
        atomic_fetch_or_explicit(&l->fit, MR_LINK_MARKED, memory_order_relaxed);
    } else {
        mr_link_wear(l);
    }
    if (v == MOOR_VERDICT_FLUSH)
        mr_pool_flush_of(l->pool, l->generation, "a holder reported an error that means so");
}

/* ---- returning ---- */

static moor_verdict verdict_of(struct moor_link *l, moor_release_how how)
{
    const moor_driver *d = l->driver;
    if (how == MOOR_DISCARD)
        return MOOR_VERDICT_DISCARD;
    if (l->is_marked)
        how = MOOR_DIRTY;
    const moor_verdict v = d->returned         ? d->returned(l, how)
                           : how == MOOR_DIRTY ? MOOR_VERDICT_RESET
                                               : MOOR_VERDICT_KEEP;
    return v == MOOR_VERDICT_RESET && !d->reset ? MOOR_VERDICT_DISCARD : v;
}

static bool is_used_up(struct mr_rack *k, struct moor_link *l)
{
    const uint32_t uses_max = atomic_load_explicit(&k->uses_max, memory_order_relaxed);
    return uses_max && atomic_load_explicit(&l->uses, memory_order_relaxed) >= uses_max;
}

static void put_back(struct mr_rack *k, struct moor_link *l, moor_verdict v)
{
    const uint32_t gate = atomic_load(&k->gate);
    if (l->is_marked)
        atomic_fetch_and_explicit(&l->fit, ~MR_LINK_MARKED, memory_order_relaxed);
    l->is_marked = false;
    if (v == MOOR_VERDICT_FLUSH)
        mr_pool_flush_of(k->pool, l->generation, "the driver saw it in what came back");
    if (v == MOOR_VERDICT_DISCARD || v == MOOR_VERDICT_FLUSH)
        mr_rack_send(k, l, MR_ERRAND_CLOSE, "not reusable");
    else if (is_used_up(k, l))
        mr_rack_send(k, l, MR_ERRAND_CLOSE, "reached its maximum uses");
    else if (!mr_rack_is_fit(k, l))
        mr_rack_send(k, l, MR_ERRAND_CLOSE, "reached its maximum lifetime, or was flushed");
    else if (gate & MR_RACK_CLOSED)
        mr_rack_send(k, l, MR_ERRAND_CLOSE, "pool is draining");
    else if (gate & MR_RACK_ABOVE)
        mr_rack_send(k, l, v == MOOR_VERDICT_RESET ? MR_ERRAND_SPARE_RESET : MR_ERRAND_SPARE, NULL);
    else if (v == MOOR_VERDICT_RESET)
        mr_rack_send(k, l, MR_ERRAND_RESET, NULL);
    else if (atomic_load_explicit(&k->checks_returns, memory_order_relaxed))
        mr_rack_send(k, l, MR_ERRAND_CHECK, NULL);
    else if (atomic_load_explicit(&k->checks_takes, memory_order_relaxed))
        mr_rack_put_unproven(k, l);
    else
        mr_rack_put(k, l);
}

/* The driver's word on it, and all that shuts the fast way back. */
static COLD void release_slow(struct mr_rack *k, struct moor_link *l, uint64_t word,
                              moor_release_how how)
{
    if (!*k->fork_page)
        return;
    note_length(k, l);
    const moor_verdict v = verdict_of(l, how);
    const uint32_t minor = MR_RACK_ASKS | MR_RACK_WEARS | MR_RACK_FENCED;
    if (v != MOOR_VERDICT_KEEP || (atomic_load(&k->gate) & ~minor) || !mr_rack_is_fit(k, l) ||
        is_used_up(k, l) || atomic_load_explicit(&k->checks_returns, memory_order_relaxed) ||
        atomic_load_explicit(&k->checks_takes, memory_order_relaxed)) {
        if (mr_link_claim(l, word, MR_LINK_KEPT))
            put_back(k, l, v);
        return;
    }
    if (!mr_link_claim(l, word, MR_LINK_IDLE))
        return;
    /* That was a full barrier: who came to wait meanwhile either sees the link, or is seen here. */
    if (MR_UNLIKELY(!is_open(k)))
        mr_rack_serve_as_guest(k);
}

static COLD void serve_slow(struct mr_rack *k)
{
    if (*k->fork_page)
        mr_rack_serve_as_guest(k);
}

static COLD void release_other(moor_lease lease, moor_release_how how)
{
    if (lease.slot_)
        mr_lease_release(lease, how);
}

void moor_release(moor_lease lease, moor_release_how how)
{
    struct moor_link *l = (struct moor_link *)(void *)lease.slot_;
    const uint64_t word = lease.generation_;
    if (MR_UNLIKELY(!lease.slot_ || lease.slot_->shard)) {
        release_other(lease, how);
        return;
    }
    if (MR_UNLIKELY(mr_link_word(l) != word))
        return;
    struct mr_rack *k = l->rack;
    if (MR_UNLIKELY(how != MOOR_REUSE || !mr_rack_is_fit(k, l) ||
                    atomic_load_explicit(&k->gate, memory_order_relaxed))) {
        release_slow(k, l, word, how);
        return;
    }
    /* A plain store: who begins to wait makes every core pass a barrier between shutting the gate and looking at
     * the links, so either the link is seen there or the gate here (docs/decisions/0021). */
    atomic_store_explicit(&l->slot.generation, mr_link_step(word, MR_LINK_LEASED, MR_LINK_IDLE),
                          memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    if (MR_UNLIKELY(!is_open(k)))
        serve_slow(k);
}
