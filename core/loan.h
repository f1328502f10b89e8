/*
 * Received bytes lent to the application: the bookkeeping behind moor_chunk.
 * Lent on a shard; returned from any thread, as a message to that shard.
 */
#ifndef MR_CORE_LOAN_H
#define MR_CORE_LOAN_H

#include "alloc/buf.h"
#include "base/list.h"
#include "core/filter.h"
#include "core/inbox.h"

#include <mooring/handle.h>

struct mr_pool_shard;
struct mr_window;

/* Bytes lent and not returned of one exchange or stream: its backpressure. */
struct mr_window {
    size_t lent, limit;
    void (*reopened)(
        struct mr_window *w); /* fell below the limit after having reached it; on the shard */
    void (*returned)(struct mr_window *w, size_t len); /* NULL = does not care; on the shard */
    uint32_t loans;      /* out; the window lives until they are back or orphaned */
    struct mr_list list; /* its loans */
};

void mr_window_init(struct mr_window *w, size_t limit, void (*reopened)(struct mr_window *w));
/* Its owner ends: loans that are still out no longer report to it. */
void mr_window_fini(struct mr_window *w);
static inline bool mr_window_is_open(const struct mr_window *w)
{
    return w->lent < w->limit;
}

/* Lends in->base[0..len) of in->buf: copies instead where buffers are low. False: out of memory. */
bool mr_loan_make(struct mr_pool_shard *local, struct mr_window *w, const struct mr_in *in,
                  size_t len, moor_chunk *out_chunk);

#endif
