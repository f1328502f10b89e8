/*
 * Whether a connection is fit for the next holder: what its holder did to it, what the server said on its own,
 * what an error means. Runs on the holder's thread (returned, judge) or the keeper's (idle); no I/O but the
 * reading of what lies in an idle connection's socket.
 */
#include "drivers/postgres/internal.h"

#include <string.h>

/* ---- SQLSTATEs ---- */

static const struct {
    const char *prefix;
    moor_verdict verdict;
} meanings[] = {
    {"08", MOOR_VERDICT_DISCARD},    /* connection exceptions                                  */
    {"25006", MOOR_VERDICT_FLUSH},   /* read-only: a primary that was demoted                  */
    {"25P03", MOOR_VERDICT_DISCARD}, /* idle_in_transaction_session_timeout                    */
    {"25P04", MOOR_VERDICT_DISCARD}, /* transaction_timeout                                    */
    {"57P01", MOOR_VERDICT_FLUSH},   /* admin_shutdown                                         */
    {"57P02", MOOR_VERDICT_FLUSH},   /* crash_shutdown                                         */
    {"57P03", MOOR_VERDICT_FLUSH},   /* cannot_connect_now                                     */
    {"57P04", MOOR_VERDICT_FLUSH},   /* database_dropped                                       */
    {"57P05", MOOR_VERDICT_DISCARD}, /* idle_session_timeout                                   */
};

moor_verdict pg_verdict_of(const char *sqlstate)
{
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
        if (!strncmp(sqlstate, meanings[i].prefix, strlen(meanings[i].prefix)))
            return meanings[i].verdict;
    return MOOR_VERDICT_KEEP;
}

static bool is_on(const PGconn *conn, const char *parameter)
{
    const char *value = PQparameterStatus(conn, parameter);
    return value && !strcmp(value, "on");
}

/* 25006 also answers a holder who asked for a read-only transaction. A server from 14 on tells what it is: one
 * that is no standby and takes writes by default has not failed over. */
static bool is_holders_own(const PGconn *conn)
{
    return PQparameterStatus(conn, "in_hot_standby") && !is_on(conn, "in_hot_standby") &&
           !is_on(conn, "default_transaction_read_only");
}

moor_verdict pg_judge(moor_link *l, const char *sqlstate, int code)
{
    (void)code;
    const struct pg_link *s = moor_link_state(l);
    if (!sqlstate)
        return MOOR_VERDICT_KEEP; /* a connection that is lost shows on release */
    if (!strcmp(sqlstate, "25006") && is_holders_own(s->conn))
        return MOOR_VERDICT_KEEP;
    return pg_verdict_of(sqlstate);
}

bool pg_has_wrong_role(const struct pg_config *c, const struct pg_link *s)
{
    if (c->role == PG_ROLE_ANY || !PQparameterStatus(s->conn, "in_hot_standby"))
        return false;
    return is_on(s->conn, "in_hot_standby") == (c->role == PG_ROLE_PRIMARY);
}

/* ---- what the server says unasked ---- */

static void say_nothing(void *arg, const char *message)
{
    (void)arg;
    (void)message;
}

/* libpq hands an error that answers no query to the receiver of notices, and so the last words of a server that
 * closes an idle connection. */
static void on_notice(void *arg, const PGresult *notice)
{
    struct pg_link *s = arg;
    const char *severity = PQresultErrorField(notice, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *sqlstate = PQresultErrorField(notice, PG_DIAG_SQLSTATE);
    if (severity && sqlstate && strlen(sqlstate) == 5 &&
        (!strcmp(severity, "FATAL") || !strcmp(severity, "PANIC")))
        memcpy(s->sqlstate, sqlstate, sizeof s->sqlstate);
}

/* What holders get: libpq's receiver, but nothing on stderr. */
void pg_silence(struct pg_link *s)
{
    if (!s->notice_receiver)
        s->notice_receiver = PQsetNoticeReceiver(s->conn, NULL, NULL); /* NULL only asks */
    (void)PQsetNoticeReceiver(s->conn, s->notice_receiver, NULL);
    (void)PQsetNoticeProcessor(s->conn, say_nothing, NULL);
}

/* Only while nobody holds it: each PGresult copies its connection's receiver, a holder may keep results for
 * longer than the lease, and the argument goes with the link. */
void pg_listen(struct pg_link *s)
{
    (void)PQsetNoticeReceiver(s->conn, on_notice, s);
}

void pg_listen_no_more(struct pg_link *s)
{
    (void)PQsetNoticeReceiver(s->conn, s->notice_receiver, NULL);
}

/* ---- verdicts ---- */

/* KEEP: alive as far as can be seen. */
static moor_verdict health(const struct pg_config *c, const struct pg_link *s)
{
    if (*s->sqlstate)
        return pg_verdict_of(s->sqlstate) == MOOR_VERDICT_FLUSH ? MOOR_VERDICT_FLUSH
                                                                : MOOR_VERDICT_DISCARD;
    if (PQstatus(s->conn) != CONNECTION_OK || s->is_spoiled)
        return MOOR_VERDICT_DISCARD;
    return pg_has_wrong_role(c, s) ? MOOR_VERDICT_FLUSH : MOOR_VERDICT_KEEP;
}

moor_verdict pg_idle(moor_link *l)
{
    struct pg_link *s = moor_link_state(l);
    const bool is_within = pg_count_bytes(s, PG_IDLE_BYTES_MAX);
    pg_listen(s);
    const bool is_open = PQconsumeInput(s->conn) == 1;
    (void)PQisBusy(s->conn); /* parses */
    pg_listen_no_more(s);
    const moor_verdict v = health(moor_link_config(l), s);
    return v == MOOR_VERDICT_KEEP && !(is_within && is_open) ? MOOR_VERDICT_DISCARD : v;
}

/* The handle's own settings, which no SQL resets. False: something is unsent or unread. */
static bool restore_handle(struct pg_link *s)
{
    PQuntrace(s->conn);
    pg_silence(s);
    (void)PQsetErrorVerbosity(s->conn, PQERRORS_DEFAULT);
    (void)PQsetErrorContextVisibility(s->conn, PQSHOW_CONTEXT_ERRORS);
    if (PQpipelineStatus(s->conn) != PQ_PIPELINE_OFF && !PQexitPipelineMode(s->conn))
        return false;
    return !PQsetnonblocking(s->conn, 0);
}

moor_verdict pg_returned(moor_link *l, moor_release_how how)
{
    const struct pg_config *c = moor_link_config(l);
    struct pg_link *s = moor_link_state(l);
    if (how == MOOR_DISCARD)
        return MOOR_VERDICT_DISCARD;
    const PGTransactionStatusType in = PQtransactionStatus(s->conn);
    const bool is_open = in == PQTRANS_INTRANS || in == PQTRANS_INERROR;
    const moor_verdict v = health(c, s);
    if (v != MOOR_VERDICT_KEEP)
        return v;
    if ((in != PQTRANS_IDLE && !is_open) || !restore_handle(s))
        return MOOR_VERDICT_DISCARD;
    s->bytes = 0; /* who held it could read its notifications */
    if (how == MOOR_DIRTY && c->reset == MOOR_POSTGRES_RESET_NEVER)
        return MOOR_VERDICT_DISCARD;
    if (how == MOOR_DIRTY || is_open || c->reset == MOOR_POSTGRES_RESET_ALWAYS)
        return MOOR_VERDICT_RESET;
    return MOOR_VERDICT_KEEP;
}
