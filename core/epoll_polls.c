/*
 * Descriptors of others, polled by the epoll backend: one registration for all polls of a
 * descriptor. Owner thread only. Must not deliver an event inside a call, nor close a descriptor.
 */
#include "core/epoll.h"

#include "base/assert.h"
#include "base/count.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

enum { FDS_MIN = 64 };

static uint64_t poll_data(int fd)
{
    return (uint64_t)fd << MR_EPOLL_TAG_SHIFT | MR_EPOLL_TAG_POLL;
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
    int e = mr_epoll_control(ep, EPOLL_CTL_MOD, fd, mask, poll_data(fd));
    return e == ENOENT ? mr_epoll_control(ep, EPOLL_CTL_ADD, fd, mask, poll_data(fd)) : e;
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

uint64_t mr_epoll_poll(struct mr_io *io, int fd, uint32_t mask, mr_poll_fn fn, void *ctx)
{
    struct mr_epoll *ep = mr_epoll_of(io);
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

void mr_epoll_poll_cancel(struct mr_io *io, uint64_t id)
{
    struct mr_epoll *ep = mr_epoll_of(io);
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
    mr_epoll_control(ep, EPOLL_CTL_DEL, fd, 0, 0);
    mr_epoll_forget_events(ep, poll_data(fd));
}

void mr_epoll_fire(struct mr_epoll *ep, struct mr_poll *p, uint32_t events)
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

unsigned mr_epoll_ready_fd(struct mr_epoll *ep, int fd, uint32_t events)
{
    unsigned count = 0;
    /* The table may move and the list change in each call, so each time from the start; what the
     * calls add is not marked, or a poll that is renewed in its own call would fire for ever. */
    for (struct mr_poll *p = ep->poll_of_fd[fd]; p; p = p->next)
        p->is_armed = true;
    for (struct mr_poll *p; (p = first_concerned(ep, fd, events)); count++) {
        uint32_t seen = events & (p->mask | EPOLLERR | EPOLLHUP);
        mr_epoll_fire(ep, p, seen);
    }
    if (ep->poll_of_fd[fd])
        poll_watch(ep, fd);
    return count;
}
