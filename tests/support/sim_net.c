/*
 * Hosts, wires, and bytes on their way. See sim_net.h. Driven by one thread.
 * Must keep what TCP promises: bytes in order, nothing after FIN or RST, nothing lost but by RST.
 */
#include "tests/support/sim_net.h"

#include "base/assert.h"
#include "tests/support/io_sim.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

enum kind { DATA, FIN, RST };

struct segment {
    struct mr_list link;
    int64_t at_ns;
    enum kind kind;
    size_t len;
    uint8_t bytes[];
};

static void arrive_up(struct sim *w, struct sim_event *e);
static void arrive_down(struct sim *w, struct sim_event *e);

/* ---- hosts ---- */

struct sim_host *sim_host_add(struct sim *w, const struct sockaddr *at, socklen_t len,
                              const struct sim_service *service, void *ctx)
{
    struct sim_host *h = calloc(1, sizeof *h);
    MR_ASSERT(h && len <= sizeof h->address);
    memcpy(&h->address, at, len);
    h->address_len = len;
    h->service = service;
    h->ctx = ctx;
    mr_list_push_back(&w->hosts, &h->link);
    return h;
}

struct sim_host *sim_host_add_ipv4(struct sim *w, unsigned last, uint16_t port,
                                   const struct sim_service *service, void *ctx)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(0x0a000000u + last)};
    return sim_host_add(w, (struct sockaddr *)&at, sizeof at, service, ctx);
}

struct sim_host *sim_host_find(struct sim *w, const struct sockaddr *at, socklen_t len)
{
    for (struct mr_list *l = w->hosts.next; l != &w->hosts; l = l->next) {
        struct sim_host *h = MR_CONTAINER_OF(l, struct sim_host, link);
        if (h->address_len == len && memcmp(&h->address, at, len) == 0)
            return h;
    }
    return NULL;
}

/* ---- wires ---- */

struct sim_wire *sim_wire_create(struct sim *w, struct sim_host *host)
{
    struct sim_wire *x = calloc(1, sizeof *x);
    MR_ASSERT(x);
    x->w = w;
    x->host = host;
    x->index = w->wire_count;
    mr_list_init(&x->up.flying);
    mr_list_init(&x->down.flying);
    mr_list_init(&x->link);
    mr_list_init(&x->hungry);
    mr_list_init(&x->member);
    if (w->wire_count == w->wire_cap) {
        w->wire_cap = w->wire_cap ? w->wire_cap * 2 : 32;
        w->wires = realloc(w->wires, w->wire_cap * sizeof *w->wires);
        MR_ASSERT(w->wires);
    }
    w->wires[w->wire_count++] = x;
    return x;
}

struct sim_wire *sim_wire_of_fd(struct sim *w, int fd)
{
    const int64_t index = (int64_t)fd - SIM_FD_BASE;
    if (index < 0 || index >= w->wire_count || !w->wires[index]->is_open)
        return NULL;
    return w->wires[index];
}

static void drop_flying(struct sim *w, struct sim_pipe *p)
{
    sim_forget(w, &p->arrival);
    for (struct mr_list *l; (l = mr_list_pop_front(&p->flying));)
        free(MR_CONTAINER_OF(l, struct segment, link));
}

void sim_net_fini(struct sim *w)
{
    for (uint32_t i = 0; i < w->wire_count; i++) {
        struct sim_wire *x = w->wires[i];
        if (x->is_accepted && x->host->service->dropped)
            x->host->service->dropped(x);
        drop_flying(w, &x->up);
        drop_flying(w, &x->down);
        free(x->up.bytes);
        free(x->down.bytes);
        free(x);
    }
    free(w->wires);
    w->wires = NULL;
    w->wire_count = w->wire_cap = 0;
    for (struct mr_list *l; (l = mr_list_pop_front(&w->hosts));)
        free(MR_CONTAINER_OF(l, struct sim_host, link));
}

/* ---- on the way ---- */

static void fly(struct sim_wire *x, struct sim_pipe *p, enum kind kind, const void *bytes,
                size_t len)
{
    struct segment *g = malloc(sizeof *g + len);
    MR_ASSERT(g);
    g->kind = kind;
    g->len = len;
    if (len)
        memcpy(g->bytes, bytes, len);
    g->at_ns = x->w->now_ns + sim_latency(x->w);
    if (g->at_ns < p->last_ns)
        g->at_ns = p->last_ns;
    p->last_ns = g->at_ns;
    mr_list_push_back(&p->flying, &g->link);
    if (!p->arrival.place)
        sim_at(x->w, &p->arrival, g->at_ns, p == &x->up ? arrive_up : arrive_down);
}

/* Takes the first segment off, and sets the event for the next. */
static struct segment *land(struct sim *w, struct sim_pipe *p, struct sim_event *e)
{
    struct segment *g = MR_CONTAINER_OF(mr_list_pop_front(&p->flying), struct segment, link);
    if (!mr_list_is_empty(&p->flying))
        sim_at(w, e, MR_CONTAINER_OF(p->flying.next, struct segment, link)->at_ns, e->run);
    return g;
}

static void append(struct sim_pipe *p, const void *bytes, size_t len)
{
    if (p->off == p->len)
        p->off = p->len = 0;
    if (p->len + len > p->cap) {
        p->cap = (p->len + len) * 2;
        p->bytes = realloc(p->bytes, p->cap);
        MR_ASSERT(p->bytes);
    }
    memcpy(p->bytes + p->len, bytes, len);
    p->len += len;
}

