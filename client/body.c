/*
 * The request body of an exchange. body_cb is asked from the loop, never inside moor_http_send.
 * Owner thread: the exchange's shard.
 */
#include "client/body.h"

#include "client/exchange.h"
#include "core/shard.h"

#include <string.h>

static void run_pull(struct mr_deferred *d);

void mr_body_init(struct mr_exchange *x)
{
    x->pull.run = run_pull;
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

void mr_body_let_go_of_piece(struct mr_exchange *x)
{
    void (*sent)(void *ctx) = x->piece.sent;
    x->piece.sent = NULL;
    if (sent)
        sent(x->piece.ctx);
}

void mr_body_let_go(struct mr_exchange *x)
{
    if (!x->is_piece_out)
        mr_body_let_go_of_piece(x);
}

static void fail(struct mr_exchange *x, moor_err err, const char *what)
{
    mr_body_let_go_of_piece(x);
    x->fault = (moor_fault){.err = err, .what = what, .safe_to_retry = !mr_exchange_has_sent(x)};
    mr_exchange_finish(x);
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
    if (!x->speaker->send_piece(x)) {
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

void moor_body_resume(moor_op op)
{
    if (op.slot_)
        mr_op_ask(op.slot_, op.generation_, MR_ASK_RESUME);
}
