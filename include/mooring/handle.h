/*
 * What callers hold. Pointers live long; small values are checked by generation: using a stale one is
 * MOOR_ESTALE or nothing, never a crash.
 */
#ifndef MOORING_HANDLE_H
#define MOORING_HANDLE_H

#include <mooring/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moor_runtime moor_runtime; /* shards, memory, clock; any thread              */
typedef struct moor_shard moor_shard;     /* one loop, owned by its runtime                 */
typedef struct moor_pool moor_pool;       /* one policy over one upstream                   */

struct moor_slot_; /* private; slots stay mapped until the runtime is destroyed */

/* An operation under way. {NULL, 0} is a valid value that names none. */
typedef struct moor_op {
    struct moor_slot_ *slot_;
    uint64_t generation_;
} moor_op;

/* The right to exclusive use of a connection, until moor_release. */
typedef struct moor_lease {
    struct moor_slot_ *slot_;
    uint64_t generation_;
} moor_lease;

/* Received bytes where the kernel put them, lent to you until moor_chunk_return. */
typedef struct moor_chunk {
    moor_span bytes;
    struct moor_slot_ *slot_;
    uint64_t generation_;
} moor_chunk;

/* Returns the loan, which reopens the receive window. The bytes must not be touched afterwards.
 * A chunk returned twice, or {0}, is nothing. Cost: a few instructions on the shard that lent it, one
 * compare-and-swap and one atomic push elsewhere; a wake only if the connection waits for it. */
MOOR_API void moor_chunk_return(moor_chunk chunk) MOOR_ANY_THREAD;

/* Asks an operation to end. Its callback still runs, exactly once, with MOOR_ECANCELED unless it had
 * already completed. Stale or empty: nothing. */
MOOR_API void moor_cancel(moor_op op) MOOR_ANY_THREAD;

/* One piece of bytes to send: a loan the other way. */
typedef struct moor_piece {
    moor_span bytes;          /* stay valid until sent() runs; len may be 0                 */
    void (*sent)(void *ctx);  /* on the shard, once the bytes are no longer needed, on failure
                                 too; NULL = static storage                                 */
    void *ctx;
} moor_piece;

#ifdef __cplusplus
}
#endif
#endif
