/*
 * A filter for tests: handshake, records, end marker. Runs on the conn's shard.
 */
#include "tests/support/xor_filter.h"

#include "core/shard.h"

#include <string.h>

#define HEADER 2

struct xor_counts xor_counts;

struct xor_filter {
    struct mr_filter filter;
    struct mr_heap *heap;
    uint32_t record_max;
    uint64_t sent_at, received_at; /* positions in the key streams */
    struct mr_out hello[2];        /* the handshake, in two pieces */
    struct mr_out out;             /* the one record under way */
    uint8_t *out_bytes;            /* its HEADER + record_max bytes; NULL = none is */
    uint8_t *partial;              /* HEADER + a record that is not whole yet; NULL = none */
    size_t partial_len, partial_size;
    char answer[4];
    uint8_t answer_len;
    bool is_asked;
};

static struct xor_filter *xor_of(struct mr_filter *f)
{
    return MR_CONTAINER_OF(f, struct xor_filter, filter);
}

static void hello_sent(struct mr_out *o, int err)
{
    (void)o;
    (void)err;
}

static enum mr_step xor_open(struct mr_filter *f)
{
    struct xor_filter *x = xor_of(f);
    if (!x->is_asked) {
        x->is_asked = true;
        for (int i = 0; i < 2; i++) {
            x->hello[i] = (struct mr_out){
                .base = (const uint8_t *)XOR_ASK + i * 2, .len = 2, .sent = hello_sent};
            mr_filter_emit(f, &x->hello[i]);
        }
    }
    if (x->answer_len < 4)
        return MR_STEP_AGAIN;
    if (memcmp(x->answer, XOR_GRANT, 4)) {
        f->fault = (moor_fault){.err = MOOR_ETLS, .tls_code = 42, .what = "xor handshake refused"};
        return MR_STEP_FAILED;
    }
    xor_counts.opened++;
    return MR_STEP_DONE;
}

/* ---- out ---- */

static void out_sent(struct mr_out *o, int err)
{
    (void)err;
    struct xor_filter *x = MR_CONTAINER_OF(o, struct xor_filter, out);
    mr_heap_free(x->heap, x->out_bytes, HEADER + x->record_max);
    x->out_bytes = NULL;
}

static bool begin_record(struct xor_filter *x)
{
    x->out_bytes = mr_heap_alloc(x->heap, HEADER + x->record_max);
    return x->out_bytes != NULL;
}

static void emit_record(struct xor_filter *x, size_t len)
{
    x->out_bytes[0] = (uint8_t)(len >> 8);
    x->out_bytes[1] = (uint8_t)len;
    x->out = (struct mr_out){.base = x->out_bytes, .len = HEADER + len, .sent = out_sent};
    mr_filter_emit(&x->filter, &x->out);
}

static void fail_for_memory(struct mr_filter *f)
{
    mr_conn_fail(f->conn, &(moor_fault){.err = MOOR_ENOMEM, .what = "make a record"});
}

static size_t xor_push(struct mr_filter *f, const struct iovec *iov, unsigned count)
{
    struct xor_filter *x = xor_of(f);
    if (x->out_bytes)
        return 0;
    if (!begin_record(x)) {
        fail_for_memory(f);
        return 0;
    }
    size_t len = 0;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *from = iov[i].iov_base;
        for (size_t j = 0; j < iov[i].iov_len && len < x->record_max; j++)
            x->out_bytes[HEADER + len++] = from[j] ^ xor_key(true, x->sent_at++);
    }
    emit_record(x, len);
    return len;
}

static void xor_shut(struct mr_filter *f)
{
    struct xor_filter *x = xor_of(f);
    MR_ASSERT(!x->out_bytes);
    if (!begin_record(x)) {
        fail_for_memory(f);
        return;
    }
    xor_counts.shut++;
    emit_record(x, 0);
}

/* ---- in ---- */

