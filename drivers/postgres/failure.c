/*
 * What is told of a failure: one of mooring's errors, and one line of libpq's or the server's words.
 */
#include "drivers/postgres/internal.h"

#include <stdio.h>
#include <string.h>

moor_step pg_failed(moor_link *l, moor_err err, const char *text)
{
    return moor_link_fail(l, err, 0, text);
}

/* "FATAL:  28P01: password ..." in whatever language: two spaces, five letters or digits, a colon. */
static bool find_sqlstate(const char *text, char sqlstate[6])
{
    static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (const char *at = strstr(text, ":  "); at; at = strstr(at + 1, ":  ")) {
        if (strspn(at + 3, alphabet) == 5 && at[8] == ':') {
            memcpy(sqlstate, at + 3, 5);
            sqlstate[5] = '\0';
            return true;
        }
    }
    sqlstate[0] = '\0';
    return false;
}

/* Lines become one. Where in the server's source it was, and what libpq guesses in a line that begins with a tab, is
 * nobody's concern here. */
static void fold(const char *text, char *out, size_t cap)
{
    size_t len = 0;
    for (const char *line = text; *line;) {
        const size_t whole = strcspn(line, "\n");
        const char *start = line + strspn(line, "\t ");
        const size_t blank = (size_t)(start - line);
        if (blank < whole && line[0] != '\t' && strncmp(start, "LOCATION:", 9) != 0) {
            const int n = snprintf(out + len, cap - len, "%s%.*s", len ? "; " : "",
                                   (int)(whole - blank), start);
            len += n > 0 ? (size_t)n : 0;
            if (len >= cap)
                return;
        }
        line += whole + (line[whole] == '\n');
    }
}

/* libpq compares target_session_attrs with what the server has told of itself. */
static bool is_another_role(const struct pg_config *c, const struct pg_link *s)
{
    return pg_has_word(c, "target_session_attrs") && PQparameterStatus(s->conn, "server_version");
}

static moor_err class_of(const struct pg_config *c, const struct pg_link *s, const char *sqlstate)
{
    if (!strncmp(sqlstate, "28", 2) || PQconnectionNeedsPassword(s->conn))
        return MOOR_EAUTH;
    if (!strncmp(sqlstate, "08P", 3))
        return MOOR_EPROTO;
    if (*sqlstate)
        return MOOR_ECONNECT;
    switch (s->stage) {
    case CONNECTION_SSL_STARTUP:
        return MOOR_ETLS;
    case CONNECTION_AWAITING_RESPONSE:
    case CONNECTION_AUTH_OK:
        /* libpq closes the socket when it meets its end, and leaves it open when it does not like the bytes. */
        if (PQsocket(s->conn) < 0)
            return MOOR_ERESET;
        return is_another_role(c, s) ? MOOR_ECONNECT : MOOR_EPROTO;
    default:
        return MOOR_ECONNECT;
    }
}

moor_step pg_connect_failed(moor_link *l, struct pg_link *s)
{
    const char *said = PQerrorMessage(s->conn);
    char sqlstate[6], text[PG_TEXT_MAX] = "";
    find_sqlstate(said, sqlstate);
    fold(said, text, sizeof text);
    return moor_link_fail(l, class_of(moor_link_config(l), s, sqlstate), 0,
                          *text ? text : "libpq gave no reason");
}

/* result: the server's answer, or NULL: what libpq says. Only the first line is told: the others quote SQL. */
moor_step pg_session_failed(moor_link *l, struct pg_link *s, const PGresult *result)
{
    const char *of = moor_link_task(l) == MOOR_TASK_PREPARE ? "prepare_sql"
                     : moor_link_task(l) == MOOR_TASK_RESET ? "reset"
                                                            : "check";
    const char *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *said = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    if (!sqlstate)
        sqlstate = s->sqlstate;
    if (!said)
        said = PQerrorMessage(s->conn);
    if (pg_verdict_of(sqlstate) == MOOR_VERDICT_FLUSH)
        moor_link_flush(l, "the server is shutting down or has changed its role");
    char text[PG_TEXT_MAX];
    snprintf(text, sizeof text, "%s: %s%s%.*s", of, sqlstate, *sqlstate ? " " : "",
             (int)strcspn(said, "\n"), said);
    const bool is_lost =
        PQstatus(s->conn) == CONNECTION_BAD || pg_verdict_of(sqlstate) != MOOR_VERDICT_KEEP;
    return moor_link_fail(l, is_lost ? MOOR_ERESET : MOOR_ECONNECT, 0, text);
}
