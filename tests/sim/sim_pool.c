/*
 * The pool and its HTTP client under schedules drawn from a seed: one seed is one run of a few shards,
 * a few dozen requests and whatever goes wrong. See README.md.
 *
 *     sim_pool                    the fixed seeds of the suite
 *     sim_pool --seed=N           one run, with a trace
 *     sim_pool --start=N --runs=M
 *     sim_pool --h2 ...           over HTTP/2
 *     sim_pool --long[=SECONDS]   fresh seeds until the time is up
 */
#include "base/assert.h"
#include "tests/support/sim_h2.h"
#include "tests/support/sim_rig.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static bool is_h2;
static char replay[96];    /* what repeats the run, for whoever has to print it in a hurry */
static uint64_t totals[4]; /* requests, successes, replays, moves */

/* ---- a run's setting ---- */

static int64_t pick(struct sim *w, int64_t a, int64_t b, int64_t c)
{
    const uint64_t n = sim_below(w, 3);
    return n == 0 ? a : n == 1 ? b : c;
}

static void draw_options(struct sim_rig *g)
{
    struct sim *w = &g->w;
    moor_runtime_options *r = &g->runtime_options;
    r->recv_buffer_size = (size_t)512 << sim_below(w, 4);
    r->recv_buffers = (uint32_t)sim_between(w, 8, 32);
    moor_pool_options *p = &g->pool_options;
    p->conns_max = (uint32_t)sim_between(w, 1, 4);
    p->conns_min_idle = sim_chance(w, 300) ? (uint32_t)sim_between(w, 1, p->conns_max) : 0;
    p->dials_max = (uint32_t)sim_between(w, 1, 4);
    p->waiters_max = sim_chance(w, 200) ? (uint32_t)sim_below(w, 6) : 1000;
    p->steal_keep = (uint32_t)sim_below(w, 3);
    p->uses_max = sim_chance(w, 200) ? (uint32_t)sim_between(w, 1, 4) : 0;
    p->connect_timeout_ms = pick(w, 50, 1000, 10000);
    p->acquire_timeout_ms = sim_chance(w, 100) ? sim_between(w, 0, 30) : pick(w, 300, 3000, 30000);
    p->total_timeout_ms = pick(w, 500, 5000, 60000);
    p->first_byte_timeout_ms = pick(w, 50, 1000, MOOR_FOREVER);
    p->expect_continue_timeout_ms = pick(w, 1, 20, 1000);
    p->idle_timeout_ms = pick(w, 20, 500, MOOR_FOREVER);
    p->lifetime_max_ms = pick(w, 50, 1000, MOOR_FOREVER);
    p->lifetime_jitter_percent = (uint32_t)sim_below(w, 51);
    p->backoff_min_ms = sim_between(w, 1, 50);
    p->backoff_max_ms = sim_between(w, 1, 500);
    p->happy_eyeballs_delay_ms = sim_between(w, 10, 300);
    p->window_bytes = (size_t)4096 << sim_below(w, 4);
    p->replays_max = (uint32_t)sim_below(w, 4);
    if (sim_chance(w, 100))
        r->conns_max_runtime = (uint32_t)sim_between(w, 1, 4);
}

static void draw_h2(struct sim_rig *g)
{
    struct sim *w = &g->w;
    moor_pool_options *p = &g->pool_options;
    g->service = &sim_h2_service;
    p->http_version = "2";
    p->h2_streams_max = (uint32_t)sim_between(w, 1, 20);
    p->h2_streams_ideal = (uint32_t)sim_between(w, 1, p->h2_streams_max);
    p->h2_window_max = (size_t)65535 << sim_below(w, 4);
    p->h2_ping_after_ms = pick(w, 5, 100, 5000);
    p->h2_ping_timeout_ms = pick(w, 20, 200, 2000);
    p->check_every_ms = pick(w, 20, 500, 60000);
}

/* Nothing goes wrong and everyone is patient: then every request must succeed. */
static void calm_down(struct sim_rig *g)
{
    g->w.faults = (struct sim_faults){.recv_short = g->w.faults.recv_short,
                                      .recv_late = g->w.faults.recv_late,
                                      .dispatch_held = g->w.faults.dispatch_held,
                                      .send_partial = g->w.faults.send_partial,
                                      .send_late = g->w.faults.send_late,
                                      .cancel_late = g->w.faults.cancel_late,
                                      .split = g->w.faults.split,
                                      .wake_late = g->w.faults.wake_late,
                                      .interim = g->w.faults.interim,
                                      .close_said = g->w.faults.close_said};
    moor_pool_options *p = &g->pool_options;
    p->waiters_max = 1000;
    p->connect_timeout_ms = p->acquire_timeout_ms = p->total_timeout_ms = 600000;
    p->first_byte_timeout_ms = MOOR_FOREVER;
    p->h2_ping_timeout_ms = 600000;
    if (is_h2) /* streams above a limit or a last id that is still on its way go again */
        p->replays_max = 10;
}

