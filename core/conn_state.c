/*
 * The states of a conn: one table of allowed moves, one writer.
 * Runs on the conn's shard.
 */
#include "core/conn.h"

#include "base/assert.h"

#define TO(s) (1u << MR_CONN_##s)

static const struct {
    const char *name;
    uint32_t allowed;
} states[MR_CONN_STATES] = {
    [MR_CONN_NEW] = {"new", TO(CONNECTING) | TO(IDLE) | TO(DEAD)},
    [MR_CONN_CONNECTING] = {"connecting", TO(SECURING) | TO(CLOSING) | TO(DEAD)},
    [MR_CONN_SECURING] = {"securing", TO(PREPARING) | TO(CLOSING)},
    [MR_CONN_PREPARING] = {"preparing", TO(IDLE) | TO(CLOSING)},
    [MR_CONN_IDLE] = {"idle", TO(LEASED) | TO(MOVING) | TO(DRAINING) | TO(CLOSING)},
    [MR_CONN_LEASED] = {"leased", TO(IDLE) | TO(DRAINING) | TO(CLOSING)},
    [MR_CONN_MOVING] = {"moving", TO(DEAD) | TO(CLOSING)},
    [MR_CONN_DRAINING] = {"draining", TO(CLOSING)},
    [MR_CONN_CLOSING] = {"closing", TO(DEAD)},
    [MR_CONN_DEAD] = {"dead", 0},
};

const char *mr_conn_state_name(enum mr_conn_state s)
{
    return s < MR_CONN_STATES ? states[s].name : "unknown";
}

void mr_conn_move_to(struct mr_conn *c, enum mr_conn_state to)
{
    MR_ASSERT(states[c->state_now].allowed & (1u << to));
    c->state_now = (uint8_t)to;
}
