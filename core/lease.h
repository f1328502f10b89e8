/*
 * A lease: exclusive use of a conn, from moor_acquire to moor_release, and the byte stream on it.
 * Owner thread: the shard it was acquired on. Other threads hold its handle; whoever steps the generation
 * on from it has ended the lease.
 */
#ifndef MR_CORE_LEASE_H
#define MR_CORE_LEASE_H

#include "core/loan.h"
#include "core/op.h"
#include "core/pool.h"

#include <mooring/driver.h>

enum mr_lease_state {
    MR_LEASE_WAITING, /* for a conn; the handle is a moor_op */
    MR_LEASE_GRANTED, /* has one, which its holder has not heard yet */
    MR_LEASE_HELD,    /* the handle is a moor_lease */
    MR_LEASE_ENDING,  /* the handle is stale; the conn goes back later in this turn */
    MR_LEASE_OVER     /* no conn; pieces may still be with the one it had */
};

/* Somebody who wants one chunk. Embedded in what waits for it; gone from the lease before done(). */
struct mr_lease_reader {
    /* MOOR_OK with an empty chunk: the peer's FIN. */
    void (*done)(struct mr_lease_reader *r, moor_err err, moor_chunk chunk);
};

struct mr_lease {
    struct moor_slot_ slot; /* the op's generation, then the lease's */
    struct mr_claim claim;
    struct mr_pool_op op;
    struct mr_berth *berth;
    struct mr_conn *conn; /* NULL: not yet granted, broken, or given back */
    moor_acquired_cb cb;
    void *user;
    int64_t asked_ns;
    const char *site;     /* where it was acquired; static text or NULL */
    struct mr_timer held; /* fires when it was held for leak_after_ms */
    int64_t held_since_ns;
    bool is_told_held;
    moor_link *link;         /* of a stream driver's conn, until the lease is over; else NULL */
    struct mr_deferred tell; /* cb, which may not run inside the grant */
    struct mr_deferred give_back; /* the conn, where a call of its is still on the stack */
    struct mr_message released;   /* moor_release of another thread */
    moor_release_how how;         /* written by who ended the lease, before that is known */
    uint8_t state;                /* enum mr_lease_state */
    bool is_reused;

    /* the stream: stream.c */
    bool is_reading;   /* moor_stream_read was called */
    bool is_end_told;  /* on_end has run */
    bool has_ended;    /* nothing more will come; `fault` says why */
    bool is_finishing; /* moor_stream_finish was called */
    moor_fault fault;
    struct mr_window window;
    moor_stream_handlers handlers;
    void *stream_user;
    struct mr_lease_reader *reader;
    struct mr_deferred end;     /* on_end, where the end came before the read */
    struct mr_deferred empties; /* pieces without bytes */
    struct mr_out *empty, **empty_tail;
    uint32_t outs;   /* pieces not yet let go */
    uint32_t inside; /* calls of the conn or the holder on the stack: keeps the lease */
};

/* On the shard; deadline_ns is absolute. As moor_acquire, whose arguments were checked. */
MOOR_NODISCARD moor_err mr_lease_acquire(struct moor_pool *p, int64_t deadline_ns, const char *site,
                                         moor_acquired_cb cb, void *user, moor_op *out_op);
/* moor_acquire_wait of a pool of shard leases. */
MOOR_NODISCARD moor_err mr_lease_wait(struct moor_pool *p, const moor_acquire_options *options,
                                      moor_acquired *out, const char *site);
/* What the caller gave, or the defaults. */
void mr_lease_options(const moor_acquire_options *given, moor_acquire_options *out);
/* The deadline these options mean. EINVAL: out of range. */
MOOR_NODISCARD moor_err mr_lease_deadline(const struct moor_pool *p,
                                          const moor_acquire_options *given, int64_t now_ns,
                                          int64_t *out_deadline_ns);
/* moor_release of a shard lease. */
void mr_lease_release(moor_lease lease, moor_release_how how);
/* The lease of a current handle, on its shard. EFORKED, ESTALE, EWRONGTHREAD. */
MOOR_NODISCARD moor_err mr_lease_find(moor_lease handle, struct mr_lease **out_lease);

static inline struct mr_lease *mr_lease_enter(struct mr_lease *l)
{
    l->inside++;
    return l;
}
/* What was entered is left; frees a lease that is over and let go of everything. */
void mr_lease_exit(struct mr_lease *l);
/* A piece is no longer with a conn. */
void mr_lease_out_gone(struct mr_lease *l);

#endif
