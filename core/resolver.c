/*
 * Lookups. A shard's part runs only on its loop's thread; the resolver's part (cache, files) on
 * any. A query belongs to no waiter: it runs to its end and feeds the cache. done never runs inside
 * a call.
 */
#include "core/resolver.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/span.h"
#include "core/dns_channel.h"
#include "core/name_cache.h"
#include "core/name_files.h"

#include <arpa/inet.h>
#include <string.h>

/* RFC 8305 3: how long the other family's answer is waited for. */
#define RESOLUTION_DELAY_NS (INT64_C(50) * MR_NS_PER_MS)
/* A program that asks for ever new names would pile up queries behind a dead server; refuse at this
 * many. */
#define QUERIES_MAX   4096
#define QUERY_BUCKETS 64
/* A server must not make us ask again for every connection. */
#define TTL_MIN_S 1
/* A server's silence or refusal is no statement about the name: remembered only against a stampede.
 */
#define FAILURE_NS MR_NS_PER_SEC
#define FAMILY_MAX (MR_ADDRS_MAX / 2)

struct resolver {
    struct mr_resolver base;
    struct mr_heap *heap; /* shared */
    int64_t ttl_max_ns;
    int64_t negative_ttl_ns;
    int64_t files_check_ns; /* 0 = never */
    struct mr_name_cache cache;
    struct mr_name_files files;
};

/* A channel whose configuration was replaced stays until its last reply. */
struct channel {
    struct mr_dns_channel *dns;
    struct mr_list link; /* shard->channels, the one in use first */
};

struct shard {
    struct mr_resolver_shard base;
    struct resolver *resolver;
    struct mr_list channels;
    struct mr_list finished; /* mr_lookup: done is due */
    struct mr_deferred deliver;
    struct mr_map queries; /* running, by name */
    bool is_destroying;
    struct mr_map_node *buckets[QUERY_BUCKETS];
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
    struct shard *shard;
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

static void resolver_destroy(struct mr_resolver *r);
static moor_err shard_create(struct mr_resolver *r, struct mr_loop *l,
                             struct mr_resolver_shard **out_);
static void shard_destroy(struct mr_resolver_shard *s);
static void lookup(struct mr_resolver_shard *s, struct mr_lookup *req);
static void cancel(struct mr_resolver_shard *s, struct mr_lookup *req);
static void on_dns_changed(void *ctx);
static void on_deliver(struct mr_deferred *d);
static void on_deadline(struct mr_timer *t, int64_t now_ns);
static void on_delay(struct mr_timer *t, int64_t now_ns);
static void on_reply(void *ctx, const struct mr_dns_reply *r);
static void join_query(struct shard *s, struct mr_lookup *req, const char *name, size_t len);
static void ask(struct query *q);
static void step(struct query *q);

static const struct mr_resolver_ops resolver_ops = {
    .destroy = resolver_destroy,
    .shard_create = shard_create,
    .shard_destroy = shard_destroy,
    .lookup = lookup,
    .cancel = cancel,
};

void mr_resolver_config_init(struct mr_resolver_config *c)
{
    *c = (struct mr_resolver_config){
        .hosts_path = "/etc/hosts",
        .resolv_path = "/etc/resolv.conf",
        .ttl_max_ms = 300 * 1000,
        .negative_ttl_ms = 5 * 1000,
        .files_check_ms = 5 * 1000,
        .names_max = 1024,
    };
}

moor_err mr_resolver_create(const struct mr_resolver_config *c, struct mr_heap *heap,
                            struct mr_resolver **out_)
{
    MR_FAIL_IF(c->ttl_max_ms < 0 || c->negative_ttl_ms < 0 || c->files_check_ms < 0, MOOR_EINVAL);
    MR_FAIL_IF(c->files_check_ms > INT32_MAX || c->timeout_ms < 0, MOOR_EINVAL);
    MR_FAIL_IF(c->timeout_ms > 60 * 1000 || c->tries > 16, MOOR_EINVAL);
    struct resolver *r = mr_heap_zalloc(heap, sizeof *r);
    if (!r)
        return MOOR_ENOMEM;
    r->base.ops = &resolver_ops;
    r->heap = heap;
    r->ttl_max_ns = mr_deadline(0, c->ttl_max_ms);
    r->negative_ttl_ns = mr_deadline(0, c->negative_ttl_ms);
    r->files_check_ns = mr_deadline(0, c->files_check_ms);

