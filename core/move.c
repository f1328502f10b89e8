/*
 * Conns that change shards, as one message there and one back. The asker's slot is made before it asks,
 * so that an answer always has a place to go.
 * Each function runs on the shard its berth belongs to.
 */
#include "core/move.h"

#include "core/pool.h"

#include <string.h>

/* Others' waiters go first only if they are older by this: a hop costs both shards a wake. */
#define DONATE_LEAD_NS MR_NS_PER_MS

/* Where memory was short. */
#define RETRY_NS (10 * MR_NS_PER_MS)

static void asked(struct mr_message *m);
static void answered(struct mr_message *m);
static void given(struct mr_message *m);
static void acknowledged(struct mr_message *m);

static struct mr_move *move_of(struct mr_message *m)
{
    return MR_CONTAINER_OF(m, struct mr_move, message);
}

static struct mr_heap *heap_of(struct mr_berth *b)
{
    return &b->shard->runtime->heap;
}

static void free_move(struct mr_berth *b, struct mr_move *m)
{
    mr_heap_free(heap_of(b), m, sizeof *m);
}

/* ---- asking: on `to` ---- */

static struct mr_berth *somebody_with_idle(struct mr_berth *b, uint32_t keep)
{
    const uint32_t count =
        atomic_load_explicit(&b->shard->runtime->shard_count, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t at = (b->next_other + i) % count;
        struct mr_berth *o = atomic_load_explicit(&b->upstream->berths[at], memory_order_acquire);
        if (o && o != b && atomic_load(&o->idle_seen) > keep) {
            b->next_other = at + 1;
            return o;
        }
    }
    return NULL;
}

bool mr_move_ask(struct mr_berth *b, bool is_needed)
{
    const uint32_t keep = is_needed ? 0 : MR_OPTION(b->upstream->pool->options.steal_keep);
    struct mr_berth *from = somebody_with_idle(b, keep);
    if (!from || b->moving_in >= MR_MOVES_MAX)
        return false;
    struct mr_move *m = mr_heap_zalloc(heap_of(b), sizeof *m);
    struct mr_conn *c = m ? mr_conn_create(b->shard, b, b->upstream->pool->protocol) : NULL;
    if (!c) { /* there is one to be had, and at the cap nobody will say so again */
        mr_heap_free(heap_of(b), m, sizeof *m);
        mr_berth_retry_by(b, mr_shard_now(b->shard) + RETRY_NS);
        return false;
    }
    m->message.run = asked;
    m->from = from;
    m->to = b;
    m->conn = c;
    m->fd = -1;
    m->is_needed = is_needed;
    if (!mr_shard_post(from->shard, &m->message)) {
        mr_conn_destroy(c);
        free_move(b, m);
        return false;
    }
    mr_pool_hold(b->local);
    mr_list_push_back(&b->busy, &c->link);
    mr_list_push_back(&b->moves, &m->link);
    m->asked_ns = mr_shard_now(b->shard);
    b->asking++;
    b->moving_in++;
    mr_berth_retry_by(b, m->asked_ns + MR_MOVE_PATIENCE_NS);
    return true;
}

void mr_move_note_late(struct mr_berth *b)
{
    for (struct mr_list *l = b->moves.next; l != &b->moves; l = l->next) {
        struct mr_move *m = MR_CONTAINER_OF(l, struct mr_move, link);
        if (m->is_late || mr_shard_now(b->shard) - m->asked_ns < MR_MOVE_PATIENCE_NS)
            continue;
        m->is_late = true;
        b->asking--;
    }
}

/* ---- answering: on `from` ---- */

static void reply(struct mr_move *m)
{
    m->leaving = NULL;
    m->message.run = answered;
    const bool is_there = mr_shard_post(m->to->shard, &m->message);
    MR_ASSERT(is_there && "a shard with a question under way does not leave");
}

/* Its read is stopped first; mr_berth_unhook goes on when nothing can come any more. */
static void begin_leaving(struct mr_move *m, struct mr_conn *c)
{
    m->leaving = c;
    c->claim = m;
    mr_conn_move_to(c, MR_CONN_MOVING);
    if (c->sock.is_receiving)
        mr_io_recv_stop(m->from->shard->mine.loop.io, &c->sock);
    else
        mr_berth_unhook(c);
}

