/*
 * Names from a table. See sim_names.h. Each shard's part runs on that shard.
 * Must answer exactly once, never inside the lookup.
 */
#include "tests/support/sim_names.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

struct names_shard {
    struct mr_resolver_shard base;
    struct sim_names *names;
    uint32_t waiting;
};

static struct names_shard *shard_of(struct mr_lookup *req)
{
    return MR_CONTAINER_OF(req->shard, struct names_shard, base);
}

static moor_err names_shard_create(struct mr_resolver *r, struct mr_loop *l,
                                   struct mr_resolver_shard **out_)
{
    struct names_shard *s = calloc(1, sizeof *s);
    MR_ASSERT(s);
    s->base = (struct mr_resolver_shard){.ops = r->ops, .loop = l};
    s->names = MR_CONTAINER_OF(r, struct sim_names, base);
    *out_ = &s->base;
    return MOOR_OK;
}

static void names_shard_destroy(struct mr_resolver_shard *base)
{
    struct names_shard *s = MR_CONTAINER_OF(base, struct names_shard, base);
    MR_ASSERT(s->waiting == 0);
    free(s);
}

static struct mr_addrs *find(struct sim_names *n, const char *host)
{
    struct mr_addr literal;
    if (mr_addr_parse(host, strlen(host), &literal) == MOOR_OK)
        return mr_addrs_create(n->heap, &literal, 1, MR_NEVER);
    for (uint32_t i = 0; i < n->count; i++) {
        if (strcmp(n->names[i].host, host) == 0)
            return mr_addrs_create(n->heap, n->names[i].addresses, n->names[i].count, MR_NEVER);
    }
    return NULL;
}

static void fire(struct mr_timer *t, int64_t now_ns)
{
    struct mr_lookup *req = MR_CONTAINER_OF(t, struct mr_lookup, timer);
    struct names_shard *s = shard_of(req);
    const moor_err err = now_ns >= req->deadline_ns ? MOOR_ETIMEDOUT : req->err;
    struct mr_addrs *addrs = err ? NULL : find(s->names, req->host);
    const bool is_known = addrs || err;
    s->waiting--;
    req->shard = NULL;
    req->done(req, is_known ? err : MOOR_ERESOLVE, addrs, is_known ? "resolve" : "no such name");
    mr_addrs_unref(addrs);
}

static void names_lookup(struct mr_resolver_shard *base, struct mr_lookup *req)
{
    struct names_shard *s = MR_CONTAINER_OF(base, struct names_shard, base);
    struct sim *w = s->names->w;
    MR_ASSERT(!req->shard && req->done && "one question at a time");
    s->waiting++;
    s->names->asked++;
    req->shard = base;
    req->err = sim_chance(w, w->faults.dns_failed) ? MOOR_ERESOLVE : MOOR_OK;
    req->timer.fire = fire;
    int64_t at = base->loop->now_ns;
    if (sim_chance(w, w->faults.dns_late))
        at += sim_between(w, 1, sim_chance(w, 100) ? 2000 : 50) * MR_NS_PER_MS;
    mr_loop_timer(base->loop, &req->timer, at < req->deadline_ns ? at : req->deadline_ns);
}

static void names_cancel(struct mr_resolver_shard *base, struct mr_lookup *req)
{
    struct names_shard *s = MR_CONTAINER_OF(base, struct names_shard, base);
    MR_ASSERT(req->shard == base);
    s->waiting--;
    req->shard = NULL;
    mr_loop_untimer(base->loop, &req->timer);
}

static void names_destroy(struct mr_resolver *r)
{
    struct sim_names *n = MR_CONTAINER_OF(r, struct sim_names, base);
    mr_heap_fini(&n->own);
}

static const struct mr_resolver_ops names_ops = {
    .destroy = names_destroy,
    .shard_create = names_shard_create,
    .shard_destroy = names_shard_destroy,
    .lookup = names_lookup,
    .cancel = names_cancel,
};

void sim_names_init(struct sim_names *n, struct sim *w)
{
    *n = (struct sim_names){.base.ops = &names_ops, .w = w};
    const moor_err e = mr_heap_init(&n->own, SIZE_MAX, true);
    MR_ASSERT(!e);
    n->heap = &n->own;
}

void sim_names_add(struct sim_names *n, const char *host, unsigned last)
{
    uint32_t i = 0;
    while (i < n->count && strcmp(n->names[i].host, host) != 0)
        i++;
    MR_ASSERT(i < SIM_NAMES_MAX);
    if (i == n->count)
        n->names[n->count++].host = host;
    MR_ASSERT(n->names[i].count < SIM_ADDRESSES_MAX);
    const struct in_addr ip = {htonl(0x0a000000u + last)};
    mr_addr_from_ipv4(ip, &n->names[i].addresses[n->names[i].count++]);
}
