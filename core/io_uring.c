/*
 * The io_uring backend: calls only note on the socket what is wanted, mr_io_wait turns the notes
 * into submissions and enters the kernel once, mr_io_dispatch delivers completions. Owner thread
 * only, except the wake. Must not enter the kernel or deliver an event inside any other call.
 */
#include "core/io.h"

#include "base/assert.h"
#include "base/count.h"
#include "core/io_poll.h"
#include "core/io_socket.h"
#include "core/uring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { POLLS_PER_PAGE = 32 };

static struct mr_uring *uring_of(struct mr_io *io)
{
    return MR_CONTAINER_OF(io, struct mr_uring, base);
}

/* ---- creation ---- */

static const struct mr_io_ops uring_ops;

moor_err mr_io_uring_create(const struct mr_io_config *c, struct mr_io **out, char *why,
                            size_t why_cap)
{
    const char *reason = "";
    struct mr_uring *u = mr_heap_zalloc(c->heap, sizeof *u);
    if (!u)
        return MOOR_ENOMEM;
    u->base = (struct mr_io){.ops = &uring_ops, .bufs = c->bufs, .heap = c->heap};
    mr_list_init(&u->poll_queue);
    mr_list_init(&u->poll_out);
    mr_list_init(&u->starved);
    u->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int e = u->wake_fd < 0 ? errno : mr_uring_open(u, c, &reason);
    snprintf(why, why_cap, "%s", u->wake_fd < 0 ? "out of file descriptors" : reason);
    if (e) {
        if (u->wake_fd >= 0)
            close(u->wake_fd);
        mr_heap_free(c->heap, u, sizeof *u);
        return e == EMFILE || e == ENFILE ? MOOR_ENOFILES : MOOR_ENOSYS;
    }
    mr_slab_init(&u->polls, c->heap, sizeof(struct mr_poll), POLLS_PER_PAGE);
    *out = &u->base;
    return MOOR_OK;
}

static void uring_destroy(struct mr_io *io)
{
    struct mr_uring *u = uring_of(io);
    MR_ASSERT(!u->queue_first);
    MR_ASSERT(mr_list_is_empty(&u->starved));
    mr_uring_close(u);
    close(u->wake_fd);
    /* Cancelled polls whose last completion was not waited for: the ring is gone, so they are free.
     */
    struct mr_list *lists[] = {&u->poll_queue, &u->poll_out};
    for (size_t i = 0; i < 2; i++) {
        for (struct mr_list *l; (l = mr_list_pop_front(lists[i]));) {
            struct mr_poll *p = MR_CONTAINER_OF(l, struct mr_poll, link);
            MR_ASSERT(p->is_cancelled);
            mr_poll_give(&u->polls, p);
        }
    }
    mr_slab_fini(&u->polls);
    mr_heap_free(io->heap, u, sizeof *u);
}

/* ---- calls: they only leave notes ---- */

static int uring_connect(struct mr_io *io, struct mr_sock *s, const struct sockaddr *to,
                         socklen_t len, const struct mr_sock_options *o)
{
    MR_ASSERT(s->fd == -1);
    MR_ASSERT(!s->is_closing);
    MR_ASSERT(((uintptr_t)s & MR_URING_OP_MASK) == 0);
    int fd = mr_socket_open(to->sa_family, 0, o);
    MR_COUNT(io->stats.syscalls, 1);
    if (fd < 0)
        return -fd;
    s->fd = fd;
    s->is_connecting = true;
    /* No send can be under way, so its place holds the address until it is submitted. */
    s->out = (const struct msghdr *)(const void *)to;
    s->out_done = len;
    mr_uring_want(uring_of(io), s, MR_URING_WANT_CONNECT);
    return 0;
}

static void uring_send(struct mr_io *io, struct mr_sock *s, const struct msghdr *m)
{
    MR_ASSERT(s->fd >= 0 && !s->is_closing && !s->is_connecting);
    MR_ASSERT(!s->is_sending);
    MR_ASSERT(m->msg_iovlen <= MR_SOCKET_PIECES_MAX);
    s->is_sending = true;
    s->out = m;
    s->out_done = 0;
    mr_uring_want(uring_of(io), s, MR_URING_WANT_SEND);
}

