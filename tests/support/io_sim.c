/*
 * The simulated backend. See io_sim.h. Driven by one thread, whichever shard it belongs to.
 * Must deliver nothing outside dispatch, and nothing a kernel could not deliver.
 */
#include "tests/support/io_sim.h"

#include "alloc/sanitize.h"
#include "base/assert.h"
#include "base/count.h"
#include "tests/support/sim_net.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum due { DUE_CONNECTED = 1, DUE_RECEIVED = 2, DUE_SENT = 4, DUE_ENDED = 8, DUE_CLOSED = 16 };

/* A kernel gives up on a connect nobody answers after this. */
#define CONNECT_PATIENCE_NS (127 * MR_NS_PER_SEC)

struct sim_poll {
    struct mr_list link;
    uint64_t id;
    int fd;
    uint32_t mask;
    mr_poll_fn fn;
    void *ctx;
};

static const struct mr_io_ops sim_ops;

/* ---- creation ---- */

moor_err io_sim_create(void *ctx, const struct mr_io_config *c, struct mr_io **out_io)
{
    struct sim *w = ctx;
    struct io_sim *io = calloc(1, sizeof *io);
    MR_ASSERT(io);
    io->base = (struct mr_io){.ops = &sim_ops, .bufs = c->bufs, .heap = c->heap};
    io->w = w;
    mr_list_init(&io->wires);
    mr_list_init(&io->ready);
    mr_list_init(&io->starved);
    mr_list_init(&io->polls);
    /* Half of the backends hold buffers ahead as io_uring does, half take them as epoll does. */
    if (sim_chance(w, 500))
        io->posted_max = (uint32_t)sim_below(w, c->bufs->count_max / 2);
    *out_io = &io->base;
    return MOOR_OK;
}

static void sim_destroy(struct mr_io *base)
{
    struct io_sim *io = io_sim_of(base);
    MR_ASSERT(mr_list_is_empty(&io->wires) && "a socket was never closed");
    MR_ASSERT(mr_list_is_empty(&io->polls) && "a poll was never cancelled");
    for (struct mr_buf *b; (b = io->posted);) {
        io->posted = b->next;
        mr_buf_untake(b);
    }
    sim_forget(io->w, &io->wake);
    free(io);
}

/* ---- what is due ---- */

static struct sim_wire *wire_of(struct io_sim *io, const struct mr_sock *s)
{
    struct sim_wire *x = sim_wire_of_fd(io->w, s->fd);
    MR_ASSERT(x && "the descriptor is not open");
    MR_ASSERT(x->sock == s && "the descriptor is another socket's");
    MR_ASSERT(x->io == io && "the socket is another shard's");
    return x;
}

static void due(struct sim_wire *x, unsigned bit)
{
    /* After a close only its end is news, though a connect or a send may still go on. */
    if (x->sock->is_closing && bit != DUE_CLOSED)
        return;
    x->due |= bit;
    if (!mr_list_is_linked(&x->link))
        mr_list_push_back(&x->io->ready, &x->link);
}

static void undue(struct sim_wire *x, unsigned bits)
{
    x->due &= ~bits;
    if (!x->due)
        mr_list_remove(&x->link);
}

static int64_t delay(struct sim *w, unsigned fault)
{
    if (!sim_chance(w, fault))
        return 0;
    return sim_between(w, 0, sim_chance(w, 100) ? 200 * MR_NS_PER_MS : 4 * w->latency_ns);
}

static uint64_t sum_of(const struct msghdr *m)
{
    uint64_t sum = m->msg_iovlen;
    for (size_t i = 0; i < m->msg_iovlen; i++) {
        const uint8_t *p = m->msg_iov[i].iov_base;
        for (size_t k = 0; k < m->msg_iov[i].iov_len; k++)
            sum = (sum ^ p[k]) * UINT64_C(0x100000001b3);
        sum += m->msg_iov[i].iov_len;
    }
    return sum;
}

