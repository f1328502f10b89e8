/*
 * What a pool's URL and options may say, and what is told of what they may not.
 */
#include "tests/drivers/postgres/keeper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void accept(const char *host, const char *query)
{
    moor_link l;
    char why[256];
    if (!keeper_open(&l, host, "shop", query, NULL, why))
        fail_msg("%s: %s", query, why);
    keeper_close(&l);
}

static void refuse(const char *host, const char *query, const moor_postgres_options *options,
                   const char *expected)
{
    moor_link l;
    char why[256];
    if (keeper_open(&l, host, "shop", query, options, why))
        fail_msg("%s was accepted", query);
    if (!strstr(why, expected))
        fail_msg("%s: \"%s\" does not say %s", query, why, expected);
}

static void keywords_of_libpq_are_accepted(void **state)
{
    (void)state;
    accept("db", "");
    accept("db", "sslmode=verify-full&sslrootcert=%2Fno%2Fsuch%2Ffile&application_name=a%20b");
    accept("db", "target_session_attrs=read-write&options=-c%20search_path%3Dx&keepalives_idle=5");
    accept("db", "&sslmode=disable&");
    accept("db", "application_name=");
    accept("/run/postgresql", "requirepeer=postgres");
}

static void what_libpq_does_not_know_is_refused_by_name(void **state)
{
    (void)state;
    refuse("db", "sslmod=disable", NULL, "\"sslmod\"");
    refuse("db", "sslmode=prefr", NULL, "\"prefr\"");
    refuse("db", "target_session_attrs=master", NULL, "\"master\"");
    refuse("db", "ssl_min_protocol_version=TLSv9", NULL, "\"TLSv9\"");
    refuse("db", "channel_binding=x", NULL, "channel_binding");
    refuse("db", "keepalives_idle=soon", NULL, "keepalives_idle");
    refuse("db", "tcp_user_timeout=", NULL, "tcp_user_timeout");
}

static void what_is_the_pools_is_refused_with_the_place_for_it(void **state)
{
    (void)state;
    refuse("db", "host=other", NULL, "host is not for the query");
    refuse("db", "hostaddr=127.0.0.1", NULL, "hostaddr is not for the query");
    refuse("db", "sslmode=disable&port=1", NULL, "port is not for the query");
    refuse("db", "connect_timeout=3", NULL, "connect_timeout_ms");
    refuse("db", "user=u", NULL, "before the '@'");
    refuse("db", "password=hunter2", NULL, "credentials hook");
    refuse("db", "dbname=d", NULL, "the path");
    refuse("db", "service=s", NULL, "service");
    refuse("db", "replication=true", NULL, "replication");
}

static void secrets_are_not_repeated(void **state)
{
    (void)state;
    moor_link l;
    char why[256];
    assert_false(keeper_open(&l, "db", "shop", "password=hunter2", NULL, why));
    assert_null(strstr(why, "hunter2"));
}

static void malformed_queries_are_refused(void **state)
{
    (void)state;
    refuse("db", "sslmode", NULL, "keyword=value");
    refuse("db", "=disable", NULL, "keyword=value");
    refuse("db", "sslmode=disable&sslmode=disable", NULL, "twice");
    refuse("db", "application_name=%", NULL, "application_name");
    static char longer[8192];
    snprintf(longer, sizeof longer, "application_name=%05000d", 1);
    refuse("db", longer, NULL, "longer than");
    snprintf(longer, sizeof longer, "%0100d=1", 1);
    refuse("db", longer, NULL, "keyword=value");
    size_t len = 0;
    for (int i = 0; i < 60; i++)
        len += (size_t)snprintf(longer + len, sizeof longer - len, "k%d=1&", i);
    refuse("db", longer, NULL, "more than");
}

static void options_are_checked(void **state)
{
    (void)state;
    moor_postgres_options o;
    memset(&o, 0, sizeof o);
    refuse("db", "", &o, "moor_postgres_options_init");
    moor_postgres_options_init(&o);
    assert_int_equal(o.reset, MOOR_POSTGRES_RESET_MARKED);
    assert_string_equal(o.reset_sql, "DISCARD ALL");
    o.reset = (moor_postgres_reset)7;
    refuse("db", "", &o, "reset");
}

static void an_older_programs_options_are_taken(void **state)
{
    (void)state;
    moor_link l;
    char why[256];
    moor_postgres_options o;
    memset(&o, 0xff, sizeof o);
    moor_postgres_options_init_sized(&o, offsetof(moor_postgres_options, reset_sql));
    assert_true(keeper_open(&l, "db", "shop", "", &o, why));
    keeper_close(&l);
}

static void an_address_of_the_environments_is_not_taken_for_a_sockets(void **state)
{
    (void)state;
    assert_int_equal(setenv("PGHOSTADDR", "127.0.0.1", 1), 0);
    accept("db", "");
    refuse("/run/postgresql", "", NULL, "PGHOSTADDR");
    assert_int_equal(unsetenv("PGHOSTADDR"), 0);
}

static void the_environments_keywords_are_checked_too(void **state)
{
    (void)state;
    assert_int_equal(setenv("PGSSLMODE", "perhaps", 1), 0);
    refuse("db", "", NULL, "perhaps");
    accept("db", "sslmode=disable");
    assert_int_equal(unsetenv("PGSSLMODE"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keywords_of_libpq_are_accepted),
        cmocka_unit_test(what_libpq_does_not_know_is_refused_by_name),
        cmocka_unit_test(what_is_the_pools_is_refused_with_the_place_for_it),
        cmocka_unit_test(secrets_are_not_repeated),
        cmocka_unit_test(malformed_queries_are_refused),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(an_older_programs_options_are_taken),
        cmocka_unit_test(an_address_of_the_environments_is_not_taken_for_a_sockets),
        cmocka_unit_test(the_environments_keywords_are_checked_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
