/*
 * The hooks: sets a connection up (AUTH, CLIENT SETNAME, SELECT), checks it with PING, resets it.
 * Keeper's thread, but for returned and judge. Never waits: all commands of a task leave in one send, their
 * replies are counted. Between tasks a link keeps nothing but what a reset has to send again.
 */
#include "drivers/redis/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum step { STEP_RESET, STEP_HELLO, STEP_AUTH, STEP_NAME, STEP_SELECT, STEP_PING, STEPS };

static const char *const step_names[STEPS] = {
    [STEP_RESET] = "RESET",         [STEP_HELLO] = "HELLO",   [STEP_AUTH] = "AUTH",
    [STEP_NAME] = "CLIENT SETNAME", [STEP_SELECT] = "SELECT", [STEP_PING] = "PING"};

/* The bytes of a reply to the set-up: HELLO's is the longest. */
#define SETUP_REPLY_MAX 65536

struct state {
    char *auth; /* the AUTH command for resets, wiped with the link; NULL = none */
    size_t auth_len;
    struct redis_codec codec; /* while a task runs */
    uint8_t steps[STEPS];     /* whose replies are to come */
    unsigned step_count, step_at;
};

struct batch {
    char *bytes;
    size_t len, cap;
    moor_err err;
};

/* ---- a task's commands ---- */

static void add_bytes(struct batch *b, const char *bytes, size_t len)
{
    if (b->err)
        return;
    if (len > b->cap - b->len) {
        const size_t cap = (b->len + len) * 2;
        char *grown = malloc(cap);
        if (!grown) {
            b->err = MOOR_ENOMEM;
            return;
        }
        if (b->len)
            memcpy(grown, b->bytes, b->len);
        if (b->bytes)
            explicit_bzero(b->bytes, b->cap); /* AUTH may be in it: no realloc */
        free(b->bytes);
        b->bytes = grown;
        b->cap = cap;
    }
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
}

static void add(struct state *s, struct batch *b, enum step step, int argc, const char *const *argv)
{
    char *bytes;
    size_t len;
    if (b->err)
        return;
    b->err = redis_command_make(argc, argv, NULL, &bytes, &len);
    if (b->err)
        return;
    add_bytes(b, bytes, len);
    redis_command_free(bytes);
    s->steps[s->step_count++] = (uint8_t)step;
}

static void add_session(struct state *s, struct batch *b, const struct redis_config *c)
{
    char number[16];
    if (s->auth) {
        add_bytes(b, s->auth, s->auth_len);
        s->steps[s->step_count++] = STEP_AUTH;
    }
    /* After AUTH: a HELLO of a user who is not known yet is refused. */
    if (c->protocol == 3)
        add(s, b, STEP_HELLO, 2, (const char *const[]){"HELLO", "3"});
    if (*c->client_name)
        add(s, b, STEP_NAME, 3, (const char *const[]){"CLIENT", "SETNAME", c->client_name});
    if (c->database) {
        snprintf(number, sizeof number, "%u", c->database);
        add(s, b, STEP_SELECT, 2, (const char *const[]){"SELECT", number});
    }
}

static void forget_auth(struct state *s)
{
    if (s->auth) {
        explicit_bzero(s->auth, s->auth_len);
        redis_command_free(s->auth);
    }
    s->auth = NULL;
}

/* With a user: ACL, Redis 6. Without: the password of requirepass. */
static moor_err make_auth(struct state *s, const moor_target *to)
{
    const char *argv[] = {"AUTH", to->user, to->password};
    const char *const old[] = {"AUTH", to->password};
    if (*to->user)
        return redis_command_make(3, argv, NULL, &s->auth, &s->auth_len);
    if (*to->password)
        return redis_command_make(2, old, NULL, &s->auth, &s->auth_len);
    return MOOR_OK;
}

