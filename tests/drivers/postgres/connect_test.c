/*
 * Connects, step by step, to servers that behave and to servers that do not: every stage stalls, closes and
 * babbles in its turn.
 */
#include "tests/drivers/postgres/keeper.h"
#include "tests/drivers/postgres/wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static char on[] = "on", off[] = "off"; /* in_hot_standby */

static moor_step try_connect(moor_link *l, int port, const char *query, int ms)
{
    char why[256];
    if (!keeper_open(l, "db.invalid", "shop", query, NULL, why))
        fail_msg("%s", why);
    keeper_aim(l, port);
    return keeper_run(l, MOOR_TASK_CONNECT, ms);
}

static void refused(peer_fn serve, void *user, const char *query, moor_err expected,
                    const char *text)
{
    struct peer p;
    moor_link l;
    peer_start(&p, serve, user);
    const moor_step step = try_connect(&l, p.port, query, KEEPER_LONG_MS);
    if (step != MOOR_STEP_FAILED || l.err != expected || !strstr(l.text, text))
        fail_msg("step %d, %s \"%s\", not %s \"%s\"", (int)step, moor_err_name(l.err), l.text,
                 moor_err_name(expected), text);
    assert_null(strstr(l.text, "s3cret"));
    assert_null(strchr(l.text, '\n'));
    keeper_close(&l);
    peer_stop(&p);
}

/* ---- servers that let in ---- */

static void serve_login(struct peer_conn *c)
{
    if (wire_login(c, c->peer->user))
        peer_linger(c);
}

static void a_connection_is_made_without_a_resolver(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    peer_start(&p, serve_login, off);
    keeper_connect(&l, p.port, "sslmode=disable", NULL); /* db.invalid resolves nowhere */
    assert_int_equal(PQstatus(l.native), CONNECTION_OK);
    assert_int_equal(PQtransactionStatus(l.native), PQTRANS_IDLE);
    assert_false(PQisnonblocking(l.native)); /* as PQconnectdb would have given it */
    assert_string_equal(PQhost(l.native), "db.invalid");
    assert_string_equal(PQdb(l.native), "shop");
    assert_int_equal(l.driver->fd(&l), PQsocket(l.native));
    assert_int_equal(l.waits[0].events, POLLOUT); /* the connect itself, then the answers */
    assert_int_equal(l.waits[l.wait_count - 1].events, POLLIN);
    assert_true(l.work_count > 0); /* hashing is not for the keeper */
    keeper_close(&l);
    peer_stop(&p);
}

static void what_the_startup_says(struct peer_conn *c)
{
    static const char ok[4];
    if (wire_request(c) != WIRE_STARTUP)
        return;
    char *all = c->peer->user;
    size_t len = 0;
    for (const char *at = c->head; *at && len < 400; at += strlen(at) + 1)
        len += (size_t)snprintf(all + len, 512 - len, "%s ", at);
    if (wire_send(c, 'R', ok, sizeof ok) && wire_ready(c, 'I'))
        peer_linger(c);
}

static void the_query_reaches_the_server(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    char said[512] = "";
    peer_start(&p, what_the_startup_says, said);
    keeper_connect(&l, p.port, "sslmode=disable&application_name=a%20b&options=-c%20x%3D1", NULL);
    assert_non_null(strstr(said, "user app database shop "));
    assert_non_null(strstr(said, "application_name a b "));
    assert_non_null(strstr(said, "options -c x=1 "));
    keeper_close(&l);
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    assert_non_null(strstr(said, "application_name mooring "));
    keeper_close(&l);
    peer_stop(&p);
}

static void serve_cleartext(struct peer_conn *c)
{
    const uint32_t cleartext = htonl(3);
    static const char ok[4];
    char *got = c->peer->user;
    if (wire_request(c) != WIRE_STARTUP || !wire_send(c, 'R', &cleartext, sizeof cleartext) ||
        wire_read(c) != 'p')
        return;
    snprintf(got, 64, "%.63s", c->head);
    if (wire_send(c, 'R', ok, sizeof ok) && wire_ready(c, 'I'))
        peer_linger(c);
}

static void the_password_is_the_targets_and_is_wiped(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    char got[64] = "";
    peer_start(&p, serve_cleartext, got);
    keeper_connect(&l, p.port, "sslmode=disable", NULL);
    assert_string_equal(got, "s3cret");
    assert_string_equal(PQpass(l.native), "");
    keeper_close(&l);
    peer_stop(&p);
}