static size_t length_of(const struct msghdr *m)
{
    size_t len = 0;
    for (size_t i = 0; i < m->msg_iovlen; i++)
        len += m->msg_iov[i].iov_len;
    return len;
}

/* ---- connect ---- */

static void connect_ends(struct sim *w, struct sim_event *e)
{
    struct sim_wire *x = MR_CONTAINER_OF(e, struct sim_wire, connect);
    if (x->connect_err == 0 && x->host->answer == SIM_ACCEPTS) {
        x->is_established = true;
        x->host->established_ns = w->now_ns;
        if (++x->host->established > x->host->established_max)
            x->host->established_max = x->host->established;
        sim_wire_accept(x);
    } else if (x->connect_err == 0) {
        x->connect_err = ECONNREFUSED;
    }
    due(x, DUE_CONNECTED);
}

static int outcome(struct sim *w, const struct sim_host *h, int64_t *out_after_ns)
{
    const struct sim_faults *f = &w->faults;
    *out_after_ns = 2 * sim_latency(w) + 8 * delay(w, f->connect_late);
    if (!h || h->answer == SIM_REFUSES || sim_chance(w, f->connect_refused))
        return ECONNREFUSED;
    if (h->answer == SIM_UNREACHABLE || sim_chance(w, f->connect_unreachable)) {
        *out_after_ns = sim_chance(w, 500) ? 0 : *out_after_ns;
        return EHOSTUNREACH;
    }
    if (h->answer == SIM_IGNORES || sim_chance(w, f->connect_lost)) {
        *out_after_ns = CONNECT_PATIENCE_NS;
        return ETIMEDOUT;
    }
    return 0;
}

static int sim_connect(struct mr_io *base, struct mr_sock *s, const struct sockaddr *to,
                       socklen_t len, const struct mr_sock_options *o)
{
    (void)o;
    struct io_sim *io = io_sim_of(base);
    struct sim *w = io->w;
    MR_ASSERT(s->events && s->fd == -1);
    MR_ASSERT(!s->is_closing && !s->is_connecting);
    if (w->files >= w->files_max || sim_chance(w, w->faults.files_out)) {
        sim_note(w, "connect: no descriptor");
        return EMFILE;
    }
    int64_t after_ns;
    struct sim_host *h = sim_host_find(w, to, len);
    int err = outcome(w, h, &after_ns);
    struct sim_wire *x = sim_wire_create(w, h);
    w->files++;
    x->is_open = true;
    x->sock = s;
    x->io = io;
    x->connect_err = err;
    mr_list_push_back(&io->wires, &x->member);
    if (h && ++h->sockets > h->sockets_max)
        h->sockets_max = h->sockets;
    s->fd = sim_wire_fd(x);
    s->is_connecting = true;
    sim_note(w, "wire %u: connect, will %s", x->index, err ? strerrorname_np(err) : "succeed");
    sim_at(w, &x->connect, w->now_ns + after_ns, connect_ends);
    return 0;
}

static void deliver_connected(struct sim_wire *x)
{
    x->sock->is_connecting = false;
    sim_note(x->w, "wire %u: connected(%d)", x->index, x->connect_err);
    x->sock->events->connected(x->sock, x->connect_err);
}

/* ---- send ---- */

static void copy_out(struct sim_wire *x, size_t most)
{
    size_t at = 0;
    for (size_t i = 0; i < x->out->msg_iovlen && most > 0; i++) {
        const struct iovec *v = &x->out->msg_iov[i];
        if (x->out_done < at + v->iov_len) {
            size_t from = x->out_done - at;
            size_t n = v->iov_len - from < most ? v->iov_len - from : most;
            sim_wire_push_up(x, (const uint8_t *)v->iov_base + from, n);
            x->out_done += n;
            most -= n;
        }
        at += v->iov_len;
    }
}

