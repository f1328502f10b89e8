/*
 * The rig: runtime, shards and pool in the simulated world, and how they are driven. See sim_rig.h.
 * One thread plays all shards, one at a time.
 */
#include "tests/support/sim_rig.h"

#include "base/assert.h"

#include <mooring/driver.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So many turns without the clock moving are a loop that feeds itself. */
enum { IDLE_STEPS_MAX = 20000 };

static void block(struct sim *w, struct io_sim *io, int64_t until_ns);

static void ignore_log(void *user, int level, const char *code, const char *text)
{
    struct sim_rig *g = user;
    if (g->w.is_traced)
        printf("%15s  log %d %s: %s\n", "", level, code, text);
}

/* ---- opening and closing ---- */

void sim_rig_init(struct sim_rig *g, uint64_t seed)
{
    memset(g, 0, sizeof *g);
    sim_init(&g->w, seed);
    g->w.block = NULL;
    g->w.driver = g;
    g->http.w = &g->w;
    g->service = &sim_http_service;
    g->has_one_address = true;
    moor_runtime_options *r = &g->runtime_options;
    moor_runtime_options_init(r);
    r->shards = 0;
    r->recv_buffer_size = 1024;
    r->recv_buffers = 16;
    r->on_log = ignore_log;
    r->log_user = g;
    r->log_level = MOOR_LOG_DEBUG;
    moor_pool_options *p = &g->pool_options;
    moor_pool_options_init(p);
    p->conns_max = 4;
    p->conns_min_idle = 0;
    p->steal_keep = 0;
}

void sim_rig_open(struct sim_rig *g, unsigned shards)
{
    sim_names_init(&g->names, &g->w);
    g->host = sim_host_add_ipv4(&g->w, 1, 80, g->service, &g->http);
    sim_names_add(&g->names, "sim.test", 1);
    const struct mr_runtime_hooks hooks = {
        .clock = &g->w.clock,
        .resolver = &g->names.base,
        .io_create = io_sim_create,
        .io_ctx = &g->w,
        .seed = g->w.seed + 1,
    };
    moor_err e = mr_runtime_create(&g->runtime_options, &hooks, &g->r);
    SIM_CHECK(&g->w, e == MOOR_OK, "mr_runtime_create: %s", moor_err_name(e));
    g->shard_count = shards;
    for (unsigned i = 0; i < shards; i++) {
        e = mr_runtime_add_shard(g->r, &g->shards[i]);
        SIM_CHECK(&g->w, e == MOOR_OK, "mr_runtime_add_shard: %s", moor_err_name(e));
    }
    e = g->driver ? moor_driver_use(g->r, g->driver) : MOOR_OK;
    SIM_CHECK(&g->w, e == MOOR_OK, "moor_driver_use: %s", moor_err_name(e));
    e = moor_pool_open(g->r, g->url ? g->url : "http://sim.test", &g->pool_options, &g->pool);
    SIM_CHECK(&g->w, e == MOOR_OK, "moor_pool_open: %s", moor_err_name(e));
}

static bool is_drained(struct sim_rig *g, void *unused)
{
    (void)unused;
    return g->is_drained;
}

static void on_drained(void *user)
{
    struct sim_rig *g = user;
    SIM_CHECK(&g->w, !g->is_drained, "on_drained ran twice");
    g->is_drained = true;
}

static void check_counters(struct sim_rig *g)
{
    moor_stats s;
    moor_stats_read(g->pool, &s);
    g->last_stats = s;
    SIM_CHECK(&g->w,
              s.conns_open == 0 && s.conns_idle == 0 && s.conns_leased == 0 && s.dials == 0 &&
                  s.waiters == 0 && s.chunks_lent == 0,
              "left over: open %lu idle %lu leased %lu dials %lu waiters %lu chunks %lu",
              (unsigned long)s.conns_open, (unsigned long)s.conns_idle,
              (unsigned long)s.conns_leased, (unsigned long)s.dials, (unsigned long)s.waiters,
              (unsigned long)s.chunks_lent);
    SIM_CHECK(&g->w, s.conns_created == s.conns_closed, "conns created %lu, closed %lu",
              (unsigned long)s.conns_created, (unsigned long)s.conns_closed);
    SIM_CHECK(&g->w, s.requests == g->submissions, "%lu requests counted, %lu made",
              (unsigned long)s.requests, (unsigned long)g->submissions);
}

