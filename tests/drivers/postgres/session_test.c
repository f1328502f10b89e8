/*
 * What the driver does on a connection nobody holds: set-up, check, reset, and reading what comes unasked.
 */
#include "tests/drivers/postgres/keeper.h"
#include "tests/drivers/postgres/wire.h"

#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static char off[] = "off";

/* ---- a server that notes each query and answers as told ---- */

struct server {
    char said[1024];      /* all queries, each with a '|' */
    char status;          /* of the transaction, in the next ReadyForQuery */
    const char *error_on; /* the query to answer with an error; NULL = none */
    const char *sqlstate; /* of that; FATAL, and the end, if it starts with "57" */
    const char *standby;  /* to report before the next answer; NULL = nothing */
    bool closes, floods, stalls, copies;
};

static bool answer(struct peer_conn *c, struct server *s, const char *sql)
{
    if (s->closes || s->stalls)
        return false;
    if (s->standby && !wire_parameter(c, "in_hot_standby", s->standby))
        return false;
    if (s->error_on && !strcmp(s->error_on, sql)) {
        const bool is_fatal = !strncmp(s->sqlstate, "57", 2);
        return wire_error(c, 'E', is_fatal ? "FATAL" : "ERROR", s->sqlstate, "as told") &&
               !is_fatal && wire_ready(c, s->status);
    }
    if (s->copies)
        return wire_send(c, 'G', "\0\0\0", 3);
    if (!*sql)
        return wire_send(c, 'I', "", 0) && wire_ready(c, s->status);
    if (!strcmp(sql, "ROLLBACK"))
        s->status = 'I';
    return wire_complete(c, "SET", s->status);
}

static void flood(struct peer_conn *c)
{
    char row[2048] = {0, 1, 0, 0, 7, 0xf0 - 256}; /* one column of 2032 bytes */
    static const char column[] = "\0\1c\0\0\0\0\0\0\0\0\0\0\31\xff\xff\xff\xff\xff\xff\0";
    if (!wire_send(c, 'T', column, 2 + 2 + 18))
        return;
    while (wire_send(c, 'D', row, 6 + 2032))
        ;
}

static void serve(struct peer_conn *c)
{
    struct server *s = c->peer->user;
    if (!wire_login(c, off))
        return;
    while (wire_read(c) == 'Q') {
        const size_t len = strlen(s->said);
        snprintf(s->said + len, sizeof s->said - len, "%.200s|", c->head);
        if (s->floods)
            flood(c);
        if (!answer(c, s, c->head))
            break;
    }
    if (s->stalls)
        peer_linger(c);
}

static void start(struct peer *p, struct server *s)
{
    memset(s, 0, sizeof *s);
    s->status = 'I';
    peer_start(p, serve, s);
}

static void stop(moor_link *l, struct peer *p)
{
    keeper_close(l);
    peer_stop(p);
}

static void failed(moor_link *l, moor_task_kind task, moor_err err, const char *text)
{
    const moor_step step = keeper_run(l, task, KEEPER_LONG_MS);
    if (step != MOOR_STEP_FAILED || l->err != err || !strstr(l->text, text))
        fail_msg("step %d, %s \"%s\", not %s \"%s\"", (int)step, moor_err_name(l->err), l->text,
                 moor_err_name(err), text);
}

/* ---- check ---- */

static void a_check_is_one_empty_query(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    assert_string_equal(s.said, ""); /* no set-up was asked for */
    for (int i = 0; i < 3; i++)
        assert_int_equal(keeper_run(&l, MOOR_TASK_CHECK, KEEPER_LONG_MS), MOOR_STEP_DONE);
    assert_string_equal(s.said, "|||");
    assert_int_equal(PQtransactionStatus(l.native), PQTRANS_IDLE);
    assert_false(PQisnonblocking(l.native));
    assert_null(l.flushed);
    stop(&l, &p);
}

static void a_check_of_a_closed_connection_fails(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    s.closes = true;
    failed(&l, MOOR_TASK_CHECK, MOOR_ERESET, "check: ");
    assert_null(l.flushed);
    stop(&l, &p);
}

