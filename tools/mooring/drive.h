/*
 * One trip over a leased connection, as each protocol makes it: what pool and ping do between acquire and
 * release. drive_NAME.c for each driver of the build, drive_stream.c for byte streams.
 */
#ifndef TOOL_DRIVE_H
#define TOOL_DRIVE_H

#include "cli.h"

#include <mooring/driver.h>

enum { DRIVE_KIND_CAP = 32, DRIVE_TEXT_CAP = 200, DRIVE_VERSION_CAP = 96 };

/* Of the thread that holds the lease. */
struct drive_call {
    moor_lease lease;
    void *native;      /* NULL for streams */
    void *session;     /* run's own, which release ends; NULL before */
    const char *query; /* ends with a NUL that query_len does not count */
    size_t query_len;
    moor_ms timeout_ms; /* MOOR_FOREVER; what a handle's own library cannot keep, drive_fd is for */
    moor_release_how how;      /* out: set to MOOR_REUSE before */
    char kind[DRIVE_KIND_CAP]; /* out, of a failure: what errors are counted by, "SQLSTATE 57P01" */
    char text[DRIVE_TEXT_CAP]; /* out, of a failure: the peer's words, one line */
};

struct drive {
    const char *name;                   /* as the driver's library is called; "stream" for ours */
    const char *schemes;                /* "postgres postgresql" */
    const moor_driver *(*driver)(void); /* NULL: needs none */
    const char *query;  /* sent unless another is asked for; NULL: then nothing is sent */
    bool takes_escapes; /* \n, \r, \t, \\ and \xHH in a query */
    /* One round trip. False: kind and text say what failed. Blocks. */
    bool (*run)(struct drive_call *c);
    /* Ends a call's session, and the lease with it. NULL: run makes none. */
    void (*release)(struct drive_call *c);
    /* "PostgreSQL 15.5" to text. False: the peer does not say. May ask it. May be NULL. */
    bool (*version)(struct drive_call *c);
    /* The descriptor of a native handle, which another thread may shut down to end a run; -1 = none. May be
     * NULL: the library ends it when the pool drains. */
    int (*fd)(void *native);
};

extern const struct drive drive_stream, drive_postgres, drive_mysql, drive_redis, drive_ssh;

/* Whether the URL's scheme is among these, with blanks between them. */
bool drive_has_scheme(const char *url, const char *schemes);
/* What drives this URL. NULL after a complaint that says what the build has. */
const struct drive *drive_find(const char *url);
/* "tcp tls unix postgres ...", of this build. Returns out. */
const char *drive_schemes(char *out, size_t cap);
/* Makes its driver known to the runtime. Returns 0 or an exit code after the complaint. */
int drive_use(const struct drive *d, moor_runtime *r);
/* Decodes a query in place where d takes escapes. False after a complaint. */
bool drive_read_query(const struct drive *d, char *query, size_t *out_len);

/* Gives the lease of a call back, as its `how` says. */
void drive_release(const struct drive *d, struct drive_call *c);
/*
 * Acquires, but gives up as soon as a connect has failed since the call: whoever stands before a terminal
 * wants the reason now, not when the time is over. Fills *out, on failure *why and out->fault.
 */
moor_err drive_acquire(moor_pool *p, moor_ms timeout_ms, moor_acquired *out, moor_why *why);
/* The failed acquire in one line, with what to do; *out_exit is the exit code. Returns line. */
const char *drive_acquire_line(const moor_fault *fault, const moor_why *why, char *line, size_t cap,
                               int *out_exit);

/* ---- for drive_NAME.c ---- */

/* Notes a failure. text: anything; its first line is kept, without what would talk to a terminal. */
__attribute__((format(printf, 2, 3))) void drive_kind(struct drive_call *c, const char *format,
                                                      ...);
void drive_text(struct drive_call *c, const char *text);
/* The same of a call of the library that failed; the connection is discarded. Returns false. */
bool drive_failed(struct drive_call *c, moor_err e, const char *what);

#endif
