/*
 * HTTP/1.1 on a conn: what the engine reads becomes the exchange's callbacks.
 * Owner thread: the conn's shard. One exchange at a time; no pipelining.
 */
#include "client/exchange.h"

#include "client/h1_body.h"
#include "core/shard.h"

#include <string.h>

static void *arena_alloc(void *ctx, size_t size)
{
    return mr_arena_alloc(ctx, size);
}

static void head_sent(struct mr_out *o, int err)
{
    (void)err;
    mr_exchange_out_gone(MR_CONTAINER_OF(o, struct mr_exchange, head));
}

/* A request that was kept for either version. */
static moor_err write_head(struct mr_exchange *x)
{
    struct mr_h1_plan plan;
    const moor_span body = x->request_body;
    MR_TRY(mr_h1_request_plan(x->request, &plan));
    uint8_t *bytes = mr_arena_alloc(&x->arena, plan.size + body.len);
    MR_FAIL_IF(!bytes, MOOR_ENOMEM);
    mr_h1_request_write(x->request, &plan, bytes);
    if (body.len)
        memcpy(bytes + plan.size, body.base, body.len);
    x->head.base = bytes;
    x->head.len = plan.size + body.len;
    return MOOR_OK;
}

static moor_err h1_begin(struct mr_exchange *x)
{
    const struct mr_http_pool *http = x->berth->upstream->pool->wiring;
    x->sent_before = x->conn->bytes_out;
    x->conn->claim = x;
    if (!x->reply)
        x->reply = mr_arena_alloc(&x->arena, sizeof *x->reply);
    MR_FAIL_IF(!x->reply, MOOR_ENOMEM);
    mr_h1_reply_init(x->reply, &http->limits, x->asked, arena_alloc, &x->arena);
    if (!x->head.base)
        MR_TRY(write_head(x));
    x->head.sent = head_sent;
    MR_TRY(mr_conn_write(x->conn, &x->head));
    x->outs++;
    return MOOR_OK;
}

static void h1_leave(struct mr_exchange *x, bool is_gone, bool is_reusable)
{
    struct mr_conn *c = x->conn;
    x->conn = NULL;
    c->claim = NULL;
    if (!is_gone)
        mr_berth_release(c, is_reusable);
}

static bool h1_has_sent(const struct mr_exchange *x)
{
    return x->conn->bytes_out > x->sent_before || mr_conn_is_sending(x->conn);
}

static bool h1_is_proven(const struct mr_exchange *x)
{
    return x->is_reused;
}

static bool h1_is_untouched(const struct mr_exchange *x)
{
    return mr_h1_reply_is_untouched(x->reply);
}

static bool h1_may_drain(const struct mr_exchange *x)
{
    return !x->wants_close && x->reply->head.keep_alive &&
           x->reply->head.body == MR_H1_BODY_LENGTH &&
           x->reply->left <= x->berth->local->pool->options.drain_unread_max &&
           mr_conn_state(x->conn) == MR_CONN_LEASED;
}

static void h1_window_reopened(struct mr_exchange *x)
{
    mr_conn_resume(x->conn);
}

/* ---- events of the engine ---- */

static void tell_head(struct mr_exchange *x)
{
    if (!x->handlers->on_head)
        return;
    const struct mr_h1_head *h = &x->reply->head;
    const moor_http_head head = {
        .status = h->status,
        .version = 10 + h->minor,
        .headers = h->headers,
        .header_count = h->header_count,
        .reason = h->reason,
    };
    x->handlers->on_head(x->user, &head);
}

/* False: the exchange is over. */
static bool tell_body(struct mr_exchange *x, const struct mr_in *in, moor_span body)
{
    if (x->is_draining)
        return true;
    x->bytes_down += body.len;
    if (!x->handlers->on_chunk)
        return true;
    const struct mr_in part = {.buf = in->buf, .base = body.base, .len = body.len};
    moor_chunk chunk;
    if (!mr_loan_make(x->berth->local, &x->window, &part, body.len, &chunk)) {
        mr_exchange_broken(x, &(moor_fault){.err = MOOR_ENOMEM, .what = "lend received bytes"},
                           false);
        return false;
    }
    x->handlers->on_chunk(x->user, chunk);
    return true;
}

