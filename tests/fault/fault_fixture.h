/*
 * A server in a thread of its own and a runtime without threads: all allocations are the test's
 * thread's, so that the same one fails in each run. Every step may fail, with MOOR_ENOMEM and
 * nothing kept; heaps assert that they are empty when the runtime is destroyed (builds with
 * MOORING_DEBUG).
 */
#ifndef TESTS_FAULT_FIXTURE_H
#define TESTS_FAULT_FIXTURE_H

#include "core/pool.h"
#include "core/shard.h"
#include "tests/support/fault.h"
#include "tests/support/xor_filter.h"
#include "tests/support/xor_server.h"

#include <mooring/mooring.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fault_fixture {
    struct xor_server *server;
    moor_runtime *runtime;
    moor_shard *shard;
    moor_pool *pool;
};

/* What one request heard. */
struct fault_request {
    size_t came;
    size_t posted, given;
    unsigned heads, trailers, dones;
    moor_fault fault;
    bool was_accepted; /* the call said OK */
    bool may_cancel;   /* the scenario ends it before its time */
    uint8_t piece[3000];
};

/* True: OK. Any other error than the one of a failed allocation fails the test. */
static inline bool fault_is_ok(moor_err e)
{
    if (e != MOOR_OK && e != MOOR_ENOMEM)
        fail_msg("%s instead of MOOR_ENOMEM", moor_err_name(e));
    return e == MOOR_OK;
}

static inline bool fault_begin(struct fault_fixture *f, unsigned layers)
{
    memset(f, 0, sizeof *f);
    memset(&xor_counts, 0, sizeof xor_counts);
    f->server =
        xor_server_start(&(struct xor_server_options){.layers = layers, .record_max = 3000});
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    o.recv_buffer_size = 2048;
    o.recv_buffers = 16;
    o.log_level = MOOR_LOG_OFF;
    return fault_is_ok(moor_runtime_create(&o, &f->runtime));
}

static inline bool fault_adopt(struct fault_fixture *f)
{
    return fault_is_ok(moor_shard_adopt(f->runtime, &f->shard));
}

static inline bool fault_open(struct fault_fixture *f)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_min_idle = 0;
    o.steal_keep = 0;
    o.backoff_min_ms = 1;
    o.window_bytes = 16384;
    return fault_is_ok(moor_pool_open(f->runtime, xor_server_url(f->server), &o, &f->pool));
}

static inline void fault_end(struct fault_fixture *f)
{
    if (f->pool)
        assert_int_equal(moor_pool_close(f->pool, 2000), MOOR_OK);
    if (f->shard)
        moor_shard_leave(f->shard);
    assert_int_equal(moor_runtime_destroy(f->runtime, 2000), MOOR_OK);
    xor_server_stop(f->server);
    assert_int_equal(xor_counts.made, xor_counts.dropped);
}

static inline void fault_on_head(void *user, const moor_http_head *h)
{
    (void)h;
    ((struct fault_request *)user)->heads++;
}

static inline void fault_on_chunk(void *user, moor_chunk c)
{
    struct fault_request *r = user;
    const uint8_t *bytes = c.bytes.base;
    for (size_t i = 0; i < c.bytes.len; i++)
        assert_int_equal(bytes[i], xor_body(r->came + i));
    r->came += c.bytes.len;
    moor_chunk_return(c);
}

static inline void fault_on_trailers(void *user, const moor_header *h, size_t n)
{
    (void)h;
    assert_int_equal(n, 1);
    ((struct fault_request *)user)->trailers++;
}

static inline void fault_on_done(void *user, const moor_http_done *d)
{
    struct fault_request *r = user;
    r->dones++;
    r->fault = d->fault;
    if (d->fault.err)
        assert_non_null(d->fault.what);
}

static const moor_http_handlers fault_handlers = {
    .size = sizeof fault_handlers,
    .on_head = fault_on_head,
    .on_chunk = fault_on_chunk,
    .on_trailers = fault_on_trailers,
    .on_done = fault_on_done,
};

static inline moor_body_more fault_body(void *user, moor_piece *out)
{
    struct fault_request *r = user;
    size_t n = r->posted - r->given;
    if (n > sizeof r->piece)
        n = sizeof r->piece;
    for (size_t i = 0; i < n; i++)
        r->piece[i] = xor_body(r->given + i);
    r->given += n;
    out->bytes = (moor_span){r->piece, n};
    return r->given == r->posted ? MOOR_BODY_LAST : MOOR_BODY_MORE;
}

static inline void fault_request_init(moor_http_request *q, const struct fault_request *r,
                                      const char *path)
{
    moor_http_request_init(q);
    q->url = path;
    q->timeout_ms = 5000;
    if (r->posted) {
        q->method = "POST";
        q->body_cb = fault_body;
        q->body_length = r->posted;
    }
}

static inline void fault_send(struct fault_fixture *f, struct fault_request *r, const char *path)
{
    moor_http_request q;
    fault_request_init(&q, r, path);
    r->was_accepted = fault_is_ok(moor_http_send(f->pool, &q, &fault_handlers, r, NULL));
}

static inline void fault_turn_until_done(struct fault_fixture *f, struct fault_request *r)
{
    for (int turns = 0; r->was_accepted && !r->dones; turns++) {
        assert_true(turns < 20000);
        assert_int_equal(moor_shard_wait(f->shard, 1), MOOR_OK);
    }
}

/* Once, and whole or for memory. */
static inline void fault_judge(const struct fault_request *r, size_t expected)
{
    assert_int_equal(r->dones, r->was_accepted ? 1 : 0);
    if (!r->was_accepted || (r->may_cancel && r->fault.err == MOOR_ECANCELED))
        return;
    if (fault_is_ok(r->fault.err)) {
        assert_int_equal(r->heads, 1);
        assert_int_equal(r->came, expected);
    }
}

static inline void fault_run(struct fault_fixture *f, struct fault_request *r, const char *path,
                             size_t expected)
{
    fault_send(f, r, path);
    fault_turn_until_done(f, r);
    fault_judge(r, expected);
}

#endif