/* The kernel takes bytes, whether or not the shard's thread runs. */
static void take_some(struct sim *w, struct sim_event *e)
{
    struct sim_wire *x = MR_CONTAINER_OF(e, struct sim_wire, send);
    const size_t left = length_of(x->out) - x->out_done;
    if (x->down.is_reset && left > 0) {
        x->out_err = sim_chance(w, 500) ? EPIPE : ECONNRESET;
        due(x, DUE_SENT);
        return;
    }
    copy_out(x, sim_chance(w, w->faults.send_partial) ? sim_below(w, left + 1) : left);
    if (x->out_done < length_of(x->out)) {
        sim_at(w, e, w->now_ns + 1 + delay(w, 1000), take_some);
        return;
    }
    x->out_err = 0;
    due(x, DUE_SENT);
}

static void sim_send(struct mr_io *base, struct mr_sock *s, const struct msghdr *m)
{
    struct io_sim *io = io_sim_of(base);
    struct sim_wire *x = wire_of(io, s);
    MR_ASSERT(!s->is_closing && !s->is_connecting);
    MR_ASSERT(!s->is_sending && "one send under way");
    MR_ASSERT(!x->up.is_shut && "a send after our FIN");
    MR_ASSERT(m->msg_iovlen <= IOV_MAX);
    s->is_sending = true;
    s->out = m;
    x->out = m;
    x->out_done = 0;
    x->out_sum = sum_of(m);
    sim_note(io->w, "wire %u: send %zu", x->index, length_of(m));
    sim_at(io->w, &x->send, io->w->now_ns + delay(io->w, io->w->faults.send_late), take_some);
}

static void check_out(struct sim_wire *x)
{
    if (x->out)
        MR_ASSERT(sum_of(x->out) == x->out_sum && "the message changed while it was being sent");
}

static void deliver_sent(struct sim_wire *x)
{
    /* Late: the bytes have gone, the news has not come. */
    if (sim_chance(x->w, x->w->faults.send_late / 2)) {
        due(x, DUE_SENT);
        return;
    }
    check_out(x);
    x->out = NULL;
    x->sock->is_sending = false;
    x->sock->out = NULL;
    sim_note(x->w, "wire %u: sent(%d, %zu)", x->index, x->out_err, x->out_done);
    x->sock->events->sent(x->sock, x->out_err, x->out_done);
}

/* ---- receive ---- */

static bool has_news(const struct sim_wire *x)
{
    return sim_wire_readable(x) > 0 || x->down.has_ended || x->down.is_reset;
}

static void receive_due(struct sim *w, struct sim_event *e)
{
    (void)w;
    struct sim_wire *x = MR_CONTAINER_OF(e, struct sim_wire, receive);
    due(x, DUE_RECEIVED);
}

static void look(struct sim_wire *x)
{
    const bool is_wanted = x->sock && x->sock->is_receiving && !x->sock->is_closing;
    if (!is_wanted || x->is_starved || x->receive.place || (x->due & DUE_RECEIVED) || !has_news(x))
        return;
    struct sim *w = x->w;
    sim_at(w, &x->receive, w->now_ns + delay(w, w->faults.recv_late), receive_due);
}

void io_sim_arrived(struct sim_wire *x)
{
    look(x);
}

static void sim_recv_start(struct mr_io *base, struct mr_sock *s)
{
    struct sim_wire *x = wire_of(io_sim_of(base), s);
    MR_ASSERT(!s->is_closing && !s->is_connecting);
    MR_ASSERT(!s->is_receiving && "a stopped receive has not ended before recv_ended");
    s->is_receiving = true;
    sim_note(x->w, "wire %u: recv_start", x->index);
    look(x);
}

static void stop_ends(struct sim *w, struct sim_event *e)
{
    (void)w;
    due(MR_CONTAINER_OF(e, struct sim_wire, stop), DUE_ENDED);
}

