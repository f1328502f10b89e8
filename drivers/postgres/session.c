/*
 * The driver's own statements on a connection nobody holds: set-up, check and reset. Keeper; never waits.
 */
#include "drivers/postgres/internal.h"

#include <poll.h>

static moor_step begin(moor_link *l, struct pg_link *s)
{
    s->bytes = 0;
    s->script_at = 0;
    s->is_sent = false;
    if (!s->script_len)
        return MOOR_STEP_DONE;
    if (PQsetnonblocking(s->conn, 1))
        return pg_session_failed(l, s, NULL);
    pg_listen(s);
    return pg_session_resume(l, s, POLLOUT);
}

static void add(struct pg_link *s, const char *sql)
{
    if (sql)
        s->script[s->script_len++] = sql;
}

moor_step pg_prepare(moor_link *l)
{
    const struct pg_config *c = moor_link_config(l);
    struct pg_link *s = moor_link_state(l);
    s->script_len = 0;
    s->is_reset = false;
    add(s, c->prepare_sql);
    return begin(l, s);
}

moor_step pg_check(moor_link *l)
{
    struct pg_link *s = moor_link_state(l);
    s->script_len = 0;
    s->is_reset = false;
    add(s, ""); /* an empty query is answered by the backend itself */
    return begin(l, s);
}

moor_step pg_reset(moor_link *l)
{
    const struct pg_config *c = moor_link_config(l);
    struct pg_link *s = moor_link_state(l);
    s->script_len = 0;
    s->is_reset = c->reset != MOOR_POSTGRES_RESET_NEVER;
    const PGTransactionStatusType in = PQtransactionStatus(s->conn);
    if (in == PQTRANS_INTRANS || in == PQTRANS_INERROR)
        add(s, "ROLLBACK"); /* DISCARD ALL refuses to run in a transaction */
    if (s->is_reset) {
        add(s, c->reset_sql);
        add(s, c->prepare_sql); /* the reset undid it */
    }
    return begin(l, s);
}

static void forget_notifications(struct pg_link *s)
{
    for (PGnotify *n = PQnotifies(s->conn); n; n = PQnotifies(s->conn))
        PQfreemem(n);
}

static moor_step finished(moor_link *l, struct pg_link *s)
{
    if (PQtransactionStatus(s->conn) != PQTRANS_IDLE)
        return pg_failed(l, MOOR_ECONNECT,
                         s->is_reset || moor_link_task(l) == MOOR_TASK_PREPARE
                             ? "reset_sql or prepare_sql leaves a transaction open"
                             : "a transaction is open that should not be");
    if (s->is_reset)
        forget_notifications(s); /* meant for who listened, and the reset ended that */
    if (pg_has_wrong_role(moor_link_config(l), s)) {
        moor_link_flush(l, "the server has changed its role");
        return pg_failed(l, MOOR_ECONNECT,
                         "the server is no longer what target_session_attrs asks for");
    }
    if (PQsetnonblocking(s->conn, 0))
        return pg_session_failed(l, s, NULL);
    pg_listen_no_more(s);
    s->bytes = 0;
    return MOOR_STEP_DONE;
}

static bool is_success(const PGresult *r)
{
    const ExecStatusType status = PQresultStatus(r);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_EMPTY_QUERY;
}

/* What the buffer holds of the answer. *out: failed, or complete. False: there is more to come. */
static bool take_results(moor_link *l, struct pg_link *s, moor_step *out)
{
    while (!PQisBusy(s->conn)) {
        PGresult *r = PQgetResult(s->conn);
        if (!r) {
            *out = MOOR_STEP_DONE;
            return true;
        }
        const bool is_good = is_success(r) && !*s->sqlstate;
        if (!is_good)
            *out = pg_session_failed(l, s, r);
        PQclear(r);
        if (!is_good)
            return true;
    }
    return false;
}

static bool send_statement(struct pg_link *s)
{
    s->is_sent = s->is_sent || PQsendQuery(s->conn, s->script[s->script_at]) == 1;
    return s->is_sent;
}

moor_step pg_session_resume(moor_link *l, struct pg_link *s, unsigned events)
{
    if (!pg_count_bytes(s, PG_REPLY_BYTES_MAX))
        return pg_failed(l, MOOR_EPROTO,
                         "the server sends too much in answer to the driver's own statement");
    /* At the connection's end there may still be an answer in the buffer, which says why. */
    const bool is_lost = (events & ~(unsigned)POLLOUT) && !PQconsumeInput(s->conn);
    while (s->script_at < s->script_len) {
        if (!send_statement(s))
            return pg_session_failed(l, s, NULL);
        const int unsent = is_lost ? 0 : PQflush(s->conn);
        moor_step step;
        if (!take_results(l, s, &step)) {
            if (is_lost || unsent < 0 || PQsocket(s->conn) < 0)
                return pg_session_failed(l, s, NULL);
            return moor_link_wait(l, PQsocket(s->conn), (short)(POLLIN | (unsent ? POLLOUT : 0)),
                                  MOOR_FOREVER);
        }
        if (step == MOOR_STEP_FAILED)
            return step;
        s->script_at++;
        s->is_sent = false;
    }
    return finished(l, s);
}
