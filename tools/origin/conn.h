/* One accepted connection: its socket, its buffers, what the kernel last said about it. */
#ifndef ORIGIN_CONN_H
#define ORIGIN_CONN_H

#include <sys/uio.h>

#include "h1.h"
#include "loop.h"

struct h2;
struct tls_conn;

/*
 * What is spoken on a listener. `drive` goes on until the kernel, a timer or the peer must act
 * first; it and `on_timer` may close the conn.
 */
struct protocol {
    const char *name;
    void (*open)(struct conn *c);
    void (*drive)(struct conn *c);
    void (*on_timer)(struct conn *c);
    void (*stop)(struct conn *c); /* the server ends: closes the conn, waits for nothing */
    void (*fini)(struct conn *c);
};

enum { TIMER_OFF = -1 };
enum { TURN_BYTES = 2 * 1024 * 1024 }; /* moved for one conn before the others have their turn */

struct conn {
    LIST_ENTRY(conn) all;
    TAILQ_ENTRY(conn) ready;
    struct loop *loop;
    const struct protocol *protocol;
    int fd;
    bool is_ready;   /* linked in loop->ready */
    bool readable;   /* edge seen, not yet answered by EAGAIN or a short read */
    bool peer_ended; /* FIN seen: reads must go on until they give 0 */
    long timer_slot; /* index in the heap, TIMER_OFF if not armed */
    uint64_t timer_ms;
    struct span view;   /* input not yet consumed: in the loop's scratch or in `in` */
    struct buf in;      /* input that waits for more of itself or for its turn */
    struct buf pending; /* output the socket refused */
    size_t pending_sent;
    struct tls_conn *tls; /* NULL: plain */
    struct h1 h1;
    struct h2 *h2; /* NULL: does not speak it */
};

enum io_result { IO_OK, IO_AGAIN, IO_END, IO_FAILED };

struct conn *conn_open(struct loop *l, int fd, const struct protocol *protocol);
void conn_close(struct conn *c); /* FIN, or RST if something was not read; no close_notify */
void conn_reset(struct conn *c); /* closes with RST */
void conn_end(struct conn *c);   /* says close_notify, if the socket takes it, and closes */
/* All is sent: FIN, then takes what still comes until the peer's. The protocol is done. */
void conn_linger(struct conn *c);

/* Adds received bytes to the view. IO_AGAIN: nothing there, the edge will come. */
enum io_result conn_read(struct conn *c);
void conn_consume(struct conn *c, size_t len);
/* Before leaving the turn or reading more: saves the view from the scratch that others will use. */
void conn_keep_view(struct conn *c);

/*
 * Output goes to the loop's scratch and leaves with conn_flush. IO_AGAIN means the socket is full
 * and the rest is kept in `pending`; nothing may be put before a flush gives IO_OK again.
 */
enum io_result conn_reserve(struct conn *c, size_t len);
void conn_put(struct conn *c, const void *bytes, size_t len); /* room was reserved */
enum io_result conn_flush(struct conn *c);
/* Sends the scratch and then bytes that stay valid for ever, uncopied; may take less than given. */
enum io_result conn_send(struct conn *c, const struct span *pieces, unsigned count,
                         uint64_t *out_taken);
uint32_t conn_unsent(const struct conn *c); /* bytes the peer has not acknowledged */

/* Flushes and says close_notify; on a plain conn only the former. Again after IO_AGAIN. */
enum io_result conn_notify(struct conn *c);
/* Must be flushed before anything else is done? */
bool conn_is_blocked(const struct conn *c);

/* To be driven again in the next turn, without waiting for the kernel. */
void conn_resume_later(struct conn *c);

/* --- the bare socket, for what stands between it and the buffers --- */

/* IO_AGAIN: nothing there, the edge will come. */
enum io_result conn_receive(struct conn *c, char *into, size_t room, size_t *out_len);
/* What was not taken waits for the edge; never IO_AGAIN. */
enum io_result conn_transmit(struct conn *c, struct iovec *iov, size_t iov_count, size_t *out_len);
void conn_drop_pending(struct conn *c, size_t len); /* so much of it has left */
/* What was not sent of the scratch moves to `pending`, so that the scratch is free. */
void conn_keep_scratch(struct conn *c, size_t sent);

extern const struct protocol echo_protocol;

#endif
