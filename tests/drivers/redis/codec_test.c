/*
 * The codec alone: every reply whole and one byte at a time, its limits, and commands as they are sent.
 */
#include "drivers/redis/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void add(char out[4096], const char *text)
{
    const size_t len = strlen(out);
    snprintf(out + len, 4096 - len, "%s", text);
}

static void show(const moor_redis_reply *r, char out[4096])
{
    const size_t len = strlen(out);
    char *at = out + len;
    const size_t cap = 4096 - len;
    switch (moor_redis_reply_type(r)) {
    case MOOR_REDIS_NIL:
        snprintf(at, cap, "nil");
        return;
    case MOOR_REDIS_INTEGER:
        snprintf(at, cap, "%lld", (long long)moor_redis_reply_integer(r));
        return;
    case MOOR_REDIS_ARRAY:
        snprintf(at, cap, "[");
        for (size_t i = 0; i < moor_redis_reply_count(r); i++) {
            show(moor_redis_reply_at(r, i), out);
            add(out, ",");
        }
        add(out, "]");
        return;
    default:
        snprintf(at, cap, "%c%.*s", "?$+-"[moor_redis_reply_type(r)],
                 (int)moor_redis_reply_text(r).len, (const char *)moor_redis_reply_text(r).base);
    }
}

/* Every reply of `bytes`, one a line, then the error if there is one. */
static void feed(const char *bytes, size_t len, size_t piece, size_t max, char out[4096])
{
    struct redis_codec c;
    struct moor_redis_reply *r;
    moor_err e = redis_codec_init(&c, max);
    out[0] = 0;
    for (size_t i = 0; i < len && !e; i += piece) {
        const size_t n = len - i < piece ? len - i : piece;
        e = redis_codec_feed(&c, (moor_span){bytes + i, n});
        while (!e && !(e = redis_codec_next(&c, &r)) && r) {
            show(r, out);
            add(out, "\n");
            moor_redis_reply_free(r);
        }
    }
    if (e) {
        add(out, moor_err_name(e));
        assert_int_equal(redis_codec_next(&c, &r), e); /* and for ever */
    } else if (redis_codec_has_rest(&c)) {
        add(out, "...");
    }
    redis_codec_fini(&c);
}

#define FEED_ALL_WAYS(bytes, max, wanted)                                                          \
    do {                                                                                           \
        char out_[4096];                                                                           \
        const size_t pieces_[] = {sizeof(bytes), 1, 2, 7};                                         \
        for (unsigned i_ = 0; i_ < 4; i_++) {                                                      \
            feed(bytes, sizeof(bytes) - 1, pieces_[i_], max, out_);                                \
            assert_string_equal(out_, wanted);                                                     \
        }                                                                                          \
    } while (0)

#define ROOM 65536

static void replies(void **state)
{
    (void)state;
    FEED_ALL_WAYS("", ROOM, "");
    FEED_ALL_WAYS("+OK\r\n", ROOM, "+OK\n");
    FEED_ALL_WAYS("+\r\n", ROOM, "+\n");
    FEED_ALL_WAYS("-ERR no\r\n:-7\r\n", ROOM, "-ERR no\n-7\n");
    FEED_ALL_WAYS("$5\r\nhello\r\n$0\r\n\r\n$-1\r\n", ROOM, "$hello\n$\nnil\n");
    FEED_ALL_WAYS("$4\r\n\r\n\r\n\r\n", ROOM, "$\r\n\r\n\n");
    FEED_ALL_WAYS("*0\r\n*-1\r\n", ROOM, "[]\nnil\n");
    FEED_ALL_WAYS("*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n-E\r\n+x\r\n", ROOM,
                  "[1,[$a,[],],-E,]\n+x\n");
    FEED_ALL_WAYS(":9223372036854775807\r\n:-9223372036854775808\r\n", ROOM,
                  "9223372036854775807\n-9223372036854775808\n");
    FEED_ALL_WAYS("*2\r\n:1\r\n", ROOM, "...");
    FEED_ALL_WAYS("$5\r\nhel", ROOM, "...");
}

