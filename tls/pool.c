/*
 * A pool's TLS: opened with it, put on its conns, changed by a reload.
 * Opening and reloading block on files, from any ordinary thread; mr_tls_secure runs on shards.
 */
#include "tls/pool.h"

#include "base/options.h"
#include "base/span.h"
#include "tls/filter.h"

#include <string.h>

/* The texts among the options. */
static const size_t texts[] = {
    offsetof(moor_pool_options, tls_ca),          offsetof(moor_pool_options, tls_cert),
    offsetof(moor_pool_options, tls_key),         offsetof(moor_pool_options, tls_pins),
    offsetof(moor_pool_options, tls_server_name), offsetof(moor_pool_options, tls_version_min),
};
enum { SERVER_NAME = 4, TEXTS = sizeof texts / sizeof *texts };

static char **text_at(moor_pool_options *o, size_t i)
{
    return (char **)((char *)o + texts[i]);
}

void mr_tls_options_clear(moor_pool_options *o)
{
    for (size_t i = 0; i < TEXTS; i++)
        *text_at(o, i) = NULL;
    o->tls_ca_pem = o->tls_cert_pem = o->tls_key_pem = (moor_span){NULL, 0};
}

static void drop_sources(struct moor_runtime *r, moor_pool_options *o)
{
    for (size_t i = 0; i < TEXTS; i++)
        mr_heap_free_text(&r->heap, *text_at(o, i));
    mr_tls_options_clear(o);
}

/* Empty texts, as a variable may set them, are none. */
static void drop_empty(moor_pool_options *o)
{
    for (size_t i = 0; i < TEXTS; i++)
        if (*text_at(o, i) && !(*text_at(o, i))[0])
            *text_at(o, i) = NULL;
}

/* Memory is not kept. */
static moor_err copy_sources(struct moor_runtime *r, const moor_pool_options *from,
                             moor_pool_options *out)
{
    *out = *from;
    mr_tls_options_clear(out);
    moor_err e = MOOR_OK;
    for (size_t i = 0; i < TEXTS; i++) {
        const char *text = *text_at((moor_pool_options *)(uintptr_t)from, i);
        if (!text)
            continue;
        *text_at(out, i) = mr_heap_copy_text(&r->heap, mr_span_cstr(text));
        if (!*text_at(out, i))
            e = MOOR_ENOMEM;
    }
    if (e)
        drop_sources(r, out);
    return e;
}

static bool is_of_memory(const moor_pool_options *o)
{
    return o->tls_ca_pem.len || o->tls_cert_pem.len || o->tls_key_pem.len;
}

static moor_err make_context(struct mr_tls_state *s, const char *name, const moor_pool_options *o,
                             struct mr_tls_context **out)
{
    struct moor_runtime *r = s->runtime;
    char fault[MR_TLS_FAULT_MAX];
    struct mr_tls_material m;
    moor_err e = mr_tls_material_read(&r->heap, o, &m, fault);
    if (!e) {
        e = mr_tls_context_get(s, &m, out, fault);
        mr_tls_material_drop(&m);
    }
    if (e && fault[0])
        mr_log(&r->log, MOOR_LOG_ERROR, "tls.config", "pool %s: %s", name, fault);
    else if (!e && o->tls_insecure)
        mr_log(&r->log, MOOR_LOG_WARN, "tls.insecure",
               "pool %s: TLS WITHOUT VERIFICATION (tls_insecure): anybody on the way can read and "
               "change everything",
               name);
    return e;
}

moor_err mr_tls_pool_open(struct moor_runtime *r, const char *name, const char *alpn,
                          moor_pool_options *o, struct mr_tls_pool **out)
{
    struct mr_tls_state *s;
    MR_TRY(mr_tls_state_of(r, &s));
#if !defined(MR_WOLFSSL_EARLY_DATA)
    if (o->tls_early_data) {
        mr_log(&r->log, MOOR_LOG_ERROR, "tls.config",
               "pool %s: tls_early_data: this build's TLS library has none", name);
        return MOOR_ENOSYS;
    }
#endif
    struct mr_tls_pool *t = mr_heap_zalloc(&r->heap, sizeof *t);
    MR_FAIL_IF(!t, MOOR_ENOMEM);
    t->state = s;
    t->alpn = alpn;
    mr_lock_init(&t->lock);
    drop_empty(o);
    moor_err e = make_context(s, name, o, &t->context);
    if (!e)
        e = copy_sources(r, o, &t->sources);
    if (e) {
        mr_tls_pool_close(r, t);
        return e;
    }
    t->is_of_memory = is_of_memory(o);
    t->server_name = *text_at(&t->sources, SERVER_NAME);
    *text_at(&t->sources, SERVER_NAME) = NULL;
    mr_tls_options_clear(o);
    *out = t;
    return MOOR_OK;
}

void mr_tls_pool_close(struct moor_runtime *r, struct mr_tls_pool *t)
{
    if (!t)
        return;
    mr_tls_context_unref(t->context);
    drop_sources(r, &t->sources);
    mr_heap_free_text(&r->heap, t->server_name);
    mr_lock_fini(&t->lock);
    mr_heap_free(&r->heap, t, sizeof *t);
}