static void a_server_that_shuts_down_flushes(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    s.error_on = "";
    s.sqlstate = "57P01";
    failed(&l, MOOR_TASK_CHECK, MOOR_ERESET, "57P01 as told");
    assert_non_null(l.flushed);
    stop(&l, &p);
}

static void a_check_that_is_not_answered_waits_and_is_dropped(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    s.stalls = true;
    assert_int_equal(keeper_run(&l, MOOR_TASK_CHECK, 60), MOOR_STEP_WAIT);
    stop(&l, &p);
}

static void an_answer_without_end_is_cut(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    s.floods = true;
    failed(&l, MOOR_TASK_CHECK, MOOR_EPROTO, "too much");
    stop(&l, &p);
}

static void a_change_of_role_flushes(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable&target_session_attrs=primary", NULL);
    assert_int_equal(keeper_run(&l, MOOR_TASK_CHECK, KEEPER_LONG_MS), MOOR_STEP_DONE);
    s.standby = "on";
    failed(&l, MOOR_TASK_CHECK, MOOR_ECONNECT, "target_session_attrs");
    assert_non_null(l.flushed);
    stop(&l, &p);
    start(&p, &s); /* nobody asked for a role: none is wrong */
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    s.standby = "on";
    assert_int_equal(keeper_run(&l, MOOR_TASK_CHECK, KEEPER_LONG_MS), MOOR_STEP_DONE);
    stop(&l, &p);
}

/* ---- set-up and reset ---- */

static void set_up_runs_first_and_again_after_a_reset(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    moor_postgres_options o;
    moor_postgres_options_init(&o);
    o.prepare_sql = "SET a = 1; SET b = 2";
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable", &o);
    assert_string_equal(s.said, "SET a = 1; SET b = 2|");
    s.said[0] = '\0';
    assert_int_equal(keeper_run(&l, MOOR_TASK_RESET, KEEPER_LONG_MS), MOOR_STEP_DONE);
    assert_string_equal(s.said, "DISCARD ALL|SET a = 1; SET b = 2|");
    s.said[0] = '\0';
    s.status = 'T'; /* what the holder left */
    PQclear(PQexec(l.native, "BEGIN"));
    assert_int_equal(keeper_run(&l, MOOR_TASK_RESET, KEEPER_LONG_MS), MOOR_STEP_DONE);
    assert_string_equal(s.said, "BEGIN|ROLLBACK|DISCARD ALL|SET a = 1; SET b = 2|");
    assert_false(PQisnonblocking(l.native));
    stop(&l, &p);
}

static void never_only_rolls_back(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    moor_postgres_options o;
    moor_postgres_options_init(&o);
    o.reset = MOOR_POSTGRES_RESET_NEVER;
    o.prepare_sql = "SET a = 1";
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable", &o);
    s.status = 'E';
    PQclear(PQexec(l.native, "BEGIN"));
    assert_int_equal(keeper_run(&l, MOOR_TASK_RESET, KEEPER_LONG_MS), MOOR_STEP_DONE);
    assert_string_equal(s.said, "SET a = 1|BEGIN|ROLLBACK|");
    stop(&l, &p);
}

static void a_set_up_that_fails_fails_the_connection(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    char why[256];
    moor_postgres_options o;
    moor_postgres_options_init(&o);
    o.prepare_sql = "SET a = 1";
    start(&p, &s);
    s.error_on = "SET a = 1";
    s.sqlstate = "42704";
    assert_true(keeper_open(&l, "db.invalid", "shop", "sslmode=disable", &o, why));
    keeper_aim(&l, p.port);
    assert_int_equal(keeper_run(&l, MOOR_TASK_CONNECT, KEEPER_LONG_MS), MOOR_STEP_DONE);
    failed(&l, MOOR_TASK_PREPARE, MOOR_ECONNECT, "prepare_sql: 42704 as told");
    assert_null(l.flushed);
    stop(&l, &p);
}

