/*
 * The epoll backend, for kernels and containers that refuse io_uring: readiness turned into the
 * same completions, level triggered, with as few changes of the interest list as can be. Owner
 * thread only, except the wake. Must not deliver an event inside any call but mr_io_dispatch.
 */
#include "core/io.h"

#include "base/assert.h"
#include "base/count.h"
#include "core/io_poll.h"
#include "core/io_socket.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH = 256,           /* events taken from the kernel at once                            */
    READS_MAX = 8,         /* buffers per socket and turn: a fast peer must not starve others */
    PIECES = 64,           /* iovecs per system call                                          */
    BURST_BYTES = 1 << 20, /* sent inside a call at most; the rest when the socket is ready   */
    POLLS_PER_PAGE = 32,
    FDS_MIN = 64,
};

/* mr_sock.bits. */
enum {
    WATCH_IN = 1 << 0, /* in the interest list for this */
    WATCH_OUT = 1 << 1,
    DUE_CONNECTED = 1 << 2, /* to be delivered, as are the next three */
    DUE_SENT = 1 << 3,
    DUE_ENDED = 1 << 4, /* recv_ended(ECANCELED)                  */
    DUE_CLOSED = 1 << 5,
    QUEUED = 1 << 6, /* in the delivery queue                  */
    WATCHES = WATCH_IN | WATCH_OUT,
    DUES = DUE_CONNECTED | DUE_SENT | DUE_ENDED | DUE_CLOSED,
};

/* Low bits of epoll_data; above them the address of the mr_sock, or the descriptor polled. */
enum { TAG_SOCK, TAG_POLL, TAG_WAKE, TAG_NONE, TAG_MASK = 7, TAG_SHIFT = 3 };

struct mr_epoll {
    struct mr_io base;
    int epoll_fd;
    int wake_fd;          /* eventfd, edge triggered and so never read        */
    bool has_pwait2;      /* Linux 5.11, and not hidden by seccomp            */
    bool skipped;         /* the last wait did not ask the kernel             */
    bool refused;         /* the heap made no buffer though the pool may grow */
    unsigned event_count; /* of events[], and the first not yet handled       */
    unsigned event_next;
    struct mr_sock *queue_first; /* mr_sock by next: with something to deliver       */
    struct mr_sock *queue_last;
    unsigned queue_len;
    struct mr_list starved; /* mr_sock by link: receives without a buffer       */
    struct mr_slab polls;
    struct mr_list polls_due;    /* mr_poll: of what epoll does not take             */
    struct mr_poll **poll_of_fd; /* by descriptor: its live polls                    */
    uint32_t poll_fds;           /* entries of poll_of_fd                            */
    struct epoll_event events[BATCH];
};

static struct mr_epoll *epoll_of(struct mr_io *io)
{
    return MR_CONTAINER_OF(io, struct mr_epoll, base);
}

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
    struct epoll_event wake = {.events = EPOLLIN | EPOLLET, .data.u64 = TAG_WAKE};
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
    struct mr_epoll *ep = epoll_of(io);
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

static int control(struct mr_epoll *ep, int op, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event ev = {.events = events, .data.u64 = data};
    MR_COUNT(ep->base.stats.syscalls, 1);
    return epoll_ctl(ep->epoll_fd, op, fd, &ev) == 0 ? 0 : errno;
}

/* Nothing wanted means out of the list: errors and hang-ups are reported whatever the mask. */
static int watch(struct mr_epoll *ep, struct mr_sock *s, uint8_t watches)
{
    uint8_t now = s->bits & WATCHES;
    if (now == watches)
        return 0;
    int op = !now ? EPOLL_CTL_ADD : watches ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    uint32_t events = (watches & WATCH_IN ? EPOLLIN : 0) | (watches & WATCH_OUT ? EPOLLOUT : 0);
    int e = control(ep, op, s->fd, events, (uint64_t)(uintptr_t)s | TAG_SOCK);
    if (e == 0)
        s->bits = (uint8_t)((s->bits & ~WATCHES) | watches);
    return e;
}

/* What was fetched but not handled must not reach a socket or descriptor that is gone. */
static void forget_events(struct mr_epoll *ep, uint64_t data)
{
    for (unsigned i = ep->event_next; i < ep->event_count; i++) {
        if (ep->events[i].data.u64 == data)
            ep->events[i].data.u64 = TAG_NONE;
    }
}