static void broken(void **state)
{
    (void)state;
    FEED_ALL_WAYS("x\r\n", ROOM, "MOOR_EPROTO");
    FEED_ALL_WAYS("+ok\r\nHTTP/1.1\r\n", ROOM, "+ok\nMOOR_EPROTO");
    FEED_ALL_WAYS(":x\r\n", ROOM, "MOOR_EPROTO");
    FEED_ALL_WAYS(":9223372036854775808\r\n", ROOM, "MOOR_EPROTO");
    FEED_ALL_WAYS("$-2\r\n", ROOM, "MOOR_EPROTO");
    FEED_ALL_WAYS("*-2\r\n", ROOM, "MOOR_EPROTO");
    /* A string that is longer than it says: hiredis alone would go on two bytes further. */
    FEED_ALL_WAYS("$3\r\nabcd\r\n", ROOM, "MOOR_EPROTO");
    FEED_ALL_WAYS("*2\r\n$1\r\nab\r\n:1\r\n", ROOM, "MOOR_EPROTO");
}

static void limits(void **state)
{
    (void)state;
    char line[MOOR_REDIS_LINE_MAX + 100], out[4096];
    FEED_ALL_WAYS("$2000\r\n", 1024, "...");
    FEED_ALL_WAYS("*100\r\n", 1024, "MOOR_ETOOBIG");
    FEED_ALL_WAYS("*2\r\n*20\r\n", 1024, "...");
    FEED_ALL_WAYS("*2\r\n*40\r\n", 1024, "MOOR_ETOOBIG");
    FEED_ALL_WAYS("*2147483647\r\n", ROOM, "MOOR_ETOOBIG");
    memset(line, 'x', sizeof line);
    line[0] = '+';
    feed(line, MOOR_REDIS_LINE_MAX, 1000, 1 << 20, out);
    assert_string_equal(out, "...");
    feed(line, sizeof line, 1000, 1 << 20, out);
    assert_string_equal(out, "MOOR_ETOOBIG");
    /* A string may be as long as a reply may be, its own few bytes included. */
    char *big = malloc(1 << 20);
    memset(big, 'b', 1 << 20);
    memcpy(big, "$999000\r\n", 9);
    memcpy(big + 9 + 999000, "\r\n", 2);
    struct redis_codec c;
    struct moor_redis_reply *r;
    assert_int_equal(redis_codec_init(&c, 1000000), MOOR_OK);
    assert_int_equal(redis_codec_feed(&c, (moor_span){big, 9 + 999000 + 2}), MOOR_OK);
    assert_int_equal(redis_codec_next(&c, &r), MOOR_OK);
    assert_int_equal(moor_redis_reply_text(r).len, 999000);
    moor_redis_reply_free(r);
    redis_codec_fini(&c);
    assert_int_equal(redis_codec_init(&c, 900000), MOOR_OK);
    assert_int_equal(redis_codec_feed(&c, (moor_span){big, 9 + 999000 + 2}), MOOR_OK);
    assert_int_equal(redis_codec_next(&c, &r), MOOR_ETOOBIG);
    redis_codec_fini(&c);
    free(big);
}

static void kept_replies(void **state)
{
    (void)state;
    struct redis_codec c;
    struct moor_redis_reply *r;
    assert_int_equal(redis_codec_init(&c, ROOM), MOOR_OK);
    assert_int_equal(redis_codec_feed(&c, (moor_span){"*1\r\n+a\r\n", 8}), MOOR_OK);
    assert_int_equal(redis_codec_next(&c, &r), MOOR_OK);
    assert_null(moor_redis_reply_keep(moor_redis_reply_at(r, 0))); /* an element is not a whole */
    moor_redis_reply *kept = moor_redis_reply_keep(r);
    assert_ptr_equal(kept, r);
    assert_null(moor_redis_reply_keep(r));
    redis_reply_done(r); /* what the driver does after a callback */
    assert_string_equal(moor_redis_reply_text(moor_redis_reply_at(kept, 0)).base, "a");
    moor_redis_reply_free(kept);
    redis_codec_fini(&c);
}

