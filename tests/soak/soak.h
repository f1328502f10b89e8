/*
 * A pool used in every way there is by many threads at once, for as long as one likes; what must hold at the
 * end are equal counts and flat memory. soak.c runs it, soak_memory.c looks at memory. What is run is the
 * program's: soak_all.c has soak_handles.c and soak_streams.c, soak_postgres.c a real server.
 */
#ifndef TESTS_SOAK_SOAK_H
#define TESTS_SOAK_SOAK_H

#include "tests/support/seed.h"

#include <mooring/mooring.h>

#include <stdatomic.h>
#include <stdbool.h>

/* What is done wrong on purpose, to see that it is noticed. */
enum soak_leak { LEAK_NONE, LEAK_LEASE, LEAK_CHUNK, LEAK_MEMORY, LEAK_KINDS };

struct soak {
    const char *argument; /* what the program was given after the seconds, or NULL */
    moor_runtime *runtime;
    uint64_t seed;
    enum soak_leak leak;
    _Atomic(bool) is_over;
};

/* Something does not hold: printed, and the run has failed. */
void soak_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool soak_has_failed(void);
void soak_sleep_us(uint64_t us);
/* How long the end may take: not long where it cannot be well. */
moor_ms soak_patience_ms(const struct soak *s);
/* Complains if what the pool counts is not what its users counted. */
void soak_check_counts(const struct soak *s, const char *name, moor_pool *p, uint64_t acquired,
                       uint64_t released);

/* The program's own: before the runtime and any thread is there (false: it cannot be run here); threads that go
 * on until is_over; after that joins them, counts, closes the pools. */
bool soak_prepare(struct soak *s);
void soak_begin(struct soak *s);
void soak_end(struct soak *s);

struct soak_handles;
struct soak_handles *soak_handles_start(struct soak *s);
void soak_handles_end(struct soak_handles *h);

struct soak_streams;
struct soak_streams *soak_streams_start(struct soak *s, const char *url);
void soak_streams_end(struct soak_streams *t);

/* A process that echoes, and now and then resets or says goodbye; it dies with this one. NULL: none. Before
 * the first thread. */
const char *soak_stream_server(void);

/* Samples until `ms` have passed, then complains of what grew in the second half. */
void soak_watch_memory(struct soak *s, int64_t ms);

#endif
