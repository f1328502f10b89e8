/*
 * The order of our own DATA. Owns list links only: a turn belongs to its stream. On the thread of
 * the session; never sends, never allocates.
 */
#include "h2/schedule.h"

#include "base/assert.h"

static struct mr_h2_turn *turn_of(struct mr_list *l)
{
    return MR_CONTAINER_OF(l, struct mr_h2_turn, link);
}

void mr_h2_schedule_init(struct mr_h2_schedule *s)
{
    for (size_t u = 0; u < MR_H2_URGENCIES; u++) {
        mr_list_init(&s->in_order[u]);
        mr_list_init(&s->in_turn[u]);
    }
    s->ready = 0;
}

void mr_h2_turn_init(struct mr_h2_turn *t, uint32_t stream_id, uint8_t urgency, bool incremental)
{
    MR_ASSERT(urgency < MR_H2_URGENCIES);
    *t = (struct mr_h2_turn){.stream_id = stream_id,
                             .bytes_left = MR_H2_TURN_BYTES,
                             .urgency = urgency,
                             .incremental = incremental};
    mr_list_init(&t->link);
}

/* Mostly the last: ids grow. One that waited for its window may be older than all the others. */
static void insert_by_id(struct mr_list *head, struct mr_h2_turn *t)
{
    struct mr_list *at = head->prev;
    if (at != head && turn_of(head->next)->stream_id > t->stream_id)
        at = head;
    while (at != head && turn_of(at)->stream_id > t->stream_id)
        at = at->prev;
    mr_list_insert_after(at, &t->link);
}

void mr_h2_schedule_add(struct mr_h2_schedule *s, struct mr_h2_turn *t)
{
    if (mr_h2_turn_is_added(t))
        return;
    if (t->incremental)
        mr_list_push_back(&s->in_turn[t->urgency], &t->link);
    else
        insert_by_id(&s->in_order[t->urgency], t);
    t->bytes_left = MR_H2_TURN_BYTES;
    s->ready |= (uint8_t)(1u << t->urgency);
}

void mr_h2_schedule_remove(struct mr_h2_schedule *s, struct mr_h2_turn *t)
{
    const uint8_t u = t->urgency;
    mr_list_remove(&t->link);
    if (mr_list_is_empty(&s->in_order[u]) && mr_list_is_empty(&s->in_turn[u]))
        s->ready &= (uint8_t) ~(1u << u);
}

struct mr_h2_turn *mr_h2_schedule_pick(const struct mr_h2_schedule *s)
{
    if (!s->ready)
        return NULL;
    const int u = __builtin_ctz(s->ready);
    struct mr_list *first = mr_list_first(&s->in_order[u]);
    if (!first)
        first = mr_list_first(&s->in_turn[u]);
    MR_ASSERT(first);
    return turn_of(first);
}

void mr_h2_schedule_served(struct mr_h2_schedule *s, struct mr_h2_turn *t, size_t bytes)
{
    if (!t->incremental || !mr_h2_turn_is_added(t))
        return;
    if (bytes < t->bytes_left) {
        t->bytes_left -= (uint32_t)bytes;
        return;
    }
    t->bytes_left = MR_H2_TURN_BYTES;
    mr_list_remove(&t->link);
    mr_list_push_back(&s->in_turn[t->urgency], &t->link);
}

void mr_h2_schedule_set(struct mr_h2_schedule *s, struct mr_h2_turn *t, uint8_t urgency,
                        bool incremental)
{
    MR_ASSERT(urgency < MR_H2_URGENCIES);
    if (t->urgency == urgency && t->incremental == incremental)
        return;
    const bool was_added = mr_h2_turn_is_added(t);
    mr_h2_schedule_remove(s, t);
    t->urgency = urgency;
    t->incremental = incremental;
    if (was_added)
        mr_h2_schedule_add(s, t);
}
