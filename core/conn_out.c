/*
 * What is queued on a conn, and how it leaves: one coalesced send per conn and turn.
 * Owner thread: the conn's shard. Never sends from inside mr_conn_write.
 */
#include "core/conn_out.h"

#include "core/pool.h"
#include "core/shard.h"

#include <errno.h>
#include <string.h>

void mr_out_list_init(struct mr_out_list *l)
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
    /* The slab keeps what would be a slot's header: here the counts of the last queue. */
    q->bytes = 0;
    q->sending = 0;
    q->is_flushing = q->is_telling = false;
    mr_out_list_init(&q->wire);
    c->out = q;
    return q;
}

/* Onto the socket's list, or that of the filter `to`. */
static bool queue(struct mr_conn *c, struct mr_filter *to, struct mr_out *o)
{
    struct mr_outq *q = outq_of(c);
    if (!q)
        return false;
    list_push(to ? &to->todo : &q->wire, o);
    q->bytes += o->len;
    if (!q->is_flushing)
        mr_loop_flush_later(&c->slot.shard->mine.loop, &c->flush);
    return true;
}

moor_err mr_conn_write(struct mr_conn *c, struct mr_out *o)
{
    MR_FAIL_IF(mr_conn_state(c) >= MR_CONN_CLOSING || c->is_finishing, MOOR_ERESET);
    return queue(c, c->top, o) ? MOOR_OK : MOOR_ENOMEM;
}

void mr_filter_emit(struct mr_filter *f, struct mr_out *o)
{
    struct mr_conn *c = f->conn;
    if (mr_conn_state(c) >= MR_CONN_CLOSING) {
        o->sent(o, ECONNRESET);
    } else if (!queue(c, f->below, o)) {
        o->sent(o, ENOMEM);
        mr_conn_fail(c, &(moor_fault){.err = MOOR_ENOMEM, .what = "queue bytes"});
    }
}

void mr_filter_writable(struct mr_filter *f)
{
    if (f->todo.first && mr_conn_state(f->conn) < MR_CONN_CLOSING)
        mr_loop_flush_later(&f->conn->slot.shard->mine.loop, &f->conn->flush);
}

size_t mr_conn_unsent(const struct mr_conn *c)
{
    return c->out ? c->out->bytes : 0;
}

