/*
 * Names to addresses. One resolver per runtime: cache, hosts table and name server configuration,
 * shared under one short lock. One resolver shard per loop: its own c-ares channel, polled on that
 * loop.
 *
 * Order of sources: literals, localhost (RFC 6761), the hosts file, the cache, DNS (A and AAAA side
 * by side). Files are read at creation and then only by the resolver's own thread, never on a loop.
 */
#ifndef MR_CORE_RESOLVER_H
#define MR_CORE_RESOLVER_H

#include "core/addrs.h"
#include "core/loop.h"

struct mr_lookup;
struct mr_resolver;
struct mr_resolver_shard;

/* The simulator and tests put their own in place: a script instead of a network. */
struct mr_resolver_ops {
    void (*destroy)(struct mr_resolver *r);
    moor_err (*shard_create)(struct mr_resolver *r, struct mr_loop *l,
                             struct mr_resolver_shard **out_);
    void (*shard_destroy)(struct mr_resolver_shard *s);
    void (*lookup)(struct mr_resolver_shard *s, struct mr_lookup *req);
    void (*cancel)(struct mr_resolver_shard *s, struct mr_lookup *req);
};

/* Bases of every implementation's own structs. */
struct mr_resolver {
    const struct mr_resolver_ops *ops;
};
struct mr_resolver_shard {
    const struct mr_resolver_ops *ops;
    struct mr_loop *loop;
};

struct mr_resolver_config {
    const char *servers;     /* "127.0.0.1:5353,[::1]:53" instead of resolv.conf's; NULL or "" =
                                resolv.conf's */
    const char *hosts_path;  /* NULL = /etc/hosts; "" = none */
    const char *resolv_path; /* NULL = /etc/resolv.conf */
    int64_t ttl_max_ms;      /* ceiling of a positive answer's life */
    int64_t negative_ttl_ms; /* of "no such name" and "no addresses" */
    int64_t files_check_ms;  /* how often the files' dates are looked at; 0 = never, no thread */
    int64_t timeout_ms;      /* per try of a name server, doubled by rounds; 0 = resolv.conf's */
    uint32_t tries;          /* 0 = resolv.conf's */
    uint32_t names_max;      /* cache bound; the one unused for longest goes */
};

/* Fills in the defaults; the texts are borrowed until mr_resolver_create has returned. */
void mr_resolver_config_init(struct mr_resolver_config *c);

/* heap is the runtime's shared one. Reads the files: blocks, not for a loop's thread in mid-turn.
 */
MOOR_NODISCARD moor_err mr_resolver_create(const struct mr_resolver_config *c, struct mr_heap *heap,
                                           struct mr_resolver **out_);
/* Every shard is destroyed before. Joins the resolver's thread. NULL is fine. */
static inline void mr_resolver_destroy(struct mr_resolver *r)
{
    if (r)
        r->ops->destroy(r);
}

/* On the loop's thread. Cheap: the channel is made by the first name that needs DNS. */
MOOR_NODISCARD static inline moor_err
mr_resolver_shard_create(struct mr_resolver *r, struct mr_loop *l, struct mr_resolver_shard **out_)
{
    return r->ops->shard_create(r, l, out_);
}
/* No lookup may be waiting (asserted); queries that nobody waits for are dropped. Leaves no timer,
 * poll or deferred call in the loop. NULL is fine. */
static inline void mr_resolver_shard_destroy(struct mr_resolver_shard *s)
{
    if (s)
        s->ops->shard_destroy(s);
}

/* One question; the caller owns the storage, zeroed before first use, and keeps it until done or
 * cancel. */
struct mr_lookup {
    const char *host;    /* borrowed until done or cancel */
    int64_t deadline_ns; /* absolute, MR_NEVER = none */
    /*
     * Exactly once and never inside mr_resolver_lookup; req may be reused or freed inside it.
     *   OK: addrs is borrowed (mr_addrs_ref to keep it), in the order to try, ports are 0.
     *   ERESOLVE, by what: "no such name", "no addresses", "malformed name", "name server refused",
     *   "name server did not answer", "name server answered nonsense".
     *   ETIMEDOUT: the deadline; the query goes on and feeds the cache.
     *   ENOMEM, EBUSY: local limits.
     * what is static text, never NULL on failure. The shard must not be destroyed inside done.
     */
    void (*done)(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs, const char *what);
    void *ctx;

    /* The resolver's from here on. */
    struct mr_resolver_shard *shard; /* NULL = nothing is under way */
    struct mr_list link;             /* on a query's waiters or the shard's finished list */
    struct mr_timer timer;           /* the deadline */
    struct mr_addrs *addrs;          /* the result until done: a reference */
    const char *what;
    moor_err err;
};

static inline void mr_resolver_lookup(struct mr_resolver_shard *s, struct mr_lookup *req)
{
    s->ops->lookup(s, req);
}
/* done will not be called, the storage is the caller's at once. Nothing where nothing is under way.
 * The query itself goes on and feeds the cache. */
static inline void mr_lookup_cancel(struct mr_lookup *req)
{
    if (req->shard)
        req->shard->ops->cancel(req->shard, req);
}

#endif