/* ---- conns ---- */

moor_err mr_tls_secure(struct mr_upstream *u, struct mr_conn *c)
{
    return u->is_secure ? mr_tls_filter_add(u, c) : MOOR_OK;
}

struct mr_tls_context *mr_tls_pool_context(struct mr_tls_pool *t)
{
    mr_lock_lock(&t->lock);
    struct mr_tls_context *x = t->context;
    mr_tls_context_ref(x);
    mr_lock_unlock(&t->lock);
    return x;
}

const char *mr_tls_host(const struct mr_upstream *u)
{
    const char *name = mr_tls_pool_of(u)->server_name;
    return name ? name : u->host;
}

void mr_tls_ticket_key(const struct mr_upstream *u, const struct mr_tls_context *x,
                       uint8_t out[MR_TLS_HASH_SIZE])
{
    const moor_span parts[] = {
        {x->fingerprint, sizeof x->fingerprint}, /* roots, pins, certificate, key, version */
        {&u->port, sizeof u->port},
        {u->host, strlen(u->host) + 1},
        {mr_tls_host(u), strlen(mr_tls_host(u)) + 1},
        mr_span_cstr(mr_tls_pool_of(u)->alpn),
    };
    mr_tls_hash(parts, sizeof parts / sizeof *parts, out);
}

/* ---- reload ---- */

/* What a reload may change; the rest belongs to the pool for its life, and conns look at it without a lock. */
static void overlay(moor_pool_options *o, const moor_pool_options *from)
{
    o->tls_ca = from->tls_ca;
    o->tls_cert = from->tls_cert;
    o->tls_key = from->tls_key;
    o->tls_pins = from->tls_pins;
    o->tls_pin_chain = from->tls_pin_chain;
    o->tls_ca_pem = from->tls_ca_pem;
    o->tls_cert_pem = from->tls_cert_pem;
    o->tls_key_pem = from->tls_key_pem;
}

static moor_err reload(struct mr_tls_pool *t, struct moor_pool *p, const moor_pool_options *from)
{
    moor_pool_options wanted = t->sources, copied;
    if (from)
        overlay(&wanted, from);
    drop_empty(&wanted);
    struct mr_tls_context *made = NULL;
    MR_TRY(make_context(t->state, p->name, &wanted, &made));
    const moor_err e = copy_sources(p->runtime, &wanted, &copied);
    if (e) {
        mr_tls_context_unref(made);
        return e;
    }
    mr_lock_lock(&t->lock);
    struct mr_tls_context *old = t->context;
    t->context = made;
    mr_lock_unlock(&t->lock);
    drop_sources(p->runtime, &t->sources);
    t->sources = copied;
    t->is_of_memory = is_of_memory(&wanted);
    mr_tls_context_unref(old);
    moor_pool_flush(p);
    return MOOR_OK;
}

static moor_err resolve(struct moor_pool *p, const moor_pool_options *from, moor_pool_options *out)
{
    moor_pool_options all;
    moor_pool_options_init(&all);
    memcpy(&all, from, from->size < sizeof all ? from->size : sizeof all);
    all.size = sizeof all;
    all.name = p->name;
    struct mr_options_report report = {0};
    const moor_err e = mr_pool_options_resolve(&all, mr_options_environment(), &report, out);
    if (e)
        mr_log(&p->runtime->log, MOOR_LOG_ERROR, "options", "pool %s: %s", p->name, report.fault);
    return e;
}

static moor_err begin_reload(struct mr_tls_pool *t, struct moor_pool *p,
                             const moor_pool_options *from)
{
    moor_pool_options all;
    if (from) {
        MR_TRY(resolve(p, from, &all));
        return reload(t, p, &all);
    }
    if (!t->is_of_memory)
        return reload(t, p, NULL);
    mr_log(&p->runtime->log, MOOR_LOG_ERROR, "tls.config",
           "pool %s: reload: it was given as memory, which is not kept: give it again", p->name);
    return MOOR_EINVAL;
}

moor_err moor_pool_tls_reload(moor_pool *p, const moor_pool_options *from)
{
    MR_FAIL_IF(!p || (from && from->size < sizeof from->size), MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(p->runtime), MOOR_EFORKED);
    const struct moor_shard *s = moor_shard_self();
    MR_FAIL_IF(s && s->mine.is_turning, MOOR_EWRONGTHREAD); /* it reads files */
    struct mr_tls_pool *t = p->security;
    if (!t) {
        mr_log(&p->runtime->log, MOOR_LOG_ERROR, "tls.config", "pool %s: reload: it has no TLS",
               p->name);
        return MOOR_EINVAL;
    }
    MR_FAIL_IF(!mr_pool_is_open(p), MOOR_ECLOSED);
    MR_FAIL_IF(atomic_exchange(&t->is_reloading, true), MOOR_EBUSY);
    const moor_err e = begin_reload(t, p, from);
    atomic_store(&t->is_reloading, false);
    return e;
}
