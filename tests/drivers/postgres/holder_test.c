/*
 * What holders do to a handle, and what is made of it: verdicts on return, reports, the statement with
 * parameters, and an end that never waits.
 */
#include "tests/drivers/postgres/keeper.h"
#include "tests/drivers/postgres/wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static char off[] = "off";

/* ---- a server that answers by what a query is called ---- */

static bool answer_row(struct peer_conn *c)
{
    static const char column[] = "\0\1c\0\0\0\0\0\0\0\0\0\0\31\xff\xff\xff\xff\xff\xff\0";
    static const char row[] = "\0\1\0\0\0\2hi";
    return wire_send(c, 'T', column, 2 + 2 + 18) && wire_send(c, 'D', row, sizeof row - 1) &&
           wire_complete(c, "SELECT 1", 'I');
}

static bool answer(struct peer_conn *c, const char *sql)
{
    if (!strcmp(sql, "begin"))
        return wire_complete(c, "BEGIN", 'T');
    if (!strcmp(sql, "fail in transaction"))
        return wire_error(c, 'E', "ERROR", "22012", "division by zero") && wire_ready(c, 'E');
    if (!strcmp(sql, "fail"))
        return wire_error(c, 'E', "ERROR", "22012", "division by zero") && wire_ready(c, 'I');
    if (!strcmp(sql, "read only"))
        return wire_error(c, 'E', "ERROR", "25006", "cannot execute in a read-only transaction") &&
               wire_ready(c, 'I');
    if (!strcmp(sql, "copy in"))
        return wire_send(c, 'G', "\0\0\0", 3);
    if (!strcmp(sql, "copy out"))
        return wire_send(c, 'H', "\0\0\0", 3);
    if (!strcmp(sql, "row"))
        return answer_row(c);
    if (!strcmp(sql, "notice"))
        return wire_error(c, 'N', "NOTICE", "00000", "take note") && wire_complete(c, "DO", 'I');
    if (!strcmp(sql, "end"))
        return false;
    if (!strcmp(sql, "shut down"))
        return wire_error(c, 'E', "FATAL", "57P01", "shutting down") && false;
    if (!strcmp(sql, "stall"))
        return true;
    return wire_complete(c, "OK", 'I');
}

/* Extended queries: the Parse message holds the text, the Bind the parameters, which go to peer->user. */
static void serve(struct peer_conn *c)
{
    char sql[128] = "", *params = c->peer->user;
    if (!wire_login(c, off))
        return;
    for (char type = wire_read(c); type; type = wire_read(c)) {
        if (type == 'P')
            snprintf(sql, sizeof sql, "%.100s", c->head + 1);
        else if (type == 'B' && params)
            memcpy(params, c->head, 64);
        else if (type == 'Q')
            snprintf(sql, sizeof sql, "%.100s", c->head);
        else if (type == 'X' && params)
            params[0] = 'X';
        if (type == 'Q' && !strcmp(sql, "copy in, deaf")) { /* reads no more, and is alive */
            if (!wire_send(c, 'G', "\0\0\0", 3))
                return;
            while (!atomic_load(&c->peer->is_stopping))
                peer_sleep_ms(5);
            return;
        }
        if ((type == 'Q' || type == 'S') && !answer(c, sql))
            return;
    }
}

struct fixture {
    struct peer p;
    moor_link l;
    char params[64];
};

static void start_with(struct fixture *f, moor_postgres_reset reset, const char *more)
{
    char query[128];
    moor_postgres_options o;
    moor_postgres_options_init(&o);
    o.reset = reset;
    memset(f->params, 0, sizeof f->params);
    peer_start(&f->p, serve, f->params);
    snprintf(query, sizeof query, "sslmode=disable%s", more);
    keeper_connect(&f->l, f->p.port, query, &o);
}

static void start(struct fixture *f)
{
    start_with(f, MOOR_POSTGRES_RESET_MARKED, "");
}

static void stop(struct fixture *f)
{
    keeper_close(&f->l);
    peer_stop(&f->p);
}

static void run(struct fixture *f, const char *sql)
{
    PQclear(PQexec(f->l.native, sql));
}

static moor_verdict give_back(struct fixture *f, moor_release_how how)
{
    return f->l.driver->returned(&f->l, how);
}

/* ---- verdicts ---- */

