/*
 * Acquire and release on a shard: an adopted one, whose pool of byte streams is warm, so that what
 * is measured is the pool and the deferred callback. The peer is a listening socket: the kernel
 * completes connects to it, nobody accepts. One thread, which is the shard.
 */
#include "bench/harness.h"

#include <mooring/mooring.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, STEPS_MAX = 1000 };

struct stand {
    int listener;
    moor_runtime *runtime;
    moor_shard *shard;
    moor_pool *pool;
    moor_lease held[BATCH]; /* while it warms up */
    unsigned got;           /* callbacks of the batch */
    uint64_t failed;        /* not one that was idle */
};

static bool listen_somewhere(struct stand *s, char *url, size_t cap)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&at, sizeof at) ||
        listen(s->listener, 4 * BATCH) || getsockname(s->listener, (struct sockaddr *)&at, &size))
        return false;
    snprintf(url, cap, "tcp://127.0.0.1:%u", ntohs(at.sin_port));
    return true;
}

/* One turn after another until so many callbacks have run. */
static bool turn_until(struct stand *s, unsigned got)
{
    for (int i = 0; s->got < got && i < STEPS_MAX; i++)
        if (moor_shard_wait(s->shard, 10) != MOOR_OK)
            return false;
    return s->got >= got;
}

static void on_first(void *user, const moor_acquired *a)
{
    struct stand *s = user;
    if (a->fault.err == MOOR_OK)
        s->held[s->got++] = a->lease;
}

static void on_acquired(void *user, const moor_acquired *a)
{
    struct stand *s = user;
    s->failed += a->fault.err != MOOR_OK || !a->reused;
    moor_release(a->lease, MOOR_REUSE);
    s->got++;
}

/* Dials as many as a batch takes, by holding them all at once. */
static bool warm(struct stand *s)
{
    s->got = 0;
    for (unsigned i = 0; i < BATCH; i++)
        if (moor_acquire(s->pool, NULL, on_first, s, NULL) != MOOR_OK)
            return false;
    if (!turn_until(s, BATCH))
        return false;
    for (unsigned i = 0; i < BATCH; i++)
        moor_release(s->held[i], MOOR_REUSE);
    return moor_shard_wait(s->shard, 0) == MOOR_OK;
}

static bool set_up(struct stand *s)
{
    moor_runtime_options ro;
    moor_pool_options po;
    char url[64];
    moor_runtime_options_init(&ro);
    moor_pool_options_init(&po);
    if (moor_runtime_options_from_env(&ro, NULL, 0) != MOOR_OK || !listen_somewhere(s, url, 64))
        return false;
    ro.shards = 0;
    po.conns_max = BATCH;
    po.conns_min_idle = 0;
    po.lifetime_max_ms = po.idle_timeout_ms = MOOR_FOREVER;
    return moor_runtime_create(&ro, &s->runtime) == MOOR_OK &&
           moor_shard_adopt(s->runtime, &s->shard) == MOOR_OK &&
           moor_pool_open(s->runtime, url, &po, &s->pool) == MOOR_OK && warm(s);
}

static void tear_down(struct stand *s)
{
    if (s->pool && moor_pool_close(s->pool, 1000) != MOOR_OK)
        fprintf(stderr, "the pool does not close\n");
    moor_shard_leave(s->shard);
    if (moor_runtime_destroy(s->runtime, 1000) != MOOR_OK)
        fprintf(stderr, "the runtime does not end\n");
    close(s->listener);
}

/* arg: acquires submitted before the turn that answers them all. */
static void pair(struct mr_bench *b)
{
    struct stand s = {.listener = -1};
    const unsigned group = (unsigned)mr_bench_arg(b);
    if (!set_up(&s)) {
        mr_bench_fail(b, "no warm pool");
        tear_down(&s);
        return;
    }
    while (mr_bench_next(b, BATCH)) {
        for (unsigned done = 0; done < BATCH; done += group) {
            s.got = 0;
            for (unsigned i = 0; i < group; i++)
                s.failed += moor_acquire(s.pool, NULL, on_acquired, &s, NULL) != MOOR_OK;
            s.failed += !turn_until(&s, group);
        }
    }
    mr_bench_checksum(b, s.failed);
    if (s.failed)
        mr_bench_fail(b, "an acquire was not warm");
    tear_down(&s);
}

const struct mr_bench_case mr_bench_cases[] = {
    {.name = "acquire/pair", .run = pair, .args = {1, 8, 64}, .arg_count = 3},
    {.name = NULL},
};
