/*
 * One transport connection: from a descriptor through filters and protocol to its end.
 * Owner thread: the conn's shard. Decides nothing about pooling: the berth does.
 */
#include "core/conn.h"

#include "core/attempt.h"
#include "core/berth.h"
#include "core/conn_out.h"
#include "core/pool.h"
#include "core/shard.h"

#include <errno.h>
#include <string.h>

/* Received bytes nobody has taken yet. */
struct mr_rest {
    struct moor_slot_ slot;
    struct mr_rest *next;
    struct mr_buf *buf;
    const uint8_t *base;
    size_t len;
};

static const struct mr_sock_events sock_events;
static void run_flush(struct mr_deferred *d);
static void run_feed(struct mr_deferred *d);

static struct mr_conn *conn_of(struct mr_sock *s)
{
    return MR_CONTAINER_OF(s, struct mr_conn, sock);
}

static struct mr_loop *loop_of(struct mr_conn *c)
{
    return &c->slot.shard->mine.loop;
}

static struct mr_slab *conn_slab(struct moor_shard *s)
{
    return mr_shard_slab(s, MR_SLAB_CONN, sizeof(struct mr_conn));
}

static struct mr_slab *rest_slab(struct mr_conn *c)
{
    return mr_shard_slab(c->slot.shard, MR_SLAB_REST, sizeof(struct mr_rest));
}

struct mr_conn *mr_conn_create(struct moor_shard *s, struct mr_berth *b,
                               const struct mr_protocol *protocol)
{
    struct mr_conn *c = mr_slab_take(conn_slab(s));
    if (!c)
        return NULL;
    c->slot.shard = s;
    c->sock.events = &sock_events;
    c->sock.fd = -1;
    c->protocol = protocol;
    c->berth = b;
    c->rest_tail = &c->rest;
    c->flush.run = run_flush;
    c->feed.run = run_feed;
    c->born_ns = c->idle_since_ns = mr_shard_now(s);
    c->expires_ns = MR_NEVER;
    mr_list_init(&c->link);
    return c;
}

void mr_conn_destroy(struct mr_conn *c)
{
    if (mr_conn_state(c) != MR_CONN_DEAD)
        mr_conn_move_to(c, MR_CONN_DEAD);
    MR_ASSERT(c->sock.pending == 0);
    MR_ASSERT(!c->out && !c->rest);
    mr_list_remove(&c->link);
    mr_loop_undefer(&c->flush);
    mr_loop_undefer(&c->feed);
    mr_slab_give(conn_slab(c->slot.shard), c);
}

/* ---- the way up: descriptor, filters, protocol, berth ---- */

void mr_conn_add_filter(struct mr_conn *c, struct mr_filter *f)
{
    f->conn = c;
    f->below = c->top;
    f->above = NULL;
    if (c->top)
        c->top->above = f;
    else
        c->bottom = f;
    c->top = f;
}

static void prepare(struct mr_conn *c)
{
    mr_conn_move_to(c, MR_CONN_PREPARING);
    const moor_err e = c->protocol->open ? c->protocol->open(c) : MOOR_OK;
    if (e)
        mr_conn_fail(c, &(moor_fault){.err = e, .what = "prepare connection"});
    else if (!c->protocol->open)
        mr_conn_set_capacity(c, c->protocol->capacity_expected);
}

/* Opens filters bottom-up until one has to wait. */
static void secure(struct mr_conn *c)
{
    for (struct mr_filter *f = c->bottom; f; f = f->above) {
        if (f->is_open)
            continue;
        const enum mr_step step = f->type->open ? f->type->open(f) : MR_STEP_DONE;
        if (mr_conn_state(c) != MR_CONN_SECURING || step == MR_STEP_AGAIN)
            return;
        if (step == MR_STEP_FAILED) {
            mr_conn_fail(c, &f->fault);
            return;
        }
        f->is_open = true;
    }
    prepare(c);
}

void mr_conn_connected(struct mr_conn *c, int fd)
{
    struct mr_loop *l = loop_of(c);
    mr_conn_move_to(c, MR_CONN_SECURING);
    mr_io_attach(l->io, &c->sock, fd);
    mr_io_recv_start(l->io, &c->sock);
    secure(c);
}

void mr_conn_arrived(struct mr_conn *c, int fd)
{
    struct mr_loop *l = loop_of(c);
    mr_conn_move_to(c, MR_CONN_IDLE);
    mr_io_attach(l->io, &c->sock, fd);
    mr_io_recv_start(l->io, &c->sock);
    for (struct mr_filter *f = c->bottom; f; f = f->above)
        f->conn = c;
    c->capacity = c->protocol->capacity_expected;
    mr_berth_ready(c);
}