/* One whole record at `bytes`. False: nothing more is wanted now. */
static bool deliver(struct xor_filter *x, const uint8_t *bytes, size_t len)
{
    if (len == 0) {
        xor_counts.ended++;
        mr_filter_end(&x->filter);
        return true;
    }
    struct mr_buf *b = mr_filter_buf(&x->filter, len);
    if (!b)
        return false;
    for (size_t i = 0; i < len; i++)
        b->data[i] = bytes[i] ^ xor_key(false, x->received_at++);
    const bool goes_on =
        mr_filter_deliver(&x->filter, &(struct mr_in){.buf = b, .base = b->data, .len = len});
    mr_buf_unref(b);
    return goes_on;
}

static size_t record_len(const uint8_t *header)
{
    return (size_t)header[0] << 8 | header[1];
}

static void free_partial(struct xor_filter *x)
{
    mr_heap_free(x->heap, x->partial, x->partial_size);
    x->partial = NULL;
    x->partial_len = x->partial_size = 0;
}

/* Adds to the record that is not whole; returns bytes used. */
static size_t grow_partial(struct xor_filter *x, const uint8_t *at, size_t left, bool *goes_on)
{
    if (!x->partial) {
        xor_counts.partial++;
        x->partial_size = HEADER + XOR_RECORD_LIMIT;
        x->partial = mr_heap_alloc(x->heap, x->partial_size);
        if (!x->partial) {
            fail_for_memory(&x->filter);
            *goes_on = false;
            return 0;
        }
    }
    size_t used = 0;
    while (used < left) {
        x->partial[x->partial_len++] = at[used++];
        if (x->partial_len < HEADER || x->partial_len < HEADER + record_len(x->partial))
            continue;
        *goes_on = deliver(x, x->partial + HEADER, record_len(x->partial));
        free_partial(x);
        break;
    }
    return used;
}

static size_t xor_pulled(struct mr_filter *f, const struct mr_in *in)
{
    struct xor_filter *x = xor_of(f);
    size_t used = 0;
    if (!f->is_open) {
        while (used < in->len && x->answer_len < 4)
            x->answer[x->answer_len++] = (char)in->base[used++];
        return used;
    }
    bool goes_on = true;
    while (used < in->len && goes_on && !f->has_ended) {
        const uint8_t *at = in->base + used;
        const size_t left = in->len - used;
        if (x->partial || left < HEADER || left < HEADER + record_len(at)) {
            used += grow_partial(x, at, left, &goes_on);
            continue;
        }
        goes_on = deliver(x, at + HEADER, record_len(at));
        used += HEADER + record_len(at);
    }
    return f->has_ended ? in->len : used;
}

static moor_err xor_ended(struct mr_filter *f)
{
    (void)f;
    xor_counts.truncated++;
    return MOOR_ERESET;
}

static void xor_drop(struct mr_filter *f)
{
    struct xor_filter *x = xor_of(f);
    MR_ASSERT(!x->out_bytes && "every piece is let go before");
    free_partial(x);
    xor_counts.dropped++;
    mr_heap_free(x->heap, x, sizeof *x);
}

static const struct mr_filter_type xor_type = {
    .name = "xor",
    .open = xor_open,
    .push = xor_push,
    .pulled = xor_pulled,
    .ended = xor_ended,
    .shut = xor_shut,
    .drop = xor_drop,
};

moor_err xor_filter_add(struct mr_upstream *u, struct mr_conn *c, const struct xor_options *o)
{
    struct mr_heap *heap = &u->pool->runtime->heap;
    struct xor_filter *x = mr_heap_zalloc(heap, sizeof *x);
    MR_FAIL_IF(!x, MOOR_ENOMEM);
    x->filter.type = &xor_type;
    x->heap = heap;
    x->record_max = o->record_max;
    xor_counts.made++;
    xor_counts.idle_bytes = sizeof *x;
    mr_conn_add_filter(c, &x->filter);
    return MOOR_OK;
}
