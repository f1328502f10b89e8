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
    uint32_t refs;        /* the conn, the lease it serves, a provider at work */
    struct mr_conn *conn; /* NULL: gone */
    bool is_claiming;     /* the conn is claimed for a check or reset */
    moor_target target;   /* while it is prepared */
    moor_credentials *asked;
    moor_err provided;
    struct moor_shard *shard; /* where a provider's answer goes */
    struct mr_pool_shard *local;
    struct mr_helper_job job;
    struct mr_message answer;
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

static void wipe(struct stream_link *s)
{
    s->target = (moor_target){0};
    if (!s->asked)
        return;
    explicit_bzero(s->asked, sizeof *s->asked);
    mr_heap_free(&s->link.pool->runtime->heap, s->asked, sizeof *s->asked);
    s->asked = NULL;
}

static void unref(struct stream_link *s)
{
    if (--s->refs)
        return;
    struct moor_runtime *r = s->link.pool->runtime;
    wipe(s);
    if (s->link.driver->drop)
        s->link.driver->drop(&s->link);
    mr_route_unref(r, s->link.route);
    mr_heap_free(&r->heap, s, sizeof *s);
}

void mr_driver_stream_over(moor_link *l, moor_task_kind task, bool is_well)
{
    struct stream_link *s = around(l);
    struct mr_conn *c = s->conn;
    if (task == MOOR_TASK_PREPARE) {
        wipe(s);
        if (is_well) {
            mr_conn_set_capacity(c, 1);
            return;
        }
        mr_pool_note_connect_text(c->berth->upstream, l->text);
        mr_conn_fail(c, &l->fault);
        return;
    }
    MR_ASSERT(s->is_claiming);
    s->is_claiming = false;
    c->claim = NULL;
    mr_berth_release(c, is_well);
}

/* ---- credentials ---- */

static void ask_provider(struct mr_helper_job *job)
{
    struct stream_link *s = MR_CONTAINER_OF(job, struct stream_link, job);
    const moor_pool_hooks *hooks = &s->link.pool->options.hooks;
    s->provided = hooks->credentials(hooks->credentials_user, s->asked);
}

static void post_answer(struct mr_helper_job *job)
{
    struct stream_link *s = MR_CONTAINER_OF(job, struct stream_link, job);
    const bool is_there = mr_shard_post(s->shard, &s->answer);
    MR_ASSERT(is_there && "a shard waits for what it asked for");
}

static void prepare(struct stream_link *s)
{
    /* The attempt's deadline is the one that counts: it covers the whole dial. */
    mr_link_begin(&s->link, MOOR_TASK_PREPARE, MR_NEVER);
}

static void run_answer(struct mr_message *m)
{
    struct stream_link *s = MR_CONTAINER_OF(m, struct stream_link, answer);
    struct mr_pool_shard *local = s->local;
    struct mr_conn *c = s->conn;
    if (c && mr_conn_state(c) == MR_CONN_PREPARING) {
        if (s->provided || !memchr(s->asked->user, 0, sizeof s->asked->user) ||
            !memchr(s->asked->password, 0, sizeof s->asked->password)) {
            mr_conn_fail(c, &(moor_fault){.err = s->provided ? s->provided : MOOR_EINVAL,
                                          .what = "get credentials from their provider"});
        } else {
            const int64_t ends = mr_deadline(c->born_ns, s->asked->lifetime_ms);
            c->expires_ns = ends < c->expires_ns ? ends : c->expires_ns;
            if (s->asked->user[0])
                s->target.user = s->asked->user;
            s->target.password = s->asked->password;
            prepare(s);
        }
    }
    unref(s);
    mr_pool_unhold(local);
}

