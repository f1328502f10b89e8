/*
 * Whose request body goes next. Pure.
 */
#include "h2/schedule.h"

#include "base/assert.h"

void mr_h2_schedule_init(struct mr_h2_schedule *q)
{
    q->ready = 0;
    mr_list_init(&q->held);
    for (int i = 0; i < MR_H2_URGENCIES; i++) {
        mr_list_init(&q->whole[i]);
        mr_list_init(&q->parts[i]);
    }
}

void mr_h2_turn_init(struct mr_h2_turn *t, int32_t id, uint32_t urgency, bool is_incremental)
{
    *t = (struct mr_h2_turn){
        .id = id,
        .urgency = (uint8_t)(urgency < MR_H2_URGENCIES ? urgency : MR_H2_URGENCIES - 1),
        .is_incremental = is_incremental,
    };
}

static struct mr_h2_turn *turn_of(struct mr_list *l)
{
    return MR_CONTAINER_OF(l, struct mr_h2_turn, link);
}

void mr_h2_schedule_add(struct mr_h2_schedule *q, struct mr_h2_turn *t)
{
    if (t->is_listed)
        return;
    t->is_listed = true;
    t->served = 0;
    q->ready |= 1U << t->urgency;
    if (t->is_incremental) {
        mr_list_push_back(&q->parts[t->urgency], &t->link);
        return;
    }
    struct mr_list *list = &q->whole[t->urgency], *at = list->prev;
    while (at != list && turn_of(at)->id > t->id)
        at = at->prev;
    mr_list_insert_after(at, &t->link);
}

void mr_h2_schedule_remove(struct mr_h2_schedule *q, struct mr_h2_turn *t)
{
    if (!t->is_listed)
        return;
    t->is_listed = t->is_held = false;
    mr_list_remove(&t->link);
    if (mr_list_is_empty(&q->whole[t->urgency]) && mr_list_is_empty(&q->parts[t->urgency]))
        q->ready &= ~(1U << t->urgency);
}

void mr_h2_schedule_hold(struct mr_h2_schedule *q, struct mr_h2_turn *t)
{
    MR_ASSERT(t->is_listed);
    mr_h2_schedule_remove(q, t);
    t->is_listed = t->is_held = true;
    mr_list_push_back(&q->held, &t->link);
}

void mr_h2_schedule_release(struct mr_h2_schedule *q, struct mr_h2_turn *t)
{
    if (!t->is_held)
        return;
    mr_h2_schedule_remove(q, t);
    mr_h2_schedule_add(q, t);
}

void mr_h2_schedule_release_all(struct mr_h2_schedule *q)
{
    for (struct mr_list *l; (l = mr_list_first(&q->held));)
        mr_h2_schedule_release(q, turn_of(l));
}

void mr_h2_schedule_change(struct mr_h2_schedule *q, struct mr_h2_turn *t, uint32_t urgency,
                           bool is_incremental)
{
    const bool was_listed = t->is_listed, was_held = t->is_held;
    mr_h2_schedule_remove(q, t);
    mr_h2_turn_init(t, t->id, urgency, is_incremental);
    if (was_listed)
        mr_h2_schedule_add(q, t);
    if (was_held)
        mr_h2_schedule_hold(q, t);
}

struct mr_h2_turn *mr_h2_schedule_pick(const struct mr_h2_schedule *q)
{
    if (!q->ready)
        return NULL;
    const int urgency = __builtin_ctz(q->ready);
    struct mr_list *l = mr_list_first(&q->whole[urgency]);
    return turn_of(l ? l : mr_list_first(&q->parts[urgency]));
}

void mr_h2_schedule_served(struct mr_h2_schedule *q, struct mr_h2_turn *t, size_t bytes)
{
    t->served += bytes;
    if (!t->is_incremental || !t->is_listed || t->is_held || t->served < MR_H2_QUANTUM)
        return;
    t->served = 0;
    mr_list_remove(&t->link);
    mr_list_push_back(&q->parts[t->urgency], &t->link);
}
