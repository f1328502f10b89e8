/*
 * moor_http_send: checks a request, serialises it, and starts its exchange.
 * Runs on a shard. On failure nothing is kept, and the log says what was wrong and where.
 */
#include "base/span.h"
#include "base/url.h"
#include "client/exchange.h"
#include "core/shard.h"

#include <string.h>

struct target {
    struct mr_upstream *upstream;
    moor_span authority, path;
    char *storage; /* what the spans point into, or NULL */
    size_t storage_size;
    char userinfo[MR_BASIC_MAX]; /* "Basic ..." of the URL */
    size_t userinfo_len;
};

static moor_err refuse(struct moor_pool *p, moor_err e, const char *what, const char *where)
{
    mr_log(&p->runtime->log, MOOR_LOG_WARN, "http.request", "pool %s: request refused: %s%s%s",
           p->name, what, where[0] ? ": " : "", where);
    return e;
}

void moor_http_request_init_sized(moor_http_request *r, size_t size)
{
    const moor_http_request defaults = {
        .size = size,
        .body_length = MOOR_LENGTH_UNKNOWN,
        .urgency = 3,
        .timeout_ms = MOOR_TIMEOUT_OF_POOL,
        .connect_timeout_ms = MOOR_TIMEOUT_OF_POOL,
        .first_byte_timeout_ms = MOOR_TIMEOUT_OF_POOL,
    };
    memset(r, 0, size);
    memcpy(r, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

/* ---- where it goes ---- */

static moor_err find_by_url(struct moor_pool *p, const char *url, struct target *t)
{
    const struct mr_http_pool *http = p->wiring;
    const moor_span text = mr_span_cstr(url);
    struct mr_url u;
    struct mr_url_fault fault;
    char masked[128];
    mr_url_masked(text, masked, sizeof masked);
    t->storage_size = MR_URL_STORAGE(text.len) * 2;
    t->storage = mr_heap_alloc(&p->runtime->heap, t->storage_size);
    MR_FAIL_IF(!t->storage, MOOR_ENOMEM);
    const moor_err e = mr_url_parse(text, t->storage, &u, &fault);
    if (e)
        return refuse(p, e, fault.what, masked);
    if (u.scheme == MR_URL_H2C && strcmp(p->options.http_version, "2") != 0)
        return refuse(p, MOOR_EINVAL, "h2c needs a pool of HTTP/2 (http_version 2)", masked);
    if (u.scheme != MR_URL_HTTP && u.scheme != MR_URL_HTTPS && u.scheme != MR_URL_H2C)
        return refuse(p, MOOR_ENOSYS, "this build speaks http, https and h2c only", masked);
    const bool is_secure = mr_url_scheme_is_tls(u.scheme);
    if (is_secure && !http->upstream && !p->security)
        return refuse(p, MOOR_ENOSYS, "no TLS: the log said why when the pool was opened", masked);
    if (u.has_userinfo)
        t->userinfo_len = mr_origin_basic(u.user, u.password, t->userinfo, sizeof t->userinfo);
    t->path = u.target;
    if (http->upstream) {
        if (!http->origin.host || http->origin.port != u.port ||
            http->upstream->is_secure != is_secure ||
            !mr_span_is_equal(mr_span_cstr(http->origin.host), u.host))
            return refuse(p, MOOR_EINVAL, "the URL is of another origin than the pool", masked);
        t->upstream = http->upstream;
        t->authority = mr_span_cstr(http->origin.authority);
        return MOOR_OK;
    }
    char *authority = t->storage + MR_URL_STORAGE(text.len);
    t->authority =
        (moor_span){authority, mr_origin_authority(&u, authority, MR_URL_STORAGE(text.len))};
    return mr_pool_upstream(
        p, &(struct mr_place){.host = u.host, .port = u.port, .is_secure = is_secure},
        &t->upstream);
}

static moor_err find_target(struct moor_pool *p, const char *url, struct target *t)
{
    const struct mr_http_pool *http = p->wiring;
    if (!url || !url[0])
        return refuse(p, MOOR_EINVAL, "no URL", "");
    if (url[0] != '/')
        return find_by_url(p, url, t);
    if (!http->upstream)
        return refuse(p, MOOR_EINVAL, "an open pool needs an absolute URL", url);
    t->upstream = http->upstream;
    t->authority = mr_span_cstr(http->origin.authority);
    t->path = mr_span_cstr(url);
    return MOOR_OK;
}

/* ---- what is sent ---- */

static bool is_idempotent_method(moor_span m)
{
    static const char *const methods[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (mr_span_is_equal(m, mr_span_cstr(methods[i])))
            return true;
    return false;
}

static const char *method_of(const moor_http_request *r)
{
    if (r->method)
        return r->method;
    return r->body.len || r->body_cb ? "POST" : "GET";
}

/* The caller's headers, then ours. NULL: out of memory. */
static moor_header *all_headers(struct mr_exchange *x, const moor_http_request *r,
                                moor_span authorization, size_t *out_count)
{
    moor_header *h = mr_arena_alloc(&x->arena, (r->header_count + 1) * sizeof *h);
    if (!h)
        return NULL;
    if (r->header_count)
        memcpy(h, r->headers, r->header_count * sizeof *h);
    size_t n = r->header_count;
    bool is_given = !authorization.len;
    for (size_t i = 0; i < n && !is_given; i++)
        is_given = mr_span_is_equal_nocase(h[i].name, mr_span_cstr("authorization"));
    if (!is_given)
        h[n++] = (moor_header){mr_span_cstr("Authorization"), authorization};
    *out_count = n;
    return h;
}

static moor_err write_head(struct mr_exchange *x, const struct mr_h1_request *q,
                           const struct mr_h1_plan *plan, moor_span body)
{
    uint8_t *bytes = mr_arena_alloc(&x->arena, plan->size + body.len);
    MR_FAIL_IF(!bytes, MOOR_ENOMEM);
    mr_h1_request_write(q, plan, bytes);
    if (body.len)
        memcpy(bytes + plan->size, body.base, body.len);
    x->head.base = bytes;
    x->head.len = plan->size + body.len;
    return MOOR_OK;
}

static char *put(char *at, moor_span *s)
{
    if (s->len)
        memcpy(at, s->base, s->len);
    s->base = at;
    return at + s->len;
}

/* Which version serves it is known when a conn is granted: everything is copied. */
static moor_err keep_request(struct mr_exchange *x, const struct mr_h1_request *from,
                             moor_span body)
{
    const size_t n = from->header_count;
    size_t bytes = from->method.len + from->target.len + from->host.len + body.len;
    for (size_t i = 0; i < n; i++)
        bytes += from->headers[i].name.len + from->headers[i].value.len;
    struct mr_h1_request *q =
        mr_arena_alloc(&x->arena, sizeof *q + n * sizeof(moor_header) + bytes);
    MR_FAIL_IF(!q, MOOR_ENOMEM);
    *q = *from;
    moor_header *headers = (moor_header *)(void *)(q + 1);
    char *at = (char *)(headers + n);
    at = put(at, &q->method);
    at = put(at, &q->target);
    at = put(at, &q->host);
    for (size_t i = 0; i < n; i++) {
        headers[i] = from->headers[i];
        at = put(at, &headers[i].name);
        at = put(at, &headers[i].value);
    }
    q->headers = headers;
    put(at, &body);
    x->request = q;
    x->request_body = body;
    return MOOR_OK;
}

static moor_err set_request(struct moor_pool *p, struct mr_exchange *x, const moor_http_request *r,
                            const struct target *t)
{
    const struct mr_http_pool *http = p->wiring;
    const moor_span authorization = t->userinfo_len
                                        ? (moor_span){t->userinfo, t->userinfo_len}
                                        : (moor_span){http->authorization, http->authorization_len};
    struct mr_h1_request q = {
        .method = mr_span_cstr(method_of(r)),
        .target = t->path,
        .host = t->authority,
        .headers = r->headers,
        .header_count = r->header_count,
        .expect_continue = r->body_cb && r->expect_continue,
    };
    if (authorization.len) {
        moor_header *h = all_headers(x, r, authorization, &q.header_count);
        MR_FAIL_IF(!h, MOOR_ENOMEM);
        q.headers = h;
    }
    if (r->body_cb) {
        const bool is_chunked = r->body_length == MOOR_LENGTH_UNKNOWN;
        q.framing = is_chunked ? MR_H1_SEND_CHUNKED : MR_H1_SEND_LENGTH;
        q.content_length = is_chunked ? 0 : r->body_length;
    } else if (r->body.len) {
        q.framing = MR_H1_SEND_LENGTH;
        q.content_length = r->body.len;
    }
    struct mr_h1_plan plan;
    const moor_err e = mr_h1_request_plan(&q, &plan);
    if (e)
        return refuse(p, e, plan.what, "");
    if (http->may_h2)
        MR_TRY(keep_request(x, &q, r->body));
    else
        MR_TRY(write_head(x, &q, &plan, r->body));
    x->wants_close = plan.close;
    x->expects_continue = plan.expect_continue;
    x->claim.is_replayable = r->replayable;
    x->is_idempotent = r->idempotent || is_idempotent_method(q.method);
    x->asked = mr_span_is_equal(q.method, mr_span_cstr("HEAD")) ? MR_H1_FOR_HEAD : MR_H1_FOR_ANY;
    if (mr_span_is_equal(q.method, mr_span_cstr("CONNECT")))
        return refuse(p, MOOR_EINVAL, "CONNECT makes a tunnel, not a response", "");
    x->body_given = r->body_cb ? 0 : r->body.len;
    x->body_cb = r->body_cb;
    x->urgency = (uint8_t)r->urgency;
    x->is_incremental = r->incremental;
    x->body_length = r->body_length;
    return MOOR_OK;
}

static int64_t choose(moor_ms asked, moor_ms of_pool)
{
    return asked == MOOR_TIMEOUT_OF_POOL ? of_pool : asked;
}

static void set_deadlines(struct moor_pool *p, struct mr_exchange *x, const moor_http_request *r)
{
    const moor_pool_options *o = &p->options;
    const int64_t now = mr_shard_refresh(x->shard);
    x->total_ns = mr_deadline(now, choose(r->timeout_ms, MR_OPTION(o->total_timeout_ms)));
    x->claim.deadline_ns =
        mr_deadline(now, choose(r->connect_timeout_ms, MR_OPTION(o->acquire_timeout_ms)));
    x->first_byte_ms = choose(r->first_byte_timeout_ms, MR_OPTION(o->first_byte_timeout_ms));
}

static bool is_sane(const moor_http_request *r)
{
    return (!r->header_count || r->headers) && !(r->body.len && r->body_cb) &&
           (!r->body.len || r->body.base) && r->urgency < MR_H2_URGENCIES &&
           r->timeout_ms >= MOOR_TIMEOUT_OF_POOL && r->connect_timeout_ms >= MOOR_TIMEOUT_OF_POOL &&
           r->first_byte_timeout_ms >= MOOR_TIMEOUT_OF_POOL;
}

static moor_err submit(struct moor_pool *p, const moor_http_request *r, const moor_http_handlers *h,
                       void *user, const struct target *t, moor_op *out_op)
{
    struct moor_shard *s = moor_shard_self();
    struct mr_berth *b = mr_berth_of(t->upstream, s);
    MR_FAIL_IF(!b, mr_pool_is_open(p) ? MOOR_ENOMEM : MOOR_ECLOSED);
    struct mr_exchange *x = mr_exchange_alloc(s, h, user);
    MR_FAIL_IF(!x, MOOR_ENOMEM);
    x->berth = b;
    moor_err e = set_request(p, x, r, t);
    uint64_t generation = 0;
    if (!e) {
        set_deadlines(p, x, r);
        e = mr_exchange_start(x, &generation);
    }
    if (e)
        mr_exchange_discard(x);
    else if (out_op)
        *out_op = (moor_op){&x->handle->slot, generation};
    return e;
}

moor_err moor_http_send(moor_pool *p, const moor_http_request *request,
                        const moor_http_handlers *handlers, void *user, moor_op *out_op)
{
    MR_FAIL_IF(!p || !request || !handlers || handlers->size < sizeof *handlers ||
                   !handlers->on_done,
               MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(p->runtime), MOOR_EFORKED);
    struct moor_shard *s = moor_shard_self();
    MR_FAIL_IF(!s || s->runtime != p->runtime, MOOR_EWRONGTHREAD);
    MR_FAIL_IF(p->protocol != &mr_h1_protocol && p->protocol != &mr_h2_protocol, MOOR_EINVAL);
    mr_shard_refresh(s);
    moor_http_request r;
    if (request->size != sizeof r) {
        moor_http_request_init(&r);
        memcpy(&r, request, request->size < sizeof r ? request->size : sizeof r);
        request = &r;
    }
    if (!is_sane(request))
        return refuse(p, MOOR_EINVAL, "headers, body or timeouts contradict each other", "");
    struct target t;
    t.storage = NULL;
    t.userinfo_len = 0;
    moor_err e = find_target(p, request->url, &t);
    if (!e)
        e = submit(p, request, handlers, user, &t, out_op);
    if (t.userinfo_len) {
        explicit_bzero(t.userinfo, sizeof t.userinfo);
        explicit_bzero(t.storage, t.storage_size);
    }
    if (t.storage)
        mr_heap_free(&p->runtime->heap, t.storage, t.storage_size);
    return e;
}

moor_span moor_http_header(const moor_http_head *h, const char *name)
{
    const moor_span wanted = mr_span_cstr(name);
    for (size_t i = 0; i < h->header_count; i++)
        if (mr_span_is_equal_nocase(h->headers[i].name, wanted))
            return h->headers[i].value;
    return (moor_span){NULL, 0};
}