static void a_password_that_is_missing_is_no_network_error(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    char got[64] = "", why[256];
    assert_int_equal(setenv("HOME", "/nonexistent", 1), 0);
    peer_start(&p, serve_cleartext, got);
    assert_true(keeper_open(&l, "db.invalid", "shop", "sslmode=disable", NULL, why));
    keeper_aim(&l, p.port);
    l.target.password = "";
    assert_int_equal(keeper_run(&l, MOOR_TASK_CONNECT, KEEPER_LONG_MS), MOOR_STEP_FAILED);
    assert_int_equal(l.err, MOOR_EAUTH);
    keeper_close(&l);
    peer_stop(&p);
}

/* ---- sockets and masks that change in mid-connect ---- */

static void tls_refused_by_one_byte_goes_on_without(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    peer_start(&p, serve_login, off);
    keeper_connect(&l, p.port, "sslmode=prefer", NULL);
    assert_int_equal(atomic_load(&p.accepted), 1);
    assert_int_equal(keeper_sockets(&l), 1);
    unsigned changes = 0;
    for (unsigned i = 1; i < l.wait_count; i++)
        changes += l.waits[i].events != l.waits[i - 1].events;
    assert_true(changes >= 3); /* out: connect; in: 'N'; out: startup; in: answers */
    keeper_close(&l);
    peer_stop(&p);
}

static void serve_broken_tls(struct peer_conn *c)
{
    if (c->nth == 0) { /* agrees to TLS, then speaks something else */
        if (wire_request(c) == WIRE_SSL_REQUEST && peer_say(c, "S"))
            (void)peer_say(c, "this is no ServerHello, whatever the length of it");
        return;
    }
    serve_login(c);
}

static void a_retry_without_tls_is_another_socket(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    peer_start(&p, serve_broken_tls, off);
    keeper_connect(&l, p.port, "sslmode=prefer", NULL);
    assert_int_equal(atomic_load(&p.accepted), 2);
    assert_int_equal(keeper_sockets(&l), 2);
    assert_int_equal(l.driver->fd(&l), PQsocket(l.native));
    keeper_close(&l);
    peer_stop(&p);
}

static void serve_no_plaintext(struct peer_conn *c)
{
    uint32_t code = wire_request(c);
    if (code == WIRE_SSL_REQUEST && peer_say(c, "N"))
        code = wire_request(c);
    if (code == WIRE_STARTUP && wire_error(c, 'E', "FATAL", "28000", "no encryption, no entry"))
        peer_linger(c);
}

static void a_retry_with_tls_is_another_socket(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    peer_start(&p, serve_no_plaintext, NULL);
    assert_int_equal(try_connect(&l, p.port, "sslmode=allow", KEEPER_LONG_MS), MOOR_STEP_FAILED);
    assert_int_equal(l.err, MOOR_EAUTH);
    assert_non_null(strstr(l.text, "no encryption, no entry"));
    assert_int_equal(atomic_load(&p.accepted), 2);
    assert_int_equal(keeper_sockets(&l), 2);
    keeper_close(&l);
    peer_stop(&p);
}

/* ---- servers that refuse ---- */

struct refusal {
    const char *severity, *sqlstate, *text;
};

static void serve_refusal(struct peer_conn *c)
{
    const struct refusal *r = c->peer->user;
    if (wire_request(c) == WIRE_STARTUP && wire_error(c, 'E', r->severity, r->sqlstate, r->text))
        peer_linger(c);
}

static void a_refusal_is_told_by_its_sqlstate(void **state)
{
    (void)state;
    struct refusal r = {"FATAL", "28P01", "password authentication failed for user \"app\""};
    refused(serve_refusal, &r, "sslmode=disable", MOOR_EAUTH, r.text);
    refused(serve_refusal, &r, "sslmode=disable", MOOR_EAUTH, "28P01");
    r = (struct refusal){"FATAL", "28000", "no pg_hba.conf entry"};
    refused(serve_refusal, &r, "sslmode=disable", MOOR_EAUTH, r.text);
    r = (struct refusal){"FATAL", "57P03", "the database system is starting up"};
    refused(serve_refusal, &r, "sslmode=disable", MOOR_ECONNECT, r.text);
    r = (struct refusal){"FATAL", "53300", "sorry, too many clients already"};
    refused(serve_refusal, &r, "sslmode=disable", MOOR_ECONNECT, r.text);
    r = (struct refusal){"FATAL", "08P01", "unsupported frontend protocol"};
    refused(serve_refusal, &r, "sslmode=disable", MOOR_EPROTO, r.text);
    r = (struct refusal){"SCHWERWIEGEND", "28P01", "in another language"};
    refused(serve_refusal, &r, "sslmode=disable", MOOR_EAUTH, r.text);
    r = (struct refusal){"FATAL", "57P03", "two\nlines"};
    refused(serve_refusal, &r, "sslmode=disable", MOOR_ECONNECT, "two; lines");
}

