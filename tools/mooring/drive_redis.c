/*
 * Redis: one command, one reply, in a session on the lease. Runs on the thread that holds the lease.
 * A reply that is an error is a failure of the command, not of the connection.
 */
#include "drive.h"

#include <mooring/redis.h>
#include <stdio.h>
#include <string.h>

enum { WORDS_MAX = 256, VERSION_MS = 5000 };

/* Between blanks. 0: none, or too many. */
static int split(const char *text, const char **words, size_t *lengths)
{
    int count = 0;
    for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
        if (count == WORDS_MAX)
            return 0;
        words[count] = text;
        lengths[count] = strcspn(text, " ");
        text += lengths[count++];
    }
    return count;
}

static bool take_reply(struct drive_call *c, const moor_redis_reply *reply)
{
    if (!moor_redis_reply_is_error(reply, NULL))
        return true;
    const moor_span text = moor_redis_reply_text(reply);
    drive_text(c, text.base);
    drive_kind(c, "%.*s", (int)strcspn(c->text, " "), c->text);
    return false;
}

static bool run(struct drive_call *c)
{
    const char *words[WORDS_MAX];
    size_t lengths[WORDS_MAX];
    const int count = split(c->query, words, lengths);
    moor_redis *session = NULL;
    moor_err e = moor_redis_begin(c->lease, &session);
    if (e != MOOR_OK)
        return drive_failed(c, e, "begin");
    c->session = session;
    moor_redis_reply *reply = NULL;
    e = moor_redis_command_wait(session, count, words, lengths, c->timeout_ms, &reply);
    if (e != MOOR_OK)
        return drive_failed(c, e, "command");
    const bool is_good = take_reply(c, reply);
    moor_redis_reply_free(reply);
    return is_good;
}

static void release(struct drive_call *c)
{
    moor_redis_end(c->session, c->how);
    c->session = NULL;
}

/* Of the session that run has made. */
static bool version(struct drive_call *c)
{
    static const char key[] = "redis_version:";
    static const char *const words[] = {"INFO", "server"};
    moor_redis_reply *reply = NULL;
    if (!c->session ||
        moor_redis_command_wait(c->session, 2, words, NULL, VERSION_MS, &reply) != MOOR_OK)
        return false;
    const moor_span info = moor_redis_reply_text(reply);
    const char *at = info.len ? memmem(info.base, info.len, key, sizeof key - 1) : NULL;
    if (at) {
        at += sizeof key - 1;
        snprintf(c->text, sizeof c->text, "Redis %.*s", (int)strcspn(at, "\r\n"), at);
    }
    moor_redis_reply_free(reply);
    return at;
}

const struct drive drive_redis = {
    .name = "redis",
    .schemes = "redis rediss",
    .driver = moor_redis_driver,
    .query = "PING",
    .run = run,
    .release = release,
    .version = version,
};
