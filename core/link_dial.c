/*
 * Making one link: credentials, name, each address in turn, the driver's connect and prepare. Tied to no
 * waiter. Counted in the gate from the verdict until it is ready or lost.
 * The keeper's thread; the provider of credentials runs on a helper.
 */
#include "core/addrs.h"
#include "core/dial.h"
#include "core/driver_stream.h"
#include "core/keeper.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Addresses one dial tries, one after the other: a library that dials itself cannot race them. */
#define TRIES_MAX 16

enum stage { ASKING, LOOKING, RACING, STEPPING, LOST };

struct mr_link_dial {
    struct moor_link *link; /* NULL: given up, only the race has to end */
    enum stage stage;
    bool is_abandoned, is_preparing;
    struct mr_lookup lookup;
    struct mr_deferred later; /* what must not happen inside the call that began it */
    struct mr_addrs *addrs;   /* NULL for a path */
    uint32_t at, tried;       /* of addrs */
    struct mr_dial *race;
    struct mr_pool_shard *racing; /* held by the race, which ends on its shard */
    int64_t begun_ns, deadline_ns, expires_ns;
    moor_err provided;
    moor_credentials *asked; /* what the provider fills; wiped */
    char address[INET6_ADDRSTRLEN + 16];
    moor_target target;
};

static void lose(struct mr_link_dial *d);
static void find_addresses(struct mr_link_dial *d);
static void connect_next(struct mr_link_dial *d);

static struct mr_rack *rack_of(struct mr_link_dial *d)
{
    return d->link->rack;
}

static struct mr_loop *loop_of(struct mr_link_dial *d)
{
    return mr_keeper_loop(rack_of(d));
}

static struct mr_heap *heap_of(struct mr_link_dial *d)
{
    return &rack_of(d)->pool->runtime->heap;
}

/* ---- the end ---- */

static void fail(struct mr_link_dial *d, moor_err err, int os_errno, const char *what)
{
    d->link->fault =
        (moor_fault){.err = err, .os_errno = os_errno, .safe_to_retry = true, .what = what};
    d->link->text[0] = 0;
}

static void free_dial(struct mr_link_dial *d)
{
    struct moor_link *l = d->link;
    struct mr_heap *h = heap_of(d);
    mr_loop_undefer(&d->later);
    mr_addrs_unref(d->addrs);
    if (d->target.fd >= 0)
        close(d->target.fd);
    if (d->asked) {
        explicit_bzero(d->asked, sizeof *d->asked);
        mr_heap_free(h, d->asked, sizeof *d->asked);
    }
    mr_link_unlist(l);
    l->dial = NULL;
    d->link = NULL;
    if (!d->race)
        mr_heap_free(h, d, sizeof *d);
}

static void lose(struct mr_link_dial *d)
{
    struct moor_link *l = d->link;
    struct mr_rack *k = l->rack;
    struct mr_upstream *u = l->route->upstream;
    if (d->is_abandoned)
        fail(d, MOOR_ECANCELED, 0, "the dial was abandoned");
    const moor_fault fault = l->fault;
    if (fault.err != MOOR_ECANCELED)
        mr_pool_note_connect_text(u, l->text);
    mr_link_drop(l);
    if (mr_timer_is_armed(&l->deadline)) /* a provider that failed in time */
        mr_loop_untimer(loop_of(d), &l->deadline);
    free_dial(d);
    mr_link_give(k->pool->runtime, l);
    mr_keeper_dial_over(k, u, NULL, &fault);
}