static void sim_recv_stop(struct mr_io *base, struct mr_sock *s)
{
    if (!s->is_receiving || s->is_stopping || s->is_closing)
        return;
    struct sim_wire *x = wire_of(io_sim_of(base), s);
    struct sim *w = x->w;
    s->is_stopping = true;
    sim_note(w, "wire %u: recv_stop", x->index);
    sim_at(w, &x->stop, w->now_ns + delay(w, w->faults.cancel_late), stop_ends);
}

static void unstarve(struct sim_wire *x)
{
    mr_list_remove(&x->hungry);
    x->is_starved = false;
}

static void deliver_ended(struct sim_wire *x, int err)
{
    struct mr_sock *s = x->sock;
    unstarve(x);
    s->is_receiving = s->is_stopping = false;
    x->is_fed = false;
    undue(x, DUE_ENDED | DUE_RECEIVED);
    sim_forget(x->w, &x->stop);
    sim_forget(x->w, &x->receive);
    sim_note(x->w, "wire %u: recv_ended(%d)", x->index, err);
    s->events->recv_ended(s, err);
}

static struct mr_buf *take_buf(struct io_sim *io)
{
    struct mr_buf *b = io->posted;
    if (b) {
        io->posted = b->next;
        io->posted_count--;
    } else if (mr_buf_pool_available(io->base.bufs) > 0) {
        b = mr_buf_take(io->base.bufs);
        io->is_refused = !b;
    }
    /* What a buffer held before must not look like an answer. */
    if (b)
        memset(b->data, 0xdb, b->cap);
    return b;
}

#if MR_ASAN
/* They are poisoned: touching one is an error already. */
static void scribble_spares(struct io_sim *io)
{
    (void)io;
}
#else
static void scribble_spares(struct io_sim *io)
{
    for (struct mr_buf *b = io->base.bufs->spare; b; b = b->next)
        memset(b->data, 0xdb, b->cap);
}
#endif

static void starve(struct sim_wire *x)
{
    MR_COUNT(x->io->base.stats.starved, 1);
    x->is_starved = true;
    if (x->is_fed)
        mr_list_push_front(&x->io->starved, &x->hungry);
    else
        mr_list_push_back(&x->io->starved, &x->hungry);
    x->is_fed = false;
    sim_note(x->w, "wire %u: starved", x->index);
}

static void deliver_received(struct sim_wire *x)
{
    struct sim *w = x->w;
    if (sim_wire_readable(x) == 0) {
        deliver_ended(x, x->down.is_reset && !x->down.has_ended ? ECONNRESET : 0);
        return;
    }
    /* Others wait for a buffer: no overtaking. */
    bool has_turn = x->is_fed || mr_list_is_empty(&x->io->starved);
    struct mr_buf *b = has_turn ? take_buf(x->io) : NULL;
    if (!b) {
        starve(x);
        return;
    }
    x->is_fed = false;
    size_t n = sim_wire_read(
        x, b->data, sim_chance(w, w->faults.recv_short) ? 1 + sim_below(w, b->cap) : b->cap);
    mr_buf_fill(b);
    sim_note(w, "wire %u: received %zu", x->index, n);
    look(x);
    x->sock->events->received(x->sock, b, (uint32_t)n);
}

/* Oldest first, as many as there are buffers. */
static void feed_starved(struct io_sim *io)
{
    for (uint32_t n = mr_buf_pool_available(io->base.bufs) + io->posted_count; n > 0; n--) {
        struct mr_list *l = mr_list_first(&io->starved);
        if (!l)
            return;
        struct sim_wire *x = MR_CONTAINER_OF(l, struct sim_wire, hungry);
        unstarve(x);
        x->is_fed = true;
        MR_COUNT(io->base.stats.rearms, 1);
        due(x, DUE_RECEIVED);
    }
}

static void post_buffers(struct io_sim *io)
{
    while (io->posted_count < io->posted_max && mr_buf_pool_available(io->base.bufs) > 0) {
        struct mr_buf *b = mr_buf_take(io->base.bufs);
        if (!b)
            return;
        b->is_posted = true;
        b->next = io->posted;
        io->posted = b;
        io->posted_count++;
    }
}

