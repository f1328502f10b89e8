/*
 * What the programs of one comparison share: a job is one line on stdin, its outcome one line on stdout, so
 * that every peer stays alive for the whole run and all take turns. Hikari.java follows the same protocol.
 *
 *     MODE THREADS CONNS HOLD_NS spin|yield AMOUNT
 *     speed    AMOUNT ms of acquire, hold, release; nothing in the loop is timed
 *     latency  the same, with the clock read around each acquire and each release
 *     count    AMOUNT pairs on each thread, for callgrind
 */
#ifndef LEASE_HARNESS_H
#define LEASE_HARNESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum { LEASE_BUCKETS = 2048, LEASE_TOKEN_BYTES = 256 };

/* What every holder touches, as it would the native object. Not atomic: if two ever held it at once, the sum
 * over all conns would not be the number of pairs. */
struct lease_handle {
    _Alignas(128) uint64_t uses;
};

struct lease_job {
    _Alignas(128) atomic_bool stop;
    _Alignas(128) unsigned threads; /* read by all from here on */
    unsigned conns;
    int64_t hold_ns;
    uint64_t pairs_max; /* of each thread; UINT64_MAX = until stop */
    bool is_timed, yields;
};

struct lease_times {
    int64_t max_ns;
    uint64_t histogram[LEASE_BUCKETS];
};

struct lease_worker {
    const struct lease_job *job;
    int64_t ns; /* from the thread's first acquire to its last release */
    int64_t cpu_ns;
    uint64_t pairs;
    bool failed;
    struct lease_times both;     /* acquire and release of a pair together */
    struct lease_times acquires; /* acquire alone */
};

struct lease_peer {
    /* A pool of so many conns, all open. */
    bool (*open)(unsigned conns);
    /* lease_loop with the peer's own acquire and release. */
    void (*work)(struct lease_worker *w);
    /* Closes the pool; the sum of its handles' uses. */
    uint64_t (*close)(void);
};

/* Serves jobs until the end of stdin. Returns the process's status. */
int lease_serve(const struct lease_peer *peer);

static inline int64_t lease_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline int64_t lease_now(void)
{
    return lease_clock(CLOCK_MONOTONIC);
}

void lease_hold(int64_t until, bool yields);
void lease_record(struct lease_times *t, int64_t ns);

/* Fills the token, which is the holder's. NULL: failed. */
typedef struct lease_handle *(*lease_take)(void *token);
typedef void (*lease_give)(void *token);

/* Inlined with its two functions known, so that a peer pays its own calls and nothing for the harness. */
static inline __attribute__((always_inline)) void lease_loop(struct lease_worker *w,
                                                             lease_take take, lease_give give)
{
    const struct lease_job *job = w->job;
    const int64_t hold_ns = job->hold_ns;
    const bool is_timed = job->is_timed, yields = job->yields;
    const uint64_t pairs_max = job->pairs_max;
    _Alignas(64) char token[LEASE_TOKEN_BYTES] = {0};
    uint64_t pairs = 0;
    const int64_t cpu = lease_clock(CLOCK_THREAD_CPUTIME_ID);
    const int64_t begin = lease_now();
    while (pairs < pairs_max && !atomic_load_explicit(&job->stop, memory_order_relaxed)) {
        const int64_t called = is_timed ? lease_now() : 0;
        struct lease_handle *h = take(token);
        if (!h) {
            w->failed = true;
            break;
        }
        const int64_t taken = is_timed ? lease_now() : 0;
        h->uses++;
        if (hold_ns > 0)
            lease_hold((is_timed ? taken : lease_now()) + hold_ns, yields);
        const int64_t left = is_timed ? lease_now() : 0;
        give(token);
        if (is_timed) {
            lease_record(&w->both, taken - called + lease_now() - left);
            lease_record(&w->acquires, taken - called);
        }
        pairs++;
    }
    w->ns = lease_now() - begin;
    w->cpu_ns = lease_clock(CLOCK_THREAD_CPUTIME_ID) - cpu;
    w->pairs = pairs;
}

#endif
