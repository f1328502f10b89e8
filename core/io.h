/*
 * The I/O seam: everything the library asks of the kernel, completion style, for one shard.
 * Three backends: core/io_uring.c, core/io_epoll.c, tests/support/io_sim.c.
 *
 * Rules every backend keeps, and every test of the seam checks:
 *  - Owner thread only, except mr_io_wake. No event is ever delivered inside a call, only inside
 *    mr_io_dispatch.
 *  - Per socket at most one connect, one send and one receive are under way.
 *  - connect, send, recv_start and close each cause exactly one closing event (connected, sent,
 *    recv_ended, closed). After mr_io_close the only event still to come is closed; after closed
 *    the backend has forgotten the socket and its memory may be reused.
 *  - Memory handed to send or connect stays valid until its event, or until closed.
 *  - A receive can be started again only after its recv_ended, from within that too: a stop does not
 *    end it, it asks for the end (asserted).
 */
#ifndef MR_CORE_IO_H
#define MR_CORE_IO_H

#include "alloc/buf.h"
#include "base/clock.h"
#include "base/list.h"

#include <mooring/error.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct mr_io;
struct mr_sock;

/* All five are always set. They may call any mr_io_* function, mr_io_close on their own socket too. */
struct mr_sock_events {
    void (*connected)(struct mr_sock *s, int err); /* 0 or a positive errno */
    /* len > 0 bytes at buf->data; the receiver owns one reference of buf.                            */
    void (*received)(struct mr_sock *s, struct mr_buf *buf, uint32_t len);
    /* 0 = the peer's FIN, ECANCELED = stopped, else a positive errno. Running out of buffers is not
     * an end: the backend waits for buffers and goes on by itself (fairly, oldest first).            */
    void (*recv_ended)(struct mr_sock *s, int err);
    /* All of the message was taken (err 0), or a positive errno; `taken` bytes went either way.      */
    void (*sent)(struct mr_sock *s, int err, size_t taken);
    void (*closed)(struct mr_sock *s);
};

/* Embedded in whatever has a socket. Zeroed (and fd = -1) before first use; 72 bytes or fewer so that an
 * idle conn stays small. */
struct mr_sock {
    const struct mr_sock_events *events;
    int32_t fd;               /* -1 = none */
    uint16_t pending;         /* backend: io_uring: operations whose last completion is outstanding;
                                 epoll: the errno that connected() or sent() will report         */
    bool is_connecting;       /* backend: connected() is due */
    bool is_receiving;        /* backend: recv_ended() is due */
    bool is_stopping;         /* backend: recv_stop was asked for */
    bool is_sending;          /* backend: sent() is due */
    bool is_closing;          /* backend: closed() is due */
    uint8_t bits;             /* backend's own */
    const struct msghdr *out; /* backend: what is being sent */
    size_t out_done;          /* backend: bytes of it that went */
    struct mr_list link;      /* backend: receives that wait for a buffer, oldest first */
    struct mr_sock *next;     /* backend: queue of what to submit or to deliver */
};

typedef void (*mr_poll_fn)(void *ctx,
                           uint32_t events); /* events: POLLIN, POLLOUT, POLLERR, POLLHUP */

/* Socket options every TCP socket of ours gets. Seconds; 0 = leave the kernel's. */
struct mr_sock_options {
    int keepalive_idle_s, keepalive_interval_s, keepalive_count;
    uint32_t user_timeout_ms;
};

struct mr_io_stats {
    uint64_t enters;    /* system calls that wait or submit */
    uint64_t syscalls;  /* every other system call the backend made */
    uint64_t events;    /* completions handled */
    uint64_t rearms;    /* receives armed again after the kernel ended them */
    uint64_t overflows; /* completion queue overflows seen */
    uint64_t starved;   /* receives that had to wait for a buffer */
};

struct mr_io_ops {
    const char *name; /* "io_uring", "epoll", "sim" */
    void (*destroy)(struct mr_io *io);
    int (*connect)(struct mr_io *io, struct mr_sock *s, const struct sockaddr *to, socklen_t len,
                   const struct mr_sock_options *o);
    void (*send)(struct mr_io *io, struct mr_sock *s, const struct msghdr *m);
    void (*recv_start)(struct mr_io *io, struct mr_sock *s);
    void (*recv_stop)(struct mr_io *io, struct mr_sock *s);
    void (*finish)(struct mr_io *io, struct mr_sock *s);
    void (*close)(struct mr_io *io, struct mr_sock *s);
    int (*detach)(struct mr_io *io, struct mr_sock *s);
    void (*attach)(struct mr_io *io, struct mr_sock *s, int fd);
    uint64_t (*poll)(struct mr_io *io, int fd, uint32_t mask, mr_poll_fn fn, void *ctx);
    void (*poll_cancel)(struct mr_io *io, uint64_t id);
    moor_err (*wait)(struct mr_io *io, int64_t timeout_ns);
    unsigned (*dispatch)(struct mr_io *io, unsigned budget);
    void (*wake)(struct mr_io *io);
    bool (*is_ready)(struct mr_io *io);
    int (*fd)(struct mr_io *io);
};

/* Base of every backend's own struct. */
struct mr_io {
    const struct mr_io_ops *ops;
    struct mr_buf_pool *bufs; /* borrowed from the shard */
    struct mr_heap *heap;     /* borrowed from the shard */
    struct mr_io_stats stats;
};

