/*
 * What the files of the epoll backend share: its struct, sockets that receive, foreign descriptors.
 * Owner thread only.
 */
#ifndef MR_CORE_EPOLL_H
#define MR_CORE_EPOLL_H

#include "alloc/slab.h"
#include "core/io.h"
#include "core/io_poll.h"

#include <sys/epoll.h>

enum { MR_EPOLL_BATCH = 256 }; /* events taken from the kernel at once */

/* mr_sock.bits. */
enum {
    MR_EPOLL_WATCH_IN = 1 << 0,      /* in the interest list for this */
    MR_EPOLL_WATCH_OUT = 1 << 1,     /* and for this */
    MR_EPOLL_DUE_CONNECTED = 1 << 2, /* to be delivered, as are the next three */
    MR_EPOLL_DUE_SENT = 1 << 3,      /* its result is in `pending` */
    MR_EPOLL_DUE_ENDED = 1 << 4,     /* recv_ended(ECANCELED) */
    MR_EPOLL_DUE_CLOSED = 1 << 5,    /* the last event of the socket */
    MR_EPOLL_QUEUED = 1 << 6,        /* in the delivery queue */
    MR_EPOLL_WATCHES = MR_EPOLL_WATCH_IN | MR_EPOLL_WATCH_OUT,
    MR_EPOLL_DUES =
        MR_EPOLL_DUE_CONNECTED | MR_EPOLL_DUE_SENT | MR_EPOLL_DUE_ENDED | MR_EPOLL_DUE_CLOSED,
};

/* Low bits of epoll_data; above them the address of the mr_sock, or the descriptor polled. */
enum {
    MR_EPOLL_TAG_SOCK,
    MR_EPOLL_TAG_POLL,
    MR_EPOLL_TAG_WAKE,
    MR_EPOLL_TAG_NONE,
    MR_EPOLL_TAG_MASK = 7,
    MR_EPOLL_TAG_SHIFT = 3,
};

struct mr_epoll {
    struct mr_io base;
    int epoll_fd;
    int wake_fd;          /* eventfd, edge triggered and so never read */
    bool has_pwait2;      /* Linux 5.11, and not hidden by seccomp */
    bool skipped;         /* the last wait did not ask the kernel */
    bool refused;         /* the heap made no buffer though the pool may grow */
    unsigned event_count; /* of events[], and the first not yet handled */
    unsigned event_next;
    struct mr_sock *queue_first; /* mr_sock by next: with something to deliver */
    struct mr_sock *queue_last;
    unsigned queue_len;
    struct mr_list starved; /* mr_sock by link: receives without a buffer */
    struct mr_slab polls;
    struct mr_list polls_due;    /* mr_poll: of what epoll does not take */
    struct mr_poll **poll_of_fd; /* by descriptor: its live polls */
    uint32_t poll_fds;           /* entries of poll_of_fd */
    struct epoll_event events[MR_EPOLL_BATCH];
};

static inline struct mr_epoll *mr_epoll_of(struct mr_io *io)
{
    return MR_CONTAINER_OF(io, struct mr_epoll, base);
}

/* epoll_ctl. 0 or a positive errno. */
int mr_epoll_control(struct mr_epoll *ep, int op, int fd, uint32_t events, uint64_t data);
/* Has the kernel report `watches` (MR_EPOLL_WATCH_IN, MR_EPOLL_WATCH_OUT) of the socket. 0 or a
 * positive errno. */
int mr_epoll_watch(struct mr_epoll *ep, struct mr_sock *s, uint8_t watches);
/* What was fetched but not handled must not reach a socket or descriptor that is gone. */
void mr_epoll_forget_events(struct mr_epoll *ep, uint64_t data);
/* Notes that `bit` of the socket (MR_EPOLL_DUE_*) is to be delivered by the next dispatch. */
void mr_epoll_due(struct mr_epoll *ep, struct mr_sock *s, uint8_t bit);

/* core/epoll_recv.c: the backend's recv_start and recv_stop. */
void mr_epoll_recv_start(struct mr_io *io, struct mr_sock *s);
void mr_epoll_recv_stop(struct mr_io *io, struct mr_sock *s);
/* Neither stopped nor starved: what arrives is to be pulled. */
bool mr_epoll_is_reading(const struct mr_sock *s);
/* Reads and delivers what there is, in fair portions. Returns how many events it delivered. */
unsigned mr_epoll_pull(struct mr_epoll *ep, struct mr_sock *s);
void mr_epoll_deliver_ended(struct mr_sock *s, int err);
/* As many as there are buffers; the others would only starve again. */
void mr_epoll_rearm_starved(struct mr_epoll *ep);

/* core/epoll_polls.c: the backend's poll and poll_cancel. */
uint64_t mr_epoll_poll(struct mr_io *io, int fd, uint32_t mask, mr_poll_fn fn, void *ctx);
void mr_epoll_poll_cancel(struct mr_io *io, uint64_t id);
/* Ends the poll and calls it. */
void mr_epoll_fire(struct mr_epoll *ep, struct mr_poll *p, uint32_t events);
/* The kernel reported the descriptor. Returns how many polls it called. */
unsigned mr_epoll_ready_fd(struct mr_epoll *ep, int fd, uint32_t events);

#endif
