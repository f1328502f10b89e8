/*
 * A session: one lease, its commands and their replies in order, blocking or with callbacks.
 * Thread: its holder's, one at a time; with callbacks, the lease's shard. It must never free what a piece under
 * way, a posted task or a callback on the stack still uses: `uses` counts those.
 */
#include "drivers/redis/internal.h"

#include <stdlib.h>
#include <string.h>

enum mode { MODE_NEW, MODE_BLOCKING, MODE_CALLBACKS };

/* One command whose reply is to come. */
struct note {
    struct note *next;
    moor_redis_cb cb;
    void *user;
    uint64_t number;
    bool is_listening; /* its reply is the listener's, and so is all that follows */
};

struct moor_redis {
    moor_lease lease;
    struct redis_codec codec;
    enum mode mode;
    moor_err broken; /* MOOR_OK, or what every call says from now on */
    const char *broken_what;
    bool is_dirty, has_multi, has_watch, has_used_multi; /* see note_kind */
    bool listens, is_last;
    uint32_t pending; /* replies to come */
    struct redis_buf out;

    /* with callbacks */
    moor_shard *shard;
    moor_task flush, over;
    bool is_flush_posted, is_sending, is_over;
    uint32_t uses;
    struct redis_buf sending;
    struct note *first, **last;
    uint64_t numbered, numbered_sent; /* the last note there is, the last one that was sent */
    moor_redis_cb listener;
    void *listener_user;
    bool is_end_told;
};

static void run_flush(void *user);
static void run_over(void *user);

moor_err moor_redis_begin(moor_lease lease, moor_redis **out)
{
    const struct redis_config *config;
    if (!out)
        return MOOR_EINVAL;
    moor_err e = redis_lease_config(lease, &config);
    if (e)
        return e;
    moor_redis *r = calloc(1, sizeof *r);
    if (!r)
        return MOOR_ENOMEM;
    e = redis_codec_init(&r->codec, config->reply_bytes_max);
    if (e) {
        free(r);
        return e;
    }
    r->lease = lease;
    r->last = &r->first;
    *out = r;
    return MOOR_OK;
}

/* ---- what commands and replies do to the session ---- */

static moor_err break_session(moor_redis *r, moor_err e, const char *what)
{
    if (!r->broken) {
        r->broken = e;
        r->broken_what = what;
    }
    return e;
}

static void note_kind(moor_redis *r, unsigned kind)
{
    if (kind & REDIS_STATE)
        r->is_dirty = true;
    if (kind & REDIS_MULTI)
        r->has_multi = r->has_used_multi = true;
    if (kind & REDIS_WATCH)
        r->has_watch = r->has_used_multi = true;
    if (kind & REDIS_CLOSES)
        r->has_multi = r->has_watch = false;
    if ((kind & REDIS_UNWATCH) && !r->has_multi)
        r->has_watch = false;
    if (kind & REDIS_LISTENS)
        r->listens = true;
    if (kind & REDIS_LAST)
        r->is_last = true;
}

/* An EXEC or DISCARD that the server refused may have left the transaction as it was. */
static void note_reply(moor_redis *r, const struct moor_redis_reply *reply)
{
    if (reply->type != MOOR_REDIS_ERROR)
        return;
    if (r->has_used_multi && !moor_redis_reply_is_error(reply, "EXECABORT"))
        r->is_dirty = true;
    redis_report(r->lease, reply);
}

