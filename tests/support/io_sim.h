/*
 * The third backend of core/io.h: virtual sockets over the simulated network, completions in an order
 * drawn from the world's seed. Asserts that its user keeps the rules of the seam.
 *
 * It is as free as the two real ones together: bytes of a message may be copied at any moment between
 * send and sent (and are compared at the end), data may still come between recv_stop and recv_ended,
 * a close may take many turns, buffers may be held as if posted to a kernel.
 */
#ifndef TESTS_SUPPORT_IO_SIM_H
#define TESTS_SUPPORT_IO_SIM_H

#include "core/io.h"
#include "tests/support/sim_world.h"

struct sim_wire;

struct io_sim {
    struct mr_io base;
    struct sim *w;
    struct mr_list wires;   /* sim_wire by member: sockets of this backend */
    struct mr_list ready;   /* sim_wire by link: with something to deliver */
    struct mr_list starved; /* sim_wire by hungry: receives without a buffer */
    struct mr_list polls;
    struct mr_buf *posted; /* taken ahead, as a ring would */
    uint32_t posted_count, posted_max;
    uint64_t poll_ids;
    struct sim_event wake;
    bool is_woken, is_dispatching;
    bool is_refused; /* the heap made no buffer though the pool may grow */
};

/* For mr_runtime_hooks.io_create: ctx is the world. */
moor_err io_sim_create(void *ctx, const struct mr_io_config *c, struct mr_io **out_io);
static inline struct io_sim *io_sim_of(struct mr_io *io)
{
    return MR_CONTAINER_OF(io, struct io_sim, base);
}
/* wait(MR_NEVER) would return at once. */
bool io_sim_is_due(struct io_sim *io);

/* The default way to pass time: events happen until there is something for this backend. Sleeping for
 * ever with nothing to come is a broken test, or a lost wake. */
void sim_block_alone(struct sim *w, struct io_sim *io, int64_t until_ns);

/* From the network: something is to be read. */
void io_sim_arrived(struct sim_wire *x);

#endif
