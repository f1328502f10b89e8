/*
 * A runtime whose one shard the test drives, a server of byte streams and a pool to it; on either
 * backend. What every test of leases needs before its first assertion.
 */
#ifndef TESTS_SUPPORT_LEASE_FIXTURE_H
#define TESTS_SUPPORT_LEASE_FIXTURE_H

#include "core/lease.h"
#include "tests/support/stream_server.h"

#include <mooring/mooring.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct lease_fixture {
    struct stream_server *server;
    moor_runtime *runtime;
    moor_shard *shard; /* adopted by the test */
    moor_pool *pool;
};

/* What a moor_acquired_cb was told. */
struct lease_got {
    unsigned calls;
    moor_err err;
    moor_lease lease;
    bool reused;
    bool has_why;
    moor_wait_reason reason;
    bool safe_to_retry;
};

static inline void lease_on_acquired(void *user, const moor_acquired *a)
{
    struct lease_got *g = user;
    g->calls++;
    g->err = a->fault.err;
    g->lease = a->lease;
    g->reused = a->reused;
    g->has_why = a->why != NULL;
    g->reason = a->why ? a->why->reason : MOOR_WAIT_NONE;
    g->safe_to_retry = a->fault.safe_to_retry;
}

static inline void lease_runtime_options(moor_runtime_options *o, const char *backend,
                                         uint32_t threads)
{
    moor_runtime_options_init(o);
    o->shards = threads;
    o->shard_pin = false;
    o->io_backend = backend;
    o->recv_buffer_size = 4096;
    o->recv_buffers = 64;
    o->log_level = MOOR_LOG_OFF;
}

/* False: this machine has no such backend. threads: shards of the runtime's own; with_shard: the test
 * adopts one. */
static inline bool lease_fixture_init(struct lease_fixture *f, const char *backend,
                                      uint32_t threads, bool with_shard)
{
    memset(f, 0, sizeof *f);
    moor_runtime_options o;
    lease_runtime_options(&o, backend, threads);
    moor_err e = moor_runtime_create(&o, &f->runtime);
    if (!e && with_shard)
        e = moor_shard_adopt(f->runtime, &f->shard);
    if (e == MOOR_ENOSYS) {
        print_message("no %s here\n", backend);
        if (f->runtime)
            assert_int_equal(moor_runtime_destroy(f->runtime, 0), MOOR_OK);
        return false;
    }
    assert_int_equal(e, MOOR_OK);
    f->server = stream_server_start();
    return true;
}

static inline void lease_pool_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
    o->acquire_timeout_ms = 5000;
}

/* o NULL: the above. */
static inline void lease_fixture_open(struct lease_fixture *f, const moor_pool_options *o)
{
    moor_pool_options defaults;
    lease_pool_options(&defaults);
    assert_int_equal(moor_pool_open(f->runtime, f->server->url, o ? o : &defaults, &f->pool),
                     MOOR_OK);
}

static inline void lease_fixture_fini(struct lease_fixture *f)
{
    if (f->pool)
        assert_int_equal(moor_pool_close(f->pool, 2000), MOOR_OK);
    moor_shard_leave(f->shard);
    assert_int_equal(moor_runtime_destroy(f->runtime, 1000), MOOR_OK);
    stream_server_stop(f->server);
}

/* Turns until the count is there; fails the test after five seconds. */
#define TURN_UNTIL(f, condition)                                                                   \
    do {                                                                                           \
        int turns_ = 0;                                                                            \
        while (!(condition)) {                                                                     \
            assert_true(turns_++ < 5000);                                                          \
            assert_int_equal(moor_shard_wait((f)->shard, 1), MOOR_OK);                             \
        }                                                                                          \
    } while (0)

static inline void lease_turn_for(struct lease_fixture *f, int ms)
{
    const int64_t end = mr_clock_now(&mr_clock_system) + ms * MR_NS_PER_MS;
    while (mr_clock_now(&mr_clock_system) < end)
        assert_int_equal(moor_shard_wait(f->shard, 1), MOOR_OK);
}

static inline moor_lease lease_acquire(struct lease_fixture *f)
{
    struct lease_got got = {0};
    assert_int_equal(moor_acquire(f->pool, NULL, lease_on_acquired, &got, NULL), MOOR_OK);
    assert_int_equal(got.calls, 0);
    TURN_UNTIL(f, got.calls);
    assert_int_equal(got.err, MOOR_OK);
    return got.lease;
}

static inline moor_stats lease_stats(struct lease_fixture *f)
{
    moor_stats s;
    moor_stats_read_sized(f->pool, &s, sizeof s);
    return s;
}

/* What a stream gave, chunks kept until told. */
struct lease_stream {
    struct lease_fixture *f;
    moor_lease lease;
    char bytes[1024];      /* the first of them */
    size_t len;            /* all of them */
    bool is_counted_wrong; /* they do not count up from 0 */
    bool keeps;            /* chunks stay with us */
    moor_chunk chunks[256];
    unsigned chunk_count;
    unsigned ends;
    moor_fault end;
    unsigned sent; /* pieces let go */
    bool releases_in_chunk, releases_in_end, releases_in_sent;
};

static inline void lease_on_chunk(void *user, moor_chunk c)
{
    struct lease_stream *s = user;
    for (size_t i = 0; i < c.bytes.len; i++, s->len++) {
        const unsigned char byte = ((const unsigned char *)c.bytes.base)[i];
        s->is_counted_wrong |= byte != (unsigned char)s->len;
        if (s->len < sizeof s->bytes)
            s->bytes[s->len] = (char)byte;
    }
    if (s->keeps && s->chunk_count < sizeof s->chunks / sizeof *s->chunks)
        s->chunks[s->chunk_count++] = c;
    else
        moor_chunk_return(c);
    if (s->releases_in_chunk)
        moor_release(s->lease, MOOR_REUSE);
}

static inline void lease_on_end(void *user, const moor_fault *fault)
{
    struct lease_stream *s = user;
    s->ends++;
    s->end = *fault;
    if (s->releases_in_end)
        moor_release(s->lease, MOOR_REUSE);
}

static inline void lease_on_sent(void *user)
{
    struct lease_stream *s = user;
    s->sent++;
    if (s->releases_in_sent)
        moor_release(s->lease, MOOR_REUSE);
}

static const moor_stream_handlers lease_handlers = {
    .size = sizeof lease_handlers,
    .on_chunk = lease_on_chunk,
    .on_end = lease_on_end,
};

static inline void lease_read(struct lease_stream *s)
{
    assert_int_equal(moor_stream_read(s->lease, &lease_handlers, s), MOOR_OK);
}

static inline moor_err lease_send(struct lease_stream *s, const char *text)
{
    return moor_stream_send(s->lease, (moor_piece){
                                          .bytes = {text, strlen(text)},
                                          .sent = lease_on_sent,
                                          .ctx = s,
                                      });
}

static inline void lease_return_all(struct lease_stream *s)
{
    while (s->chunk_count)
        moor_chunk_return(s->chunks[--s->chunk_count]);
}

#endif
