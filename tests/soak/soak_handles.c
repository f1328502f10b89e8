/*
 * Handle leases of the dummy driver, which panics when two hold one object: eight threads that take and return
 * them in all ways, and one that changes the weather: connects that fail, resets that fail, flushes, pauses,
 * other limits, another place.
 */
#include "tests/soak/soak.h"

#include "tests/support/dummy_driver.h"

#include <mooring/event.h>
#include <mooring/stats.h>

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { WORKERS = 8, ASKERS = 4, MANY_MAX = 4, KEYS = 12, SLOTS = 8 };

struct worker {
    struct soak_handles *h;
    pthread_t thread;
    uint64_t seed;
    uint64_t turns;
};

/* Acquires from inside a shard, where it never waits; one after the other. */
struct asker {
    struct soak_handles *h;
    moor_task task;
    uint64_t seed;
    _Atomic(bool) is_busy;
};

/* Leases that one thread leaves for another to return. */
struct letterbox {
    pthread_mutex_t lock;
    moor_acquired slots[SLOTS];
    bool is_full[SLOTS];
};

struct soak_handles {
    struct soak *s;
    moor_pool *pool;
    moor_pool_options options;
    struct dummy_script script;
    struct worker workers[WORKERS];
    struct asker askers[ASKERS];
    pthread_t weather;
    struct letterbox box;
    _Atomic(uint64_t) acquired, released, canceled, failed[64];
    _Atomic(uint64_t) events[MOOR_EVENT_POOL_DRAINED + 1];
    _Atomic(bool) has_leaked;
};

static bool draw(uint64_t *seed, unsigned of_a_thousand)
{
    return seed_below(seed, 1000) < of_a_thousand;
}

/* ---- holders ---- */

static void release(struct soak_handles *h, const moor_acquired *a, moor_release_how how)
{
    if (h->s->leak == LEAK_LEASE && !atomic_exchange(&h->has_leaked, true))
        return;
    dummy_leave(a->native);
    atomic_fetch_add(&h->released, 1);
    moor_release(a->lease, how);
}

static void hold(struct worker *w, const moor_acquired *a)
{
    struct dummy *d = a->native;
    const uint64_t kind = seed_below(&w->seed, 1000);
    if (kind < 400)
        soak_sleep_us(20 + seed_below(&w->seed, 300));
    else if (kind < 430)
        soak_sleep_us(1000 + seed_below(&w->seed, 5000));
    else if (kind < 432)
        soak_sleep_us(80000); /* long enough to be reported */
    if (draw(&w->seed, 10) && d->peer >= 0)
        (void)!write(d->peer, "x", 1); /* found when it lies idle */
    if (draw(&w->seed, 20))
        moor_lease_report(a->lease, draw(&w->seed, 500) ? "08006" : "dirty", 0);
    if (draw(&w->seed, 1))
        moor_lease_report(a->lease, "25006", 0); /* a failover: all are flushed */
}

static moor_release_how draw_how(uint64_t *seed)
{
    const uint64_t kind = seed_below(seed, 100);
    return kind < 85 ? MOOR_REUSE : kind < 95 ? MOOR_DIRTY : MOOR_DISCARD;
}

/* Leaves it for another thread, and returns what was left before. */
static void post(struct worker *w, const moor_acquired *a)
{
    struct letterbox *b = &w->h->box;
    const size_t at = seed_below(&w->seed, SLOTS);
    pthread_mutex_lock(&b->lock);
    const moor_acquired before = b->slots[at];
    const bool was_full = b->is_full[at];
    b->slots[at] = *a;
    b->is_full[at] = true;
    pthread_mutex_unlock(&b->lock);
    if (was_full)
        release(w->h, &before, draw_how(&w->seed));
}

static void empty(struct soak_handles *h)
{
    for (size_t i = 0; i < SLOTS; i++) {
        pthread_mutex_lock(&h->box.lock);
        const moor_acquired a = h->box.slots[i];
        const bool was_full = h->box.is_full[i];
        h->box.is_full[i] = false;
        pthread_mutex_unlock(&h->box.lock);
        if (was_full)
            release(h, &a, MOOR_REUSE);
    }
}

static void use(struct worker *w, const moor_acquired *a)
{
    atomic_fetch_add(&w->h->acquired, 1);
    if (!a->native || moor_lease_native(a->lease) != a->native)
        soak_complain("a lease without its object");
    dummy_enter(a->native);
    hold(w, a);
}

static void give_back(struct worker *w, const moor_acquired *a)
{
    if (draw(&w->seed, 30)) {
        post(w, a);
        return;
    }
    release(w->h, a, draw_how(&w->seed));
    if (draw(&w->seed, 10))
        moor_release(a->lease, MOOR_DISCARD); /* twice: whoever has it now must not notice */
}

