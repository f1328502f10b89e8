/*
 * What the files of the io_uring backend share: its struct, making the ring, submitting.
 * Owner thread only.
 */
#ifndef MR_CORE_URING_H
#define MR_CORE_URING_H

#include "alloc/slab.h"
#include "core/io.h"
#include "core/uring_bufs.h"

#include <liburing.h>

/* Low bits of user_data; the rest is the address of the mr_sock or mr_poll, which stays valid until
 * its last completion. */
enum mr_uring_op {
    MR_URING_OP_IGNORED, /* a cancel: what it cancelled speaks for itself */
    MR_URING_OP_CONNECT,
    MR_URING_OP_SEND,
    MR_URING_OP_RECV,
    MR_URING_OP_STOPPED, /* a NOP: the receive to be stopped was not armed */
    MR_URING_OP_CLOSE,
    MR_URING_OP_POLL,
    MR_URING_OP_WAKE,
    MR_URING_OP_MASK = 7,
};

/* mr_sock.bits. */
enum {
    MR_URING_WANT_CONNECT = 1 << 0, /* to be submitted, as are the next four */
    MR_URING_WANT_SEND = 1 << 1,
    MR_URING_WANT_RECV = 1 << 2,
    MR_URING_WANT_STOP = 1 << 3,
    MR_URING_WANT_CLOSE = 1 << 4,
    MR_URING_RECV_ARMED = 1 << 5, /* the kernel has a multishot receive */
    MR_URING_STARVED = 1 << 6,    /* in u->starved, to be wanted again */
    MR_URING_QUEUED = 1 << 7,     /* in the submission queue */
    MR_URING_WANTS = (1 << 5) - 1,
};

struct mr_uring {
    struct mr_io base;
    struct io_uring ring;
    struct mr_uring_bufs bufs;
    struct mr_slab polls;
    struct mr_list poll_queue;   /* mr_poll: to be armed, or to be cancelled in the kernel */
    struct mr_list poll_out;     /* mr_poll: armed or dying in the kernel */
    struct mr_list starved;      /* mr_sock by link: receives without a buffer, oldest first */
    struct mr_sock *queue_first; /* mr_sock by next: something of them is to be submitted */
    struct mr_sock *queue_last;
    unsigned enter_flags;
    int wake_fd; /* eventfd, never read: the multishot poll sees every write */
    bool is_wake_armed;
};

/* Makes the ring and the buffer ring, smaller ones if memory is refused. 0 or a positive errno with
 * the reason in *out_why (static). */
int mr_uring_open(struct mr_uring *u, const struct mr_io_config *c, const char **out_why);
void mr_uring_close(struct mr_uring *u);

/* Notes that `bit` of the socket (MR_URING_WANT_*) is to be submitted. */
void mr_uring_want(struct mr_uring *u, struct mr_sock *s, uint8_t bit);
/* A note that became void (a stop that its receive's end overtook) leaves the socket in the queue.
 */
void mr_uring_unqueue(struct mr_uring *u, struct mr_sock *s);
/* The receive waits for a buffer, behind those that wait already. */
void mr_uring_starve(struct mr_uring *u, struct mr_sock *s);
void mr_uring_unstarve(struct mr_sock *s);
/* Posts buffers and turns every note into a submission, entering the kernel only if the queue is
 * full. Whatever the kernel does not take now stays noted. */
void mr_uring_submit(struct mr_uring *u);
/* One io_uring_enter: submits, and waits for wait_nr completions. As the system call, negative
 * errno. */
int mr_uring_enter(struct mr_uring *u, unsigned wait_nr, int64_t timeout_ns);

#endif