static unsigned any_shard(struct sim_rig *g)
{
    unsigned i;
    do
        i = (unsigned)sim_below(&g->w, g->shard_count);
    while (g->has_left[i]);
    return i;
}

static const char *const methods[] = {"GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE"};

static struct sim_call *draw_call(struct sim_rig *g, bool is_calm)
{
    struct sim *w = &g->w;
    struct sim_call *c = sim_call_plan(g);
    c->shard = any_shard(g);
    c->method = methods[sim_below(w, sizeof methods / sizeof *methods)];
    c->wanted = (uint32_t)sim_below(w, sim_chance(w, 200) ? 20000 : 300);
    const bool has_body = c->method[0] == 'P';
    c->body_len = has_body ? (uint32_t)sim_below(w, sim_chance(w, 200) ? 20000 : 300) : 0;
    c->is_streamed = has_body && sim_chance(w, 500);
    c->is_chunked = c->is_streamed && sim_chance(w, 500);
    c->expects = c->is_streamed && sim_chance(w, 300);
    c->is_idempotent = c->method[0] == 'P' && sim_chance(w, 200);
    c->is_asked_close = sim_chance(w, 50);
    c->later = sim_chance(w, 300) ? 300 : 0;
    c->hold = sim_chance(w, 200) ? 700 : 0;
    if (is_calm)
        return c;
    if (sim_chance(w, 200))
        c->timeout_ms = sim_between(w, 1, 300);
    if (sim_chance(w, 100))
        c->connect_timeout_ms = sim_between(w, 0, 100);
    if (sim_chance(w, 100))
        c->first_byte_timeout_ms = sim_between(w, 1, 100);
    return c;
}

/* ---- what happens in it ---- */

struct run {
    struct sim_rig rig;
    bool is_calm, has_outages, has_cancels, has_memory_faults, has_leaves;
    int64_t starved_until[SIM_SHARDS_MAX];
};

static struct sim_call *any_call(struct sim_rig *g)
{
    return g->call_count ? &g->calls[sim_below(&g->w, g->call_count)] : NULL;
}

static void resume_paused(struct sim_rig *g, unsigned per_mille)
{
    for (uint32_t i = 0; i < g->call_count; i++) {
        struct sim_call *c = &g->calls[i];
        if (c->is_paused && sim_chance(&g->w, per_mille)) {
            c->is_paused = false;
            c->later = 0;
            moor_body_resume(c->op);
        }
    }
}

static void begin_request(struct run *u)
{
    struct sim_rig *g = &u->rig;
    struct sim_call *c = draw_call(g, u->is_calm);
    if (sim_chance(&g->w, 100)) {
        c->follow = draw_call(g, u->is_calm);
        c->follow->shard = c->shard;
    }
    if (sim_chance(&g->w, 500))
        sim_call_post(c);
    else
        sim_call_submit(c);
}

static void toggle_host(struct sim_rig *g)
{
    static const enum sim_answer answers[] = {SIM_ACCEPTS, SIM_ACCEPTS, SIM_REFUSES, SIM_IGNORES,
                                              SIM_UNREACHABLE};
    g->host->answer = answers[sim_below(&g->w, sizeof answers / sizeof *answers)];
    sim_note(&g->w, "the host answers connects with %d from now on", (int)g->host->answer);
}

/* One at a time: requests and chunks need a shard that is there. */
static void leave_or_return(struct sim_rig *g)
{
    for (unsigned i = 0; i < g->shard_count; i++) {
        if (g->has_left[i]) {
            sim_rig_rejoin(g, i);
            return;
        }
    }
    if (g->shard_count > 1)
        sim_rig_leave(g, any_shard(g));
}

static void act(struct run *u)
{
    struct sim_rig *g = &u->rig;
    struct sim *w = &g->w;
    struct sim_call *c = any_call(g);
    switch (sim_below(w, 8)) {
    case 0:
        if (u->has_cancels && c && c->is_submitted)
            sim_call_cancel(c);
        break;
    case 1:
        if (u->has_outages)
            toggle_host(g);
        break;
    case 2:
        if (g->held_count > 0)
            sim_rig_return(g, (unsigned)sim_below(w, g->held_count),
                           sim_chance(w, 500) ? (int)any_shard(g) : -1);
        break;
    case 3:
        resume_paused(g, 500);
        if (u->has_leaves && sim_chance(w, 400))
            leave_or_return(g);
        break;
    default:
        if (g->call_count + 2 < SIM_REQUESTS_MAX)
            begin_request(u);
        break;
    }
}

