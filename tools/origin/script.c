/*
 * Plays scripts: turns steps into bytes on a conn, stopping where the socket, a timer or the turn's
 * budget says so and going on from the same byte. Runs on the conn's loop; never reads, and leaves
 * closing to its caller.
 */
#include "script.h"

#include "conn.h"
#include "pattern.h"

enum {
    COPY_MAX = 16 * 1024,   /* smaller bodies are copied behind their head: one buffer, one send */
    FRAME_MAX = 64,         /* chunk size line or chunk end */
    RESET_TRIES_MAX = 2000, /* 1 ms each: a peer that does not read gets its RST all the same */
    TEXT_KEPT_MAX = 8 * 1024,
};

static enum play play_send(struct script *s, struct step *st, struct conn *c, uint64_t *budget);
static enum play play_reset(struct script *s, struct conn *c);
static enum play flushed(enum io_result r);

void script_clear(struct script *s)
{
    s->count = 0;
    s->at = 0;
    s->reset_tries = 0;
    if (s->text.cap > TEXT_KEPT_MAX)
        buf_fini(&s->text);
    s->text.len = 0;
}

struct step *script_add(struct script *s, enum step_kind kind, uint64_t len)
{
    struct step *st = &s->steps[s->count++];
    *st = (struct step){.kind = kind, .len = len};
    return st;
}

void script_add_text(struct script *s)
{
    size_t start = 0;
    for (unsigned i = 0; i < s->count; i++)
        if (s->steps[i].kind == STEP_TEXT)
            start = s->steps[i].text_start + s->steps[i].len;
    struct step *st = script_add(s, STEP_TEXT, s->text.len - start);
    st->text_start = start;
}

void script_say(struct script *s, const char *text)
{
    buf_add_text(&s->text, text);
    script_add_text(s);
}

enum play script_play(struct script *s, struct conn *c, uint64_t *budget)
{
    while (s->at < s->count) {
        struct step *st = &s->steps[s->at];
        enum play p = PLAY_DONE;
        switch (st->kind) {
        case STEP_TEXT:
        case STEP_PATTERN:
        case STEP_FILL:
        case STEP_BYTES:
            p = play_send(s, st, c, budget);
            break;
        case STEP_WAIT:
            if (st->done)
                break;
            p = flushed(conn_flush(c));
            if (p != PLAY_DONE || st->len == 0)
                break;
            st->done = 1;
            timer_set(c, c->loop->now_ms + st->len);
            return PLAY_WAITING;
        case STEP_STALL:
            p = flushed(conn_flush(c));
            return p == PLAY_DONE ? PLAY_STALLED : p;
        case STEP_NOTIFY:
            p = flushed(conn_notify(c));
            break;
        case STEP_CLOSE:
            p = flushed(conn_flush(c));
            return p == PLAY_DONE ? PLAY_CLOSE : p;
        case STEP_DROP:
            p = flushed(conn_flush(c));
            return p == PLAY_DONE ? PLAY_DROP : p;
        case STEP_RESET:
            return play_reset(s, c);
        }
        if (p != PLAY_DONE)
            return p;
        s->at++;
    }
    return PLAY_DONE;
}

static enum play flushed(enum io_result r)
{
    return r == IO_OK ? PLAY_DONE : r == IO_AGAIN ? PLAY_BLOCKED : PLAY_FAILED;
}

/* A reset throws away what is still queued here, so it waits until the peer has acknowledged. */
static enum play play_reset(struct script *s, struct conn *c)
{
    const enum play p = flushed(conn_flush(c));
    if (p != PLAY_DONE)
        return p;
    if (conn_unsent(c) == 0 || s->reset_tries++ >= RESET_TRIES_MAX)
        return PLAY_RESET;
    timer_set(c, c->loop->now_ms + 1);
    return PLAY_WAITING;
}

static struct span step_bytes(const struct script *s, const struct step *st, uint64_t len)
{
    switch (st->kind) {
    case STEP_PATTERN:
        return pattern_at(st->done, len);
    case STEP_FILL:
        return pattern_fill(len);
    case STEP_TEXT:
        return (struct span){s->text.data + st->text_start + st->done, (size_t)len};
    default:
        return (struct span){st->bytes + st->done, (size_t)len};
    }
}

static void advance(struct step *st, uint64_t len)
{
    st->done += len;
    st->piece_left -= len;
}

/* Sends what is left of a piece. Small ones join the scratch, big ones leave it uncopied. */
static enum play send_piece(const struct script *s, struct step *st, struct conn *c,
                            uint64_t *budget)
{
    while (st->piece_left) {
        if (*budget == 0)
            return PLAY_BUDGET;
        if (st->piece_left <= COPY_MAX) {
            const enum play p = flushed(conn_reserve(c, st->piece_left));
            if (p != PLAY_DONE)
                return p;
            const struct span all = step_bytes(s, st, st->piece_left);
            conn_put(c, all.ptr, all.len);
            *budget -= *budget < all.len ? *budget : all.len;
            advance(st, all.len);
            return PLAY_DONE;
        }
        struct span pieces[8];
        unsigned count = 0;
        struct step ahead = *st;
        while (count < 8 && ahead.piece_left) {
            pieces[count] = step_bytes(s, &ahead, ahead.piece_left);
            advance(&ahead, pieces[count++].len);
        }
        uint64_t taken;
        const enum play p = flushed(conn_send(c, pieces, count, &taken));
        *budget -= *budget < taken ? *budget : taken;
        advance(st, taken);
        if (p != PLAY_DONE)
            return p;
    }
    return PLAY_DONE;
}

static enum play begin_piece(struct step *st, struct conn *c)
{
    if (st->interval_ms && st->done && !st->piece_waited) {
        const enum play p = flushed(conn_flush(c));
        if (p != PLAY_DONE)
            return p;
        st->piece_waited = true;
        timer_set(c, c->loop->now_ms + st->interval_ms);
        return PLAY_WAITING;
    }
    const enum play p = flushed(conn_reserve(c, FRAME_MAX));
    if (p != PLAY_DONE)
        return p;
    const uint64_t left = st->len - st->done;
    st->piece_waited = false;
    st->piece_left = st->piece && st->piece < left ? st->piece : left;
    if (st->is_chunked) {
        char line[FRAME_MAX];
        const size_t len = format_hex(line, st->piece_left);
        memcpy(line + len, "\r\n", 2);
        conn_put(c, line, len + 2);
    }
    return PLAY_DONE;
}

static enum play play_send(struct script *s, struct step *st, struct conn *c, uint64_t *budget)
{
    enum play p = PLAY_DONE;
    while (st->done < st->len) {
        if (st->piece_left == 0 && (p = begin_piece(st, c)) != PLAY_DONE)
            return p;
        if ((p = send_piece(s, st, c, budget)) != PLAY_DONE)
            return p;
        if (st->is_chunked) {
            /* begin_piece left room for the size line only; a copied piece may have filled it. */
            if ((p = flushed(conn_reserve(c, FRAME_MAX))) == PLAY_FAILED)
                return p;
            if (p == PLAY_DONE)
                conn_put(c, "\r\n", 2);
            else
                buf_add(&c->pending, "\r\n", 2);
        }
        if (p == PLAY_DONE && (st->flush_pieces || st->interval_ms))
            p = flushed(conn_flush(c));
        if (p != PLAY_DONE)
            return p;
    }
    if (!st->is_chunked)
        return PLAY_DONE;
    p = flushed(conn_reserve(c, FRAME_MAX));
    if (p == PLAY_DONE)
        conn_put(c, "0\r\n\r\n", 5);
    return p;
}