static moor_step begin(moor_link *l, struct state *s, struct batch *b)
{
    if (!b->err)
        b->err = redis_codec_init(&s->codec, SETUP_REPLY_MAX);
    if (!b->err)
        b->err = moor_link_send(l, (moor_span){b->bytes, b->len});
    if (b->bytes)
        explicit_bzero(b->bytes, b->cap);
    free(b->bytes);
    if (b->err)
        return moor_link_fail(l, b->err, 0, b->err == MOOR_ENOMEM ? "no memory" : "send");
    return moor_link_wait(l, -1, 0, MOOR_FOREVER);
}

static moor_step prepare(moor_link *l)
{
    const struct redis_config *c = moor_link_config(l);
    struct state *s = calloc(1, sizeof *s);
    if (!s)
        return moor_link_fail(l, MOOR_ENOMEM, 0, "no memory");
    moor_link_set_state(l, s);
    struct batch b = {.err = make_auth(s, moor_link_target(l))};
    add_session(s, &b, c);
    /* Last, so that a server that loads its data, or wants a password that nobody gave, says so here. */
    add(s, &b, STEP_PING, 1, (const char *const[]){"PING"});
    return begin(l, s, &b);
}

static moor_step check(moor_link *l)
{
    struct state *s = moor_link_state(l);
    struct batch b = {0};
    s->step_count = s->step_at = 0;
    add(s, &b, STEP_PING, 1, (const char *const[]){"PING"});
    return begin(l, s, &b);
}

static moor_step reset(moor_link *l)
{
    struct state *s = moor_link_state(l);
    struct batch b = {0};
    s->step_count = s->step_at = 0;
    add(s, &b, STEP_RESET, 1, (const char *const[]){"RESET"});
    add_session(s, &b, moor_link_config(l));
    return begin(l, s, &b);
}

/* ---- their replies ---- */

static moor_err err_of(const struct moor_redis_reply *r, enum step step)
{
    if (moor_redis_reply_is_error(r, "NOAUTH") || moor_redis_reply_is_error(r, "WRONGPASS") ||
        moor_redis_reply_is_error(r, "NOPERM") || step == STEP_AUTH)
        return moor_redis_reply_is_error(r, "LOADING") ? MOOR_ECONNECT : MOOR_EAUTH;
    /* LOADING, too many clients, protected mode, no such database: it does not serve us, now or as asked. */
    return MOOR_ECONNECT;
}

