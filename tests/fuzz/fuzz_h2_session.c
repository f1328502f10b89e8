/*
 * What a server sends to an h2 session with a GET and a POST open. Input: how to cut, which stream is left
 * when, then the server's bytes. Nothing may be told of a stream that is over or left, and no memory stays.
 */
#include "h2/session.h"

#include "base/assert.h"
#include "base/span.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { STREAMS = 2, PREFIX = 3, KEPT_MAX = 4096, PIECE = 70000 };

struct request {
    struct mr_h2_stream stream;
    struct mr_h2_session *session;
    bool is_over;
};

static struct mr_heap heap;
static void *kept[KEPT_MAX];
static size_t kept_sizes[KEPT_MAX];
static unsigned kept_count;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct request *heard(struct mr_h2_stream *s)
{
    struct request *r = MR_CONTAINER_OF(s, struct request, stream);
    if (r->is_over)
        abort();
    return r;
}

static void on_head(struct mr_h2_stream *s, const struct mr_h2_head *h)
{
    (void)heard(s);
    if (h->status < 100 || h->status > 999)
        abort();
}

static void on_data(struct mr_h2_stream *s, moor_span bytes)
{
    struct request *r = heard(s);
    if (!s->message.is_final)
        abort();
    if (bytes.len % 3) /* some callers keep theirs */
        mr_h2_consumed(r->session, s, bytes.len);
}

static void on_trailers(struct mr_h2_stream *s, const moor_header *h, size_t count)
{
    (void)heard(s);
    (void)h;
    if (!count)
        abort();
}

static void on_fed(struct mr_h2_stream *s)
{
    (void)heard(s);
}

static void on_closed(struct mr_h2_stream *s, const struct mr_h2_end *end)
{
    struct request *r = heard(s);
    r->is_over = true;
    if (end->is_complete && end->is_unprocessed)
        abort();
}

static void on_settings(struct mr_h2_session *h, uint32_t streams_max)
{
    (void)h;
    (void)streams_max;
}

static void on_going_away(struct mr_h2_session *h, uint32_t code)
{
    (void)h;
    (void)code;
}

static void on_pong(struct mr_h2_session *h)
{
    (void)h;
}

static void *alloc(struct mr_h2_stream *s, size_t size)
{
    (void)heard(s);
    void *p = kept_count < KEPT_MAX ? mr_heap_alloc(&heap, size) : NULL;
    if (p) {
        kept_sizes[kept_count] = size;
        kept[kept_count++] = p;
    }
    return p;
}

static const struct mr_h2_events events = {
    .head = on_head,
    .data = on_data,
    .trailers = on_trailers,
    .fed = on_fed,
    .closed = on_closed,
    .settings = on_settings,
    .going_away = on_going_away,
    .pong = on_pong,
    .alloc = alloc,
};

static const struct mr_h2_limits limits = {.header_bytes_max = 1024,
                                           .header_count_max = 20,
                                           .interim_count_max = 2,
                                           .window_stream = 65535,
                                           .window_conn = 65535,
                                           .window_max = 1 << 17};

static void submit(struct mr_h2_session *h, struct request *r, bool has_body)
{
    const moor_header fields[] = {
        {mr_span_cstr(":method"), mr_span_cstr(has_body ? "POST" : "GET")},
        {mr_span_cstr(":scheme"), mr_span_cstr("http")},
        {mr_span_cstr(":authority"), mr_span_cstr("a.example")},
        {mr_span_cstr(":path"), mr_span_cstr("/")},
    };
    r->session = h;
    if (mr_h2_submit(h, &r->stream, fields, 4, has_body, has_body ? 1 : 3, true))
        abort();
}

static void write_all(struct mr_h2_session *h, int64_t now_ns)
{
    uint8_t out[16384];
    while (mr_h2_output(h, out, sizeof out, now_ns))
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t piece[PIECE];
    static bool is_set_up;
    struct mr_h2_session h;
    struct request r[STREAMS];
    if (size < PREFIX)
        return 0;
    if (!is_set_up && mr_heap_init(&heap, SIZE_MAX, false))
        abort();
    is_set_up = true;
    memset(r, 0, sizeof r);
    if (mr_h2_session_init(&h, &heap, &limits, &events, 0))
        abort();
    submit(&h, &r[0], false);
    submit(&h, &r[1], true);
    mr_h2_stream_feed(&r[1].stream, (moor_span){piece, PIECE}, true);
    write_all(&h, 0);
    const size_t step = data[0] ? data[0] : SIZE_MAX, leaves_at = data[2];
    struct request *leaver = &r[data[1] % STREAMS];
    const uint8_t *at = data + PREFIX;
    size_t left = size - PREFIX;
    for (int64_t turn = 0; left; turn++) {
        const size_t n = step < left ? step : left;
        const char *what = NULL;
        uint8_t *copy = malloc(n);
        memcpy(copy, at, n);
        const moor_err e = mr_h2_input(&h, copy, n, turn * 1000000, &what);
        free(copy);
        if (e && !what)
            abort();
        at += n;
        left -= n;
        if ((size_t)turn == leaves_at && !leaver->is_over) {
            mr_h2_stream_leave(&leaver->stream, 8);
            leaver->is_over = true;
        }
        write_all(&h, turn * 1000000);
        if (e || mr_h2_is_over(&h))
            break;
    }
    mr_h2_session_fini(&h);
    while (kept_count) {
        kept_count--;
        mr_heap_free(&heap, kept[kept_count], kept_sizes[kept_count]);
    }
    if (atomic_load(&heap.used))
        abort();
    return 0;
}