/* Multiplexed ones stay where they are. If a filter has something to say on it, it will be said in a moment. */
static struct mr_conn *oldest_that_may_move(struct mr_berth *b)
{
    for (struct mr_list *l = b->idle.prev; l != &b->idle; l = l->prev) {
        struct mr_conn *c = MR_CONTAINER_OF(l, struct mr_conn, link);
        if (!c->protocol->is_multiplexed)
            return mr_conn_may_move(c) ? c : NULL;
    }
    return NULL;
}

static void asked(struct mr_message *message)
{
    struct mr_move *m = move_of(message);
    struct mr_berth *b = m->from;
    const uint32_t keep = m->is_needed ? 0 : MR_OPTION(b->upstream->pool->options.steal_keep);
    struct mr_conn *c =
        b->movable_count > keep && mr_list_is_empty(&b->waiters) ? oldest_that_may_move(b) : NULL;
    if (!c) {
        reply(m);
        return;
    }
    mr_berth_unlist(c);
    begin_leaving(m, c);
}

/* Everything the conn is goes into the message; the slot ends here. */
static void pack(struct mr_move *m, struct mr_conn *c)
{
    m->fd = mr_io_detach(c->slot.shard->mine.loop.io, &c->sock);
    m->born_ns = c->born_ns;
    m->expires_ns = c->expires_ns;
    m->uses = c->uses;
    m->generation = c->generation;
    m->top = c->top;
    m->bottom = c->bottom;
    m->protocol = c->protocol;
    m->state = c->state;
    c->top = c->bottom = NULL;
    c->state = NULL;
}

void mr_berth_unhook(struct mr_conn *c)
{
    struct mr_move *m = c->claim;
    struct mr_berth *b = c->berth;
    c->claim = NULL;
    pack(m, c);
    MR_STAT_ADD(b->local, conns_open, -1);
    mr_conn_destroy(c);
    if (m->is_donation) {
        m->leaving = NULL;
        m->message.run = given;
        if (!mr_shard_post(m->to->shard, &m->message))
            given(&m->message);
        return; /* `live` is counted until the acknowledgement */
    }
    reply(m);
    mr_pool_unhold(b->local);
}

void mr_move_failed(struct mr_conn *c)
{
    struct mr_move *m = c->claim;
    c->claim = NULL;
    if (m->is_donation) {
        atomic_fetch_sub(&m->to->donated, 1);
        mr_berth_kick(m->to);
        free_move(m->from, m);
    } else {
        reply(m);
    }
}

/* ---- arriving: on `to` ---- */

static void unpack(struct mr_move *m, struct mr_conn *c)
{
    struct mr_berth *b = c->berth;
    c->born_ns = m->born_ns;
    c->expires_ns = m->expires_ns;
    c->uses = m->uses;
    c->generation = m->generation;
    c->top = m->top;
    c->bottom = m->bottom;
    c->protocol = m->protocol;
    c->state = m->state;
    m->top = m->bottom = NULL;
    c->is_ready = c->is_settled = true;
    MR_STAT_ADD(b->local, conns_open, 1);
    MR_STAT_ADD(b->local, conns_moved, 1);
    mr_conn_arrived(c, m->fd);
}

static void answered(struct mr_message *message)
{
    struct mr_move *m = move_of(message);
    struct mr_berth *b = m->to;
    struct mr_conn *c = m->conn;
    mr_list_remove(&m->link);
    b->moving_in--;
    if (!m->is_late)
        b->asking--;
    if (m->fd >= 0) {
        unpack(m, c);
    } else {
        mr_conn_destroy(c);
        mr_pool_unhold(b->local);
        mr_berth_feed_later(b);
    }
    free_move(b, m);
}

/* ---- giving ---- */

