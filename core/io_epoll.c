/*
 * The epoll backend, for kernels and containers that refuse io_uring: readiness turned into the
 * same completions, level triggered, with as few changes of the interest list as can be. Owner
 * thread only, except the wake. Must not deliver an event inside any call but mr_io_dispatch.
 */
#include "core/io.h"

#include "base/assert.h"
#include "base/count.h"
#include "core/epoll.h"
#include "core/io_poll.h"
#include "core/io_socket.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    PIECES = 64,           /* iovecs per system call */
    BURST_BYTES = 1 << 20, /* sent inside a call at most; the rest when the socket is ready */
    POLLS_PER_PAGE = 32,
};

/* ---- creation ---- */

static const struct mr_io_ops epoll_ops;

moor_err mr_io_epoll_create(const struct mr_io_config *c, struct mr_io **out, char *why,
                            size_t why_cap)
{
    struct mr_epoll *ep = mr_heap_zalloc(c->heap, sizeof *ep);
    if (!ep)
        return MOOR_ENOMEM;
    ep->base = (struct mr_io){.ops = &epoll_ops, .bufs = c->bufs, .heap = c->heap};
    ep->has_pwait2 = true;
    mr_list_init(&ep->starved);
    mr_list_init(&ep->polls_due);
    mr_slab_init(&ep->polls, c->heap, sizeof(struct mr_poll), POLLS_PER_PAGE);
    ep->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    ep->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN | EPOLLET, .data.u64 = MR_EPOLL_TAG_WAKE};
    if (ep->epoll_fd >= 0 && ep->wake_fd >= 0 &&
        epoll_ctl(ep->epoll_fd, EPOLL_CTL_ADD, ep->wake_fd, &wake) == 0) {
        *out = &ep->base;
        return MOOR_OK;
    }
    int e = errno;
    const char *text = strerrordesc_np(e);
    snprintf(why, why_cap, "%s", text ? text : "unknown error");
    if (ep->epoll_fd >= 0)
        close(ep->epoll_fd);
    if (ep->wake_fd >= 0)
        close(ep->wake_fd);
    mr_slab_fini(&ep->polls);
    mr_heap_free(c->heap, ep, sizeof *ep);
    return e == EMFILE || e == ENFILE ? MOOR_ENOFILES : e == ENOMEM ? MOOR_ENOMEM : MOOR_ENOSYS;
}

static void epoll_destroy(struct mr_io *io)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    MR_ASSERT(!ep->queue_first);
    MR_ASSERT(mr_list_is_empty(&ep->starved));
    MR_ASSERT(ep->polls.used == 0);
    close(ep->epoll_fd);
    close(ep->wake_fd);
    mr_heap_free(io->heap, ep->poll_of_fd, ep->poll_fds * sizeof *ep->poll_of_fd);
    mr_slab_fini(&ep->polls);
    mr_heap_free(io->heap, ep, sizeof *ep);
}

/* ---- the interest list and the delivery queue ---- */

int mr_epoll_control(struct mr_epoll *ep, int op, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event ev = {.events = events, .data.u64 = data};
    MR_COUNT(ep->base.stats.syscalls, 1);
    return epoll_ctl(ep->epoll_fd, op, fd, &ev) == 0 ? 0 : errno;
}

/* Nothing wanted means out of the list: errors and hang-ups are reported whatever the mask. */
int mr_epoll_watch(struct mr_epoll *ep, struct mr_sock *s, uint8_t watches)
{
    uint8_t now = s->bits & MR_EPOLL_WATCHES;
    if (now == watches)
        return 0;
    int op = !now ? EPOLL_CTL_ADD : watches ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    uint32_t events =
        (watches & MR_EPOLL_WATCH_IN ? EPOLLIN : 0) | (watches & MR_EPOLL_WATCH_OUT ? EPOLLOUT : 0);
    int e = mr_epoll_control(ep, op, s->fd, events, (uint64_t)(uintptr_t)s | MR_EPOLL_TAG_SOCK);
    if (e == 0)
        s->bits = (uint8_t)((s->bits & ~MR_EPOLL_WATCHES) | watches);
    return e;
}

void mr_epoll_forget_events(struct mr_epoll *ep, uint64_t data)
{
    for (unsigned i = ep->event_next; i < ep->event_count; i++) {
        if (ep->events[i].data.u64 == data)
            ep->events[i].data.u64 = MR_EPOLL_TAG_NONE;
    }
}

