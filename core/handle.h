/*
 * Handle leases: what a holder on any thread does with a driver's link.
 */
#ifndef MR_CORE_HANDLE_H
#define MR_CORE_HANDLE_H

#include "core/rack.h"

/* moor_acquire of a pool that gives them. */
MOOR_NODISCARD moor_err mr_handle_ask(struct mr_rack *k, const moor_acquire_options *o,
                                      int64_t deadline_ns, const char *site, moor_acquired_cb cb,
                                      void *user, moor_op *out_op);

/* The holder's thread: what it is told of a link that is its own from now on. */
static inline void mr_handle_fill_as(moor_acquired *out, struct moor_link *l, uint64_t word,
                                     const char *site)
{
    const uint64_t uses = atomic_load_explicit(&l->uses, memory_order_relaxed);
    atomic_store_explicit(&l->uses, uses + 1, memory_order_relaxed);
    atomic_store_explicit(&l->site, site, memory_order_relaxed);
    out->size = sizeof *out;
    out->fault = (moor_fault){0};
    out->lease.slot_ = &l->slot;
    out->lease.generation_ = word;
    out->native = l->native;
    out->reused = uses > 0;
    out->waited = 0;
    out->why = NULL;
}
static inline void mr_handle_fill(moor_acquired *out, struct moor_link *l, const char *site)
{
    mr_handle_fill_as(out, l, atomic_load_explicit(&l->slot.generation, memory_order_relaxed),
                      site);
}

#endif
