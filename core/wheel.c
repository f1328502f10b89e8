/*
 * Timers of one shard in four wheels of 64 slots. Owner thread only; time is an argument.
 * Must not read a clock or allocate.
 *
 * Numbers of ticks are read as digits in base 64. A timer lies in the wheel of the highest digit in
 * which its tick differs from now_tick, in the slot of its own digit there:
 *
 *     now  = 0 . 2 . 0 . 5        at 0.2.0.9  -> level 0, slot 9: fires when now gets there
 *                                 at 0.2.7.1  -> level 1, slot 7: re-filed when now is 0.2.7.0
 *
 * So in levels 0 to 2 every busy slot is ahead of now's digit, whatever is in a lower level is due
 * before anything in a higher one, and the next event is the first bit of the lowest busy level.
 * The last level is a ring: what is more than a turn away waits in the slot farthest ahead.
 */
#include "core/wheel.h"

#include "base/assert.h"
#include "base/clock.h"

#include <assert.h>
#include <string.h>

enum { DIGIT_BITS = 6, TOP = MR_WHEEL_LEVELS - 1 };
static_assert(MR_WHEEL_SLOTS == 1 << DIGIT_BITS, "a slot per digit, a bit per slot");

static void unlink_timer(struct mr_wheel *w, struct mr_timer *t);
static void file_ahead(struct mr_wheel *w, struct mr_timer *t, int64_t tick);
static int64_t next_event(const struct mr_wheel *w, unsigned *level);
static void cascade(struct mr_wheel *w, struct mr_list *from, struct mr_list *due);
static unsigned fire_all(struct mr_wheel *w, struct mr_list *due, int64_t now_ns);

/* The first tick at or after the deadline. */
static int64_t tick_of(int64_t at_ns)
{
    return at_ns / MR_NS_PER_MS + (at_ns % MR_NS_PER_MS > 0);
}

static unsigned digit(int64_t tick, unsigned level)
{
    return (unsigned)(tick >> (level * DIGIT_BITS)) & (MR_WHEEL_SLOTS - 1);
}

void mr_wheel_init(struct mr_wheel *w, int64_t now_ns)
{
    w->now_tick = now_ns / MR_NS_PER_MS;
    w->due_tick = w->now_tick;
    w->count = 0;
    memset(w->busy, 0, sizeof w->busy);
    mr_list_init(&w->due);
    for (unsigned level = 0; level < MR_WHEEL_LEVELS; level++)
        for (unsigned slot = 0; slot < MR_WHEEL_SLOTS; slot++)
            mr_list_init(&w->slots[level][slot]);
}

void mr_wheel_set(struct mr_wheel *w, struct mr_timer *t, int64_t at_ns)
{
    mr_wheel_remove(w, t);
    t->at_ns = at_ns;
    if (at_ns == MR_NEVER)
        return;
    int64_t tick = tick_of(at_ns);
    /* Not now_tick: inside an expire it lags behind the time that has come, and a callback that
     * arms in the past must not keep that expire going. */
    if (tick <= w->due_tick)
        mr_list_push_back(&w->due, &t->link);
    else
        file_ahead(w, t, tick);
    w->count++;
}

void mr_wheel_remove(struct mr_wheel *w, struct mr_timer *t)
{
    if (!mr_timer_is_armed(t))
        return;
    unlink_timer(w, t);
    w->count--;
}

unsigned mr_wheel_expire(struct mr_wheel *w, int64_t now_ns)
{
    int64_t target = now_ns / MR_NS_PER_MS;
    if (target > w->due_tick)
        w->due_tick = target;
    struct mr_list due;
    mr_list_take_all(&due, &w->due);
    unsigned fired = fire_all(w, &due, now_ns);

    for (;;) {
        unsigned level = 0;
        int64_t tick = next_event(w, &level);
        if (tick > target)
            break;
        w->now_tick = tick;
        unsigned slot = digit(tick, level);
        struct mr_list reached;
        mr_list_take_all(&reached, &w->slots[level][slot]);
        w->busy[level] &= ~(UINT64_C(1) << slot);
        if (level == 0) {
            fired += fire_all(w, &reached, now_ns);
        } else {
            cascade(w, &reached, &due);
            fired += fire_all(w, &due, now_ns);
        }
    }
    /* No busy slot begins before or at target, so every timer stays where it belongs. */
    if (target > w->now_tick)
        w->now_tick = target;
    return fired;
}

