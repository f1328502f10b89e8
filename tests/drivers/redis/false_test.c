/*
 * Servers that lie: silence, half replies, garbage, replies nobody asked for, replies without end, set-ups cut
 * short. Whatever they do, each command ends, with the right name for it, and memory stays.
 */
#include "tests/drivers/redis/fixture.h"
#include "tests/support/peer.h"

#include <hiredis/hiredis.h>
#include <stdatomic.h>

struct script {
    const char *hello;  /* answer to the set-up, which is one PING */
    const char *answer; /* to each command after that */
    size_t answer_len;  /* 0: strlen */
    bool is_byte_by_byte;
    bool closes; /* after the answer */
    bool floods; /* the answer again and again, until the client is gone */
    bool blurts; /* answers before it is asked */
};

static bool take_some(struct peer_conn *c)
{
    char buf[4096];
    return peer_read(c, buf, sizeof buf) > 0;
}

static bool give(struct peer_conn *c, const struct script *s)
{
    const size_t len = s->answer_len ? s->answer_len : strlen(s->answer);
    if (!s->is_byte_by_byte)
        return peer_send(c, s->answer, len);
    for (size_t i = 0; i < len; i++) {
        if (!peer_send(c, s->answer + i, 1))
            return false;
        if (i % 4 == 0)
            peer_sleep_ms(1);
    }
    return true;
}

static void serve(struct peer_conn *c)
{
    const struct script *s = c->peer->user;
    if (!take_some(c) || !peer_say(c, s->hello))
        return;
    if (s->blurts && !give(c, s))
        return;
    while (take_some(c) && give(c, s)) {
        while (s->floods && give(c, s))
            ;
        if (s->closes)
            return;
    }
}

#define PONG "+PONG\r\n"

/* hiredis 0.x has the same limit, and calls it a broken protocol. */
#if HIREDIS_MAJOR >= 1
#define DEPTH_ERROR "MOOR_ETOOBIG"
#else
#define DEPTH_ERROR "MOOR_EPROTO"
#endif

struct stage {
    struct peer peer;
    moor_runtime *runtime;
    moor_pool *pool;
};

static void raise(struct stage *g, struct script *s, const char *query, moor_ms connect_timeout_ms)
{
    char url[128];
    moor_pool_options o;
    fixture_options(&o);
    o.connect_timeout_ms = connect_timeout_ms;
    o.acquire_timeout_ms = 2 * connect_timeout_ms;
    peer_start(&g->peer, serve, s);
    snprintf(url, sizeof url, "redis://127.0.0.1:%d%s", g->peer.port, query);
    g->runtime = fixture_runtime(1);
    g->pool = fixture_pool(g->runtime, url, &o);
}

static void strike(struct stage *g)
{
    fixture_close(g->runtime, g->pool);
    peer_stop(&g->peer);
}

/* ---- while it is set up ---- */