static void tls_that_is_required_is_not_done_without(void **state)
{
    (void)state;
    refused(serve_login, off, "sslmode=require", MOOR_ETLS, "SSL");
    refused(serve_broken_tls, off, "sslmode=require", MOOR_ETLS, "SSL");
}

static void nobody_listens(void **state)
{
    (void)state;
    struct peer p;
    moor_link l;
    peer_bind(&p, serve_login, off);
    assert_int_equal(try_connect(&l, p.port, "sslmode=disable", KEEPER_LONG_MS), MOOR_STEP_FAILED);
    assert_int_equal(l.err, MOOR_ECONNECT);
    assert_non_null(strstr(l.text, "refused"));
    assert_null(strstr(l.text, "Is the server running")); /* what libpq guesses */
    keeper_close(&l);
    peer_stop(&p);
}

static void a_standby_is_not_taken_for_a_primary(void **state)
{
    (void)state;
    refused(serve_login, on, "sslmode=disable&target_session_attrs=primary", MOOR_ECONNECT,
            "hot standby");
    refused(serve_login, on, "sslmode=disable&target_session_attrs=read-write", MOOR_ECONNECT,
            "read-only");
    refused(serve_login, off, "sslmode=disable&target_session_attrs=standby", MOOR_ECONNECT,
            "standby");
}

/* ---- every stage, gone wrong ---- */

enum stage { AT_ACCEPT, AT_SSL, AT_STARTUP, AT_AUTH, AT_HALF, AT_PARAMETERS, AT_READY, STAGES };

/* Behaves up to that stage. False: the client has gone. */
static bool behave_until(struct peer_conn *c, enum stage stage)
{
    static const char ok[4], key[8];
    const uint32_t cleartext = htonl(3);
    if (stage == AT_ACCEPT)
        return true;
    uint32_t code = wire_request(c);
    if (stage == AT_SSL)
        return code == WIRE_SSL_REQUEST;
    if (code == WIRE_SSL_REQUEST && peer_say(c, "N"))
        code = wire_request(c);
    if (code != WIRE_STARTUP)
        return false;
    if (stage == AT_STARTUP)
        return true;
    if (!wire_send(c, 'R', &cleartext, sizeof cleartext) || wire_read(c) != 'p')
        return false;
    if (stage == AT_AUTH)
        return true;
    if (stage == AT_HALF)
        return peer_send(c, "R\0\0\0\10\0", 6);
    if (!wire_send(c, 'R', ok, sizeof ok) || !wire_parameter(c, "in_hot_standby", "off"))
        return false;
    return stage == AT_PARAMETERS || wire_send(c, 'K', key, sizeof key);
}

struct fault {
    enum stage stage;
    enum { STALL, CLOSE, RESET, BABBLE } how;
};

static void serve_fault(struct peer_conn *c)
{
    const struct fault *f = c->peer->user;
    if (!behave_until(c, f->stage))
        return;
    if (f->how == STALL ||
        (f->how == BABBLE && !peer_say(c, "\x7f HTTP/1.1 400 Bad Request, and so on\r\n")))
        peer_linger(c);
    else if (f->how == RESET)
        peer_reset(c);
}

static void a_server_that_stalls_is_dropped_at_any_stage(void **state)
{
    (void)state;
    for (int stage = AT_ACCEPT; stage < STAGES; stage++) {
        struct fault f = {(enum stage)stage, STALL};
        struct peer p;
        moor_link l;
        peer_start(&p, serve_fault, &f);
        assert_int_equal(try_connect(&l, p.port, "sslmode=prefer", 60), MOOR_STEP_WAIT);
        keeper_close(&l); /* whatever the stage, and without waiting */
        peer_stop(&p);
    }
}

