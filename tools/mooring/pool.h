/*
 * A pool run: what was asked, the threads that acquire and release, and what they counted.
 * plan: written before the threads start, then read-only. What a worker counts is its own until it has
 * finished, then main's; what is atomic or under a lock says so.
 */
#ifndef TOOL_POOL_H
#define TOOL_POOL_H

#include "cli.h"
#include "drive.h"
#include "latency.h"
#include "measure.h"
#include "tls.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

enum {
    ERROR_KIND_CAP = 48,
    ERROR_TEXT_CAP = 480,
    ERROR_KINDS_MAX = 16 /* what a peer can make up is bounded; the last one is "other" */
};

struct pool_plan {
    const char *url;
    const struct drive *drive;
    uint32_t threads;
    uint32_t shards; /* MOOR_SHARDS_AUTO = choose */
    uint32_t conns;  /* 0 = as many as threads */
    uint32_t min_idle;
    uint32_t dials;     /* 0 = the library's default */
    double seconds;     /* 0 = until count is reached */
    uint64_t count;     /* acquires; 0 = until the time is over */
    double rate;        /* acquires a second; 0 = as fast as goes */
    int64_t hold_ns;    /* after the query, before the release */
    moor_ms timeout_ms; /* of an acquire, and of a query; 0 = the pool's, and none */
    char *query;        /* owned; NULL = none is made */
    size_t query_len;
    bool as_json, shows_progress;
    struct tls_options tls;
};

/* Errors that count as one, and the words of the first. */
struct error_kind {
    char kind[ERROR_KIND_CAP];
    char example[ERROR_TEXT_CAP];
    uint64_t count;
};
struct error_list {
    struct error_kind kinds[ERROR_KINDS_MAX];
    uint32_t count;
};

struct pool_run;

/* One thread. On its own cache lines: each writes here all the time. */
struct pool_worker {
    _Alignas(128) struct pool_run *run;
    pthread_t thread;
    sem_t wake;    /* posted by main: stop sleeping, look at is_stopping */
    uint64_t left; /* acquires still to make; UINT64_MAX = no limit */
    uint32_t failed_in_row;
    uint64_t acquires, reused, queries, unfinished;
    _Atomic(uint64_t) failed; /* acquires and queries; main shows it */
    struct latency wait;      /* from when it was due, or from the call, to the lease */
    struct latency query;
    struct error_list errors;
    moor_why why;
    struct drive_call call;
    pthread_mutex_t lock; /* of the next three, which main reads */
    int asking_fd;        /* ours, of the handle whose query runs; -1 = none */
    int64_t asked_ns;
    bool was_cut; /* main ended the query, of which the handle's library knows no timeout */
};

struct pool_run {
    struct pool_plan plan;
    moor_pool *pool;
    struct pool_worker *workers;
    uint32_t started;
    int64_t start_ns;
    double interval_ns;           /* paced: between two acquires of all threads together; 0 else */
    uint64_t waiters_most;        /* seen by main, who looks ten times a second */
    _Atomic(uint64_t) next_paced; /* number in the schedule */
    _Atomic(bool) is_stopping;    /* no new acquires */
    _Atomic(bool) is_hurried;     /* another interrupt: do not wait for what runs */
    _Atomic(bool) is_canceling;   /* what runs now is to end; it counts as unfinished */
    _Atomic(uint32_t) finished;
    sem_t news; /* a worker finished, or a signal came */
};

/* Everything of a finished run. */
struct pool_report {
    double seconds;
    uint64_t acquires, reused, queries, errors, unfinished;
    struct error_list by_kind;
    struct latency wait, query;
    uint64_t conns_opened, conns_closed, conns_open, conns_idle;
    uint64_t dials_failed, waiters_most;
    uint64_t leaks; /* leases that the pool reported as held for too long */
    double cpu_us_per_acquire, syscalls_per_acquire;
    int64_t memory_bytes; /* Private_Dirty of the process afterwards; -1 = unreadable */
    const char *backend;
    const char *backend_reason; /* why it is not io_uring; "" = it is, or was not asked for */
    uint32_t shards;
};

/* Returns -1, or the exit code where there is nothing to run. pool_plan_free frees either way. */
int pool_plan_read(struct pool_plan *p, int argc, char **argv);
void pool_plan_free(struct pool_plan *p);

/* Starts the threads. False: not all could be; those that run end once is_stopping is set. */
bool pool_workers_start(struct pool_run *r);
/* Wakes those that sleep. */
void pool_workers_wake(struct pool_run *r);
/* Cuts queries that run longer than allowed; all of them while is_canceling. */
void pool_workers_cut(struct pool_run *r, int64_t now);
/* Waits for the threads, all of which have finished, and adds up what they counted. */
void pool_workers_join(struct pool_run *r, struct pool_report *out);
void pool_workers_destroy(struct pool_run *r);

void error_list_add(struct error_list *l, const char *kind, const char *example, uint64_t count);

void pool_report_print(const struct pool_plan *plan, const struct pool_report *r);
void pool_report_print_json(const struct pool_plan *plan, const struct pool_report *r);

#endif
