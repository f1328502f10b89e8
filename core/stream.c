/*
 * Byte streams on a leased conn: chunks up, pieces down, the end of either side.
 * Owner thread: the lease's shard. Holds no bytes itself: what is not asked for stays on the conn and stops
 * its receive.
 */
#include "core/stream.h"

#include <string.h>

/* One moor_stream_send. */
struct piece {
    struct moor_slot_ slot; /* unused: what every slab item begins with */
    struct mr_out out;
    struct mr_lease *lease;
    moor_piece given;
};

static void window_reopened(struct mr_window *w);
static void run_end(struct mr_deferred *d);
static void run_empties(struct mr_deferred *d);

static struct mr_loop *loop_of(struct mr_lease *l)
{
    return &l->slot.shard->mine.loop;
}

static struct mr_slab *piece_slab(struct moor_shard *s)
{
    return mr_shard_slab(s, MR_SLAB_PIECE, sizeof(struct piece));
}

void mr_stream_init(struct mr_lease *l)
{
    mr_window_init(&l->window, l->berth->local->pool->options.window_bytes, window_reopened);
    l->end.run = run_end;
    l->empties.run = run_empties;
    l->empty_tail = &l->empty;
}

/* Another thread may have released the lease; the message that says so is still on its way. */
static bool is_held(struct mr_lease *l)
{
    return l->state == MR_LEASE_HELD &&
           atomic_load_explicit(&l->slot.generation, memory_order_relaxed) % 2 == 1;
}

/* ---- up ---- */

static void tell_end(struct mr_lease *l, const moor_fault *fault)
{
    if (!l->is_reading || l->is_end_told)
        return;
    l->is_end_told = true;
    if (!l->handlers.on_end)
        return;
    mr_lease_enter(l);
    l->handlers.on_end(l->stream_user, fault);
    mr_lease_exit(l);
}

static void answer(struct mr_lease *l, moor_err err, moor_chunk chunk)
{
    struct mr_lease_reader *r = l->reader;
    l->reader = NULL;
    if (r)
        r->done(r, err, chunk);
}

static void run_end(struct mr_deferred *d)
{
    struct mr_lease *l = MR_CONTAINER_OF(d, struct mr_lease, end);
    if (is_held(l))
        tell_end(l, &l->fault);
}

void mr_stream_fini(struct mr_lease *l, const moor_fault *fault)
{
    mr_loop_undefer(&l->end);
    mr_window_fini(&l->window);
    l->has_ended = true;
    l->fault = fault ? *fault : (moor_fault){.err = MOOR_ESTALE, .what = "the lease was released"};
    answer(l, l->fault.err, (moor_chunk){0});
    if (fault)
        tell_end(l, fault);
}

static void window_reopened(struct mr_window *w)
{
    struct mr_lease *l = MR_CONTAINER_OF(w, struct mr_lease, window);
    if (l->conn)
        mr_conn_resume(l->conn);
}

static size_t stream_input(struct mr_conn *c, const struct mr_in *in)
{
    struct mr_lease *l = c->claim;
    if (!l || (!l->is_reading && !l->reader) || !is_held(l) || !mr_window_is_open(&l->window))
        return 0;
    moor_chunk chunk;
    if (!mr_loan_make(l->berth->local, &l->window, in, in->len, &chunk)) {
        mr_conn_fail(c, &(moor_fault){.err = MOOR_ENOMEM, .what = "lend received bytes"});
        return in->len;
    }
    mr_lease_enter(l);
    if (l->reader)
        answer(l, MOOR_OK, chunk);
    else
        l->handlers.on_chunk(l->stream_user, chunk);
    mr_lease_exit(l);
    return in->len;
}

static void stream_ended(struct mr_conn *c, const moor_fault *fault)
{
    struct mr_lease *l = c->claim;
    if (!l)
        return;
    if (fault->err) {
        c->claim = NULL; /* it closes by itself */
        l->conn = NULL;
    }
    if (l->state >= MR_LEASE_ENDING)
        return;
    l->has_ended = true;
    l->fault = *fault;
    if (!is_held(l))
        return;
    mr_lease_enter(l);
    answer(l, fault->err, (moor_chunk){0});
    tell_end(l, fault);
    mr_lease_exit(l);
}

