/*
 * PostgreSQL: PQexec on the leased PGconn, as a program of its own would. Runs on the thread that
 * holds the lease; libpq waits without limit.
 */
#include "drive.h"

#include <libpq-fe.h>
#include <mooring/postgres.h>
#include <stdio.h>

static bool is_answer(const PGresult *r)
{
    const ExecStatusType status = PQresultStatus(r);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

static bool run(struct drive_call *c)
{
    PGconn *connection = c->native;
    PGresult *r = PQexec(connection, c->query);
    const bool is_good = is_answer(r);
    if (!is_good) {
        const char *sqlstate = PQresultErrorField(r, PG_DIAG_SQLSTATE);
        const char *text = r ? PQresultErrorMessage(r) : PQerrorMessage(connection);
        if (sqlstate)
            drive_kind(c, "SQLSTATE %s", sqlstate);
        else
            drive_kind(c, "%s",
                       PQstatus(connection) == CONNECTION_BAD ? "connection lost" : "no answer");
        drive_text(c, *text ? text : "not a query with one answer, or an empty one");
        moor_postgres_report(c->lease, r);
    }
    PQclear(r);
    if (PQstatus(connection) == CONNECTION_BAD)
        c->how = MOOR_DISCARD;
    return is_good;
}

static bool version(struct drive_call *c)
{
    const char *number = PQparameterStatus(c->native, "server_version");
    snprintf(c->text, sizeof c->text, "PostgreSQL %s", number ? number : "");
    return number;
}

static int descriptor(void *native)
{
    return PQsocket(native);
}

const struct drive drive_postgres = {
    .name = "postgres",
    .schemes = "postgres postgresql",
    .driver = moor_postgres_driver,
    .query = "SELECT 1",
    .run = run,
    .version = version,
    .fd = descriptor,
};
