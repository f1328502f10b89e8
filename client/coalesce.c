/*
 * Whose conns serve which hosts. Owner thread: the berths' shard. Must not dial or close anything.
 */
#include "client/coalesce.h"

#include "client/h2_conn.h"
#include "core/shard.h"
#include "tls/filter.h"

#include <sys/socket.h>

/* Names move: so long after its address was looked up a host is looked up again. */
#define BELIEVED_NS (60 * MR_NS_PER_SEC)

/* The port is the upstream's: both have the same. */
static bool is_at(struct mr_conn *c, const struct mr_addrs *addrs)
{
    struct mr_addr peer = {.len = sizeof peer.in6};
    if (getpeername(c->sock.fd, &peer.sa, &peer.len))
        return false;
    mr_addr_set_port(&peer, 0);
    for (uint32_t i = 0; i < addrs->count; i++) {
        struct mr_addr one = addrs->list[i];
        mr_addr_set_port(&one, 0);
        if (mr_addr_is_equal(&one, &peer))
            return true;
    }
    return false;
}

static bool serves(struct mr_conn *c, struct mr_berth *b, const struct mr_addrs *addrs)
{
    const enum mr_conn_state s = mr_conn_state(c);
    return c->protocol == &mr_h2_protocol && (s == MR_CONN_IDLE || s == MR_CONN_LEASED) &&
           !c->has_ended && is_at(c, addrs) && mr_tls_filter_names(c, b->upstream);
}

static bool has_one(struct mr_list *conns, struct mr_berth *b, const struct mr_addrs *addrs)
{
    for (struct mr_list *l = conns->next; l != conns; l = l->next)
        if (serves(MR_CONTAINER_OF(l, struct mr_conn, link), b, addrs))
            return true;
    return false;
}

static void forget(struct mr_instead *i)
{
    mr_addrs_unref(i->addrs);
    i->addrs = NULL;
    i->berth = NULL;
}

bool mr_coalesce_meets(struct mr_berth *b, struct mr_addrs *addrs)
{
    if (!b->upstream->is_secure || b->instead.is_alone)
        return false;
    if (b->waiter_count ==
        0) /* one of several dials; or for conns_min_idle, which counts b's own */
        return b->instead.berth && !MR_OPTION(b->local->pool->options.conns_min_idle);
    for (struct mr_list *l = b->local->berths.next; l != &b->local->berths; l = l->next) {
        struct mr_berth *o = MR_CONTAINER_OF(l, struct mr_berth, link);
        if (o == b || !o->upstream->is_secure || o->upstream->port != b->upstream->port ||
            !(has_one(&o->shared, b, addrs) || has_one(&o->idle, b, addrs) ||
              has_one(&o->busy, b, addrs)))
            continue;
        const int64_t until = mr_shard_now(b->shard) + BELIEVED_NS;
        forget(&b->instead);
        b->instead.berth = o;
        b->instead.addrs = mr_addrs_ref(addrs);
        b->instead.until_ns = addrs->expires_ns < until ? addrs->expires_ns : until;
        mr_berth_redirect(b, o);
        return true;
    }
    return false;
}

struct mr_berth *mr_coalesce_where(struct mr_berth *b)
{
    if (b->instead.berth && mr_shard_now(b->shard) >= b->instead.until_ns)
        forget(&b->instead);
    const bool has_own = !mr_list_is_empty(&b->idle) || !mr_list_is_empty(&b->shared);
    return b->instead.berth && !has_own ? b->instead.berth : b;
}

bool mr_coalesce_covers(struct mr_conn *c, struct mr_berth *b)
{
    if (c->protocol != &mr_h2_protocol || !b->instead.addrs)
        return false;
    struct mr_h2_conn *h = mr_h2_conn_of(c);
    if (h->also != b && serves(c, b, b->instead.addrs))
        h->also = b;
    return h->also == b;
}

void mr_coalesce_end(struct mr_berth *b)
{
    forget(&b->instead);
    b->instead.is_alone = true;
}