    struct mr_name_files_config files = {
        .hosts_path = c->hosts_path ? c->hosts_path : "/etc/hosts",
        .resolv_path = c->resolv_path ? c->resolv_path : "/etc/resolv.conf",
        .servers = c->servers,
        .timeout_ms = (uint32_t)c->timeout_ms,
        .tries = c->tries,
        .check_ms = (int)c->files_check_ms,
        .dns_changed = on_dns_changed,
        .ctx = r,
    };
    /* The addresses of this process are seed enough: names come from the application, not from
     * peers. */
    moor_err err = mr_name_cache_init(&r->cache, heap, c->names_max, (uint64_t)(uintptr_t)r);
    if (err)
        goto fail;
    /* Last: its thread may use the cache from now on. */
    err = mr_name_files_init(&r->files, heap, &files);
    if (err)
        goto fail_cache;
    *out_ = &r->base;
    return MOOR_OK;

fail_cache:
    mr_name_cache_fini(&r->cache);
fail:
    mr_heap_free(heap, r, sizeof *r);
    return err;
}

static void resolver_destroy(struct mr_resolver *base)
{
    struct resolver *r = MR_CONTAINER_OF(base, struct resolver, base);
    mr_name_files_fini(&r->files);
    mr_name_cache_fini(&r->cache);
    mr_heap_free(r->heap, r, sizeof *r);
}

/* Other servers may know other names (a VPN came or went). */
static void on_dns_changed(void *ctx)
{
    struct resolver *r = ctx;
    mr_name_cache_forget_all(&r->cache);
}

static moor_err shard_create(struct mr_resolver *base, struct mr_loop *l,
                             struct mr_resolver_shard **out_)
{
    struct shard *s = mr_heap_zalloc(l->heap, sizeof *s);
    if (!s)
        return MOOR_ENOMEM;
    s->base = (struct mr_resolver_shard){.ops = &resolver_ops, .loop = l};
    s->resolver = MR_CONTAINER_OF(base, struct resolver, base);
    s->deliver.run = on_deliver;
    mr_list_init(&s->channels);
    mr_list_init(&s->finished);
    mr_map_init(&s->queries, s->buckets, QUERY_BUCKETS);
    *out_ = &s->base;
    return MOOR_OK;
}

static void drop_channel(struct shard *s, struct channel *c)
{
    mr_list_remove(&c->link);
    mr_dns_channel_destroy(c->dns);
    mr_heap_free(s->base.loop->heap, c, sizeof *c);
}

static void shard_destroy(struct mr_resolver_shard *base)
{
    struct shard *s = MR_CONTAINER_OF(base, struct shard, base);
    s->is_destroying = true;
    MR_ASSERT(mr_list_is_empty(&s->finished) && "lookups are cancelled before their shard goes");
    for (struct mr_list *l; (l = mr_list_first(&s->channels));)
        drop_channel(s, MR_CONTAINER_OF(l, struct channel, link));
    MR_ASSERT(s->queries.count == 0);
    MR_ASSERT(mr_list_is_empty(&s->finished) && "nobody may wait for a query either");
    mr_loop_undefer(&s->deliver);
    mr_heap_free(s->base.loop->heap, s, sizeof *s);
}

/* ---- a lookup ---- */

/* Takes the reference of addrs. */
static void finish(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs, const char *what)
{
    struct shard *s = MR_CONTAINER_OF(req->shard, struct shard, base);
    mr_loop_untimer(s->base.loop, &req->timer);
    mr_list_remove(&req->link);
    req->err = err;
    req->addrs = addrs;
    req->what = what;
    mr_list_push_back(&s->finished, &req->link);
    mr_loop_defer(s->base.loop, &s->deliver);
}

static void finish_with(struct shard *s, struct mr_lookup *req, const struct mr_addr *list,
                        uint32_t count, int64_t expires_ns)
{
    struct mr_addrs *a = mr_addrs_create(s->resolver->heap, list, count, expires_ns);
    if (a)
        finish(req, MOOR_OK, a, NULL);
    else
        finish(req, MOOR_ENOMEM, NULL, "no memory for addresses");
}

/* Lower case, and only what a host name may hold (RFC 1123, and _ which is widely used); an
 * all-digit last label would be a number that is not quite an IPv4 address. Returns the length, 0 =
 * malformed. */
static size_t copy_name(char out_[MR_DNS_NAME_CAP], const char *host)
{
    size_t len = strnlen(host, MR_DNS_NAME_CAP);
    size_t bare = len > 0 && host[len - 1] == '.' ? len - 1 : len;
    size_t label = 0;
    bool is_number = true;
    if (bare == 0 || bare > 253)
        return 0;
    for (size_t i = 0; i < bare; i++) {
        unsigned char c = (unsigned char)host[i];
        if (c == '.') {
            if (label == 0)
                return 0;
            label = 0;
            is_number = true;
            continue;
        }
        if (++label > 63 || !(mr_ascii_is_alpha(c) || mr_ascii_is_digit(c) || c == '-' || c == '_'))
            return 0;
        is_number = is_number && mr_ascii_is_digit(c);
        out_[i] = (char)mr_ascii_lower(c);
    }
    for (size_t i = 0; i < len; i++)
        if (host[i] == '.')
            out_[i] = '.';
    out_[len] = 0;
    return label == 0 || is_number ? 0 : len;
}

static bool is_under(const char *name, size_t len, moor_span zone)
{
    if (len < zone.len || memcmp(name + len - zone.len, zone.base, zone.len) != 0)
        return false;
    return len == zone.len || name[len - zone.len - 1] == '.';
}

static uint32_t find_local(struct shard *s, const char *name, size_t len, struct mr_addr *list,
                           int64_t *out_expires)
{
    *out_expires = MR_NEVER;
    if (is_under(name, len, MR_SPAN("localhost"))) {
        mr_addr_from_ipv6(&in6addr_loopback, &list[0]);
        mr_addr_from_ipv4((struct in_addr){htonl(INADDR_LOOPBACK)}, &list[1]);
        return 2;
    }
    struct mr_hosts *h = mr_name_files_hosts(&s->resolver->files);
    uint32_t count = mr_hosts_find(h, name, len, list, MR_ADDRS_MAX);
    mr_hosts_unref(h);
    if (s->resolver->files_check_ns > 0)
        *out_expires = s->base.loop->now_ns + s->resolver->files_check_ns;
    return count;
}

static void lookup(struct mr_resolver_shard *base, struct mr_lookup *req)
{
    struct shard *s = MR_CONTAINER_OF(base, struct shard, base);
    struct resolver *r = s->resolver;
    MR_ASSERT(!req->shard && "one question at a time for each mr_lookup");
    MR_ASSERT(req->done && req->host);
    req->shard = base;
    req->timer.fire = on_deadline;
    mr_list_init(&req->link);

    struct mr_addr list[MR_ADDRS_MAX];
    char name[MR_DNS_NAME_CAP];
    int64_t expires_ns;
    if (mr_addr_parse(req->host, strnlen(req->host, MR_DNS_NAME_CAP), &list[0]) == MOOR_OK) {
        finish_with(s, req, list, 1, MR_NEVER);
        return;
    }
    size_t len = copy_name(name, req->host);
    if (len == 0) {
        finish(req, MOOR_ERESOLVE, NULL, "malformed name");
        return;
    }
    size_t bare = name[len - 1] == '.' ? len - 1 : len;
    uint32_t count = find_local(s, name, bare, list, &expires_ns);
    if (count > 0) {
        finish_with(s, req, list, count, expires_ns);
        return;
    }
    struct mr_name_answer known;
    if (mr_name_cache_get(&r->cache, name, len, base->loop->now_ns, &known)) {
        finish(req, known.addrs ? MOOR_OK : MOOR_ERESOLVE, known.addrs, known.what);
        return;
    }
    join_query(s, req, name, len);
}

static void cancel(struct mr_resolver_shard *base, struct mr_lookup *req)
{
    mr_loop_untimer(base->loop, &req->timer);
    mr_list_remove(&req->link);
    mr_addrs_unref(req->addrs);
    req->addrs = NULL;
    req->shard = NULL;
}

static void call_done(struct mr_lookup *req)
{
    struct mr_addrs *addrs = req->addrs;
    req->addrs = NULL;
    req->shard = NULL;
    req->done(req, req->err, addrs, req->what);
    mr_addrs_unref(addrs);
}

static void on_deadline(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct mr_lookup *req = MR_CONTAINER_OF(t, struct mr_lookup, timer);
    mr_list_remove(&req->link);
    req->err = MOOR_ETIMEDOUT;
    req->what = "name server did not answer before the deadline";
    call_done(req);
}

static void on_deliver(struct mr_deferred *d)
{
    struct shard *s = MR_CONTAINER_OF(d, struct shard, deliver);
    /* What done asks anew is for the next round. A cancel in between takes its lookup off this
     * list. */
    struct mr_list due;
    mr_list_take_all(&due, &s->finished);
    /* Never inside c-ares here, so a replaced channel may go once it has nothing more to say. */
    for (struct mr_list *l = s->channels.next, *next; l != &s->channels; l = next) {
        struct channel *c = MR_CONTAINER_OF(l, struct channel, link);
        next = l->next;
        if (l != s->channels.next && mr_dns_channel_pending(c->dns) == 0)
            drop_channel(s, c);
    }
    for (struct mr_list *l; (l = mr_list_pop_front(&due));)
        call_done(MR_CONTAINER_OF(l, struct mr_lookup, link));
}

/* ---- a query ---- */

static struct query *find_query(struct shard *s, const char *name, size_t len, uint64_t hash)
{
    for (struct mr_map_node *n = mr_map_first(&s->queries, hash); n; n = mr_map_next(n)) {
        struct query *q = MR_CONTAINER_OF(n, struct query, node);
        if (q->len == len && memcmp(q->name, name, len) == 0)
            return q;
    }
    return NULL;
}

/* The channel that asks as `c` says; the first time, and after a change, a new one. */
static struct mr_dns_channel *channel_for(struct shard *s, struct mr_dns_config *c)
{
    struct mr_loop *loop = s->base.loop;
    struct mr_list *first = mr_list_first(&s->channels);
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
    mr_list_push_front(&s->channels, &fresh->link);
    mr_loop_defer(loop, &s->deliver);
    return fresh->dns;
}

static struct query *start_query(struct shard *s, const char *name, size_t len, uint64_t hash)
{
    struct mr_heap *heap = s->base.loop->heap;
    struct query *q = mr_heap_zalloc(heap, sizeof *q);
    if (!q)
        return NULL;
    q->shard = s;
    /* Before the configuration: an answer of old servers must not outlive their replacement. */
    q->generation = mr_name_cache_generation(&s->resolver->cache);
    q->config = mr_name_files_dns(&s->resolver->files);
    q->channel = channel_for(s, q->config);
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
    mr_map_insert(&s->queries, &q->node, hash);
    return q;
}

static void answer_waiters(struct query *q, const struct mr_name_answer *a)
{
    for (struct mr_list *l; (l = mr_list_first(&q->waiters));) {
        struct mr_addrs *addrs = a->addrs ? mr_addrs_ref(a->addrs) : NULL;
        finish(MR_CONTAINER_OF(l, struct mr_lookup, link), addrs ? MOOR_OK : MOOR_ERESOLVE, addrs,
               a->what);
    }
}

static void fail_waiters(struct query *q, moor_err err, const char *what)
{
    for (struct mr_list *l; (l = mr_list_first(&q->waiters));)
        finish(MR_CONTAINER_OF(l, struct mr_lookup, link), err, NULL, what);
}

static void end_query(struct query *q)
{
    MR_ASSERT(mr_list_is_empty(&q->waiters));
    struct mr_loop *loop = q->shard->base.loop;
    bool was_there = mr_map_remove(&q->shard->queries, &q->node);
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
    struct resolver *r = q->shard->resolver;
    int64_t ttl_ns = ttl_s * MR_NS_PER_SEC;
    if (ttl_ns > r->ttl_max_ns)
        ttl_ns = r->ttl_max_ns;
    if (ttl_ns < TTL_MIN_S * MR_NS_PER_SEC)
        ttl_ns = TTL_MIN_S * MR_NS_PER_SEC;
    return mr_addrs_create(r->heap, list, count, q->shard->base.loop->now_ns + ttl_ns);
}

static void succeed(struct query *q)
{
    struct mr_name_answer a = {.addrs = merge(q)};
    if (!a.addrs) {
        fail_waiters(q, MOOR_ENOMEM, "no memory for addresses");
        return;
    }
    if (!q->v6.is_pending && !q->v4.is_pending)
        mr_name_cache_put(&q->shard->resolver->cache, q->name, q->len, &a, a.addrs->expires_ns,
                          q->generation);
    answer_waiters(q, &a);
    mr_addrs_unref(a.addrs);
}

static void fail(struct query *q, enum mr_dns_status status)
{
    struct resolver *r = q->shard->resolver;
    int64_t ttl_ns = r->negative_ttl_ns < FAILURE_NS ? r->negative_ttl_ns : FAILURE_NS;
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
        ttl_ns = r->negative_ttl_ns;
        break;
    case MR_DNS_NO_NAME:
        a.what = q->has_seen_no_data ? "no addresses" : "no such name";
        ttl_ns = r->negative_ttl_ns;
        break;
    case MR_DNS_NONSENSE:
        a.what = "name server answered nonsense";
        break;
    }
    mr_name_cache_put(&r->cache, q->name, q->len, &a, q->shard->base.loop->now_ns + ttl_ns,
                      q->generation);
    answer_waiters(q, &a);
}

static void join_query(struct shard *s, struct mr_lookup *req, const char *name, size_t len)
{
    uint64_t hash = mr_hash_bytes(name, len, 0);
    struct query *q = find_query(s, name, len, hash);
    bool is_new = !q;
    if (is_new && s->queries.count >= QUERIES_MAX) {
        finish(req, MOOR_EBUSY, NULL, "too many names are being asked for");
        return;
    }
    if (is_new)
        q = start_query(s, name, len, hash);
    if (!q) {
        finish(req, MOOR_ENOMEM, NULL, "no memory for a query");
        return;
    }
    mr_loop_timer(s->base.loop, &req->timer, req->deadline_ns);
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
        struct mr_loop *loop = q->shard->base.loop;
        if (has_some && !q->is_late && !mr_timer_is_armed(&q->delay))
            mr_loop_timer(loop, &q->delay, loop->now_ns + RESOLUTION_DELAY_NS);
        return;
    }
    /* A retired channel is let go by the deliverer. */
    mr_loop_defer(q->shard->base.loop, &q->shard->deliver);
    enum mr_dns_status first = q->v4.status, second = q->v6.status;
    if (q->v6.count + q->v4.count > 0) {
        succeed(q);
    } else if (q->shard->is_destroying) {
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