const struct mr_protocol mr_stream_protocol = {
    .name = "stream",
    .is_stream = true,
    .capacity_expected = 1,
    .input = stream_input,
    .ended = stream_ended,
};

moor_err moor_stream_read(moor_lease lease, const moor_stream_handlers *h, void *user)
{
    struct mr_lease *l;
    MR_FAIL_IF(!h, MOOR_EINVAL);
    MR_TRY(mr_lease_find(lease, &l));
    moor_stream_handlers copy = {0};
    memcpy(&copy, h, h->size < sizeof copy ? h->size : sizeof copy);
    MR_FAIL_IF(!copy.on_chunk || l->is_reading || l->reader, MOOR_EINVAL);
    l->handlers = copy;
    l->stream_user = user;
    l->is_reading = true;
    if (l->has_ended)
        mr_loop_defer(loop_of(l), &l->end);
    else
        mr_conn_resume(l->conn);
    return MOOR_OK;
}

moor_err mr_stream_ask(struct mr_lease *l, struct mr_lease_reader *r)
{
    MR_FAIL_IF(l->is_reading, MOOR_EINVAL);
    MR_FAIL_IF(l->reader, MOOR_EBUSY);
    l->reader = r;
    if (l->has_ended)
        answer(l, l->fault.err, (moor_chunk){0});
    else
        mr_conn_resume(l->conn);
    return MOOR_OK;
}

/* ---- down ---- */

moor_err mr_stream_write(struct mr_lease *l, struct mr_out *o)
{
    MR_FAIL_IF(l->is_finishing, MOOR_EINVAL);
    MR_FAIL_IF(!l->conn, MOOR_ERESET);
    MR_FAIL_IF(l->outs >= l->berth->local->pool->options.stream_queue_max, MOOR_EBUSY);
    if (o->len) {
        MR_TRY(mr_conn_write(l->conn, o));
    } else {
        o->next = NULL;
        *l->empty_tail = o;
        l->empty_tail = &o->next;
        mr_loop_defer(loop_of(l), &l->empties);
    }
    l->outs++;
    return MOOR_OK;
}

static void run_empties(struct mr_deferred *d)
{
    struct mr_lease *l = mr_lease_enter(MR_CONTAINER_OF(d, struct mr_lease, empties));
    struct mr_out *o = l->empty;
    l->empty = NULL;
    l->empty_tail = &l->empty;
    for (struct mr_out *next; o; o = next) {
        next = o->next;
        o->sent(o, 0);
    }
    mr_lease_exit(l);
}

static void piece_sent(struct mr_out *o, int err)
{
    (void)err;
    struct piece *p = MR_CONTAINER_OF(o, struct piece, out);
    const moor_piece given = p->given;
    struct mr_lease *l = mr_lease_enter(p->lease);
    mr_slab_give(piece_slab(l->slot.shard), p);
    mr_lease_out_gone(l);
    if (given.sent)
        given.sent(given.ctx);
    mr_lease_exit(l);
}

moor_err moor_stream_send(moor_lease lease, moor_piece piece)
{
    struct mr_lease *l;
    MR_FAIL_IF(piece.bytes.len && !piece.bytes.base, MOOR_EINVAL);
    MR_TRY(mr_lease_find(lease, &l));
    struct piece *p = mr_slab_take(piece_slab(l->slot.shard));
    MR_FAIL_IF(!p, MOOR_ENOMEM);
    p->lease = l;
    p->given = piece;
    p->out.base = piece.bytes.base;
    p->out.len = piece.bytes.len;
    p->out.sent = piece_sent;
    const moor_err e = mr_stream_write(l, &p->out);
    if (e)
        mr_slab_give(piece_slab(l->slot.shard), p);
    return e;
}

moor_err moor_stream_finish(moor_lease lease)
{
    struct mr_lease *l;
    MR_TRY(mr_lease_find(lease, &l));
    MR_FAIL_IF(!l->conn, MOOR_ERESET);
    l->is_finishing = true;
    mr_conn_finish(l->conn);
    return MOOR_OK;
}
