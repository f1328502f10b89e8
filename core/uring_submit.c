/*
 * Turns what is noted on sockets and polls into submissions.
 * Owner thread only. Must not read a completion: what the kernel does not take now stays queued.
 */
#include "core/uring.h"

#include "base/assert.h"
#include "base/count.h"
#include "core/io_poll.h"
#include "core/io_socket.h"

#include <errno.h>
#include <poll.h>

enum { SEND_PIECE_MAX = 1 << 30 };

void mr_uring_want(struct mr_uring *u, struct mr_sock *s, uint8_t bit)
{
    s->bits |= bit;
    if (s->bits & MR_URING_QUEUED)
        return;
    s->bits |= MR_URING_QUEUED;
    s->next = NULL;
    if (u->queue_last)
        u->queue_last->next = s;
    else
        u->queue_first = s;
    u->queue_last = s;
}

void mr_uring_starve(struct mr_uring *u, struct mr_sock *s)
{
    MR_COUNT(u->base.stats.starved, 1);
    s->bits |= MR_URING_STARVED;
    mr_list_push_back(&u->starved, &s->link);
}

void mr_uring_unstarve(struct mr_sock *s)
{
    s->bits &= (uint8_t)~MR_URING_STARVED;
    mr_list_remove(&s->link);
}

void mr_uring_unqueue(struct mr_uring *u, struct mr_sock *s)
{
    if (!(s->bits & MR_URING_QUEUED))
        return;
    struct mr_sock *before = NULL;
    for (struct mr_sock *at = u->queue_first; at != s; at = at->next)
        before = at;
    if (before)
        before->next = s->next;
    else
        u->queue_first = s->next;
    if (u->queue_last == s)
        u->queue_last = before;
    s->bits &= (uint8_t)~MR_URING_QUEUED;
}

static void tag(struct io_uring_sqe *sqe, void *object, enum mr_uring_op op)
{
    sqe->user_data = (uint64_t)(uintptr_t)object | op;
}

int mr_uring_enter(struct mr_uring *u, unsigned wait_nr, int64_t timeout_ns)
{
    struct io_uring_sq *sq = &u->ring.sq;
    sq->sqe_head = sq->sqe_tail;
    io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    unsigned to_submit = sq->sqe_tail - io_uring_smp_load_acquire(sq->khead);
    struct __kernel_timespec ts;
    struct io_uring_getevents_arg arg = {0};
    if (wait_nr > 0 && timeout_ns != MR_NEVER) {
        ts.tv_sec = timeout_ns / MR_NS_PER_SEC;
        ts.tv_nsec = timeout_ns % MR_NS_PER_SEC;
        arg.ts = (uint64_t)(uintptr_t)&ts;
    }
    MR_COUNT(u->base.stats.enters, 1);
    return io_uring_enter2((unsigned)u->ring.enter_ring_fd, to_submit, wait_nr,
                           u->enter_flags | IORING_ENTER_EXT_ARG, (sigset_t *)(void *)&arg,
                           sizeof arg);
}

/* False: the kernel takes no more before completions are reaped. */
static bool reserve(struct mr_uring *u, unsigned count)
{
    if (MR_LIKELY(io_uring_sq_space_left(&u->ring) >= count))
        return true;
    mr_uring_enter(u, 0, 0);
    return io_uring_sq_space_left(&u->ring) >= count;
}

static bool submit_wake(struct mr_uring *u)
{
    if (!reserve(u, 1))
        return false;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    io_uring_prep_poll_multishot(sqe, u->wake_fd, POLLIN);
    tag(sqe, NULL, MR_URING_OP_WAKE);
    u->is_wake_armed = true;
    return true;
}

static void prep_send(struct io_uring_sqe *sqe, const struct mr_sock *s)
{
    const int flags = MSG_WAITALL | MSG_NOSIGNAL;
    const struct msghdr *m = s->out;
    size_t offset = s->out_done;
    size_t i = mr_msg_seek(m, &offset);
    if (s->out_done == 0 && m->msg_iovlen > 1) {
        io_uring_prep_sendmsg(sqe, s->fd, m, flags);
        return;
    }
    if (i == m->msg_iovlen) {
        io_uring_prep_send(sqe, s->fd, NULL, 0, flags);
        return;
    }
    /* One piece, or what is left of one that was cut short: WAITALL makes that rare. */
    const struct iovec *piece = &m->msg_iov[i];
    size_t len = piece->iov_len - offset;
    io_uring_prep_send(sqe, s->fd, (const char *)piece->iov_base + offset,
                       len < SEND_PIECE_MAX ? len : SEND_PIECE_MAX, flags);
}

