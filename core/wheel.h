/*
 * Hierarchical hashed timer wheel of one shard, 1 ms ticks. Insert, move and remove are O(1).
 * Owner thread only; time is an argument.
 */
#ifndef MR_CORE_WHEEL_H
#define MR_CORE_WHEEL_H

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>

struct mr_timer {
    struct mr_list link; /* zeroed or unlinked = not armed */
    void (*fire)(struct mr_timer *t, int64_t now_ns);
    int64_t at_ns; /* the deadline; fires at or after it, never before */
};

#define MR_WHEEL_LEVELS                                                                            \
    4 /* 64^4 ms = 4.6 hours; later deadlines wait in the last level and are re-filed */
#define MR_WHEEL_SLOTS 64

struct mr_wheel {
    int64_t now_tick;               /* all earlier ticks have fired */
    int64_t due_tick;               /* the time last seen; ahead of now_tick in an expire */
    uint32_t count;                 /* armed timers */
    struct mr_list due;             /* armed in the past; fire first in the next expire */
    uint64_t busy[MR_WHEEL_LEVELS]; /* bit per slot */
    struct mr_list slots[MR_WHEEL_LEVELS][MR_WHEEL_SLOTS];
};

void mr_wheel_init(struct mr_wheel *w, int64_t now_ns);
/* Arms or moves. at_ns in the past fires in the next mr_wheel_expire, never in the one that is
 * running, before all others; MR_NEVER disarms. */
void mr_wheel_set(struct mr_wheel *w, struct mr_timer *t, int64_t at_ns);
/* Not armed is fine. */
void mr_wheel_remove(struct mr_wheel *w, struct mr_timer *t);
static inline bool mr_timer_is_armed(const struct mr_timer *t)
{
    return mr_list_is_linked(&t->link);
}
/* Fires what is due, in tick order; fire() may set and remove any timer, itself too. Returns how many. */
unsigned mr_wheel_expire(struct mr_wheel *w, int64_t now_ns);
/* When mr_wheel_expire next has work, rounded up to a tick, MR_NEVER if nothing is armed. May be
 * early (a cascade), never late. O(levels). */
int64_t mr_wheel_next(const struct mr_wheel *w);

#endif
