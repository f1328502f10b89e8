/*
 * A runtime with the redis driver, pools on it, and words for commands.
 */
#ifndef TESTS_DRIVERS_REDIS_FIXTURE_H
#define TESTS_DRIVERS_REDIS_FIXTURE_H

#include <mooring/mooring.h>
#include <mooring/redis.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define LONG_MS 20000 /* it hangs */

static inline moor_runtime *fixture_runtime(uint32_t shards)
{
    moor_runtime_options o;
    moor_runtime *r = NULL;
    moor_runtime_options_init(&o);
    o.shards = shards;
    o.shard_pin = false;
    o.log_level = MOOR_LOG_OFF;
    o.io_backend = getenv("MOORING_IO_BACKEND") ? getenv("MOORING_IO_BACKEND") : o.io_backend;
    assert_int_equal(moor_runtime_create(&o, &r), MOOR_OK);
    assert_int_equal(moor_driver_use(r, moor_redis_driver()), MOOR_OK);
    return r;
}

static inline void fixture_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
    o->acquire_timeout_ms = LONG_MS;
}

static inline moor_pool *fixture_pool(moor_runtime *r, const char *url,
                                      const moor_pool_options *options)
{
    moor_pool_options o;
    moor_pool *p = NULL;
    fixture_options(&o);
    assert_int_equal(moor_pool_open(r, url, options ? options : &o, &p), MOOR_OK);
    return p;
}

static inline void fixture_close(moor_runtime *r, moor_pool *p)
{
    assert_int_equal(moor_pool_close(p, LONG_MS), MOOR_OK);
    assert_int_equal(moor_runtime_destroy(r, LONG_MS), MOOR_OK);
}

static inline moor_redis *session_begin(moor_pool *p, moor_acquired *a)
{
    moor_redis *s = NULL;
    a->size = sizeof *a;
    assert_int_equal(moor_acquire_wait(p, NULL, a), MOOR_OK);
    assert_int_equal(moor_redis_begin(a->lease, &s), MOOR_OK);
    return s;
}

/* "SET a b" by its words. */
struct words {
    int argc;
    const char *argv[16];
    char text[1024];
};
static inline struct words *words_of(struct words *w, const char *text)
{
    w->argc = 0;
    snprintf(w->text, sizeof w->text, "%s", text);
    for (char *at, *word = strtok_r(w->text, " ", &at); word; word = strtok_r(NULL, " ", &at))
        w->argv[w->argc++] = word;
    return w;
}

static inline moor_err session_try(moor_redis *s, const char *text, moor_redis_reply **out)
{
    struct words w;
    words_of(&w, text);
    return moor_redis_command_wait(s, w.argc, w.argv, NULL, LONG_MS, out);
}

/* The reply as text: errors with a '-' before them, "(nil)", numbers, "[count]". */
static inline const char *reply_text(const moor_redis_reply *r)
{
    static _Thread_local char text[4096];
    const moor_span t = moor_redis_reply_text(r);
    switch (moor_redis_reply_type(r)) {
    case MOOR_REDIS_NIL:
        return "(nil)";
    case MOOR_REDIS_INTEGER:
        snprintf(text, sizeof text, "%lld", (long long)moor_redis_reply_integer(r));
        return text;
    case MOOR_REDIS_ARRAY:
        snprintf(text, sizeof text, "[%zu]", moor_redis_reply_count(r));
        return text;
    default:
        snprintf(text, sizeof text, "%s%.*s", moor_redis_reply_is_error(r, NULL) ? "-" : "",
                 (int)t.len, (const char *)t.base);
        return text;
    }
}

static inline const char *session_say(moor_redis *s, const char *text)
{
    moor_redis_reply *r = NULL;
    const moor_err e = session_try(s, text, &r);
    if (e)
        return moor_err_name(e);
    const char *said = reply_text(r);
    moor_redis_reply_free(r);
    return said;
}

static inline void nap_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l}, NULL);
}

static inline int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

#endif