static moor_err ask(struct stream_link *s)
{
    struct moor_runtime *r = s->link.pool->runtime;
    s->asked = mr_heap_zalloc(&r->heap, sizeof *s->asked);
    MR_FAIL_IF(!s->asked, MOOR_ENOMEM);
    s->asked->size = sizeof *s->asked;
    s->asked->lifetime_ms = MOOR_FOREVER;
    s->job.run = ask_provider;
    s->job.done = post_answer;
    s->answer.run = run_answer;
    s->shard = s->conn->slot.shard;
    s->local = s->conn->berth->local;
    s->refs++;
    mr_pool_hold(s->local);
    const moor_err e = mr_helpers_submit(r, &s->job);
    if (e) {
        s->refs--;
        mr_pool_unhold(s->local);
    }
    return e;
}

/* ---- the protocol ---- */

/* While a lease has not got it, the driver has: until mr_driver_stream_over. */
static void claim(struct stream_link *s, moor_task_kind task)
{
    struct mr_conn *c = s->conn;
    s->is_claiming = true;
    c->claim = s;
    mr_link_begin(&s->link, task,
                  mr_deadline(mr_shard_now(c->slot.shard),
                              MR_OPTION(s->link.pool->options.connect_timeout_ms)));
}

static void check(struct mr_conn *c)
{
    claim(of(c), MOOR_TASK_CHECK);
}

static moor_err opened(struct mr_conn *c)
{
    struct mr_upstream *u = c->berth->upstream;
    struct moor_pool *p = u->pool;
    struct mr_route *route = ((struct mr_driver_wiring *)p->wiring)->route;
    struct stream_link *s = mr_heap_zalloc(&p->runtime->heap, sizeof *s);
    MR_FAIL_IF(!s, MOOR_ENOMEM);
    s->refs = 1;
    s->conn = c;
    s->link.pool = p;
    s->link.driver = route->driver;
    s->link.route = route;
    s->link.generation = c->generation;
    atomic_fetch_add(&route->refs, 1);
    s->target = (moor_target){
        .size = sizeof s->target,
        .host = mr_upstream_text(u),
        .address = "",
        .path = u->path ? u->path : "",
        .port = u->port,
        .fd = -1,
        .user = route->user,
        .password = route->password,
        .timeout_ms = MR_OPTION(p->options.connect_timeout_ms),
    };
    c->state = s;
    mr_link_set(&s->link, MR_LINK_KEPT);
    if (p->options.hooks.credentials)
        return ask(s);
    prepare(s);
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
    if (s->is_claiming && mr_link_halt(&s->link)) {
        s->is_claiming = false;
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
    (void)mr_link_halt(&s->link);
    c->state = NULL;
    s->conn = NULL;
    unref(s);
}

const struct mr_protocol mr_driver_stream_protocol = {
    .name = "driver",
    .is_stream = true,
    .capacity_expected = 1,
    .open = opened,
    .input = input,
    .ended = ended,
    .check = check,
    .dropped = dropped,
};

/* ---- leases ---- */

moor_link *mr_driver_stream_ref(struct mr_conn *c)
{
    struct stream_link *s = c->protocol == &mr_driver_stream_protocol ? of(c) : NULL;
    if (!s)
        return NULL;
    s->refs++;
    return &s->link;
}

void mr_driver_stream_unref(moor_link *l)
{
    if (l)
        unref(around(l));
}

moor_link *mr_driver_stream_link(moor_lease lease)
{
    struct moor_slot_ *slot = lease.slot_;
    if (!slot || !slot->shard || mr_runtime_is_forked(slot->shard->runtime) ||
        !mr_op_is_current(slot, lease.generation_))
        return NULL;
    return ((struct mr_lease *)(void *)slot)->link;
}

const moor_target *mr_driver_stream_target(const moor_link *l)
{
    const struct stream_link *s = around((moor_link *)(uintptr_t)l);
    return s->target.size ? &s->target : NULL;
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
        mr_pool_flush_of(s->link.pool, s->link.generation, "the driver saw it in what came back");
    if (v == MOOR_VERDICT_KEEP)
        return true;
    if (v != MOOR_VERDICT_RESET || !d->reset || !mr_conn_is_clean(c)) {
        atomic_store(&s->link.is_worn, 1);
        return true;
    }
    claim(s, MOOR_TASK_RESET);
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
    MR_FAIL_IF(!around(l)->conn, MOOR_ERESET);
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