void sim_rig_leave(struct sim_rig *g, unsigned i)
{
    sim_note(&g->w, "-- shard %u leaves", i);
    g->w.block = block;
    g->is_turning[i] = true;
    mr_shard_enter(g->shards[i]);
    mr_shard_leave(g->shards[i]);
    mr_shard_enter(NULL);
    g->w.block = NULL;
    g->has_left[i] = true; /* and is_turning stays: nobody drives it any more */
}

void sim_rig_rejoin(struct sim_rig *g, unsigned i)
{
    moor_shard *s = NULL;
    const moor_err e = mr_runtime_add_shard(g->r, &s);
    SIM_CHECK(&g->w, e == MOOR_OK, "mr_runtime_add_shard: %s", moor_err_name(e));
    sim_note(&g->w, "-- shard %u is back", i);
    g->shards[i] = s;
    g->has_left[i] = g->is_turning[i] = false;
    g->asleep_until_ns[i] = 0;
}

/* The blocking close drives the shard it is called on, and says in time that it cannot end. */
static void check_busy(struct sim_rig *g)
{
    unsigned i = 0;
    while (g->has_left[i])
        i++;
    mr_shard_enter(g->shards[i]);
    g->is_turning[i] = true;
    g->w.block = block;
    const moor_err e = moor_pool_close(g->pool, 0);
    SIM_CHECK(&g->w, e == MOOR_EBUSY, "a pool with chunks out closed: %s", moor_err_name(e));
    g->w.block = NULL;
    g->is_turning[i] = false;
    mr_shard_enter(NULL);
    sim_rig_ask(g, i);
}

void sim_rig_drain(struct sim_rig *g, int64_t ms)
{
    if (!g->is_draining)
        moor_pool_drain(g->pool, ms, on_drained, g);
    g->is_draining = true;
}

void sim_rig_close(struct sim_rig *g)
{
    struct sim *w = &g->w;
    const int64_t grace = sim_between(w, 0, 50);
    if (!g->is_drained)
        sim_rig_drain(g, grace);
    /* What the application still holds keeps the pool from ending, but its operations end in time. */
    SIM_CHECK(w, sim_rig_until(g, sim_rig_is_quiet, NULL, grace + 5000),
              "%u requests outlive the drain", g->open_calls);
    if (g->held_count > 0)
        check_busy(g);
    while (g->held_count > 0)
        sim_rig_return(g, g->held_count - 1, -1);
    SIM_CHECK(w, sim_rig_until(g, is_drained, NULL, 5000), "the pool does not end");
    check_counters(g);
    for (uint32_t i = 0; i < g->call_count; i++)
        SIM_CHECK(w, g->calls[i].pieces == 0, "request %u: a piece of its body never came back", i);
    moor_err e = moor_pool_close(g->pool, 0);
    SIM_CHECK(w, e == MOOR_OK, "moor_pool_close: %s", moor_err_name(e));
    for (unsigned i = 0; i < g->shard_count; i++) {
        if (!g->has_left[i])
            sim_rig_leave(g, i);
    }
    e = moor_runtime_destroy(g->r, 0);
    SIM_CHECK(w, e == MOOR_OK, "moor_runtime_destroy: %s", moor_err_name(e));
    SIM_CHECK(w, w->files == 0, "%u descriptors are left open", w->files);
    sim_fini(w);
}

/* ---- driving ---- */

static void check_caps(struct sim_rig *g)
{
    if (g->has_one_address)
        SIM_CHECK(&g->w, g->host->sockets <= g->pool_options.conns_max,
                  "%u sockets to the host, %u allowed", g->host->sockets,
                  g->pool_options.conns_max);
}

static struct io_sim *io_of(struct sim_rig *g, unsigned i)
{
    return io_sim_of(g->shards[i]->mine.loop.io);
}

static int64_t timer_of(struct sim_rig *g, unsigned i)
{
    const struct mr_loop *l = &g->shards[i]->mine.loop;
    if (!mr_list_is_empty(&l->deferred) || !mr_list_is_empty(&l->flushes))
        return l->now_ns;
    return mr_wheel_next(&l->wheel);
}

/* In strict runs the shard is embedded in a loop that sleeps for as long as it was told, or until the
 * descriptor wakes it; otherwise it looks at its inbox all the time. */
bool sim_rig_is_due(struct sim_rig *g, unsigned i)
{
    if (io_sim_is_due(io_of(g, i)))
        return true;
    if (g->is_strict)
        return g->asleep_until_ns[i] <= g->w.now_ns;
    return timer_of(g, i) <= g->w.now_ns || !mr_inbox_is_empty(&g->shards[i]->shared.inbox);
}

