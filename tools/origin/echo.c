/*
 * The raw byte echo of --echo-port: what comes in goes out, until the peer ends its side.
 * Runs on the conn's loop. Keeps at most what one full socket refused.
 */
#include "conn.h"

enum { READS_PER_TURN = 16 };

static void open_echo(struct conn *c)
{
    (void)c;
}

static void drive_echo(struct conn *c)
{
    for (int i = 0; i < READS_PER_TURN; i++) {
        const enum io_result out = conn_flush(c);
        if (out == IO_AGAIN)
            return;
        const enum io_result in = out == IO_OK ? conn_read(c) : IO_FAILED;
        if (in == IO_AGAIN)
            return;
        if (in != IO_OK) {
            conn_close(c);
            return;
        }
        uint64_t taken;
        const enum io_result sent = conn_send(c, &c->view, 1, &taken);
        if (sent == IO_FAILED) {
            conn_close(c);
            return;
        }
        buf_add(&c->pending, c->view.ptr + taken, c->view.len - taken);
        conn_consume(c, c->view.len);
    }
    conn_resume_later(c);
}

static void fini_echo(struct conn *c)
{
    (void)c;
}

const struct protocol echo_protocol = {
    .name = "echo",
    .open = open_echo,
    .drive = drive_echo,
    .on_timer = open_echo, /* arms none */
    .stop = conn_close,
    .fini = fini_echo,
};