static void policies_say_what_is_reset(void **state)
{
    (void)state;
    enum { KEEP = MOOR_VERDICT_KEEP, RESET = MOOR_VERDICT_RESET, CLOSE = MOOR_VERDICT_DISCARD };
    static const struct {
        const char *sql;
        moor_release_how how;
        int marked, always, never;
    } cases[] = {
        {"ok", MOOR_REUSE, KEEP, RESET, KEEP},
        {"row", MOOR_REUSE, KEEP, RESET, KEEP},
        {"fail", MOOR_REUSE, KEEP, RESET, KEEP},
        {"ok", MOOR_DIRTY, RESET, RESET, CLOSE},
        {"ok", MOOR_DISCARD, CLOSE, CLOSE, CLOSE},
        {"begin", MOOR_REUSE, RESET, RESET, RESET},
        {"begin", MOOR_DIRTY, RESET, RESET, CLOSE},
        {"fail in transaction", MOOR_REUSE, RESET, RESET, RESET},
        {"copy in", MOOR_REUSE, CLOSE, CLOSE, CLOSE},
        {"copy out", MOOR_DIRTY, CLOSE, CLOSE, CLOSE},
        {"end", MOOR_REUSE, CLOSE, CLOSE, CLOSE},
        {"shut down", MOOR_REUSE, CLOSE, CLOSE, CLOSE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int reset = MOOR_POSTGRES_RESET_MARKED; reset <= MOOR_POSTGRES_RESET_NEVER; reset++) {
            struct fixture f;
            start_with(&f, (moor_postgres_reset)reset, "");
            run(&f, cases[i].sql);
            const int expected = reset == MOOR_POSTGRES_RESET_MARKED   ? cases[i].marked
                                 : reset == MOOR_POSTGRES_RESET_ALWAYS ? cases[i].always
                                                                       : cases[i].never;
            const int got = (int)give_back(&f, cases[i].how);
            if (got != expected)
                fail_msg("%s, policy %d: %d, not %d", cases[i].sql, reset, got, expected);
            stop(&f);
        }
    }
}

static void a_query_that_runs_or_was_not_read_closes(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    assert_int_equal(PQsendQuery(f.l.native, "stall"), 1);
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_DISCARD);
    stop(&f);
    start(&f);
    assert_int_equal(PQsendQuery(f.l.native, "row"), 1);
    PQclear(PQgetResult(f.l.native)); /* and not the NULL after it */
    assert_int_equal(give_back(&f, MOOR_DIRTY), MOOR_VERDICT_DISCARD);
    stop(&f);
}

static void pipelines_are_left_or_closed(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    assert_int_equal(PQenterPipelineMode(f.l.native), 1);
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_KEEP);
    assert_int_equal(PQpipelineStatus(f.l.native), PQ_PIPELINE_OFF);
    assert_int_equal(PQenterPipelineMode(f.l.native), 1);
    assert_int_equal(PQsendQueryParams(f.l.native, "row", 0, NULL, NULL, NULL, NULL, 0), 1);
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_DISCARD);
    stop(&f);
}

static void count_notice(void *arg, const char *message)
{
    (void)message;
    ++*(int *)arg;
}

static void what_a_holder_set_on_the_handle_is_undone(void **state)
{
    (void)state;
    struct fixture f;
    int count = 0;
    start(&f);
    (void)PQsetNoticeProcessor(f.l.native, count_notice, &count);
    (void)PQsetErrorVerbosity(f.l.native, PQERRORS_VERBOSE);
    assert_int_equal(PQsetnonblocking(f.l.native, 1), 0);
    run(&f, "notice");
    assert_int_equal(count, 1); /* a processor of the holder's works */
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_KEEP);
    assert_false(PQisnonblocking(f.l.native));
    assert_int_equal(PQsetErrorVerbosity(f.l.native, PQERRORS_DEFAULT), PQERRORS_DEFAULT);
    run(&f, "notice");
    assert_int_equal(count, 1); /* and is not the next one's */
    stop(&f);
}

static void a_result_may_outlive_the_connection(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    PGresult *r = PQexec(f.l.native, "row");
    assert_int_equal(PQntuples(r), 1);
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_KEEP);
    stop(&f);
    assert_null(PQgetvalue(r, 7, 7)); /* libpq complains to the connection's notice receiver */
    PQclear(r);
}

