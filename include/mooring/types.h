/*
 * What every public header shares: annotations, borrowed bytes, time.
 */
#ifndef MOORING_TYPES_H
#define MOORING_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MOOR_API       __attribute__((visibility("default")))
#define MOOR_NODISCARD __attribute__((warn_unused_result))
#else
#define MOOR_API
#define MOOR_NODISCARD
#endif

/* The thread a function may be called from is part of its declaration. */
#define MOOR_ANY_THREAD /* callable from any thread, lock-free, never blocks              */
#define MOOR_SHARD_ONLY /* callable only on the shard that owns the object                */
#define MOOR_BLOCKING   /* may sleep; fails with MOOR_EWRONGTHREAD inside a shard callback */

/* Bytes the callee borrows: never kept after the call unless the function says so. */
typedef struct moor_span {
    const void *base;
    size_t len;
} moor_span;

typedef int64_t moor_ms; /* options and timeouts: milliseconds, relative to the call */
typedef int64_t moor_ns; /* results: nanoseconds                                     */

#define MOOR_FOREVER         ((moor_ms)-1) /* no limit                        */
#define MOOR_TIMEOUT_OF_POOL ((moor_ms)-2) /* what the pool's options say     */

#endif
