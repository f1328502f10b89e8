/*
 * Shared connections against a real server: order under load, deadlines, cancels, stalls, restarts, kills.
 */
#include "tests/drivers/redis/fixture.h"
#include "tests/drivers/redis/server.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

static struct redis_server server;

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

struct rig {
    moor_runtime *runtime;
    moor_pool *pool;
    moor_redis_shared *shared;
};

static void rig_open(struct rig *g, uint32_t shards, const moor_redis_shared_options *o)
{
    char url[64];
    moor_pool_options po;
    fixture_options(&po);
    po.backoff_max_ms = 200;
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", server.port);
    g->runtime = fixture_runtime(shards);
    g->pool = fixture_pool(g->runtime, url, &po);
    assert_int_equal(moor_redis_shared_open(g->runtime, g->pool, o, &g->shared), MOOR_OK);
}

static void rig_close(struct rig *g)
{
    assert_int_equal(moor_redis_shared_close(g->shared, LONG_MS), MOOR_OK);
    fixture_close(g->runtime, g->pool);
}

static moor_err ask(struct rig *g, const char *text, moor_ms timeout_ms, moor_redis_reply **out,
                    moor_fault *fault)
{
    struct words w;
    moor_redis_call call;
    moor_redis_call_init(&call);
    call.timeout_ms = timeout_ms;
    words_of(&w, text);
    return moor_redis_shared_command_wait(g->shared, &call, w.argc, w.argv, NULL, out, fault);
}

static const char *say(struct rig *g, const char *text)
{
    moor_redis_reply *r = NULL;
    const moor_err e = ask(g, text, LONG_MS, &r, NULL);
    if (e)
        return moor_err_name(e);
    const char *said = reply_text(r);
    moor_redis_reply_free(r);
    return said;
}

static moor_redis_shared_stats stats_of(struct rig *g)
{
    moor_redis_shared_stats st;
    moor_redis_shared_stats_read(g->shared, &st);
    return st;
}

/* The connection lets go of a command after its caller was told. */
static bool is_quiet(struct rig *g)
{
    const int64_t end = now_ms() + LONG_MS;
    while (stats_of(g).inflight && now_ms() < end)
        nap_ms(1);
    return !stats_of(g).inflight;
}

/* ---- one thread ---- */

static void values_and_errors(void **state)
{
    (void)state;
    struct rig g;
    rig_open(&g, 1, NULL);
    assert_string_equal(say(&g, "SET k 41"), "OK");
    assert_string_equal(say(&g, "INCR k"), "42");
    assert_string_equal(say(&g, "GET k"), "42");
    assert_string_equal(say(&g, "GET none"), "(nil)");
    assert_string_equal(say(&g, "KEYS k"), "[1]");
    assert_non_null(strstr(say(&g, "LPUSH k x"), "-WRONGTYPE"));
    assert_non_null(strstr(say(&g, "NONSENSE"), "-ERR unknown command"));
    assert_string_equal(say(&g, "PING"), "PONG");
    assert_int_equal(stats_of(&g).connects, 1);
    rig_close(&g);
}

static void refused_commands(void **state)
{
    (void)state;
    static const char *const refused[] = {"BLPOP k 0",
                                          "brpop k 0",
                                          "BLMOVE a b LEFT LEFT 0",
                                          "WAIT 1 0",
                                          "SUBSCRIBE c",
                                          "MULTI",
                                          "EXEC",
                                          "WATCH k",
                                          "SELECT 1",
                                          "AUTH x",
                                          "MONITOR",
                                          "QUIT",
                                          "RESET",
                                          "HELLO 3",
                                          "CLIENT REPLY OFF",
                                          "client setname x",
                                          "XREAD BLOCK 0 STREAMS s $",
                                          "XREADGROUP GROUP g STREAMS COUNT 1 BLOCK 0 STREAMS s >",
                                          "PSUBSCRIBE *",
                                          "BZPOPMIN k 0",
                                          "SYNC",
                                          "SCRIPT DEBUG YES"};
    struct rig g;
    char why[160];
    moor_redis_call call;
    moor_redis_reply *reply;
    rig_open(&g, 1, NULL);
    moor_redis_call_init(&call);
    call.why = why;
    call.why_cap = sizeof why;
    for (unsigned i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        struct words w;
        words_of(&w, refused[i]);
        if (moor_redis_shared_command_wait(g.shared, &call, w.argc, w.argv, NULL, &reply, NULL) !=
            MOOR_EINVAL)
            fail_msg("%s was not refused", refused[i]);
        assert_non_null(strstr(why, "session"));
    }
    assert_int_equal(moor_redis_shared_command_wait(g.shared, NULL, 0, NULL, NULL, &reply, NULL),
                     MOOR_EINVAL);
    assert_int_equal(stats_of(&g).connects, 0); /* none of them even dialled */
    assert_string_equal(say(&g, "XREAD COUNT 1 STREAMS BLOCK 0"), "(nil)");
    assert_non_null(strstr(say(&g, "CLIENT LIST"), "addr="));
    rig_close(&g);
}