static void errors_mean(void **state)
{
    (void)state;
    static const struct {
        const char *sqlstate;
        moor_verdict expected;
    } cases[] = {
        {"08006", MOOR_VERDICT_DISCARD}, {"08P01", MOOR_VERDICT_DISCARD},
        {"57P01", MOOR_VERDICT_FLUSH},   {"57P02", MOOR_VERDICT_FLUSH},
        {"57P03", MOOR_VERDICT_FLUSH},   {"57P04", MOOR_VERDICT_FLUSH},
        {"57P05", MOOR_VERDICT_DISCARD}, {"25P03", MOOR_VERDICT_DISCARD},
        {"57014", MOOR_VERDICT_KEEP},    {"53300", MOOR_VERDICT_KEEP},
        {"40001", MOOR_VERDICT_KEEP},    {"22012", MOOR_VERDICT_KEEP},
        {"", MOOR_VERDICT_KEEP},         {"5", MOOR_VERDICT_KEEP},
        {NULL, MOOR_VERDICT_KEEP},
    };
    struct fixture f;
    start(&f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (f.l.driver->judge(&f.l, cases[i].sqlstate, 0) != cases[i].expected)
            fail_msg("%s", cases[i].sqlstate);
    /* This server says that it is a primary and takes writes: the holder's transaction was read-only. */
    assert_int_equal(f.l.driver->judge(&f.l, "25006", 0), MOOR_VERDICT_KEEP);
    stop(&f);
}

static char standby[] = "on";

static void serve_old_or_standby(struct peer_conn *c)
{
    if (wire_login(c, c->peer->user))
        peer_linger(c);
}

static void read_only_is_a_failover_where_the_server_is_no_primary(void **state)
{
    (void)state;
    for (int is_old = 0; is_old < 2; is_old++) {
        struct peer p;
        moor_link l;
        peer_start(&p, serve_old_or_standby, is_old ? NULL : standby);
        keeper_connect(&l, p.port, "sslmode=disable", NULL);
        assert_int_equal(l.driver->judge(&l, "25006", 0), MOOR_VERDICT_FLUSH);
        keeper_close(&l);
        peer_stop(&p);
    }
}

/* ---- the statement with parameters ---- */

static moor_err ask(struct fixture *f, const char *sql, moor_ms timeout_ms, PGresult **r)
{
    return moor_postgres_query(keeper_lease(&f->l), sql, 0, NULL, timeout_ms, r);
}

static void parameters_travel_beside_the_text(void **state)
{
    (void)state;
    struct fixture f;
    PGresult *r;
    const char *const params[] = {"it's", NULL};
    start(&f);
    assert_int_equal(moor_postgres_query(keeper_lease(&f.l), "row", 2, params, MOOR_FOREVER, &r),
                     MOOR_OK);
    assert_int_equal(PQresultStatus(r), PGRES_TUPLES_OK);
    assert_string_equal(PQgetvalue(r, 0, 0), "hi");
    PQclear(r);
    /* Bind: "" portal, "" statement, no formats, two parameters: 4 bytes "it's", and -1 = NULL. */
    static const char expected[] = "\0\0\0\0\0\2\0\0\0\4it's\xff\xff\xff\xff";
    assert_memory_equal(f.params, expected, sizeof expected - 1);
    assert_string_equal(f.l.reported, "");
    assert_false(PQisnonblocking(f.l.native));
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_KEEP);
    stop(&f);
}

static void an_error_is_an_answer_and_is_reported(void **state)
{
    (void)state;
    struct fixture f;
    PGresult *r;
    start(&f);
    assert_int_equal(ask(&f, "fail", 5000, &r), MOOR_OK);
    assert_int_equal(PQresultStatus(r), PGRES_FATAL_ERROR);
    assert_string_equal(f.l.reported, "22012");
    PQclear(r);
    assert_int_equal(ask(&f, "read only", 5000, &r), MOOR_OK);
    assert_string_equal(f.l.reported, "25006");
    PQclear(r);
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_KEEP);
    stop(&f);
}

static void a_statement_out_of_time_takes_its_connection_along(void **state)
{
    (void)state;
    struct fixture f;
    PGresult *r;
    start(&f);
    assert_int_equal(ask(&f, "stall", 30, &r), MOOR_ETIMEDOUT);
    assert_null(r);
    assert_int_equal(ask(&f, "row", 30, &r), MOOR_ERESET); /* not the late answer to the first */
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_DISCARD);
    stop(&f);
}

static void a_connection_lost_under_a_statement_is_told(void **state)
{
    (void)state;
    struct fixture f;
    PGresult *r;
    start(&f);
    assert_int_equal(ask(&f, "end", 20000, &r), MOOR_ERESET);
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_DISCARD);
    stop(&f);
    start(&f);
    assert_int_equal(ask(&f, "shut down", 20000, &r), MOOR_ERESET);
    assert_string_equal(f.l.reported, "57P01"); /* the pool learns that it is not this one alone */
    stop(&f);
}

