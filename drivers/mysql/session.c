/*
 * What the keeper does with a connected handle: set-up, check, reset, goodbye. Each task is a chain of calls of
 * libmariadb's, any of which may be suspended. Runs on the keeper only; must never wait there, nor read more than
 * a little of what a server sends.
 */
#include "drivers/mysql/internal.h"

#include <stdio.h>
#include <string.h>

void mr_mysql_note_session(const MYSQL *my, struct mr_mysql_session *out)
{
    snprintf(out->database, sizeof out->database, "%s", my->db ? my->db : "");
    out->charset = my->charset;
    out->status = my->server_status;
}

/* ---- calls ---- */

static void begin(struct mr_mysql_link *s, const struct mr_mysql_config *c, enum mr_mysql_call call)
{
    s->call = call;
    s->answer = 0;
    switch (call) {
    case MR_MYSQL_PING:
        s->waits = mysql_ping_start(&s->answer, s->my);
        break;
    case MR_MYSQL_RESET:
        s->waits = mysql_reset_connection_start(&s->answer, s->my);
        break;
    case MR_MYSQL_SELECT_DB:
        s->waits = mysql_select_db_start(&s->answer, s->my, s->fresh.database);
        break;
    case MR_MYSQL_SET_CHARSET:
        s->waits = mysql_set_character_set_start(&s->answer, s->my, c->text[MR_MYSQL_CHARSET]);
        break;
    case MR_MYSQL_QUERY:
        s->rows = 0;
        s->waits =
            mysql_real_query_start(&s->answer, s->my, c->prepare_sql, strlen(c->prepare_sql));
        break;
    case MR_MYSQL_FETCH_ROW:
        s->rows++;
        s->waits = mysql_fetch_row_start(&s->row, s->result);
        break;
    case MR_MYSQL_NEXT_RESULT:
        s->rows++;
        s->waits = mysql_next_result_start(&s->answer, s->my);
        break;
    case MR_MYSQL_CLOSE:
        s->waits = mysql_close_start(s->my);
        break;
    case MR_MYSQL_IDLE:
    case MR_MYSQL_CONNECT:
        s->waits = 0;
        break;
    }
}

static void begin_call(moor_link *l, enum mr_mysql_call call)
{
    mr_mysql_forget_errors(l);
    begin(moor_link_state(l), moor_link_config(l), call);
    mr_mysql_forget_errors(l);
}

/* What follows a statement or reset: IDLE is the end. */
static enum mr_mysql_call after_reset(const struct mr_mysql_link *s,
                                      const struct mr_mysql_config *c, enum mr_mysql_call call)
{
    /* The server keeps the database. MariaDB returns to the character set of the handshake, MySQL to its own
     * default, and libmariadb to none: it would go on to escape for the last one. */
    const bool other_db = s->my->db && strcmp(s->my->db, s->fresh.database) != 0;
    if (call < MR_MYSQL_SELECT_DB && other_db)
        return MR_MYSQL_SELECT_DB;
    if (call < MR_MYSQL_SET_CHARSET &&
        (s->my->charset != s->fresh.charset || !mariadb_connection(s->my)))
        return MR_MYSQL_SET_CHARSET;
    return c->prepare_sql ? MR_MYSQL_QUERY : MR_MYSQL_IDLE;
}

/* A result set, or none: neither is of interest, but all of it has to be read. */
static enum mr_mysql_call after_statement(struct mr_mysql_link *s)
{
    s->result = mysql_use_result(s->my);
    if (s->result)
        return MR_MYSQL_FETCH_ROW;
    return mysql_more_results(s->my) ? MR_MYSQL_NEXT_RESULT : MR_MYSQL_IDLE;
}

static enum mr_mysql_call after_row(struct mr_mysql_link *s)
{
    if (s->row)
        return MR_MYSQL_FETCH_ROW;
    mysql_free_result(s->result); /* read to its end: waits for nothing */
    s->result = NULL;
    return mysql_more_results(s->my) ? MR_MYSQL_NEXT_RESULT : MR_MYSQL_IDLE;
}

