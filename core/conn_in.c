/*
 * What a conn receives, on its way up through the filters to the protocol, and what is refused
 * there. Owner thread: the conn's shard. Keeps bytes, never interprets them.
 */
#include "core/conn_in.h"

#include "core/berth.h"
#include "core/conn_out.h"
#include "core/pool.h"
#include "core/shard.h"

#include <errno.h>
#include <string.h>

/* Bytes on their way up that nobody has taken yet. */
struct mr_rest {
    struct moor_slot_ slot;
    struct mr_rest *next;
    struct mr_filter *from; /* who delivered them; NULL = the socket */
    struct mr_buf *buf;
    const uint8_t *base;
    size_t len;
};

static struct mr_conn *conn_of(struct mr_sock *s)
{
    return MR_CONTAINER_OF(s, struct mr_conn, sock);
}

static struct mr_loop *loop_of(struct mr_conn *c)
{
    return &c->slot.shard->mine.loop;
}

static struct mr_slab *rest_slab(struct mr_conn *c)
{
    return mr_shard_slab(c->slot.shard, MR_SLAB_REST, sizeof(struct mr_rest));
}

static bool is_closing(const struct mr_conn *c)
{
    return mr_conn_state(c) >= MR_CONN_CLOSING;
}

/* ---- keeping what was refused ---- */

static unsigned height(const struct mr_filter *f)
{
    unsigned n = 0;
    for (; f; f = f->below)
        n++;
    return n;
}

/* A reference, or a copy where conns that cannot go on would hold the buffers of all others. */
static bool hold(struct mr_conn *c, const struct mr_in *in, struct mr_rest *r)
{
    struct mr_buf_pool *bufs = &c->slot.shard->mine.bufs;
    r->len = in->len;
    if (in->buf->is_loose || !mr_buf_pool_is_low(bufs)) {
        mr_buf_ref(in->buf);
        r->buf = in->buf;
        r->base = in->base;
        return true;
    }
    r->buf = mr_buf_make_loose(bufs, (uint32_t)in->len);
    if (!r->buf)
        return false;
    memcpy(r->buf->data, in->base, in->len);
    r->base = r->buf->data;
    return true;
}

/* What is nearer the protocol was received earlier: it goes first. Of one filter, what comes is the newest
 * and what comes back the oldest. */
static void insert(struct mr_conn *c, struct mr_rest *r, bool is_back)
{
    const unsigned mine = height(r->from);
    struct mr_rest **at = !r->from && !is_back ? c->rest_tail : &c->rest;
    while (*at && height((*at)->from) + !is_back > mine)
        at = &(*at)->next;
    r->next = *at;
    *at = r;
    if (!r->next)
        c->rest_tail = &r->next;
    c->is_paused = true;
    mr_io_recv_stop(loop_of(c)->io, &c->sock);
}

/* Stops the recv; fails the conn where there is no memory. */
static void keep(struct mr_conn *c, struct mr_filter *from, const struct mr_in *in)
{
    struct mr_rest *r = mr_slab_take(rest_slab(c));
    if (!r || !hold(c, in, r)) {
        if (r)
            mr_slab_give(rest_slab(c), r);
        mr_conn_fail(c, &(moor_fault){.err = MOOR_ENOMEM, .what = "keep received bytes"});
        return;
    }
    r->from = from;
    insert(c, r, false);
}

static struct mr_rest *pop(struct mr_conn *c)
{
    struct mr_rest *r = c->rest;
    c->rest = r->next;
    if (!c->rest)
        c->rest_tail = &c->rest;
    return r;
}

static void forget(struct mr_conn *c, struct mr_rest *r)
{
    mr_buf_unref(r->buf);
    mr_slab_give(rest_slab(c), r);
}

void mr_conn_in_drop(struct mr_conn *c)
{
    while (c->rest)
        forget(c, pop(c));
}

/* ---- the way up ---- */