/* Appends a command to `out`. */
static moor_err append(moor_redis *r, int argc, const char *const *argv, const size_t *argvlen,
                       unsigned *out_kind)
{
    char *bytes;
    size_t len;
    if (r->broken)
        return r->broken;
    if (r->pending >= MOOR_REDIS_PIPELINE_MAX)
        return MOOR_EBUSY;
    moor_err e = redis_command_make(argc, argv, argvlen, &bytes, &len);
    if (e)
        return e;
    *out_kind = redis_kind(argc, argv, argvlen);
    if (*out_kind & REDIS_NO_ORDER)
        e = MOOR_EINVAL;
    else if (r->out.len && len > MOOR_REDIS_COMMAND_MAX - r->out.len)
        e = MOOR_EBUSY;
    else
        e = redis_buf_reserve(&r->out, len);
    if (!e) {
        redis_buf_add(&r->out, bytes, len);
        r->pending++;
        note_kind(r, *out_kind);
    }
    redis_command_free(bytes);
    return e;
}

/* ---- blocking ---- */

static moor_err want_mode(moor_redis *r, enum mode mode)
{
    if (r->mode == MODE_NEW)
        r->mode = mode;
    return r->mode == mode ? MOOR_OK : MOOR_EINVAL;
}

moor_err moor_redis_append(moor_redis *r, int argc, const char *const *argv, const size_t *argvlen)
{
    unsigned kind;
    if (!r)
        return MOOR_EINVAL;
    const moor_err e = want_mode(r, MODE_BLOCKING);
    return e ? e : append(r, argc, argv, argvlen, &kind);
}

static moor_err send_appended(moor_redis *r, int64_t deadline)
{
    if (!r->out.len)
        return MOOR_OK;
    const moor_err e = moor_stream_send_wait(r->lease, (moor_span){r->out.bytes, r->out.len},
                                             redis_left(deadline, redis_now()));
    if (e == MOOR_EWRONGTHREAD)
        return e; /* nothing has moved */
    redis_buf_clear(&r->out);
    if (e)
        break_session(r, e == MOOR_ETIMEDOUT ? MOOR_ERESET : e, "send");
    return e;
}

static moor_err read_some(moor_redis *r, int64_t deadline)
{
    moor_chunk chunk;
    moor_err e = moor_stream_read_wait(r->lease, redis_left(deadline, redis_now()), &chunk);
    if (e == MOOR_ETIMEDOUT || e == MOOR_EBUSY || e == MOOR_EWRONGTHREAD)
        return e;
    if (e)
        return break_session(r, e, "receive");
    if (!chunk.bytes.len) {
        moor_chunk_return(chunk);
        return break_session(r, MOOR_ERESET, "the server closed the connection");
    }
    e = redis_codec_feed(&r->codec, chunk.bytes);
    moor_chunk_return(chunk);
    return e ? break_session(r, e, redis_codec_what(e)) : MOOR_OK;
}

static moor_err next(moor_redis *r, int64_t deadline, moor_redis_reply **out)
{
    struct moor_redis_reply *reply = NULL;
    moor_err e = r->broken ? r->broken : send_appended(r, deadline);
    while (!e) {
        e = redis_codec_next(&r->codec, &reply);
        if (e)
            return break_session(r, e, redis_codec_what(e));
        if (reply && reply->type == MOOR_REDIS_PUSH && !r->listens) {
            moor_redis_reply_free(reply);
            continue;
        }
        if (reply)
            break;
        e = read_some(r, deadline);
    }
    if (e)
        return e;
    if (r->pending)
        r->pending--;
    if (!r->pending && !r->listens && redis_codec_has_rest(&r->codec))
        break_session(r, MOOR_EPROTO, "more replies than commands");
    note_reply(r, reply);
    *out = reply;
    return MOOR_OK;
}

moor_err moor_redis_next_wait(moor_redis *r, moor_ms timeout_ms, moor_redis_reply **out)
{
    if (!r || !out || r->mode == MODE_CALLBACKS || (!r->pending && !r->listens))
        return MOOR_EINVAL;
    return next(r, redis_deadline(timeout_ms), out);
}