static void a_set_up_may_not_copy_nor_leave_a_transaction(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    char why[256];
    moor_postgres_options o;
    moor_postgres_options_init(&o);
    o.prepare_sql = "SET a = 1";
    for (int i = 0; i < 2; i++) {
        start(&p, &s);
        assert_true(keeper_open(&l, "db.invalid", "shop", "sslmode=disable", &o, why));
        keeper_aim(&l, p.port);
        assert_int_equal(keeper_run(&l, MOOR_TASK_CONNECT, KEEPER_LONG_MS), MOOR_STEP_DONE);
        s.copies = i == 0;
        s.status = 'T';
        failed(&l, MOOR_TASK_PREPARE, MOOR_ECONNECT, i ? "transaction" : "prepare_sql");
        stop(&l, &p);
    }
}

static void a_reset_that_fails_fails_the_connection(void **state)
{
    (void)state;
    struct peer p;
    struct server s;
    moor_link l;
    start(&p, &s);
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    s.error_on = "DISCARD ALL";
    s.sqlstate = "25001";
    failed(&l, MOOR_TASK_RESET, MOOR_ECONNECT, "reset: 25001");
    stop(&l, &p);
}

/* ---- idle ---- */

/* The peer's function for these: logs in, then does what the test asks for. */
static void (*say_when_idle)(struct peer_conn *c);

static atomic_bool may_speak; /* what comes along with the login would be part of it */

static void serve_idle(struct peer_conn *c)
{
    if (!wire_login(c, off))
        return;
    while (!atomic_load(&may_speak) && !atomic_load(&c->peer->is_stopping))
        peer_sleep_ms(1);
    say_when_idle(c);
}

static void connect_idle(struct peer *p, moor_link *l, const char *query)
{
    atomic_store(&may_speak, false);
    keeper_connect(l, p->port, query, NULL);
    atomic_store(&may_speak, true);
}

static void idle_comes_to(void (*say)(struct peer_conn *c), moor_verdict expected)
{
    struct peer p;
    moor_link l;
    say_when_idle = say;
    peer_start(&p, serve_idle, NULL);
    connect_idle(&p, &l, "sslmode=disable&target_session_attrs=primary");
    moor_verdict v = keeper_idle(&l);
    for (int i = 0; v == MOOR_VERDICT_KEEP && expected != MOOR_VERDICT_KEEP && i < 10000; i++)
        v = keeper_idle(&l);
    assert_int_equal(v, expected);
    assert_false(PQisnonblocking(l.native));
    stop(&l, &p);
}

static void say_shutdown(struct peer_conn *c)
{
    (void)wire_error(c, 'E', "FATAL", "57P01",
                     "terminating connection due to administrator command");
}

static void say_crash_and_linger(struct peer_conn *c)
{
    if (wire_error(c, 'E', "FATAL", "57P02", "terminating connection because of crash"))
        peer_linger(c);
}

static void say_idle_timeout(struct peer_conn *c)
{
    (void)wire_error(c, 'E', "FATAL", "57P05", "idle-session timeout");
}

static void say_end(struct peer_conn *c)
{
    (void)c;
}

static void say_nonsense(struct peer_conn *c)
{
    if (peer_say(c, "HTTP/1.1 400 Bad Request\r\n"))
        peer_linger(c);
}

static void say_warning(struct peer_conn *c)
{
    if (wire_error(c, 'N', "WARNING", "01000", "there is no tomorrow") &&
        wire_parameter(c, "TimeZone", "UTC"))
        peer_linger(c);
}

static void say_standby(struct peer_conn *c)
{
    if (wire_parameter(c, "in_hot_standby", "on"))
        peer_linger(c);
}

static void say_notifications(struct peer_conn *c)
{
    char payload[1024];
    memset(payload, 'x', sizeof payload - 1);
    payload[sizeof payload - 1] = '\0';
    while (wire_notify(c, "channel", payload))
        ;
}

