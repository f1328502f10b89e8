/*
 * What a pool and a runtime have done: counters and mergeable histograms, read without stopping a shard.
 */
#ifndef MOORING_STATS_H
#define MOORING_STATS_H

#include <mooring/error.h>
#include <mooring/handle.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOOR_STATS(X)                                                                              \
    X(conns_open, "connections open now")                                                          \
    X(conns_idle, "connections idle now")                                                          \
    X(conns_leased, "connections in use now")                                                      \
    X(conns_created, "connections opened since start")                                             \
    X(conns_closed, "connections closed since start")                                              \
    X(conns_moved, "connections taken from one shard by another")                                  \
    X(conns_retired, "idle connections closed because the peer did something to them")             \
    X(dials, "connects in progress")                                                               \
    X(dials_failed, "connects that failed")                                                        \
    X(acquires, "connections handed out")                                                          \
    X(acquires_reused, "of those, connections that were there")                                    \
    X(acquires_failed, "acquires that failed or timed out")                                        \
    X(leases_held_long, "leases that were reported as held for longer than leak_after_ms")         \
    X(waiters, "acquires waiting now")                                                             \
    X(requests, "requests completed")                                                              \
    X(requests_failed, "of those, with an error")                                                  \
    X(replays, "requests sent again on another connection")                                        \
    X(bytes_in, "bytes received")                                                                  \
    X(bytes_out, "bytes sent")                                                                     \
    X(chunks_lent, "chunks the application holds now")                                             \
    X(chunks_copied, "chunks copied because receive buffers ran low")                              \
    X(tls_handshakes, "TLS handshakes completed")                                                  \
    X(tls_resumed, "of those, resumed from a ticket")                                              \
    X(tls_failed, "TLS handshakes that failed")                                                    \
    X(tls_early, "connections that sent early data")                                               \
    X(tls_early_refused, "of those, refused by the server, and sent again after the handshake")    \
    X(h2_goaways, "HTTP/2 connections whose server said GOAWAY")                                   \
    X(h2_refused, "HTTP/2 streams the server did nothing with, and said so")                       \
    X(h2_broken, "HTTP/2 connections closed by us: the peer broke a rule or passed a bound")       \
    X(h2_silent, "HTTP/2 connections closed by us: a PING was not answered")                       \
    X(h2_stalled, "HTTP/2 requests whose body the server's windows held up for too long")          \
    X(h2_coalesced, "requests granted a connection of another host")

typedef struct moor_stats {
    size_t size;
#define X(name, text) uint64_t name;
    MOOR_STATS(X)
#undef X
} moor_stats;
MOOR_API void moor_stats_read_sized(const moor_pool *p, moor_stats *out, size_t size) MOOR_ANY_THREAD;
#define moor_stats_read(p, out) moor_stats_read_sized((p), (out), sizeof *(out))

#define MOOR_RUNTIME_STATS(X)                                                                      \
    X(turns, "loop turns")                                                                         \
    X(enters, "system calls that wait or submit")                                                  \
    X(syscalls, "other system calls of the I/O backends")                                          \
    X(events, "completions handled")                                                               \
    X(recv_starved, "receives that had to wait for a buffer")                                      \
    X(buffers_held, "receive buffers held by connections or lent")                                 \
    X(memory_used, "bytes allocated by the library")                                               \
    X(memory_peak, "most bytes at one time, summed over shards")

typedef struct moor_runtime_stats {
    size_t size;
#define X(name, text) uint64_t name;
    MOOR_RUNTIME_STATS(X)
#undef X
} moor_runtime_stats;
MOOR_API void moor_runtime_stats_read_sized(const moor_runtime *r, moor_runtime_stats *out,
                                            size_t size) MOOR_ANY_THREAD;
#define moor_runtime_stats_read(r, out) moor_runtime_stats_read_sized((r), (out), sizeof *(out))

typedef enum moor_histogram_id {
    MOOR_HISTOGRAM_ACQUIRE, /* from asking for a connection to having one                   */
    MOOR_HISTOGRAM_REQUEST, /* from the call to on_done, requests that succeeded            */
    MOOR_HISTOGRAM_CONNECT, /* dials that succeeded, handshake included                     */
    MOOR_HISTOGRAM_HANDSHAKE, /* TLS handshakes that succeeded, from their first byte       */
    MOOR_HISTOGRAM_COUNT_,
    MOOR_HISTOGRAM_FORCE_INT_ = 0x7fffffff
} moor_histogram_id;

/* A copy of a histogram, of one pool's shards together; copies of several pools can be merged. */
typedef struct moor_histogram moor_histogram;
MOOR_API MOOR_NODISCARD moor_err moor_histogram_read(const moor_pool *p, moor_histogram_id id,
                                                     moor_histogram **out) MOOR_ANY_THREAD;
MOOR_API void moor_histogram_merge(moor_histogram *into, const moor_histogram *from) MOOR_ANY_THREAD;
/* percent: 0..100; 100 = the largest seen. 0 for an empty histogram. Within 1 %. */
MOOR_API moor_ns moor_histogram_percentile(const moor_histogram *h, double percent) MOOR_ANY_THREAD;
MOOR_API uint64_t moor_histogram_count(const moor_histogram *h) MOOR_ANY_THREAD;
MOOR_API void moor_histogram_free(moor_histogram *h) MOOR_ANY_THREAD;

#ifdef __cplusplus
}
#endif
#endif