/* Newer kernel features than the floor of Linux 6.1, and what MOORING_IO_MASK can hide. */
enum mr_io_feature {
    MR_IO_NO_IOWAIT = 1u << 0, /* 6.15: waiting is not accounted as iowait */
    MR_IO_REG_RING = 1u << 1,  /* registered ring fd */
    MR_IO_FEATURES_ALL = 0xffffffffu
};

/* "no_iowait,reg_ring", "6.1", NULL = hide nothing. False: an unknown name. */
bool mr_io_mask_parse(const char *mask, uint32_t *out_features);

struct mr_io_config {
    struct mr_buf_pool *bufs;
    struct mr_heap *heap;
    uint32_t sq_entries, cq_entries; /* io_uring: 0 = 512/4096; halved on ENOMEM down to 64/256 */
    uint32_t posted_bytes_max; /* io_uring: receive buffers in the kernel's hands, 0 = 1 MiB */
    uint32_t features;         /* allowed mr_io_feature bits */
    bool is_embedded;          /* the fd will sit in a foreign loop's poll or epoll */
};

/* NULL and "auto" try io_uring, then epoll. `why` tells why the first choice was refused, "" if it was
 * not. The calling thread becomes the owner. MOOR_ENOSYS: the asked one is not to be had. */
MOOR_NODISCARD moor_err mr_io_create(const char *backend, const struct mr_io_config *c,
                                     struct mr_io **out, char *why, size_t why_cap);
MOOR_NODISCARD moor_err mr_io_uring_create(const struct mr_io_config *c, struct mr_io **out,
                                           char *why, size_t why_cap);
MOOR_NODISCARD moor_err mr_io_epoll_create(const struct mr_io_config *c, struct mr_io **out,
                                           char *why, size_t why_cap);

/* Every socket closed and every poll cancelled before this (asserted). */
static inline void mr_io_destroy(struct mr_io *io)
{
    if (io)
        io->ops->destroy(io);
}
/* Makes the socket (close-on-exec; TCP_NODELAY and keepalive on TCP) and begins to connect it.
 * A positive errno: no socket could be made, no event will come and s->fd stays -1; what connecting
 * itself says comes through connected(). AF_INET, AF_INET6, AF_UNIX stream. `o` may be NULL. */
static inline int mr_io_connect(struct mr_io *io, struct mr_sock *s, const struct sockaddr *to,
                                socklen_t len, const struct mr_sock_options *o)
{
    return io->ops->connect(io, s, to, len, o);
}
/* Sends all of it, in order. m and its iovecs, at most IOV_MAX (1024), stay valid until sent(). */
static inline void mr_io_send(struct mr_io *io, struct mr_sock *s, const struct msghdr *m)
{
    io->ops->send(io, s, m);
}
/* Delivers received() until recv_ended(). */
static inline void mr_io_recv_start(struct mr_io *io, struct mr_sock *s)
{
    io->ops->recv_start(io, s);
}
/* recv_ended follows, after what was already on its way. Idempotent; nothing where nothing is armed. */
static inline void mr_io_recv_stop(struct mr_io *io, struct mr_sock *s)
{
    io->ops->recv_stop(io, s);
}
/* shutdown(SHUT_WR): our FIN after what was sent. No send may be under way. No event. */
static inline void mr_io_finish(struct mr_io *io, struct mr_sock *s)
{
    io->ops->finish(io, s);
}
/* Cancels what is under way, closes the descriptor, then closed(). Also for a socket with fd -1. */
static inline void mr_io_close(struct mr_io *io, struct mr_sock *s)
{
    io->ops->close(io, s);
}
/* Gives the descriptor up without closing it; nothing may be under way. Returns it; s has none after. */
static inline int mr_io_detach(struct mr_io *io, struct mr_sock *s)
{
    return io->ops->detach(io, s);
}
/* A connected descriptor (of another shard's detach) becomes this socket's. */
static inline void mr_io_attach(struct mr_io *io, struct mr_sock *s, int fd)
{
    io->ops->attach(io, s, fd);
}
/* One-shot readiness of a descriptor somebody else owns. Returns an id, 0 = out of memory. */
static inline uint64_t mr_io_poll(struct mr_io *io, int fd, uint32_t mask, mr_poll_fn fn, void *ctx)
{
    return io->ops->poll(io, fd, mask, fn, ctx);
}
/* fn will not be called; to be done before the descriptor can be closed. A stale id is nothing. */
static inline void mr_io_poll_cancel(struct mr_io *io, uint64_t id)
{
    io->ops->poll_cancel(io, id);
}
/* Submits what is queued and waits (timeout 0 = not at all, MR_NEVER = until something happens); delivers
 * nothing, so that the caller can sample the clock between. Returns at once when there is something to
 * dispatch, early when woken. OK also on timeout and EINTR. */
static inline moor_err mr_io_wait(struct mr_io *io, int64_t timeout_ns)
{
    return io->ops->wait(io, timeout_ns);
}
/* Delivers what has completed, at most about `budget` events (0 = all that were there at the call).
 * Returns how many. */
static inline unsigned mr_io_dispatch(struct mr_io *io, unsigned budget)
{
    return io->ops->dispatch(io, budget);
}
/* Any thread, async-signal-safe: makes the present or next mr_io_wait return. */
static inline void mr_io_wake(struct mr_io *io)
{
    io->ops->wake(io);
}
/* User-space words only: is there something to dispatch or to submit? */
static inline bool mr_io_is_ready(struct mr_io *io)
{
    return io->ops->is_ready(io);
}
/* A descriptor that polls readable when wait(0) and dispatch would deliver something (is_embedded only). */
static inline int mr_io_fd(struct mr_io *io)
{
    return io->ops->fd(io);
}

#endif
