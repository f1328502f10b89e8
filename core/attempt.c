/*
 * Making one conn: name, race of connects, filters, protocol. Tied to no waiter: who gave up does not
 * stop it, and its conn serves whoever waits then.
 * Owner thread: the berth's shard.
 */
#include "core/attempt.h"

#include "core/dial.h"
#include "core/pool.h"

#include <errno.h>
#include <string.h>

/* By its address: the one end of a dial that is not counted as a failure. */
static const char NEEDLESS[] = "another host's connection serves it";

struct mr_attempt {
    struct mr_lookup lookup;
    struct mr_deferred failed; /* failed before it had anything to wait for */
    struct mr_timer deadline;  /* while the conn is secured and prepared */
    struct mr_berth *berth;
    struct mr_conn *conn;
    struct mr_dial *dial; /* NULL while the name is looked up */
    int64_t begun_ns, deadline_ns;
    moor_fault fault;
    bool is_abandoned;
};

static void resolved(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs, const char *what);
static void dialed(void *ctx, const struct mr_dial_result *r);
static void run_failed(struct mr_deferred *d);
static void count_failure(struct mr_berth *b, const moor_fault *fault);
static void fire_deadline(struct mr_timer *t, int64_t now_ns);

static struct mr_loop *loop_of(struct mr_attempt *a)
{
    return &a->berth->shard->mine.loop;
}

static void dial(struct mr_attempt *a, struct mr_addrs *addrs)
{
    struct mr_upstream *u = a->berth->upstream;
    const struct mr_dial_args args = {
        .addrs = addrs,
        .port = u->port,
        .first_family = atomic_load_explicit(&u->family, memory_order_relaxed),
        .start_index = (uint32_t)mr_loop_random(loop_of(a)),
        .deadline_ns = a->deadline_ns,
        .stagger_ns = u->pool->options.happy_eyeballs_delay_ms * MR_NS_PER_MS,
        .options = &u->pool->sock_options,
        .done = dialed,
        .ctx = a,
    };
    const moor_err e = mr_dial_start(loop_of(a), &args, &a->dial);
    if (e) {
        a->fault = (moor_fault){.err = e, .what = "start a dial"};
        mr_loop_defer(loop_of(a), &a->failed);
    }
}

static void find_addresses(struct mr_attempt *a)
{
    struct mr_upstream *u = a->berth->upstream;
    if (u->host) {
        a->lookup.host = u->host;
        a->lookup.deadline_ns = a->deadline_ns;
        a->lookup.done = resolved;
        mr_resolver_lookup(a->berth->shard->mine.resolver, &a->lookup);
        return;
    }
    struct mr_addr path;
    struct mr_addrs *addrs = NULL;
    if (!mr_addr_from_path(u->path, strlen(u->path), &path))
        addrs = mr_addrs_create(&a->berth->shard->runtime->heap, &path, 1, MR_NEVER);
    if (!addrs) {
        a->fault = (moor_fault){.err = MOOR_ENOMEM, .what = "start a dial"};
        mr_loop_defer(loop_of(a), &a->failed);
        return;
    }
    dial(a, addrs);
    mr_addrs_unref(addrs);
}

int mr_attempt_begin(struct mr_berth *b)
{
    struct moor_shard *s = b->shard;
    struct mr_upstream *u = b->upstream;
    const enum mr_gate_verdict verdict = mr_pool_gate_enter(u, mr_shard_now(s));
    if (verdict != MR_GATE_GO)
        return verdict;
    b->dialing++;
    MR_STAT_ADD(b->local, dials, 1);
    struct mr_conn *c = mr_conn_create(s, b, u->pool->protocol);
    struct mr_attempt *a = c ? mr_heap_zalloc(&s->mine.heap, sizeof *a) : NULL;
    if (!a) {
        if (c)
            mr_conn_destroy(c);
        count_failure(b, &(moor_fault){.err = MOOR_ENOMEM, .what = "make a connection"});
        return MR_GATE_GO;
    }
    mr_pool_hold(b->local);
    c->generation = atomic_load_explicit(&u->pool->generation, memory_order_relaxed);
    c->attempt = a;
    mr_conn_move_to(c, MR_CONN_CONNECTING);
    mr_list_push_front(&b->busy, &c->link);
    a->berth = b;
    a->conn = c;
    a->failed.run = run_failed;
    a->begun_ns = mr_shard_now(s);
    a->deadline_ns = mr_deadline(a->begun_ns, MR_OPTION(u->pool->options.connect_timeout_ms));
    find_addresses(a);
    return MR_GATE_GO;
}

/* No descriptor came of it. */
static void lose(struct mr_attempt *a, const moor_fault *fault)
{
    struct mr_berth *b = a->berth;
    struct mr_conn *c = a->conn;
    count_failure(b, fault);
    mr_conn_destroy(c);
    mr_heap_free(&b->shard->mine.heap, a, sizeof *a);
    mr_pool_unhold(b->local);
}

static void run_failed(struct mr_deferred *d)
{
    struct mr_attempt *a = MR_CONTAINER_OF(d, struct mr_attempt, failed);
    const moor_fault fault = a->fault;
    lose(a, &fault);
}

