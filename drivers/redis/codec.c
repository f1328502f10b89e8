/*
 * hiredis' reader with replies of our own, and with limits on everything a server can make it hold.
 * Thread: whoever owns the codec. Does no I/O and knows no connection.
 */
#include "drivers/redis/internal.h"

#include <stdlib.h>
#include <string.h>

#if HIREDIS_MAJOR >= 1
typedef size_t element_count;
#else
typedef int element_count;
#endif

static void *make_string(const redisReadTask *t, char *text, size_t len);
static void *make_array(const redisReadTask *t, element_count count);
static void *make_integer(const redisReadTask *t, long long value);
static void *make_nil(const redisReadTask *t);
static void drop_root(void *object);
#if HIREDIS_MAJOR >= 1
static void *make_double(const redisReadTask *t, double value, char *text, size_t len);
static void *make_bool(const redisReadTask *t, int value);
#endif

static redisReplyObjectFunctions hooks = {
    .createString = make_string,
    .createArray = make_array,
    .createInteger = make_integer,
    .createNil = make_nil,
    .freeObject = drop_root,
#if HIREDIS_MAJOR >= 1
    .createDouble = make_double,
    .createBool = make_bool,
#endif
};

moor_err redis_codec_init(struct redis_codec *c, size_t reply_bytes_max)
{
    *c = (struct redis_codec){.reply_bytes_max = reply_bytes_max};
    c->reader = redisReaderCreateWithFunctions(&hooks);
    if (!c->reader)
        return MOOR_ENOMEM;
    c->reader->privdata = c;
    return MOOR_OK;
}

void redis_codec_fini(struct redis_codec *c)
{
    if (c->reader)
        redisReaderFree(c->reader);
    c->reader = NULL;
    c->root = NULL;
}

static size_t rest(const struct redis_codec *c)
{
    return c->reader->len - c->reader->pos;
}

bool redis_codec_has_rest(const struct redis_codec *c)
{
    return c->reader && (rest(c) > 0 || c->root);
}

moor_err redis_codec_feed(struct redis_codec *c, moor_span bytes)
{
    if (c->fault)
        return c->fault;
    if (bytes.len && redisReaderFeed(c->reader, bytes.base, bytes.len) != REDIS_OK)
        c->fault = MOOR_ENOMEM;
    return c->fault;
}

/* What is left is one item that has not come whole. Only strings may be long, and they say how long they are in
 * their first bytes: a line without an end would be searched from its start again with every piece. */
static moor_err check_rest(const struct redis_codec *c)
{
    if (rest(c) > MOOR_REDIS_LINE_MAX &&
        !memchr(c->reader->buf + c->reader->pos, '\n', MOOR_REDIS_LINE_MAX))
        return MOOR_ETOOBIG;
    return rest(c) > c->reply_bytes_max + MOOR_REDIS_LINE_MAX ? MOOR_ETOOBIG : MOOR_OK;
}

moor_err redis_codec_next(struct redis_codec *c, struct moor_redis_reply **out)
{
    void *reply = NULL;
    *out = NULL;
    if (c->fault)
        return c->fault;
    if (redisReaderGetReply(c->reader, &reply) != REDIS_OK) {
        if (!c->fault)
            c->fault = c->reader->err == REDIS_ERR_OOM ? MOOR_ENOMEM : MOOR_EPROTO;
        c->root = NULL; /* the reader has given it to drop_root */
        return c->fault;
    }
    if (!reply)
        return c->fault = check_rest(c);
    c->root = NULL;
    *out = reply;
    return MOOR_OK;
}

const char *redis_codec_what(moor_err e)
{
    switch (e) {
    case MOOR_ETOOBIG:
        return "a reply is larger or nested deeper than allowed";
    case MOOR_ENOMEM:
        return "no memory for a reply";
    default:
        return "the server sent what is not RESP";
    }
}

/* ---- what the reader calls ---- */

static void *refuse(struct redis_codec *c, moor_err e)
{
    c->fault = e;
    return NULL;
}

/* The place of t's value, and *extra, `bytes` of memory for what it needs beside. */
static struct moor_redis_reply *place(const redisReadTask *t, moor_redis_type type, size_t bytes,
                                      void **extra)
{
    struct redis_codec *c = t->privdata;
    struct moor_redis_reply *r;
    if (bytes > c->reply_bytes_max || (c->root && c->root->bytes > c->reply_bytes_max - bytes))
        return refuse(c, MOOR_ETOOBIG);
    if (!t->parent) {
        c->root = redis_root_make(bytes);
        if (!c->root)
            return refuse(c, MOOR_ENOMEM);
        r = &c->root->reply;
    } else {
        struct moor_redis_reply *parent = t->parent->obj;
        r = &parent->elements[t->idx];
    }
    r->type = (uint8_t)type;
    *extra = bytes ? redis_root_take(c->root, bytes) : NULL;
    if (bytes && !*extra)
        return refuse(c, MOOR_ENOMEM); /* the reader gives up the root, too */
    return r;
}

static moor_redis_type type_of(int type)
{
    switch (type) {
    case REDIS_REPLY_STATUS:
        return MOOR_REDIS_STATUS;
    case REDIS_REPLY_ERROR:
        return MOOR_REDIS_ERROR;
    case REDIS_REPLY_ARRAY:
        return MOOR_REDIS_ARRAY;
#if HIREDIS_MAJOR >= 1
    case REDIS_REPLY_MAP:
    case REDIS_REPLY_ATTR:
        return MOOR_REDIS_MAP;
    case REDIS_REPLY_SET:
        return MOOR_REDIS_SET;
    case REDIS_REPLY_PUSH:
        return MOOR_REDIS_PUSH;
#endif
    default:
        return MOOR_REDIS_STRING;
    }
}