static void what_comes_while_idle_is_judged(void **state)
{
    (void)state;
    idle_comes_to(say_shutdown, MOOR_VERDICT_FLUSH);
    idle_comes_to(say_crash_and_linger, MOOR_VERDICT_FLUSH);
    idle_comes_to(say_idle_timeout, MOOR_VERDICT_DISCARD);
    idle_comes_to(say_end, MOOR_VERDICT_DISCARD);
    idle_comes_to(say_warning, MOOR_VERDICT_KEEP);
    idle_comes_to(say_standby, MOOR_VERDICT_FLUSH);
}

static void serve_last_words(struct peer_conn *c)
{
    static const char ready[] = "Z\0\0\0\5I", error[] = "E\0\0\0\35SFATAL\0VFATAL\0C57P01\0Mx\0";
    char both[sizeof ready - 1 + sizeof error];
    memcpy(both, ready, sizeof ready - 1);
    memcpy(both + sizeof ready - 1, error, sizeof error);
    if (wire_welcome(c, off) &&
        peer_send(c, both, sizeof both)) /* in one piece: libpq reads both at once */
        peer_linger(c);
}

static void last_words_along_with_the_login_fail_it(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    char why[256];
    peer_start(&p, serve_last_words, NULL);
    assert_true(keeper_open(&l, "db.invalid", "shop", "sslmode=disable", NULL, why));
    keeper_aim(&l, p.port);
    failed(&l, MOOR_TASK_CONNECT, MOOR_ERESET, "57P01");
    stop(&l, &p);
}

static void nonsense_while_idle_is_never_a_fit_connection(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    say_when_idle = say_nonsense;
    peer_start(&p, serve_idle, NULL);
    connect_idle(&p, &l, "sslmode=disable");
    if (keeper_idle(&l) ==
        MOOR_VERDICT_KEEP) /* libpq waits for the rest of what it takes for a message */
        assert_int_equal(keeper_run(&l, MOOR_TASK_CHECK, 200), MOOR_STEP_WAIT);
    stop(&l, &p);
}

static void notifications_are_bounded(void **state)
{
    (void)state;
    idle_comes_to(say_notifications, MOOR_VERDICT_DISCARD);
}

static void say_one_notification(struct peer_conn *c)
{
    if (!wire_notify(c, "channel", "for the holder"))
        return;
    while (wire_read(c) == 'Q' && wire_complete(c, "SET", 'I'))
        ;
}

static void notifications_are_the_next_holders_until_a_reset(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    say_when_idle = say_one_notification;
    peer_start(&p, serve_idle, NULL);
    for (int i = 0; i < 2; i++) {
        connect_idle(&p, &l, "sslmode=disable");
        assert_int_equal(keeper_idle(&l), MOOR_VERDICT_KEEP);
        if (i)
            assert_int_equal(keeper_run(&l, MOOR_TASK_RESET, KEEPER_LONG_MS), MOOR_STEP_DONE);
        PGnotify *n = PQnotifies(l.native);
        assert_int_equal(n != NULL, i == 0);
        if (n)
            assert_string_equal(n->extra, "for the holder");
        PQfreemem(n);
        keeper_close(&l);
    }
    peer_stop(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_check_is_one_empty_query),
        cmocka_unit_test(a_check_of_a_closed_connection_fails),
        cmocka_unit_test(a_server_that_shuts_down_flushes),
        cmocka_unit_test(a_check_that_is_not_answered_waits_and_is_dropped),
        cmocka_unit_test(an_answer_without_end_is_cut),
        cmocka_unit_test(a_change_of_role_flushes),
        cmocka_unit_test(set_up_runs_first_and_again_after_a_reset),
        cmocka_unit_test(never_only_rolls_back),
        cmocka_unit_test(a_set_up_that_fails_fails_the_connection),
        cmocka_unit_test(a_set_up_may_not_copy_nor_leave_a_transaction),
        cmocka_unit_test(a_reset_that_fails_fails_the_connection),
        cmocka_unit_test(what_comes_while_idle_is_judged),
        cmocka_unit_test(last_words_along_with_the_login_fail_it),
        cmocka_unit_test(nonsense_while_idle_is_never_a_fit_connection),
        cmocka_unit_test(notifications_are_bounded),
        cmocka_unit_test(notifications_are_the_next_holders_until_a_reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
