/*
 * State machines as tables: one table per machine says which moves are allowed, mr_move is the only
 * writer of the state. A state is a promise about which functions may be called; facts of what is
 * in flight are counters beside it. Owner thread of the object only.
 */
#ifndef MR_BASE_STATE_H
#define MR_BASE_STATE_H

#include "base/assert.h"
#include "base/trace.h"

#define MR_FIRST 1 /* where objects begin: exactly one of a machine */
#define MR_LAST  2 /* no way out */

struct mr_state {
    const char *name;
    uint32_t next; /* bit per state that may follow */
    uint32_t flags;
};

struct mr_machine {
    const char *name;                  /* in traces: "conn" */
    const struct mr_state *states;     /* the index is the state */
    unsigned count;                    /* at most 32 */
    bool (*holds)(const void *object); /* invariant after every move in debug builds; NULL = none */
};

/* One byte in the object. */
struct mr_sm {
    uint8_t state;
};

static inline void mr_sm_init(const struct mr_machine *m, struct mr_sm *sm, unsigned first)
{
    MR_ASSERT(first < m->count && (m->states[first].flags & MR_FIRST));
    sm->state = (uint8_t)first;
}

static inline bool mr_can_move(const struct mr_machine *m, const struct mr_sm *sm, unsigned to)
{
    return to < m->count && (m->states[sm->state].next >> to & 1U);
}

/* Prints the refused move, then panics: the panic's own text cannot name the states. */
_Noreturn void mr_move_refused(const struct mr_machine *m, const struct mr_sm *sm, unsigned to);

/* `object` is what holds() judges and what the trace names; trace may be NULL. */
static inline void mr_move(const struct mr_machine *m, struct mr_sm *sm, unsigned to,
                           const void *object, struct mr_trace *trace)
{
    if (MR_UNLIKELY(!mr_can_move(m, sm, to)))
        mr_move_refused(m, sm, to);
    sm->state = (uint8_t)to;
    mr_trace_add(trace, m->states[to].name, (uint64_t)(uintptr_t)object, to);
    MR_DEBUG_ASSERT(!m->holds || m->holds(object));
}

static inline const char *mr_sm_name(const struct mr_machine *m, const struct mr_sm *sm)
{
    return m->states[sm->state].name;
}

/* For tests of tables: one first state, names, no move out of a last one, no move to nowhere, every
 * state reachable. Returns what is wrong as static text, NULL if nothing. */
const char *mr_machine_fault(const struct mr_machine *m);

#endif