moor_err moor_redis_command_wait(moor_redis *r, int argc, const char *const *argv,
                                 const size_t *argvlen, moor_ms timeout_ms, moor_redis_reply **out)
{
    unsigned kind;
    if (!r || !out)
        return MOOR_EINVAL;
    moor_err e = want_mode(r, MODE_BLOCKING);
    if (!e && r->pending)
        e = r->broken ? r->broken : MOOR_EBUSY;
    if (!e)
        e = append(r, argc, argv, argvlen, &kind);
    return e ? e : next(r, redis_deadline(timeout_ms), out);
}

/* ---- with callbacks ---- */

static void leave(moor_redis *r)
{
    if (--r->uses || !r->is_over)
        return;
    redis_codec_fini(&r->codec);
    redis_buf_fini(&r->out);
    redis_buf_fini(&r->sending);
    free(r);
}

static void tell(moor_redis_cb cb, void *user, const moor_fault *fault,
                 struct moor_redis_reply *reply)
{
    const moor_redis_result result = {.size = sizeof result, .fault = *fault, .reply = reply};
    if (cb)
        cb(user, &result);
    redis_reply_done(reply);
}

/* Everybody who waits hears of the end. `uses` is held by the caller. */
static void fail_all(moor_redis *r, moor_err e, const char *what)
{
    while (r->first) {
        struct note n = *r->first;
        free(r->first);
        r->first = n.next;
        if (!r->first)
            r->last = &r->first;
        r->pending--;
        tell(n.cb, n.user,
             &(moor_fault){.err = e, .what = what, .safe_to_retry = n.number > r->numbered_sent},
             NULL);
    }
    if (r->listener && !r->is_end_told) {
        r->is_end_told = true;
        tell(r->listener, r->listener_user, &(moor_fault){.err = e, .what = what}, NULL);
    }
}

static void fail(moor_redis *r, moor_err e, const char *what)
{
    break_session(r, e, what);
    fail_all(r, e, what);
}

static void take(moor_redis *r, struct moor_redis_reply *reply)
{
    static const moor_fault fine = {.err = MOOR_OK};
    note_reply(r, reply);
    struct note *first = r->first;
    const bool is_push = reply->type == MOOR_REDIS_PUSH || (!first && r->listens);
    if (is_push || (first && first->is_listening)) {
        if (first && first->is_listening && !is_push) {
            r->first = first->next;
            if (!r->first)
                r->last = &r->first;
            r->pending--;
            free(first);
        }
        tell(r->listener, r->listener_user, &fine, reply);
        return;
    }
    if (!first) {
        moor_redis_reply_free(reply);
        fail(r, MOOR_EPROTO, "more replies than commands");
        return;
    }
    const struct note n = *first;
    r->first = n.next;
    if (!r->first)
        r->last = &r->first;
    r->pending--;
    free(first);
    tell(n.cb, n.user, &fine, reply);
}

static void on_chunk(void *user, moor_chunk chunk)
{
    moor_redis *r = user;
    struct moor_redis_reply *reply;
    r->uses++;
    moor_err e = r->broken ? r->broken : redis_codec_feed(&r->codec, chunk.bytes);
    moor_chunk_return(chunk);
    while (!e && !r->is_over) {
        e = redis_codec_next(&r->codec, &reply);
        if (e || !reply)
            break;
        take(r, reply);
        e = r->broken;
    }
    if (e && !r->is_over)
        fail(r, e, redis_codec_what(e));
    leave(r);
}

static void on_end(void *user, const moor_fault *fault)
{
    moor_redis *r = user;
    r->uses++;
    if (!r->is_over)
        fail(r, fault->err ? fault->err : MOOR_ERESET,
             fault->err && fault->what ? fault->what : "the server closed the connection");
    leave(r);
}

static void on_sent(void *user)
{
    moor_redis *r = user;
    r->is_sending = false;
    redis_buf_clear(&r->sending);
    if (r->out.len && !r->is_over)
        run_flush(r); /* takes over this use */
    else
        leave(r);
}

