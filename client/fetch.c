/*
 * moor_http_fetch: a whole exchange from an ordinary thread, which sleeps on a futex while a shard
 * works; or from an adopted shard's thread, which drives that shard.
 * The response's memory belongs to the runtime's shared heap.
 */
#include "base/futex.h"
#include "client/exchange.h"
#include "core/shard.h"

#include <string.h>

/* A response and what hangs off it. `size` bytes of one block: itself, headers, texts. */
struct response {
    moor_http_response pub; /* first: moor_http_response_free gets this */
    struct mr_heap *heap;
    void *head_block, *trailer_block;
    uint8_t *body;
};

struct fetch {
    moor_task task;
    moor_pool *pool;
    const moor_http_request *request;
    struct response *response;
    moor_op op;
    size_t body_cap, body_max;
    moor_err err;
    moor_fault fault;
    _Atomic(uint32_t) word; /* futex: 1 = done */
};

static void free_response(struct response *r)
{
    mr_heap_free_unsized(r->heap, r->head_block);
    mr_heap_free_unsized(r->heap, r->trailer_block);
    mr_heap_free_unsized(r->heap, r->body);
    mr_heap_free_unsized(r->heap, r);
}

void moor_http_response_free(moor_http_response *r)
{
    if (r)
        free_response((struct response *)(void *)r);
}

/* ---- keeping what the callbacks lend ---- */

static moor_span keep_text(char **at, moor_span s)
{
    char *to = *at;
    if (s.len)
        memcpy(to, s.base, s.len);
    to[s.len] = '\0';
    *at += s.len + 1;
    return (moor_span){to, s.len};
}

static void *keep_headers(struct mr_heap *heap, const moor_header *h, size_t n, moor_span extra,
                          const moor_header **out_headers, moor_span *out_extra)
{
    size_t size = n * sizeof *h + extra.len + 1;
    for (size_t i = 0; i < n; i++)
        size += h[i].name.len + h[i].value.len + 2;
    moor_header *block = mr_heap_alloc_unsized(heap, size);
    if (!block)
        return NULL;
    char *at = (char *)(block + n);
    for (size_t i = 0; i < n; i++) {
        block[i].name = keep_text(&at, h[i].name);
        block[i].value = keep_text(&at, h[i].value);
    }
    *out_extra = keep_text(&at, extra);
    *out_headers = block;
    return block;
}

static void give_up(struct fetch *f, moor_err e)
{
    if (f->err)
        return;
    f->err = e;
    moor_cancel(f->op);
}

/* RFC 9110 8.6: these announce the length of a body that does not come. */
static bool has_body(const struct fetch *f, const moor_http_head *h)
{
    return h->status != 304 && !(f->request->method && !strcmp(f->request->method, "HEAD"));
}

/* The announced length, if it is believable, saves growing. */
static void reserve(struct fetch *f, const moor_http_head *h)
{
    const moor_span length =
        has_body(f, h) ? moor_http_header(h, "content-length") : (moor_span){0};
    uint64_t n = 0;
    for (size_t i = 0; i < length.len && n < f->body_max; i++)
        n = n * 10 + (uint64_t)(((const char *)length.base)[i] - '0');
    if (n > f->body_max) {
        give_up(f, MOOR_ETOOBIG);
        return;
    }
    /* A server may announce much and send nothing: memory follows bytes beyond the first MiB. */
    f->body_cap = (n < (1u << 20) ? n : (1u << 20)) + 1;
    f->response->body = mr_heap_realloc_unsized(f->response->heap, f->response->body, f->body_cap);
    if (!f->response->body)
        give_up(f, MOOR_ENOMEM);
}

static void on_head(void *user, const moor_http_head *h)
{
    struct fetch *f = user;
    struct response *r = f->response;
    if (h->status < 200 && h->status != 101)
        return;
    r->pub.head = *h;
    r->head_block = keep_headers(r->heap, h->headers, h->header_count, h->reason,
                                 &r->pub.head.headers, &r->pub.head.reason);
    if (r->head_block)
        reserve(f, h);
    else
        give_up(f, MOOR_ENOMEM);
}

static bool make_room(struct fetch *f, size_t more)
{
    struct response *r = f->response;
    const size_t needed = r->pub.body.len + more + 1;
    if (needed - 1 > f->body_max) {
        give_up(f, MOOR_ETOOBIG);
        return false;
    }
    if (needed <= f->body_cap)
        return true;
    size_t cap = f->body_cap * 2;
    if (cap < needed)
        cap = needed;
    uint8_t *body = mr_heap_realloc_unsized(r->heap, r->body, cap);
    if (!body) {
        give_up(f, MOOR_ENOMEM);
        return false;
    }
    r->body = body;
    f->body_cap = cap;
    return true;
}

