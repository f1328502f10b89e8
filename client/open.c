/*
 * moor_pool_open and moor_pool_close: wires a URL's scheme to a protocol.
 * Any thread; blocking where the header says so.
 */
#include "base/options.h"
#include "base/span.h"
#include "client/coalesce.h"
#include "client/exchange.h"
#include "client/open.h"
#include "core/shard.h"
#include "core/stream.h"
#include "tls/pool.h"

#include <stdio.h>
#include <string.h>

/* ---- options and name ---- */

static void warn(void *user, const char *text)
{
    mr_log(user, MOOR_LOG_WARN, "options.unknown", "%s", text);
}

moor_err mr_open_options(struct moor_runtime *r, const moor_pool_options *given, const char *name,
                         bool is_any, moor_pool_options *out)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    if (given)
        memcpy(&o, given, given->size < sizeof o ? given->size : sizeof o);
    o.size = sizeof o;
    o.name = name;
    struct mr_options_report report = {.warn = warn, .user = &r->log};
    const moor_err e = mr_pool_options_resolve(&o, mr_options_environment(), &report, out);
    if (e)
        mr_log(&r->log, MOOR_LOG_ERROR, "options", "pool %s: %s", name, report.fault);
    MR_TRY(e);
    if (is_any) /* nobody knows yet what will be asked for again */
        out->conns_min_idle = 0;
    if (out->conns_min_idle > out->conns_max)
        out->conns_min_idle = out->conns_max;
    if (out->backoff_max_ms < out->backoff_min_ms)
        out->backoff_max_ms = out->backoff_min_ms;
    return MOOR_OK;
}

/* ---- wiring ---- */

/* The version of HTTP of a pool, a text that stays. Of h2c: prior knowledge. */
static const char *version_of(const struct mr_url *u, const moor_pool_options *o)
{
    if (u && u->scheme == MR_URL_H2C)
        return "2";
    return !strcmp(o->http_version, "2") ? "2" : !strcmp(o->http_version, "1.1") ? "1.1" : "auto";
}

/* Early data goes before the server has picked: such a pool offers http/1.1 only. */
static moor_err settle_version(struct moor_runtime *r, const struct mr_url *u,
                               struct mr_pool_spec *spec, const char *url)
{
    const char *version = version_of(u, &spec->options);
    const bool is_2 = !strcmp(version, "2");
    if (spec->options.tls_early_data && is_2 && (!u || mr_url_scheme_is_tls(u->scheme)))
        return mr_open_refuse(r, MOOR_EINVAL, "tls_early_data needs http_version 1.1", url);
    spec->options.http_version = spec->options.tls_early_data && !is_2 ? "1.1" : version;
    spec->protocol = is_2 ? &mr_h2_protocol : &mr_h1_protocol;
    return MOOR_OK;
}

/* Under TLS the server picks. */
static const struct mr_protocol *choose(struct mr_upstream *u, const char *alpn)
{
    const bool is_h2 = !strcmp(u->pool->options.http_version, "2");
    if (!u->is_secure)
        return is_h2 ? &mr_h2_protocol : &mr_h1_protocol;
    if (alpn && !strcmp(alpn, "h2"))
        return &mr_h2_protocol;
    return is_h2 ? NULL : &mr_h1_protocol;
}

static struct mr_http_pool *make_http(struct moor_runtime *r, const struct mr_url *u,
                                      const moor_pool_options *o)
{
    struct mr_http_pool *http = mr_heap_zalloc(&r->heap, sizeof *http);
    if (!http)
        return NULL;
    http->limits = mr_h1_limits_default;
    http->limits.head_bytes_max = (uint32_t)o->header_bytes_max;
    http->limits.header_count_max = o->header_count_max;
    if (o->body_bytes_max)
        http->limits.body_bytes_max = o->body_bytes_max;
    if (!u)
        return http;
    char text[MR_BASIC_MAX];
    http->origin.port = u->port;
    http->origin.host = mr_heap_copy_text(&r->heap, u->host);
    size_t len = mr_origin_authority(u, text, sizeof text);
    http->origin.authority = mr_heap_copy_text(&r->heap, (moor_span){text, len});
    bool is_short = !http->origin.host || !http->origin.authority;
    if (u->has_userinfo && !is_short) {
        http->authorization_len = mr_origin_basic(u->user, u->password, text, sizeof text);
        http->authorization =
            mr_heap_copy_text(&r->heap, (moor_span){text, http->authorization_len});
        explicit_bzero(text, sizeof text);
        is_short = !http->authorization;
    }
    if (!is_short)
        return http;
    mr_http_pool_free(&r->heap, http);
    return NULL;
}

