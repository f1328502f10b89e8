/*
 * Which stream of ours sends DATA next, RFC 9218 10: the lowest urgency number first; within one
 * urgency those that are not incremental in the order of their ids, each to its end; then the
 * incremental ones in turn, MR_H2_TURN_BYTES each.
 * Pure and without memory of its own: a turn is a member of its stream. Whoever owns the session
 * owns the thread. Only streams that can send now are added; one without data or window is removed.
 */
#ifndef MR_H2_SCHEDULE_H
#define MR_H2_SCHEDULE_H

#include "base/list.h"
#include "h2/priority.h"

/* One DATA frame of the default size, so that turns change at frame boundaries. */
#define MR_H2_TURN_BYTES 16384u

struct mr_h2_turn {
    struct mr_list link; /* of the schedule while the stream can send */
    uint32_t stream_id;
    uint32_t bytes_left; /* of this turn, if incremental */
    uint8_t urgency;     /* below MR_H2_URGENCIES */
    bool incremental;
};

struct mr_h2_schedule {
    struct mr_list in_order[MR_H2_URGENCIES]; /* not incremental, by stream id */
    struct mr_list in_turn[MR_H2_URGENCIES];  /* incremental, the first one's turn */
    uint8_t ready;                            /* bit u: somebody of urgency u is on a list */
};

void mr_h2_schedule_init(struct mr_h2_schedule *s);
/* Before anything else is done with the turn; it is on no list then. */
void mr_h2_turn_init(struct mr_h2_turn *t, uint32_t stream_id, uint8_t urgency, bool incremental);

/* The stream can send. Harmless if it was added already: it keeps its place. */
void mr_h2_schedule_add(struct mr_h2_schedule *s, struct mr_h2_turn *t);
/* It cannot, or is gone: afterwards nothing points to it. Harmless in any state after init. */
void mr_h2_schedule_remove(struct mr_h2_schedule *s, struct mr_h2_turn *t);
/* Whose DATA goes next, which stays added; NULL = nobody can send. */
struct mr_h2_turn *mr_h2_schedule_pick(const struct mr_h2_schedule *s);
/* It sent so many bytes, which may end its turn. Harmless if it was removed since the pick. */
void mr_h2_schedule_served(struct mr_h2_schedule *s, struct mr_h2_turn *t, size_t bytes);
/* New parameters, added or not. The same ones as before cost it no place. */
void mr_h2_schedule_set(struct mr_h2_schedule *s, struct mr_h2_turn *t, uint8_t urgency,
                        bool incremental);

static inline bool mr_h2_turn_is_added(const struct mr_h2_turn *t)
{
    return mr_list_is_linked(&t->link);
}

#endif