static void step_one(struct run *u)
{
    struct sim_rig *g = &u->rig;
    struct sim *w = &g->w;
    const unsigned i = any_shard(g);
    if (u->starved_until[i] > w->now_ns)
        return;
    if (sim_chance(w, w->faults.shard_starved)) {
        u->starved_until[i] = w->now_ns + sim_between(w, 0, 300) * MR_NS_PER_MS;
        return;
    }
    sim_run_due(w);
    if (!sim_rig_is_due(g, i) && !sim_chance(w, w->faults.wake_spurious))
        return;
    sim_rig_step(g, i, sim_chance(w, 200) ? (unsigned)sim_between(w, 1, 3) : 0);
}

static void pass_time(struct sim_rig *g)
{
    struct sim *w = &g->w;
    /* Not straight to a far deadline: the caller is still to do its part. */
    const int64_t most =
        w->now_ns + sim_between(w, 0, sim_chance(w, 100) ? 2000 : 20) * MR_NS_PER_MS;
    int64_t next = sim_rig_next(g);
    if (next > most || sim_chance(w, 100))
        next = most;
    if (next > w->now_ns)
        g->idle_steps = 0;
    sim_advance(w, next);
}

static void live(struct run *u)
{
    struct sim_rig *g = &u->rig;
    struct sim *w = &g->w;
    const int64_t events = sim_between(w, 20, 600);
    for (int64_t n = 0; n < events; n++) {
        const uint64_t what = sim_below(w, 100);
        if (u->has_memory_faults && sim_chance(w, 50))
            mr_heap_fault_at((long)sim_below(w, 8));
        if (what < 12)
            act(u);
        else if (what < 75)
            step_one(u);
        else
            pass_time(g);
        mr_heap_fault_at(-1);
    }
}

static bool is_calm_and_quiet(struct sim_rig *g, void *unused)
{
    resume_paused(g, 1000);
    while (g->held_count > 0)
        sim_rig_return(g, 0, -1);
    return sim_rig_is_quiet(g, unused);
}

/* Everyone gets the time and the buffers needed: then every request ends by itself. */
static void settle(struct run *u)
{
    struct sim_rig *g = &u->rig;
    for (uint32_t i = 0; i < g->call_count; i++)
        g->calls[i].hold = g->calls[i].later = 0;
    const bool is_over = sim_rig_until(g, is_calm_and_quiet, NULL, 700000);
    SIM_CHECK(&g->w, is_over, "%u requests never end", g->open_calls);
}

/* ---- what must be true of it ---- */

/* Who asked first on a shard was served first. */
static void check_order(struct sim_rig *g)
{
    for (uint32_t i = 0; i < g->call_count; i++) {
        const struct sim_call *a = &g->calls[i];
        if (!a->is_done || a->fault.err || a->replays)
            continue;
        for (uint32_t k = 0; k < g->call_count; k++) {
            const struct sim_call *b = &g->calls[k];
            if (b->shard != a->shard || b->order <= a->order || !b->is_done || b->fault.err ||
                b->replays)
                continue;
            SIM_CHECK(&g->w, b->asked_ns + b->waited_ns >= a->asked_ns + a->waited_ns,
                      "request %u overtook %u", b->id, a->id);
        }
    }
}

static void check_calls(struct run *u)
{
    struct sim_rig *g = &u->rig;
    totals[3] += g->last_stats.conns_moved;
    for (uint32_t i = 0; i < g->call_count; i++) {
        const struct sim_call *c = &g->calls[i];
        if (!c->is_submitted)
            continue;
        SIM_CHECK(&g->w, c->is_done, "request %u never ended", c->id);
        const struct sim_request *r = &g->http.requests[c->id];
        SIM_CHECK(&g->w, !c->fault.safe_to_retry || r->acted == 0,
                  "request %u was called safe to retry, and then the server acted on it", c->id);
        /* A streamed body is gone where HTTP/2 refuses its stream, or leaves it above the last id. */
        const bool may_fail = !u->is_calm || (is_h2 && c->is_streamed && c->fault.safe_to_retry);
        SIM_CHECK(&g->w, may_fail || c->fault.err == MOOR_OK, "request %u failed: %s, %s", c->id,
                  moor_err_name(c->fault.err), c->fault.what);
        totals[0]++;
        totals[1] += c->fault.err == MOOR_OK;
        totals[2] += c->replays;
    }
}