static void error_codes(void **state)
{
    (void)state;
    struct moor_redis_reply r = {.type = MOOR_REDIS_ERROR, .text = "READONLYX no", .len = 12};
    assert_false(moor_redis_reply_is_error(&r, "READONLY"));
    assert_true(moor_redis_reply_is_error(&r, "READONLYX"));
    assert_true(moor_redis_reply_is_error(&r, NULL));
    r.len = 8;
    assert_true(moor_redis_reply_is_error(&r, "READONLY"));
    r.type = MOOR_REDIS_STRING;
    assert_false(moor_redis_reply_is_error(&r, NULL));
    assert_false(moor_redis_reply_is_error(NULL, NULL));
}

static void commands(void **state)
{
    (void)state;
    char *bytes;
    size_t len;
    const size_t lens[] = {3, 3, 0};
    assert_int_equal(redis_command_make(3, (const char *[]){"SET", "a\0b", ""}, lens, &bytes, &len),
                     MOOR_OK);
    assert_int_equal(len, 28);
    assert_memory_equal(bytes, "*3\r\n$3\r\nSET\r\n$3\r\na\0b\r\n$0\r\n\r\n", len);
    redis_command_free(bytes);
    assert_int_equal(redis_command_make(0, (const char *[]){"A"}, NULL, &bytes, &len), MOOR_EINVAL);
    assert_int_equal(redis_command_make(2, (const char *[]){"A", NULL}, NULL, &bytes, &len),
                     MOOR_EINVAL);
    assert_int_equal(
        redis_command_make(MOOR_REDIS_ARGS_MAX + 1, (const char *[]){"A"}, NULL, &bytes, &len),
        MOOR_EINVAL);
    const size_t huge[] = {1, MOOR_REDIS_COMMAND_MAX};
    assert_int_equal(redis_command_make(2, (const char *[]){"A", "B"}, huge, &bytes, &len),
                     MOOR_EINVAL);
}

static unsigned kind(const char *text)
{
    char copy[128], *at;
    const char *argv[16];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *w = strtok_r(copy, " ", &at); w; w = strtok_r(NULL, " ", &at))
        argv[argc++] = w;
    return redis_kind(argc, argv, NULL);
}

static void kinds(void **state)
{
    (void)state;
    assert_int_equal(kind("GET k"), 0);
    assert_int_equal(kind("blpop k 0"), REDIS_BLOCKS);
    assert_int_equal(kind("BLPOPX k 0"), 0);
    assert_int_equal(kind("AVERYLONGNAMEOFACOMMANDTHATISNONE"), 0);
    assert_int_equal(kind("Multi"), REDIS_MULTI);
    assert_int_equal(kind("WATCH k"), REDIS_WATCH);
    assert_int_equal(kind("ASKING"), REDIS_STATE); /* first and last of the table */
    assert_int_equal(kind("WAIT 1 0"), REDIS_BLOCKS);
    assert_int_equal(kind("CLIENT"), REDIS_STATE);
    assert_int_equal(kind("CLIENT id"), 0);
    assert_int_equal(kind("CLIENT NO-EVICT on"), REDIS_STATE);
    assert_int_equal(kind("client reply skip"), REDIS_NO_ORDER);
    assert_int_equal(kind("XREAD STREAMS BLOCK 0"), 0);
    assert_int_equal(kind("XREAD COUNT BLOCK STREAMS s 0"), 0); /* the server refuses that COUNT */
    assert_int_equal(kind("XREAD COUNT 1 block 0 STREAMS s 0"), REDIS_BLOCKS);
    assert_int_equal(kind("XREADGROUP GROUP STREAMS STREAMS BLOCK 0 STREAMS s >"), REDIS_BLOCKS);
    assert_int_equal(kind("XREADGROUP NOACK GROUP g c STREAMS s >"), 0);
    assert_int_equal(kind("SCRIPT DEBUG SYNC"), REDIS_NO_ORDER);
    assert_int_equal(kind("SCRIPT LOAD x"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies),      cmocka_unit_test(broken),      cmocka_unit_test(limits),
        cmocka_unit_test(kept_replies), cmocka_unit_test(error_codes), cmocka_unit_test(commands),
        cmocka_unit_test(kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
