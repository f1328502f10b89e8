/*
 * One link of a connection's chain between the socket and the protocol: TLS, a proxy. A plain
 * connection has none. Runs only on the conn's shard.
 *
 * The chaining rule: open and pulled travel bottom-up, push and shut top-down; drop never chains, the
 * chain's owner (conn) calls each. A filter's state never lives in a shard's slab: the conn may move.
 */
#ifndef MR_CORE_FILTER_H
#define MR_CORE_FILTER_H

#include "alloc/buf.h"

#include <mooring/error.h>

#include <stddef.h>
#include <sys/uio.h>

struct mr_conn;
struct mr_filter;
struct mr_out;

enum mr_step {
    MR_STEP_DONE,  /* finished                                                                   */
    MR_STEP_AGAIN, /* needs bytes from below, or room below: call again when there are           */
    MR_STEP_FAILED /* f->fault says why; the conn closes                                         */
};

/* Received bytes on their way up. Borrowed: mr_buf_ref(buf) to keep them. */
struct mr_in {
    struct mr_buf *buf;
    const uint8_t *base;
    size_t len;
};

struct mr_filter_type {
    const char *name; /* in logs and stats */
    /* Call until not AGAIN: handshakes. After DONE, push and pulled carry data. */
    enum mr_step (*open)(struct mr_filter *f);
    /* Plain bytes from above; returns how many it took and has passed below. */
    size_t (*push)(struct mr_filter *f, const struct iovec *iov, unsigned count);
    /* Bytes from below; takes what it can and passes results up by mr_filter_deliver. The rest stays
     * on the conn and stops its recv. */
    size_t (*pulled)(struct mr_filter *f, const struct mr_in *in);
    /* The peer's FIN. NULL = pass up. A TLS filter says here whether the end was authentic. */
    moor_err (*ended)(struct mr_filter *f);
    /* Our end: close_notify and the like. Graceful, idempotent. NULL = nothing to say. */
    void (*shut)(struct mr_filter *f);
    void (*drop)(struct mr_filter *f); /* frees state; never chains */
};

struct mr_filter {
    const struct mr_filter_type *type;
    struct mr_conn *conn;
    struct mr_filter *above; /* towards the protocol; NULL = the protocol is next */
    struct mr_filter *below; /* towards the socket; NULL = the socket is next     */
    bool is_open;
    moor_fault fault;        /* when open returned FAILED                         */
};

/* For filters: results upwards, returns what was taken. */
size_t mr_filter_deliver(struct mr_filter *f, const struct mr_in *in);
/* For filters: one piece downwards; false = no memory below, the conn will close. Bytes stay valid until
 * out->sent runs. */
void mr_filter_emit(struct mr_filter *f, struct mr_out *out);

#endif
