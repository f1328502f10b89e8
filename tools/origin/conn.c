/*
 * The sockets: reading, coalesced writing, closing. Owns the fd and the buffers of a conn; runs on
 * its loop's thread only. Must never look at what the bytes mean.
 */
#include "conn.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tls_conn.h"

/* A request head may fill this; also bounds what one client makes us keep. */
enum { IN_KEPT_MAX = 64 * 1024, PIECES_MAX = 16 };

struct conn *conn_open(struct loop *l, int fd, const struct protocol *protocol)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return NULL;
    }
    c->loop = l;
    c->protocol = protocol;
    c->fd = fd;
    c->timer_slot = TIMER_OFF;
    /* Edge triggered and armed once: serving a request costs no epoll_ctl. */
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
        close(fd);
        free(c);
        return NULL;
    }
    LIST_INSERT_HEAD(&l->conns, c, all);
    count(&l->counters.accepted, 1);
    protocol->open(c);
    return c;
}

void conn_close(struct conn *c)
{
    struct loop *l = c->loop;
    c->protocol->fini(c);
    timer_clear(c);
    if (c->is_ready)
        TAILQ_REMOVE(&l->ready, c, ready);
    LIST_REMOVE(c, all);
    l->out_len = 0;
    if (c->tls)
        tls_conn_fini(c);
    close(c->fd);
    count(&l->counters.closed, 1);
    buf_fini(&c->in);
    buf_fini(&c->pending);
    free(c);
}

void conn_reset(struct conn *c)
{
    const struct linger now = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    conn_close(c);
}

void conn_end(struct conn *c)
{
    if (c->tls)
        (void)tls_notify(c);
    conn_close(c);
}

enum io_result conn_receive(struct conn *c, char *into, size_t room, size_t *out_len)
{
    if (!c->readable)
        return IO_AGAIN;
    ssize_t n;
    do
        n = recv(c->fd, into, room, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        c->readable = false;
        return errno == EAGAIN ? IO_AGAIN : IO_FAILED;
    }
    if (n == 0) {
        c->peer_ended = true;
        return IO_END;
    }
    /* epoll(7): a short read has emptied the socket; but a FIN already announced must be read. */
    if ((size_t)n < room && !c->peer_ended)
        c->readable = false;
    count(&c->loop->counters.bytes_in, (uint64_t)n);
    *out_len = (size_t)n;
    return IO_OK;
}

enum io_result conn_read(struct conn *c)
{
    /* TLS may hold what came with an earlier receive. */
    if (!c->readable && !c->tls)
        return IO_AGAIN;
    char *into = c->loop->in_scratch;
    size_t room = IN_SCRATCH, len;
    if (c->view.len) {
        conn_keep_view(c);
        if (c->in.len >= IN_KEPT_MAX)
            return IO_FAILED;
        room = IN_KEPT_MAX - c->in.len;
        buf_reserve(&c->in, room < 4096 ? room : 4096);
        c->view.ptr = c->in.data; /* growing may have moved it, and there may be nothing to read */
        if (c->in.cap - c->in.len < room)
            room = c->in.cap - c->in.len;
        into = c->in.data + c->in.len;
    }
    const enum io_result r =
        c->tls ? tls_read(c, into, room, &len) : conn_receive(c, into, room, &len);
    if (r != IO_OK)
        return r;
    if (c->view.len) {
        c->in.len += len;
        c->view = (struct span){c->in.data, c->in.len};
    } else {
        c->view = (struct span){into, len};
    }
    return IO_OK;
}

void conn_consume(struct conn *c, size_t len)
{
    if (len == 0)
        return; /* of an empty view there may be no address to count from */
    c->view.ptr += len;
    c->view.len -= len;
}

