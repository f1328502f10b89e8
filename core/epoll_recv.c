/*
 * Receiving on sockets of the epoll backend, and who waits for a buffer to receive into. Owner
 * thread only. Must not read while no buffer is free, nor let a socket overtake those that wait for
 * one.
 */
#include "core/epoll.h"

#include "base/assert.h"
#include "base/count.h"

#include <errno.h>
#include <sys/socket.h>

enum { READS_MAX = 8 }; /* buffers per socket and turn: a fast peer must not starve others */

static void starve(struct mr_epoll *ep, struct mr_sock *s)
{
    MR_COUNT(ep->base.stats.starved, 1);
    mr_list_push_back(&ep->starved, &s->link);
    /* Level triggered: it would be reported again and again. */
    mr_epoll_watch(ep, s, s->bits & MR_EPOLL_WATCH_OUT);
}

void mr_epoll_recv_start(struct mr_io *io, struct mr_sock *s)
{
    struct mr_epoll *ep = mr_epoll_of(io);
    MR_ASSERT(s->fd >= 0 && !s->is_closing && !s->is_connecting);
    MR_ASSERT(!s->is_receiving && "a stopped receive has not ended before recv_ended");
    s->is_receiving = true;
    /* Others wait for a buffer: no overtaking. */
    if (!mr_list_is_empty(&ep->starved))
        starve(ep, s);
    else if (mr_epoll_watch(ep, s, (s->bits & MR_EPOLL_WATCHES) | MR_EPOLL_WATCH_IN) != 0)
        starve(ep, s);
}

/* The interest stays: on a connection that is used again it would only be put back. */
void mr_epoll_recv_stop(struct mr_io *io, struct mr_sock *s)
{
    if (!s->is_receiving || s->is_stopping || s->is_closing)
        return;
    s->is_stopping = true;
    mr_list_remove(&s->link);
    mr_epoll_due(mr_epoll_of(io), s, MR_EPOLL_DUE_ENDED);
}

void mr_epoll_deliver_ended(struct mr_sock *s, int err)
{
    s->is_receiving = s->is_stopping = false;
    s->bits &= (uint8_t)~MR_EPOLL_DUE_ENDED;
    s->events->recv_ended(s, err);
}

bool mr_epoll_is_reading(const struct mr_sock *s)
{
    return s->is_receiving && !s->is_stopping && !s->is_closing && !mr_list_is_linked(&s->link);
}

unsigned mr_epoll_pull(struct mr_epoll *ep, struct mr_sock *s)
{
    unsigned count = 0;
    for (int reads = 0; reads < READS_MAX && mr_epoll_is_reading(s); reads++) {
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
            mr_epoll_deliver_ended(s, e);
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

void mr_epoll_rearm_starved(struct mr_epoll *ep)
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
        if (mr_epoll_watch(ep, s, (s->bits & MR_EPOLL_WATCHES) | MR_EPOLL_WATCH_IN) != 0)
            return;
        mr_list_remove(l);
        MR_COUNT(ep->base.stats.rearms, 1);
    }
}