static void win(struct mr_link_dial *d)
{
    struct moor_link *l = d->link;
    struct mr_rack *k = l->rack;
    const int64_t now = loop_of(d)->now_ns;
    if (mr_rack_add(k, l)) {
        fail(d, MOOR_ENOMEM, 0, "make a connection");
        lose(d);
        return;
    }
    /* Never beyond the credentials it was made with. */
    l->expires_ns = mr_pool_draw_expiry(k->pool, now, mr_loop_random(loop_of(d)));
    if (d->expires_ns < l->expires_ns)
        l->expires_ns = d->expires_ns;
    atomic_store_explicit(&l->born_ns, now, memory_order_relaxed);
    atomic_store_explicit(&l->alive_ns, now, memory_order_relaxed);
    mr_histogram_record(&k->keeper->local->histograms[MOOR_HISTOGRAM_CONNECT], now - d->begun_ns);
    free_dial(d);
    mr_keeper_dial_over(k, l->route->upstream, l, NULL);
}

static void run_later(struct mr_deferred *q)
{
    struct mr_link_dial *d = MR_CONTAINER_OF(q, struct mr_link_dial, later);
    if (d->stage == LOST)
        lose(d);
    else
        connect_next(d);
}

/* For where lose() would run inside mr_link_dial_begin. */
static void lose_later(struct mr_link_dial *d, moor_err err, int os_errno, const char *what)
{
    fail(d, err, os_errno, what);
    d->stage = LOST;
    mr_loop_defer(loop_of(d), &d->later);
}

/* ---- credentials ---- */

static void ask_provider(moor_link *l)
{
    struct mr_link_dial *d = l->dial;
    const moor_pool_hooks *hooks = &l->route->hooks;
    d->provided = hooks->credentials(hooks->credentials_user, d->asked);
}

static void use_url(struct mr_link_dial *d)
{
    const struct mr_route *route = d->link->route;
    d->target.user = route->user;
    d->target.password = route->password;
}

static bool is_text(const char *text, size_t cap)
{
    return memchr(text, 0, cap) != NULL;
}

static void provided(struct mr_link_dial *d)
{
    moor_credentials *c = d->asked;
    if (d->provided || !is_text(c->user, sizeof c->user) ||
        !is_text(c->password, sizeof c->password)) {
        fail(d, d->provided ? d->provided : MOOR_EINVAL, 0, "get credentials from their provider");
        lose(d);
        return;
    }
    d->expires_ns = mr_deadline(d->begun_ns, c->lifetime_ms);
    if (c->user[0])
        d->target.user = c->user;
    d->target.password = c->password;
    mr_loop_untimer(loop_of(d), &d->link->deadline);
    find_addresses(d);
}

static void ask(struct mr_link_dial *d)
{
    d->stage = ASKING;
    d->asked = mr_heap_zalloc(heap_of(d), sizeof *d->asked);
    if (!d->asked) {
        lose_later(d, MOOR_ENOMEM, 0, "get credentials from their provider");
        return;
    }
    d->asked->size = sizeof *d->asked;
    d->asked->lifetime_ms = MOOR_FOREVER;
    mr_link_set_deadline(d->link, d->deadline_ns);
    if (moor_link_block(d->link, ask_provider) != MOOR_STEP_WAIT)
        lose_later(d, MOOR_ENOMEM, 0, "get credentials from their provider");
}

/* ---- addresses ---- */

static void resolved(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs, const char *what)
{
    struct mr_link_dial *d = MR_CONTAINER_OF(req, struct mr_link_dial, lookup);
    if (err) {
        fail(d, err, 0, what);
        lose(d);
        return;
    }
    d->addrs = mr_addrs_ref(addrs);
    connect_next(d);
}

static void find_addresses(struct mr_link_dial *d)
{
    struct mr_upstream *u = d->link->route->upstream;
    d->stage = LOOKING;
    if (u->path) {
        mr_loop_defer(loop_of(d), &d->later);
        return;
    }
    d->lookup.host = u->host;
    d->lookup.deadline_ns = d->deadline_ns;
    d->lookup.done = resolved;
    mr_resolver_lookup(mr_keeper_shard(rack_of(d))->mine.resolver, &d->lookup);
}