void conn_keep_view(struct conn *c)
{
    if (c->view.len == 0) {
        c->in.len = 0;
        return;
    }
    const bool is_kept =
        c->in.data && c->view.ptr >= c->in.data && c->view.ptr < c->in.data + c->in.cap;
    if (!is_kept) {
        c->in.len = 0;
        buf_add_span(&c->in, c->view);
    } else if (c->view.ptr != c->in.data) {
        memmove(c->in.data, c->view.ptr, c->view.len);
        c->in.len = c->view.len;
    }
    c->view = (struct span){c->in.data, c->in.len};
}

enum io_result conn_reserve(struct conn *c, size_t len)
{
    return OUT_SCRATCH - c->loop->out_len >= len ? IO_OK : conn_flush(c);
}

void conn_put(struct conn *c, const void *bytes, size_t len)
{
    struct loop *l = c->loop;
    memcpy(l->out_scratch + l->out_len, bytes, len);
    l->out_len += len;
}

enum io_result conn_flush(struct conn *c)
{
    uint64_t taken;
    return conn_send(c, NULL, 0, &taken);
}

void conn_drop_pending(struct conn *c, size_t len)
{
    c->pending_sent += len;
    if (c->pending_sent < c->pending.len || c->pending.cap == 0)
        return;
    buf_fini(&c->pending);
    c->pending_sent = 0;
}

void conn_keep_scratch(struct conn *c, size_t sent)
{
    struct loop *l = c->loop;
    buf_add(&c->pending, l->out_scratch + sent, l->out_len - sent);
    l->out_len = 0;
}

enum io_result conn_transmit(struct conn *c, struct iovec *iov, size_t iov_count, size_t *out_len)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = iov_count};
    ssize_t n;
    do
        n = iov_count == 1 ? send(c->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                           : sendmsg(c->fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN)
        return IO_FAILED;
    *out_len = n < 0 ? 0 : (size_t)n;
    count(&c->loop->counters.bytes_out, *out_len);
    return IO_OK;
}

enum io_result conn_send(struct conn *c, const struct span *pieces, unsigned piece_count,
                         uint64_t *out_taken)
{
    if (c->tls)
        return tls_send(c, pieces, piece_count, out_taken);
    struct loop *l = c->loop;
    struct iovec iov[PIECES_MAX + 2];
    size_t used = 0, total = 0, sent;
    const size_t pending = c->pending.len - c->pending_sent, scratch = l->out_len;
    *out_taken = 0;
    if (pending)
        iov[used++] = (struct iovec){c->pending.data + c->pending_sent, pending};
    if (scratch)
        iov[used++] = (struct iovec){l->out_scratch, scratch};
    for (unsigned i = 0; i < piece_count && i < PIECES_MAX; i++) {
        iov[used++] = (struct iovec){(void *)(uintptr_t)pieces[i].ptr, pieces[i].len};
        total += pieces[i].len;
    }
    total += pending + scratch;
    if (total == 0)
        return IO_OK;
    if (conn_transmit(c, iov, used, &sent) != IO_OK)
        return IO_FAILED;
    const bool is_complete = sent == total;

    const size_t from_pending = sent < pending ? sent : pending;
    sent -= from_pending;
    conn_drop_pending(c, from_pending);
    const size_t from_scratch = sent < scratch ? sent : scratch;
    conn_keep_scratch(c, from_scratch);
    *out_taken = sent - from_scratch;
    return is_complete ? IO_OK : IO_AGAIN;
}

enum io_result conn_notify(struct conn *c)
{
    return c->tls ? tls_notify(c) : conn_flush(c);
}

bool conn_is_blocked(const struct conn *c)
{
    return c->pending.len || (c->tls && tls_has_sealed(c->tls));
}

uint32_t conn_unsent(const struct conn *c)
{
    int bytes = 0;
    return ioctl(c->fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? (uint32_t)bytes : 0;
}

void conn_resume_later(struct conn *c)
{
    if (c->is_ready)
        return;
    c->is_ready = true;
    TAILQ_INSERT_TAIL(&c->loop->ready, c, ready);
}