static uint64_t run_seed(uint64_t seed, bool is_traced)
{
    static struct run u; /* large, and half of it stays unused */
    struct sim_rig *g = &u.rig;
    sim_rig_init(g, seed);
    u.rig.w.is_traced = is_traced;
    struct sim *w = &g->w;
    memset(u.starved_until, 0, sizeof u.starved_until);
    sim_draw_faults(w);
    draw_options(g);
    if (is_h2)
        draw_h2(g);
    u.is_calm = sim_chance(w, 100);
    u.has_outages = !u.is_calm && sim_chance(w, 300);
    u.has_cancels = !u.is_calm && sim_chance(w, 500);
    u.has_leaves = !u.is_calm && sim_chance(w, 200);
    u.has_memory_faults = !u.is_calm && sim_chance(w, 100);
    g->is_strict = sim_chance(w, 500);
    g->http.is_tame = u.is_calm;
    if (u.is_calm)
        calm_down(g);
    const bool is_abrupt = !u.is_calm && sim_chance(w, 300);
    sim_rig_open(g, (unsigned)sim_between(w, 1, 3));
    /* A conn without memory for its session is no conn any more while its socket closes. */
    if (is_h2 && u.has_memory_faults)
        g->has_one_address = false;
    if (sim_chance(w, 150)) {
        g->has_one_address = false;
        sim_host_add_ipv4(w, 2, 80, g->service, &g->http);
        sim_names_add(&g->names, "sim.test", 2);
    }
    live(&u);
    if (!is_abrupt)
        settle(&u);
    check_order(g);
    sim_rig_close(g);
    check_calls(&u);
    return w->digest;
}

/* ---- running many ---- */

static void say_seed(void)
{
    ssize_t r = write(STDERR_FILENO, replay, strlen(replay));
    (void)r;
}

static void on_signal(int number)
{
    say_seed();
    signal(number, SIG_DFL);
    raise(number);
}

/* Sanitizers end the process without a signal. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void run_one(uint64_t seed, bool is_traced)
{
    snprintf(replay, sizeof replay, "\nreplay with: sim_pool%s --seed=%" PRIu64 "\n",
             is_h2 ? " --h2" : "", seed);
    alarm(60);
    run_seed(seed, is_traced);
    /* Now and then: the same seed, the same run. */
    if (!is_traced && seed % 500 == 0) {
        const uint64_t first = run_seed(seed, false);
        if (first != run_seed(seed, false)) {
            fprintf(stderr, "a run does not repeat itself\n");
            say_seed();
            exit(1);
        }
    }
}

static uint64_t option(const char *arg, const char *name, uint64_t otherwise)
{
    const size_t len = strlen(name);
    if (strncmp(arg, name, len) != 0 || arg[len] != '=')
        return otherwise;
    return strtoull(arg + len + 1, NULL, 0);
}

int main(int argc, char **argv)
{
    uint64_t start = 1, runs = 10000, seed = 0, seconds = 0;
    bool has_seed = false;
    for (int i = 1; i < argc; i++) {
        has_seed = has_seed || strncmp(argv[i], "--seed=", 7) == 0;
        is_h2 = is_h2 || strcmp(argv[i], "--h2") == 0;
        seed = option(argv[i], "--seed", seed);
        start = option(argv[i], "--start", start);
        runs = option(argv[i], "--runs", runs);
        seconds = strcmp(argv[i], "--long") == 0 ? 120 : option(argv[i], "--long", seconds);
    }
    const int deadly[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
        signal(deadly[i], on_signal);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(say_seed);
    if (has_seed) {
        setvbuf(stdout, NULL, _IOLBF, 0); /* in step with what a debugger prints */
        run_one(seed, true);
        return 0;
    }
    const time_t end = time(NULL) + (time_t)seconds;
    if (seconds) {
        start = (uint64_t)time(NULL) << 20;
        runs = UINT64_MAX;
    }
    uint64_t done = 0;
    for (; done < runs && (!seconds || time(NULL) < end); done++)
        run_one(start + done, false);
    printf("%" PRIu64 " runs from seed %" PRIu64 ": %" PRIu64 " requests, %" PRIu64
           " answered, %" PRIu64 " replays, %" PRIu64 " conns moved\n",
           done, start, totals[0], totals[1], totals[2], totals[3]);
    return 0;
}
