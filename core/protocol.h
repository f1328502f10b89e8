/*
 * All the pool knows of a protocol: a vtable bound to a conn once it is secured. HTTP/1, HTTP/2, byte
 * streams and every driver come in through it. Runs only on the conn's shard.
 */
#ifndef MR_CORE_PROTOCOL_H
#define MR_CORE_PROTOCOL_H

#include "core/filter.h"

#include <stdbool.h>
#include <stdint.h>

struct mr_claim;

struct mr_protocol {
    const char *name;           /* "h1", "stream": in logs and stats */
    bool is_stream;             /* leases of its conns are byte streams */
    uint32_t capacity_expected; /* claims a conn being dialled will carry: bounds useless dials */
    bool is_multiplexed;        /* input() also gets the bytes that come between claims, and the
                                    conn stays on its shard                                       */

    /* Secured: prepare the conn, then say mr_conn_set_capacity(c, n > 0), now or later. Not OK closes. */
    moor_err (*open)(struct mr_conn *c);
    /* Bytes while claimed (or at any time when multiplexed). Returns how many it took; the rest comes
     * again after mr_conn_resume. */
    size_t (*input)(struct mr_conn *c, const struct mr_in *in);
    /* The peer ended (fault->err == MOOR_OK: a FIN after all input) or the transport failed; no new
     * claim comes. Tell every claim. The conn still accepts mr_berth_release and mr_conn_close; after
     * a failure it closes by itself. Not said of a conn without claims: that one is just dropped(). */
    void (*ended)(struct mr_conn *c, const moor_fault *fault);
    /* All that was written has left. NULL = does not care. */
    void (*drained)(struct mr_conn *c);
    /* mr_conn_drain was called while it has claims: say goodbye where the protocol can. Releases
     * nothing. NULL = nothing to say. */
    void (*drain)(struct mr_conn *c);
    /* Idle for check_every_ms: claimed for this, prove that the peer still serves, then mr_berth_release. NULL =
     * its armed read is enough. */
    void (*check)(struct mr_conn *c);
    /* The last call: the conn is closing, c->claim and c->state are to be let go. Claims that still run
     * have been told by ended(). NULL = nothing to free. */
    void (*dropped)(struct mr_conn *c);
};

#endif