static void big_values(void **state)
{
    (void)state;
    struct rig g;
    const size_t size = 20u << 20;
    char *big = malloc(size);
    rig_open(&g, 1, NULL);
    for (size_t i = 0; i < size; i++)
        big[i] = (char)(i * 7 + i / 251);
    const char *set[] = {"SET", "big", big};
    const size_t lens[] = {3, 3, size};
    moor_redis_reply *r;
    assert_int_equal(moor_redis_shared_command_wait(g.shared, NULL, 3, set, lens, &r, NULL),
                     MOOR_OK);
    moor_redis_reply_free(r);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ask(&g, "GET big", LONG_MS, &r, NULL), MOOR_OK);
        assert_int_equal(moor_redis_reply_text(r).len, size);
        assert_memory_equal(moor_redis_reply_text(r).base, big, size);
        moor_redis_reply_free(r);
    }
    say(&g, "DEL big");
    free(big);
    rig_close(&g);
}

static void limits(void **state)
{
    (void)state;
    struct rig g;
    moor_redis_shared_options o;
    moor_redis_shared_options_init(&o);
    o.inflight_bytes_max = 1024;
    rig_open(&g, 1, &o);
    char value[2048] = "SET k ";
    memset(value + 6, 'x', 1010);
    moor_redis_reply *r;
    moor_fault f;
    assert_int_equal(ask(&g, value, LONG_MS, &r, &f), MOOR_EBUSY);
    assert_true(f.safe_to_retry);
    assert_string_equal(say(&g, "PING"), "PONG");
    moor_redis_shared *s;
    o.conns = 0;
    assert_int_equal(moor_redis_shared_open(g.runtime, g.pool, &o, &s), MOOR_EINVAL);
    rig_close(&g);
}

static void reply_too_big(void **state)
{
    (void)state;
    char url[64];
    struct rig g;
    moor_fault f;
    moor_redis_reply *r;
    snprintf(url, sizeof url, "redis://127.0.0.1:%d?reply_bytes_max=4096", server.port);
    g.runtime = fixture_runtime(1);
    g.pool = fixture_pool(g.runtime, url, NULL);
    assert_int_equal(moor_redis_shared_open(g.runtime, g.pool, NULL, &g.shared), MOOR_OK);
    assert_string_equal(say(&g, "SETRANGE wide 5000000 x"), "5000001");
    assert_int_equal(ask(&g, "GET wide", LONG_MS, &r, &f), MOOR_ETOOBIG);
    assert_false(f.safe_to_retry);
    assert_string_equal(say(&g, "ECHO after"), "after"); /* on another connection */
    assert_int_equal(stats_of(&g).connects, 2);
    rig_close(&g);
}

/* ---- a stalled server ---- */