void mr_epoll_due(struct mr_epoll *ep, struct mr_sock *s, uint8_t bit)
{
    s->bits |= bit;
    if (s->bits & MR_EPOLL_QUEUED)
        return;
    s->bits |= MR_EPOLL_QUEUED;
    s->next = NULL;
    if (ep->queue_last)
        ep->queue_last->next = s;
    else
        ep->queue_first = s;
    ep->queue_last = s;
    ep->queue_len++;
}

/* ---- connect ---- */

static int epoll_connect(struct mr_io *io, struct mr_sock *s, const struct sockaddr *to,
                         socklen_t len, const struct mr_sock_options *o)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    MR_ASSERT(s->fd == -1);
    MR_ASSERT(!s->is_closing);
    MR_ASSERT(((uintptr_t)s & MR_EPOLL_TAG_MASK) == 0);
    MR_COUNT(io->stats.syscalls, 2);
    int fd = mr_socket_open(to->sa_family, SOCK_NONBLOCK, o);
    if (fd < 0)
        return -fd;
    s->fd = fd;
    int e = connect(fd, to, len) == 0 ? 0 : errno;
    if (e == EINPROGRESS || e == EINTR) {
        e = mr_epoll_watch(ep, s, MR_EPOLL_WATCH_OUT);
        if (e) {
            close(fd);
            s->fd = -1;
            return e;
        }
        s->is_connecting = true;
        return 0;
    }
    s->is_connecting = true;
    s->pending = (uint16_t)e;
    mr_epoll_due(ep, s, MR_EPOLL_DUE_CONNECTED);
    return 0;
}

/* ---- send ---- */

/* Sends until done (0), full (EAGAIN), failed (errno), or `burst` bytes are gone (EAGAIN). */
static int push(struct mr_epoll *ep, struct mr_sock *s, size_t burst)
{
    const struct msghdr *m = s->out;
    const size_t total = mr_msg_len(m);
    size_t gone = 0;
    while (s->out_done < total) {
        if (gone >= burst)
            return EAGAIN;
        struct iovec pieces[PIECES];
        size_t offset = s->out_done;
        size_t i = mr_msg_seek(m, &offset);
        struct msghdr part = {.msg_iov = pieces};
        for (; i < m->msg_iovlen && part.msg_iovlen < PIECES; i++)
            pieces[part.msg_iovlen++] = m->msg_iov[i];
        pieces[0].iov_base = (char *)pieces[0].iov_base + offset;
        pieces[0].iov_len -= offset;
        MR_COUNT(ep->base.stats.syscalls, 1);
        ssize_t n = sendmsg(s->fd, &part, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        s->out_done += (size_t)n;
        gone += (size_t)n;
    }
    return 0;
}

static void epoll_send(struct mr_io *io, struct mr_sock *s, const struct msghdr *m)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    MR_ASSERT(s->fd >= 0 && !s->is_closing && !s->is_connecting);
    MR_ASSERT(!s->is_sending);
    MR_ASSERT(m->msg_iovlen <= MR_SOCKET_PIECES_MAX);
    s->is_sending = true;
    s->out = m;
    s->out_done = 0;
    int e = push(ep, s, BURST_BYTES);
    if (e == EAGAIN)
        e = mr_epoll_watch(ep, s, (s->bits & MR_EPOLL_WATCHES) | MR_EPOLL_WATCH_OUT);
    else if (e == 0)
        e = -1;
    if (e == 0)
        return;
    s->pending = e > 0 ? (uint16_t)e : 0;
    mr_epoll_due(ep, s, MR_EPOLL_DUE_SENT);
}

static void deliver_sent(struct mr_sock *s, int err)
{
    s->is_sending = false;
    s->out = NULL;
    s->pending = 0;
    s->events->sent(s, err, s->out_done);
}

/* ---- close, detach, attach ---- */

static void epoll_finish(struct mr_io *io, struct mr_sock *s)
{
    MR_ASSERT(!s->is_sending && !s->is_connecting && !s->is_closing);
    MR_COUNT(io->stats.syscalls, 1);
    shutdown(s->fd, SHUT_WR);
}

static void release(struct mr_epoll *ep, struct mr_sock *s)
{
    /* Not left to close: a descriptor that a forked child holds too would stay in the list. */
    mr_epoll_watch(ep, s, 0);
    mr_epoll_forget_events(ep, (uint64_t)(uintptr_t)s | MR_EPOLL_TAG_SOCK);
    mr_list_remove(&s->link);
}

