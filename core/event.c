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

static void tell(struct moor_pool *p, const struct mr_upstream *u, moor_event e)
{
    if (!p->options.on_event)
        return;
    e.size = sizeof e;
    e.pool = p;
    e.upstream = u ? mr_upstream_text(u) : "";
    e.port = u ? u->port : 0;
    p->options.on_event(p->options.event_user, &e);
}

void mr_pool_event(struct moor_pool *p, const struct mr_upstream *u, moor_event_type type,
                   const moor_fault *fault)
{
    tell(p, u,
         (moor_event){
             .type = type,
             .err = fault ? fault->err : MOOR_OK,
             .os_errno = fault ? fault->os_errno : 0,
             .why = fault && fault->what ? fault->what : "",
         });
}

void mr_pool_tell_lease(struct mr_upstream *u, const char *site, moor_ns held, bool is_back)
{
    struct moor_pool *p = u->pool;
    const char *where = site ? site : "a place not known";
    const long long ms = held / MR_NS_PER_MS;
    if (is_back)
        mr_log(&p->runtime->log, MOOR_LOG_WARN, "pool.lease_returned",
               "pool %s: the lease acquired at %s came back after %lld ms: it was slow, not lost",
               p->name, where, ms);
    else
        mr_log(&p->runtime->log, MOOR_LOG_WARN, "pool.lease_held",
               "pool %s: a lease acquired at %s is held for %lld ms: is it released?", p->name,
               where, ms);
    tell(p, u,
         (moor_event){.type = is_back ? MOOR_EVENT_LEASE_RETURNED : MOOR_EVENT_LEASE_HELD,
                      .why = "",
                      .site = where,
                      .held = held});
}

void mr_pool_event_tls(const struct mr_upstream *u, moor_event_type type, const moor_tls_info *info)
{
    tell(u->pool, u, (moor_event){.type = type, .why = "", .tls = info});
}
