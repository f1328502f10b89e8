/*
 * A simulated world: one seed, one clock that moves only when told, events in time order, and the
 * probabilities of everything that can go wrong, drawn from the seed too (swarm: each run has its own
 * mixture, so that rare combinations get dense somewhere). One thread drives all of it.
 */
#ifndef TESTS_SUPPORT_SIM_WORLD_H
#define TESTS_SUPPORT_SIM_WORLD_H

#include "base/clock.h"
#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>

/* name, most per mille in one run, what it does. Drawn in this order. */
#define SIM_FAULTS(X)                                                                              \
    X(recv_short, 600, "a receive brings fewer bytes than have arrived")                           \
    X(recv_late, 500, "what has arrived is reported late")                                         \
    X(dispatch_held, 400, "a dispatch leaves some of the completions for the next")                \
    X(send_partial, 500, "the kernel takes only part of a message at a time")                      \
    X(send_late, 500, "the kernel takes the bytes late, or tells late that it has")                \
    X(cancel_late, 500, "a stopped receive or a close completes many turns later")                 \
    X(split, 700, "what the peer writes at once arrives in pieces")                                \
    X(connect_late, 300, "a connect takes much longer")                                            \
    X(connect_refused, 150, "a connect is refused")                                                \
    X(connect_lost, 60, "a connect is never answered")                                             \
    X(connect_unreachable, 60, "no route")                                                         \
    X(files_out, 60, "no descriptor can be had")                                                   \
    X(reset, 120, "a connection is reset at some moment of its life")                              \
    X(wake_late, 300, "a wake arrives late")                                                       \
    X(wake_spurious, 200, "a wait returns though nothing happened")                                \
    X(shard_starved, 60, "a shard's thread does not run for a while")                              \
    X(dns_failed, 100, "a name does not resolve")                                                  \
    X(dns_late, 300, "a name resolves slowly")                                                     \
    X(close_after, 200, "the server closes after a response without saying so")                    \
    X(close_said, 200, "the server says Connection: close, and does")                              \
    X(close_idle, 300, "the server closes a connection that is idle")                              \
    X(cut_short, 80, "the server ends in the middle of a response")                                \
    X(garbage, 40, "the server answers with something that is not HTTP")                           \
    X(extra, 40, "the server sends a response nobody asked for")                                   \
    X(silent, 60, "the server never answers")                                                      \
    X(slow, 300, "the server takes its time")                                                      \
    X(early, 100, "the server answers before it has the whole request")                            \
    X(interim, 200, "1xx responses come first")

struct sim_faults {
#define X(name, most, text) uint16_t name;
    SIM_FAULTS(X)
#undef X
};

struct sim;

/* Something that will happen. Zeroed = not set. Embedded in what it happens to. */
struct sim_event {
    int64_t at_ns;
    uint64_t order; /* among those of the same time: drawn, then by age */
    uint32_t place; /* 1 + index in the heap; 0 = not set */
    void (*run)(struct sim *w, struct sim_event *e);
};

struct sim_wire;
struct io_sim;

struct sim {
    uint64_t seed;
    uint64_t random; /* state of sim_random */
    uint64_t digest; /* of all that was noted: equal digests, equal runs */
    int64_t now_ns;
    int64_t slept_ns;      /* how long the machine slept: the wall clock went on meanwhile */
    struct mr_clock clock; /* reads now_ns */
    struct sim_faults faults;
    int64_t latency_ns; /* mean, one way */
    bool is_traced;     /* print every note */

    struct sim_event **events; /* a heap */
    uint32_t event_count, event_cap;

    struct sim_wire **wires; /* all there ever were; descriptor = SIM_FD_BASE + index */
    uint32_t wire_count, wire_cap;
    struct mr_list hosts;      /* sim_host */
    uint32_t files, files_max; /* descriptors open now, allowed */
    uint64_t bytes_up, bytes_down;

    /* How a wait that may sleep passes the time: until is_over says so, or the deadline. NULL = it does not:
     * waits return at once and the driver moves the clock. sim_init sets sim_block_alone. */
    void (*block)(struct sim *w, struct io_sim *io, int64_t until_ns);
    void *driver; /* of whoever set block */
};

/* Everything zero but the seed's: no faults are drawn yet. */
void sim_init(struct sim *w, uint64_t seed);
/* Each fault: absent in half of the runs, else anything up to its most. */
void sim_draw_faults(struct sim *w);
/* Frees wires and hosts; every backend of this world is destroyed before (asserted by them). */
void sim_fini(struct sim *w);

uint64_t sim_random(struct sim *w);
/* 0 .. bound - 1 */
uint64_t sim_below(struct sim *w, uint64_t bound);
/* low .. high */
int64_t sim_between(struct sim *w, int64_t low, int64_t high);
bool sim_chance(struct sim *w, unsigned per_mille);
/* Around the mean, sometimes ten times as much. */
int64_t sim_latency(struct sim *w);

/* Sets or resets. */
void sim_at(struct sim *w, struct sim_event *e, int64_t at_ns,
            void (*run)(struct sim *w, struct sim_event *e));
void sim_forget(struct sim *w, struct sim_event *e);
/* When the next event is; MR_NEVER = there is none. */
int64_t sim_next(const struct sim *w);
/* Runs what is due now. */
void sim_run_due(struct sim *w);
/* The clock goes on to `at_ns`, through every event on the way. */
void sim_advance(struct sim *w, int64_t at_ns);

/* One line of the trace, and part of the digest. */
void sim_note(struct sim *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Where a broken expectation of the simulation ends. */
#define SIM_CHECK(w, x, ...)                                                                       \
    do {                                                                                           \
        if (!(x))                                                                                  \
            sim_fail((w), __FILE__, __LINE__, #x, __VA_ARGS__);                                    \
    } while (0)
_Noreturn void sim_fail(struct sim *w, const char *file, int line, const char *expression,
                        const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