int64_t sim_rig_next(struct sim_rig *g)
{
    int64_t next = sim_next(&g->w);
    for (unsigned i = 0; i < g->shard_count; i++) {
        const int64_t at = g->is_strict ? g->asleep_until_ns[i] : timer_of(g, i);
        if (!g->is_turning[i] && at < next)
            next = at;
    }
    return next;
}

void sim_rig_ask(struct sim_rig *g, unsigned i)
{
    if (!g->is_strict)
        return;
    struct moor_shard *before = moor_shard_self();
    mr_shard_enter(g->shards[i]);
    const moor_ms t = moor_shard_timeout(g->shards[i]);
    g->asleep_until_ns[i] = t == MOOR_FOREVER ? MR_NEVER : g->w.now_ns + t * MR_NS_PER_MS;
    mr_shard_enter(before);
}

void sim_rig_step(struct sim_rig *g, unsigned i, unsigned budget)
{
    struct moor_shard *before = moor_shard_self();
    sim_note(&g->w, "-- shard %u", i);
    g->is_turning[i] = true;
    mr_shard_enter(g->shards[i]);
    /* A thread's shard sleeps inside its turn and looks at the clock when it wakes. */
    g->shards[i]->mine.loop.now_ns = g->w.now_ns;
    const moor_err e = g->is_strict ? moor_shard_step(g->shards[i], budget)
                                    : mr_shard_turn(g->shards[i], MR_NEVER, budget);
    SIM_CHECK(&g->w, e == MOOR_OK, "a turn failed: %s", moor_err_name(e));
    mr_shard_enter(before);
    g->is_turning[i] = false;
    sim_rig_ask(g, i);
    check_caps(g);
    SIM_CHECK(&g->w, ++g->idle_steps < IDLE_STEPS_MAX, "shard %u is busy and time stands still", i);
}

static void advance(struct sim_rig *g, int64_t to_ns)
{
    if (to_ns > g->w.now_ns)
        g->idle_steps = 0;
    sim_advance(&g->w, to_ns);
    check_caps(g);
}

/* Every shard that is due, in any order; false: none was. */
static bool step_all(struct sim_rig *g)
{
    bool any = false;
    const unsigned first = (unsigned)sim_below(&g->w, g->shard_count);
    sim_run_due(&g->w);
    for (unsigned k = 0; k < g->shard_count; k++) {
        const unsigned i = (first + k) % g->shard_count;
        if (!g->is_turning[i] && sim_rig_is_due(g, i)) {
            sim_rig_step(g, i, 0);
            any = true;
        }
    }
    return any;
}

bool sim_rig_until(struct sim_rig *g, sim_condition condition, void *arg, int64_t limit_ms)
{
    const int64_t end = g->w.now_ns + limit_ms * MR_NS_PER_MS;
    while (!condition(g, arg)) {
        if (step_all(g))
            continue;
        const int64_t next = sim_rig_next(g);
        if (next > end) {
            advance(g, end);
            return condition(g, arg);
        }
        advance(g, next);
    }
    return true;
}

static bool never(struct sim_rig *g, void *arg)
{
    (void)g;
    (void)arg;
    return false;
}

void sim_rig_pass(struct sim_rig *g, int64_t ms)
{
    (void)sim_rig_until(g, never, NULL, ms);
}

/* One shard sleeps inside its turn: the others and the world go on. */
static void block(struct sim *w, struct io_sim *io, int64_t until_ns)
{
    struct sim_rig *g = w->driver;
    struct moor_shard *self = moor_shard_self();
    while (!io_sim_is_due(io) && w->now_ns < until_ns) {
        mr_shard_enter(NULL);
        w->block = NULL;
        const bool any = step_all(g);
        w->block = block;
        mr_shard_enter(self);
        if (any)
            continue;
        const int64_t next = sim_rig_next(g);
        SIM_CHECK(w, next != MR_NEVER || until_ns != MR_NEVER, "everything sleeps for ever");
        advance(g, next < until_ns ? next : until_ns);
    }
}

bool sim_rig_is_quiet(struct sim_rig *g, void *unused)
{
    (void)unused;
    return g->open_calls == 0;
}

bool sim_call_is_done(struct sim_rig *g, void *call)
{
    (void)g;
    return ((struct sim_call *)call)->is_done;
}
