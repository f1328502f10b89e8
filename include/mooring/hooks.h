/*
 * What a program may decide itself about a pool of a driver: who it is on each connect, which connection goes.
 */
#ifndef MOORING_HOOKS_H
#define MOORING_HOOKS_H

#include <mooring/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/* User and secret for one connect. The library wipes it after use, and never logs it. */
typedef struct moor_credentials {
    size_t size;
    char user[256];               /* "" = the URL's                                           */
    char password[4096];
    moor_ms lifetime_ms;          /* from now: a connection made with it ends by then; MOOR_FOREVER */
} moor_credentials;
/* Fills *out, which is zeroed but for size and lifetime_ms (forever). Runs on a helper thread, may block (bound
 * it by connect_timeout_ms) and may run for several connects at once. Not OK: the connect fails with it. */
typedef moor_err (*moor_credentials_fn)(void *user, moor_credentials *out);

/* An idle connection, for moor_evict_fn. */
typedef struct moor_idle_conn {
    moor_ns age, idle;
    uint64_t uses;
} moor_idle_conn;
/* One of count > 0 is to close: returns its index. On the pool's keeper; no call of the library's. */
typedef size_t (*moor_evict_fn)(void *user, const moor_idle_conn *idle, size_t count);

typedef struct moor_pool_hooks {
    moor_credentials_fn credentials;    /* asked before each connect; NULL = the URL's user and password */
    void *credentials_user;
    moor_evict_fn evict;                /* which idle connection closes first; NULL = option eviction */
    void *evict_user;
} moor_pool_hooks;

#ifdef __cplusplus
}
#endif
#endif
