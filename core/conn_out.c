/*
 * What is queued on a conn, and how it leaves: one coalesced send per conn and turn.
 * Owner thread: the conn's shard. Never sends from inside mr_conn_write.
 */
#include "core/conn_out.h"

#include "core/pool.h"
#include "core/shard.h"

#include <errno.h>
#include <string.h>

static void list_init(struct mr_out_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_push(struct mr_out_list *l, struct mr_out *o)
{
    o->next = NULL;
    *l->last = o;
    l->last = &o->next;
}

static struct mr_out *list_pop(struct mr_out_list *l)
{
    struct mr_out *o = l->first;
    l->first = o->next;
    if (!l->first)
        l->last = &l->first;
    return o;
}

static struct mr_slab *outq_slab(struct mr_conn *c)
{
    return mr_shard_slab(c->slot.shard, MR_SLAB_OUTQ, sizeof(struct mr_outq));
}

static struct mr_outq *outq_of(struct mr_conn *c)
{
    if (c->out)
        return c->out;
    struct mr_outq *q = mr_slab_take(outq_slab(c));
    if (!q)
        return NULL;
    list_init(&q->wire);
    list_init(&q->plain);
    c->out = q;
    return q;
}

moor_err mr_conn_write(struct mr_conn *c, struct mr_out *o)
{
    MR_FAIL_IF(mr_conn_state(c) >= MR_CONN_CLOSING || c->is_finishing, MOOR_ERESET);
    struct mr_outq *q = outq_of(c);
    MR_FAIL_IF(!q, MOOR_ENOMEM);
    list_push(c->top ? &q->plain : &q->wire, o);
    q->bytes += o->len;
    mr_loop_flush_later(&c->slot.shard->mine.loop, &c->flush);
    return MOOR_OK;
}

bool mr_conn_out_wire(struct mr_conn *c, struct mr_out *o)
{
    struct mr_outq *q = mr_conn_state(c) < MR_CONN_CLOSING ? outq_of(c) : NULL;
    if (!q)
        return false;
    list_push(&q->wire, o);
    q->bytes += o->len;
    mr_loop_flush_later(&c->slot.shard->mine.loop, &c->flush);
    return true;
}

size_t mr_conn_unsent(const struct mr_conn *c)
{
    return c->out ? c->out->bytes : 0;
}

bool mr_conn_is_sending(const struct mr_conn *c)
{
    return c->out && (c->out->sending || c->out->plain_done);
}

void mr_conn_finish(struct mr_conn *c)
{
    if (c->is_finishing || mr_conn_state(c) >= MR_CONN_CLOSING)
        return;
    c->is_finishing = true;
    mr_loop_flush_later(&c->slot.shard->mine.loop, &c->flush);
}

/* Up to MR_OUT_IOV_MAX pieces as an iovec. */
static unsigned gather(struct mr_out *o, size_t skip, struct iovec *iov)
{
    unsigned n = 0;
    for (; o && n < MR_OUT_IOV_MAX; o = o->next, skip = 0)
        iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)(o->base + skip),
                                  .iov_len = o->len - skip};
    return n;
}

/* Plain pieces through the top filter, until it takes no more. */
static void push_plain(struct mr_conn *c, struct mr_outq *q)
{
    while (q->plain.first) {
        struct iovec iov[MR_OUT_IOV_MAX];
        const unsigned n = gather(q->plain.first, q->plain_done, iov);
        size_t taken = c->top->type->push(c->top, iov, n);
        const bool is_stuck = taken == 0;
        while (q->plain.first && taken >= q->plain.first->len - q->plain_done) {
            struct mr_out *o = list_pop(&q->plain);
            taken -= o->len - q->plain_done;
            q->plain_done = 0;
            q->bytes -= o->len;
            o->sent(o, 0);
            if (mr_conn_state(c) >= MR_CONN_CLOSING)
                return; /* by the callback */
        }
        q->plain_done += taken;
        if (is_stuck)
            return;
    }
}

static void give_back_if_empty(struct mr_conn *c)
{
    struct mr_outq *q = c->out;
    if (!q || q->wire.first || q->plain.first || q->sending)
        return;
    c->out = NULL;
    mr_slab_give(outq_slab(c), q);
}

static void finish_if_due(struct mr_conn *c)
{
    if (!c->is_finishing || c->is_finished || c->out || mr_conn_state(c) >= MR_CONN_CLOSING)
        return;
    if (c->top && c->top->type->shut)
        c->top->type->shut(c->top);
    if (c->out) /* a filter has something to say first */
        return;
    c->is_finished = true;
    mr_io_finish(c->slot.shard->mine.loop.io, &c->sock);
}

void mr_conn_flush(struct mr_conn *c)
{
    struct mr_outq *q = c->out;
    if (mr_conn_state(c) >= MR_CONN_CLOSING)
        return;
    if (q && c->top && c->top->is_open)
        push_plain(c, q);
    q = c->out;
    if (q && q->wire.first && !q->sending) {
        q->sending = gather(q->wire.first, 0, q->iov);
        q->message = (struct msghdr){.msg_iov = q->iov, .msg_iovlen = q->sending};
        mr_io_send(c->slot.shard->mine.loop.io, &c->sock, &q->message);
        return;
    }
    give_back_if_empty(c);
    finish_if_due(c);
}

void mr_conn_out_sent(struct mr_conn *c, int err, size_t taken)
{
    struct mr_outq *q = c->out;
    MR_ASSERT(q && q->sending);
    c->bytes_out += taken;
    MR_STAT_ADD(c->berth->local, bytes_out, taken);
    if (err) {
        q->sending = 0;
        mr_conn_fail(c, &(moor_fault){.err = MOOR_ERESET, .os_errno = err, .what = "send"});
        return;
    }
    unsigned covered = q->sending;
    q->sending = 0;
    while (covered-- > 0) {
        struct mr_out *o = list_pop(&q->wire);
        q->bytes -= o->len;
        o->sent(o, 0);
        if (mr_conn_state(c) >= MR_CONN_CLOSING)
            return; /* by the callback */
    }
    if (q->wire.first || q->plain.first || c->is_finishing)
        mr_conn_flush(c);
    else
        give_back_if_empty(c);
    if (!c->out && c->protocol->drained && mr_conn_state(c) < MR_CONN_CLOSING)
        c->protocol->drained(c);
}

void mr_conn_out_drop(struct mr_conn *c, int err)
{
    struct mr_outq *q = c->out;
    if (!q)
        return;
    c->out = NULL;
    while (q->wire.first) {
        struct mr_out *o = list_pop(&q->wire);
        o->sent(o, err);
    }
    while (q->plain.first) {
        struct mr_out *o = list_pop(&q->plain);
        o->sent(o, err);
    }
    mr_slab_give(outq_slab(c), q);
}