int64_t mr_wheel_next(const struct mr_wheel *w)
{
    if (!mr_list_is_empty(&w->due))
        return w->due_tick * MR_NS_PER_MS;
    unsigned level = 0;
    int64_t tick = next_event(w, &level);
    return tick > MR_NEVER / MR_NS_PER_MS ? MR_NEVER : tick * MR_NS_PER_MS;
}

static void unlink_timer(struct mr_wheel *w, struct mr_timer *t)
{
    /* Alone in its list, its neighbour is the head; a head that is a slot says which one. Others
     * are the list of due timers and those of an expire that is firing. */
    if (t->link.next == t->link.prev) {
        uintptr_t at = (uintptr_t)t->link.next - (uintptr_t)&w->slots[0][0];
        if (at < sizeof w->slots) {
            size_t slot = at / sizeof w->slots[0][0];
            w->busy[slot / MR_WHEEL_SLOTS] &= ~(UINT64_C(1) << slot % MR_WHEEL_SLOTS);
        }
    }
    mr_list_remove(&t->link);
}

/* tick > now_tick. */
static void file_ahead(struct mr_wheel *w, struct mr_timer *t, int64_t tick)
{
    unsigned level = (63u - (unsigned)__builtin_clzll((uint64_t)(tick ^ w->now_tick))) / DIGIT_BITS;
    unsigned slot;
    if (level < TOP) {
        slot = digit(tick, level);
    } else {
        level = TOP;
        int64_t now = w->now_tick >> (TOP * DIGIT_BITS);
        int64_t ahead = (tick >> (TOP * DIGIT_BITS)) - now;
        /* The ring reaches no farther; there it is filed again. */
        if (ahead > MR_WHEEL_SLOTS - 1)
            ahead = MR_WHEEL_SLOTS - 1;
        slot = (unsigned)(now + ahead) & (MR_WHEEL_SLOTS - 1);
    }
    w->busy[level] |= UINT64_C(1) << slot;
    mr_list_push_back(&w->slots[level][slot], &t->link);
}

/* The tick at which the first busy slot begins, and its level; INT64_MAX if none is busy. */
static int64_t next_event(const struct mr_wheel *w, unsigned *level)
{
    for (unsigned i = 0; i < TOP; i++) {
        if (!w->busy[i])
            continue;
        *level = i;
        int64_t above = w->now_tick >> ((i + 1) * DIGIT_BITS) << DIGIT_BITS;
        return (above + __builtin_ctzll(w->busy[i])) << (i * DIGIT_BITS);
    }
    if (!w->busy[TOP])
        return INT64_MAX;
    *level = TOP;
    int64_t now = w->now_tick >> (TOP * DIGIT_BITS);
    /* Bit n of `ahead`: the slot n + 1 ahead of now's is busy. */
    unsigned shift = (unsigned)(now + 1) & (MR_WHEEL_SLOTS - 1);
    uint64_t ahead = w->busy[TOP] >> shift | w->busy[TOP] << (-shift & (MR_WHEEL_SLOTS - 1));
    return (now + 1 + __builtin_ctzll(ahead)) << (TOP * DIGIT_BITS);
}

/* now_tick has reached the slot `from`: its timers go to lower levels, those of this very tick to
 * the empty list `due`. */
static void cascade(struct mr_wheel *w, struct mr_list *from, struct mr_list *due)
{
    for (struct mr_list *l; (l = mr_list_pop_front(from));) {
        struct mr_timer *t = MR_CONTAINER_OF(l, struct mr_timer, link);
        int64_t tick = tick_of(t->at_ns);
        if (tick <= w->now_tick)
            mr_list_push_back(due, l);
        else
            file_ahead(w, t, tick);
    }
}

static unsigned fire_all(struct mr_wheel *w, struct mr_list *due, int64_t now_ns)
{
    unsigned fired = 0;
    /* One at a time: a callback may remove any timer that is still to come. */
    for (struct mr_list *l; (l = mr_list_pop_front(due));) {
        struct mr_timer *t = MR_CONTAINER_OF(l, struct mr_timer, link);
        w->count--;
        fired++;
        t->fire(t, now_ns);
    }
    return fired;
}