static void tell_trailers(struct mr_exchange *x)
{
    if (x->handlers->on_trailers)
        x->handlers->on_trailers(x->user, x->reply->head.headers, x->reply->head.header_count);
}

static void protocol_error(struct mr_exchange *x, const struct mr_h1_out *out)
{
    mr_exchange_broken(x, &(moor_fault){.err = out->err, .what = out->what}, false);
}

static void note_bytes(struct mr_exchange *x)
{
    if (!x->first_byte_ns)
        x->first_byte_ns = mr_shard_now(x->shard);
    if (x->body_state != MR_BODY_WAITING && !x->is_draining)
        mr_loop_untimer(&x->shard->mine.loop, &x->stage);
}

/* A final answer while the body waits: it is not wanted, RFC 9110 10.1.1. */
static void head_came(struct mr_exchange *x)
{
    if (x->body_state == MR_BODY_WAITING)
        mr_loop_untimer(&x->shard->mine.loop, &x->stage);
    x->has_head = true;
    tell_head(x);
}

/* ---- the protocol ---- */

static size_t h1_input(struct mr_conn *c, const struct mr_in *in)
{
    struct mr_exchange *x = c->claim;
    const uint8_t *at = in->base;
    size_t left = in->len;
    note_bytes(x);
    for (;;) {
        /* A closed window stops the body, and only while there is some: the end needs no room. */
        if (left && !mr_window_is_open(&x->window))
            return in->len - left;
        struct mr_h1_out out;
        size_t used = 0;
        const enum mr_h1_event event = mr_h1_reply_next(x->reply, at, left, &used, &out);
        at += used;
        left -= used;
        switch (event) {
        case MR_H1_NEED_MORE:
            return in->len - left;
        case MR_H1_HEAD_1XX:
            tell_head(x);
            if (x->reply->head.status == 100)
                mr_exchange_continue(x);
            mr_exchange_sent(x); /* the response itself is still due */
            break;
        case MR_H1_HEAD:
            if (x->reply->head.status == 425 && mr_exchange_too_early(x))
                return in->len;
            head_came(x);
            break;
        case MR_H1_BODY:
            if (!tell_body(x, in, out.body))
                return in->len;
            break;
        case MR_H1_TRAILERS:
            tell_trailers(x);
            break;
        case MR_H1_DONE:
            /* Bytes beyond the response were never asked for: the conn cannot be trusted. */
            mr_exchange_complete(x, left == 0 && x->reply->head.keep_alive);
            return in->len;
        case MR_H1_ERROR:
            protocol_error(x, &out);
            return in->len;
        }
    }
}

static void h1_ended(struct mr_conn *c, const moor_fault *fault)
{
    struct mr_exchange *x = c->claim;
    if (!x)
        return;
    if (fault->err) {
        mr_exchange_broken(x, fault, true);
        return;
    }
    struct mr_h1_out out;
    if (mr_h1_reply_eof(x->reply, &out) == MR_H1_DONE) {
        mr_exchange_complete(x, false);
        return;
    }
    moor_fault reset = {.err = MOOR_ERESET, .what = out.what};
    mr_exchange_broken(x, &reset, false);
}

/* It has the conn for itself. */
static void h1_prioritize(struct mr_exchange *x)
{
    (void)x;
}

const struct mr_speaker mr_h1_speaker = {
    .begin = h1_begin,
    .leave = h1_leave,
    .send_piece = mr_h1_send_piece,
    .has_sent = h1_has_sent,
    .is_proven = h1_is_proven,
    .is_untouched = h1_is_untouched,
    .may_drain = h1_may_drain,
    .window_reopened = h1_window_reopened,
    .prioritize = h1_prioritize,
};

const struct mr_protocol mr_h1_protocol = {
    .name = "h1",
    .capacity_expected = 1,
    .input = h1_input,
    .ended = h1_ended,
};