/* ---- close, detach, attach ---- */

static void sim_finish(struct mr_io *base, struct mr_sock *s)
{
    struct sim_wire *x = wire_of(io_sim_of(base), s);
    MR_ASSERT(!s->is_sending && !s->is_connecting && !s->is_closing);
    sim_note(x->w, "wire %u: finish", x->index);
    sim_wire_finish_up(x);
}

/* The kernel has cancelled everything and closed the descriptor. */
static void close_ends(struct sim *w, struct sim_event *e)
{
    struct sim_wire *x = MR_CONTAINER_OF(e, struct sim_wire, close);
    sim_forget(w, &x->connect);
    sim_forget(w, &x->send);
    if (x->is_open) {
        x->is_open = false;
        w->files--;
        sim_wire_hang_up(x);
    }
    if (x->host)
        x->host->sockets--;
    if (x->is_established)
        x->host->established--;
    x->is_established = false;
    due(x, DUE_CLOSED);
}

static void sim_close(struct mr_io *base, struct mr_sock *s)
{
    struct io_sim *io = io_sim_of(base);
    struct sim *w = io->w;
    MR_ASSERT(s->events);
    if (s->is_closing)
        return;
    struct sim_wire *x;
    if (s->fd == -1) {
        x = sim_wire_create(w, NULL);
        x->sock = s;
        x->io = io;
        mr_list_push_back(&io->wires, &x->member);
    } else {
        x = wire_of(io, s);
    }
    s->is_closing = true;
    s->is_connecting = s->is_sending = s->is_receiving = s->is_stopping = false;
    /* A connect or a send goes on until the cancellation has reached it; its events do not. */
    sim_forget(w, &x->receive);
    sim_forget(w, &x->stop);
    unstarve(x);
    x->is_fed = false;
    undue(x, x->due);
    sim_note(w, "wire %u: close", x->index);
    sim_at(w, &x->close, w->now_ns + delay(w, w->faults.cancel_late), close_ends);
}

static void deliver_closed(struct sim_wire *x)
{
    struct mr_sock *s = x->sock;
    /* Until now the memory was promised to us. */
    check_out(x);
    MR_ASSERT(s->is_closing && "the socket's memory was reused before closed()");
    x->sock = NULL;
    x->io = NULL;
    x->out = NULL;
    mr_list_remove(&x->member);
    s->fd = -1;
    s->is_closing = false;
    s->out = NULL;
    sim_note(x->w, "wire %u: closed", x->index);
    s->events->closed(s);
}

static int sim_detach(struct mr_io *base, struct mr_sock *s)
{
    struct sim_wire *x = wire_of(io_sim_of(base), s);
    MR_ASSERT(!s->is_connecting && !s->is_sending && !s->is_receiving && !s->is_closing);
    MR_ASSERT(x->due == 0 && !x->receive.place && !x->stop.place && !x->send.place);
    mr_list_remove(&x->member);
    x->sock = NULL;
    x->io = NULL;
    int fd = s->fd;
    s->fd = -1;
    sim_note(x->w, "wire %u: detach", x->index);
    return fd;
}

static void sim_attach(struct mr_io *base, struct mr_sock *s, int fd)
{
    struct io_sim *io = io_sim_of(base);
    struct sim_wire *x = sim_wire_of_fd(io->w, fd);
    MR_ASSERT(s->events && s->fd == -1 && !s->is_closing);
    MR_ASSERT(x && !x->sock && "attached twice, or closed");
    s->fd = fd;
    x->sock = s;
    x->io = io;
    mr_list_push_back(&io->wires, &x->member);
    sim_note(io->w, "wire %u: attach", x->index);
}

/* ---- foreign descriptors: here they are wires too ---- */

