/*
 * What the driver offers to holders: one statement with parameters and a deadline. Runs on the holder's thread,
 * which sleeps in poll(2); touches nothing but the handle the holder has for itself.
 */
#include "drivers/postgres/internal.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#define PARAMS_MAX 65535 /* the protocol counts them in 16 bits */

void moor_postgres_report(moor_lease lease, const struct pg_result *result)
{
    const char *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : "08006";
    if (sqlstate)
        moor_lease_report(lease, sqlstate, 0);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* until < 0: for ever. */
static moor_err wait_for(const PGconn *conn, short events, int64_t until)
{
    struct pollfd p = {.fd = PQsocket(conn), .events = events};
    if (p.fd < 0)
        return MOOR_ERESET;
    for (;;) {
        int64_t left = until < 0 ? -1 : until - now_ms();
        if (until >= 0 && left < 0)
            left = 0;
        const int n = poll(&p, 1, (int)(left > INT_MAX ? INT_MAX : left));
        if (n > 0)
            return MOOR_OK;
        if (n < 0 && errno != EINTR)
            return MOOR_ERESET;
        if (until >= 0 && now_ms() >= until)
            return MOOR_ETIMEDOUT;
    }
}

/* The first result is the answer; what a server sends after it is read, so that the handle is at rest. */
static moor_err collect(struct pg_link *s, int64_t until, PGresult **out)
{
    for (;;) {
        const int unsent = PQflush(s->conn);
        if (unsent < 0)
            return MOOR_ERESET;
        while (!PQisBusy(s->conn)) {
            PGresult *r = PQgetResult(s->conn);
            if (!r)
                return *out ? MOOR_OK : MOOR_ERESET;
            const ExecStatusType status = PQresultStatus(r);
            if (*out)
                PQclear(r);
            else
                *out = r;
            if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
                return MOOR_EINVAL;
            if (PQstatus(s->conn) != CONNECTION_OK)
                return MOOR_ERESET;
        }
        const moor_err e = wait_for(s->conn, (short)(POLLIN | (unsent ? POLLOUT : 0)), until);
        if (e != MOOR_OK)
            return e;
        if (!PQconsumeInput(s->conn) && PQstatus(s->conn) != CONNECTION_OK && PQisBusy(s->conn))
            return MOOR_ERESET;
    }
}

static struct pg_link *state_of(moor_lease lease)
{
    const moor_link *l = moor_lease_link(lease);
    return l && moor_link_driver(l) == moor_postgres_driver() ? moor_link_state(l) : NULL;
}

moor_err moor_postgres_query(moor_lease lease, const char *sql, int count,
                             const char *const *params, moor_ms timeout_ms, struct pg_result **out)
{
    *out = NULL;
    struct pg_link *s = state_of(lease);
    if (!s)
        return MOOR_ESTALE;
    if (!sql || count < 0 || count > PARAMS_MAX || (count && !params) ||
        (timeout_ms < 0 && timeout_ms != MOOR_FOREVER))
        return MOOR_EINVAL;
    if (PQstatus(s->conn) != CONNECTION_OK || s->is_spoiled)
        return MOOR_ERESET;
    if (PQtransactionStatus(s->conn) == PQTRANS_ACTIVE ||
        PQpipelineStatus(s->conn) != PQ_PIPELINE_OFF)
        return MOOR_EBUSY;
    const int64_t now = now_ms();
    const int64_t until =
        timeout_ms == MOOR_FOREVER || timeout_ms > INT64_MAX - now ? -1 : now + timeout_ms;
    const int was_nonblocking = PQisnonblocking(s->conn);
    moor_err e = MOOR_ERESET;
    if (!PQsetnonblocking(s->conn, 1) &&
        PQsendQueryParams(s->conn, sql, count, NULL, params, NULL, NULL, 0) == 1)
        e = collect(s, until, out);
    if (*out)
        moor_postgres_report(lease, *out);
    else if (e == MOOR_ERESET)
        moor_postgres_report(lease, NULL);
    if (e != MOOR_OK) {
        s->is_spoiled = true;
        PQclear(*out);
        *out = NULL;
    }
    if (PQsetnonblocking(s->conn, was_nonblocking))
        s->is_spoiled = true;
    return e;
}
