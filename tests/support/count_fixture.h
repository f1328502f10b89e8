/*
 * A pool of the line protocol "count" on a shard the test drives, and its server. Nothing happens but in
 * turn(): what has been asked for is seen before it is done.
 */
#ifndef TESTS_SUPPORT_COUNT_FIXTURE_H
#define TESTS_SUPPORT_COUNT_FIXTURE_H

#include "core/shard.h"
#include "tests/support/count_protocol.h"

#include <mooring/mooring.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct count_server server;
    unsigned announces;       /* what the server says to new conns; 0 = nothing */
    struct mr_pool_spec spec; /* of the pool but its options; with choose it is a secure one */
    moor_runtime *runtime;
    moor_shard *shard;
    moor_pool *pool;
    struct mr_upstream *upstream;
    struct mr_berth *berth;
};

static inline void pool_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
}

static inline void open_pool(struct fixture *f, const moor_pool_options *o)
{
    struct mr_pool_spec spec = f->spec;
    spec.name = "count";
    spec.protocol = spec.protocol ? spec.protocol : &count_protocol;
    spec.options = *o;
    assert_int_equal(mr_pool_create(f->runtime, &spec, &f->pool), MOOR_OK);
    assert_int_equal(mr_pool_upstream(f->pool,
                                      &(struct mr_place){.host = {"127.0.0.1", 9},
                                                         .port = f->server.port,
                                                         .is_secure = spec.choose != NULL},
                                      &f->upstream),
                     MOOR_OK);
}

static inline void make_runtime(struct fixture *f)
{
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    o.recv_buffer_size = 4096;
    o.recv_buffers = 32;
    o.log_level = MOOR_LOG_OFF;
    assert_int_equal(moor_runtime_create(&o, &f->runtime), MOOR_OK);
}

/* given NULL: the above; spec NULL: what is count_protocol's. */
static inline void begin_as(struct fixture *f, const moor_pool_options *given,
                            const struct mr_pool_spec *spec)
{
    moor_pool_options o;
    pool_options(&o);
    memset(f, 0, sizeof *f);
    f->announces = 3;
    if (spec)
        f->spec = *spec;
    count_server_init(&f->server);
    make_runtime(f);
    assert_int_equal(moor_shard_adopt(f->runtime, &f->shard), MOOR_OK);
    open_pool(f, given ? given : &o);
    f->berth = mr_berth_of(f->upstream, f->shard);
    assert_non_null(f->berth);
}

static inline void begin(struct fixture *f, const moor_pool_options *given)
{
    begin_as(f, given, NULL);
}

static inline void finish(struct fixture *f)
{
    if (f->pool)
        assert_int_equal(moor_pool_close(f->pool, 100), MOOR_OK);
    moor_shard_leave(f->shard);
    assert_int_equal(moor_runtime_destroy(f->runtime, 1000), MOOR_OK);
    count_server_fini(&f->server);
    assert_int_equal(count_counts.opened, count_counts.dropped);
}

static inline void turn(struct fixture *f, int ms)
{
    assert_int_equal(moor_shard_wait(f->shard, ms), MOOR_OK);
    count_server_look(&f->server, f->announces);
    mr_berth_check(f->berth);
}

#define TURN_UNTIL(f, condition)                                                                   \
    for (int turns_ = 0; !(condition); turns_++) {                                                 \
        assert_true(turns_ < 5000);                                                                \
        turn(f, 1);                                                                                \
    }

/* Everything said has been heard, every dial has ended or waits for our word, and what follows is
 * done. */
static inline void settle(struct fixture *f)
{
    for (int i = 0; i < 5; i++)
        turn(f, 1);
    TURN_UNTIL(f, count_is_quiet() && (!f->announces || f->berth->dialing == 0));
    for (int i = 0; i < 5; i++)
        turn(f, 1);
}

static inline void say(struct fixture *f, unsigned conn, const char *line)
{
    count_say(&f->server, conn, line);
    settle(f);
}

static inline void acquire(struct fixture *f, struct count_request *r, unsigned from, unsigned n)
{
    for (unsigned i = from; i < from + n; i++)
        assert_int_equal(count_acquire(f->berth, &r[i], i), MOOR_OK);
    settle(f);
}

static inline void done(struct fixture *f, unsigned conn, unsigned id)
{
    char line[16];
    snprintf(line, sizeof line, "done %u", id);
    say(f, conn, line);
}

static inline uint64_t open_conns(struct fixture *f)
{
    return atomic_load(&f->berth->local->stats.conns_open);
}

/* None has failed; how many have been granted. */
static inline unsigned sum_granted(const struct count_request *r, unsigned n)
{
    unsigned granted = 0;
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(r[i].failed, 0);
        granted += r[i].granted;
    }
    return granted;
}

#endif
