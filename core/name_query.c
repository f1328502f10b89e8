/*
 * Queries. Runs only on the loop's thread; owns the c-ares channels and the queries under way.
 * Never calls a waiter: answers go out through finish, which puts them off.
 */
#include "core/name_query.h"

#include "base/assert.h"
#include "base/hash.h"
#include "core/dns_channel.h"

#include <string.h>

/* RFC 8305 3: how long the other family's answer is waited for. */
#define RESOLUTION_DELAY_NS (INT64_C(50) * MR_NS_PER_MS)
/* A server must not make us ask again for every connection. */
#define TTL_MIN_NS MR_NS_PER_SEC
/* A server's silence or refusal is no statement about the name: remembered only against a stampede.
 */
#define FAILURE_NS MR_NS_PER_SEC
#define FAMILY_MAX (MR_ADDRS_MAX / 2)

/* A channel whose configuration was replaced stays until its last reply. */
struct channel {
    struct mr_dns_channel *dns;
    struct mr_list link;
};

/* One family's half of a query's present candidate. */
struct half {
    struct query *query;
    enum mr_dns_status status;
    bool is_pending;
    uint32_t count;
    uint32_t ttl_s;
    struct in6_addr ip[FAMILY_MAX]; /* IPv4 in the first four bytes: a query stays small */
};

struct query {
    struct mr_map_node node;
    struct mr_name_queries *all;
    struct mr_dns_config *config; /* a reference */
    struct mr_dns_channel *channel;
    struct mr_list waiters; /* mr_lookup */
    struct mr_timer delay;  /* one family is in: RFC 8305 3 */
    uint64_t generation;    /* of the cache, when it began */
    uint32_t candidate;     /* of the search list */
    bool has_seen_no_data;  /* some candidate exists, without addresses */
    bool is_asking;         /* replies may come before both questions are out */
    bool is_late;           /* the delay is over: who comes now takes what is there */
    size_t len;
    char name[MR_DNS_NAME_CAP];
    struct half v6, v4;
};

static void on_reap(struct mr_deferred *d);
static void on_delay(struct mr_timer *t, int64_t now_ns);
static void on_reply(void *ctx, const struct mr_dns_reply *r);
static void ask(struct query *q);
static void step(struct query *q);

void mr_name_queries_init(struct mr_name_queries *qs)
{
    qs->is_ending = false;
    qs->reaper = (struct mr_deferred){.run = on_reap};
    mr_list_init(&qs->channels);
    mr_map_init(&qs->running, qs->buckets, MR_NAME_QUERY_BUCKETS);
}

static void drop_channel(struct mr_name_queries *qs, struct channel *c)
{
    mr_list_remove(&c->link);
    mr_dns_channel_destroy(c->dns);
    mr_heap_free(qs->loop->heap, c, sizeof *c);
}

void mr_name_queries_fini(struct mr_name_queries *qs)
{
    qs->is_ending = true;
    for (struct mr_list *l; (l = mr_list_first(&qs->channels));)
        drop_channel(qs, MR_CONTAINER_OF(l, struct channel, link));
    MR_ASSERT(qs->running.count == 0);
    mr_loop_undefer(&qs->reaper);
}

/* Never inside c-ares here, so a replaced channel may go once it has nothing more to say. */
static void on_reap(struct mr_deferred *d)
{
    struct mr_name_queries *qs = MR_CONTAINER_OF(d, struct mr_name_queries, reaper);
    struct mr_list *first = qs->channels.next;
    for (struct mr_list *l = first, *next; l != &qs->channels; l = next) {
        struct channel *c = MR_CONTAINER_OF(l, struct channel, link);
        next = l->next;
        if (l != first && mr_dns_channel_pending(c->dns) == 0)
            drop_channel(qs, c);
    }
}

static struct query *find_query(struct mr_name_queries *qs, const char *name, size_t len,
                                uint64_t hash)
{
    for (struct mr_map_node *n = mr_map_first(&qs->running, hash); n; n = mr_map_next(n)) {
        struct query *q = MR_CONTAINER_OF(n, struct query, node);
        if (q->len == len && memcmp(q->name, name, len) == 0)
            return q;
    }
    return NULL;
}

/* The channel that asks as `c` says; the first time, and after a change, a new one. */
static struct mr_dns_channel *channel_for(struct mr_name_queries *qs, struct mr_dns_config *c)
{
    struct mr_loop *loop = qs->loop;
    struct mr_list *first = mr_list_first(&qs->channels);
    struct channel *now = first ? MR_CONTAINER_OF(first, struct channel, link) : NULL;
    if (now && mr_dns_channel_config(now->dns) == c)
        return now->dns;
    struct channel *fresh = mr_heap_zalloc(loop->heap, sizeof *fresh);
    if (!fresh)
        return NULL;
    if (mr_dns_channel_create(loop, c, &fresh->dns) != MOOR_OK) {
        mr_heap_free(loop->heap, fresh, sizeof *fresh);
        return NULL;
    }
    mr_list_push_front(&qs->channels, &fresh->link);
    mr_loop_defer(loop, &qs->reaper);
    return fresh->dns;
}