static void uring_recv_start(struct mr_io *io, struct mr_sock *s)
{
    struct mr_uring *u = uring_of(io);
    MR_ASSERT(s->fd >= 0 && !s->is_closing && !s->is_connecting);
    MR_ASSERT(!s->is_receiving && "a stopped receive has not ended before recv_ended");
    s->is_receiving = true;
    /* Others wait for a buffer: no overtaking. */
    if (!mr_list_is_empty(&u->starved))
        mr_uring_starve(u, s);
    else
        mr_uring_want(u, s, MR_URING_WANT_RECV);
}

static void uring_recv_stop(struct mr_io *io, struct mr_sock *s)
{
    if (!s->is_receiving || s->is_stopping || s->is_closing)
        return;
    s->is_stopping = true;
    mr_uring_unstarve(s);
    s->bits &= (uint8_t)~MR_URING_WANT_RECV;
    mr_uring_want(uring_of(io), s, MR_URING_WANT_STOP);
}

static void uring_finish(struct mr_io *io, struct mr_sock *s)
{
    MR_ASSERT(!s->is_sending && !s->is_connecting && !s->is_closing);
    MR_COUNT(io->stats.syscalls, 1);
    shutdown(s->fd, SHUT_WR);
}

static void uring_close(struct mr_io *io, struct mr_sock *s)
{
    if (s->is_closing)
        return;
    mr_uring_unstarve(s);
    s->is_closing = true;
    s->is_connecting = s->is_sending = s->is_receiving = s->is_stopping = false;
    /* A send of this turn still goes out: what a filter says last. */
    s->bits &= (uint8_t) ~(MR_URING_WANTS & ~MR_URING_WANT_SEND);
    mr_uring_want(uring_of(io), s, MR_URING_WANT_CLOSE);
}

static int uring_detach(struct mr_io *io, struct mr_sock *s)
{
    MR_ASSERT(!s->is_connecting && !s->is_sending && !s->is_receiving && !s->is_closing);
    MR_ASSERT(s->pending == 0);
    mr_uring_unqueue(uring_of(io), s);
    MR_ASSERT(s->bits == 0);
    int fd = s->fd;
    s->fd = -1;
    return fd;
}

static void uring_attach(struct mr_io *io, struct mr_sock *s, int fd)
{
    (void)io;
    MR_ASSERT(s->fd == -1 && fd >= 0);
    MR_ASSERT(s->pending == 0 && s->bits == 0 && !s->is_closing);
    MR_ASSERT(((uintptr_t)s & MR_URING_OP_MASK) == 0);
    s->fd = fd;
}

static uint64_t uring_poll(struct mr_io *io, int fd, uint32_t mask, mr_poll_fn fn, void *ctx)
{
    struct mr_uring *u = uring_of(io);
    struct mr_poll *p = mr_poll_take(&u->polls, fd, mask, fn, ctx);
    if (!p)
        return 0;
    mr_list_push_back(&u->poll_queue, &p->link);
    return mr_poll_id(p);
}

static void uring_poll_cancel(struct mr_io *io, uint64_t id)
{
    struct mr_uring *u = uring_of(io);
    struct mr_poll *p = mr_poll_find(id);
    if (!p)
        return;
    mr_poll_retire(p);
    p->is_cancelled = true;
    if (!p->is_armed) {
        mr_poll_give(&u->polls, p);
        return;
    }
    mr_list_remove(&p->link);
    mr_list_push_back(&u->poll_queue, &p->link);
}

static void uring_wake(struct mr_io *io)
{
    const uint64_t one = 1;
    /* Fails only when the counter is full, which is a wake too. */
    ssize_t r = write(uring_of(io)->wake_fd, &one, sizeof one);
    (void)r;
}

/* ---- waiting ---- */