/* An RST to the client. What is still on its way may be lost by it. */
static void reset_down(struct sim_wire *x)
{
    if (x->down.is_aborted)
        return;
    x->down.is_aborted = true;
    if (sim_chance(x->w, 500)) {
        drop_flying(x->w, &x->down);
        x->down.last_ns = 0;
    }
    x->down.is_shut = true;
    fly(x, &x->down, RST, NULL, 0);
}

static void arrive_up(struct sim *w, struct sim_event *e)
{
    struct sim_wire *x = MR_CONTAINER_OF(e, struct sim_wire, up.arrival);
    struct segment *g = land(w, &x->up, e);
    const struct sim_service *service = x->host->service;
    if (x->is_hung_up || !x->is_accepted) {
        if (g->kind == DATA && x->is_accepted)
            reset_down(x);
    } else if (g->kind == DATA) {
        w->bytes_up += g->len;
        service->input(x, g->bytes, g->len);
    } else {
        x->up.has_ended = true;
        x->up.is_reset = g->kind == RST;
        x->is_hung_up = g->kind == RST;
        sim_note(w, "wire %u: server sees %s", x->index, g->kind == RST ? "RST" : "FIN");
        service->ended(x, g->kind == RST);
    }
    free(g);
}

static void arrive_down(struct sim *w, struct sim_event *e)
{
    struct sim_wire *x = MR_CONTAINER_OF(e, struct sim_wire, down.arrival);
    struct segment *g = land(w, &x->down, e);
    if (g->kind == DATA) {
        w->bytes_down += g->len;
        append(&x->down, g->bytes, g->len);
    } else if (g->kind == FIN) {
        x->down.has_ended = true;
    } else {
        x->down.is_reset = true;
    }
    sim_note(w, "wire %u: %s %zu arrives", x->index,
             g->kind == DATA  ? "data"
             : g->kind == FIN ? "FIN"
                              : "RST",
             g->len);
    free(g);
    if (x->is_open)
        io_sim_arrived(x);
    else if (!x->down.is_reset && !x->up.is_reset)
        fly(x, &x->up, RST, NULL, 0);
}

/* ---- the server's end ---- */

void sim_peer_write(struct sim_wire *x, const void *bytes, size_t len)
{
    if (x->is_hung_up || x->down.is_shut)
        return;
    const uint8_t *p = bytes;
    while (len > 0) {
        size_t part = sim_chance(x->w, x->w->faults.split) ? 1 + sim_below(x->w, len) : len;
        fly(x, &x->down, DATA, p, part);
        p += part;
        len -= part;
    }
}

void sim_peer_finish(struct sim_wire *x)
{
    if (x->down.is_shut)
        return;
    x->down.is_shut = true;
    fly(x, &x->down, FIN, NULL, 0);
}

void sim_peer_close(struct sim_wire *x)
{
    sim_peer_finish(x);
    x->is_hung_up = true;
    sim_forget(x->w, &x->think);
}

void sim_peer_reset(struct sim_wire *x)
{
    x->is_hung_up = true;
    sim_forget(x->w, &x->think);
    reset_down(x);
}

static void think(struct sim *w, struct sim_event *e)
{
    (void)w;
    struct sim_wire *x = MR_CONTAINER_OF(e, struct sim_wire, think);
    x->host->service->thinks(x);
}

void sim_peer_think(struct sim_wire *x, int64_t delay_ns)
{
    sim_at(x->w, &x->think, x->w->now_ns + delay_ns, think);
}

/* ---- the client's end ---- */

static void doom(struct sim *w, struct sim_event *e)
{
    struct sim_wire *x = MR_CONTAINER_OF(e, struct sim_wire, doom);
    sim_note(w, "wire %u: reset by the network", x->index);
    sim_peer_reset(x);
}

void sim_wire_accept(struct sim_wire *x)
{
    struct sim *w = x->w;
    x->is_accepted = true;
    x->host->accepted++;
    if (sim_chance(w, w->faults.reset))
        sim_at(w, &x->doom, w->now_ns + sim_between(w, 0, 100) * sim_latency(w), doom);
    x->host->service->opened(x);
}

void sim_wire_push_up(struct sim_wire *x, const void *bytes, size_t len)
{
    if (!x->up.is_shut && len > 0)
        fly(x, &x->up, DATA, bytes, len);
}

void sim_wire_finish_up(struct sim_wire *x)
{
    if (x->up.is_shut)
        return;
    x->up.is_shut = true;
    fly(x, &x->up, FIN, NULL, 0);
}

void sim_wire_hang_up(struct sim_wire *x)
{
    const bool is_unread = sim_wire_readable(x) > 0;
    if (x->is_accepted && is_unread && !x->down.is_reset) {
        x->up.is_shut = true;
        fly(x, &x->up, RST, NULL, 0);
    } else if (x->is_accepted) {
        sim_wire_finish_up(x);
    }
}

size_t sim_wire_read(struct sim_wire *x, void *to, size_t most)
{
    size_t n = sim_wire_readable(x) < most ? sim_wire_readable(x) : most;
    if (n > 0)
        memcpy(to, x->down.bytes + x->down.off, n);
    x->down.off += n;
    return n;
}
