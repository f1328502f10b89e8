/*
 * Pools of drivers: what the URL says goes to the driver's open, and becomes the route of new links.
 * The thread of moor_pool_open and moor_pool_replace. Secrets in between are wiped.
 */
#include "base/span.h"
#include "client/open.h"
#include "core/driver.h"
#include "core/driver_stream.h"
#include "core/rack.h"
#include "tls/pool.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const struct mr_protocol handle_protocol = {.name = "handle", .capacity_expected = 1};

const moor_driver *mr_open_find_driver(struct moor_runtime *r, const char *url,
                                       char scheme[MR_SCHEME_MAX])
{
    const size_t len = strcspn(url, ":");
    if (!url[len] || len >= MR_SCHEME_MAX)
        return NULL;
    for (size_t i = 0; i < len; i++)
        scheme[i] = (char)tolower((unsigned char)url[i]);
    scheme[len] = 0;
    return mr_driver_find(r, (moor_span){scheme, len});
}

/* "rediss" is "redis" under TLS, if the driver speaks both. */
static bool is_secure(struct moor_runtime *r, const moor_driver *d, const char *scheme)
{
    const size_t len = strlen(scheme);
    return d->flags & MOOR_DRIVER_STREAM && len > 1 && scheme[len - 1] == 's' &&
           mr_driver_find(r, (moor_span){scheme, len - 1}) == d;
}

/* ---- the route ---- */

static moor_err copy_secret(struct mr_heap *h, const struct mr_url *u, struct mr_route *route)
{
    route->user_len = u->user.len;
    route->password_len = u->password.len;
    route->user = mr_heap_copy_text(h, u->user);
    route->password = mr_heap_copy_text(h, u->password);
    return route->user && route->password ? MOOR_OK : MOOR_ENOMEM;
}

/* What the driver makes of the URL. */
static moor_err open_config(const moor_driver *d, const char *scheme, const struct mr_url *u,
                            const void *config, struct mr_heap *h, void **out_config, char *why,
                            size_t why_cap)
{
    const char *target = u->target.base;
    const char *query = strchr(target, '?');
    const size_t path_len = query ? (size_t)(query - target) : u->target.len;
    char *path = mr_heap_zalloc(h, path_len + 1);
    MR_FAIL_IF(!path, MOOR_ENOMEM);
    size_t len = 0, bad;
    moor_err e = MOOR_OK;
    if (path_len > 1 &&
        !mr_percent_decode((moor_span){target + 1, path_len - 1}, path, &len, &bad)) {
        e = MOOR_EINVAL;
    }
    path[len] = 0;
    const moor_driver_url url = {
        .size = sizeof url,
        .scheme = scheme,
        .host = u->host.base,
        .port = u->port,
        .user = u->user.base,
        .password = u->password.base,
        .path = path,
        .query = query ? query + 1 : "",
    };
    why[0] = 0;
    if (e)
        snprintf(why, why_cap, "%%00 in the path");
    else if (d->open)
        e = d->open(&url, config, out_config, why, why_cap);
    explicit_bzero(path, path_len + 1);
    mr_heap_free(h, path, path_len + 1);
    return e;
}

static moor_err open_route(struct moor_runtime *r, const moor_driver *d, const char *scheme,
                           const struct mr_url *u, const void *config, char *why, size_t why_cap,
                           struct mr_route **out_route)
{
    struct mr_heap *h = &r->heap;
    struct mr_route *route = mr_heap_zalloc(h, sizeof *route);
    MR_FAIL_IF(!route, MOOR_ENOMEM);
    route->driver = d;
    atomic_store(&route->refs, 1);
    moor_err e = copy_secret(h, u, route);
    if (!e)
        e = open_config(d, scheme, u, config, h, &route->config, why, why_cap);
    if (!e) {
        if (why[0])
            mr_log(&r->log, MOOR_LOG_WARN, "pool.open", "%s: %s", d->name, why);
        *out_route = route;
        return MOOR_OK;
    }
    if (!why[0])
        snprintf(why, why_cap, "the driver refuses the URL");
    route->driver = NULL; /* nothing was opened */
    mr_route_unref(r, route);
    return e;
}

/* ---- the pool ---- */

static void unwire(struct moor_pool *p)
{
    struct mr_driver_wiring *w = p->wiring;
    mr_tls_pool_close(p->runtime, p->security);
    if (!w)
        return;
    mr_route_unref(p->runtime, w->route);
    mr_heap_free(&p->runtime->heap, w, sizeof *w);
}

static moor_err wire_stream(struct moor_runtime *r, bool is_tls, struct mr_route *route,
                            struct mr_pool_spec *spec)
{
    struct mr_tls_pool *tls = NULL;
    if (is_tls)
        MR_TRY(mr_tls_pool_open(r, spec->name, "", &spec->options, &tls));
    struct mr_driver_wiring *w = mr_heap_zalloc(&r->heap, sizeof *w);
    if (!w) {
        mr_tls_pool_close(r, tls);
        return MOOR_ENOMEM;
    }
    w->route = route;
    spec->wiring = w;
    spec->security = tls;
    spec->secure = tls ? mr_tls_secure : NULL;
    spec->protocol = &mr_driver_stream_protocol;
    return MOOR_OK;
}

