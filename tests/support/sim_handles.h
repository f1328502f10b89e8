/*
 * Handle leases in the simulated world: a pool of the dummy driver, whose steps are timers, and askers on its shards.
 * One thread plays shards and holders; what holders do, they do on no shard.
 */
#ifndef TESTS_SUPPORT_SIM_HANDLES_H
#define TESTS_SUPPORT_SIM_HANDLES_H

#include "tests/support/dummy_driver.h"
#include "tests/support/sim_rig.h"

enum { SIM_ASKS_MAX = 256 };

struct sim_handles;

struct sim_ask {
    struct sim_handles *h;
    uint32_t id;
    unsigned shard;
    moor_acquire_options options;
    moor_err sent;
    moor_op op;
    bool is_inside, is_over;
    moor_lease lease; /* while it is held */
    struct dummy *native;
    bool is_held;
    moor_err err;
    int64_t asked_ns, over_ns;
};

struct sim_handles {
    struct sim_rig rig;
    struct dummy_script script;
    struct sim_ask asks[SIM_ASKS_MAX];
    uint32_t ask_count, open_asks;
    void (*told)(struct sim_ask *a);
};

static inline void sim_handles_init(struct sim_handles *h, uint64_t seed)
{
    memset(h, 0, sizeof *h);
    sim_rig_init(&h->rig, seed);
    h->rig.driver = &dummy_driver;
    h->rig.url = "dummy://10.0.0.1:1";
    h->rig.pool_options.driver_config = &h->script;
}

static inline void sim_on_acquired(void *user, const moor_acquired *got)
{
    struct sim_ask *a = user;
    struct sim *w = &a->h->rig.w;
    SIM_CHECK(w, !a->is_inside, "ask %u was told inside the call", a->id);
    SIM_CHECK(w, !a->is_over, "ask %u was told twice", a->id);
    SIM_CHECK(w, moor_shard_self() == a->h->rig.shards[a->shard], "ask %u: another shard", a->id);
    a->is_over = true;
    a->err = got->fault.err;
    a->over_ns = w->now_ns;
    a->h->open_asks--;
    if (!a->err) {
        a->lease = got->lease;
        a->native = got->native;
        a->is_held = true;
        dummy_enter(a->native);
    }
    sim_note(w, "ask %u: %s", a->id, moor_err_name(a->err));
    if (a->h->told)
        a->h->told(a);
}

static inline struct sim_ask *sim_ask_plan(struct sim_handles *h, unsigned shard)
{
    struct sim_ask *a = &h->asks[h->ask_count];
    SIM_CHECK(&h->rig.w, h->ask_count < SIM_ASKS_MAX, "too many asks");
    *a = (struct sim_ask){.h = h, .id = h->ask_count++, .shard = shard};
    moor_acquire_options_init(&a->options);
    return a;
}

static inline bool sim_ask_submit(struct sim_ask *a)
{
    struct sim_handles *h = a->h;
    a->asked_ns = h->rig.w.now_ns;
    a->is_inside = true;
    h->open_asks++;
    mr_shard_enter(h->rig.shards[a->shard]);
    a->sent = moor_acquire(h->rig.pool, &a->options, sim_on_acquired, a, &a->op);
    mr_shard_enter(NULL);
    a->is_inside = false;
    if (a->sent) {
        h->open_asks--;
        a->is_over = true;
        a->err = a->sent;
    }
    sim_note(&h->rig.w, "ask %u: submitted, %s", a->id, moor_err_name(a->sent));
    sim_rig_ask(&h->rig, a->shard);
    return !a->sent;
}

static inline void sim_ask_release(struct sim_ask *a, moor_release_how how)
{
    SIM_CHECK(&a->h->rig.w, a->is_held, "ask %u holds nothing", a->id);
    sim_note(&a->h->rig.w, "ask %u: returns", a->id);
    dummy_leave(a->native);
    a->is_held = false;
    moor_release(a->lease, how);
    moor_release(a->lease, MOOR_DISCARD); /* stale: nothing */
}

static inline bool sim_are_told(struct sim_rig *g, void *h)
{
    (void)g;
    return ((struct sim_handles *)h)->open_asks == 0;
}

/* What is still held comes back, and everything ends. */
static inline void sim_handles_close(struct sim_handles *h)
{
    sim_rig_drain(&h->rig, sim_between(&h->rig.w, 0, 50));
    SIM_CHECK(&h->rig.w, sim_rig_until(&h->rig, sim_are_told, h, 5000), "%u asks outlive the drain",
              h->open_asks);
    for (uint32_t i = 0; i < h->ask_count; i++)
        if (h->asks[i].is_held)
            sim_ask_release(&h->asks[i], MOOR_REUSE);
    sim_rig_close(&h->rig);
    SIM_CHECK(&h->rig.w, h->open_asks == 0, "%u asks were never told", h->open_asks);
    SIM_CHECK(&h->rig.w, atomic_load(&h->script.dropped) == atomic_load(&h->script.connects),
              "%d connects, %d dropped", atomic_load(&h->script.connects),
              atomic_load(&h->script.dropped));
}

#endif