static bool has_completions(const struct mr_uring *u)
{
    return *u->ring.cq.khead != io_uring_smp_load_acquire(u->ring.cq.ktail);
}

static unsigned kernel_flags(const struct mr_uring *u)
{
    return IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static moor_err uring_wait(struct mr_io *io, int64_t timeout_ns)
{
    struct mr_uring *u = uring_of(io);
    mr_uring_submit(u);

    unsigned flags = kernel_flags(u);
    if (flags & IORING_SQ_CQ_OVERFLOW)
        MR_COUNT(io->stats.overflows, 1);
    if (has_completions(u) || u->queue_first || timeout_ns < 0)
        timeout_ns = 0;
    if (timeout_ns == 0 && !flags && io_uring_sq_ready(&u->ring) == 0)
        return MOOR_OK;
    int r = mr_uring_enter(u, timeout_ns > 0, timeout_ns);
    switch (r) {
    case -EEXIST:
        return MOOR_EWRONGTHREAD;
    case -EBADR:
        return MOOR_ENOMEM; /* the kernel had no memory to keep a completion */
    default:
        return MOOR_OK; /* EINTR, ETIME; EBUSY and EAGAIN: reap, then try again */
    }
}

static bool uring_is_ready(struct mr_io *io)
{
    struct mr_uring *u = uring_of(io);
    return has_completions(u) || u->queue_first || !mr_list_is_empty(&u->poll_queue) ||
           !u->is_wake_armed || kernel_flags(u) || io_uring_sq_ready(&u->ring) > 0 ||
           (!mr_list_is_empty(&u->starved) &&
            (u->bufs.posted > 0 || (!u->bufs.refused && mr_buf_pool_available(io->bufs) > 0)));
}

static int uring_fd(struct mr_io *io)
{
    return uring_of(io)->ring.ring_fd;
}

/* ---- completions ---- */

/* Every completion of a closing socket ends here; the last one ends the socket. */
static void settle_close(struct mr_sock *s)
{
    if (s->pending > 0 || (s->bits & MR_URING_WANT_CLOSE))
        return;
    s->fd = -1;
    s->is_closing = false;
    s->bits = 0;
    s->events->closed(s);
}

static void on_connect(struct mr_sock *s, int res)
{
    s->is_connecting = false;
    s->out = NULL;
    s->out_done = 0;
    s->events->connected(s, -res);
}

static void on_send(struct mr_uring *u, struct mr_sock *s, int res)
{
    if (res > 0)
        s->out_done += (size_t)res;
    bool is_all = s->out_done == mr_msg_len(s->out);
    if (!is_all && (res > 0 || res == -EINTR || res == -EAGAIN)) {
        mr_uring_want(u, s, MR_URING_WANT_SEND);
        return;
    }
    s->is_sending = false;
    s->out = NULL;
    s->events->sent(s, is_all ? 0 : res ? -res : EPIPE, s->out_done);
}

static void end_recv(struct mr_sock *s, int err)
{
    s->is_receiving = s->is_stopping = false;
    s->bits &= (uint8_t)~MR_URING_WANT_STOP;
    s->events->recv_ended(s, err);
}

/* The multishot receive is over, though perhaps not what the caller asked for. */
static void on_recv_over(struct mr_uring *u, struct mr_sock *s, int res)
{
    /* The kernel reports an error of the connection once. A send that is still on its way here may have
     * had it, and the receive then looks like the peer's FIN. */
    if (res == 0 && s->is_sending) {
        MR_COUNT(u->base.stats.syscalls, 1);
        res = mr_socket_is_dead(s->fd) ? -ECONNRESET : 0;
    }
    bool goes_on = res > 0 || res == -ENOBUFS || res == -EINTR || res == -EAGAIN;
    if (!goes_on)
        end_recv(s, -res);
    else if (s->is_stopping)
        end_recv(s, ECANCELED);
    else if (res == -ENOBUFS) {
        /* Not to be armed again here: with the pool dry that would fail for ever. */
        u->bufs.ran_dry = true;
        mr_uring_starve(u, s);
    } else {
        MR_COUNT(u->base.stats.rearms, 1);
        mr_uring_want(u, s, MR_URING_WANT_RECV);
    }
}

static void on_recv(struct mr_uring *u, struct mr_sock *s, int res, uint32_t flags)
{
    bool is_over = !(flags & IORING_CQE_F_MORE);
    if (is_over) {
        s->bits &= (uint8_t)~MR_URING_RECV_ARMED;
        s->pending--;
    }
    if (flags & IORING_CQE_F_BUFFER) {
        struct mr_buf *b = mr_uring_bufs_pick(&u->bufs, flags >> IORING_CQE_BUFFER_SHIFT);
        if (res > 0 && !s->is_closing) {
            mr_buf_fill(b);
            s->events->received(s, b, (uint32_t)res);
        } else {
            mr_buf_untake(b);
        }
    }
    if (s->is_closing)
        settle_close(s);
    else if (is_over)
        on_recv_over(u, s, res);
}

static void on_poll(struct mr_uring *u, struct mr_poll *p, int res)
{
    mr_poll_fn fn = p->fn;
    void *ctx = p->ctx;
    bool is_cancelled = p->is_cancelled;
    if (!is_cancelled)
        mr_poll_retire(p);
    /* Free before the call: it may poll again. */
    mr_poll_give(&u->polls, p);
    if (!is_cancelled)
        fn(ctx, res >= 0 ? (uint32_t)res : POLLERR);
}

static void complete_sock(struct mr_uring *u, struct mr_sock *s, enum mr_uring_op op, int res,
                          uint32_t flags)
{
    if (op == MR_URING_OP_RECV) {
        on_recv(u, s, res, flags);
        return;
    }
    s->pending--;
    if (s->is_closing)
        settle_close(s);
    else if (op == MR_URING_OP_CONNECT)
        on_connect(s, res);
    else if (op == MR_URING_OP_SEND)
        on_send(u, s, res);
    else if (op == MR_URING_OP_STOPPED && s->is_stopping)
        end_recv(s, ECANCELED);
}

static void complete(struct mr_uring *u, uint64_t user_data, int res, uint32_t flags)
{
    enum mr_uring_op op = user_data & MR_URING_OP_MASK;
    void *object = (void *)(uintptr_t)(user_data & ~(uint64_t)MR_URING_OP_MASK);
    if (op == MR_URING_OP_POLL)
        on_poll(u, object, res);
    else if (op == MR_URING_OP_WAKE)
        u->is_wake_armed = flags & IORING_CQE_F_MORE;
    else if (op != MR_URING_OP_IGNORED)
        complete_sock(u, object, op, res, flags);
}

static unsigned uring_dispatch(struct mr_io *io, unsigned budget)
{
    struct mr_uring *u = uring_of(io);
    struct io_uring_cq *cq = &u->ring.cq;
    unsigned tail = io_uring_smp_load_acquire(cq->ktail);
    unsigned count = 0;
    for (unsigned head = *cq->khead; head != tail && (budget == 0 || count < budget); count++) {
        const struct io_uring_cqe cqe = cq->cqes[head & cq->ring_mask];
        /* The entry is free before its callback runs: what that submits may need the room. */
        io_uring_smp_store_release(cq->khead, ++head);
        complete(u, cqe.user_data, cqe.res, cqe.flags);
    }
    MR_COUNT(io->stats.events, count);
    return count;
}

static const struct mr_io_ops uring_ops = {
    .name = "io_uring",
    .destroy = uring_destroy,
    .connect = uring_connect,
    .send = uring_send,
    .recv_start = uring_recv_start,
    .recv_stop = uring_recv_stop,
    .finish = uring_finish,
    .close = uring_close,
    .detach = uring_detach,
    .attach = uring_attach,
    .poll = uring_poll,
    .poll_cancel = uring_poll_cancel,
    .wait = uring_wait,
    .dispatch = uring_dispatch,
    .wake = uring_wake,
    .is_ready = uring_is_ready,
    .fd = uring_fd,
};