void mr_http_pool_free(struct mr_heap *h, struct mr_http_pool *http)
{
    mr_heap_free_text(h, http->origin.host);
    mr_heap_free_text(h, http->origin.authority);
    if (http->authorization) { /* not as a text: once wiped it has no length */
        explicit_bzero(http->authorization, http->authorization_len);
        mr_heap_free(h, http->authorization, http->authorization_len + 1);
    }
    mr_heap_free(h, http, sizeof *http);
}

static void unwire(struct moor_pool *p)
{
    mr_tls_pool_close(p->runtime, p->security);
    if (p->wiring)
        mr_http_pool_free(&p->runtime->heap, p->wiring);
}

moor_err mr_open_refuse(struct moor_runtime *r, moor_err e, const char *what, const char *url)
{
    char masked[128];
    mr_log(&r->log, MOOR_LOG_ERROR, "pool.open", "cannot open a pool: %s: %s", what,
           mr_url_masked(mr_span_cstr(url), masked, sizeof masked));
    return e;
}

void mr_open_name(const struct mr_url *u, const moor_pool_options *given, char *name, size_t cap)
{
    if (given && given->name)
        snprintf(name, cap, "%s", given->name);
    else if (!u)
        snprintf(name, cap, "any");
    else if (u->host_kind == MR_URL_PATH)
        snprintf(name, cap, "unix:%s", (const char *)u->host.base);
    else
        snprintf(name, cap, "%s:%u", (const char *)u->host.base, u->port);
}

static moor_err check_url(struct moor_runtime *r, const struct mr_url *u, bool is_http,
                          const char *text)
{
    if (!is_http && u->scheme != MR_URL_TCP && u->scheme != MR_URL_TLS && u->scheme != MR_URL_UNIX)
        return mr_open_refuse(
            r, MOOR_ENOSYS,
            "this build does not speak the scheme; if a driver does, moor_driver_use it first",
            text);
    if (u && !mr_span_is_equal(u->target, mr_span_cstr(is_http ? "/" : "")))
        return mr_open_refuse(r, MOOR_EINVAL,
                              "a pool's URL has no path or query: give it per request", text);
    if (!is_http && u->has_userinfo)
        return mr_open_refuse(r, MOOR_EINVAL, "a byte stream has no user", text);
    return MOOR_OK;
}

/* Only where there are further hosts, each under its own name; and a handshake that resumes shows no names. */
static void settle_coalescing(const struct mr_url *u, bool may_h2, moor_pool_options *o)
{
    o->h2_coalesce = o->h2_coalesce && !u && may_h2 && !o->tls_server_name;
    if (o->h2_coalesce)
        o->tls_tickets_max = 0;
}

/* The parts of the floors above and below the pool; whatever is there is ended by unwire_spec. */
static moor_err wire(struct moor_runtime *r, const struct mr_url *u, struct mr_pool_spec *spec)
{
    const bool is_http = spec->protocol != &mr_stream_protocol;
    const bool is_plain = u && !mr_url_scheme_is_tls(u->scheme);
    const char *version = spec->options.http_version;
    const bool may_h2 = strcmp(version, "1.1") != 0 && !(is_plain && strcmp(version, "2") != 0);
    const char *alpn = !is_http                ? ""
                       : !may_h2               ? "http/1.1"
                       : !strcmp(version, "2") ? "h2"
                                               : "h2,http/1.1";
    settle_coalescing(u, may_h2, &spec->options);
    struct mr_tls_pool *tls = NULL;
    if (!u || mr_url_scheme_is_tls(u->scheme)) {
        const moor_err e = mr_tls_pool_open(r, spec->name, alpn, &spec->options, &tls);
        if (e && (u || e != MOOR_ENOSYS)) /* an open pool may be for http alone */
            return e;
        spec->security = tls;
        spec->secure = tls ? mr_tls_secure : NULL;
    }
    mr_tls_options_clear(&spec->options);
    if (!is_http)
        return MOOR_OK;
    struct mr_http_pool *http = make_http(r, u, &spec->options);
    MR_FAIL_IF(!http, MOOR_ENOMEM);
    http->may_h2 = may_h2;
    spec->wiring = http;
    if (may_h2) {
        spec->choose = choose;
        spec->capacity_hoped = mr_h2_protocol.capacity_expected;
        spec->meets = spec->options.h2_coalesce ? mr_coalesce_meets : NULL;
    }
    return MOOR_OK;
}

