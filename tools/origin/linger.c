/*
 * The last moment of a conn whose answers have all been sent: FIN is, the peer's is waited for.
 * close(2) with unread input sends RST, which may overtake our last bytes. Runs on the conn's loop;
 * bounded in time. Must never send.
 */
#include <sys/socket.h>

#include "conn.h"

enum { LINGER_MS = 1000, READS_PER_TURN = 16 };

static const struct protocol linger_protocol;

static void drive_linger(struct conn *c)
{
    for (int i = 0; i < READS_PER_TURN; i++) {
        conn_consume(c, c->view.len);
        const enum io_result r = conn_read(c);
        if (r == IO_AGAIN)
            return;
        if (r != IO_OK) {
            conn_close(c);
            return;
        }
    }
    conn_consume(c, c->view.len);
    conn_resume_later(c);
}

void conn_linger(struct conn *c)
{
    if (c->peer_ended || shutdown(c->fd, SHUT_WR) != 0) {
        conn_close(c);
        return;
    }
    c->protocol->fini(c);
    c->protocol = &linger_protocol;
    timer_set(c, c->loop->now_ms + LINGER_MS);
    drive_linger(c);
}

static void nothing(struct conn *c)
{
    (void)c;
}

static const struct protocol linger_protocol = {
    .name = "linger",
    .open = nothing,
    .drive = drive_linger,
    .on_timer = conn_close,
    .stop = conn_close,
    .fini = nothing,
};
