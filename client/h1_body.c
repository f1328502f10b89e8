/*
 * A piece of a request body on an h1 conn: its bytes, and what the chunked coding says around them.
 * Owner thread: the exchange's shard.
 */
#include "client/h1_body.h"

#include "client/body.h"
#include "client/exchange.h"

#include <string.h>

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
    mr_body_let_go_of_piece(x);
    mr_exchange_out_gone(x);
}

static void end_sent(struct mr_out *o, int err)
{
    (void)err;
    mr_exchange_out_gone(MR_CONTAINER_OF(o, struct mr_exchange, body[2]));
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
bool mr_h1_send_piece(struct mr_exchange *x)
{
    const moor_span bytes = x->piece.bytes;
    x->body[0].sent = line_sent;
    x->body[1].sent = data_sent;
    x->body[2].sent = end_sent;
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
        mr_body_let_go_of_piece(x);
    return queue(x, &x->body[2], end, strlen(end));
}