static void submit_recv(struct mr_uring *u, struct mr_sock *s)
{
    /* Arming against an empty ring fails at once even if there is nothing to read. */
    if (u->bufs.posted == 0) {
        u->bufs.ran_dry = true;
        mr_uring_starve(u, s);
        return;
    }
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    io_uring_prep_recv_multishot(sqe, s->fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = MR_URING_BUF_GROUP;
    tag(sqe, s, MR_URING_OP_RECV);
    s->bits |= MR_URING_RECV_ARMED;
    s->pending++;
}

static void submit_stop(struct mr_uring *u, struct mr_sock *s)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (s->bits & MR_URING_RECV_ARMED) {
        io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)s | MR_URING_OP_RECV, 0);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        tag(sqe, NULL, MR_URING_OP_IGNORED);
    } else {
        io_uring_prep_nop(sqe);
        tag(sqe, s, MR_URING_OP_STOPPED);
        s->pending++;
    }
}

static void submit_close(struct mr_uring *u, struct mr_sock *s)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (s->fd >= 0 && s->pending > 0) {
        /* A close alone leaves an armed receive holding the connection open, without a FIN. */
        io_uring_prep_cancel_fd(sqe, s->fd, IORING_ASYNC_CANCEL_ALL);
        sqe->flags |= IOSQE_IO_HARDLINK | IOSQE_CQE_SKIP_SUCCESS;
        tag(sqe, NULL, MR_URING_OP_IGNORED);
        sqe = io_uring_get_sqe(&u->ring);
    }
    if (s->fd >= 0)
        io_uring_prep_close(sqe, s->fd);
    else
        io_uring_prep_nop(sqe);
    tag(sqe, s, MR_URING_OP_CLOSE);
    s->pending++;
}

/* At most three submissions: connect stands alone, a send may meet a start, a stop, or a close, which can be
 * two. The kernel sends before it looks at the close. */
static bool submit_sock(struct mr_uring *u, struct mr_sock *s)
{
    if (!reserve(u, 3))
        return false;
    uint8_t wants = s->bits & MR_URING_WANTS;
    s->bits &= (uint8_t) ~(MR_URING_WANTS | MR_URING_QUEUED);
    if (wants & MR_URING_WANT_CONNECT) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        io_uring_prep_connect(sqe, s->fd, (const struct sockaddr *)(const void *)s->out,
                              (socklen_t)s->out_done);
        tag(sqe, s, MR_URING_OP_CONNECT);
        s->pending++;
    }
    if (wants & MR_URING_WANT_SEND) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        prep_send(sqe, s);
        tag(sqe, s, MR_URING_OP_SEND);
        s->pending++;
    }
    if (wants & MR_URING_WANT_RECV)
        submit_recv(u, s);
    if (wants & MR_URING_WANT_STOP)
        submit_stop(u, s);
    if (wants & MR_URING_WANT_CLOSE)
        submit_close(u, s);
    return true;
}

static bool submit_polls(struct mr_uring *u)
{
    while (!mr_list_is_empty(&u->poll_queue)) {
        if (!reserve(u, 1))
            return false;
        struct mr_list *l = mr_list_pop_front(&u->poll_queue);
        struct mr_poll *p = MR_CONTAINER_OF(l, struct mr_poll, link);
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (p->is_cancelled) {
            io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)p | MR_URING_OP_POLL, 0);
            sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
            tag(sqe, NULL, MR_URING_OP_IGNORED);
        } else {
            io_uring_prep_poll_add(sqe, p->fd, p->mask);
            tag(sqe, p, MR_URING_OP_POLL);
            p->is_armed = true;
        }
        mr_list_push_back(&u->poll_out, &p->link);
    }
    return true;
}

/* As many as there are buffers: each may find data and take one, and more would only starve again.
 */
static void rearm_starved(struct mr_uring *u)
{
    for (uint32_t n = u->bufs.posted; n > 0 && !mr_list_is_empty(&u->starved); n--) {
        struct mr_list *l = mr_list_first(&u->starved);
        struct mr_sock *s = MR_CONTAINER_OF(l, struct mr_sock, link);
        mr_uring_unstarve(s);
        MR_COUNT(u->base.stats.rearms, 1);
        mr_uring_want(u, s, MR_URING_WANT_RECV);
    }
}

void mr_uring_submit(struct mr_uring *u)
{
    mr_uring_bufs_refill(&u->bufs);
    rearm_starved(u);
    if (!u->is_wake_armed && !submit_wake(u))
        return;
    if (!submit_polls(u))
        return;
    for (struct mr_sock *s; (s = u->queue_first);) {
        struct mr_sock *next = s->next;
        if (!submit_sock(u, s))
            return;
        u->queue_first = next;
        if (!next)
            u->queue_last = NULL;
    }
}
