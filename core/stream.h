/*
 * Byte streams: the protocol of tcp:// and unix: pools, and what a lease's holder does with its conn.
 * Owner thread: the lease's shard.
 */
#ifndef MR_CORE_STREAM_H
#define MR_CORE_STREAM_H

#include "core/lease.h"

extern const struct mr_protocol mr_stream_protocol;

/* A lease begins: nothing read, nothing sent. */
void mr_stream_init(struct mr_lease *l);
/* The handle is stale. on_end hears `fault` if it is not NULL and the holder reads; a reader hears it,
 * or MOOR_ESTALE. */
void mr_stream_fini(struct mr_lease *l, const moor_fault *fault);

/* May o be sent? EBUSY, ERESET, EINVAL as moor_stream_send. Then it is counted; o->sent has to say
 * mr_lease_out_gone. */
MOOR_NODISCARD moor_err mr_stream_write(struct mr_lease *l, struct mr_out *o);
/* The next chunk to r, once, perhaps inside the call. EINVAL: the lease reads by handlers. EBUSY: another
 * reader waits. */
MOOR_NODISCARD moor_err mr_stream_ask(struct mr_lease *l, struct mr_lease_reader *r);

#endif