static void due(struct mr_epoll *ep, struct mr_sock *s, uint8_t bit)
{
    s->bits |= bit;
    if (s->bits & QUEUED)
        return;
    s->bits |= QUEUED;
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
    struct mr_epoll *ep = epoll_of(io);
    MR_ASSERT(s->fd == -1);
    MR_ASSERT(!s->is_closing);
    MR_ASSERT(((uintptr_t)s & TAG_MASK) == 0);
    MR_COUNT(io->stats.syscalls, 2);
    int fd = mr_socket_open(to->sa_family, SOCK_NONBLOCK, o);
    if (fd < 0)
        return -fd;
    s->fd = fd;
    int e = connect(fd, to, len) == 0 ? 0 : errno;
    if (e == EINPROGRESS || e == EINTR) {
        e = watch(ep, s, WATCH_OUT);
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
    due(ep, s, DUE_CONNECTED);
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
    struct mr_epoll *ep = epoll_of(io);
    MR_ASSERT(s->fd >= 0 && !s->is_closing && !s->is_connecting);
    MR_ASSERT(!s->is_sending);
    MR_ASSERT(m->msg_iovlen <= MR_SOCKET_PIECES_MAX);
    s->is_sending = true;
    s->out = m;
    s->out_done = 0;
    int e = push(ep, s, BURST_BYTES);
    if (e == EAGAIN)
        e = watch(ep, s, (s->bits & WATCHES) | WATCH_OUT);
    else if (e == 0)
        e = -1;
    if (e == 0)
        return;
    s->pending = e > 0 ? (uint16_t)e : 0;
    due(ep, s, DUE_SENT);
}

static void deliver_sent(struct mr_sock *s, int err)
{
    s->is_sending = false;
    s->out = NULL;
    s->pending = 0;
    s->events->sent(s, err, s->out_done);
}

/* ---- receive ---- */

static void starve(struct mr_epoll *ep, struct mr_sock *s)
{
    MR_COUNT(ep->base.stats.starved, 1);
    mr_list_push_back(&ep->starved, &s->link);
    /* Level triggered: it would be reported again and again. */
    watch(ep, s, s->bits & WATCH_OUT);
}

static void deliver_ended(struct mr_sock *s, int err)
{
    s->is_receiving = s->is_stopping = false;
    s->bits &= (uint8_t)~DUE_ENDED;
    s->events->recv_ended(s, err);
}

static void epoll_recv_start(struct mr_io *io, struct mr_sock *s)
{
    struct mr_epoll *ep = epoll_of(io);
    MR_ASSERT(s->fd >= 0 && !s->is_closing && !s->is_connecting);
    MR_ASSERT(!s->is_receiving && "a stopped receive has not ended before recv_ended");
    s->is_receiving = true;
    /* Others wait for a buffer: no overtaking. */
    if (!mr_list_is_empty(&ep->starved))
        starve(ep, s);
    else if (watch(ep, s, (s->bits & WATCHES) | WATCH_IN) != 0)
        starve(ep, s);
}

/* The interest stays: on a connection that is used again it would only be put back. */
static void epoll_recv_stop(struct mr_io *io, struct mr_sock *s)
{
    if (!s->is_receiving || s->is_stopping || s->is_closing)
        return;
    s->is_stopping = true;
    mr_list_remove(&s->link);
    due(epoll_of(io), s, DUE_ENDED);
}

static bool is_reading(const struct mr_sock *s)
{
    return s->is_receiving && !s->is_stopping && !s->is_closing && !mr_list_is_linked(&s->link);
}

/* Returns how many events it delivered. */
static unsigned pull(struct mr_epoll *ep, struct mr_sock *s)
{
    unsigned count = 0;
    for (int reads = 0; reads < READS_MAX && is_reading(s); reads++) {
        bool has_some = mr_buf_pool_available(ep->base.bufs) > 0;
        struct mr_buf *b = has_some ? mr_buf_take(ep->base.bufs) : NULL;
        if (!b) {
            ep->refused = has_some;
            starve(ep, s);
            return count;
        }
        MR_COUNT(ep->base.stats.syscalls, 1);
        ssize_t n = recv(s->fd, b->data, b->cap, MSG_DONTWAIT);
        int e = n < 0 ? errno : 0;
        if (n <= 0) {
            mr_buf_untake(b);
            if (e == EAGAIN || e == EINTR)
                return count;
            deliver_ended(s, e);
            return count + 1;
        }
        bool is_short = n < (ssize_t)b->cap;
        mr_buf_fill(b);
        count++;
        s->events->received(s, b, (uint32_t)n);
        if (is_short)
            return count;
    }
    return count;
}

/* As many as there are buffers; the others would only starve again. */
static void rearm_starved(struct mr_epoll *ep)
{
    if (mr_list_is_empty(&ep->starved))
        return;
    if (ep->refused) {
        struct mr_buf *probe = mr_buf_take(ep->base.bufs);
        if (!probe)
            return;
        mr_buf_untake(probe);
        ep->refused = false;
    }
    for (uint32_t n = mr_buf_pool_available(ep->base.bufs); n > 0; n--) {
        struct mr_list *l = mr_list_first(&ep->starved);
        if (!l)
            return;
        struct mr_sock *s = MR_CONTAINER_OF(l, struct mr_sock, link);
        if (watch(ep, s, (s->bits & WATCHES) | WATCH_IN) != 0)
            return;
        mr_list_remove(l);
        MR_COUNT(ep->base.stats.rearms, 1);
    }
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
    watch(ep, s, 0);
    forget_events(ep, (uint64_t)(uintptr_t)s | TAG_SOCK);
    mr_list_remove(&s->link);
}

static void epoll_close(struct mr_io *io, struct mr_sock *s)
{
    struct mr_epoll *ep = epoll_of(io);
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
    s->bits &= (uint8_t)~DUES;
    due(ep, s, DUE_CLOSED);
}

static int epoll_detach(struct mr_io *io, struct mr_sock *s)
{
    struct mr_epoll *ep = epoll_of(io);
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
    MR_ASSERT(((uintptr_t)s & TAG_MASK) == 0);
    s->fd = fd;
}

/* ---- foreign descriptors ---- */

static uint64_t poll_data(int fd)
{
    return (uint64_t)fd << TAG_SHIFT | TAG_POLL;
}

static bool make_room_for_fd(struct mr_epoll *ep, int fd)
{
    if (fd < (int)ep->poll_fds)
        return true;
    uint32_t count = ep->poll_fds ? ep->poll_fds : FDS_MIN;
    while ((uint32_t)fd >= count)
        count *= 2;
    struct mr_poll **table = mr_heap_zalloc(ep->base.heap, count * sizeof *table);
    if (!table)
        return false;
    if (ep->poll_fds)
        memcpy(table, ep->poll_of_fd, ep->poll_fds * sizeof *table);
    mr_heap_free(ep->base.heap, ep->poll_of_fd, ep->poll_fds * sizeof *table);
    ep->poll_of_fd = table;
    ep->poll_fds = count;
    return true;
}

/* One registration serves every poll of the descriptor. It may still be there, disarmed, from a
 * poll that fired, or have gone with a descriptor of the same number. */
static int poll_watch(struct mr_epoll *ep, int fd)
{
    uint32_t mask = EPOLLONESHOT;
    for (const struct mr_poll *p = ep->poll_of_fd[fd]; p; p = p->next)
        mask |= p->mask & (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP);
    int e = control(ep, EPOLL_CTL_MOD, fd, mask, poll_data(fd));
    return e == ENOENT ? control(ep, EPOLL_CTL_ADD, fd, mask, poll_data(fd)) : e;
}

static void poll_unlink(struct mr_epoll *ep, struct mr_poll *p)
{
    if (p->fd < 0 || (uint32_t)p->fd >= ep->poll_fds)
        return;
    for (struct mr_poll **at = &ep->poll_of_fd[p->fd]; *at; at = &(*at)->next) {
        if (*at == p) {
            *at = p->next;
            return;
        }
    }
}

static uint64_t epoll_poll(struct mr_io *io, int fd, uint32_t mask, mr_poll_fn fn, void *ctx)
{
    struct mr_epoll *ep = epoll_of(io);
    struct mr_poll *p = mr_poll_take(&ep->polls, fd, mask, fn, ctx);
    if (!p)
        return 0;
    if (fd >= 0 && !make_room_for_fd(ep, fd))
        goto fail;
    int e = EBADF;
    if (fd >= 0) {
        p->next = ep->poll_of_fd[fd];
        ep->poll_of_fd[fd] = p;
        e = poll_watch(ep, fd);
    }
    if (e == ENOMEM || e == ENOSPC)
        goto fail;
    if (e) {
        /* A regular file is always ready, as poll(2) has it. */
        poll_unlink(ep, p);
        p->mask = e == EPERM ? mask : POLLERR;
        mr_list_push_back(&ep->polls_due, &p->link);
    }
    return mr_poll_id(p);
fail:
    poll_unlink(ep, p);
    mr_poll_retire(p);
    mr_poll_give(&ep->polls, p);
    return 0;
}

static void epoll_poll_cancel(struct mr_io *io, uint64_t id)
{
    struct mr_epoll *ep = epoll_of(io);
    struct mr_poll *p = mr_poll_find(id);
    if (!p)
        return;
    int fd = p->fd;
    bool is_due = mr_list_is_linked(&p->link);
    poll_unlink(ep, p);
    mr_poll_retire(p);
    mr_poll_give(&ep->polls, p);
    if (is_due || fd < 0)
        return;
    if (ep->poll_of_fd[fd]) {
        poll_watch(ep, fd);
        return;
    }
    control(ep, EPOLL_CTL_DEL, fd, 0, 0);
    forget_events(ep, poll_data(fd));
}

static void fire(struct mr_epoll *ep, struct mr_poll *p, uint32_t events)
{
    mr_poll_fn fn = p->fn;
    void *ctx = p->ctx;
    poll_unlink(ep, p);
    mr_poll_retire(p);
    /* Free before the call: it may poll again. */
    mr_poll_give(&ep->polls, p);
    fn(ctx, events);
}

static struct mr_poll *first_concerned(struct mr_epoll *ep, int fd, uint32_t events)
{
    for (struct mr_poll *p = ep->poll_of_fd[fd]; p; p = p->next) {
        if (p->is_armed && (events & (p->mask | EPOLLERR | EPOLLHUP)))
            return p;
    }
    return NULL;
}

/* ---- waiting ---- */

static void epoll_wake(struct mr_io *io)
{
    const uint64_t one = 1;
    /* Fails only when the counter is full, which is a wake too. */
    ssize_t r = write(epoll_of(io)->wake_fd, &one, sizeof one);
    (void)r;
}

static int ask_kernel(struct mr_epoll *ep, int64_t timeout_ns)
{
    MR_COUNT(ep->base.stats.enters, 1);
    if (ep->has_pwait2) {
        struct timespec ts = {.tv_sec = timeout_ns / MR_NS_PER_SEC,
                              .tv_nsec = timeout_ns % MR_NS_PER_SEC};
        int n = epoll_pwait2(ep->epoll_fd, ep->events, BATCH, timeout_ns == MR_NEVER ? NULL : &ts,
                             NULL);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n;
        ep->has_pwait2 = false;
    }
    int64_t ms = timeout_ns / MR_NS_PER_MS + (timeout_ns % MR_NS_PER_MS != 0);
    ms = timeout_ns == MR_NEVER ? -1 : ms > INT_MAX ? INT_MAX : ms;
    return epoll_wait(ep->epoll_fd, ep->events, BATCH, (int)ms);
}

static moor_err epoll_backend_wait(struct mr_io *io, int64_t timeout_ns)
{
    struct mr_epoll *ep = epoll_of(io);
    rearm_starved(ep);
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
    struct mr_epoll *ep = epoll_of(io);
    return ep->event_next < ep->event_count || ep->queue_first ||
           !mr_list_is_empty(&ep->polls_due) ||
           (!mr_list_is_empty(&ep->starved) && !ep->refused && mr_buf_pool_available(io->bufs) > 0);
}

static int epoll_backend_fd(struct mr_io *io)
{
    return epoll_of(io)->epoll_fd;
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
    watch(ep, s, err ? 0 : WATCH_IN);
    s->is_connecting = false;
    s->events->connected(s, err);
    return 1;
}

static unsigned ready_sock(struct mr_epoll *ep, struct mr_sock *s, uint32_t events)
{
    if (s->is_connecting)
        return finish_connect(ep, s);
    unsigned count = 0;
    if ((s->bits & WATCH_OUT) && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        int e = s->is_sending ? push(ep, s, BURST_BYTES) : 0;
        if (e != EAGAIN)
            watch(ep, s, s->bits & WATCH_IN);
        if (e != EAGAIN && s->is_sending) {
            deliver_sent(s, e);
            count++;
        }
    }
    if (s->is_closing || !(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
        return count;
    if (is_reading(s))
        return count + pull(ep, s);
    if (!(s->bits & WATCH_OUT) || (s->bits & WATCH_IN))
        watch(ep, s, s->bits & WATCH_OUT);
    return count;
}

static unsigned ready_fd(struct mr_epoll *ep, int fd, uint32_t events)
{
    unsigned count = 0;
    /* The table may move and the list change in each call, so each time from the start; what the
     * calls add is not marked, or a poll that is renewed in its own call would fire for ever. */
    for (struct mr_poll *p = ep->poll_of_fd[fd]; p; p = p->next)
        p->is_armed = true;
    for (struct mr_poll *p; (p = first_concerned(ep, fd, events)); count++) {
        uint32_t seen = events & (p->mask | EPOLLERR | EPOLLHUP);
        fire(ep, p, seen);
    }
    if (ep->poll_of_fd[fd])
        poll_watch(ep, fd);
    return count;
}

static unsigned deliver_due(struct mr_sock *s)
{
    unsigned count = 0;
    uint8_t dues = s->bits & DUES;
    s->bits &= (uint8_t)~DUES;
    if (dues & DUE_CLOSED) {
        s->is_closing = false;
        s->pending = 0;
        s->events->closed(s);
        return 1;
    }
    if (dues & DUE_CONNECTED) {
        int err = s->pending;
        s->pending = 0;
        s->is_connecting = false;
        s->events->connected(s, err);
        count++;
    }
    if ((dues & DUE_SENT) && !s->is_closing) {
        deliver_sent(s, s->pending);
        count++;
    }
    if ((dues & DUE_ENDED) && !s->is_closing) {
        deliver_ended(s, ECANCELED);
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
        s->bits &= (uint8_t)~QUEUED;
        count += deliver_due(s);
    }
    return count;
}

static unsigned epoll_dispatch(struct mr_io *io, unsigned budget)
{
    struct mr_epoll *ep = epoll_of(io);
    unsigned count = deliver_queue(ep, budget);
    struct mr_list polls;
    mr_list_take_all(&polls, &ep->polls_due);
    for (struct mr_list *l; (l = mr_list_first(&polls)); count++) {
        struct mr_poll *p = MR_CONTAINER_OF(l, struct mr_poll, link);
        fire(ep, p, p->mask);
    }
    while (ep->event_next < ep->event_count && (budget == 0 || count < budget)) {
        struct epoll_event ev = ep->events[ep->event_next++];
        if ((ev.data.u64 & TAG_MASK) == TAG_SOCK)
            count += ready_sock(ep, (struct mr_sock *)(uintptr_t)ev.data.u64, ev.events);
        else if ((ev.data.u64 & TAG_MASK) == TAG_POLL)
            count += ready_fd(ep, (int)(ev.data.u64 >> TAG_SHIFT), ev.events);
    }
    MR_COUNT(io->stats.events, count);
    return count;
}

static const struct mr_io_ops epoll_ops = {
    .name = "epoll",
    .destroy = epoll_destroy,
    .connect = epoll_connect,
    .send = epoll_send,
    .recv_start = epoll_recv_start,
    .recv_stop = epoll_recv_stop,
    .finish = epoll_finish,
    .close = epoll_close,
    .detach = epoll_detach,
    .attach = epoll_attach,
    .poll = epoll_poll,
    .poll_cancel = epoll_poll_cancel,
    .wait = epoll_backend_wait,
    .dispatch = epoll_dispatch,
    .wake = epoll_wake,
    .is_ready = epoll_is_ready,
    .fd = epoll_backend_fd,
};