static moor_step refused(moor_link *l, const struct moor_redis_reply *r, enum step step)
{
    char text[160];
    const moor_span said = moor_redis_reply_text(r);
    int len = snprintf(text, sizeof text, "%s: %.*s", step_names[step],
                       (int)(said.len < 140 ? said.len : 140), (const char *)said.base);
    for (int i = 0; i < len && i < (int)sizeof text - 1; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            text[i] = '?';
    return moor_link_fail(l, err_of(r, step), 0, text);
}

static bool is_status(const struct moor_redis_reply *r, const char *text)
{
    const moor_span said = moor_redis_reply_text(r);
    return r->type == MOOR_REDIS_STATUS && said.len == strlen(text) &&
           !memcmp(said.base, text, said.len);
}

static moor_step take(moor_link *l, struct state *s, const struct moor_redis_reply *r)
{
    const enum step step = s->steps[s->step_at];
    bool is_right = is_status(r, "OK");
    if (step == STEP_PING) /* a user without the right to PING is answered all the same */
        is_right = is_status(r, "PONG") || moor_redis_reply_is_error(r, "NOPERM");
    else if (step == STEP_RESET)
        is_right = is_status(r, "RESET");
    else if (step == STEP_HELLO)
        is_right = r->type == MOOR_REDIS_MAP;
    if (!is_right)
        return r->type == MOOR_REDIS_ERROR
                   ? refused(l, r, step)
                   : moor_link_fail(l, MOOR_EPROTO, 0, "the reply does not fit the command");
    return ++s->step_at == s->step_count ? MOOR_STEP_DONE : MOOR_STEP_WAIT;
}

static moor_step replies(moor_link *l, struct state *s, moor_span bytes)
{
    struct moor_redis_reply *r;
    moor_err e = redis_codec_feed(&s->codec, bytes);
    while (!e && !(e = redis_codec_next(&s->codec, &r)) && r) {
        if (r->type == MOOR_REDIS_PUSH) {
            moor_redis_reply_free(r);
            continue;
        }
        const moor_step step = take(l, s, r);
        moor_redis_reply_free(r);
        if (step == MOOR_STEP_DONE && redis_codec_has_rest(&s->codec))
            return moor_link_fail(l, MOOR_EPROTO, 0, "more replies than commands");
        if (step != MOOR_STEP_WAIT)
            return step;
    }
    return e ? moor_link_fail(l, e, 0, redis_codec_what(e))
             : moor_link_wait(l, -1, 0, MOOR_FOREVER);
}

static void keep_for_reset(struct state *s, const struct redis_config *c)
{
    if (c->reset == MOOR_REDIS_RESET_NEVER)
        forget_auth(s);
}

static moor_step input(moor_link *l, moor_span bytes)
{
    struct state *s = moor_link_state(l);
    if (!s || !s->codec.reader)
        return moor_link_fail(l, MOOR_EPROTO, 0, "a reply that nobody asked for");
    const moor_step step = replies(l, s, bytes);
    if (step == MOOR_STEP_WAIT)
        return step;
    redis_codec_fini(&s->codec); /* an idle connection costs no reader */
    keep_for_reset(s, moor_link_config(l));
    return step;
}

static moor_step resume(moor_link *l, unsigned events)
{
    (void)events; /* no wait has a time of its own, nor a descriptor */
    return moor_link_fail(l, MOOR_EPROTO, 0, "nothing was waited for");
}

static void drop(moor_link *l)
{
    struct state *s = moor_link_state(l);
    if (!s)
        return;
    forget_auth(s);
    redis_codec_fini(&s->codec);
    free(s);
    moor_link_set_state(l, NULL);
}

/* ---- holders ---- */

static moor_verdict returned(moor_link *l, moor_release_how how)
{
    const struct redis_config *c = moor_link_config(l);
    if (how == MOOR_DISCARD || (how == MOOR_DIRTY && c->reset == MOOR_REDIS_RESET_NEVER))
        return MOOR_VERDICT_DISCARD;
    return how == MOOR_DIRTY || c->reset == MOOR_REDIS_RESET_ALWAYS ? MOOR_VERDICT_RESET
                                                                    : MOOR_VERDICT_KEEP;
}

/* READONLY: the server we thought was the primary is a replica now, and so it is for every other connection.
 * NOAUTH: this one lost its user, somebody sent RESET. */
static moor_verdict judge(moor_link *l, const char *sqlstate, int code)
{
    (void)l;
    (void)code;
    if (sqlstate && !strcmp(sqlstate, "READONLY"))
        return MOOR_VERDICT_FLUSH;
    return sqlstate && !strcmp(sqlstate, "NOAUTH") ? MOOR_VERDICT_DISCARD : MOOR_VERDICT_KEEP;
}

void redis_report(moor_lease lease, const struct moor_redis_reply *r)
{
    static const char *const codes[] = {"READONLY", "NOAUTH"};
    for (unsigned i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (moor_redis_reply_is_error(r, codes[i]))
            moor_lease_report(lease, codes[i], 0);
}

static const moor_driver driver = {
    .size = sizeof driver,
    .name = "redis",
    .schemes = "redis rediss",
    .port = 6379,
    .flags = MOOR_DRIVER_STREAM,
    .handle_bytes = sizeof(struct state),
    .open = redis_config_open,
    .shut = redis_config_shut,
    .prepare = prepare,
    .check = check,
    .reset = reset,
    .resume = resume,
    .drop = drop,
    .returned = returned,
    .judge = judge,
    .input = input,
};

const moor_driver *moor_redis_driver(void)
{
    return &driver;
}

moor_err redis_lease_config(moor_lease lease, const struct redis_config **out)
{
    moor_link *l = moor_lease_link(lease);
    if (!l)
        return MOOR_ESTALE;
    if (moor_link_driver(l) != &driver)
        return MOOR_EINVAL;
    *out = moor_link_config(l);
    return MOOR_OK;
}
