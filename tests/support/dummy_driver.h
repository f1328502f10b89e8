/*
 * A handle driver without a peer: each conn is a small object, each step takes as long and ends as a test
 * says. Counts what the pool does with it, and panics when two have one object.
 */
#ifndef TESTS_SUPPORT_DUMMY_DRIVER_H
#define TESTS_SUPPORT_DUMMY_DRIVER_H

#include <mooring/driver.h>

#include <stdatomic.h>
#include <stdbool.h>

/* What a holder gets. */
struct dummy {
    _Atomic(int) holders; /* must never be two */
    int id;
    _Atomic(int) fd, peer; /* a pair, if the script asks for descriptors; a reset may swap it */
    int checks, resets;
    bool is_dirty;
};

/* Set by the test before or while the pool runs. */
struct dummy_script {
    _Atomic(int) connect_ms, prepare_ms, check_ms, reset_ms, close_ms; /* 0 = at once */
    _Atomic(int) connects_fail; /* so many more connects fail; -1 = all */
    _Atomic(int) checks_fail, resets_fail;
    _Atomic(moor_err) fault;   /* of those; MOOR_OK = ECONNECT */
    _Atomic(bool) has_fd;      /* each has a socket pair to watch */
    _Atomic(bool) hangs_up;    /* the peer ends it at once */
    _Atomic(int) block_ms;     /* connect sleeps so long on a helper */
    _Atomic(bool) idle_keeps;  /* readable while idle: taken in */
    _Atomic(bool) reset_swaps; /* a reset makes a new pair: other numbers may be the same */
    _Atomic(bool) says_bytes;  /* faults are told in bytes that are no text */
    _Atomic(int) prepares_fail;
    _Atomic(int) verdict; /* of returned for MOOR_REUSE: enum moor_verdict */

    _Atomic(int) connects, connecting, connecting_max, ready, dropped, checks, resets, closes,
        idles;
    char user[64], password[64]; /* of the last connect */
};

/* The URL is dummy://127.0.0.1:1; driver_config is the script. */
extern const moor_driver dummy_driver;
/* The same without a say in what comes back, so that leases return the short way; plain://127.0.0.1:1. */
extern const moor_driver dummy_plain_driver;

/* Of the next one that connects: they count up. */
int dummy_ids(void);

/* The holder's: asserts that it is alone. */
void dummy_enter(struct dummy *d);
void dummy_leave(struct dummy *d);

#endif