/* What the protocol takes of plain bytes. */
static size_t give_protocol(struct mr_conn *c, const struct mr_in *in)
{
    switch (mr_conn_state(c)) {
    case MR_CONN_SECURING: /* the filters are about to be done: a server that speaks first */
        return 0;
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

static size_t give(struct mr_conn *c, struct mr_filter *from, const struct mr_in *in)
{
    struct mr_filter *to = from ? from->above : c->bottom;
    return to ? to->type->pulled(to, in) : give_protocol(c, in);
}

bool mr_filter_deliver(struct mr_filter *f, const struct mr_in *in)
{
    struct mr_conn *c = f->conn;
    const bool is_stuck = c->rest && height(c->rest->from) >= height(f);
    const size_t taken = is_stuck ? 0 : give(c, f, in);
    if (is_closing(c))
        return false;
    if (taken == in->len)
        return true;
    keep(c, f, &(struct mr_in){in->buf, in->base + taken, in->len - taken});
    return false;
}

struct mr_buf *mr_filter_buf(struct mr_filter *f, size_t len)
{
    struct mr_conn *c = f->conn;
    struct mr_buf_pool *bufs = &c->slot.shard->mine.bufs;
    struct mr_buf *b = NULL;
    if (len <= bufs->buf_size && !mr_buf_pool_is_low(bufs))
        b = mr_buf_take(bufs);
    if (b) {
        mr_buf_fill(b);
        return b;
    }
    /* Waiting for a buffer could last for ever: the backend posts what comes back. */
    b = mr_buf_make_loose(bufs, (uint32_t)len);
    if (!b)
        mr_conn_fail(c, &(moor_fault){.err = MOOR_ENOMEM, .what = "buffer received bytes"});
    return b;
}

void mr_conn_in_received(struct mr_sock *s, struct mr_buf *buf, uint32_t len)
{
    struct mr_conn *c = conn_of(s);
    const struct mr_in in = {.buf = buf, .base = buf->data, .len = len};
    MR_STAT_ADD(c->berth->local, bytes_in, len);
    const size_t taken = c->rest || c->is_paused ? 0 : give(c, NULL, &in);
    if (!is_closing(c) && taken < len)
        keep(c, NULL, &(struct mr_in){buf, in.base + taken, len - taken});
    if (mr_conn_state(c) == MR_CONN_SECURING)
        mr_conn_secure(c);
    mr_buf_unref(buf);
}

void mr_conn_resume(struct mr_conn *c)
{
    if (c->is_paused && !is_closing(c))
        mr_loop_defer(loop_of(c), &c->feed);
}

/* ---- the peer's end ---- */

/* The filters above the one that has said so itself, or all of them. */
static moor_fault ask_filters(struct mr_conn *c)
{
    moor_fault fault = {.err = MOOR_OK, .what = "the peer closed the connection"};
    struct mr_filter *f = c->top;
    while (f && !f->has_ended)
        f = f->below;
    for (f = f ? f->above : c->bottom; f && f->is_open; f = f->above) {
        fault.err = f->type->ended ? f->type->ended(f) : MOOR_OK;
        if (fault.err) {
            fault.what = "the connection ended without the peer's word for it";
            break;
        }
    }
    return fault;
}

static void tell_end(struct mr_conn *c)
{
    if (c->send_errno) { /* the error was the send's to see: what ends here may have been cut off */
        mr_conn_out_fail(c);
        return;
    }
    moor_fault fault = ask_filters(c);
    if (fault.err) {
        mr_conn_fail(c, &fault);
        return;
    }
    switch (mr_conn_state(c)) {
    case MR_CONN_LEASED:
    case MR_CONN_DRAINING:
        mr_berth_withdraw(c);
        if (c->protocol->ended)
            c->protocol->ended(c, &fault);
        break;
    case MR_CONN_SECURING:
        fault.what = "the peer closed the connection in the TLS handshake";
        /* fall through */
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

void mr_conn_in_ended(struct mr_sock *s, int err)
{
    struct mr_conn *c = conn_of(s);
    if (err == ECANCELED && mr_conn_state(c) == MR_CONN_MOVING) {
        if (mr_conn_may_move(c))
            mr_berth_unhook(c);
        else /* a filter has answered, or ended, meanwhile */
            mr_conn_close(c, "not idle any more while it was to move");
        return;
    }
    if (c->has_ended) /* a filter has told the end, and knew it to be whole */
        return;
    if (err == ECANCELED) {
        if (!c->is_paused)
            mr_io_recv_start(loop_of(c)->io, s);
        return;
    }
    c->has_ended = true;
    if (err) {
        const bool is_securing = mr_conn_state(c) == MR_CONN_SECURING;
        mr_conn_fail(
            c, &(moor_fault){.err = MOOR_ERESET,
                             .os_errno = err,
                             .what = is_securing ? "receive, in the TLS handshake" : "receive"});
    } else if (c->rest || c->is_paused) {
        c->is_fin_pending = true;
    } else {
        tell_end(c);
    }
}

void mr_filter_end(struct mr_filter *f)
{
    struct mr_conn *c = f->conn;
    f->has_ended = true;
    if (c->has_ended || is_closing(c))
        return;
    /* Later: what this filter has delivered, and others hold, goes first. */
    c->has_ended = c->is_fin_pending = c->is_paused = true;
    mr_loop_defer(loop_of(c), &c->feed);
}

/* ---- again ---- */

static void unpause(struct mr_conn *c)
{
    c->is_paused = false;
    if (!c->has_ended && !c->sock.is_receiving)
        mr_io_recv_start(loop_of(c)->io, &c->sock);
    /* else recv_ended(ECANCELED) is on its way and starts it again */
}

/* False: some of it was not taken, or the conn is closing. */
static bool feed(struct mr_conn *c, struct mr_rest *r)
{
    const size_t taken =
        give(c, r->from, &(struct mr_in){.buf = r->buf, .base = r->base, .len = r->len});
    r->base += taken;
    r->len -= taken;
    const bool is_stuck = r->len > 0;
    if (is_stuck && !is_closing(c))
        insert(c, r, true);
    else
        forget(c, r);
    if (mr_conn_state(c) == MR_CONN_SECURING)
        mr_conn_secure(c);
    return !is_stuck && !is_closing(c);
}

void mr_conn_in_feed(struct mr_deferred *d)
{
    struct mr_conn *c = MR_CONTAINER_OF(d, struct mr_conn, feed);
    while (c->rest && !is_closing(c)) {
        struct mr_rest *r = pop(c);
        /* Before the last is given: its end may be the end of a response, and the conn is let go. Only one
         * that is clean and reads may be used again. */
        if (!c->rest && !c->is_fin_pending)
            unpause(c);
        if (!feed(c, r))
            return;
    }
    if (is_closing(c))
        return;
    const bool has_fin = c->is_fin_pending;
    c->is_fin_pending = false;
    if (c->is_paused)
        unpause(c);
    if (has_fin)
        tell_end(c);
}