static bool is_line(int type)
{
#if HIREDIS_MAJOR >= 1
    if (type == REDIS_REPLY_VERB)
        return false;
#endif
    return type != REDIS_REPLY_STRING;
}

static void *make_string(const redisReadTask *t, char *text, size_t len)
{
    struct redis_codec *c = t->privdata;
    void *copy;
    /* As check_rest would, had it come in pieces. */
    if (len >= c->reply_bytes_max || (is_line(t->type) && len + 1 >= MOOR_REDIS_LINE_MAX))
        return refuse(c, MOOR_ETOOBIG);
    /* The reader skips the two bytes after a string unseen: a wrong length would shift all that follows. */
    if (text[len] != '\r' || text[len + 1] != '\n')
        return refuse(c, MOOR_EPROTO);
#if HIREDIS_MAJOR >= 1
    if (t->type == REDIS_REPLY_VERB && len >= 4) { /* "txt:" says how to show it */
        text += 4;
        len -= 4;
    }
#endif
    struct moor_redis_reply *r = place(t, type_of(t->type), len + 1, &copy);
    if (!r)
        return NULL;
    memcpy(copy, text, len);
    r->text = copy;
    r->len = len;
    return r;
}

static void *make_array(const redisReadTask *t, element_count count)
{
    struct redis_codec *c = t->privdata;
    void *elements;
    unsigned depth = 1;
    for (const redisReadTask *up = t->parent; up; up = up->parent)
        depth++;
    if (depth > MOOR_REDIS_DEPTH_MAX ||
        (size_t)count > c->reply_bytes_max / sizeof(struct moor_redis_reply))
        return refuse(c, MOOR_ETOOBIG);
    struct moor_redis_reply *r =
        place(t, type_of(t->type), (size_t)count * sizeof(struct moor_redis_reply), &elements);
    if (!r)
        return NULL;
    r->elements = elements;
    r->len = (size_t)count;
    return r;
}

static void *make_integer(const redisReadTask *t, long long value)
{
    void *none;
    struct moor_redis_reply *r = place(t, MOOR_REDIS_INTEGER, 0, &none);
    if (r)
        r->integer = value;
    return r;
}

static void *make_nil(const redisReadTask *t)
{
    void *none;
    return place(t, MOOR_REDIS_NIL, 0, &none);
}

#if HIREDIS_MAJOR >= 1
static void *make_double(const redisReadTask *t, double value, char *text, size_t len)
{
    void *copy;
    struct moor_redis_reply *r = place(t, MOOR_REDIS_DOUBLE, sizeof value + len + 1, &copy);
    if (!r)
        return NULL;
    memcpy(copy, &value, sizeof value);
    memcpy((char *)copy + sizeof value, text, len);
    r->text = (char *)copy + sizeof value;
    r->len = len;
    return r;
}

static void *make_bool(const redisReadTask *t, int value)
{
    void *none;
    struct moor_redis_reply *r = place(t, MOOR_REDIS_BOOL, 0, &none);
    if (r)
        r->integer = value != 0;
    return r;
}
#endif

static void drop_root(void *object)
{
    moor_redis_reply_free(object);
}

/* ---- commands ---- */

moor_err redis_command_make(int argc, const char *const *argv, const size_t *argvlen,
                            char **out_bytes, size_t *out_len)
{
    size_t total = 0;
    if (argc < 1 || argc > MOOR_REDIS_ARGS_MAX || !argv)
        return MOOR_EINVAL;
    for (int i = 0; i < argc; i++) {
        if (!argv[i])
            return MOOR_EINVAL;
        const size_t len = argvlen ? argvlen[i] : strlen(argv[i]);
        if (len > MOOR_REDIS_COMMAND_MAX - total)
            return MOOR_EINVAL;
        total += len;
    }
    char *bytes = NULL;
    /* The library's prototype lacks a const; it only reads. */
    const long long len =
        redisFormatCommandArgv(&bytes, argc, (const char **)(uintptr_t)argv, argvlen);
    if (len < 0)
        return MOOR_ENOMEM;
    *out_bytes = bytes;
    *out_len = (size_t)len;
    return MOOR_OK;
}

void redis_command_free(char *bytes)
{
    redisFreeCommand(bytes);
}

/* ---- bytes to send ---- */

#define BUF_KEPT_MAX (256u * 1024)

moor_err redis_buf_reserve(struct redis_buf *b, size_t more)
{
    if (more <= b->cap - b->len)
        return MOOR_OK;
    size_t cap = b->cap ? b->cap : 1024;
    while (cap - b->len < more)
        cap *= 2;
    char *grown = realloc(b->bytes, cap);
    if (!grown)
        return MOOR_ENOMEM;
    b->bytes = grown;
    b->cap = cap;
    return MOOR_OK;
}

void redis_buf_add(struct redis_buf *b, const char *bytes, size_t len)
{
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
}

void redis_buf_clear(struct redis_buf *b)
{
    if (b->cap > BUF_KEPT_MAX)
        redis_buf_fini(b);
    b->len = 0;
}

void redis_buf_fini(struct redis_buf *b)
{
    free(b->bytes);
    *b = (struct redis_buf){0};
}
