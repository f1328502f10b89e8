/*
 * Byte streams: what is sent is to come back, as from an echo. Runs on the thread that holds the
 * lease. Must leave nothing unread on a connection that it calls good.
 */
#include "drive.h"

#include "measure.h"

#include <stdio.h>
#include <string.h>

static moor_ms time_left(int64_t end_ns)
{
    if (end_ns == INT64_MAX)
        return MOOR_FOREVER;
    const int64_t left = (end_ns - now_ns()) / 1000000;
    return left > 0 ? left : 0;
}

/* False: not what was sent. */
static bool take(moor_chunk chunk, const struct drive_call *c, size_t *seen)
{
    const size_t len = chunk.bytes.len;
    const bool is_echo =
        len <= c->query_len - *seen && memcmp(chunk.bytes.base, c->query + *seen, len) == 0;
    *seen += len;
    moor_chunk_return(chunk);
    return is_echo;
}

static bool run(struct drive_call *c)
{
    const int64_t end =
        c->timeout_ms == MOOR_FOREVER ? INT64_MAX : now_ns() + c->timeout_ms * 1000000;
    moor_err e =
        moor_stream_send_wait(c->lease, (moor_span){c->query, c->query_len}, time_left(end));
    if (e != MOOR_OK)
        return drive_failed(c, e, "send");
    size_t seen = 0;
    while (seen < c->query_len) {
        moor_chunk chunk = {0};
        e = moor_stream_read_wait(c->lease, time_left(end), &chunk);
        if (e != MOOR_OK)
            return drive_failed(c, e, "read");
        if (chunk.bytes.len == 0) {
            drive_failed(c, MOOR_ERESET, "read");
            snprintf(c->text, sizeof c->text, "the peer closed after %zu of %zu bytes", seen,
                     c->query_len);
            return false;
        }
        if (!take(chunk, c, &seen)) {
            drive_failed(c, MOOR_EPROTO, "read");
            drive_kind(c, "no echo");
            drive_text(c, "what came back is not what was sent");
            return false;
        }
    }
    return true;
}

const struct drive drive_stream = {
    .name = "stream",
    .schemes = "tcp tls unix",
    .takes_escapes = true,
    .run = run,
};