static void epoll_close(struct mr_io *io, struct mr_sock *s)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    if (s->is_closing)
        return;
    s->is_closing = true;
    s->is_connecting = s->is_sending = s->is_receiving = s->is_stopping = false;
    if (s->fd >= 0) {
        release(ep, s);
        MR_COUNT(io->stats.syscalls, 1);
        close(s->fd);
        s->fd = -1;
    }
    s->bits &= (uint8_t)~MR_EPOLL_DUES;
    mr_epoll_due(ep, s, MR_EPOLL_DUE_CLOSED);
}

static int epoll_detach(struct mr_io *io, struct mr_sock *s)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    MR_ASSERT(!s->is_connecting && !s->is_sending && !s->is_receiving && !s->is_closing);
    release(ep, s);
    MR_ASSERT(s->bits == 0);
    int fd = s->fd;
    s->fd = -1;
    return fd;
}

static void epoll_attach(struct mr_io *io, struct mr_sock *s, int fd)
{
    (void)io;
    MR_ASSERT(s->fd == -1 && fd >= 0);
    MR_ASSERT(s->bits == 0 && !s->is_closing);
    MR_ASSERT(((uintptr_t)s & MR_EPOLL_TAG_MASK) == 0);
    s->fd = fd;
}

/* ---- waiting ---- */

static void epoll_wake(struct mr_io *io)
{
    const uint64_t one = 1;
    /* Fails only when the counter is full, which is a wake too. */
    ssize_t r = write(mr_epoll_of(io)->wake_fd, &one, sizeof one);
    (void)r;
}

static int ask_kernel(struct mr_epoll *ep, int64_t timeout_ns)
{
    MR_COUNT(ep->base.stats.enters, 1);
    if (ep->has_pwait2) {
        struct timespec ts = {.tv_sec = timeout_ns / MR_NS_PER_SEC,
                              .tv_nsec = timeout_ns % MR_NS_PER_SEC};
        int n = epoll_pwait2(ep->epoll_fd, ep->events, MR_EPOLL_BATCH,
                             timeout_ns == MR_NEVER ? NULL : &ts, NULL);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n;
        ep->has_pwait2 = false;
    }
    int64_t ms = timeout_ns / MR_NS_PER_MS + (timeout_ns % MR_NS_PER_MS != 0);
    ms = timeout_ns == MR_NEVER ? -1 : ms > INT_MAX ? INT_MAX : ms;
    return epoll_wait(ep->epoll_fd, ep->events, MR_EPOLL_BATCH, (int)ms);
}

static moor_err epoll_backend_wait(struct mr_io *io, int64_t timeout_ns)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    mr_epoll_rearm_starved(ep);
    if (ep->event_next < ep->event_count)
        return MOOR_OK;
    bool has_due = ep->queue_first || !mr_list_is_empty(&ep->polls_due);
    if (has_due || timeout_ns < 0)
        timeout_ns = 0;
    /* What is due already is a turn's work; but every other turn the kernel is heard too. */
    if (has_due && !ep->skipped) {
        ep->skipped = true;
        return MOOR_OK;
    }
    ep->skipped = false;
    int n = ask_kernel(ep, timeout_ns);
    ep->event_next = 0;
    ep->event_count = n > 0 ? (unsigned)n : 0;
    return MOOR_OK;
}

static bool epoll_is_ready(struct mr_io *io)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    return ep->event_next < ep->event_count || ep->queue_first ||
           !mr_list_is_empty(&ep->polls_due) ||
           (!mr_list_is_empty(&ep->starved) && !ep->refused && mr_buf_pool_available(io->bufs) > 0);
}

static int epoll_backend_fd(struct mr_io *io)
{
    return mr_epoll_of(io)->epoll_fd;
}

/* ---- delivery ---- */

static unsigned finish_connect(struct mr_epoll *ep, struct mr_sock *s)
{
    int err = 0;
    socklen_t len = sizeof err;
    MR_COUNT(ep->base.stats.syscalls, 1);
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0)
        err = errno;
    /* Watched for input from now on, since that is what follows; out of the list if it failed. */
    mr_epoll_watch(ep, s, err ? 0 : MR_EPOLL_WATCH_IN);
    s->is_connecting = false;
    s->events->connected(s, err);
    return 1;
}

