/*
 * The table of hooks of the postgres driver, and the end of a connection. PQfinish must never wait: the keeper
 * that runs it has other connections.
 */
#include "drivers/postgres/internal.h"

#include <stdlib.h>
#include <sys/socket.h>

static int watched_fd(moor_link *l)
{
    const struct pg_link *s = moor_link_state(l);
    return s && s->conn ? PQsocket(s->conn) : -1;
}

static moor_step resume(moor_link *l, unsigned events)
{
    struct pg_link *s = moor_link_state(l);
    return moor_link_task(l) == MOOR_TASK_CONNECT ? pg_connect_resume(l, s, events)
                                                  : pg_session_resume(l, s, events);
}

/* PQfinish sends a Terminate, and PQsetnonblocking what is left to send; in libpq's blocking mode both wait
 * for room. A connection at rest has nothing left to send; any other gets no goodbye, so that nothing waits. */
static void finish(PGconn *conn)
{
    const bool is_at_rest =
        PQtransactionStatus(conn) != PQTRANS_ACTIVE && PQpipelineStatus(conn) == PQ_PIPELINE_OFF;
    const int fd = PQsocket(conn);
    if (!is_at_rest && fd >= 0)
        (void)shutdown(fd, SHUT_RDWR);
    (void)PQsetnonblocking(conn, 1);
    PQfinish(conn);
}

static void drop(moor_link *l)
{
    struct pg_link *s = moor_link_state(l);
    if (!s)
        return;
    moor_link_set_native(l, NULL);
    moor_link_set_state(l, NULL);
    if (s->conn)
        finish(s->conn);
    free(s);
}

static const moor_driver driver = {
    .size = sizeof driver,
    .name = "postgres",
    .schemes = "postgres postgresql",
    .port = 5432,
    /* Measured with libpq 15: 38 KB without TLS, 108 with: each connection has an OpenSSL context of its own. */
    .handle_bytes = 108 * 1024,
    .open = pg_open,
    .shut = pg_shut,
    .connect = pg_connect,
    .prepare = pg_prepare,
    .check = pg_check,
    .reset = pg_reset,
    .resume = resume,
    .drop = drop,
    .fd = watched_fd,
    .idle = pg_idle,
    .returned = pg_returned,
    .judge = pg_judge,
};

const moor_driver *moor_postgres_driver(void)
{
    return &driver;
}