static void bad_set_ups(void **state)
{
    (void)state;
    static const struct {
        const char *hello;
        moor_err err;
        const char *text;
    } cases[] = {
        {"-LOADING Redis is loading the dataset in memory\r\n", MOOR_ECONNECT, "LOADING"},
        {"-ERR max number of clients reached\r\n", MOOR_ECONNECT, "max number of clients"},
        {"-DENIED Redis is running in protected mode\r\n", MOOR_ECONNECT, "DENIED"},
        {"-NOAUTH Authentication required.\r\n", MOOR_EAUTH, "NOAUTH"},
        {"+OK\r\n", MOOR_EPROTO, "does not fit"},
        {":1\r\n", MOOR_EPROTO, "does not fit"},
        {"+PONG\r\n+PONG\r\n", MOOR_EPROTO, "more replies"},
        {"+PONG\r\n$", MOOR_EPROTO, "more replies"},
        {"HTTP/1.1 400 Bad Request\r\n\r\n", MOOR_EPROTO, "not RESP"},
        {"-bell \a and \x1b[31m\r\n", MOOR_ECONNECT, "bell ? and ?[31m"},
        {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", MOOR_EPROTO, ""},
        {"*100000\r\n", MOOR_ETOOBIG, "larger"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct script s = {.hello = cases[i].hello, .answer = ""};
        struct stage g;
        moor_why why = {.size = sizeof why};
        moor_acquire_options ao;
        moor_acquired a = {.size = sizeof a};
        raise(&g, &s, "", 2000);
        moor_acquire_options_init(&ao);
        ao.why = &why;
        ao.timeout_ms = 500;
        assert_int_not_equal(moor_acquire_wait(g.pool, &ao, &a), MOOR_OK);
        if (why.connect_err != cases[i].err || !strstr(why.connect_text, cases[i].text))
            fail_msg("%s: %s, \"%s\"", cases[i].hello, moor_err_name(why.connect_err),
                     why.connect_text);
        strike(&g);
    }
}

static void silent_set_up(void **state)
{
    (void)state;
    static const char *const hellos[] = {"", "+PO", "$4\r\nPO"};
    for (unsigned i = 0; i < sizeof hellos / sizeof hellos[0]; i++) {
        struct script s = {.hello = hellos[i], .answer = ""};
        struct stage g;
        moor_acquired a = {.size = sizeof a};
        raise(&g, &s, "", 200);
        assert_int_not_equal(moor_acquire_wait(g.pool, NULL, &a), MOOR_OK);
        strike(&g);
    }
}

/* ---- after it ---- */

static moor_err shared_ask(struct stage *g, const char *text, moor_fault *f, char said[256])
{
    struct words w;
    moor_redis_reply *r = NULL;
    moor_redis_shared *s = NULL;
    assert_int_equal(moor_redis_shared_open(g->runtime, g->pool, NULL, &s), MOOR_OK);
    words_of(&w, text);
    const moor_err e = moor_redis_shared_command_wait(s, NULL, w.argc, w.argv, NULL, &r, f);
    snprintf(said, 256, "%.255s", e ? moor_err_name(e) : reply_text(r));
    moor_redis_reply_free(r);
    assert_int_equal(moor_redis_shared_close(s, LONG_MS), MOOR_OK);
    return e;
}

static void check_answer(struct script s, const char *query, const char *wanted)
{
    struct stage g;
    moor_fault f;
    moor_acquired a;
    char said[256];
    s.hello = PONG;
    raise(&g, &s, query, 5000);
    shared_ask(&g, "GET k", &f, said);
    assert_string_equal(said, wanted);
    if (f.err)
        assert_false(f.safe_to_retry);
    if (!s.blurts) { /* what comes before a session's question is taken for its answer: it does not read ahead */
        moor_redis *session = session_begin(g.pool, &a);
        assert_string_equal(session_say(session, "GET k"), wanted);
        moor_redis_end(session, MOOR_REUSE);
    }
    strike(&g);
}

static void one_byte_at_a_time(void **state)
{
    (void)state;
    check_answer((struct script){.answer = "*3\r\n$5\r\nhello\r\n*2\r\n:1\r\n$-1\r\n-ERR no\r\n",
                                 .is_byte_by_byte = true},
                 "", "[3]");
    check_answer((struct script){.answer = "$12\r\nhello\r\nworld\r\n", .is_byte_by_byte = true},
                 "", "hello\r\nworld");
}

static void garbage(void **state)
{
    (void)state;
    static const char *const answers[] = {"garbage\r\n", "$x\r\n",      "$3\r\nabcd\r\n",
                                          "*-5\r\n",     ":\r\n:x\r\n", "%1\r\n+a\r\n+b\r\n"};
    for (unsigned i = 0; i < sizeof answers / sizeof answers[0]; i++)
        check_answer((struct script){.answer = answers[i]}, "", "MOOR_EPROTO");
}

static void closes_in_the_midst(void **state)
{
    (void)state;
    static const char *const answers[] = {"$5\r\nhel", "*2\r\n:1\r\n", "+O", "*3\r\n"};
    for (unsigned i = 0; i < sizeof answers / sizeof answers[0]; i++)
        check_answer((struct script){.answer = answers[i], .closes = true}, "", "MOOR_ERESET");
}

static void too_deep(void **state)
{
    (void)state;
    char deep[256] = "";
    for (int i = 0; i < MOOR_REDIS_DEPTH_MAX; i++)
        memcpy(deep + 4 * i, "*1\r\n", 4);
    memcpy(deep + 4 * MOOR_REDIS_DEPTH_MAX, ":1\r\n", 4);
    check_answer((struct script){.answer = deep}, "", "[1]");
    memmove(deep + 4, deep, strlen(deep) + 1);
    memcpy(deep, "*1\r\n", 4);
    check_answer((struct script){.answer = deep}, "", DEPTH_ERROR);
}

static void without_end(void **state)
{
    (void)state;
    static char line[200000];
    memset(line, 'x', sizeof line);
    line[0] = '+';
    check_answer((struct script){.answer = line, .answer_len = sizeof line, .floods = true}, "",
                 "MOOR_ETOOBIG");
    check_answer((struct script){.answer = "*1000000000\r\n"}, "?reply_bytes_max=1048576",
                 "MOOR_ETOOBIG");
    memcpy(line, "$2000000000\r\n", 13);
    check_answer((struct script){.answer = line, .answer_len = sizeof line, .floods = true},
                 "?reply_bytes_max=1048576", "MOOR_ETOOBIG");
    /* Each element is small: it is their sum that counts. */
    static char many[160000];
    memcpy(many, "*40000\r\n", 8);
    for (size_t i = 8; i + 8 <= sizeof many; i += 8)
        memcpy(many + i, "$2\r\nab\r\n", 8);
    check_answer((struct script){.answer = many, .answer_len = sizeof many},
                 "?reply_bytes_max=1024", "MOOR_ETOOBIG");
}

/* What nobody asked for ends a shared connection before it can be taken for an answer. */
static void unsolicited(void **state)
{
    (void)state;
    struct script s = {.hello = PONG, .answer = "+one\r\n+two\r\n"};
    struct stage g;
    moor_fault f;
    char said[256];
    raise(&g, &s, "", 5000);
    moor_redis_shared *shared = NULL;
    moor_redis_reply *r;
    assert_int_equal(moor_redis_shared_open(g.runtime, g.pool, NULL, &shared), MOOR_OK);
    for (int i = 0; i < 10; i++) {
        const moor_err e = moor_redis_shared_command_wait(
            shared, NULL, 2, (const char *[]){"GET", "k"}, NULL, &r, &f);
        if (!e) {
            assert_string_equal(reply_text(r), "one");
            moor_redis_reply_free(r);
        } else {
            assert_true(e == MOOR_EPROTO || e == MOOR_ERESET);
        }
    }
    assert_true(atomic_load(&g.peer.accepted) > 1);
    assert_int_equal(moor_redis_shared_close(shared, LONG_MS), MOOR_OK);
    /* A session: the second answer is noticed with the first. */
    moor_acquired a;
    moor_redis *session = session_begin(g.pool, &a);
    assert_string_equal(session_say(session, "GET k"), "one");
    snprintf(said, sizeof said, "%.255s", session_say(session, "GET k"));
    assert_string_equal(said, "MOOR_EPROTO");
    moor_redis_end(session, MOOR_REUSE);
    strike(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_set_ups),         cmocka_unit_test(silent_set_up),
        cmocka_unit_test(one_byte_at_a_time),  cmocka_unit_test(garbage),
        cmocka_unit_test(closes_in_the_midst), cmocka_unit_test(too_deep),
        cmocka_unit_test(without_end),         cmocka_unit_test(unsolicited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