static struct query *start_query(struct mr_name_queries *qs, const char *name, size_t len,
                                 uint64_t hash)
{
    struct mr_heap *heap = qs->loop->heap;
    struct query *q = mr_heap_zalloc(heap, sizeof *q);
    if (!q)
        return NULL;
    q->all = qs;
    /* Before the configuration: an answer of old servers must not outlive their replacement. */
    q->generation = mr_name_cache_generation(qs->cache);
    q->config = mr_name_files_dns(qs->files);
    q->channel = channel_for(qs, q->config);
    if (!q->channel) {
        mr_dns_config_unref(q->config);
        mr_heap_free(heap, q, sizeof *q);
        return NULL;
    }
    mr_list_init(&q->waiters);
    q->delay.fire = on_delay;
    q->len = len;
    memcpy(q->name, name, len + 1);
    q->v6.query = q->v4.query = q;
    mr_map_insert(&qs->running, &q->node, hash);
    return q;
}

static void answer_waiters(struct query *q, const struct mr_name_answer *a)
{
    for (struct mr_list *l; (l = mr_list_first(&q->waiters));) {
        struct mr_addrs *addrs = a->addrs ? mr_addrs_ref(a->addrs) : NULL;
        q->all->finish(MR_CONTAINER_OF(l, struct mr_lookup, link), addrs ? MOOR_OK : MOOR_ERESOLVE,
                       addrs, a->what);
    }
}

static void fail_waiters(struct query *q, moor_err err, const char *what)
{
    for (struct mr_list *l; (l = mr_list_first(&q->waiters));)
        q->all->finish(MR_CONTAINER_OF(l, struct mr_lookup, link), err, NULL, what);
}

static void end_query(struct query *q)
{
    MR_ASSERT(mr_list_is_empty(&q->waiters));
    struct mr_loop *loop = q->all->loop;
    bool was_there = mr_map_remove(&q->all->running, &q->node);
    MR_ASSERT(was_there);
    mr_loop_untimer(loop, &q->delay);
    mr_dns_config_unref(q->config);
    mr_heap_free(loop->heap, q, sizeof *q);
}

static void keep(struct half *h, const struct mr_dns_reply *r)
{
    h->count = r->count < FAMILY_MAX ? r->count : FAMILY_MAX;
    for (uint32_t i = 0; i < h->count; i++) {
        const struct mr_addr *a = &r->list[i];
        if (a->sa.sa_family == AF_INET6)
            h->ip[i] = a->in6.sin6_addr;
        else
            memcpy(&h->ip[i], &a->in.sin_addr, sizeof a->in.sin_addr);
    }
}

/* What the families that are in said, as one list; NULL = no memory. */
static struct mr_addrs *merge(struct query *q)
{
    struct mr_addr list[MR_ADDRS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < q->v6.count; i++)
        mr_addr_from_ipv6(&q->v6.ip[i], &list[count++]);
    for (uint32_t i = 0; i < q->v4.count; i++) {
        struct in_addr v4;
        memcpy(&v4, &q->v4.ip[i], sizeof v4);
        mr_addr_from_ipv4(v4, &list[count++]);
    }
    uint32_t ttl_s = UINT32_MAX;
    if (q->v6.count && q->v6.ttl_s < ttl_s)
        ttl_s = q->v6.ttl_s;
    if (q->v4.count && q->v4.ttl_s < ttl_s)
        ttl_s = q->v4.ttl_s;
    struct mr_name_queries *qs = q->all;
    int64_t ttl_ns = ttl_s * MR_NS_PER_SEC;
    if (ttl_ns > qs->ttl_max_ns)
        ttl_ns = qs->ttl_max_ns;
    if (ttl_ns < TTL_MIN_NS)
        ttl_ns = TTL_MIN_NS;
    return mr_addrs_create(qs->shared, list, count, q->all->loop->now_ns + ttl_ns);
}

static void succeed(struct query *q)
{
    struct mr_name_answer a = {.addrs = merge(q)};
    if (!a.addrs) {
        fail_waiters(q, MOOR_ENOMEM, "no memory for addresses");
        return;
    }
    if (!q->v6.is_pending && !q->v4.is_pending)
        mr_name_cache_put(q->all->cache, q->name, q->len, &a, a.addrs->expires_ns, q->generation);
    answer_waiters(q, &a);
    mr_addrs_unref(a.addrs);
}

