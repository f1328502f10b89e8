/*
 * One link of a connection's chain between the socket and the protocol: TLS, a proxy. A plain
 * connection has none. Runs only on the conn's shard.
 *
 * The chaining rule: open and pulled travel bottom-up, push and shut top-down, and the conn drives all
 * of them: a filter calls its neighbours only through the mr_filter_* functions below. drop never
 * chains. Between two filters, and between a filter and the protocol, the conn keeps what one side has
 * given and the other has not yet taken; a filter keeps what it cannot yet work on.
 *
 * A conn may move between shards while it is idle, and takes its filters along: what a filter keeps
 * between calls comes from the runtime's heap, never from a shard's slab, heap or buffers.
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
    MR_STEP_DONE,  /* finished */
    MR_STEP_AGAIN, /* needs bytes from below, or room below: call again when there are */
    MR_STEP_FAILED /* f->fault says why; the conn closes */
};

/* Received bytes on their way up. Borrowed: mr_buf_ref(buf) to keep them. */
struct mr_in {
    struct mr_buf *buf;
    const uint8_t *base;
    size_t len;
};

/* Pieces on their way out, oldest first. */
struct mr_out_list {
    struct mr_out *first, **last;
};

struct mr_filter_type {
    const char *name; /* in logs and stats */
    /* Called again whenever bytes have come, until not AGAIN: handshakes. NULL = nothing to do. Only
     * after DONE do push and the filter above see data. */
    enum mr_step (*open)(struct mr_filter *f);
    /* Plain bytes from above; returns how many it took and has passed below. May take a part; may
     * take none only while a piece it emitted has not been sent: it is asked again after that. */
    size_t (*push)(struct mr_filter *f, const struct iovec *iov, unsigned count);
    /* Bytes from below: passes results up by mr_filter_deliver. What it does not take stays on the
     * conn, stops its recv and comes again when there is room above; so a filter that merely needs
     * more (a part of a record) takes that part and keeps it. Before open is DONE it takes handshake
     * bytes only: the rest comes again after. */
    size_t (*pulled)(struct mr_filter *f, const struct mr_in *in);
    /* The peer's FIN after all input; only if the filter is open and has not said mr_filter_end. OK =
     * pass it up. A TLS filter refuses here an end that is not authentic. NULL = pass up. */
    moor_err (*ended)(struct mr_filter *f);
    /* Our end: close_notify and the like. Called once, when all from above has been sent. NULL =
     * nothing to say. */
    void (*shut)(struct mr_filter *f);
    void (*drop)(struct mr_filter *f); /* frees state, once; every piece emitted has been let go */
};

struct mr_filter {
    const struct mr_filter_type *type;
    struct mr_conn *conn;
    struct mr_filter *above; /* towards the protocol; NULL = the protocol is next */
    struct mr_filter *below; /* towards the socket; NULL = the socket is next */
    struct mr_out_list todo; /* conn's: pieces from above, not yet pushed through */
    size_t todo_done;        /* conn's: bytes of todo.first that were */
    bool is_open;            /* conn's: open said DONE */
    bool is_shut;            /* conn's: shut was called */
    bool has_ended;          /* mr_filter_end was called */
    bool is_busy;            /* filter's: open, but the conn must not move or idle yet */
    moor_fault fault;        /* when open returned FAILED */
    const char *alpn; /* what the peer picked of the protocols offered; static; NULL = nothing */
};

/* For filters: results upwards, in->len > 0. Always taken: what is refused above stays on the conn. False:
 * nothing more is wanted now (or ever: the conn closes), so `pulled` should return. */
bool mr_filter_deliver(struct mr_filter *f, const struct mr_in *in);
/* For filters: where results of `len` bytes go before they are delivered: of the shard's buffers while
 * there are enough, else a block of their size. refs 1. NULL: the conn is failing for memory, return. */
struct mr_buf *mr_filter_buf(struct mr_filter *f, size_t len);
/* For filters: the peer said it sends no more, and meant it; what was delivered goes first. Bytes that
 * come after are still pulled, to be thrown away. */
void mr_filter_end(struct mr_filter *f);
/* For filters: push may take again what it did not take, though nothing of theirs was sent meanwhile. */
void mr_filter_writable(struct mr_filter *f);
/* For filters: open may be called again. Not from within a call of theirs. */
void mr_filter_again(struct mr_filter *f);
/* For filters: one piece downwards. Its bytes stay valid until out->sent, which may run inside this call
 * with an error when the conn is closing or out of memory. */
void mr_filter_emit(struct mr_filter *f, struct mr_out *out);

#endif
