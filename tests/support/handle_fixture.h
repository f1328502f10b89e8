/*
 * A pool of the dummy driver, and threads that acquire from it.
 */
#ifndef TESTS_SUPPORT_HANDLE_FIXTURE_H
#define TESTS_SUPPORT_HANDLE_FIXTURE_H

#include "tests/support/dummy_driver.h"
#include "tests/support/fixture_pool.h"

struct handles {
    struct fixture f;
    moor_pool *pool;
    struct dummy_script script;
};

/* Which of the two drivers. */
static bool handles_are_plain __attribute__((unused));

/* No min idle: a link is there because a test made it. */
static inline void handles_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
    o->backoff_min_ms = 1;
    o->backoff_max_ms = 5;
}

static inline void handles_open_pool(struct handles *h, const moor_pool_options *given)
{
    moor_pool_options o;
    handles_options(&o);
    if (given)
        o = *given;
    o.driver_config = &h->script;
    const moor_driver *d = handles_are_plain ? &dummy_plain_driver : &dummy_driver;
    const char *url = handles_are_plain ? "plain://127.0.0.1:1" : "dummy://127.0.0.1:1";
    assert_err(moor_driver_use(h->f.runtime, d), MOOR_OK);
    assert_err(moor_pool_open(h->f.runtime, url, &o, &h->pool), MOOR_OK);
}

static inline void handles_open(struct handles *h, const moor_pool_options *given)
{
    memset(h, 0, sizeof *h);
    fixture_open_runtime(&h->f, NULL);
    handles_open_pool(h, given);
}

static inline void handles_close(struct handles *h)
{
    assert_err(moor_pool_close(h->pool, 5000), MOOR_OK);
    h->pool = NULL;
    fixture_close(&h->f);
    assert_int_equal(atomic_load(&h->script.dropped), atomic_load(&h->script.connects));
}

static inline moor_stats handles_stats(struct handles *h)
{
    moor_stats s;
    moor_stats_read(h->pool, &s);
    return s;
}

/* A thread that acquires once. */
struct taker {
    pthread_t thread;
    moor_pool *pool;
    moor_acquire_options options;
    bool has_options;
    moor_acquired got;
    moor_err err;
    _Atomic(bool) is_over;
};

static inline void *taker_run(void *arg)
{
    struct taker *t = arg;
    t->err = moor_acquire_wait(t->pool, t->has_options ? &t->options : NULL, &t->got);
    atomic_store(&t->is_over, true);
    return NULL;
}

static inline void taker_start(struct taker *t, moor_pool *p, const moor_acquire_options *o)
{
    memset(t, 0, sizeof *t);
    t->pool = p;
    t->has_options = o;
    if (o)
        t->options = *o;
    assert_int_equal(pthread_create(&t->thread, NULL, taker_run, t), 0);
}

static inline void taker_join(struct taker *t)
{
    assert_int_equal(pthread_join(t->thread, NULL), 0);
}

#endif
