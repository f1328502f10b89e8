/*
 * A whole client in the simulated world: a runtime, one to four shards driven by this thread, a pool
 * over a simulated HTTP server, and requests that check everything they are promised. What the random
 * runs and the scripted scenarios of tests/sim stand on.
 */
#ifndef TESTS_SUPPORT_SIM_RIG_H
#define TESTS_SUPPORT_SIM_RIG_H

#include "core/pool.h"
#include "core/runtime.h"
#include "core/shard.h"
#include "tests/support/io_sim.h"
#include "tests/support/sim_http.h"
#include "tests/support/sim_names.h"

#include <mooring/http.h>

enum { SIM_SHARDS_MAX = 4, SIM_HELD_MAX = 32, SIM_PIECES_MAX = 8 };

struct sim_rig;

/* One request. Its id is its index in rig->calls. */
struct sim_call {
    struct sim_rig *rig;
    uint32_t id;
    unsigned shard;
    /* The plan; set by sim_call_plan, may be changed before it is submitted. */
    const char *method;
    uint32_t wanted; /* bytes of the answer's body */
    uint32_t body_len;
    bool is_streamed, is_chunked, expects, is_idempotent, is_asked_close;
    moor_ms timeout_ms, connect_timeout_ms, first_byte_timeout_ms;
    unsigned hold, later;    /* per mille: chunks kept, MOOR_BODY_LATER */
    int64_t delay_ms;        /* the server takes so long; MOOR_FOREVER */
    struct sim_call *follow; /* submitted from this one's on_done */
    /* What became of it. */
    moor_task task, resume;
    bool is_posted, is_submitted, is_done, is_in_call, is_paused, has_head, is_bogus;
    moor_err submitted; /* what moor_http_send said */
    moor_op op;
    moor_fault fault;
    moor_why why;
    bool has_why, is_reused;
    int64_t asked_ns, done_ns, waited_ns;
    uint32_t replays, given;
    uint64_t bytes;
    int pieces;     /* lent to the library and not yet back */
    uint64_t order; /* of its submission on its shard */
};

struct sim_held {
    moor_chunk chunk;
    uint32_t id;
    uint64_t at;
};

struct sim_rig {
    struct sim w;
    struct sim_http http;
    struct sim_names names;
    struct sim_host *host; /* 10.0.0.1:80, the only address of sim.test unless a test adds others */
    moor_runtime *r;
    moor_shard *shards[SIM_SHARDS_MAX];
    unsigned shard_count;
    bool is_turning[SIM_SHARDS_MAX], has_left[SIM_SHARDS_MAX];
    int64_t asleep_until_ns[SIM_SHARDS_MAX]; /* strict runs: what moor_shard_timeout said */
    moor_pool *pool;
    const char *url;                   /* NULL: http://sim.test */
    const struct sim_service *service; /* the host's; sim_http's unless it is set before */
    const struct moor_driver *driver;  /* made known before, or NULL */
    moor_runtime_options runtime_options;
    moor_pool_options pool_options;
    struct sim_call calls[SIM_REQUESTS_MAX];
    uint32_t call_count, open_calls;
    uint64_t submissions;
    struct sim_held held[SIM_HELD_MAX];
    unsigned held_count;
    bool is_draining, is_drained;
    moor_stats last_stats; /* as the pool ended */
    bool is_strict;        /* a shard runs only when it is due: lost wakes show */
    bool has_one_address;  /* then the caps are exact at the host */
    uint64_t idle_steps;   /* since the clock last moved */
    void (*on_done)(struct sim_call *c);
};

/* Fills options with defaults that suit virtual time; the world has no faults yet. */
void sim_rig_init(struct sim_rig *g, uint64_t seed);
/* Runtime, shards, pool, as the options say. */
void sim_rig_open(struct sim_rig *g, unsigned shards);
/* The pool takes no new work; sim_rig_close follows. */
void sim_rig_drain(struct sim_rig *g, int64_t ms);
/* Everything ends, and everything is given back; checks it. */
void sim_rig_close(struct sim_rig *g);

/* The shard leaves the runtime; the others go on meanwhile. Never the last one before the end. */
void sim_rig_leave(struct sim_rig *g, unsigned i);

/* Adopted again, as a new shard in an old one's place. */
void sim_rig_rejoin(struct sim_rig *g, unsigned i);

/* A new call with a harmless plan: GET of 10 bytes on shard 0, no timeouts. */
struct sim_call *sim_call_plan(struct sim_rig *g);
/* On its shard, between turns; false: refused, c->submitted says why. */
bool sim_call_submit(struct sim_call *c);
/* Through a posted task. */
void sim_call_post(struct sim_call *c);
/* From no shard at all. */
void sim_call_cancel(struct sim_call *c);

/* After calls on a shard outside its turns: what an embedding loop does before it sleeps. */
void sim_rig_ask(struct sim_rig *g, unsigned i);
/* One turn of one shard. */
void sim_rig_step(struct sim_rig *g, unsigned i, unsigned budget);
bool sim_rig_is_due(struct sim_rig *g, unsigned i);
/* When something is due next, at a shard or in the world. */
int64_t sim_rig_next(struct sim_rig *g);
/* Returns the held chunk after comparing its bytes once more. `from`: a shard, or -1 for none. */
void sim_rig_return(struct sim_rig *g, unsigned i, int from);

typedef bool (*sim_condition)(struct sim_rig *g, void *arg);
/* Turns and time until the condition holds; false when the deadline has passed. */
bool sim_rig_until(struct sim_rig *g, sim_condition condition, void *arg, int64_t limit_ms);
/* Time passes. */
void sim_rig_pass(struct sim_rig *g, int64_t ms);
bool sim_call_is_done(struct sim_rig *g, void *call);
bool sim_rig_is_quiet(struct sim_rig *g, void *unused);

#endif