static void a_server_that_closes_or_babbles_fails_the_connect(void **state)
{
    (void)state;
    for (int stage = AT_ACCEPT; stage < STAGES; stage++) {
        for (int how = CLOSE; how <= BABBLE; how++) {
            struct fault f = {(enum stage)stage, how};
            struct peer p;
            moor_link l;
            peer_start(&p, serve_fault, &f);
            /* In the half of a message that babbling completes, libpq may take it for one that goes on. */
            const moor_step step =
                try_connect(&l, p.port, "sslmode=prefer", how == BABBLE ? 300 : KEEPER_LONG_MS);
            if (step == MOOR_STEP_DONE || (step == MOOR_STEP_WAIT && how != BABBLE))
                fail_msg("stage %d, fault %d: step %d", stage, how, (int)step);
            if (step == MOOR_STEP_FAILED && (l.err == MOOR_OK || !l.text[0]))
                fail_msg("stage %d, fault %d: no reason", stage, how);
            keeper_close(&l);
            peer_stop(&p);
        }
    }
}

static void the_end_of_a_connection_and_nonsense_are_told_apart(void **state)
{
    (void)state;
    struct fault f = {AT_STARTUP, CLOSE};
    refused(serve_fault, &f, "sslmode=disable", MOOR_ERESET, "closed the connection");
    f = (struct fault){AT_STARTUP, BABBLE};
    refused(serve_fault, &f, "sslmode=disable", MOOR_EPROTO, "expected authentication request");
    f = (struct fault){AT_READY, CLOSE};
    refused(serve_fault, &f, "sslmode=disable", MOOR_ERESET, "closed the connection");
}

static void serve_flood(struct peer_conn *c)
{
    char name[32];
    if (!wire_welcome(c, "off"))
        return;
    static const char value[400] = {[0 ... 398] = 'v'};
    for (unsigned i = 0;
         snprintf(name, sizeof name, "p%u", i) > 0 && wire_parameter(c, name, value); i++)
        ;
}

static void a_server_that_never_stops_talking_is_stopped(void **state)
{
    (void)state;
    refused(serve_flood, NULL, "sslmode=disable", MOOR_EPROTO, "too much");
}

/* ---- paths ---- */

static void serve_unix(const char *directory, int port, int *listener)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s/.s.PGSQL.%d", directory, port);
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(*listener >= 0);
    assert_int_equal(bind(*listener, (const struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(*listener, 8), 0);
}

static void a_path_is_a_directory_or_the_socket_itself(void **state)
{
    (void)state;
    char directory[] = "/tmp/mooring-pg-XXXXXX", path[64], why[256];
    assert_non_null(mkdtemp(directory));
    int listener;
    serve_unix(directory, 7777, &listener);
    snprintf(path, sizeof path, "%s/.s.PGSQL.7777", directory);
    const struct {
        const char *path;
        uint16_t port;
    } ways[] = {{directory, 7777}, {path, 5432}};
    for (size_t i = 0; i < 2; i++) {
        moor_link l;
        assert_true(keeper_open(&l, ways[i].path, "shop", "", NULL, why));
        keeper_aim(&l, ways[i].port);
        l.target.host = l.target.path = ways[i].path;
        l.target.address = "";
        assert_int_equal(keeper_run(&l, MOOR_TASK_CONNECT, 60), MOOR_STEP_WAIT);
        struct peer nobody = {.port = 0};
        struct peer_conn c = {.peer = &nobody, .fd = accept(listener, NULL, NULL)};
        assert_true(c.fd >= 0);
        assert_int_equal(wire_request(&c), WIRE_STARTUP);
        keeper_close(&l);
        close(c.fd);
    }
    close(listener);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_connection_is_made_without_a_resolver),
        cmocka_unit_test(the_query_reaches_the_server),
        cmocka_unit_test(the_password_is_the_targets_and_is_wiped),
        cmocka_unit_test(a_password_that_is_missing_is_no_network_error),
        cmocka_unit_test(tls_refused_by_one_byte_goes_on_without),
        cmocka_unit_test(a_retry_without_tls_is_another_socket),
        cmocka_unit_test(a_retry_with_tls_is_another_socket),
        cmocka_unit_test(a_refusal_is_told_by_its_sqlstate),
        cmocka_unit_test(tls_that_is_required_is_not_done_without),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(a_standby_is_not_taken_for_a_primary),
        cmocka_unit_test(a_server_that_stalls_is_dropped_at_any_stage),
        cmocka_unit_test(a_server_that_closes_or_babbles_fails_the_connect),
        cmocka_unit_test(the_end_of_a_connection_and_nonsense_are_told_apart),
        cmocka_unit_test(a_server_that_never_stops_talking_is_stopped),
        cmocka_unit_test(a_path_is_a_directory_or_the_socket_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
