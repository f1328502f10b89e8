/*
 * The rare paths of state machines: a refused move, and judging a table.
 * Any thread; pure, but for the panic.
 */
#include "base/state.h"

#include <stdio.h>

_Noreturn void mr_move_refused(const struct mr_machine *m, const struct mr_sm *sm, unsigned to)
{
    fprintf(stderr, "mooring: %s may not move from %s to %s\n", m->name,
            sm->state < m->count ? m->states[sm->state].name : "nowhere",
            to < m->count ? m->states[to].name : "nowhere");
    mr_panic(__FILE__, __LINE__, "a state machine made a move its table does not allow");
}

/* Bit per state that can be reached from the states in `from`. */
static uint32_t reachable(const struct mr_machine *m, uint32_t from)
{
    for (unsigned round = 0; round < m->count; round++)
        for (unsigned i = 0; i < m->count; i++)
            if (from >> i & 1U)
                from |= m->states[i].next;
    return from;
}

const char *mr_machine_fault(const struct mr_machine *m)
{
    uint32_t first = 0;
    if (m->count == 0 || m->count > 32)
        return "a machine has 1 to 32 states";
    const uint32_t all = m->count == 32 ? UINT32_MAX : (UINT32_C(1) << m->count) - 1;
    for (unsigned i = 0; i < m->count; i++) {
        const struct mr_state *s = &m->states[i];
        if (!s->name)
            return "a state has no name";
        if (s->next & ~all)
            return "a move leads out of the table";
        if ((s->flags & MR_LAST) && s->next)
            return "a move leads out of a last state";
        if (!(s->flags & MR_LAST) && !s->next)
            return "a state that is not last has no way out";
        if ((s->flags & MR_FIRST) && first)
            return "there are two first states";
        if (s->flags & MR_FIRST)
            first = UINT32_C(1) << i;
    }
    if (!first)
        return "no state is first";
    return reachable(m, first) == all ? NULL : "a state cannot be reached";
}