/* Everything that was asked for since the last time leaves in one piece. Holds one use, which it gives up. */
static void run_flush(void *user)
{
    moor_redis *r = user;
    r->is_flush_posted = false;
    if (r->is_over || r->broken || r->is_sending || !r->out.len) {
        leave(r);
        return;
    }
    const struct redis_buf full = r->out;
    r->out = r->sending;
    r->sending = full;
    r->numbered_sent = r->numbered;
    r->is_sending = true;
    const moor_err e = moor_stream_send(
        r->lease, (moor_piece){.bytes = {full.bytes, full.len}, .sent = on_sent, .ctx = r});
    if (!e)
        return;
    r->is_sending = false;
    fail(r, e, "send");
    leave(r);
}

static moor_err want_callbacks(moor_redis *r)
{
    if (r->mode == MODE_CALLBACKS)
        return r->shard == moor_shard_self() ? MOOR_OK : MOOR_EWRONGTHREAD;
    if (r->mode == MODE_BLOCKING)
        return MOOR_EINVAL;
    const moor_stream_handlers h = {.size = sizeof h, .on_chunk = on_chunk, .on_end = on_end};
    const moor_err e = moor_stream_read(r->lease, &h, r);
    if (e)
        return e;
    r->mode = MODE_CALLBACKS;
    r->shard = moor_shard_self();
    r->flush = (moor_task){.run = run_flush, .user = r};
    r->over = (moor_task){.run = run_over, .user = r};
    return MOOR_OK;
}

moor_err moor_redis_listen(moor_redis *r, moor_redis_cb cb, void *user)
{
    if (!r || !cb || r->listens)
        return MOOR_EINVAL;
    const moor_err e = want_callbacks(r);
    if (e)
        return e;
    r->listener = cb;
    r->listener_user = user;
    return MOOR_OK;
}

moor_err moor_redis_command(moor_redis *r, int argc, const char *const *argv, const size_t *argvlen,
                            moor_redis_cb cb, void *user)
{
    unsigned kind;
    if (!r || r->is_over)
        return MOOR_EINVAL;
    moor_err e = want_callbacks(r);
    if (e)
        return e;
    struct note *n = calloc(1, sizeof *n);
    if (!n)
        return MOOR_ENOMEM;
    const size_t before = r->out.len;
    e = append(r, argc, argv, argvlen, &kind);
    if (!e && !r->is_flush_posted && !r->is_sending) {
        e = moor_post(r->shard, &r->flush);
        if (e) {
            r->out.len = before;
            r->pending--;
        } else {
            r->is_flush_posted = true;
            r->uses++;
        }
    }
    if (e) {
        free(n);
        return e;
    }
    *n = (struct note){.cb = cb, .user = user, .number = ++r->numbered, .is_listening = r->listens};
    *r->last = n;
    r->last = &n->next;
    return MOOR_OK;
}

/* ---- the end ---- */

static void run_over(void *user)
{
    moor_redis *r = user;
    fail_all(r, MOOR_ECANCELED, "the session was ended");
    leave(r);
}

static moor_release_how how_of(const moor_redis *r, moor_release_how how)
{
    if (r->broken || r->pending || r->listens || r->is_last || redis_codec_has_rest(&r->codec))
        return MOOR_DISCARD;
    if (how == MOOR_REUSE && (r->is_dirty || r->has_multi || r->has_watch))
        return MOOR_DIRTY;
    return how;
}

void moor_redis_end(moor_redis *r, moor_release_how how)
{
    if (!r || r->is_over)
        return;
    moor_release(r->lease, how_of(r, how));
    r->is_over = true;
    r->uses++;
    /* Callbacks never run inside a call; if the shard has left there is nobody else to run them. */
    if (r->mode != MODE_CALLBACKS || (!r->first && !r->listener) || moor_post(r->shard, &r->over)) {
        if (r->mode == MODE_CALLBACKS)
            fail_all(r, MOOR_ECANCELED, "the session was ended");
        leave(r);
    }
}
