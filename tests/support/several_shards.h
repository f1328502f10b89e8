/*
 * A count_fixture on several shards, which the test's thread drives in turn. Nothing happens but in several_turn().
 */
#ifndef TESTS_SUPPORT_SEVERAL_SHARDS_H
#define TESTS_SUPPORT_SEVERAL_SHARDS_H

#include "tests/support/count_fixture.h"

#define SEVERAL_MAX 4

struct several {
    struct fixture f; /* but its shard and its berth */
    unsigned count;
    struct moor_shard *shards[SEVERAL_MAX];
    struct mr_berth *berths[SEVERAL_MAX];
};

static inline void several_begin(struct several *s, unsigned count, const moor_pool_options *o,
                                 const struct mr_protocol *protocol, unsigned capacity)
{
    memset(s, 0, sizeof *s);
    s->count = count;
    s->f.announces = capacity;
    s->f.spec.protocol = protocol;
    count_server_init(&s->f.server);
    make_runtime(&s->f);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(mr_runtime_add_shard(s->f.runtime, &s->shards[i]), MOOR_OK);
    open_pool(&s->f, o);
    atomic_store(&s->f.upstream->capacity, capacity); /* as the last conn told */
    for (unsigned i = 0; i < count; i++) {
        mr_shard_enter(s->shards[i]);
        s->berths[i] = mr_berth_of(s->f.upstream, s->shards[i]);
    }
}

static inline void several_turn(struct several *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        mr_shard_enter(s->shards[i]);
        assert_int_equal(mr_shard_turn(s->shards[i], MR_NS_PER_MS, 0), MOOR_OK);
    }
    count_server_look(&s->f.server, s->f.announces);
}

static inline void several_acquire(struct several *s, unsigned shard, struct count_request *r,
                                   unsigned id)
{
    mr_shard_enter(s->shards[shard]);
    assert_int_equal(count_acquire(s->berths[shard], r, id), MOOR_OK);
}

static inline void several_finish(struct several *s)
{
    mr_shard_enter(s->shards[0]);
    moor_pool_drain(s->f.pool, 100, NULL, NULL);
    while (!atomic_load(&s->f.pool->drained_word))
        several_turn(s);
    mr_pool_free(s->f.pool);
    for (unsigned i = 0; i < s->count; i++) {
        mr_shard_enter(s->shards[i]);
        mr_shard_leave(s->shards[i]);
    }
    mr_shard_enter(NULL);
    assert_int_equal(moor_runtime_destroy(s->f.runtime, 1000), MOOR_OK);
    count_server_fini(&s->f.server);
    assert_int_equal(count_counts.opened, count_counts.dropped);
}

#endif
