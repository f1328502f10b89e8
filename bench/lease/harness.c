/*
 * The jobs of one peer: reads them, runs their threads, prints what came of them. New threads for every job,
 * in every peer, so that what a pool keeps for a thread is built up anew.
 */
#include "harness.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS_MAX = 64 };

struct runner {
    pthread_t thread;
    pthread_barrier_t *start;
    const struct lease_peer *peer;
    struct lease_worker worker;
};

/* By the wall clock, busy: a holder that lost its CPU meanwhile has nothing left to wait for, as if a reply had
 * come in the meantime. `yield` gives the CPU away at every look, so that holders overlap as those that wait
 * for a peer do, without a timer whose cost would differ by peer. */
void lease_hold(int64_t until, bool yields)
{
    while (lease_now() < until)
        if (yields)
            sched_yield();
}

/* 32 buckets for each power of two: within 3 %. Hikari.java has the same. */
void lease_record(struct lease_times *t, int64_t ns)
{
    const uint64_t value = ns < 0 ? 0 : (uint64_t)ns;
    size_t index = value;
    if (value >= 64) {
        const unsigned shift = 58u - (unsigned)__builtin_clzll(value);
        index = shift * 32 + (size_t)(value >> shift);
    }
    t->histogram[index]++;
    if (ns > t->max_ns)
        t->max_ns = ns;
}

static void *run_worker(void *user)
{
    struct runner *r = user;
    pthread_barrier_wait(r->start);
    r->peer->work(&r->worker);
    return NULL;
}

static bool read_job(const char *line, struct lease_job *job, uint64_t *out_amount)
{
    char mode[16], style[16];
    long long hold_ns;
    unsigned long long amount;
    if (sscanf(line, "%15s %u %u %lld %15s %llu", mode, &job->threads, &job->conns, &hold_ns, style,
               &amount) != 6)
        return false;
    atomic_store(&job->stop, false);
    job->hold_ns = hold_ns;
    job->is_timed = strcmp(mode, "latency") == 0;
    job->yields = strcmp(style, "yield") == 0;
    job->pairs_max = strcmp(mode, "count") == 0 ? amount : UINT64_MAX;
    *out_amount = amount;
    return job->threads >= 1 && job->threads <= THREADS_MAX && job->conns >= 1;
}

static void start(struct lease_job *job, const struct lease_peer *peer, struct runner *runners,
                  pthread_barrier_t *barrier)
{
    pthread_barrier_init(barrier, NULL, job->threads + 1);
    for (unsigned i = 0; i < job->threads; i++) {
        struct runner *r = &runners[i];
        memset(&r->worker, 0, sizeof r->worker);
        r->worker.job = job;
        r->start = barrier;
        r->peer = peer;
        if (pthread_create(&r->thread, NULL, run_worker, r) != 0)
            abort();
    }
    pthread_barrier_wait(barrier);
}

static void add_times(struct lease_times *sum, const struct lease_times *t)
{
    if (t->max_ns > sum->max_ns)
        sum->max_ns = t->max_ns;
    for (size_t k = 0; k < LEASE_BUCKETS; k++)
        sum->histogram[k] += t->histogram[k];
}

static struct lease_worker *join(const struct lease_job *job, struct runner *runners)
{
    struct lease_worker *sum = calloc(1, sizeof *sum);
    if (!sum)
        abort();
    for (unsigned i = 0; i < job->threads; i++) {
        const struct lease_worker *w = &runners[i].worker;
        pthread_join(runners[i].thread, NULL);
        sum->ns += w->ns;
        sum->cpu_ns += w->cpu_ns;
        sum->pairs += w->pairs;
        sum->failed |= w->failed;
        add_times(&sum->both, &w->both);
        add_times(&sum->acquires, &w->acquires);
    }
    return sum;
}

static void print_times(const char *name, const struct lease_times *t)
{
    printf(",\"%s\":{\"max_ns\":%lld,\"histogram\":[", name, (long long)t->max_ns);
    const char *between = "";
    for (size_t k = 0; k < LEASE_BUCKETS; k++) {
        if (t->histogram[k] == 0)
            continue;
        printf("%s[%zu,%llu]", between, k, (unsigned long long)t->histogram[k]);
        between = ",";
    }
    printf("]}");
}

static void print_outcome(const struct lease_worker *sum, uint64_t uses)
{
    printf("{\"pairs\":%llu,\"uses\":%llu,\"thread_ns\":%lld,\"cpu_ns\":%lld",
           (unsigned long long)sum->pairs, (unsigned long long)uses, (long long)sum->ns,
           (long long)sum->cpu_ns);
    print_times("both", &sum->both);
    print_times("acquires", &sum->acquires);
    printf("}\n");
    fflush(stdout);
}

int lease_serve(const struct lease_peer *peer)
{
    static struct runner runners[THREADS_MAX];
    static struct lease_job job;
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        pthread_barrier_t barrier;
        uint64_t amount;
        if (!read_job(line, &job, &amount) || !peer->open(job.conns))
            return 1;
        start(&job, peer, runners, &barrier);
        if (job.pairs_max == UINT64_MAX) {
            const struct timespec t = {(time_t)(amount / 1000), (long)(amount % 1000) * 1000000};
            nanosleep(&t, NULL);
            atomic_store(&job.stop, true);
        }
        struct lease_worker *sum = join(&job, runners);
        pthread_barrier_destroy(&barrier);
        const bool failed = sum->failed;
        print_outcome(sum, peer->close());
        free(sum);
        if (failed)
            return 1;
    }
    return 0;
}
