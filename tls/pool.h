/*
 * A pool's TLS: what its conns are made under, and changing that while it runs.
 * The context under its lock, from any thread; the rest is set when the pool opens.
 */
#ifndef MR_TLS_POOL_H
#define MR_TLS_POOL_H

#include "core/pool.h"
#include "tls/context.h"

struct mr_tls_pool {
    struct mr_tls_state *state;
    struct mr_lock lock;
    struct mr_tls_context *context; /* of new conns */
    const char *alpn;               /* offered, separated by commas; "" = none. Static */
    char *server_name;              /* NULL = the upstream's host */
    moor_pool_options sources;      /* its tls_*, texts copied: what a reload reads anew */
    bool is_of_memory;              /* some of it came as PEM in memory, which is not kept */
    _Atomic(bool) is_reloading;     /* `sources` and the above are that call's */
};

/* EINVAL and ENOSYS are logged with what and where. On success *o has no texts and memory of TLS any more. */
MOOR_NODISCARD moor_err mr_tls_pool_open(struct moor_runtime *r, const char *name, const char *alpn,
                                         moor_pool_options *o, struct mr_tls_pool **out);
/* NULL is fine. */
void mr_tls_pool_close(struct moor_runtime *r, struct mr_tls_pool *t);
/* A pool without TLS keeps none of the texts. */
void mr_tls_options_clear(moor_pool_options *o);

/* mr_pool_spec.secure. */
MOOR_NODISCARD moor_err mr_tls_secure(struct mr_upstream *u, struct mr_conn *c);

/* One reference, for a conn. */
struct mr_tls_context *mr_tls_pool_context(struct mr_tls_pool *t);
/* The name certificates have to have, and tickets are kept under. */
const char *mr_tls_host(const struct mr_upstream *u);
/* Of tickets: everything a resumption takes over unseen. */
void mr_tls_ticket_key(const struct mr_upstream *u, const struct mr_tls_context *x,
                       uint8_t out[MR_TLS_HASH_SIZE]);

static inline struct mr_tls_pool *mr_tls_pool_of(const struct mr_upstream *u)
{
    return u->pool->security;
}

#endif