static uint32_t readiness(struct io_sim *io, int fd)
{
    const struct sim_wire *x = sim_wire_of_fd(io->w, fd);
    if (!x)
        return POLLERR;
    uint32_t r = has_news(x) ? POLLIN : 0;
    if (x->is_established)
        r |= POLLOUT;
    if (x->down.is_reset)
        r |= POLLERR | POLLHUP;
    return r;
}

static uint32_t fires(struct io_sim *io, const struct sim_poll *p)
{
    return readiness(io, p->fd) & (p->mask | POLLERR | POLLHUP);
}

static uint64_t sim_poll_start(struct mr_io *base, int fd, uint32_t mask, mr_poll_fn fn, void *ctx)
{
    struct io_sim *io = io_sim_of(base);
    struct sim_poll *p = calloc(1, sizeof *p);
    MR_ASSERT(p);
    *p = (struct sim_poll){.id = ++io->poll_ids, .fd = fd, .mask = mask, .fn = fn, .ctx = ctx};
    mr_list_push_back(&io->polls, &p->link);
    return p->id;
}

static struct sim_poll *find_poll(struct io_sim *io, uint64_t id)
{
    for (struct mr_list *l = io->polls.next; l != &io->polls; l = l->next) {
        struct sim_poll *p = MR_CONTAINER_OF(l, struct sim_poll, link);
        if (p->id == id)
            return p;
    }
    return NULL;
}

static void sim_poll_cancel(struct mr_io *base, uint64_t id)
{
    struct sim_poll *p = find_poll(io_sim_of(base), id);
    if (!p)
        return;
    mr_list_remove(&p->link);
    free(p);
}

static unsigned deliver_polls(struct io_sim *io)
{
    unsigned count = 0;
    const uint64_t last = io->poll_ids;
    /* The calls may cancel others and add new ones, which wait for the next dispatch. */
    for (struct mr_list *l = io->polls.next; l != &io->polls;) {
        struct sim_poll *p = MR_CONTAINER_OF(l, struct sim_poll, link);
        uint32_t events = p->id <= last ? fires(io, p) : 0;
        if (!events) {
            l = l->next;
            continue;
        }
        const struct sim_poll fired = *p;
        sim_poll_cancel(&io->base, p->id);
        fired.fn(fired.ctx, events);
        count++;
        l = io->polls.next;
    }
    return count;
}

static bool has_poll_due(struct io_sim *io)
{
    for (struct mr_list *l = io->polls.next; l != &io->polls; l = l->next) {
        if (fires(io, MR_CONTAINER_OF(l, struct sim_poll, link)))
            return true;
    }
    return false;
}

/* ---- waiting ---- */

static bool sim_is_ready(struct mr_io *base)
{
    struct io_sim *io = io_sim_of(base);
    if (!mr_list_is_empty(&io->ready) || has_poll_due(io))
        return true;
    return !mr_list_is_empty(&io->starved) && !io->is_refused &&
           mr_buf_pool_available(base->bufs) + io->posted_count > 0;
}

bool io_sim_is_due(struct io_sim *io)
{
    return io->is_woken || sim_is_ready(&io->base);
}

static void wake_ends(struct sim *w, struct sim_event *e)
{
    (void)w;
    MR_CONTAINER_OF(e, struct io_sim, wake)->is_woken = true;
}

static void sim_wake(struct mr_io *base)
{
    struct io_sim *io = io_sim_of(base);
    if (io->is_woken || io->wake.place)
        return;
    int64_t after_ns = delay(io->w, io->w->faults.wake_late);
    if (after_ns == 0)
        io->is_woken = true;
    else
        sim_at(io->w, &io->wake, io->w->now_ns + after_ns, wake_ends);
}

void sim_block_alone(struct sim *w, struct io_sim *io, int64_t until_ns)
{
    while (!io_sim_is_due(io) && w->now_ns < until_ns) {
        int64_t next = sim_next(w);
        MR_ASSERT((next != MR_NEVER || until_ns != MR_NEVER) && "asleep, and nothing will happen");
        sim_advance(w, next < until_ns ? next : until_ns);
    }
}