static enum mr_mysql_call next_call(struct mr_mysql_link *s, const struct mr_mysql_config *c)
{
    switch (s->call) {
    case MR_MYSQL_RESET:
    case MR_MYSQL_SELECT_DB:
    case MR_MYSQL_SET_CHARSET:
        return after_reset(s, c, s->call);
    case MR_MYSQL_QUERY:
        return after_statement(s);
    case MR_MYSQL_NEXT_RESULT:
        return s->answer < 0 ? MR_MYSQL_IDLE : after_statement(s);
    case MR_MYSQL_FETCH_ROW:
        return after_row(s);
    default:
        return MR_MYSQL_IDLE;
    }
}

static const char *name_of(enum mr_mysql_call call)
{
    switch (call) {
    case MR_MYSQL_PING:
        return "check";
    case MR_MYSQL_RESET:
        return "reset";
    case MR_MYSQL_SELECT_DB:
        return "reset: the database";
    case MR_MYSQL_SET_CHARSET:
        return "reset: the character set";
    default:
        return "prepare_sql";
    }
}

/* ---- tasks ---- */

static moor_step end(moor_link *l)
{
    const struct mr_mysql_config *c = moor_link_config(l);
    struct mr_mysql_link *s = moor_link_state(l);
    s->call = MR_MYSQL_IDLE;
    if (moor_link_task(l) == MOOR_TASK_PREPARE)
        mr_mysql_note_session(s->my, &s->usual);
    /* MariaDB answers a reset, and pings after it, with the status of before; the next statement tells. */
    s->my->server_status = s->usual.status;
    s->my->net.max_packet_size = c->packet_max;
    if (s->has_tls)
        mr_mysql_set_blocking(s, true);
    return MOOR_STEP_DONE;
}

/* -1 of mysql_next_result is that there is none; of others it is a failure like 1. */
static bool has_failed(const struct mr_mysql_link *s)
{
    if (s->call == MR_MYSQL_FETCH_ROW)
        return !s->row && mysql_errno(s->my);
    return s->call == MR_MYSQL_NEXT_RESULT ? s->answer > 0 : s->answer != 0;
}

/* Until a call is suspended, or the chain has ended. */
static moor_step run(moor_link *l)
{
    const struct mr_mysql_config *c = moor_link_config(l);
    struct mr_mysql_link *s = moor_link_state(l);
    for (;;) {
        if (s->waits)
            return mr_mysql_wait(l);
        if (s->call == MR_MYSQL_CLOSE) {
            s->my = NULL;
            moor_link_set_native(l, NULL);
            return MOOR_STEP_DONE;
        }
        if (has_failed(s))
            return mr_mysql_fail(l, name_of(s->call));
        const enum mr_mysql_call next = next_call(s, c);
        if (next == MR_MYSQL_IDLE)
            return end(l);
        if (s->rows == MR_MYSQL_ROWS_MAX)
            return moor_link_fail(l, MOOR_ETOOBIG, 0, "prepare_sql: it has more than 256 rows");
        begin_call(l, next);
    }
}

static moor_step task(moor_link *l, enum mr_mysql_call first)
{
    struct mr_mysql_link *s = moor_link_state(l);
    if (s->has_tls)
        mr_mysql_set_blocking(s, false);
    s->my->net.max_packet_size = MR_MYSQL_REPLY_MAX;
    s->rows = 0;
    begin_call(l, first);
    return run(l);
}

moor_step mr_mysql_prepare(moor_link *l)
{
    const struct mr_mysql_config *c = moor_link_config(l);
    return c->prepare_sql ? task(l, MR_MYSQL_QUERY) : MOOR_STEP_DONE;
}

moor_step mr_mysql_check(moor_link *l)
{
    return task(l, MR_MYSQL_PING);
}

moor_step mr_mysql_reset(moor_link *l)
{
    return task(l, MR_MYSQL_RESET);
}

moor_step mr_mysql_close(moor_link *l)
{
    return task(l, MR_MYSQL_CLOSE);
}

moor_step mr_mysql_session_resume(moor_link *l, unsigned events)
{
    struct mr_mysql_link *s = moor_link_state(l);
    s->ready = mr_mysql_ready(s->waits, events);
    mr_mysql_continue(l);
    return run(l);
}