void mr_conn_set_capacity(struct mr_conn *c, uint32_t capacity)
{
    c->capacity = capacity;
    if (mr_conn_state(c) == MR_CONN_PREPARING) {
        if (!capacity)
            return;
        mr_conn_move_to(c, MR_CONN_IDLE);
    }
    mr_berth_ready(c);
}

/* ---- received bytes ---- */

/* Keeps what was not taken. False: no memory. */
static bool keep_rest(struct mr_conn *c, struct mr_buf *buf, const uint8_t *base, size_t len)
{
    struct mr_rest *r = mr_slab_take(rest_slab(c));
    if (!r)
        return false;
    mr_buf_ref(buf);
    r->buf = buf;
    r->base = base;
    r->len = len;
    r->next = NULL;
    *c->rest_tail = r;
    c->rest_tail = &r->next;
    return true;
}

static void pop_rest(struct mr_conn *c)
{
    struct mr_rest *r = c->rest;
    c->rest = r->next;
    if (!c->rest)
        c->rest_tail = &c->rest;
    mr_buf_unref(r->buf);
    mr_slab_give(rest_slab(c), r);
}

/* What the protocol takes of plain bytes. */
static size_t give_protocol(struct mr_conn *c, const struct mr_in *in)
{
    switch (mr_conn_state(c)) {
    case MR_CONN_LEASED:
    case MR_CONN_DRAINING:
    case MR_CONN_PREPARING:
        return c->protocol->input ? c->protocol->input(c, in) : 0;
    case MR_CONN_IDLE:
    case MR_CONN_MOVING:
        if (c->protocol->is_multiplexed)
            return c->protocol->input(c, in);
        /* RFC 9112 9.2: a response nobody asked for; nothing after it can be trusted. */
        c->is_retired = true;
        mr_conn_close(c, "bytes on an idle connection");
        return in->len;
    default:
        return in->len; /* closing: dropped */
    }
}

size_t mr_filter_deliver(struct mr_filter *f, const struct mr_in *in)
{
    return f->above ? f->above->type->pulled(f->above, in) : give_protocol(f->conn, in);
}

void mr_filter_emit(struct mr_filter *f, struct mr_out *out)
{
    struct mr_conn *c = f->conn;
    if (f->below) {
        const struct iovec iov = {(void *)(uintptr_t)out->base, out->len};
        const size_t taken = f->below->type->push(f->below, &iov, 1);
        MR_ASSERT(taken == out->len && "a filter below a filter buffers what it is given");
        out->sent(out, 0);
    } else if (!mr_conn_out_wire(c, out)) {
        out->sent(out, ENOMEM);
        mr_conn_fail(c, &(moor_fault){.err = MOOR_ENOMEM, .what = "queue bytes"});
    }
}

static size_t give(struct mr_conn *c, const struct mr_in *in)
{
    if (!c->bottom)
        return give_protocol(c, in);
    const size_t taken = c->bottom->type->pulled(c->bottom, in);
    if (mr_conn_state(c) == MR_CONN_SECURING)
        secure(c);
    return taken;
}

static void on_received(struct mr_sock *s, struct mr_buf *buf, uint32_t len)
{
    struct mr_conn *c = conn_of(s);
    const struct mr_in in = {.buf = buf, .base = buf->data, .len = len};
    MR_STAT_ADD(c->berth->local, bytes_in, len);
    const size_t taken = c->rest || c->is_paused ? 0 : give(c, &in);
    if (mr_conn_state(c) < MR_CONN_CLOSING && taken < len) {
        if (!keep_rest(c, buf, buf->data + taken, len - taken))
            mr_conn_fail(c, &(moor_fault){.err = MOOR_ENOMEM, .what = "keep received bytes"});
        c->is_paused = true;
        if (mr_conn_state(c) < MR_CONN_CLOSING)
            mr_io_recv_stop(loop_of(c)->io, s);
    }
    mr_buf_unref(buf);
}

static void tell_end(struct mr_conn *c)
{
    moor_fault fault = {.err = MOOR_OK, .what = "the peer closed the connection"};
    for (struct mr_filter *f = c->bottom; f && !fault.err; f = f->above)
        if (f->type->ended)
            fault.err = f->type->ended(f);
    if (fault.err) {
        mr_conn_fail(c, &fault);
        return;
    }
    switch (mr_conn_state(c)) {
    case MR_CONN_LEASED:
    case MR_CONN_DRAINING:
        if (c->protocol->ended)
            c->protocol->ended(c, &fault);
        break;
    case MR_CONN_SECURING:
    case MR_CONN_PREPARING:
        fault.err = MOOR_ERESET;
        mr_conn_fail(c, &fault);
        break;
    default:
        c->is_retired = true;
        mr_conn_close(c, "the peer closed an idle connection");
        break;
    }
}