static void on_chunk(void *user, moor_chunk c)
{
    struct fetch *f = user;
    struct response *r = f->response;
    if (!f->err && make_room(f, c.bytes.len)) {
        memcpy(r->body + r->pub.body.len, c.bytes.base, c.bytes.len);
        r->pub.body.len += c.bytes.len;
    }
    moor_chunk_return(c);
}

static void on_trailers(void *user, const moor_header *h, size_t n)
{
    struct fetch *f = user;
    struct response *r = f->response;
    moor_span none;
    r->trailer_block = keep_headers(r->heap, h, n, (moor_span){"", 0}, &r->pub.trailers, &none);
    if (r->trailer_block)
        r->pub.trailer_count = n;
    else
        give_up(f, MOOR_ENOMEM);
}

static void done(struct fetch *f)
{
    atomic_store_explicit(&f->word, 1, memory_order_release);
    mr_futex_wake(&f->word, 1);
}

static void on_done(void *user, const moor_http_done *d)
{
    struct fetch *f = user;
    struct response *r = f->response;
    r->pub.done = *d;
    r->pub.done.why = NULL;
    if (r->body)
        r->body[r->pub.body.len] = '\0';
    r->pub.body.base = r->body ? r->body : (const void *)"";
    if (f->err)
        f->fault = (moor_fault){.err = f->err,
                                .what = f->err == MOOR_ETOOBIG ? "the body exceeds fetch_body_max"
                                                               : "keep the response"};
    else
        f->fault = d->fault;
    f->err = f->fault.err;
    done(f);
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers,
    .on_head = on_head,
    .on_chunk = on_chunk,
    .on_trailers = on_trailers,
    .on_done = on_done,
};

/* ---- the call ---- */

static void run_fetch(void *user)
{
    struct fetch *f = user;
    const moor_err e = moor_http_send(f->pool, f->request, &handlers, f, &f->op);
    if (!e)
        return;
    f->err = e;
    f->fault = (moor_fault){.err = e, .what = moor_err_text(e), .safe_to_retry = true};
    done(f);
}

static moor_err run_elsewhere(struct fetch *f)
{
    moor_err e = MOOR_ECLOSED;
    for (int tries = 0; e == MOOR_ECLOSED && tries < 3; tries++) {
        struct moor_shard *s = mr_runtime_pick(f->pool->runtime);
        MR_FAIL_IF(!s, MOOR_ECLOSED);
        e = moor_post(s, &f->task);
    }
    MR_TRY(e);
    while (!atomic_load_explicit(&f->word, memory_order_acquire))
        (void)!mr_futex_wait(&f->word, 0, MR_NEVER);
    return MOOR_OK;
}

static moor_err run_here(struct fetch *f, struct moor_shard *s)
{
    run_fetch(f);
    while (!atomic_load_explicit(&f->word, memory_order_acquire)) {
        const moor_err e = moor_shard_wait(s, MOOR_FOREVER);
        if (e == MOOR_EFORKED)
            return e; /* in the child nothing runs that could look at `f` */
        if (e)
            moor_cancel(f->op); /* on_done still has to run: `f` is on this stack */
    }
    return MOOR_OK;
}

moor_err moor_http_fetch(moor_pool *p, const moor_http_request *request, moor_http_response **out,
                         moor_fault *err_out_fault)
{
    MR_FAIL_IF(!p || !request || !out, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(p->runtime), MOOR_EFORKED);
    struct moor_shard *s = moor_shard_self();
    MR_FAIL_IF(s && (s->mine.is_turning || !s->is_adopted || s->runtime != p->runtime),
               MOOR_EWRONGTHREAD);
    struct mr_heap *heap = &p->runtime->heap;
    struct response *r = mr_heap_alloc_unsized(heap, sizeof *r);
    MR_FAIL_IF(!r, MOOR_ENOMEM);
    memset(r, 0, sizeof *r);
    r->heap = heap;
    struct fetch f = {
        .task = {.run = run_fetch, .user = &f},
        .pool = p,
        .request = request,
        .response = r,
        .body_max = p->options.fetch_body_max,
    };
    moor_err e = s ? run_here(&f, s) : run_elsewhere(&f);
    if (e)
        f.fault = (moor_fault){.err = e, .what = "no shard runs this", .safe_to_retry = true};
    else
        e = f.err;
    if (e) {
        if (err_out_fault)
            *err_out_fault = f.fault;
        free_response(r);
        return e;
    }
    *out = &r->pub;
    return MOOR_OK;
}