static void what_a_statement_may_not_be(void **state)
{
    (void)state;
    struct fixture f;
    PGresult *r;
    start(&f);
    assert_int_equal(ask(&f, NULL, 1, &r), MOOR_EINVAL);
    assert_int_equal(ask(&f, "row", -7, &r), MOOR_EINVAL);
    assert_int_equal(moor_postgres_query(keeper_lease(&f.l), "row", 65536, NULL, 1, &r),
                     MOOR_EINVAL);
    assert_int_equal(moor_postgres_query(keeper_lease(&f.l), "row", 1, NULL, 1, &r), MOOR_EINVAL);
    assert_int_equal(moor_postgres_query((moor_lease){0}, "row", 0, NULL, 1, &r), MOOR_ESTALE);
    static const moor_driver other = {.name = "other"};
    f.l.driver = &other;
    assert_int_equal(ask(&f, "row", 1, &r), MOOR_ESTALE);
    f.l.driver = moor_postgres_driver();
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_KEEP); /* none of it was sent */
    assert_int_equal(PQsendQuery(f.l.native, "row"), 1);
    assert_int_equal(ask(&f, "row", 1000, &r), MOOR_EBUSY);
    stop(&f);
    start(&f);
    assert_int_equal(ask(&f, "copy in", 20000, &r), MOOR_EINVAL);
    assert_int_equal(give_back(&f, MOOR_REUSE), MOOR_VERDICT_DISCARD);
    stop(&f);
}

static void reports_come_from_results(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    PGresult *r = PQexec(f.l.native, "row");
    moor_postgres_report(keeper_lease(&f.l), r);
    assert_string_equal(f.l.reported, "");
    PQclear(r);
    r = PQexec(f.l.native, "fail");
    moor_postgres_report(keeper_lease(&f.l), r);
    assert_string_equal(f.l.reported, "22012");
    PQclear(r);
    moor_postgres_report(keeper_lease(&f.l), NULL);
    assert_string_equal(f.l.reported, "08006");
    stop(&f);
}

/* ---- the end ---- */

/* Nothing more goes into the socket: the server does not read. */
static void stuff(int fd)
{
    static char junk[65536];
    int quiet = 0;
    while (quiet < 20) {
        const ssize_t n = send(fd, junk, sizeof junk, MSG_DONTWAIT | MSG_NOSIGNAL);
        quiet = n > 0 ? 0 : quiet + 1;
        if (n < 0)
            peer_sleep_ms(2);
    }
}

static void a_full_socket_does_not_hold_up_the_end(void **state)
{
    (void)state;
    for (int is_nonblocking = 0; is_nonblocking < 2; is_nonblocking++) {
        struct fixture f;
        start(&f);
        run(&f, "copy in, deaf");
        assert_int_equal(PQsetnonblocking(f.l.native, is_nonblocking), 0);
        assert_int_equal(PQputCopyData(f.l.native, "left in libpq's buffer", 22), 1);
        stuff(PQsocket(f.l.native));
        assert_int_equal(PQtransactionStatus(f.l.native), PQTRANS_ACTIVE);
        alarm(20); /* it waits for a server that reads nothing */
        keeper_close(&f.l);
        alarm(0);
        peer_stop(&f.p);
    }
}

static void a_connection_at_rest_says_goodbye(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    keeper_close(&f.l);
    for (int i = 0; atomic_load(&f.p.open) && i < KEEPER_LONG_MS; i++)
        peer_sleep_ms(1);
    peer_stop(&f.p);
    assert_int_equal(f.params[0], 'X');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policies_say_what_is_reset),
        cmocka_unit_test(a_query_that_runs_or_was_not_read_closes),
        cmocka_unit_test(pipelines_are_left_or_closed),
        cmocka_unit_test(what_a_holder_set_on_the_handle_is_undone),
        cmocka_unit_test(a_result_may_outlive_the_connection),
        cmocka_unit_test(errors_mean),
        cmocka_unit_test(read_only_is_a_failover_where_the_server_is_no_primary),
        cmocka_unit_test(parameters_travel_beside_the_text),
        cmocka_unit_test(an_error_is_an_answer_and_is_reported),
        cmocka_unit_test(a_statement_out_of_time_takes_its_connection_along),
        cmocka_unit_test(a_connection_lost_under_a_statement_is_told),
        cmocka_unit_test(what_a_statement_may_not_be),
        cmocka_unit_test(reports_come_from_results),
        cmocka_unit_test(a_full_socket_does_not_hold_up_the_end),
        cmocka_unit_test(a_connection_at_rest_says_goodbye),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
