/*
 * Tells the pool's on_event what happened. On the shard it happened on; drains: the drainer's thread.
 */
#include "core/pool.h"

#include <mooring/event.h>

const char *moor_event_name(moor_event_type t)
{
    switch (t) {
#define X(name, text)                                                                              \
    case MOOR_EVENT_##name:                                                                        \
        return #name;
        MOOR_EVENTS(X)
#undef X
    default:
        return "UNKNOWN";
    }
}

void mr_pool_event(struct moor_pool *p, const struct mr_upstream *u, moor_event_type type,
                   const moor_fault *fault)
{
    if (!p->options.on_event)
        return;
    const moor_event e = {
        .size = sizeof e,
        .type = type,
        .pool = p,
        .upstream = !u        ? ""
                    : u->host ? u->host
                              : u->path,
        .port = u ? u->port : 0,
        .err = fault ? fault->err : MOOR_OK,
        .os_errno = fault ? fault->os_errno : 0,
        .why = fault && fault->what ? fault->what : "",
    };
    p->options.on_event(p->options.event_user, &e);
}