static void print_address(struct mr_link_dial *d, const struct mr_addr *a)
{
    d->address[0] = 0;
    if (a->sa.sa_family == AF_INET)
        (void)inet_ntop(AF_INET, &a->in.sin_addr, d->address, sizeof d->address);
    else if (a->sa.sa_family == AF_INET6)
        (void)inet_ntop(AF_INET6, &a->in6.sin6_addr, d->address, sizeof d->address);
    const size_t len = strlen(d->address);
    if (a->sa.sa_family == AF_INET6 && a->in6.sin6_scope_id)
        snprintf(d->address + len, sizeof d->address - len, "%%%u", a->in6.sin6_scope_id);
}

static void begin_connect(struct mr_link_dial *d)
{
    struct moor_link *l = d->link;
    d->stage = STEPPING;
    const int64_t left =
        d->deadline_ns == MR_NEVER ? MR_NEVER : d->deadline_ns - loop_of(d)->now_ns;
    d->target.timeout_ms = left == MR_NEVER ? MOOR_FOREVER : left > 0 ? left / MR_NS_PER_MS : 0;
    l->has_native = true;
    mr_link_begin(l, MOOR_TASK_CONNECT, d->deadline_ns);
}

/* The pool raced the addresses; the library gets a connected descriptor. */
static void raced(void *ctx, const struct mr_dial_result *r)
{
    struct mr_link_dial *d = ctx;
    struct mr_pool_shard *local = d->racing;
    d->race = NULL;
    if (!d->link) {
        if (r->fd >= 0)
            close(r->fd);
        mr_heap_free(&local->pool->runtime->heap, d, sizeof *d);
        mr_pool_unhold(local);
        return;
    }
    mr_pool_unhold(local);
    if (r->err) {
        fail(d, r->err, r->os_errno, r->what);
        lose(d);
        return;
    }
    d->target.fd = r->fd;
    struct mr_upstream *u = d->link->route->upstream;
    atomic_store_explicit(&u->family, r->family, memory_order_relaxed);
    d->tried = TRIES_MAX; /* of each the race knows already */
    if (!u->path)
        print_address(d, &d->addrs->list[r->index]);
    begin_connect(d);
}

static void race(struct mr_link_dial *d)
{
    struct mr_upstream *u = d->link->route->upstream;
    struct mr_addr path;
    if (u->path && !mr_addr_from_path(u->path, strlen(u->path), &path))
        d->addrs = mr_addrs_create(heap_of(d), &path, 1, MR_NEVER);
    const struct mr_dial_args args = {
        .addrs = d->addrs,
        .port = u->port,
        .first_family = atomic_load_explicit(&u->family, memory_order_relaxed),
        .deadline_ns = d->deadline_ns,
        .stagger_ns = u->pool->options.happy_eyeballs_delay_ms * MR_NS_PER_MS,
        .options = &u->pool->sock_options,
        .done = raced,
        .ctx = d,
    };
    d->stage = RACING;
    struct mr_keeper *b = rack_of(d)->keeper;
    d->racing = b->local;
    const moor_err e = d->addrs && b->local != &b->spare
                           ? mr_dial_start(loop_of(d), &args, &d->race)
                           : MOOR_ENOMEM;
    if (e)
        lose_later(d, e, 0, "start a dial");
    else
        mr_pool_hold(d->racing);
}

static void connect_next(struct mr_link_dial *d)
{
    struct moor_link *l = d->link;
    if (l->driver->flags & MOOR_DRIVER_FD) {
        race(d);
        return;
    }
    if (d->addrs)
        print_address(d, &d->addrs->list[d->at++ % d->addrs->count]);
    d->tried++;
    begin_connect(d);
}

/* ---- steps ---- */

static bool goes_on(const struct mr_link_dial *d)
{
    const moor_err e = d->link->fault.err;
    return !d->is_preparing && e != MOOR_EAUTH && e != MOOR_ETIMEDOUT && d->addrs &&
           d->tried < d->addrs->count && d->tried < TRIES_MAX;
}

