/*
 * The states of a conn: one table of allowed moves, one writer.
 * Runs on the conn's shard. Decides nothing: who moves a conn and when is conn.c's and berth.c's.
 */
#include "core/conn.h"

#include "core/shard.h"

#define TO(s) (1U << MR_CONN_##s)

static const struct mr_state states[MR_CONN_STATES] = {
    [MR_CONN_NEW] = {"new", TO(CONNECTING) | TO(IDLE) | TO(DEAD), MR_FIRST},
    [MR_CONN_CONNECTING] = {"connecting", TO(SECURING) | TO(DEAD), 0},
    [MR_CONN_SECURING] = {"securing", TO(PREPARING) | TO(CLOSING), 0},
    [MR_CONN_PREPARING] = {"preparing", TO(IDLE) | TO(CLOSING), 0},
    [MR_CONN_IDLE] = {"idle", TO(LEASED) | TO(MOVING) | TO(CLOSING), 0},
    [MR_CONN_LEASED] = {"leased", TO(IDLE) | TO(DRAINING) | TO(CLOSING), 0},
    [MR_CONN_MOVING] = {"moving", TO(DEAD) | TO(CLOSING), 0},
    [MR_CONN_DRAINING] = {"draining", TO(CLOSING), 0},
    [MR_CONN_CLOSING] = {"closing", TO(DEAD), 0},
    [MR_CONN_DEAD] = {"dead", 0, MR_LAST},
};

/* What every function called in a state may rely on. */
static bool holds(const void *object)
{
    const struct mr_conn *c = object;
    switch (mr_conn_state(c)) {
    case MR_CONN_IDLE:
    case MR_CONN_MOVING:
        return c->used == 0 && !c->has_ended;
    case MR_CONN_LEASED:
    case MR_CONN_DRAINING:
        return c->used > 0;
    case MR_CONN_DEAD:
        return !c->out && !c->rest && !c->top;
    default:
        return true;
    }
}

const struct mr_machine mr_conn_machine = {"conn", states, MR_CONN_STATES, holds};

const char *mr_conn_state_name(enum mr_conn_state s)
{
    return s < MR_CONN_STATES ? states[s].name : "unknown";
}

void mr_conn_move_to(struct mr_conn *c, enum mr_conn_state to)
{
    mr_move(&mr_conn_machine, &c->sm, to, c, &c->slot.shard->mine.trace);
}
