/*
 * Several shards driven by turns on the test's one thread, and a peer that listens and answers nothing:
 * the peer's side of every connection is the test's.
 */
#ifndef MR_TESTS_SHARDS_H
#define MR_TESTS_SHARDS_H

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/options.h"
#include "core/berth.h"
#include "core/pool.h"
#include "core/runtime.h"
#include "core/shard.h"

#include <arpa/inet.h>
#include <mooring/mooring.h>
#include <stdio.h>
#include <unistd.h>

#define SHARDS_MAX 3

struct shards {
    moor_runtime *runtime;
    moor_shard *at[SHARDS_MAX];
    unsigned count;
    int listener;
    uint16_t port;
};

/* One acquire and what came of it. */
struct taker {
    unsigned calls;
    moor_err err;
    moor_fault fault;
    moor_lease lease;
    bool is_reused;
};

static inline void taker_cb(void *user, const moor_acquired *a)
{
    struct taker *t = user;
    t->calls++;
    t->err = a->fault.err;
    t->fault = a->fault;
    t->lease = a->lease;
    t->is_reused = a->reused;
}

static inline int shards_listen(uint16_t *out_port)
{
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    *out_port = ntohs(at.sin_port);
    return fd;
}

static inline void shards_options(moor_runtime_options *o, const char *backend)
{
    moor_runtime_options_init(o);
    o->shards = 0;
    o->io_backend = backend;
    o->log_level = MOOR_LOG_OFF;
}

/* o NULL: as shards_options says. */
static inline void shards_init(struct shards *s, unsigned count, const char *backend,
                               const moor_runtime_options *o)
{
    memset(s, 0, sizeof *s);
    moor_runtime_options mine;
    shards_options(&mine, backend);
    assert_int_equal(mr_runtime_create(o ? o : &mine, NULL, &s->runtime), MOOR_OK);
    s->listener = shards_listen(&s->port);
    for (s->count = 0; s->count < count; s->count++)
        if (mr_runtime_add_shard(s->runtime, &s->at[s->count]) != MOOR_OK)
            skip();
}

static inline void shards_turn(struct shards *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        if (!s->at[i])
            continue;
        mr_shard_enter(s->at[i]);
        assert_int_equal(mr_shard_turn(s->at[i], MR_NS_PER_MS, 0), MOOR_OK);
    }
    mr_shard_enter(NULL);
}

static inline void shards_turn_for(struct shards *s, int ms)
{
    const int64_t until = mr_clock_now(&mr_clock_system) + ms * MR_NS_PER_MS;
    while (mr_clock_now(&mr_clock_system) < until)
        shards_turn(s);
}

/* Turns until it is so, for at most five seconds. */
#define SHARDS_UNTIL(s, condition)                                                                 \
    do {                                                                                           \
        const int64_t until_ = mr_clock_now(&mr_clock_system) + 5 * MR_NS_PER_SEC;                 \
        while (!(condition)) {                                                                     \
            shards_turn(s);                                                                        \
            if (mr_clock_now(&mr_clock_system) > until_)                                           \
                fail_msg("never came: %s", #condition);                                            \
        }                                                                                          \
    } while (0)

static inline bool shards_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* The peer's side of a conn the shards dial, while they turn: the thread is theirs. */
static inline int shards_accept(struct shards *s, int listener)
{
    SHARDS_UNTIL(s, shards_readable(listener));
    const int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    return fd;
}

static inline void shards_leave(struct shards *s, unsigned i)
{
    mr_shard_enter(s->at[i]);
    mr_shard_leave(s->at[i]);
    mr_shard_enter(NULL);
    s->at[i] = NULL;
}

static inline void shards_fini(struct shards *s)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->at[i])
            shards_leave(s, i);
    assert_int_equal(moor_runtime_destroy(s->runtime, 1000), MOOR_OK);
    if (s->listener >= 0)
        close(s->listener);
}

static inline void shards_pool_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
}

static inline moor_pool *shards_open(struct shards *s, uint16_t port, const moor_pool_options *o)
{
    char url[64];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", port);
    moor_pool *p = NULL;
    moor_pool_options mine;
    shards_pool_options(&mine);
    assert_int_equal(moor_pool_open(s->runtime, url, o ? o : &mine, &p), MOOR_OK);
    return p;
}

static inline void shards_drain(struct shards *s, moor_pool *p)
{
    moor_pool_drain(p, 0, NULL, NULL);
    SHARDS_UNTIL(s, atomic_load(&p->drained_word));
    mr_pool_free(p);
}

static inline void shards_acquire(struct shards *s, unsigned i, moor_pool *p, moor_ms timeout_ms,
                                  struct taker *t)
{
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    o.timeout_ms = timeout_ms;
    memset(t, 0, sizeof *t);
    mr_shard_enter(s->at[i]);
    assert_int_equal(moor_acquire(p, &o, taker_cb, t, NULL), MOOR_OK);
    mr_shard_enter(NULL);
}

static inline void shards_release(struct shards *s, unsigned i, struct taker *t)
{
    mr_shard_enter(s->at[i]);
    moor_release(t->lease, MOOR_REUSE);
    mr_shard_enter(NULL);
}

#endif
