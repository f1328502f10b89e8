/*
 * The request body of an exchange. body_cb is asked from the loop, never inside moor_http_send.
 * Owner thread: the exchange's shard.
 */
#include "client/body.h"

#include "client/exchange.h"
#include "core/shard.h"

#include <string.h>

static void run_pull(struct mr_deferred *d);
static void line_sent(struct mr_out *o, int err);
static void data_sent(struct mr_out *o, int err);
static void end_sent(struct mr_out *o, int err);

void mr_body_init(struct mr_exchange *x)
{
    x->pull.run = run_pull;
    x->body[0].sent = line_sent;
    x->body[1].sent = data_sent;
    x->body[2].sent = end_sent;
}

static void pull_later(struct mr_exchange *x)
{
    mr_loop_defer(&x->shard->mine.loop, &x->pull);
}

void mr_body_begin(struct mr_exchange *x)
{
    if (!x->body_cb)
        return;
    if (x->expects_continue) {
        x->body_state = MR_BODY_WAITING;
        const int64_t limit = x->berth->local->pool->options.expect_continue_timeout_ms;
        mr_loop_timer(&x->shard->mine.loop, &x->stage, mr_deadline(mr_shard_now(x->shard), limit));
        return;
    }
    mr_body_go(x);
}

void mr_body_go(struct mr_exchange *x)
{
    x->body_state = MR_BODY_PULLING;
    pull_later(x);
}

void mr_body_room(struct mr_exchange *x)
{
    if (x->body_state == MR_BODY_PULLING)
        pull_later(x);
}

void mr_body_resumed(struct mr_exchange *x)
{
    if (x->body_state == MR_BODY_PAUSED)
        mr_body_go(x);
}

static void let_go_of_piece(struct mr_exchange *x)
{
    void (*sent)(void *ctx) = x->piece.sent;
    x->piece.sent = NULL;
    if (sent)
        sent(x->piece.ctx);
}

void mr_body_let_go(struct mr_exchange *x)
{
    if (!x->is_piece_out)
        let_go_of_piece(x);
}

static void fail(struct mr_exchange *x, moor_err err, const char *what)
{
    let_go_of_piece(x);
    x->fault = (moor_fault){.err = err, .what = what, .safe_to_retry = !mr_exchange_has_sent(x)};
    mr_exchange_finish(x);
}

static bool queue(struct mr_exchange *x, struct mr_out *o, const void *base, size_t len)
{
    if (!len)
        return true;
    o->base = base;
    o->len = len;
    if (mr_conn_write(x->conn, o))
        return false;
    x->outs++;
    return true;
}

/* Data, and around it what the chunked coding says. */
static bool queue_piece(struct mr_exchange *x)
{
    const moor_span bytes = x->piece.bytes;
    const char *end = "";
    size_t line = 0;
    if (x->body_length == MOOR_LENGTH_UNKNOWN) {
        line = mr_h1_chunk_head(x->chunk_line, bytes.len);
        if (bytes.len)
            end = x->is_last_piece ? MR_H1_CHUNK_END MR_H1_CHUNKS_END : MR_H1_CHUNK_END;
        else if (x->is_last_piece)
            end = MR_H1_CHUNKS_END;
    }
    if (!queue(x, &x->body[0], x->chunk_line, line))
        return false;
    x->is_piece_out = bytes.len > 0;
    if (!queue(x, &x->body[1], bytes.base, bytes.len)) {
        x->is_piece_out = false;
        return false;
    }
    if (!x->is_piece_out)
        let_go_of_piece(x);
    return queue(x, &x->body[2], end, strlen(end));
}

/* What body_length promises is what the peer will read. */
static const char *length_fault(const struct mr_exchange *x)
{
    if (x->body_length == MOOR_LENGTH_UNKNOWN)
        return NULL;
    if (x->body_given > x->body_length)
        return "the body is longer than body_length";
    if (x->is_last_piece && x->body_given < x->body_length)
        return "the body is shorter than body_length";
    return NULL;
}

static void take_piece(struct mr_exchange *x, bool is_last)
{
    x->is_last_piece = is_last;
    x->body_given += x->piece.bytes.len;
    const char *what = length_fault(x);
    if (what) {
        fail(x, MOOR_EINVAL, what);
        return;
    }
    if (is_last)
        x->body_state = MR_BODY_SENT;
    if (!queue_piece(x)) {
        fail(x, MOOR_ENOMEM, "queue the body");
        return;
    }
    if (x->outs)
        return;
    if (is_last) /* an empty piece: nothing is queued whose going would tell */
        mr_exchange_sent(x);
    else
        pull_later(x);
}

static void run_pull(struct mr_deferred *d)
{
    struct mr_exchange *x = MR_CONTAINER_OF(d, struct mr_exchange, pull);
    if (x->is_over || !x->conn || x->body_state != MR_BODY_PULLING || x->is_piece_out)
        return;
    if (x->outs)
        return; /* the head or parts of a piece are still queued: their going asks again */
    x->is_body_begun = true;
    x->piece = (moor_piece){0};
    switch (x->body_cb(x->user, &x->piece)) {
    case MOOR_BODY_MORE:
        take_piece(x, false);
        break;
    case MOOR_BODY_LAST:
        take_piece(x, true);
        break;
    case MOOR_BODY_LATER:
        x->body_state = MR_BODY_PAUSED;
        break;
    default:
        fail(x, MOOR_ECANCELED, "the body source gave up");
        break;
    }
}

static void line_sent(struct mr_out *o, int err)
{
    (void)err;
    mr_exchange_out_gone(MR_CONTAINER_OF(o, struct mr_exchange, body[0]));
}

static void data_sent(struct mr_out *o, int err)
{
    (void)err;
    struct mr_exchange *x = MR_CONTAINER_OF(o, struct mr_exchange, body[1]);
    x->is_piece_out = false;
    let_go_of_piece(x);
    mr_exchange_out_gone(x);
}

static void end_sent(struct mr_out *o, int err)
{
    (void)err;
    mr_exchange_out_gone(MR_CONTAINER_OF(o, struct mr_exchange, body[2]));
}

void moor_body_resume(moor_op op)
{
    if (op.slot_)
        mr_op_ask(op.slot_, op.generation_, MR_ASK_RESUME);
}
