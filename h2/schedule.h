/*
 * Whose request body goes next: RFC 9218 10, for what we send. By urgency; within one, what is of no use in
 * parts first, one after the other as their streams were opened, then the incremental ones in turn.
 * Pure; the streams are the caller's. O(1), but adding a non-incremental one, O(those before it).
 */
#ifndef MR_H2_SCHEDULE_H
#define MR_H2_SCHEDULE_H

#include "base/list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MR_H2_URGENCIES = 8, MR_H2_URGENCY_DEFAULT = 3 };
#define MR_H2_QUANTUM 16384 /* bytes an incremental one sends before the next of its urgency */

/* Embedded in a stream. */
struct mr_h2_turn {
    struct mr_list link;
    int32_t id;
    uint8_t urgency;
    bool is_incremental, is_listed;
    bool is_held;  /* and not among those that are picked */
    size_t served; /* bytes of this turn */
};

struct mr_h2_schedule {
    struct mr_list whole[MR_H2_URGENCIES], parts[MR_H2_URGENCIES];
    struct mr_list held;
    uint32_t ready; /* bit per urgency that has some */
};

void mr_h2_schedule_init(struct mr_h2_schedule *q);
void mr_h2_turn_init(struct mr_h2_turn *t, int32_t id, uint32_t urgency, bool is_incremental);
/* It has something to send; nothing if it is there, or held. */
void mr_h2_schedule_add(struct mr_h2_schedule *q, struct mr_h2_turn *t);
/* From wherever it is; nothing if it is not there. */
void mr_h2_schedule_remove(struct mr_h2_schedule *q, struct mr_h2_turn *t);
/* It is listed, and may not send for now: aside, until it is released. */
void mr_h2_schedule_hold(struct mr_h2_schedule *q, struct mr_h2_turn *t);
/* As if it were added now; nothing if it is not held. */
void mr_h2_schedule_release(struct mr_h2_schedule *q, struct mr_h2_turn *t);
void mr_h2_schedule_release_all(struct mr_h2_schedule *q);
/* Where it is listed it goes behind those that have waited for that place. */
void mr_h2_schedule_change(struct mr_h2_schedule *q, struct mr_h2_turn *t, uint32_t urgency,
                           bool is_incremental);
/* NULL: none. It stays. */
struct mr_h2_turn *mr_h2_schedule_pick(const struct mr_h2_schedule *q);
void mr_h2_schedule_served(struct mr_h2_schedule *q, struct mr_h2_turn *t, size_t bytes);

#endif
