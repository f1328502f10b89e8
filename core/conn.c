/*
 * One transport connection: from a descriptor through filters and protocol to its end.
 * Owner thread: the conn's shard. Decides nothing about pooling: the berth does.
 */
#include "core/conn.h"

#include "core/attempt.h"
#include "core/berth.h"
#include "core/conn_in.h"
#include "core/conn_out.h"
#include "core/pool.h"
#include "core/shard.h"

#include <errno.h>
#include <string.h>

static const struct mr_sock_events sock_events;
static void run_flush(struct mr_deferred *d);

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

struct mr_conn *mr_conn_create(struct moor_shard *s, struct mr_berth *b,
                               const struct mr_protocol *protocol)
{
    struct mr_conn *c = mr_slab_take(conn_slab(s));
    if (!c)
        return NULL;
    mr_slot_own(&c->slot, s);
    c->sock.events = &sock_events;
    c->sock.fd = -1;
    c->protocol = protocol;
    c->berth = b;
    c->rest_tail = &c->rest;
    c->flush.run = run_flush;
    c->feed.run = mr_conn_in_feed;
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

void mr_conn_connected(struct mr_conn *c, int fd)
{
    struct mr_loop *l = loop_of(c);
    mr_conn_move_to(c, MR_CONN_SECURING);
    mr_io_attach(l->io, &c->sock, fd);
    mr_io_recv_start(l->io, &c->sock);
}

void mr_conn_add_filter(struct mr_conn *c, struct mr_filter *f)
{
    MR_ASSERT(mr_conn_state(c) == MR_CONN_SECURING);
    f->conn = c;
    f->below = c->top;
    f->above = NULL;
    if (c->top)
        c->top->above = f;
    else
        c->bottom = f;
    c->top = f;
    mr_out_list_init(&f->todo);
}

/* What its peer picked decides who speaks on it. */
static bool choose_protocol(struct mr_conn *c)
{
    struct mr_upstream *u = c->berth->upstream;
    if (!u->pool->choose)
        return true;
    const struct mr_protocol *chosen = u->pool->choose(u, c->top ? c->top->alpn : NULL);
    if (chosen)
        c->protocol = chosen;
    return chosen != NULL;
}

static void prepare(struct mr_conn *c)
{
    if (!choose_protocol(c)) {
        mr_conn_fail(c, &(moor_fault){.err = MOOR_EPROTO,
                                      .what = "the server does not speak the protocol that was "
                                              "asked for (ALPN)"});
        return;
    }
    mr_conn_move_to(c, MR_CONN_PREPARING);
    mr_conn_resume(c); /* plain bytes that came with the last of a handshake */
    const moor_err e = c->protocol->open ? c->protocol->open(c) : MOOR_OK;
    if (e)
        mr_conn_fail(c, &(moor_fault){.err = e, .what = "prepare connection"});
    else if (!c->protocol->open) {
        mr_conn_expect(c, c->protocol->capacity_expected);
        mr_conn_set_capacity(c, c->protocol->capacity_expected);
    }
}

void mr_conn_secure(struct mr_conn *c)
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
        mr_conn_resume(c); /* it may have left what came after its handshake */
    }
    prepare(c);
}

void mr_filter_again(struct mr_filter *f)
{
    if (mr_conn_state(f->conn) == MR_CONN_SECURING)
        mr_conn_secure(f->conn);
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

void mr_conn_expect(struct mr_conn *c, uint32_t capacity)
{
    if (capacity)
        atomic_store_explicit(&c->berth->upstream->capacity, capacity, memory_order_relaxed);
}

void mr_conn_set_capacity(struct mr_conn *c, uint32_t capacity)
{
    c->capacity = capacity;
    switch (mr_conn_state(c)) {
    case MR_CONN_PREPARING:
        if (!capacity)
            return;
        mr_conn_move_to(c, MR_CONN_IDLE);
        mr_berth_ready(c);
        break;
    case MR_CONN_LEASED:
        mr_berth_ready(c);
        break;
    case MR_CONN_IDLE:
        if (!capacity)
            mr_berth_useless(c);
        break;
    default:
        break;
    }
}

void mr_conn_drain(struct mr_conn *c, const char *why)
{
    if (mr_conn_state(c) == MR_CONN_DRAINING)
        return;
    if (mr_conn_state(c) != MR_CONN_LEASED) {
        c->is_retired = mr_conn_state(c) == MR_CONN_IDLE; /* it was the peer's goodbye */
        mr_conn_close(c, why);
        return;
    }
    mr_conn_move_to(c, MR_CONN_DRAINING);
    mr_berth_withdraw(c);
    if (c->protocol->drain)
        c->protocol->drain(c);
}

bool mr_conn_is_clean(const struct mr_conn *c)
{
    const bool is_unsent = c->top ? c->top->todo.first != NULL : c->out != NULL;
    return !c->rest && !is_unsent && !c->has_ended && !c->is_finishing && !c->is_paused &&
           !c->send_errno;
}

bool mr_conn_may_move(const struct mr_conn *c)
{
    for (const struct mr_filter *f = c->bottom; f; f = f->above)
        if (f->is_busy)
            return false;
    return !c->protocol->is_multiplexed && mr_conn_is_clean(c) && !c->out;
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
    if (s >= MR_CONN_CLOSING || c->close_why) /* or about to be, if its last words fail */
        return;
    if (s < MR_CONN_SECURING) { /* no transport of its own yet that could have ended */
        mr_conn_close(c, fault->what);
        return;
    }
    c->is_retired = s == MR_CONN_IDLE && (fault->err == MOOR_ERESET || fault->err == MOOR_EPROTO);
    c->has_ended = true;
    if (s == MR_CONN_LEASED || s == MR_CONN_DRAINING) {
        mr_berth_withdraw(c); /* first: who hears of the failure may ask for another at once */
        if (c->protocol->ended)
            c->protocol->ended(c, fault);
    }
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
    if (c->top)
        mr_conn_out_goodbye(c);
    c->has_ended = true;
    mr_conn_move_to(c, MR_CONN_CLOSING);
    mr_io_close(loop_of(c)->io, &c->sock);
    mr_berth_closing(c, was);
}

void mr_conn_drop_filters(struct mr_conn *c)
{
    for (struct mr_filter *f = c->top, *below; f; f = below) {
        below = f->below;
        f->type->drop(f);
    }
    c->top = c->bottom = NULL;
}

static void on_closed(struct mr_sock *s)
{
    struct mr_conn *c = conn_of(s);
    mr_conn_out_drop(c, ECONNRESET);
    mr_conn_in_drop(c);
    if (c->protocol->dropped)
        c->protocol->dropped(c);
    mr_conn_drop_filters(c);
    mr_conn_move_to(c, MR_CONN_DEAD);
    mr_berth_closed(c);
}

static const struct mr_sock_events sock_events = {
    .connected = on_connected,
    .received = mr_conn_in_received,
    .recv_ended = mr_conn_in_ended,
    .sent = on_sent,
    .closed = on_closed,
};