static moor_err find_place(struct moor_pool *p, const struct mr_url *u, bool is_tls,
                           struct mr_upstream **out_upstream)
{
    const struct mr_place place = {
        .host = u->host,
        .port = u->port,
        .path = u->host_kind == MR_URL_PATH ? u->host.base : NULL,
        .is_secure = is_tls,
    };
    return mr_pool_upstream(p, &place, out_upstream);
}

/* The pool ends when the rack has: it counts as one thing more that is live. */
static moor_err add_rack(struct moor_pool *p, struct mr_route *route)
{
    struct mr_rack *k;
    route->upstream = p->upstream;
    route->hooks = p->options.hooks;
    MR_TRY(mr_rack_create(p, route, &k));
    /* The pool is in the runtime's list already: who adopts a shard looks at those. */
    mr_lock_lock(&p->runtime->lock);
    atomic_fetch_add(&p->shards_live, 1);
    p->rack = k;
    mr_lock_unlock(&p->runtime->lock);
    return MOOR_OK;
}

moor_err mr_open_driver(struct moor_runtime *r, const moor_driver *d, const char *scheme,
                        const char *text, const struct mr_url *u, const moor_pool_options *given,
                        moor_pool **out_pool)
{
    const bool is_stream = d->flags & MOOR_DRIVER_STREAM;
    const bool is_tls = is_secure(r, d, scheme);
    char name[300], why[256] = "";
    mr_open_name(u, given, name, sizeof name);
    struct mr_pool_spec spec = {.name = name, .protocol = &handle_protocol, .unwire = unwire};
    MR_TRY(mr_open_options(r, given, name, false, &spec.options));
    struct mr_route *route;
    moor_err e = open_route(r, d, scheme, u, spec.options.driver_config, why, sizeof why, &route);
    if (e)
        return mr_open_refuse(r, e, why, text);
    moor_pool *p = NULL;
    if (is_stream)
        e = wire_stream(r, is_tls, route, &spec);
    mr_tls_options_clear(&spec.options);
    if (!e)
        e = mr_pool_create(r, &spec, &p);
    if (e) {
        if (spec.wiring)
            mr_heap_free(&r->heap, spec.wiring, sizeof(struct mr_driver_wiring));
        mr_tls_pool_close(r, spec.security);
        mr_route_unref(r, route);
        return e;
    }
    e = find_place(p, u, is_tls, &p->upstream);
    if (!e && !is_stream)
        e = add_rack(p, route);
    if (e) {
        if (!is_stream)
            mr_route_unref(r, route);
        (void)!moor_pool_close(p, 0);
        return e;
    }
    *out_pool = p;
    return MOOR_OK;
}

/* ---- another place for an open pool ---- */

static moor_err replace(moor_pool *p, const moor_driver *d, const char *scheme, const char *text,
                        const struct mr_url *u, const moor_pool_options *options)
{
    char why[256] = "";
    struct mr_route *route;
    moor_pool_options given = {.hooks = p->options.hooks};
    if (options) /* an older program's are shorter */
        memcpy(&given, options, options->size < sizeof given ? options->size : sizeof given);
    moor_err e = open_route(p->runtime, d, scheme, u, given.driver_config, why, sizeof why, &route);
    if (e)
        return mr_open_refuse(p->runtime, e, why, text);
    route->hooks = given.hooks;
    e = find_place(p, u, false, &route->upstream);
    if (!e)
        e = mr_rack_reroute(p->rack, route);
    if (e)
        mr_route_unref(p->runtime, route);
    return e;
}

moor_err moor_pool_replace(moor_pool *p, const char *url, const moor_pool_options *options)
{
    MR_FAIL_IF(!p || !url || !p->rack, MOOR_EINVAL);
    struct moor_runtime *r = p->runtime;
    MR_TRY(mr_check_blocking(r));
    char scheme[MR_SCHEME_MAX];
    const moor_driver *d = mr_open_find_driver(r, url, scheme);
    if (d != p->rack->driver)
        return mr_open_refuse(r, MOOR_EINVAL, "a pool is replaced by one of the same driver", url);
    const size_t size = MR_URL_STORAGE(strlen(url));
    char *storage = mr_heap_alloc(&r->heap, size);
    MR_FAIL_IF(!storage, MOOR_ENOMEM);
    struct mr_url u;
    struct mr_url_fault fault;
    moor_err e = mr_url_parse_driver(mr_span_cstr(url), d->port, storage, &u, &fault);
    e = e ? mr_open_refuse(r, e, fault.what, url) : replace(p, d, scheme, url, &u, options);
    explicit_bzero(storage, size);
    mr_heap_free(&r->heap, storage, size);
    return e;
}