bool mr_move_donate(struct mr_berth *b, struct mr_conn *c)
{
    const uint32_t count =
        atomic_load_explicit(&b->shard->runtime->shard_count, memory_order_relaxed);
    if (count == 1 || c->protocol->is_multiplexed || !mr_conn_may_move(c))
        return false;
    struct mr_list *first = mr_list_first(&b->waiters);
    if (!mr_list_is_empty(&b->fresh) && c->uses == 0)
        return false;
    int64_t oldest =
        first ? MR_CONTAINER_OF(first, struct mr_claim, link)->since_ns - DONATE_LEAD_NS : MR_NEVER;
    struct mr_berth *to = NULL;
    for (uint32_t i = 0; i < count; i++) {
        struct mr_berth *o = atomic_load_explicit(&b->upstream->berths[i], memory_order_acquire);
        if (!o || o == b)
            continue;
        const int64_t since = atomic_load_explicit(&o->waiting_since, memory_order_relaxed);
        if (since < oldest && atomic_load_explicit(&o->waiters_seen, memory_order_relaxed) >
                                  atomic_load_explicit(&o->donated, memory_order_relaxed)) {
            oldest = since;
            to = o;
        }
    }
    struct mr_move *m = to ? mr_heap_zalloc(heap_of(b), sizeof *m) : NULL;
    if (!m) {
        if (to)
            mr_berth_kick(to); /* it may have the memory to ask */
        return false;
    }
    mr_berth_unlist(c);
    atomic_fetch_add(&to->donated, 1);
    m->from = b;
    m->to = to;
    m->is_donation = true;
    begin_leaving(m, c);
    return true;
}

static void spare_closed(struct mr_sock *s)
{
    struct mr_move *m = MR_CONTAINER_OF(s, struct mr_move, spare);
    struct mr_berth *b = m->from;
    /* Not before: until it is closed the peer counts it too. */
    mr_pool_conn_left(b->upstream);
    MR_STAT_ADD(b->local, conns_closed, 1);
    mr_berth_kick_waiting(b->upstream);
    mr_berth_feed_later(b);
    acknowledged(&m->message);
}

static const struct mr_sock_events spare_events = {.closed = spare_closed};

/* On `to`; on `from` if nobody drives `to` any more. A `to` that drains, and may have reported
 * already that nothing is left there, or has no memory sends the descriptor back: then the conn
 * ends on `from`. */
static void given(struct mr_message *message)
{
    struct mr_move *m = move_of(message);
    struct mr_berth *b = m->to;
    const bool is_here = moor_shard_self() == b->shard;
    struct mr_conn *c = is_here && mr_pool_takes_work(b->local)
                            ? mr_conn_create(b->shard, b, b->upstream->pool->protocol)
                            : NULL;
    if (c) {
        atomic_fetch_sub(&b->donated, 1);
        mr_pool_hold(b->local);
        mr_list_push_back(&b->busy, &c->link);
        unpack(m, c);
        m->fd = -1;
    }
    m->message.run = acknowledged;
    if (!is_here) {
        atomic_fetch_sub(&b->donated, 1);
        acknowledged(&m->message);
    } else {
        if (!c)
            atomic_fetch_sub(&b->donated, 1);
        const bool is_there = mr_shard_post(m->from->shard, &m->message);
        MR_ASSERT(is_there && "a shard waiting for an acknowledgement does not leave");
    }
}

/* The conn ends without a slot: what it carried is let go as at any conn's end. */
static void drop_cargo(struct mr_move *m)
{
    struct mr_conn husk = {
        .slot.shard = m->from->shard, .protocol = m->protocol, .state = m->state, .top = m->top};
    if (husk.protocol->dropped)
        husk.protocol->dropped(&husk);
    mr_conn_drop_filters(&husk);
}

/* On `from`, again. A descriptor that comes back found no memory over there. */
static void acknowledged(struct mr_message *message)
{
    struct mr_move *m = move_of(message);
    struct mr_berth *b = m->from;
    if (m->fd >= 0) {
        struct mr_io *io = b->shard->mine.loop.io;
        m->spare = (struct mr_sock){.events = &spare_events, .fd = -1};
        mr_io_attach(io, &m->spare, m->fd);
        m->fd = -1;
        drop_cargo(m);
        mr_io_close(io, &m->spare);
        return;
    }
    free_move(b, m);
    mr_pool_unhold(b->local);
}
