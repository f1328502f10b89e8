/*
 * Stream drivers: while a task of the driver's is under way the conn's bytes are its, otherwise the lease's.
 * Owner thread: the conn's shard. A link of this kind has a conn and no rack.
 */
#include "core/driver_stream.h"

#include "core/lease.h"
#include "core/rack.h"
#include "core/stream.h"

#include <string.h>

struct stream_link {
    moor_link link;
    struct mr_conn *conn;
    bool is_resetting; /* the conn is claimed by the driver */
};

/* A copy of what a hook sends. */
struct sent_bytes {
    struct mr_out out;
    struct mr_heap *heap;
    size_t size;
    uint8_t bytes[];
};

/* A conn that moved to another shard is another struct: the link follows when it is next used. */
static struct stream_link *of(struct mr_conn *c)
{
    struct stream_link *s = c->state;
    if (s)
        s->conn = c;
    return s;
}

static struct stream_link *around(moor_link *l)
{
    return MR_CONTAINER_OF(l, struct stream_link, link);
}

struct mr_loop *mr_driver_stream_loop(const moor_link *l)
{
    return &around((moor_link *)(uintptr_t)l)->conn->slot.shard->mine.loop;
}

void mr_driver_stream_over(moor_link *l, moor_task_kind task, bool is_well)
{
    struct stream_link *s = around(l);
    struct mr_conn *c = s->conn;
    if (task == MOOR_TASK_PREPARE) {
        if (is_well) {
            mr_conn_set_capacity(c, 1);
            return;
        }
        mr_pool_note_connect_text(c->berth->upstream, l->text);
        mr_conn_fail(c, &l->fault);
        return;
    }
    MR_ASSERT(task == MOOR_TASK_RESET && s->is_resetting);
    s->is_resetting = false;
    c->claim = NULL;
    mr_berth_release(c, is_well);
}

/* ---- the protocol ---- */

static moor_err opened(struct mr_conn *c)
{
    struct moor_pool *p = c->berth->upstream->pool;
    struct mr_driver_wiring *w = p->wiring;
    struct stream_link *s = mr_heap_zalloc(&p->runtime->heap, sizeof *s);
    MR_FAIL_IF(!s, MOOR_ENOMEM);
    s->conn = c;
    s->link.pool = p;
    s->link.driver = w->route->driver;
    s->link.route = w->route;
    atomic_fetch_add(&w->route->refs, 1);
    s->link.generation = c->generation;
    c->state = s;
    mr_link_set(&s->link, MR_LINK_KEPT);
    const int64_t left = mr_deadline(mr_shard_now(c->slot.shard), p->options.connect_timeout_ms);
    mr_link_begin(&s->link, MOOR_TASK_PREPARE, left);
    return MOOR_OK;
}

static size_t input(struct mr_conn *c, const struct mr_in *in)
{
    struct stream_link *s = of(c);
    if (s->link.task == MOOR_TASK_NONE)
        return mr_stream_protocol.input(c, in);
    mr_link_input(&s->link, (moor_span){in->base, in->len});
    return in->len;
}

static void ended(struct mr_conn *c, const moor_fault *fault)
{
    struct stream_link *s = of(c);
    if (s->link.task == MOOR_TASK_NONE) {
        mr_stream_protocol.ended(c, fault);
        return;
    }
    if (s->is_resetting && mr_link_halt(&s->link)) {
        s->is_resetting = false;
        c->claim = NULL;
        mr_berth_release(c, false);
    } else if (!fault->err) {
        (void)moor_link_fail(&s->link, MOOR_ERESET, 0, "the peer ended the connection");
        mr_link_fail_task(&s->link);
    }
}

static void dropped(struct mr_conn *c)
{
    struct stream_link *s = of(c);
    if (!s)
        return;
    struct moor_runtime *r = s->link.pool->runtime;
    c->state = NULL;
    (void)mr_link_halt(&s->link);
    if (s->link.driver->drop)
        s->link.driver->drop(&s->link);
    mr_route_unref(r, s->link.route);
    mr_heap_free(&r->heap, s, sizeof *s);
}

const struct mr_protocol mr_driver_stream_protocol = {
    .name = "driver",
    .is_stream = true,
    .capacity_expected = 1,
    .open = opened,
    .input = input,
    .ended = ended,
    .dropped = dropped,
};

/* ---- leases ---- */

moor_link *mr_driver_stream_link(moor_lease lease)
{
    struct mr_lease *l;
    if (!lease.slot_ || !lease.slot_->shard || mr_lease_find(lease, &l) || !l->conn ||
        l->conn->protocol != &mr_driver_stream_protocol)
        return NULL;
    return &of(l->conn)->link;
}

bool mr_driver_stream_returns(struct mr_conn *c, moor_release_how how)
{
    struct stream_link *s = of(c);
    const moor_driver *d = s->link.driver;
    if (how == MOOR_DISCARD || atomic_load(&s->link.is_worn))
        return true;
    if (s->link.is_marked)
        how = MOOR_DIRTY;
    s->link.is_marked = false;
    moor_verdict v = d->returned         ? d->returned(&s->link, how)
                     : how == MOOR_DIRTY ? MOOR_VERDICT_RESET
                                         : MOOR_VERDICT_KEEP;
    if (v == MOOR_VERDICT_FLUSH)
        mr_pool_flush_because(s->link.pool, "the driver saw it in what came back");
    if (v == MOOR_VERDICT_KEEP)
        return true;
    if (v != MOOR_VERDICT_RESET || !d->reset || !mr_conn_is_clean(c)) {
        atomic_store(&s->link.is_worn, 1);
        return true;
    }
    s->is_resetting = true;
    c->claim = s;
    mr_link_begin(
        &s->link, MOOR_TASK_RESET,
        mr_deadline(mr_shard_now(c->slot.shard), s->link.pool->options.connect_timeout_ms));
    return false;
}

bool mr_driver_stream_is_worn(const struct mr_conn *c)
{
    struct stream_link *s = c->state;
    return s && atomic_load_explicit(&s->link.is_worn, memory_order_relaxed);
}

/* ---- what hooks call ---- */

static void copied_sent(struct mr_out *o, int err)
{
    (void)err;
    struct sent_bytes *b = MR_CONTAINER_OF(o, struct sent_bytes, out);
    explicit_bzero(b->bytes, b->size); /* it may be a password */
    mr_heap_free(b->heap, b, sizeof *b + b->size);
}

moor_err moor_link_send(moor_link *l, moor_span bytes)
{
    MR_FAIL_IF(!l || l->rack || (bytes.len && !bytes.base), MOOR_EINVAL);
    if (!bytes.len)
        return MOOR_OK;
    struct mr_heap *h = &l->pool->runtime->heap;
    struct sent_bytes *b = mr_heap_alloc(h, sizeof *b + bytes.len);
    MR_FAIL_IF(!b, MOOR_ENOMEM);
    b->heap = h;
    b->size = bytes.len;
    memcpy(b->bytes, bytes.base, bytes.len);
    b->out = (struct mr_out){.base = b->bytes, .len = bytes.len, .sent = copied_sent};
    const moor_err e = mr_conn_write(around(l)->conn, &b->out);
    if (e)
        copied_sent(&b->out, 0);
    return e;
}
