/*
 * Lookups. A shard's part runs only on its loop's thread; the resolver's part (cache, files) on
 * any. A query belongs to no waiter: it runs to its end and feeds the cache. done never runs inside
 * a call.
 */
#include "core/resolver.h"

#include "base/assert.h"
#include "base/span.h"
#include "core/name_query.h"

#include <arpa/inet.h>
#include <string.h>

struct resolver {
    struct mr_resolver base;
    struct mr_heap *heap; /* shared */
    int64_t ttl_max_ns;
    int64_t negative_ttl_ns;
    int64_t files_check_ns; /* 0 = never */
    struct mr_name_cache cache;
    struct mr_name_files files;
};

struct shard {
    struct mr_resolver_shard base;
    struct resolver *resolver;
    struct mr_name_queries queries;
    struct mr_list finished; /* mr_lookup: done is due */
    struct mr_deferred deliver;
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
static void finish(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs, const char *what);

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
    mr_list_init(&s->finished);
    s->queries = (struct mr_name_queries){
        .loop = l,
        .cache = &s->resolver->cache,
        .files = &s->resolver->files,
        .shared = s->resolver->heap,
        .ttl_max_ns = s->resolver->ttl_max_ns,
        .negative_ttl_ns = s->resolver->negative_ttl_ns,
        .finish = finish,
    };
    mr_name_queries_init(&s->queries);
    *out_ = &s->base;
    return MOOR_OK;
}

static void shard_destroy(struct mr_resolver_shard *base)
{
    struct shard *s = MR_CONTAINER_OF(base, struct shard, base);
    MR_ASSERT(mr_list_is_empty(&s->finished) && "lookups are cancelled before their shard goes");
    mr_name_queries_fini(&s->queries);
    MR_ASSERT(mr_list_is_empty(&s->finished) && "nobody may wait for a query either");
    mr_loop_undefer(&s->deliver);
    mr_heap_free(s->base.loop->heap, s, sizeof *s);
}

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
    mr_name_queries_join(&s->queries, req, name, len);
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
    for (struct mr_list *l; (l = mr_list_pop_front(&due));)
        call_done(MR_CONTAINER_OF(l, struct mr_lookup, link));
}