static moor_release_how with_lease(void *arg, moor_lease lease, void *native)
{
    struct worker *w = arg;
    const moor_acquired a = {.lease = lease, .native = native};
    use(w, &a);
    dummy_leave(native);
    atomic_fetch_add(&w->h->released, 1);
    return draw_how(&w->seed);
}

/* What nobody is to blame for. */
static bool is_expected(moor_err e, bool is_many)
{
    return e == MOOR_ETIMEDOUT || e == MOOR_EBUSY || e == MOOR_ECLOSED || e == MOOR_ECONNECT ||
           (is_many && e == MOOR_EINVAL); /* more than conns_max, which has just been lowered */
}

static void note(struct soak_handles *h, moor_err e, bool is_many)
{
    atomic_fetch_add(&h->failed[(unsigned)e % 64], 1);
    if (!is_expected(e, is_many))
        soak_complain("an acquire failed with %s", moor_err_name(e));
}

static moor_acquire_options draw_options(uint64_t *seed)
{
    static const moor_ms timeouts[] = {0, 1, 2, 5, 20, 60};
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    o.timeout_ms = timeouts[seed_below(seed, 6)];
    o.priority = (uint8_t)seed_below(seed, MOOR_PRIORITIES);
    if (draw(seed, 300))
        o.affinity = 1 + seed_below(seed, KEYS);
    return o;
}