bool mr_conn_is_sending(const struct mr_conn *c)
{
    return c->out && (c->out->sending || (c->top && c->top->todo_done));
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

/* Pieces through one filter, until it takes no more. True: it took something. */
static bool push_through(struct mr_conn *c, struct mr_filter *f)
{
    bool has_taken = false;
    while (f->todo.first) {
        struct iovec iov[MR_OUT_IOV_MAX];
        const unsigned n = gather(f->todo.first, f->todo_done, iov);
        size_t taken = f->type->push(f, iov, n);
        if (taken == 0 || mr_conn_state(c) >= MR_CONN_CLOSING)
            return has_taken;
        has_taken = true;
        while (f->todo.first && taken >= f->todo.first->len - f->todo_done) {
            struct mr_out *o = list_pop(&f->todo);
            taken -= o->len - f->todo_done;
            f->todo_done = 0;
            c->out->bytes -= o->len;
            o->sent(o, 0);
            if (mr_conn_state(c) >= MR_CONN_CLOSING)
                return false; /* by the callback */
        }
        f->todo_done += taken;
    }
    return has_taken;
}

/* Top-down, and again while a filter that had no room may have some. */
static void push_down(struct mr_conn *c)
{
    for (bool has_moved = true; has_moved;) {
        has_moved = false;
        for (struct mr_filter *f = c->top; f; f = f->below) {
            if (f->is_open && push_through(c, f))
                has_moved = true;
            if (mr_conn_state(c) >= MR_CONN_CLOSING)
                return;
        }
    }
}

static void give_back_if_empty(struct mr_conn *c)
{
    struct mr_outq *q = c->out;
    if (!q || q->bytes || q->sending)
        return;
    c->out = NULL;
    mr_slab_give(outq_slab(c), q);
}

static void shut(struct mr_filter *f)
{
    if (f->is_shut)
        return;
    f->is_shut = true;
    if (f->type->shut && f->is_open)
        f->type->shut(f);
}

static void finish_if_due(struct mr_conn *c)
{
    if (!c->is_finishing || c->is_finished || c->out || mr_conn_state(c) >= MR_CONN_CLOSING)
        return;
    for (struct mr_filter *f = c->top; f; f = f->below) {
        shut(f);
        if (c->out || mr_conn_state(c) >= MR_CONN_CLOSING)
            return; /* it has something to say, which those below see before their own end */
    }
    c->is_finished = true;
    mr_io_finish(c->slot.shard->mine.loop.io, &c->sock);
}

static void send_wire(struct mr_conn *c)
{
    struct mr_outq *q = c->out;
    q->sending = gather(q->wire.first, 0, q->iov);
    q->message = (struct msghdr){.msg_iov = q->iov, .msg_iovlen = q->sending};
    mr_io_send(c->slot.shard->mine.loop.io, &c->sock, &q->message);
}

void mr_conn_flush(struct mr_conn *c)
{
    struct mr_outq *q = c->out;
    if (mr_conn_state(c) >= MR_CONN_CLOSING || c->send_errno)
        return;
    if (q && c->top) {
        q->is_flushing = true;
        push_down(c);
        q->is_flushing = false;
        if (mr_conn_state(c) >= MR_CONN_CLOSING)
            return;
    }
    if (q && q->wire.first && !q->sending) {
        send_wire(c);
        return;
    }
    give_back_if_empty(c);
    finish_if_due(c);
}

void mr_conn_flush_now(struct mr_conn *c)
{
    mr_loop_undefer(&c->flush);
    mr_conn_flush(c);
}

void mr_conn_out_goodbye(struct mr_conn *c)
{
    const struct mr_outq *q = c->out;
    if (c->send_errno || (q && (q->sending || q->is_flushing || q->is_telling)))
        return;
    for (const struct mr_filter *f = c->top; f; f = f->below)
        if (f->todo.first) /* of a claim that has been told, or will be, that it was not sent */
            return;
    /* As in finish_if_due: what one says is sent before the next says anything. There is one send left. */
    for (struct mr_filter *f = c->top; f && !c->out; f = f->below)
        shut(f);
    if (!c->out || mr_conn_state(c) >= MR_CONN_CLOSING)
        return;
    push_down(c);
    if (c->out->wire.first && mr_conn_state(c) < MR_CONN_CLOSING)
        send_wire(c);
}

/* The peer has closed, but what it said before lies in the socket: a response that is whole, of a server that
 * answered and left. The recv ends after it. */
static bool may_hear_more(const struct mr_conn *c, int err)
{
    const bool is_used =
        mr_conn_state(c) == MR_CONN_LEASED || mr_conn_state(c) == MR_CONN_DRAINING;
    return is_used && (err == EPIPE || err == ECONNRESET) && !c->has_ended && !c->is_paused;
}

void mr_conn_out_sent(struct mr_conn *c, int err, size_t taken)
{
    struct mr_outq *q = c->out;
    MR_ASSERT(q && q->sending);
    c->bytes_out += taken;
    MR_STAT_ADD(c->berth->local, bytes_out, taken);
    if (err) {
        q->sending = 0;
        c->send_errno = err;
        if (may_hear_more(c, err))
            mr_conn_drain(c, "the peer takes no more bytes");
        else
            mr_conn_out_fail(c);
        return;
    }
    unsigned covered = q->sending;
    q->sending = 0;
    q->is_telling = true;
    while (covered-- > 0) {
        struct mr_out *o = list_pop(&q->wire);
        q->bytes -= o->len;
        o->sent(o, 0);
        if (mr_conn_state(c) >= MR_CONN_CLOSING)
            return; /* by the callback */
    }
    q->is_telling = false;
    if (q->bytes || c->is_finishing)
        mr_conn_flush(c);
    else
        give_back_if_empty(c);
    if (!c->out && c->protocol->drained && mr_conn_state(c) < MR_CONN_CLOSING)
        c->protocol->drained(c);
}

void mr_conn_out_fail(struct mr_conn *c)
{
    mr_conn_fail(c, &(moor_fault){.err = MOOR_ERESET, .os_errno = c->send_errno, .what = "send"});
}

static void drop_list(struct mr_out_list *l, int err)
{
    while (l->first) {
        struct mr_out *o = list_pop(l);
        o->sent(o, err);
    }
}

void mr_conn_out_drop(struct mr_conn *c, int err)
{
    struct mr_outq *q = c->out;
    if (!q)
        return;
    c->out = NULL;
    drop_list(&q->wire, err);
    for (struct mr_filter *f = c->bottom; f; f = f->above)
        drop_list(&f->todo, err);
    mr_slab_give(outq_slab(c), q);
}