static moor_err sim_wait(struct mr_io *base, int64_t timeout_ns)
{
    struct io_sim *io = io_sim_of(base);
    struct sim *w = io->w;
    MR_ASSERT(!io->is_dispatching && "a wait inside a callback");
    MR_COUNT(base->stats.enters, 1);
    io->is_refused = false;
    sim_run_due(w);
    feed_starved(io);
    post_buffers(io);
    scribble_spares(io);
    if (!io_sim_is_due(io) && timeout_ns > 0 && w->block &&
        !sim_chance(w, w->faults.wake_spurious)) {
        bool is_endless = timeout_ns == MR_NEVER || timeout_ns > MR_NEVER - w->now_ns;
        w->block(w, io, is_endless ? MR_NEVER : w->now_ns + timeout_ns);
        feed_starved(io);
    }
    io->is_woken = false;
    return MOOR_OK;
}

static int sim_fd(struct mr_io *io)
{
    (void)io;
    return -1;
}

/* ---- delivery ---- */

/* One of the things due on this wire, any. */
static void deliver(struct sim_wire *x)
{
    unsigned bits[5], count = 0;
    for (unsigned bit = DUE_CONNECTED; bit <= DUE_CLOSED; bit <<= 1) {
        if (x->due & bit)
            bits[count++] = bit;
    }
    MR_ASSERT(count > 0);
    unsigned bit = bits[sim_below(x->w, count)];
    x->due &= ~bit;
    if (x->due)
        due(x, x->due);
    switch (bit) {
    case DUE_CONNECTED:
        deliver_connected(x);
        break;
    case DUE_RECEIVED:
        deliver_received(x);
        break;
    case DUE_SENT:
        deliver_sent(x);
        break;
    case DUE_ENDED:
        deliver_ended(x, ECANCELED);
        break;
    case DUE_CLOSED:
        deliver_closed(x);
        break;
    }
}

static struct sim_wire *pick(struct sim *w, struct mr_list *from, unsigned count)
{
    struct mr_list *l = from->next;
    for (uint64_t skip = sim_below(w, count); skip > 0 && l->next != from; skip--)
        l = l->next;
    if (l == from)
        return NULL;
    mr_list_remove(l);
    return MR_CONTAINER_OF(l, struct sim_wire, link);
}

static unsigned sim_dispatch(struct mr_io *base, unsigned budget)
{
    struct io_sim *io = io_sim_of(base);
    MR_ASSERT(!io->is_dispatching && "a dispatch inside a callback");
    io->is_dispatching = true;
    unsigned count = deliver_polls(io), there = 0;
    struct mr_list now;
    mr_list_take_all(&now, &io->ready);
    for (struct mr_list *l = now.next; l != &now; l = l->next)
        there++;
    while (!mr_list_is_empty(&now) && (budget == 0 || count < budget) &&
           !sim_chance(io->w, io->w->faults.dispatch_held)) {
        deliver(pick(io->w, &now, there));
        count++;
    }
    for (struct mr_list *l; (l = mr_list_last(&now));) {
        mr_list_remove(l);
        mr_list_push_front(&io->ready, l);
    }
    io->is_dispatching = false;
    MR_COUNT(base->stats.events, count);
    return count;
}

static const struct mr_io_ops sim_ops = {
    .name = "sim",
    .destroy = sim_destroy,
    .connect = sim_connect,
    .send = sim_send,
    .recv_start = sim_recv_start,
    .recv_stop = sim_recv_stop,
    .finish = sim_finish,
    .close = sim_close,
    .detach = sim_detach,
    .attach = sim_attach,
    .poll = sim_poll_start,
    .poll_cancel = sim_poll_cancel,
    .wait = sim_wait,
    .dispatch = sim_dispatch,
    .wake = sim_wake,
    .is_ready = sim_is_ready,
    .fd = sim_fd,
};