static void fail(struct query *q, enum mr_dns_status status)
{
    struct mr_name_queries *qs = q->all;
    int64_t ttl_ns = qs->negative_ttl_ns < FAILURE_NS ? qs->negative_ttl_ns : FAILURE_NS;
    struct mr_name_answer a = {.what = NULL};
    switch (status) {
    case MR_DNS_NO_MEMORY:
    case MR_DNS_GONE:
        fail_waiters(q, MOOR_ENOMEM, "no memory for a query");
        return;
    case MR_DNS_SILENT:
        a.what = "name server did not answer";
        break;
    case MR_DNS_REFUSED:
        a.what = "name server refused";
        break;
    case MR_DNS_BAD_NAME:
        a.what = "malformed name";
        break;
    case MR_DNS_OK:
    case MR_DNS_NO_DATA:
        a.what = "no addresses";
        ttl_ns = qs->negative_ttl_ns;
        break;
    case MR_DNS_NO_NAME:
        a.what = q->has_seen_no_data ? "no addresses" : "no such name";
        ttl_ns = qs->negative_ttl_ns;
        break;
    case MR_DNS_NONSENSE:
        a.what = "name server answered nonsense";
        break;
    }
    mr_name_cache_put(qs->cache, q->name, q->len, &a, q->all->loop->now_ns + ttl_ns, q->generation);
    answer_waiters(q, &a);
}

void mr_name_queries_join(struct mr_name_queries *qs, struct mr_lookup *req, const char *name,
                          size_t len)
{
    uint64_t hash = mr_hash_bytes(name, len, 0);
    struct query *q = find_query(qs, name, len, hash);
    bool is_new = !q;
    if (is_new && qs->running.count >= MR_NAME_QUERIES_MAX) {
        qs->finish(req, MOOR_EBUSY, NULL, "too many names are being asked for");
        return;
    }
    if (is_new)
        q = start_query(qs, name, len, hash);
    if (!q) {
        qs->finish(req, MOOR_ENOMEM, NULL, "no memory for a query");
        return;
    }
    mr_loop_timer(qs->loop, &req->timer, req->deadline_ns);
    mr_list_push_back(&q->waiters, &req->link);
    if (is_new)
        ask(q);
    else if (q->is_late)
        succeed(q);
}

/* Asks for the present candidate, or the next that can be asked for. */
static void ask(struct query *q)
{
    char name[MR_DNS_NAME_CAP];
    do {
        if (!mr_dns_config_candidate(q->config, q->name, q->candidate, name)) {
            fail(q, q->has_seen_no_data ? MR_DNS_NO_DATA : MR_DNS_NO_NAME);
            end_query(q);
            return;
        }
        q->candidate++;
    } while (!name[0]);

    q->v6.is_pending = q->v4.is_pending = true;
    q->v6.count = q->v4.count = 0;
    q->is_asking = true;
    mr_dns_channel_query(q->channel, name, AF_INET6, on_reply, &q->v6);
    mr_dns_channel_query(q->channel, name, AF_INET, on_reply, &q->v4);
    q->is_asking = false;
    step(q);
}

static void on_reply(void *ctx, const struct mr_dns_reply *r)
{
    struct half *h = ctx;
    MR_ASSERT(h->is_pending);
    h->is_pending = false;
    h->status = r->status;
    h->ttl_s = r->ttl_s;
    keep(h, r);
    step(h->query);
}

static void on_delay(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct query *q = MR_CONTAINER_OF(t, struct query, delay);
    q->is_late = true;
    succeed(q);
}

static bool is_no_answer(enum mr_dns_status s)
{
    return s == MR_DNS_NO_NAME || s == MR_DNS_NO_DATA;
}

/* Called when something came in; the only place that decides how a query goes on. */
static void step(struct query *q)
{
    if (q->is_asking)
        return;
    if (q->v6.is_pending || q->v4.is_pending) {
        bool has_some = q->v6.count + q->v4.count > 0;
        struct mr_loop *loop = q->all->loop;
        if (has_some && !q->is_late && !mr_timer_is_armed(&q->delay))
            mr_loop_timer(loop, &q->delay, loop->now_ns + RESOLUTION_DELAY_NS);
        return;
    }
    /* This may have been the last reply a replaced channel was kept for. */
    mr_loop_defer(q->all->loop, &q->all->reaper);
    enum mr_dns_status first = q->v4.status, second = q->v6.status;
    if (q->v6.count + q->v4.count > 0) {
        succeed(q);
    } else if (q->all->is_ending) {
        fail_waiters(q, MOOR_ECANCELED, "the resolver is going");
    } else if (is_no_answer(first) && is_no_answer(second)) {
        q->has_seen_no_data |= first == MR_DNS_NO_DATA || second == MR_DNS_NO_DATA;
        ask(q);
        return;
    } else {
        fail(q, is_no_answer(first) ? second : first);
    }
    end_query(q);
}
