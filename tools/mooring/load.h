/*
 * A load run: what was asked, the lanes that carry it out, and what they counted.
 * plan: written before the lanes start, then read-only. A lane is its shard's alone until it is finished,
 * then main's.
 */
#ifndef TOOL_LOAD_H
#define TOOL_LOAD_H

#include "cli.h"
#include "latency.h"
#include "measure.h"
#include "tls.h"

#include <semaphore.h>
#include <stdatomic.h>

/* One number past the largest of MOOR_ERRORS, which is where errors of a newer library are counted. */
union err_room {
#define X(name, value, text) char err_##name[(value) + 1];
    MOOR_ERRORS(X)
#undef X
};
enum { ERR_COUNT = sizeof(union err_room) + 1, FAULT_LINE_CAP = 512 };

struct plan {
    const char *url;
    char *upstream;     /* owned: scheme and authority of url */
    char *target;       /* owned: its path and query */
    uint32_t conc;      /* requests in flight */
    uint32_t conns_max; /* connections */
    uint32_t streams;   /* requests at a time on one; 0 = as the pool does by itself */
    bool is_h2;
    uint32_t shards; /* MOOR_SHARDS_AUTO = choose */
    double seconds;  /* 0 = until count is reached */
    uint64_t count;  /* 0 = until the time is over */
    double rate;     /* requests a second; 0 = as fast as goes */
    bool as_json, shows_progress;
    struct header_list headers;
    const char *method;
    char *body; /* owned; NULL = none */
    size_t body_len;
    moor_ms timeout_ms; /* 0 = none */
    double flush_s;     /* the pool is flushed so often; 0 = never */
    struct tls_options tls;
};

struct lane;

/* One of the exchanges a lane keeps in flight. */
struct flight {
    struct lane *lane;
    struct flight *next_free;
    moor_op op;
    int64_t due_ns; /* paced: when it should have been sent; 0 else */
    int status;
    bool is_flying;
};

/* What one shard does. On its own cache lines: shards write here all the time. */
struct lane {
    _Alignas(128) struct load *load;
    moor_shard *shard;
    moor_task task; /* posted by main: look for work, or for the end */
    struct flight *flights;
    struct flight *free_flights;
    uint32_t flight_count, flying;
    uint32_t failed_in_row; /* since the last success or tick: bounds a storm of instant failures */
    uint64_t tickets;       /* taken from load->tickets, not used yet */
    uint64_t next_paced;    /* number of this lane's next request in the schedule */
    uint64_t requests, bytes_down, unfinished;
    uint64_t errors[ERR_COUNT];
    uint64_t status_4xx, status_5xx;
    bool is_finished;
    bool has_fault;
    char fault_line[FAULT_LINE_CAP]; /* of the first failure */
    struct latency latency;
};

struct load {
    struct plan plan;
    moor_pool *pool;
    moor_http_request request; /* the same for all; borrowed by each call */
    uint32_t lane_count;
    struct lane *lanes;
    int64_t start_ns;
    uint64_t flushes;
    uint64_t handshakes_before, resumed_before; /* when it was flushed for the first time */
    double interval_ns;        /* paced: between two requests of all lanes together; 0 else */
    _Atomic(int64_t) tickets;  /* requests not yet handed to a lane */
    _Atomic(bool) is_stopping; /* no new requests */
    _Atomic(bool) is_canceling;
    _Atomic(uint32_t) finished_lanes;
    sem_t news; /* a lane finished, or a signal came */
};

/* Of an https run. */
struct tls_report {
    uint64_t handshakes, resumed, failed;
    uint64_t flushed_handshakes, flushed_resumed; /* those after the first flush */
    moor_ns p50, p99, p999, max;
};

/* Everything of a finished run. */
struct report {
    double seconds;
    uint64_t requests, errors, unfinished, bytes_down;
    uint64_t by_err[ERR_COUNT], status_4xx, status_5xx;
    struct latency latency;
    moor_ns acquire_p50, acquire_p99, acquire_p999, acquire_max;
    uint64_t acquires, acquires_reused, conns_opened, conns_open;
    uint64_t flushes;
    bool has_tls;
    struct tls_report tls;
    double cpu_us_per_request, syscalls_per_request;
    int64_t memory_bytes;    /* Private_Dirty of the process afterwards; -1 = unreadable */
    int64_t memory_per_conn; /* what the run added, per open conn; -1 = unknown */
    const char *backend;
    const char *backend_reason; /* why it is not io_uring; "" = it is, or was not asked for */
    uint32_t shards;
    const char *first_fault; /* "" = none */
};

/* Returns -1, or the exit code where there is nothing to run. plan_free frees either way. */
int plan_read(struct plan *p, int argc, char **argv);
void plan_free(struct plan *p);

/* Allocates lanes for the runtime's shards. False: out of memory. */
bool load_lanes_create(struct load *l, moor_runtime *r);
void load_lanes_destroy(struct load *l);
/* Lets every unfinished lane look for work; any thread. */
void load_wake_all(struct load *l);
/* Paced: wakes the lanes whose turn came since request number `from`; returns the next to come. */
uint64_t load_wake_due(struct load *l, uint64_t from, int64_t now);

void report_print(const struct plan *plan, const struct report *r);
void report_print_json(const struct plan *plan, const struct report *r);

#endif