static void unwire_spec(struct moor_runtime *r, const struct mr_pool_spec *spec)
{
    mr_tls_pool_close(r, spec->security);
    if (spec->wiring)
        mr_http_pool_free(&r->heap, spec->wiring);
}

static moor_err add_upstream(struct moor_pool *p, const struct mr_url *u)
{
    struct mr_http_pool *http = p->wiring;
    const struct mr_place place = {
        .host = u->host,
        .port = u->port,
        .path = u->scheme == MR_URL_UNIX ? u->host.base : NULL,
        .is_secure = mr_url_scheme_is_tls(u->scheme),
    };
    MR_TRY(mr_pool_upstream(p, &place, &p->upstream));
    if (http)
        http->upstream = p->upstream;
    return MOOR_OK;
}

static moor_err open_pool(struct moor_runtime *r, const char *text, const struct mr_url *u,
                          const moor_pool_options *given, moor_pool **out_pool)
{
    const bool is_http =
        !u || u->scheme == MR_URL_HTTP || u->scheme == MR_URL_HTTPS || u->scheme == MR_URL_H2C;
    MR_TRY(check_url(r, u, is_http, text));
    char name[300];
    mr_open_name(u, given, name, sizeof name);
    struct mr_pool_spec spec = {
        .name = name,
        .protocol = is_http ? &mr_h1_protocol : &mr_stream_protocol,
        .unwire = unwire,
    };
    MR_TRY(mr_open_options(r, given, name, !u, &spec.options));
    if (is_http)
        MR_TRY(settle_version(r, u, &spec, text));
    moor_pool *p = NULL;
    moor_err e = wire(r, u, &spec);
    if (!e)
        e = mr_pool_create(r, &spec, &p);
    if (e) {
        unwire_spec(r, &spec);
        return e;
    }
    if (u)
        e = add_upstream(p, u);
    if (e) {
        (void)!moor_pool_close(p, 0);
        return e;
    }
    *out_pool = p;
    return MOOR_OK;
}

moor_err moor_pool_open(moor_runtime *r, const char *url, const moor_pool_options *options,
                        moor_pool **out_pool)
{
    MR_FAIL_IF(!r || !out_pool, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(r), MOOR_EFORKED);
    if (!url)
        return open_pool(r, "", NULL, options, out_pool);
    const moor_span text = mr_span_cstr(url);
    const size_t size = MR_URL_STORAGE(text.len);
    char *storage = mr_heap_alloc(&r->heap, size);
    MR_FAIL_IF(!storage, MOOR_ENOMEM);
    struct mr_url u;
    struct mr_url_fault fault;
    char scheme[MR_SCHEME_MAX];
    const moor_driver *d = mr_open_find_driver(r, url, scheme);
    moor_err e = d ? mr_url_parse_driver(text, d->port, storage, &u, &fault)
                   : mr_url_parse(text, storage, &u, &fault);
    if (e)
        e = mr_open_refuse(r, e, fault.what, url);
    else if (d)
        e = mr_open_driver(r, d, scheme, url, &u, options, out_pool);
    else
        e = open_pool(r, url, &u, options, out_pool);
    explicit_bzero(storage, size); /* it may hold a password */
    mr_heap_free(&r->heap, storage, size);
    return e;
}
