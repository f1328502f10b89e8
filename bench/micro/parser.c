/*
 * The HTTP/1.1 reply parser: whole replies, heads of many fields, chunked bodies, heads that
 * arrive in pieces. One thread; a reply's memory is a fixed block that is taken back after each.
 */
#include <stdio.h>
#include <string.h>

#include "bench/harness.h"
#include "h1/reply.h"

enum { REPLY_MAX = 512 * 1024, ARENA = 256 * 1024 };

static char reply_bytes[REPLY_MAX];
static size_t reply_len;

static struct {
    _Alignas(16) unsigned char block[ARENA];
    size_t used;
} arena;

static void *take(void *ctx, size_t size)
{
    (void)ctx;
    size = (size + 15) & ~(size_t)15;
    if (size > ARENA - arena.used)
        return NULL;
    void *taken = arena.block + arena.used;
    arena.used += size;
    return taken;
}

static void add(const char *text)
{
    const size_t len = strlen(text);
    if (len > REPLY_MAX - reply_len)
        return; /* the parse then ends early and fails the case */
    memcpy(reply_bytes + reply_len, text, len);
    reply_len += len;
}

/* Parses the reply in pieces of `piece` bytes. Returns status, fields and body bytes, mixed. */
static uint64_t parse(size_t piece)
{
    struct mr_h1_reply r;
    struct mr_h1_out out;
    const uint8_t *in = (const uint8_t *)reply_bytes;
    size_t left = reply_len, given = left < piece ? left : piece, consumed;
    uint64_t body = 0, fields = 0;

    arena.used = 0;
    mr_h1_reply_init(&r, NULL, MR_H1_FOR_ANY, take, NULL);
    for (;;) {
        const enum mr_h1_event ev = mr_h1_reply_next(&r, in, given, &consumed, &out);
        in += consumed;
        left -= consumed;
        given -= consumed;
        switch (ev) {
        case MR_H1_HEAD:
            fields = r.head.header_count;
            break;
        case MR_H1_BODY:
            body += out.body.len;
            break;
        case MR_H1_NEED_MORE:
            if (left == 0)
                return 0;
            given = left < piece ? left : piece;
            break;
        case MR_H1_DONE:
            return r.head.status | fields << 16 | body << 32;
        case MR_H1_ERROR:
            return 0;
        default:
            break;
        }
    }
}

static void measure(struct mr_bench *b, size_t piece)
{
    const uint64_t want = parse(piece);
    if (want == 0) {
        mr_bench_fail(b, "the reply does not parse");
        return;
    }
    uint64_t wrong = 0;
    while (mr_bench_next(b, 16))
        for (int i = 0; i < 16; i++)
            wrong |= parse(piece) ^ want;
    if (wrong) {
        mr_bench_fail(b, "the reply parsed differently");
        return;
    }
    mr_bench_checksum(b, want);
    mr_bench_bytes(b, reply_len);
}

static void make_small(void)
{
    reply_len = 0;
    add("HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
        "Content-Type: text/plain\r\nContent-Length: 12\r\n"
        "Last-Modified: Tue, 15 Nov 1994 08:12:31 GMT\r\nConnection: keep-alive\r\n"
        "ETag: \"2ec69858-c\"\r\nAccept-Ranges: bytes\r\n\r\nhello world\n");
}

static void small(struct mr_bench *b)
{
    make_small();
    measure(b, REPLY_MAX);
}

static void in_pieces(struct mr_bench *b)
{
    make_small();
    measure(b, (size_t)mr_bench_arg(b));
}

static void fields(struct mr_bench *b)
{
    reply_len = 0;
    add("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n");
    for (int64_t i = 1; i < mr_bench_arg(b); i++) {
        char line[96];
        snprintf(line, sizeof line, "X-Field-Number-%03d: some value of common length\r\n", (int)i);
        add(line);
    }
    add("\r\n");
    measure(b, REPLY_MAX);
}

/* 256 KB in chunks of the argument; a smoke run takes an eighth. */
static void chunked(struct mr_bench *b)
{
    const size_t body = mr_bench_is_smoke(b) ? 32 * 1024 : 256 * 1024;
    const size_t chunk = (size_t)mr_bench_arg(b);
    reply_len = 0;
    add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (size_t sent = 0; sent < body; sent += chunk) {
        char line[24];
        snprintf(line, sizeof line, "%zx\r\n", chunk);
        add(line);
        memset(reply_bytes + reply_len, 'x', chunk);
        reply_len += chunk;
        add("\r\n");
    }
    add("0\r\n\r\n");
    measure(b, REPLY_MAX);
}

const struct mr_bench_case mr_bench_cases[] = {
    {.name = "parser/small", .run = small},
    {.name = "parser/fields", .run = fields, .args = {2, 8, 16, 64}, .arg_count = 4},
    {.name = "parser/chunked", .run = chunked, .args = {16, 256, 4096, 16384}, .arg_count = 4},
    {.name = "parser/pieces_of", .run = in_pieces, .args = {1, 64, 200}, .arg_count = 3},
    {.name = NULL},
};
