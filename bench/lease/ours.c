/*
 * Ours: handle leases of a pool whose options are the defaults, but for its size. `lease_ours wait|try`.
 * Leak reports are on by default, and the call of moor_acquire_wait notes its place.
 */
#include "void_driver.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { WARM_MS = 10000, CLOSE_MS = 10000 };

static moor_runtime *runtime;
static moor_pool *pool;

_Static_assert(sizeof(moor_acquired) <= LEASE_TOKEN_BYTES, "the token is where a lease is kept");

static bool open_pool(unsigned conns)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_max = conns;
    o.conns_min_idle = conns;
    moor_err e = moor_pool_open(runtime, VOID_URL, &o, &pool);
    if (e == MOOR_OK)
        e = moor_pool_warm(pool, conns, WARM_MS, NULL, NULL);
    if (e != MOOR_OK)
        fprintf(stderr, "no warm pool: %s\n", moor_err_text(e));
    return e == MOOR_OK;
}

static struct lease_handle *take_waiting(void *token)
{
    moor_acquired *a = token;
    a->size = sizeof *a;
    return moor_acquire_wait(pool, NULL, a) == MOOR_OK ? a->native : NULL;
}

/* Where nothing is idle, others run: what a program that never waits would do with the time. */
static struct lease_handle *take_trying(void *token)
{
    moor_acquired *a = token;
    a->size = sizeof *a;
    moor_err e;
    while ((e = moor_acquire_try(pool, NULL, a)) == MOOR_ETIMEDOUT)
        sched_yield();
    return e == MOOR_OK ? a->native : NULL;
}

static void give(void *token)
{
    const moor_acquired *a = token;
    moor_release(a->lease, MOOR_REUSE);
}

static void work_waiting(struct lease_worker *w)
{
    lease_loop(w, take_waiting, give);
}

static void work_trying(struct lease_worker *w)
{
    lease_loop(w, take_trying, give);
}

static uint64_t close_pool(void)
{
    const moor_err e = moor_pool_close(pool, CLOSE_MS);
    if (e != MOOR_OK)
        fprintf(stderr, "not closed: %s\n", moor_err_text(e));
    pool = NULL;
    return void_uses_taken();
}

int main(int argc, char **argv)
{
    const bool tries = argc == 2 && strcmp(argv[1], "try") == 0;
    if (argc != 2 || (!tries && strcmp(argv[1], "wait") != 0)) {
        fprintf(stderr, "usage: %s wait|try; jobs on stdin, see harness.h\n", argv[0]);
        return 2;
    }
    int status = void_runtime(&runtime);
    if (status != 0)
        return status;
    const struct lease_peer peer = {open_pool, tries ? work_trying : work_waiting, close_pool};
    status = lease_serve(&peer);
    if (moor_runtime_destroy(runtime, CLOSE_MS) != MOOR_OK) {
        fprintf(stderr, "something is still out\n");
        status = 1;
    }
    return status;
}
