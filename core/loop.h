/*
 * One loop: backend, timers, the time of this turn, and work put off to the turn's end.
 * What resolver, dial and conn need of a shard; the shard adds messages and handles around it.
 * Owner thread only.
 */
#ifndef MR_CORE_LOOP_H
#define MR_CORE_LOOP_H

#include "core/io.h"
#include "core/wheel.h"

struct mr_loop;

/* Work for the end of the turn. Zeroed = not queued. Embedded in what it works on. */
struct mr_deferred {
    struct mr_list link;
    void (*run)(struct mr_deferred *d);
};

struct mr_loop {
    struct mr_io *io;             /* owned */
    struct mr_heap *heap;         /* borrowed */
    const struct mr_clock *clock; /* borrowed */
    int64_t now_ns;               /* sampled once a turn; nobody below reads a clock */
    struct mr_wheel wheel;
    struct mr_list deferred; /* mr_deferred: FIFO */
    struct mr_list flushes;  /* mr_deferred: run last before the kernel is entered */
    int64_t gather_max_ns;   /* the owner's: how long mr_loop_gather may ask for; 0 = not at all */
    int64_t gather_ns;       /* asked for this turn */
    uint64_t gathers; /* pauses */
    uint64_t turns;
    uint64_t calls;  /* timers fired and deferred work run: callbacks may have run */
    uint64_t random; /* state of mr_loop_random; seeded by the owner */
};

/* Takes `io`. */
void mr_loop_init(struct mr_loop *l, struct mr_io *io, struct mr_heap *heap,
                  const struct mr_clock *clock, uint64_t seed);
/* Nothing armed or queued may be left (asserted); destroys io. */
void mr_loop_fini(struct mr_loop *l);

/* Runs once, before the kernel is next waited for, never inside the call. Queued twice = once. */
void mr_loop_defer(struct mr_loop *l, struct mr_deferred *d);
/* As mr_loop_defer but after every timer, message and deferred call of the turn: conns flush what was
 * queued on them in one send. */
void mr_loop_flush_later(struct mr_loop *l, struct mr_deferred *d);
void mr_loop_undefer(struct mr_deferred *d);

static inline void mr_loop_timer(struct mr_loop *l, struct mr_timer *t, int64_t at_ns)
{
    mr_wheel_set(&l->wheel, t, at_ns);
}
static inline void mr_loop_untimer(struct mr_loop *l, struct mr_timer *t)
{
    mr_wheel_remove(&l->wheel, t);
}

/* More is about to come: before the kernel is next waited for, the owner sleeps so long and no longer.
 * At most gather_max_ns; asked for twice = the shorter; 0 = nothing. */
static inline void mr_loop_gather(struct mr_loop *l, int64_t ns)
{
    if (ns && (!l->gather_ns || ns < l->gather_ns))
        l->gather_ns = ns;
}

/* Nanoseconds until the loop has something to do by itself: 0 = now, MR_NEVER = not unless events come. */
int64_t mr_loop_timeout(const struct mr_loop *l);
/* First half of a turn: timers and deferred work. Returns how long the second half may sleep, at most
 * timeout_ns. */
int64_t mr_loop_prepare(struct mr_loop *l, int64_t timeout_ns);
/* Second half: one wait, one look at the clock, the events there are. */
moor_err mr_loop_finish(struct mr_loop *l, int64_t timeout_ns, unsigned budget);
/* Both. */
moor_err mr_loop_turn(struct mr_loop *l, int64_t timeout_ns, unsigned budget);

/* Pseudo-random bits for jitter and rotation; not for secrets. */
uint64_t mr_loop_random(struct mr_loop *l);

#endif
