/*
 * A stand-in for the pool: drives one link of a driver by poll(2), so that a test decides when each hook runs
 * and sees every wait. Defines moor_link_* and moor_lease_* itself; tests that use it do not link the library.
 */
#ifndef TESTS_DRIVERS_POSTGRES_KEEPER_H
#define TESTS_DRIVERS_POSTGRES_KEEPER_H

#include <mooring/postgres.h>

#include <libpq-fe.h>
#include <sys/types.h>

#define KEEPER_WAITS_MAX 256
#define KEEPER_LONG_MS   20000 /* it hangs                                                */

struct keeper_wait {
    int fd;
    ino_t socket; /* two sockets may have the same number, one after the other       */
    short events;
};

struct moor_link {
    const moor_driver *driver;
    void *config, *state, *native;
    moor_target target;
    moor_task_kind task;
    /* what the last step asked for */
    int fd;
    short events;
    void (*work)(moor_link *l);
    /* what was seen */
    struct keeper_wait waits[KEEPER_WAITS_MAX];
    unsigned wait_count, work_count;
    moor_err err;
    char text[160];
    const char *flushed; /* why; NULL = it was not asked for                        */
    char reported[8];    /* by moor_lease_report, last                              */
};

/* "?sslmode=disable" or "". NULL options: defaults. False: why says what the driver has against it. */
bool keeper_open(moor_link *l, const char *host, const char *path, const char *query,
                 const moor_postgres_options *options, char why[256]);
/* To 127.0.0.1, as app with secret "s3cret". */
void keeper_aim(moor_link *l, int port);
/* WAIT: it is not over after ms; the step can be taken up by another keeper_run with MOOR_TASK_NONE. */
moor_step keeper_run(moor_link *l, moor_task_kind task, int ms);
/* open, aim, connect and prepare, all of which must do well. */
void keeper_connect(moor_link *l, int port, const char *query,
                    const moor_postgres_options *options);
/* Sockets among the waits. */
unsigned keeper_sockets(const moor_link *l);
/* Waits until the idle link's socket is readable, then runs idle. */
moor_verdict keeper_idle(moor_link *l);
moor_lease keeper_lease(moor_link *l);
void keeper_close(moor_link *l);

#endif