void mr_link_dial_task_over(struct moor_link *l, bool is_well)
{
    struct mr_link_dial *d = l->dial;
    if (d->is_abandoned) {
        lose(d);
    } else if (d->stage == ASKING && is_well) {
        provided(d);
    } else if (is_well && !d->is_preparing) {
        d->target.fd = -1; /* the library's since connect began */
        d->is_preparing = true;
        mr_link_begin(l, MOOR_TASK_PREPARE, d->deadline_ns);
    } else if (is_well) {
        win(d);
    } else if (d->stage == STEPPING && goes_on(d)) {
        mr_link_drop(l);
        connect_next(d);
    } else {
        d->target.fd = d->stage == STEPPING ? -1 : d->target.fd;
        lose(d);
    }
}

void mr_link_dial_abandon(struct moor_link *l)
{
    struct mr_link_dial *d = l->dial;
    d->is_abandoned = true;
    if (d->race) { /* its sockets may outlast the keeper */
        mr_dial_cancel(d->race);
        lose(d);
        return;
    }
    if (d->stage == LOOKING)
        mr_lookup_cancel(&d->lookup);
    if (d->stage == STEPPING)
        d->target.fd = -1;
    if (mr_link_halt(l))
        lose(d);
}

const moor_target *moor_link_target(const moor_link *l)
{
    return l->dial ? &l->dial->target : l->rack ? NULL : mr_driver_stream_target(l);
}

/* ---- the beginning ---- */

static struct mr_link_dial *make(struct mr_rack *k, uint32_t generation)
{
    struct moor_runtime *r = k->pool->runtime;
    struct moor_link *l = mr_link_make(r);
    struct mr_link_dial *d = l ? mr_heap_zalloc(&r->heap, sizeof *d) : NULL;
    if (!d) {
        if (l)
            mr_link_give(r, l);
        return NULL;
    }
    d->link = l;
    d->expires_ns = MR_NEVER;
    d->later.run = run_later;
    l->dial = d;
    l->rack = k;
    l->pool = k->pool;
    l->driver = k->driver;
    l->generation = generation;
    atomic_store_explicit(&l->fit, mr_rack_stamp(k, generation), memory_order_relaxed);
    return d;
}

int mr_link_dial_begin(struct mr_rack *k)
{
    struct mr_keeper *b = k->keeper;
    /* Before the route: one that is replaced in between makes a link that is old already. */
    const uint32_t generation = atomic_load(&k->pool->generation);
    struct mr_route *route = mr_rack_route(k);
    struct mr_upstream *u = route->upstream;
    const int64_t now = mr_shard_now(mr_keeper_shard(k));
    const enum mr_gate_verdict v = mr_pool_gate_enter(u, now);
    if (v != MR_GATE_GO) {
        mr_route_unref(k->pool->runtime, route);
        return v;
    }
    b->dialing++;
    b->coming++;
    b->links++;
    MR_STAT_ADD(b->local, dials, 1);
    struct mr_link_dial *d = make(k, generation);
    if (!d) {
        mr_route_unref(k->pool->runtime, route);
        mr_keeper_dial_over(k, u, NULL,
                            &(moor_fault){.err = MOOR_ENOMEM, .what = "make a connection"});
        return MR_GATE_GO;
    }
    d->link->route = route;
    d->begun_ns = now;
    d->deadline_ns = mr_deadline(now, MR_OPTION(k->pool->options.connect_timeout_ms));
    d->target = (moor_target){
        .size = sizeof d->target,
        .host = u->path ? u->path : u->host,
        .address = d->address,
        .path = u->path ? u->path : "",
        .port = u->port,
        .fd = -1,
    };
    mr_link_list(d->link);
    use_url(d);
    if (route->hooks.credentials)
        ask(d);
    else
        find_addresses(d);
    return MR_GATE_GO;
}
