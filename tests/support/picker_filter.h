/*
 * A filter for tests: passes bytes on as they are, and says what the peer picked by ALPN. Runs on the
 * conn's shard.
 */
#ifndef TESTS_SUPPORT_PICKER_FILTER_H
#define TESTS_SUPPORT_PICKER_FILTER_H

#include "core/pool.h"

#include <string.h>

struct picker {
    struct mr_filter filter;
    struct mr_heap *heap;
    struct mr_out out; /* len > 0: under way */
    uint8_t bytes[512];
};

static const char *picker_picked; /* by the peers of all conns to come; NULL = nothing */

static inline enum mr_step picker_open(struct mr_filter *f)
{
    f->alpn = picker_picked;
    return MR_STEP_DONE;
}

static inline void picker_sent(struct mr_out *o, int err)
{
    (void)err;
    o->len = 0;
}

static inline size_t picker_push(struct mr_filter *f, const struct iovec *iov, unsigned count)
{
    struct picker *p = MR_CONTAINER_OF(f, struct picker, filter);
    (void)count;
    if (p->out.len)
        return 0;
    const size_t len = iov->iov_len < sizeof p->bytes ? iov->iov_len : sizeof p->bytes;
    memcpy(p->bytes, iov->iov_base, len);
    p->out = (struct mr_out){.base = p->bytes, .len = len, .sent = picker_sent};
    mr_filter_emit(f, &p->out);
    return len;
}

static inline size_t picker_pulled(struct mr_filter *f, const struct mr_in *in)
{
    (void)mr_filter_deliver(f, in);
    return in->len;
}

static inline void picker_drop(struct mr_filter *f)
{
    struct picker *p = MR_CONTAINER_OF(f, struct picker, filter);
    mr_heap_free(p->heap, p, sizeof *p);
}

static inline moor_err picker_filter_add(struct mr_upstream *u, struct mr_conn *c)
{
    static const struct mr_filter_type type = {
        .name = "picker",
        .open = picker_open,
        .push = picker_push,
        .pulled = picker_pulled,
        .drop = picker_drop,
    };
    struct mr_heap *heap = &u->pool->runtime->heap;
    struct picker *p = mr_heap_zalloc(heap, sizeof *p);
    MR_FAIL_IF(!p, MOOR_ENOMEM);
    p->filter.type = &type;
    p->heap = heap;
    mr_conn_add_filter(c, &p->filter);
    return MOOR_OK;
}

#endif
