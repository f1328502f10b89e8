/*
 * Posts receive buffers to the kernel and takes them back by id.
 * Owner thread only. The kernel hands buffers out first-in first-out and so walks through all that
 * are posted: few are posted at first, and only as many more as bursts have needed, to stay in the
 * cache.
 */
#include "core/uring_bufs.h"

#include "base/assert.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { TARGET_FIRST = 16, ENTRIES_MAX = 1 << 15 };

static uint32_t round_up_power(uint32_t n)
{
    uint32_t p = 1;
    while (p < n)
        p *= 2;
    return p;
}

int mr_uring_bufs_init(struct mr_uring_bufs *b, struct io_uring *ring, struct mr_buf_pool *pool,
                       uint32_t posted_bytes_max)
{
    uint32_t max = posted_bytes_max / pool->buf_size;
    max = max < 4 ? 4 : max;
    max = max > pool->count_max ? pool->count_max : max;
    max = max > ENTRIES_MAX ? ENTRIES_MAX : max;
    *b = (struct mr_uring_bufs){.pool = pool,
                                .entries = round_up_power(max),
                                .target = max < TARGET_FIRST ? max : TARGET_FIRST,
                                .posted_max = max};
    b->ring_bytes = b->entries * sizeof(struct io_uring_buf);
    void *pages =
        mmap(NULL, b->ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return errno;
    madvise(pages, b->ring_bytes, MADV_DONTFORK);
    b->ring = pages;
    io_uring_buf_ring_init(b->ring);
    struct io_uring_buf_reg reg = {.ring_addr = (uint64_t)(uintptr_t)pages,
                                   .ring_entries = b->entries,
                                   .bgid = MR_URING_BUF_GROUP};
    int r = io_uring_register_buf_ring(ring, &reg, 0);
    if (r == 0)
        return 0;
    munmap(pages, b->ring_bytes);
    b->ring = NULL;
    return -r;
}

void mr_uring_bufs_fini(struct mr_uring_bufs *b, struct io_uring *ring)
{
    if (!b->ring)
        return;
    io_uring_unregister_buf_ring(ring, MR_URING_BUF_GROUP);
    for (uint32_t i = 0; b->posted > 0 && i < b->pool->count; i++) {
        if (b->pool->all[i].is_posted)
            mr_buf_untake(mr_uring_bufs_pick(b, i));
    }
    MR_ASSERT(b->posted == 0);
    munmap(b->ring, b->ring_bytes);
    b->ring = NULL;
}

void mr_uring_bufs_refill(struct mr_uring_bufs *b)
{
    int added = 0;
    b->refused = false;
    /* More only if it was the ring that was short, not the pool. */
    if (b->ran_dry && mr_buf_pool_available(b->pool) >= b->target - b->posted)
        b->target = b->target * 2 > b->posted_max ? b->posted_max : b->target * 2;
    b->ran_dry = false;
    while (b->posted < b->target && mr_buf_pool_available(b->pool) > 0) {
        struct mr_buf *buf = mr_buf_take(b->pool);
        b->refused = !buf;
        if (!buf)
            break;
        buf->is_posted = true;
        io_uring_buf_ring_add(b->ring, buf->data, buf->cap, buf->id,
                              io_uring_buf_ring_mask(b->entries), added++);
        b->posted++;
    }
    if (added > 0)
        io_uring_buf_ring_advance(b->ring, added);
}

struct mr_buf *mr_uring_bufs_pick(struct mr_uring_bufs *b, uint32_t id)
{
    MR_ASSERT(id < b->pool->count);
    struct mr_buf *buf = &b->pool->all[id];
    MR_ASSERT(buf->is_posted);
    MR_ASSERT(b->posted > 0);
    buf->is_posted = false;
    b->posted--;
    return buf;
}