static void turn(struct worker *w)
{
    moor_pool *p = w->h->pool;
    moor_acquire_options o = draw_options(&w->seed);
    moor_why why = {.size = sizeof why};
    o.why = draw(&w->seed, 500) ? &why : NULL;
    moor_acquired got[MANY_MAX];
    uint32_t count = 1;
    moor_err e;
    const uint64_t way = seed_below(&w->seed, 100);
    if (way < 10) {
        e = moor_with_lease(p, &o, with_lease, w);
        count = 0;
    } else if (way < 25) {
        e = moor_acquire_try(p, &o, got);
    } else if (way < 33) {
        count = 2 + (uint32_t)seed_below(&w->seed, MANY_MAX - 1);
        o.affinity = 0;
        e = moor_acquire_many(p, &o, count, got);
    } else {
        e = moor_acquire_wait(p, &o, got);
    }
    if (e) {
        note(w->h, e, count > 1);
        if (draw(&w->seed, 900)) /* at once again, now and then */
            soak_sleep_us(seed_below(&w->seed, 500));
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        use(w, &got[i]);
    for (uint32_t i = 0; i < count; i++)
        give_back(w, &got[i]);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (; !atomic_load(&w->h->s->is_over); w->turns++)
        turn(w);
    return NULL;
}

/* ---- on a shard ---- */

static void on_acquired(void *user, const moor_acquired *a)
{
    struct asker *k = user;
    if (a->fault.err == MOOR_ECANCELED) {
        atomic_fetch_add(&k->h->canceled, 1);
    } else if (a->fault.err) {
        note(k->h, a->fault.err, false);
    } else {
        atomic_fetch_add(&k->h->acquired, 1);
        dummy_enter(a->native);
        release(k->h, a, draw_how(&k->seed));
    }
    atomic_store(&k->is_busy, false);
}

static void ask(void *user)
{
    struct asker *k = user;
    const moor_acquire_options o = draw_options(&k->seed);
    moor_op op;
    const moor_err e = moor_acquire(k->h->pool, &o, on_acquired, k, &op);
    if (e) {
        note(k->h, e, false);
        atomic_store(&k->is_busy, false);
    } else if (draw(&k->seed, 300)) {
        moor_cancel(op);
    }
}

static void post_askers(struct soak_handles *h, uint64_t *seed)
{
    const uint32_t shards = moor_runtime_shard_count(h->s->runtime);
    for (int i = 0; i < ASKERS; i++) {
        struct asker *k = &h->askers[i];
        if (atomic_exchange(&k->is_busy, true))
            continue;
        k->task.run = ask;
        k->task.user = k;
        if (moor_post(moor_shard_at(h->s->runtime, (uint32_t)seed_below(seed, shards)), &k->task))
            soak_complain("a shard takes no task");
    }
}

/* ---- weather ---- */

static void set(struct soak_handles *h, const char *option, uint64_t value)
{
    char text[24], why[200] = "";
    snprintf(text, sizeof text, "%" PRIu64, value);
    if (moor_pool_set(h->pool, option, text, why, sizeof why))
        soak_complain("moor_pool_set: %s", why);
}

static void set_something(struct soak_handles *h, uint64_t *seed)
{
    static const struct {
        const char *name;
        uint64_t from, to;
    } ranges[] = {
        {"conns_max", 2, 24},
        {"conns_min_idle", 0, 8},
        {"dials_max", 1, 8},
        {"waiters_max", 2, 60},
        {"uses_max", 0, 100},
        {"lifetime_max_ms", 10, 900},
        {"idle_timeout_ms", 10, 500},
        {"check_after_ms", 0, 50},
        {"check_every_ms", 10, 200},
        {"surplus_decay_ms", 10, 400},
        {"leak_after_ms", 20, 100},
        {"acquire_spin_us", 0, 5},
        {"lifetime_jitter_percent", 0, 50},
    };
    static const char *const words[][2] = {{"eviction", "lifo"},
                                           {"eviction", "fifo"},
                                           {"eviction", "lru"},
                                           {"check_on_return", "true"},
                                           {"check_on_return", "false"}};
    const size_t numbers = sizeof ranges / sizeof *ranges;
    const size_t i = seed_below(seed, numbers + sizeof words / sizeof *words);
    char why[200] = "";
    if (i < numbers)
        set(h, ranges[i].name,
            ranges[i].from + seed_below(seed, ranges[i].to - ranges[i].from + 1));
    else if (moor_pool_set(h->pool, words[i - numbers][0], words[i - numbers][1], why, sizeof why))
        soak_complain("moor_pool_set: %s", why);
}

static void break_something(struct soak_handles *h, uint64_t *seed)
{
    switch (seed_below(seed, 6)) {
    case 0:
        atomic_store(&h->script.connects_fail, (int)seed_below(seed, 8));
        break;
    case 1: /* an outage */
        atomic_store(&h->script.connects_fail, -1);
        moor_pool_flush(h->pool);
        soak_sleep_us(seed_below(seed, 20000));
        atomic_store(&h->script.connects_fail, 0);
        break;
    case 2:
        atomic_store(&h->script.checks_fail, (int)seed_below(seed, 4));
        break;
    case 3:
        atomic_store(&h->script.resets_fail, (int)seed_below(seed, 4));
        break;
    case 4:
        atomic_store(&h->script.connect_ms, (int)seed_below(seed, 4));
        atomic_store(&h->script.reset_ms, (int)seed_below(seed, 2));
        atomic_store(&h->script.check_ms, (int)seed_below(seed, 2));
        atomic_store(&h->script.close_ms, (int)seed_below(seed, 2));
        break;
    default:
        atomic_store(&h->script.has_fd, seed_below(seed, 2) == 0);
        atomic_store(&h->script.idle_keeps, seed_below(seed, 2) == 0);
        break;
    }
}

static void look(struct soak_handles *h)
{
    static char json[1 << 16]; /* the weather's alone */
    size_t len;
    moor_histogram *waits;
    moor_stats s;
    moor_pool_snapshot(h->pool, json, sizeof json, &len);
    moor_stats_read(h->pool, &s);
    if (s.conns_leased > 64 || s.waiters > WORKERS + ASKERS)
        soak_complain("%" PRIu64 " leased, %" PRIu64 " waiting", s.conns_leased, s.waiters);
    if (!moor_histogram_read(h->pool, MOOR_HISTOGRAM_ACQUIRE, &waits))
        moor_histogram_free(waits);
}

static void pause_awhile(struct soak_handles *h, uint64_t *seed)
{
    if (moor_pool_pause(h->pool, seed_below(seed, 2)))
        soak_complain("the pool cannot be paused");
    soak_sleep_us(seed_below(seed, 5000));
    moor_pool_resume(h->pool);
}

static void move(struct soak_handles *h, uint64_t *seed)
{
    char url[64];
    snprintf(url, sizeof url, "dummy://127.0.0.1:%u", (unsigned)(1 + seed_below(seed, 3)));
    const moor_err e = moor_pool_replace(h->pool, url, &h->options);
    if (e)
        soak_complain("moor_pool_replace: %s", moor_err_name(e));
}

static void *make_weather(void *arg)
{
    struct soak_handles *h = arg;
    uint64_t seed = h->s->seed ^ 0x57ea;
    while (!atomic_load(&h->s->is_over)) {
        soak_sleep_us(500 + seed_below(&seed, 8000));
        post_askers(h, &seed);
        const uint64_t kind = seed_below(&seed, 100);
        if (kind < 40)
            set_something(h, &seed);
        else if (kind < 60)
            break_something(h, &seed);
        else if (kind < 70)
            look(h);
        else if (kind < 75)
            moor_pool_flush(h->pool);
        else if (kind < 80)
            pause_awhile(h, &seed);
        else if (kind < 83)
            (void)!moor_pool_warm(h->pool, (uint32_t)seed_below(&seed, 10), 5, NULL, NULL);
        else if (kind < 85)
            move(h, &seed);
        else if (kind < 88)
            empty(h);
        if (h->s->leak == LEAK_MEMORY) {
            volatile char *lost = malloc(64 << 10);
            for (size_t i = 0; lost && i < 64 << 10; i += 512)
                lost[i] = 1;
        }
    }
    return NULL;
}

/* ---- begin and end ---- */

static void on_event(void *user, const moor_event *e)
{
    struct soak_handles *h = user;
    atomic_fetch_add(&h->events[e->type], 1);
}

static void choose_options(struct soak_handles *h)
{
    moor_pool_options *o = &h->options;
    moor_pool_options_init(o);
    o->name = "handles";
    o->conns_max = 12;
    o->conns_min_idle = 3;
    o->dials_max = 4;
    o->uses_max = 200;
    o->lifetime_max_ms = 700;
    o->lifetime_jitter_percent = 50;
    o->idle_timeout_ms = 300;
    o->check_after_ms = 20;
    o->check_every_ms = 50;
    o->surplus_decay_ms = 100;
    o->leak_after_ms = 40;
    o->backoff_min_ms = 1;
    o->backoff_max_ms = 5;
    o->driver_config = &h->script;
    o->on_event = on_event;
    o->event_user = h;
}

struct soak_handles *soak_handles_start(struct soak *s)
{
    struct soak_handles *h = calloc(1, sizeof *h);
    if (!h)
        abort();
    h->s = s;
    pthread_mutex_init(&h->box.lock, NULL);
    choose_options(h);
    if (moor_driver_use(s->runtime, &dummy_driver) ||
        moor_pool_open(s->runtime, "dummy://127.0.0.1:1", &h->options, &h->pool))
        abort();
    for (uint64_t i = 0; i < WORKERS; i++) {
        h->workers[i].h = h;
        h->workers[i].seed = s->seed + i;
        if (pthread_create(&h->workers[i].thread, NULL, work, &h->workers[i]))
            abort();
    }
    for (uint64_t i = 0; i < ASKERS; i++) {
        h->askers[i].h = h;
        h->askers[i].seed = s->seed + WORKERS + i;
    }
    if (pthread_create(&h->weather, NULL, make_weather, h))
        abort();
    return h;
}

/* The pool is closed: what began has ended. */
static void check_events(struct soak_handles *h)
{
    if (h->events[MOOR_EVENT_CONN_OPENED] != h->events[MOOR_EVENT_CONN_CLOSED])
        soak_complain("handles: events tell of %" PRIu64 " opened and %" PRIu64 " closed",
                      h->events[MOOR_EVENT_CONN_OPENED], h->events[MOOR_EVENT_CONN_CLOSED]);
    if (h->events[MOOR_EVENT_LEASE_HELD] != h->events[MOOR_EVENT_LEASE_RETURNED])
        soak_complain("handles: %" PRIu64 " reported as held, %" PRIu64 " as returned",
                      h->events[MOOR_EVENT_LEASE_HELD], h->events[MOOR_EVENT_LEASE_RETURNED]);
    if (atomic_load(&h->script.dropped) != atomic_load(&h->script.connects))
        soak_complain("handles: %d connects, %d dropped", h->script.connects, h->script.dropped);
}

static void print(struct soak_handles *h)
{
    moor_stats s;
    moor_stats_read(h->pool, &s);
    printf("handles: %" PRIu64 " acquired, %" PRIu64 " of them reused, %" PRIu64
           " connections made, %" PRIu64 " dials failed, %" PRIu64 " flushes, %" PRIu64
           " pauses, %" PRIu64 " held long, %" PRIu64 " canceled\n",
           h->acquired, s.acquires_reused, s.conns_created, s.dials_failed,
           h->events[MOOR_EVENT_POOL_FLUSHED], h->events[MOOR_EVENT_POOL_PAUSED],
           h->events[MOOR_EVENT_LEASE_HELD], h->canceled);
    for (unsigned i = 0; i < 64; i++)
        if (h->failed[i])
            printf("handles: %" PRIu64 " failed with %s\n", h->failed[i],
                   moor_err_name((moor_err)i));
}

void soak_handles_end(struct soak_handles *h)
{
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(h->workers[i].thread, NULL);
        if (!h->workers[i].turns)
            soak_complain("a thread never had its turn");
    }
    pthread_join(h->weather, NULL);
    for (int i = 0; i < ASKERS; i++)
        while (atomic_load(
            &h->askers[i].is_busy)) /* a callback that never comes is found by the alarm */
            soak_sleep_us(1000);
    empty(h);
    print(h);
    soak_check_counts(h->s, "handles", h->pool, h->acquired, h->released);
    if (moor_pool_close(h->pool, soak_patience_ms(h->s))) {
        soak_complain("handles: something is out when the pool is closed");
        return;
    }
    check_events(h);
    pthread_mutex_destroy(&h->box.lock);
    free(h);
}
