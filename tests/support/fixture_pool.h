/*
 * A runtime with one pool, and requests that record all that is told about them.
 * Every test runs once per backend: MOORING_IO_BACKEND says which (BACKENDS in
 * tests/CMakeLists.txt).
 */
#ifndef TESTS_SUPPORT_FIXTURE_POOL_H
#define TESTS_SUPPORT_FIXTURE_POOL_H

#include "tests/support/origin_process.h"
#include "tests/support/peer.h"

#include <mooring/mooring.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { CALL_HELD_MAX = 4096, CALL_EVENTS_MAX = 16384, LOG_MAX = 65536 };

struct fixture {
    moor_runtime *runtime;
    moor_pool *pool;
    pthread_mutex_t log_lock;
    char log[LOG_MAX]; /* every record, at debug level: "code text\n" */
    size_t log_len;
};

/* Defaults of these tests: no min idle, so that a conn is there because a test made it; one shard.
 */
void fixture_runtime_options(struct fixture *f, moor_runtime_options *o);
void fixture_pool_options(moor_pool_options *o);

/* A runtime without a pool. */
void fixture_open_runtime(struct fixture *f, const moor_runtime_options *ro);
/* NULL options: those above. url NULL: an open pool. Exits with 77 where the backend is refused. */
void fixture_open(struct fixture *f, const moor_runtime_options *ro, const char *url,
                  const moor_pool_options *po);
/* Everything must be over: fails the test if anything is still out. */
void fixture_close(struct fixture *f);
bool fixture_has_logged(struct fixture *f, const char *text);
moor_stats fixture_stats(struct fixture *f);

/* A request and all that was told of it. */
struct call {
    /* what the test sets before call_start */
    moor_http_request request;
    bool is_holding; /* keep the chunks until call_return_all */
    void (*on_head)(struct call *c);
    void (*on_chunk)(struct call *c);
    void (*on_done)(struct call *c);
    void *user;

    moor_pool *pool;
    moor_task task;
    moor_op op;
    moor_err sent; /* what moor_http_send returned */
    pthread_t shard_thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_submitted, is_over;
    bool is_inside, was_told_inside; /* a callback ran inside moor_http_send */

    char
        events[CALL_EVENTS_MAX]; /* 'h' head, 'i' interim head, 'c' chunk, 't' trailers, 'd' done */
    size_t event_count;
    int status;
    uint64_t bytes;
    bool is_pattern;  /* every body byte so far was the origin's */
    char text[512];   /* the first bytes of the body, NUL-terminated */
    char header[256]; /* the value of X-Test in the final head or trailers */
    moor_chunk held[CALL_HELD_MAX];
    int held_count;
    moor_http_done done;
    moor_why why;
    int done_count;
};

void call_init(struct call *c, moor_pool *p, const char *url);
/* Posts the call to shard i of the runtime and waits until it was submitted. */
void call_start_on(struct call *c, moor_runtime *r, uint32_t i);
static inline void call_start(struct fixture *f, struct call *c)
{
    call_start_on(c, f->runtime, 0);
}
/* On this thread, which is a shard. */
void call_start_here(struct call *c);
/* Until on_done has run; fails the test after 30 s. */
void call_wait(struct call *c);
bool call_is_over(struct call *c);
size_t call_event_count(struct call *c);
/* Start and wait; asserts that it was sent and what became of it. */
void call_expect(struct fixture *f, struct call *c, moor_err err);
void call_return_all(struct call *c);
/* The contract: done once, last, never inside the call, heads before chunks. */
void call_check(struct call *c);
void call_fini(struct call *c);

/* One GET that must answer 200 with "ok". */
void fixture_get_ok(struct fixture *f);

/* Polls until the condition holds; fails the test after 30 s. */
#define eventually(condition)                                                                      \
    do {                                                                                           \
        for (int i_ = 0; !(condition); i_++) {                                                     \
            if (i_ > 15000)                                                                        \
                fail_msg("never: %s", #condition);                                                 \
            peer_sleep_ms(2);                                                                      \
        }                                                                                          \
    } while (0)

#define assert_err(got, wanted) assert_string_equal(moor_err_name(got), moor_err_name(wanted))

int64_t fixture_now_ms(void);
/* A machine that runs several test suites at once, or a sanitizer, is slow: upper bounds of time
 * are generous, lower bounds exact. */
#define TIME_SLACK_MS 2000

#endif