static void timeouts_keep_order(void **state)
{
    (void)state;
    struct rig g;
    moor_fault f;
    moor_redis_reply *r;
    rig_open(&g, 1, NULL);
    assert_string_equal(say(&g, "ECHO before"), "before");
    server_signal(&server, SIGSTOP);
    for (int i = 0; i < 20; i++) {
        char text[32];
        snprintf(text, sizeof text, "ECHO stale%d", i);
        assert_int_equal(ask(&g, text, 10, &r, &f), MOOR_ETIMEDOUT);
        assert_false(f.safe_to_retry);
    }
    assert_int_equal(stats_of(&g).inflight, 20); /* still awaited, each in its place */
    server_signal(&server, SIGCONT);
    for (int i = 0; i < 50; i++) {
        char text[32];
        snprintf(text, sizeof text, "ECHO fresh%d", i);
        assert_string_equal(say(&g, text), text + 5);
    }
    const moor_redis_shared_stats st = stats_of(&g);
    assert_int_equal(st.replies_late, 20);
    assert_int_equal(st.connects, 1);
    rig_close(&g);
}

static void silence_is_bounded(void **state)
{
    (void)state;
    struct rig g;
    moor_fault f;
    moor_redis_reply *r;
    moor_redis_shared_options o;
    moor_redis_shared_options_init(&o);
    o.stall_ms = 200;
    rig_open(&g, 1, &o);
    assert_string_equal(say(&g, "ECHO before"), "before");
    server_signal(&server, SIGSTOP);
    assert_int_equal(ask(&g, "ECHO stale", LONG_MS, &r, &f), MOOR_ETIMEDOUT);
    assert_non_null(strstr(f.what, "silent"));
    assert_false(f.safe_to_retry);
    server_signal(&server, SIGCONT);
    assert_string_equal(say(&g, "ECHO after"), "after");
    assert_int_equal(stats_of(&g).connects, 2);
    assert_true(is_quiet(&g));
    rig_close(&g);
}

static void killed_client(void **state)
{
    (void)state;
    struct rig g;
    rig_open(&g, 1, NULL);
    for (int i = 0; i < 10; i++) {
        char id[32];
        snprintf(id, sizeof id, "%.31s", say(&g, "CLIENT ID"));
        assert_string_equal(server_ask(&server, "CLIENT KILL ID %s", id), "1");
        const char *said = "";
        for (int tries = 0; tries < 200; tries++) { /* one may meet the dying one */
            said = say(&g, "ECHO again");
            if (strcmp(said, "MOOR_ERESET"))
                break;
        }
        assert_string_equal(said, "again");
    }
    rig_close(&g);
}

/* Given back between commands, so that the pool's lifetime reaches it. */
static void rotates(void **state)
{
    (void)state;
    struct rig g;
    char id[32];
    moor_redis_shared_options o;
    moor_redis_shared_options_init(&o);
    o.rotate_ms = 20;
    rig_open(&g, 1, &o);
    snprintf(id, sizeof id, "%.31s", say(&g, "CLIENT ID"));
    moor_pool_flush(g.pool);
    const int64_t end = now_ms() + LONG_MS;
    while (!strcmp(say(&g, "CLIENT ID"), id) && now_ms() < end)
        ;
    assert_true(now_ms() < end);
    rig_close(&g);
}

static void read_only_turns_over(void **state)
{
    (void)state;
    struct rig g;
    rig_open(&g, 1, NULL);
    char id[32];
    snprintf(id, sizeof id, "%.31s", say(&g, "CLIENT ID"));
    server_ask(&server, "REPLICAOF 127.0.0.1 1");
    assert_non_null(strstr(say(&g, "SET k v"), "-READONLY"));
    server_ask(&server, "REPLICAOF NO ONE");
    assert_string_equal(say(&g, "SET k v"), "OK");
    assert_string_not_equal(say(&g, "CLIENT ID"), id);
    rig_close(&g);
}

/* ---- callbacks ---- */

enum { MANY = 20000 };

struct many {
    struct rig *g;
    moor_task task;
    atomic_int done, wrong, canceled, timed_out, refused;
    atomic_int asked; /* ops below it are there */
    moor_redis_op ops[MANY];
    bool is_told[MANY];
    moor_shard *shard;
};

struct one {
    struct many *m;
    int number;
};
static struct one ones[MANY];