static void on_recv_ended(struct mr_sock *s, int err)
{
    struct mr_conn *c = conn_of(s);
    if (err == ECANCELED) {
        if (mr_conn_state(c) == MR_CONN_MOVING)
            mr_berth_unhook(c);
        else if (!c->is_paused)
            mr_io_recv_start(loop_of(c)->io, s);
        return;
    }
    c->has_ended = true;
    if (err) {
        mr_conn_fail(c, &(moor_fault){.err = MOOR_ERESET, .os_errno = err, .what = "receive"});
    } else if (c->rest) {
        c->is_fin_pending = true;
    } else {
        tell_end(c);
    }
}

void mr_conn_resume(struct mr_conn *c)
{
    if (c->is_paused && mr_conn_state(c) < MR_CONN_CLOSING)
        mr_loop_defer(loop_of(c), &c->feed);
}

static void run_feed(struct mr_deferred *d)
{
    struct mr_conn *c = MR_CONTAINER_OF(d, struct mr_conn, feed);
    if (mr_conn_state(c) >= MR_CONN_CLOSING)
        return;
    while (c->rest) {
        struct mr_rest *r = c->rest;
        const struct mr_in in = {.buf = r->buf, .base = r->base, .len = r->len};
        const size_t taken = give(c, &in);
        if (mr_conn_state(c) >= MR_CONN_CLOSING)
            return; /* closed() gives rest back */
        r->base += taken;
        r->len -= taken;
        if (r->len)
            return;
        pop_rest(c);
    }
    c->is_paused = false;
    if (c->is_fin_pending) {
        c->is_fin_pending = false;
        tell_end(c);
    } else if (!c->has_ended && !c->sock.is_receiving) {
        mr_io_recv_start(loop_of(c)->io, &c->sock);
    } /* else recv_ended(ECANCELED) is on its way and starts it again */
}

bool mr_conn_is_clean(const struct mr_conn *c)
{
    return !c->rest && !c->out && !c->has_ended && !c->is_finishing && !c->is_paused;
}

/* ---- sending: conn_out.c ---- */

static void run_flush(struct mr_deferred *d)
{
    mr_conn_flush(MR_CONTAINER_OF(d, struct mr_conn, flush));
}

static void on_sent(struct mr_sock *s, int err, size_t taken)
{
    mr_conn_out_sent(conn_of(s), err, taken);
}

/* ---- the end ---- */

static void on_connected(struct mr_sock *s, int err)
{
    (void)s;
    (void)err;
    MR_ASSERT(!"a conn gets a connected descriptor, dials connect");
}

void mr_conn_fail(struct mr_conn *c, const moor_fault *fault)
{
    const enum mr_conn_state s = mr_conn_state(c);
    if (s >= MR_CONN_CLOSING)
        return;
    c->is_retired = s == MR_CONN_IDLE && fault->err == MOOR_ERESET;
    if ((s == MR_CONN_LEASED || s == MR_CONN_DRAINING) && c->protocol->ended)
        c->protocol->ended(c, fault);
    if (s == MR_CONN_SECURING || s == MR_CONN_PREPARING)
        mr_berth_lost(c, fault);
    mr_conn_close(c, fault->what);
}

void mr_conn_close(struct mr_conn *c, const char *why)
{
    /* NEW: a slot that waits for a conn of another shard; what arrives in it is closed then. */
    if (mr_conn_state(c) >= MR_CONN_CLOSING || mr_conn_state(c) == MR_CONN_NEW)
        return;
    if (mr_conn_state(c) == MR_CONN_CONNECTING) {
        mr_attempt_abandon(c->attempt);
        return;
    }
    const enum mr_conn_state was = mr_conn_state(c);
    c->close_why = why;
    c->has_ended = true;
    mr_conn_move_to(c, MR_CONN_CLOSING);
    mr_io_close(loop_of(c)->io, &c->sock);
    mr_berth_closing(c, was);
}

static void on_closed(struct mr_sock *s)
{
    struct mr_conn *c = conn_of(s);
    mr_conn_out_drop(c, ECONNRESET);
    while (c->rest)
        pop_rest(c);
    if (c->protocol->dropped)
        c->protocol->dropped(c);
    for (struct mr_filter *f = c->top, *below; f; f = below) {
        below = f->below;
        f->type->drop(f);
    }
    c->top = c->bottom = NULL;
    mr_conn_move_to(c, MR_CONN_DEAD);
    mr_berth_closed(c);
}

static const struct mr_sock_events sock_events = {
    .connected = on_connected,
    .received = on_received,
    .recv_ended = on_recv_ended,
    .sent = on_sent,
    .closed = on_closed,
};
