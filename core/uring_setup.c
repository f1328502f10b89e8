/*
 * Makes the ring of one shard, or says why the kernel refuses one.
 * The calling thread becomes the only one that may enter it. Must not leave anything half made.
 */
#include "core/uring.h"

#include "core/uring_compat.h"

#include <errno.h>
#include <string.h>

enum {
    SQ_DEFAULT = 512,
    CQ_DEFAULT = 4096,
    SQ_MIN = 64,
    CQ_MIN = 256,
    POSTED_BYTES_DEFAULT = 1 << 20, /* more than this thrashes L2 */
};

static unsigned setup_flags(const struct mr_io_config *c)
{
    unsigned common = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_TASKRUN_FLAG |
                      IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
    /* A poll of a DEFER_TASKRUN ring's descriptor never wakes; a COOP_TASKRUN ring's does. */
    return common | (c->is_embedded ? IORING_SETUP_COOP_TASKRUN : IORING_SETUP_DEFER_TASKRUN);
}

static int try_open(struct mr_uring *u, const struct mr_io_config *c, unsigned sq, unsigned cq)
{
    struct io_uring_params p = {.flags = setup_flags(c), .cq_entries = cq};
    int r = io_uring_queue_init_params(sq, &u->ring, &p);
    if (r < 0)
        return -r;
    int e = mr_uring_bufs_init(&u->bufs, &u->ring, c->bufs,
                               c->posted_bytes_max ? c->posted_bytes_max : POSTED_BYTES_DEFAULT);
    if (e)
        io_uring_queue_exit(&u->ring);
    return e;
}

/* The first enter is made here: an embedded ring must be wakeable before it was first waited for,
 * and a filter that refuses only this call must be noticed. */
static int start(struct mr_uring *u, const struct mr_io_config *c)
{
    io_uring_ring_dontfork(&u->ring);
    u->enter_flags = IORING_ENTER_GETEVENTS;
    /* A registered descriptor only saves a lookup: going without is fine. */
    if ((c->features & MR_IO_REG_RING) && io_uring_register_ring_fd(&u->ring) == 1)
        u->enter_flags |= IORING_ENTER_REGISTERED_RING;
    if ((c->features & MR_IO_NO_IOWAIT) && (u->ring.features & MR_URING_FEAT_NO_IOWAIT))
        u->enter_flags |= MR_URING_ENTER_NO_IOWAIT;
    mr_uring_submit(u);
    int r = mr_uring_enter(u, 0, 0);
    if (r >= 0 || r == -EINTR)
        return 0;
    mr_uring_close(u);
    return -r;
}

static const char *reason(int e)
{
    switch (e) {
    case ENOMEM:
        return "out of locked memory (RLIMIT_MEMLOCK)";
    case EPERM:
    case EACCES:
        return "refused by seccomp or kernel.io_uring_disabled";
    case ENOSYS:
        return "this kernel has no io_uring";
    case EINVAL:
        return "kernel older than 6.1: no DEFER_TASKRUN";
    case EMFILE:
    case ENFILE:
        return "out of file descriptors";
    default:
        return strerrordesc_np(e);
    }
}

int mr_uring_open(struct mr_uring *u, const struct mr_io_config *c, const char **out_why)
{
    unsigned sq = c->sq_entries ? c->sq_entries : SQ_DEFAULT;
    unsigned cq = c->cq_entries ? c->cq_entries : CQ_DEFAULT;
    cq = cq < sq ? sq : cq;
    int e = try_open(u, c, sq, cq);
    while (e == ENOMEM && (sq > SQ_MIN || cq > CQ_MIN)) {
        sq = sq / 2 < SQ_MIN ? SQ_MIN : sq / 2;
        cq = cq / 2 < CQ_MIN ? CQ_MIN : cq / 2;
        e = try_open(u, c, sq, cq);
    }
    e = e ? e : start(u, c);
    if (e) {
        const char *why = reason(e);
        *out_why = why ? why : "unknown error";
    }
    return e;
}

void mr_uring_close(struct mr_uring *u)
{
    mr_uring_bufs_fini(&u->bufs, &u->ring);
    io_uring_queue_exit(&u->ring);
}