static void many_told(void *user, const moor_redis_result *result)
{
    struct one *o = user;
    char text[32];
    snprintf(text, sizeof text, "v%d", o->number);
    if (o->m->is_told[o->number] || moor_shard_self() != o->m->shard)
        o->m->wrong++;
    o->m->is_told[o->number] = true;
    if (result->fault.err == MOOR_ECANCELED)
        o->m->canceled++;
    else if (result->fault.err == MOOR_ETIMEDOUT)
        o->m->timed_out++;
    else if (result->fault.err || strcmp(reply_text(result->reply), text))
        o->m->wrong++;
    o->m->done++;
}

static void many_ask(void *user)
{
    struct many *m = user;
    m->shard = moor_shard_self();
    for (int burst = 0; burst < 500 && m->asked < MANY; burst++) {
        const int n = m->asked;
        char value[32];
        moor_redis_call call;
        moor_redis_call_init(&call);
        call.timeout_ms = n % 11 ? LONG_MS : n % 3;
        if (call.timeout_ms == 0)
            call.timeout_ms = 1;
        snprintf(value, sizeof value, "v%d", n);
        ones[n] = (struct one){m, n};
        const moor_err e =
            moor_redis_shared_command(m->g->shared, &call, 2, (const char *[]){"ECHO", value}, NULL,
                                      many_told, &ones[n], &m->ops[n]);
        if (e == MOOR_EBUSY)
            break;
        if (e) {
            m->refused++;
            break;
        }
        m->asked++;
        if (n % 5 == 0)
            moor_redis_cancel(m->ops[n / 2 + n / 4]);
        if (m->is_told[n])
            m->wrong++; /* never inside the call */
    }
    if (m->asked < MANY && moor_post(m->shard, &m->task))
        m->refused++;
}

static void callbacks_on(uint32_t shards, uint32_t conns)
{
    struct rig g;
    static struct many m[2];
    moor_redis_shared_options o;
    moor_redis_shared_options_init(&o);
    o.conns = conns;
    o.inflight_max = 3000;
    rig_open(&g, shards, &o);
    memset(m, 0, sizeof m);
    struct many *one = &m[0];
    one->g = &g;
    one->task = (moor_task){.run = many_ask, .user = one};
    /* With two shards and one connection every command crosses over and back. */
    assert_int_equal(moor_post(moor_shard_at(g.runtime, shards - 1), &one->task), MOOR_OK);
    const int64_t end = now_ms() + LONG_MS;
    unsigned seed = 1;
    while (one->done < MANY && !one->refused && now_ms() < end) {
        const int asked = one->asked;
        for (int i = 0; asked && i < 20; i++) /* from this thread, finished ones too */
            moor_redis_cancel(one->ops[rand_r(&seed) % (unsigned)asked]);
        nap_ms(1);
    }
    assert_int_equal(one->refused, 0);
    assert_int_equal(one->done, MANY);
    assert_int_equal(one->wrong, 0);
    assert_true(one->canceled > 0);
    const moor_redis_shared_stats st = stats_of(&g);
    assert_int_equal(st.connects, conns == 1 ? 1 : st.connects);
    assert_true(st.sends < st.commands / 4); /* a turn's commands leave together */
    rig_close(&g);
}

static void callbacks_own_shard(void **state)
{
    (void)state;
    callbacks_on(1, 1);
}

static void callbacks_across_shards(void **state)
{
    (void)state;
    callbacks_on(2, 1);
}

/* ---- eight threads ---- */

struct worker {
    struct rig *g;
    pthread_t thread;
    unsigned seed;
    int number, count;
    bool has_random_timeouts;
    int right, wrong, timed_out, reset, other;
    atomic_bool *stop;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < w->count && !(w->stop && *w->stop); i++) {
        char value[64];
        moor_redis_reply *r;
        moor_redis_call call;
        moor_fault f;
        moor_redis_call_init(&call);
        call.timeout_ms = LONG_MS;
        if (w->has_random_timeouts && rand_r(&w->seed) % 10 == 0)
            call.timeout_ms = rand_r(&w->seed) % 3;
        snprintf(value, sizeof value, "t%d-%d", w->number, i);
        const moor_err e = moor_redis_shared_command_wait(
            w->g->shared, &call, 2, (const char *[]){"ECHO", value}, NULL, &r, &f);
        if (!e) {
            if (strcmp(reply_text(r), value))
                w->wrong++;
            else
                w->right++;
            moor_redis_reply_free(r);
        } else if (e == MOOR_ETIMEDOUT) {
            w->timed_out++;
        } else if (e == MOOR_ERESET || e == MOOR_ECONNECT) {
            w->reset++;
        } else {
            w->other++;
        }
    }
    return NULL;
}

