/*
 * The peer apr_reslist of libaprutil1: a list of resources behind one mutex and one condition.
 */
#include "harness.h"

#include <apr_general.h>
#include <apr_pools.h>
#include <apr_reslist.h>
#include <stdio.h>
#include <stdlib.h>

static apr_pool_t *memory;
static apr_reslist_t *list;
static _Atomic uint64_t uses;

static apr_status_t make(void **out, void *params, apr_pool_t *pool)
{
    (void)params;
    (void)pool;
    struct lease_handle *h = aligned_alloc(_Alignof(struct lease_handle), sizeof *h);
    if (!h)
        return APR_ENOMEM;
    h->uses = 0;
    *out = h;
    return APR_SUCCESS;
}

static apr_status_t drop(void *resource, void *params, apr_pool_t *pool)
{
    (void)params;
    (void)pool;
    struct lease_handle *h = resource;
    atomic_fetch_add(&uses, h->uses);
    free(h);
    return APR_SUCCESS;
}

/* As many at least, to keep and at most: none is ever made or dropped while it is measured. */
static bool open_list(unsigned conns)
{
    const int n = (int)conns;
    atomic_store(&uses, 0);
    if (apr_pool_create(&memory, NULL) != APR_SUCCESS ||
        apr_reslist_create(&list, n, n, n, 0, make, drop, NULL, memory) != APR_SUCCESS)
        return false;
    apr_reslist_timeout_set(list, apr_time_from_sec(30));
    return true;
}

static struct lease_handle *take(void *token)
{
    void **resource = token;
    return apr_reslist_acquire(list, resource) == APR_SUCCESS ? *resource : NULL;
}

static void give(void *token)
{
    void **resource = token;
    apr_reslist_release(list, *resource);
}

static void work(struct lease_worker *w)
{
    lease_loop(w, take, give);
}

static uint64_t close_list(void)
{
    apr_reslist_destroy(list);
    apr_pool_destroy(memory);
    return atomic_load(&uses);
}

int main(void)
{
    static const struct lease_peer peer = {open_list, work, close_list};
    if (apr_initialize() != APR_SUCCESS)
        return 1;
    const int status = lease_serve(&peer);
    apr_terminate();
    return status;
}
