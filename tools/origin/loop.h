/* One thread of origin: its epoll, listeners, timers, conns and counters. */
#ifndef ORIGIN_LOOP_H
#define ORIGIN_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "text.h"

struct conn;
struct options;
struct protocol;
struct ssl_ctx_st;

/* One writer, the loop's thread; /stats of any thread reads. Relaxed: they are only figures. */
struct counters {
    _Atomic uint64_t accepted;
    _Atomic uint64_t closed;
    _Atomic uint64_t requests;
    _Atomic uint64_t bytes_in;
    _Atomic uint64_t bytes_out;
    _Atomic uint64_t handshakes; /* done, resumed ones included */
    _Atomic uint64_t handshakes_resumed;
    _Atomic uint64_t handshakes_failed; /* conns that ended before */
    _Atomic uint64_t early_data_accepted;
    _Atomic uint64_t h2_conns; /* begun, by ALPN or by a preface */
    _Atomic uint64_t h2_requests;
};

struct listener {
    int fd; /* owned by main: a Unix socket is shared by all loops */
    bool is_paused;
    const struct protocol *protocol;
    uint64_t resume_ms; /* when accepting starts again after running out of descriptors */
};

enum { LISTENERS_MAX = 2, IN_SCRATCH = 128 * 1024, OUT_SCRATCH = 64 * 1024 };
/* Of TLS: what is received at once and what is sent at once. */
enum { RAW_SCRATCH = 128 * 1024, SEALED_SCRATCH = 136 * 1024 };

TAILQ_HEAD(ready_list, conn);
LIST_HEAD(conn_list, conn);

struct loop {
    int epoll_fd;
    int wake_fd;
    atomic_bool stopping;
    uint64_t now_ms; /* sampled once per turn */
    const struct options *options;
    struct loop *peers; /* all loops, for /stats */
    unsigned peer_count;
    struct listener listeners[LISTENERS_MAX];
    unsigned listener_count;
    struct conn_list conns;
    struct ready_list ready; /* stopped by their turn's budget, not by the kernel */
    struct conn **heap;      /* conns by timer_ms, smallest first */
    size_t heap_len;
    size_t heap_cap;
    struct counters counters;
    /* Input and output of the conn being served; both are empty between two conns. */
    char *in_scratch;
    char *out_scratch;
    size_t out_len;
    struct ssl_ctx_st *tls_context; /* shared by all loops; NULL: plain, without the two below */
    char *raw_scratch;
    char *sealed_scratch;
    size_t sealed_len;
};

bool loop_init(struct loop *l, const struct options *options, struct loop *peers, unsigned count,
               struct ssl_ctx_st *tls_context);
bool loop_add_listener(struct loop *l, int fd, const struct protocol *protocol);
void loop_run(struct loop *l);
void loop_stop(struct loop *l); /* any thread */
void loop_fini(struct loop *l);

/* One timer per conn; setting it again moves it. */
void timer_set(struct conn *c, uint64_t when_ms);
void timer_clear(struct conn *c);

static inline void count(_Atomic uint64_t *counter, uint64_t n)
{
    const uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, now + n, memory_order_relaxed);
}

#endif
