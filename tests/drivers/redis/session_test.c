/*
 * Sessions against a real server: transactions, blocking commands, pipelines, subscriptions, with and without
 * callbacks; and what becomes of the connection after each.
 */
#include "tests/drivers/redis/fixture.h"
#include "tests/drivers/redis/server.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

static struct redis_server server;
static moor_runtime *runtime;
static moor_pool *pool;

static int set_up(void **state)
{
    (void)state;
    server_start(&server, NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    server_stop(&server);
    return 0;
}

static void pool_open(uint32_t conns_max)
{
    char url[64];
    moor_pool_options o;
    fixture_options(&o);
    o.conns_max = conns_max;
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", server.port);
    runtime = fixture_runtime(1);
    pool = fixture_pool(runtime, url, &o);
}

/* Ends s; is the next session's connection the same? */
static bool is_reused_after(moor_redis *s, moor_release_how how)
{
    moor_acquired a;
    moor_redis_end(s, how);
    s = session_begin(pool, &a);
    const bool is_reused = a.reused;
    assert_string_equal(session_say(s, "ECHO fit"), "fit");
    moor_redis_end(s, MOOR_REUSE);
    return is_reused;
}

static void transactions(void **state)
{
    (void)state;
    moor_acquired a;
    pool_open(1);
    moor_redis *s = session_begin(pool, &a);
    assert_string_equal(session_say(s, "WATCH k"), "OK");
    assert_string_equal(session_say(s, "MULTI"), "OK");
    assert_string_equal(session_say(s, "SET k v"), "QUEUED");
    assert_string_equal(session_say(s, "INCR k"), "QUEUED");
    moor_redis_reply *r;
    assert_int_equal(session_try(s, "EXEC", &r), MOOR_OK);
    assert_int_equal(moor_redis_reply_count(r), 2);
    assert_string_equal(reply_text(moor_redis_reply_at(r, 0)), "OK");
    assert_true(moor_redis_reply_is_error(moor_redis_reply_at(r, 1), "ERR"));
    assert_null(moor_redis_reply_at(r, 2));
    moor_redis_reply_free(r);
    assert_true(is_reused_after(s, MOOR_REUSE));
    fixture_close(runtime, pool);
}

static void blocking_commands(void **state)
{
    (void)state;
    moor_acquired a;
    pool_open(1);
    moor_redis *s = session_begin(pool, &a);
    moor_redis_reply *r;
    const char *argv[] = {"BLPOP", "queue", "0"};
    assert_int_equal(moor_redis_command_wait(s, 3, argv, NULL, 20, &r), MOOR_ETIMEDOUT);
    /* Its reply is still to come: nothing else may be asked meanwhile. */
    assert_string_equal(session_say(s, "PING"), "MOOR_EBUSY");
    server_ask(&server, "RPUSH queue item");
    assert_int_equal(moor_redis_next_wait(s, LONG_MS, &r), MOOR_OK);
    assert_string_equal(reply_text(moor_redis_reply_at(r, 1)), "item");
    moor_redis_reply_free(r);
    assert_int_equal(moor_redis_next_wait(s, LONG_MS, &r), MOOR_EINVAL);
    assert_string_equal(session_say(s, "PING"), "PONG");
    assert_true(is_reused_after(s, MOOR_REUSE));
    /* Given back while it waits: closed, and not the next one's. */
    s = session_begin(pool, &a);
    assert_int_equal(moor_redis_command_wait(s, 3, argv, NULL, 20, &r), MOOR_ETIMEDOUT);
    assert_false(is_reused_after(s, MOOR_REUSE));
    fixture_close(runtime, pool);
}

static void pipelines(void **state)
{
    (void)state;
    moor_acquired a;
    pool_open(1);
    moor_redis *s = session_begin(pool, &a);
    moor_redis_reply *r;
    char value[16];
    for (int i = 0; i < 10000; i++) {
        snprintf(value, sizeof value, "v%d", i);
        assert_int_equal(moor_redis_append(s, 2, (const char *[]){"ECHO", value}, NULL), MOOR_OK);
    }
    for (int i = 0; i < 10000; i++) {
        snprintf(value, sizeof value, "v%d", i);
        assert_int_equal(moor_redis_next_wait(s, LONG_MS, &r), MOOR_OK);
        assert_string_equal(reply_text(r), value);
        moor_redis_reply_free(r);
    }
    for (int i = 0; i < MOOR_REDIS_PIPELINE_MAX; i++)
        assert_int_equal(moor_redis_append(s, 1, (const char *[]){"PING"}, NULL), MOOR_OK);
    assert_int_equal(moor_redis_append(s, 1, (const char *[]){"PING"}, NULL), MOOR_EBUSY);
    assert_false(is_reused_after(s, MOOR_REUSE)); /* with replies to come */
    fixture_close(runtime, pool);
}

static void subscriptions(void **state)
{
    (void)state;
    moor_acquired a;
    pool_open(1);
    moor_redis *s = session_begin(pool, &a);
    moor_redis_reply *r;
    assert_string_equal(session_say(s, "SUBSCRIBE one two"), "[3]");
    assert_int_equal(moor_redis_next_wait(s, LONG_MS, &r), MOOR_OK); /* the second confirmation */
    moor_redis_reply_free(r);
    assert_int_equal(moor_redis_next_wait(s, 10, &r), MOOR_ETIMEDOUT);
    for (int i = 0; i < 100; i++) {
        char text[16];
        snprintf(text, sizeof text, "m%d", i);
        server_ask(&server, "PUBLISH two %s", text);
        assert_int_equal(moor_redis_next_wait(s, LONG_MS, &r), MOOR_OK);
        assert_string_equal(reply_text(moor_redis_reply_at(r, 2)), text);
        moor_redis_reply_free(r);
    }
    assert_false(is_reused_after(s, MOOR_REUSE));
    fixture_close(runtime, pool);
}

static void lost_connections(void **state)
{
    (void)state;
    moor_acquired a;
    pool_open(1);
    moor_redis *s = session_begin(pool, &a);
    char id[32];
    snprintf(id, sizeof id, "%.31s", session_say(s, "CLIENT ID"));
    server_ask(&server, "CLIENT KILL ID %s", id);
    assert_string_equal(session_say(s, "PING"), "MOOR_ERESET");
    assert_string_equal(session_say(s, "PING"), "MOOR_ERESET"); /* and stays so */
    assert_false(is_reused_after(s, MOOR_REUSE));
    s = session_begin(pool, &a);
    assert_string_equal(session_say(s, "QUIT"), "OK");
    assert_false(is_reused_after(s, MOOR_REUSE));
    fixture_close(runtime, pool);
}

static void refused_in_sessions(void **state)
{
    (void)state;
    moor_acquired a;
    pool_open(1);
    moor_redis *s = session_begin(pool, &a), *other = NULL;
    assert_string_equal(session_say(s, "CLIENT REPLY OFF"), "MOOR_EINVAL");
    assert_string_equal(session_say(s, "PSYNC ? -1"), "MOOR_EINVAL");
    moor_redis_reply *r;
    assert_int_equal(moor_redis_command_wait(s, 0, NULL, NULL, 10, &r), MOOR_EINVAL);
    assert_int_equal(moor_redis_command_wait(s, 1, (const char *[]){NULL}, NULL, 10, &r),
                     MOOR_EINVAL);
    assert_true(is_reused_after(s, MOOR_REUSE));
    assert_int_equal(moor_redis_begin(a.lease, &other), MOOR_ESTALE);
    fixture_close(runtime, pool);
    /* A lease of another driver's pool. */
    char url[64];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%d", server.port);
    runtime = fixture_runtime(1);
    pool = fixture_pool(runtime, url, NULL);
    moor_acquired b = {.size = sizeof b};
    assert_int_equal(moor_acquire_wait(pool, NULL, &b), MOOR_OK);
    assert_true(moor_redis_begin(b.lease, &other) != MOOR_OK);
    moor_release(b.lease, MOOR_REUSE);
    fixture_close(runtime, pool);
}

/* An idle connection whose server has stopped fails its check, and is nobody's any more. */
static void checks(void **state)
{
    (void)state;
    char url[64];
    moor_pool_options o;
    moor_acquired a;
    fixture_options(&o);
    o.conns_max = 1;
    o.check_every_ms = 50;
    o.connect_timeout_ms = 300;
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", server.port);
    runtime = fixture_runtime(1);
    pool = fixture_pool(runtime, url, &o);
    moor_redis *s = session_begin(pool, &a);
    char id[32];
    snprintf(id, sizeof id, "%.31s", session_say(s, "CLIENT ID"));
    moor_redis_end(s, MOOR_REUSE);
    nap_ms(300); /* some checks that pass */
    s = session_begin(pool, &a);
    assert_string_equal(session_say(s, "CLIENT ID"), id);
    moor_redis_end(s, MOOR_REUSE);
    server_signal(&server, SIGSTOP);
    moor_stats st = {.size = sizeof st};
    const int64_t end = now_ms() + LONG_MS;
    do {
        nap_ms(5);
        moor_stats_read(pool, &st);
    } while (st.conns_closed == 0 && now_ms() < end);
    server_signal(&server, SIGCONT);
    assert_true(st.conns_closed > 0);
    s = session_begin(pool, &a);
    assert_string_not_equal(session_say(s, "CLIENT ID"), id);
    moor_redis_end(s, MOOR_REUSE);
    fixture_close(runtime, pool);
}

/* ---- with callbacks ---- */

enum { MANY = 5000 };

struct run {
    moor_task task;
    moor_redis *session;
    int told, wrong, canceled, messages;
    atomic_int over;
    void (*begin)(struct run *run);
    moor_release_how how;
};

static void acquired(void *user, const moor_acquired *a)
{
    struct run *run = user;
    if (a->fault.err || moor_redis_begin(a->lease, &run->session)) {
        run->wrong++;
        run->over = 1;
        return;
    }
    run->begin(run);
}

static void run_begin(void *user)
{
    struct run *run = user;
    if (moor_acquire(pool, NULL, acquired, run, NULL)) {
        run->wrong++;
        run->over = 1;
    }
}

static void run_on_shard(struct run *run, void (*begin)(struct run *run))
{
    *run = (struct run){.begin = begin};
    run->task = (moor_task){.run = run_begin, .user = run};
    assert_int_equal(moor_post(moor_shard_at(runtime, 0), &run->task), MOOR_OK);
    const int64_t end = now_ms() + LONG_MS;
    while (!run->over && now_ms() < end)
        nap_ms(1);
    assert_true(run->over);
    assert_int_equal(run->wrong, 0);
}

static void say_on(struct run *run, const char *text, moor_redis_cb cb)
{
    struct words w;
    words_of(&w, text);
    const int before = run->told;
    if (moor_redis_command(run->session, w.argc, w.argv, NULL, cb, run) || run->told != before)
        run->wrong++;
}

static void many_told(void *user, const moor_redis_result *result)
{
    struct run *run = user;
    char text[16];
    snprintf(text, sizeof text, "v%d", run->told++);
    if (result->fault.err || strcmp(reply_text(result->reply), text))
        run->wrong++;
    if (run->told == MANY) {
        moor_redis_end(run->session, MOOR_REUSE); /* inside a callback of its own */
        run->over = 1;
    }
}

static void many_begin(struct run *run)
{
    char text[32];
    for (int i = 0; i < MANY; i++) {
        snprintf(text, sizeof text, "ECHO v%d", i);
        say_on(run, text, many_told);
    }
}

static void canceled(void *user, const moor_redis_result *result)
{
    struct run *run = user;
    run->told++;
    if (result->fault.err != MOOR_ECANCELED)
        run->wrong++;
    run->canceled += result->fault.safe_to_retry;
    if (run->told == 100)
        run->over = 1;
}

/* Ended before anything left: all of them are told, later, and it was safe. */
static void ended_begin(struct run *run)
{
    for (int i = 0; i < 100; i++)
        say_on(run, "PING", canceled);
    moor_redis_end(run->session, MOOR_REUSE);
    if (run->told)
        run->wrong++;
}

static void callbacks(void **state)
{
    (void)state;
    struct run run;
    pool_open(1);
    run_on_shard(&run, many_begin);
    run_on_shard(&run, ended_begin);
    assert_int_equal(run.canceled, 100);
    run_on_shard(&run, many_begin);
    fixture_close(runtime, pool);
}

static void heard(void *user, const moor_redis_result *result)
{
    struct run *run = user;
    if (result->fault.err) {
        run->wrong += result->fault.err != MOOR_ERESET;
        moor_redis_end(run->session, MOOR_REUSE);
        run->over = 1;
        return;
    }
    run->messages++;
}

static void before(void *user, const moor_redis_result *result)
{
    struct run *run = user;
    run->told++;
    if (result->fault.err || run->messages || strcmp(reply_text(result->reply), "first"))
        run->wrong++;
}

static void listen_begin(struct run *run)
{
    if (moor_redis_listen(run->session, heard, run))
        run->wrong++;
    say_on(run, "ECHO first", before);
    say_on(run, "SUBSCRIBE news", NULL);
}

static void listening(void **state)
{
    (void)state;
    static struct run run;
    pool_open(1);
    run = (struct run){.begin = listen_begin};
    run.task = (moor_task){.run = run_begin, .user = &run};
    assert_int_equal(moor_post(moor_shard_at(runtime, 0), &run.task), MOOR_OK);
    int64_t end = now_ms() + LONG_MS;
    while (strcmp(server_ask(&server, "PUBLISH news x"), "1") && now_ms() < end)
        nap_ms(1);
    for (int i = 0; i < 9; i++)
        assert_string_equal(server_ask(&server, "PUBLISH news x"), "1");
    server_ask(&server, "CLIENT KILL TYPE pubsub");
    end = now_ms() + LONG_MS;
    while (!run.over && now_ms() < end)
        nap_ms(1);
    assert_true(run.over);
    assert_int_equal(run.wrong, 0);
    assert_int_equal(run.told, 1);
    assert_int_equal(run.messages, 11); /* the confirmation, and ten */
    fixture_close(runtime, pool);
}

int main(void)
{
    server_need();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transactions),     cmocka_unit_test(blocking_commands),
        cmocka_unit_test(pipelines),        cmocka_unit_test(subscriptions),
        cmocka_unit_test(lost_connections), cmocka_unit_test(refused_in_sessions),
        cmocka_unit_test(checks),           cmocka_unit_test(callbacks),
        cmocka_unit_test(listening),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