static void resolved(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs, const char *what)
{
    struct mr_attempt *a = MR_CONTAINER_OF(req, struct mr_attempt, lookup);
    struct moor_pool *p = a->berth->upstream->pool;
    if (err) {
        lose(a, &(moor_fault){.err = err, .what = what});
        return;
    }
    if (p->meets && p->meets(a->berth, addrs)) {
        lose(a, &(moor_fault){.err = MOOR_ECANCELED, .what = NEEDLESS});
        return;
    }
    dial(a, addrs);
}

static void dialed(void *ctx, const struct mr_dial_result *r)
{
    struct mr_attempt *a = ctx;
    struct mr_berth *b = a->berth;
    struct mr_conn *c = a->conn;
    if (r->err) {
        lose(a, &(moor_fault){.err = r->err, .os_errno = r->os_errno, .what = r->what});
        return;
    }
    atomic_store_explicit(&b->upstream->family, r->family, memory_order_relaxed);
    a->dial = NULL;
    a->deadline.fire = fire_deadline;
    mr_loop_timer(loop_of(a), &a->deadline, a->deadline_ns);
    c->expires_ns =
        mr_pool_draw_expiry(b->upstream->pool, mr_shard_now(b->shard), mr_loop_random(loop_of(a)));
    mr_conn_connected(c, r->fd);
    moor_fault fault = {.err = MOOR_OK, .what = "the dial was abandoned"};
    if (a->is_abandoned) {
        fault.err = MOOR_ECANCELED;
    } else if (b->upstream->pool->secure) {
        fault.err = b->upstream->pool->secure(b->upstream, c);
        fault.what = "secure the connection";
    }
    if (fault.err)
        mr_conn_fail(c, &fault);
    else
        mr_conn_secure(c);
}

/* The connect timeout covers handshakes too: a peer that accepts and says nothing is no better. */
static void fire_deadline(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct mr_attempt *a = MR_CONTAINER_OF(t, struct mr_attempt, deadline);
    const bool is_securing = mr_conn_state(a->conn) == MR_CONN_SECURING;
    mr_conn_fail(a->conn, &(moor_fault){.err = MOOR_ETIMEDOUT,
                                        .what = is_securing ? "secure the connection"
                                                            : "prepare connection"});
}

/* The conn is on its own from here. */
static void end(struct mr_conn *c)
{
    struct mr_attempt *a = c->attempt;
    c->attempt = NULL;
    mr_loop_untimer(loop_of(a), &a->deadline);
    mr_heap_free(&c->slot.shard->mine.heap, a, sizeof *a);
}

void mr_attempt_abandon(struct mr_attempt *a)
{
    if (a->is_abandoned)
        return;
    a->is_abandoned = true;
    if (a->dial) {
        mr_dial_cancel(a->dial);
        return;
    }
    mr_lookup_cancel(&a->lookup);
    a->fault = (moor_fault){.err = MOOR_ECANCELED, .what = "the dial was abandoned"};
    mr_loop_defer(loop_of(a), &a->failed);
}

void mr_attempt_succeeded(struct mr_conn *c)
{
    struct mr_berth *b = c->berth;
    end(c);
    b->dialing--;
    MR_STAT_ADD(b->local, dials, -1);
    MR_STAT_ADD(b->local, conns_open, 1);
    MR_STAT_ADD(b->local, conns_created, 1);
    mr_histogram_record(&b->local->histograms[MOOR_HISTOGRAM_CONNECT],
                        mr_shard_now(b->shard) - c->born_ns);
    const bool had_failed = mr_pool_gate_dialed(b->upstream);
    mr_pool_event(b->upstream->pool, b->upstream, MOOR_EVENT_CONN_OPENED, NULL);
    if (had_failed)
        mr_pool_event(b->upstream->pool, b->upstream, MOOR_EVENT_UPSTREAM_UP, NULL);
    mr_berth_kick_waiting(b->upstream);
    mr_berth_feed_later(b);
}

void mr_attempt_lost(struct mr_conn *c, const moor_fault *fault)
{
    end(c);
    count_failure(c->berth, fault);
}

static void count_failure(struct mr_berth *b, const moor_fault *fault)
{
    struct moor_shard *s = b->shard;
    const bool is_ours =
        fault->err == MOOR_ENOMEM || fault->err == MOOR_ENOFILES || fault->err == MOOR_ECANCELED;
    b->dialing--;
    MR_STAT_ADD(b->local, dials, -1);
    if (fault->what != NEEDLESS)
        MR_STAT_ADD(b->local, dials_failed, 1);
    const bool is_first = mr_pool_gate_failed(b->upstream, fault, is_ours, mr_shard_now(s),
                                              mr_loop_random(&s->mine.loop));
    if (fault->err != MOOR_ECANCELED) {
        mr_pool_log_dial_failed(b->upstream, fault);
        mr_pool_event(b->upstream->pool, b->upstream, MOOR_EVENT_DIAL_FAILED, fault);
    }
    if (is_first)
        mr_pool_event(b->upstream->pool, b->upstream, MOOR_EVENT_UPSTREAM_DOWN, fault);
    mr_berth_kick_waiting(b->upstream);
    mr_berth_feed_later(b);
}