static void eight_threads_one_connection(void **state)
{
    (void)state;
    struct rig g;
    struct worker w[8];
    rig_open(&g, 1, NULL);
    for (int i = 0; i < 8; i++) {
        w[i] = (struct worker){.g = &g,
                               .seed = (unsigned)i,
                               .number = i,
                               .count = 10000 / 8,
                               .has_random_timeouts = true};
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    int right = 0, timed_out = 0;
    for (int i = 0; i < 8; i++) {
        pthread_join(w[i].thread, NULL);
        assert_int_equal(w[i].wrong, 0);
        assert_int_equal(w[i].other + w[i].reset, 0);
        right += w[i].right;
        timed_out += w[i].timed_out;
    }
    assert_int_equal(right + timed_out, 10000);
    assert_true(timed_out > 0);
    assert_int_equal(stats_of(&g).connects, 1);
    rig_close(&g);
}

static void restarted_under_load(void **state)
{
    (void)state;
    struct rig g;
    struct worker w[8];
    atomic_bool stop = false;
    moor_redis_shared_options o;
    moor_redis_shared_options_init(&o);
    o.conns = 2;
    rig_open(&g, 2, &o);
    for (int i = 0; i < 8; i++) {
        w[i] = (struct worker){.g = &g, .number = i, .count = 10000000, .stop = &stop};
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        nap_ms(200);
        server_kill(&server);
        nap_ms(100);
        server_run(&server);
        /* It serves again, on the same shared object. */
        const int64_t end = now_ms() + LONG_MS;
        while (strcmp(say(&g, "ECHO back"), "back") && now_ms() < end)
            ;
        assert_true(now_ms() < end);
    }
    stop = true;
    int reset = 0, right = 0;
    for (int i = 0; i < 8; i++) {
        pthread_join(w[i].thread, NULL);
        assert_int_equal(w[i].wrong, 0);
        assert_int_equal(w[i].other, 0);
        reset += w[i].reset;
        right += w[i].right;
    }
    assert_true(reset > 0 && right > 0);
    assert_true(is_quiet(&g));
    rig_close(&g);
}

/* ---- ends ---- */

static void nobody_is_there(void **state)
{
    (void)state;
    struct rig g;
    moor_fault f;
    moor_redis_reply *r;
    server_kill(&server);
    rig_open(&g, 1, NULL);
    assert_int_equal(ask(&g, "PING", LONG_MS, &r, &f), MOOR_ECONNECT);
    assert_true(f.safe_to_retry); /* it never left */
    server_run(&server);
    const char *said = "";
    for (const int64_t end = now_ms() + LONG_MS; strcmp(said, "PONG") && now_ms() < end;)
        said = say(&g, "PING"); /* the pool tries again a little later */
    assert_string_equal(said, "PONG");
    rig_close(&g);
}

/* It takes connections, and does not get as far as to serve them. */
static void given_up_before_connected(void **state)
{
    (void)state;
    struct rig g;
    moor_fault f;
    moor_redis_reply *r;
    rig_open(&g, 1, NULL);
    server_signal(&server, SIGSTOP);
    const moor_err e = ask(&g, "SET unsent 1", 50, &r, &f);
    const bool was_quiet = is_quiet(&g); /* it does not hold its place, either */
    server_signal(&server, SIGCONT);
    assert_int_equal(e, MOOR_ETIMEDOUT);
    assert_true(f.safe_to_retry);
    assert_true(was_quiet);
    assert_string_equal(say(&g, "GET unsent"), "(nil)");
    rig_close(&g);
}

static void closed_with_commands_out(void **state)
{
    (void)state;
    struct rig g;
    static struct many m;
    rig_open(&g, 2, NULL);
    say(&g, "PING");
    memset(&m, 0, sizeof m);
    m.g = &g;
    m.asked = MANY - 400;
    m.task = (moor_task){.run = many_ask, .user = &m};
    server_signal(&server, SIGSTOP);
    assert_int_equal(moor_post(moor_shard_at(g.runtime, 1), &m.task), MOOR_OK);
    while (stats_of(&g).commands < 401)
        nap_ms(1);
    assert_int_equal(moor_redis_shared_close(g.shared, 50), MOOR_OK);
    assert_int_equal(m.done, 400);
    assert_int_equal(m.wrong, 0);
    server_signal(&server, SIGCONT);
    fixture_close(g.runtime, g.pool);
}

static void run_wait_inside(void *user)
{
    struct many *m = user;
    moor_redis_reply *r;
    m->wrong = (int)moor_redis_shared_command_wait(m->g->shared, NULL, 1, (const char *[]){"PING"},
                                                   NULL, &r, NULL);
    m->refused = (int)moor_redis_shared_close(m->g->shared, 0);
    m->done = 1;
}

static void wrong_threads(void **state)
{
    (void)state;
    struct rig g;
    static struct many m;
    rig_open(&g, 1, NULL);
    memset(&m, 0, sizeof m);
    m.g = &g;
    m.task = (moor_task){.run = run_wait_inside, .user = &m};
    assert_int_equal(moor_post(moor_shard_at(g.runtime, 0), &m.task), MOOR_OK);
    while (!m.done)
        nap_ms(1);
    assert_int_equal(m.wrong, MOOR_EWRONGTHREAD);
    assert_int_equal(m.refused, MOOR_EWRONGTHREAD);
    assert_int_equal(moor_redis_shared_command(g.shared, NULL, 1, (const char *[]){"PING"}, NULL,
                                               many_told, NULL, NULL),
                     MOOR_EWRONGTHREAD);
    rig_close(&g);
}

static void adopted_shard(void **state)
{
    (void)state;
    struct rig g;
    char url[64];
    moor_shard *s = NULL;
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", server.port);
    g.runtime = fixture_runtime(0);
    assert_int_equal(moor_shard_adopt(g.runtime, &s), MOOR_OK);
    g.pool = fixture_pool(g.runtime, url, NULL);
    assert_int_equal(moor_redis_shared_open(g.runtime, g.pool, NULL, &g.shared), MOOR_OK);
    for (int i = 0; i < 100; i++)
        assert_string_equal(say(&g, "ECHO alone"), "alone");
    moor_redis_op none = {0};
    moor_redis_cancel(none);
    /* A command that is under way when its shard leaves still calls back. */
    static struct many m;
    memset(&m, 0, sizeof m);
    m.g = &g;
    m.asked = MANY - 10;
    many_ask(&m);
    moor_shard_leave(s);
    assert_int_equal(m.done, 10);
    assert_string_equal(say(&g, "ECHO gone"), "MOOR_ECLOSED");
    rig_close(&g);
}

int main(void)
{
    server_need();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_errors),
        cmocka_unit_test(refused_commands),
        cmocka_unit_test(big_values),
        cmocka_unit_test(limits),
        cmocka_unit_test(reply_too_big),
        cmocka_unit_test(timeouts_keep_order),
        cmocka_unit_test(silence_is_bounded),
        cmocka_unit_test(killed_client),
        cmocka_unit_test(rotates),
        cmocka_unit_test(read_only_turns_over),
        cmocka_unit_test(callbacks_own_shard),
        cmocka_unit_test(callbacks_across_shards),
        cmocka_unit_test(eight_threads_one_connection),
        cmocka_unit_test(restarted_under_load),
        cmocka_unit_test(nobody_is_there),
        cmocka_unit_test(given_up_before_connected),
        cmocka_unit_test(closed_with_commands_out),
        cmocka_unit_test(wrong_threads),
        cmocka_unit_test(adopted_shard),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
