/*
 * The provided-buffer ring of one shard: which receive buffers are in the kernel's hands.
 * Owner thread only. Buffers belong to the pool; here they are only posted and taken out again.
 */
#ifndef MR_CORE_URING_BUFS_H
#define MR_CORE_URING_BUFS_H

#include "alloc/buf.h"

#include <liburing.h>

struct mr_uring_bufs {
    struct mr_buf_pool *pool;       /* borrowed */
    struct io_uring_buf_ring *ring; /* own pages, so that a forked child does not get them */
    size_t ring_bytes;
    uint32_t entries; /* a power of two */
    uint32_t posted;  /* the kernel may write to these */
    uint32_t target;  /* how many to post: grows when the ring ran dry */
    uint32_t posted_max;
    bool ran_dry; /* the kernel found it empty since the last refill */
    bool refused; /* the heap made no buffer though the pool may grow */
};

#define MR_URING_BUF_GROUP 1

/* 0 or a positive errno; nothing is kept then. */
int mr_uring_bufs_init(struct mr_uring_bufs *b, struct io_uring *ring, struct mr_buf_pool *pool,
                       uint32_t posted_bytes_max);
/* No receive may be armed. Posted buffers go back to the pool. */
void mr_uring_bufs_fini(struct mr_uring_bufs *b, struct io_uring *ring);
/* Posts what the pool has, up to the target; one release store. */
void mr_uring_bufs_refill(struct mr_uring_bufs *b);
/* The kernel gave buffer `id` back, filled or not; refs are 0. */
struct mr_buf *mr_uring_bufs_pick(struct mr_uring_bufs *b, uint32_t id);

#endif