static unsigned ready_sock(struct mr_epoll *ep, struct mr_sock *s, uint32_t events)
{
    if (s->is_connecting)
        return finish_connect(ep, s);
    unsigned count = 0;
    if ((s->bits & MR_EPOLL_WATCH_OUT) && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        int e = s->is_sending ? push(ep, s, BURST_BYTES) : 0;
        if (e != EAGAIN)
            mr_epoll_watch(ep, s, s->bits & MR_EPOLL_WATCH_IN);
        if (e != EAGAIN && s->is_sending) {
            deliver_sent(s, e);
            count++;
        }
    }
    if (s->is_closing || !(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
        return count;
    if (mr_epoll_is_reading(s))
        return count + mr_epoll_pull(ep, s);
    if (!(s->bits & MR_EPOLL_WATCH_OUT) || (s->bits & MR_EPOLL_WATCH_IN))
        mr_epoll_watch(ep, s, s->bits & MR_EPOLL_WATCH_OUT);
    return count;
}

static unsigned deliver_due(struct mr_sock *s)
{
    unsigned count = 0;
    uint8_t dues = s->bits & MR_EPOLL_DUES;
    s->bits &= (uint8_t)~MR_EPOLL_DUES;
    if (dues & MR_EPOLL_DUE_CLOSED) {
        s->is_closing = false;
        s->pending = 0;
        s->events->closed(s);
        return 1;
    }
    if (dues & MR_EPOLL_DUE_CONNECTED) {
        int err = s->pending;
        s->pending = 0;
        s->is_connecting = false;
        s->events->connected(s, err);
        count++;
    }
    if ((dues & MR_EPOLL_DUE_SENT) && !s->is_closing) {
        deliver_sent(s, s->pending);
        count++;
    }
    if ((dues & MR_EPOLL_DUE_ENDED) && !s->is_closing) {
        mr_epoll_deliver_ended(s, ECANCELED);
        count++;
    }
    return count;
}

static unsigned deliver_queue(struct mr_epoll *ep, unsigned budget)
{
    unsigned count = 0;
    /* What these calls make due waits for the next dispatch. */
    for (unsigned left = ep->queue_len; left > 0 && (budget == 0 || count < budget); left--) {
        struct mr_sock *s = ep->queue_first;
        ep->queue_first = s->next;
        if (!ep->queue_first)
            ep->queue_last = NULL;
        ep->queue_len--;
        s->bits &= (uint8_t)~MR_EPOLL_QUEUED;
        count += deliver_due(s);
    }
    return count;
}

static unsigned epoll_dispatch(struct mr_io *io, unsigned budget)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    unsigned count = deliver_queue(ep, budget);
    struct mr_list polls;
    mr_list_take_all(&polls, &ep->polls_due);
    for (struct mr_list *l; (l = mr_list_first(&polls)); count++) {
        struct mr_poll *p = MR_CONTAINER_OF(l, struct mr_poll, link);
        mr_epoll_fire(ep, p, p->mask);
    }
    while (ep->event_next < ep->event_count && (budget == 0 || count < budget)) {
        struct epoll_event ev = ep->events[ep->event_next++];
        if ((ev.data.u64 & MR_EPOLL_TAG_MASK) == MR_EPOLL_TAG_SOCK)
            count += ready_sock(ep, (struct mr_sock *)(uintptr_t)ev.data.u64, ev.events);
        else if ((ev.data.u64 & MR_EPOLL_TAG_MASK) == MR_EPOLL_TAG_POLL)
            count += mr_epoll_ready_fd(ep, (int)(ev.data.u64 >> MR_EPOLL_TAG_SHIFT), ev.events);
    }
    MR_COUNT(io->stats.events, count);
    return count;
}

static const struct mr_io_ops epoll_ops = {
    .name = "epoll",
    .destroy = epoll_destroy,
    .connect = epoll_connect,
    .send = epoll_send,
    .recv_start = mr_epoll_recv_start,
    .recv_stop = mr_epoll_recv_stop,
    .finish = epoll_finish,
    .close = epoll_close,
    .detach = epoll_detach,
    .attach = epoll_attach,
    .poll = mr_epoll_poll,
    .poll_cancel = mr_epoll_poll_cancel,
    .wait = epoll_backend_wait,
    .dispatch = epoll_dispatch,
    .wake = epoll_wake,
    .is_ready = epoll_is_ready,
    .fd = epoll_backend_fd,
};
