/*
 * What a runtime has of TLS: its contexts, its tickets, and each shard's turns for handshakes.
 * Made with the first pool that needs it. `shards`: that shard's thread only; the rest as it says.
 */
#ifndef MR_TLS_STATE_H
#define MR_TLS_STATE_H

#include "base/list.h"
#include "base/lock.h"
#include "core/runtime.h"
#include "tls/tickets.h"

struct mr_tls_shard {
    struct mr_list waiting; /* mr_tls_hello: handshakes that wait for their turn, oldest first */
    uint32_t active;        /* handshakes under way */
};

struct mr_tls_state {
    struct moor_runtime *runtime;
    struct mr_tickets *tickets;
    struct mr_lock lock;
    struct mr_list contexts; /* mr_tls_context, under lock */
    struct mr_tls_shard shards[MR_SHARDS_MAX];
};

/* Made at the first call. ENOMEM, ENOSYS. Any thread. */
MOOR_NODISCARD moor_err mr_tls_state_of(struct moor_runtime *r, struct mr_tls_state **out);

#endif
