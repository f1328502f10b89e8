/*
 * The only mutex of the library. A section under it is O(1): never across a callback, a system
 * call, an allocation or another lock.
 */
#ifndef MR_BASE_LOCK_H
#define MR_BASE_LOCK_H

#include "base/assert.h"

#include <pthread.h>

struct mr_lock {
    pthread_mutex_t mutex;
};

#define MR_LOCK_INIT                                                                               \
    {                                                                                              \
        PTHREAD_MUTEX_INITIALIZER                                                                  \
    }

static inline void mr_lock_init(struct mr_lock *l)
{
    const int failed = pthread_mutex_init(&l->mutex, NULL);
    MR_ASSERT(!failed && "a default mutex needs no resource");
}

static inline void mr_lock_fini(struct mr_lock *l)
{
    const int failed = pthread_mutex_destroy(&l->mutex);
    MR_ASSERT(!failed && "destroyed while held");
}

static inline void mr_lock_lock(struct mr_lock *l)
{
    const int failed = pthread_mutex_lock(&l->mutex);
    MR_ASSERT(!failed);
}

static inline void mr_lock_unlock(struct mr_lock *l)
{
    const int failed = pthread_mutex_unlock(&l->mutex);
    MR_ASSERT(!failed);
}

#endif
