/* The reply parser: exact bytes, exact events, cut in every way. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/h1_reply_log.h"

enum { CLOSES = 1 << 8 }; /* with the asked bits: the peer closes after the last byte */
#define HEAD    MR_H1_FOR_HEAD
#define CONNECT MR_H1_FOR_CONNECT
#define UPGRADE MR_H1_FOR_UPGRADE

struct reply_case {
    const char *bytes;
    size_t len;
    unsigned asked;
    const char *events;
};
/* sizeof, not strlen: some cases hold NUL. */
#define CASE(bytes, asked, events)                                                                 \
    {                                                                                              \
        bytes, sizeof(bytes) - 1, asked, events                                                    \
    }
#define OK11 "HTTP/1.1 200 OK\r\n"

/* Whole, one byte at a time, in threes, and cut in two at every position. */
#define FEED_ALL_WAYS(c, limits) feed_all_ways(__FILE__, __LINE__, c, limits)

static void feed(const char *file, int line, const struct reply_case *c,
                 const struct mr_h1_limits *limits, size_t first, size_t step)
{
    const struct h1_feed f = {
        .bytes = (const uint8_t *)c->bytes,
        .len = c->len,
        .limits = limits,
        .asked = c->asked & 0xff,
        .eof = c->asked & CLOSES,
        .first = first,
        .step = step,
    };
    char *const seen = h1_log_of(&f);
    if (strcmp(seen, c->events) != 0)
        print_error("bytes: %.300s\nfirst piece %zu, then %zu\n", c->bytes, first, step);
    _assert_string_equal(seen, c->events, file, line);
    free(seen);
}

static void feed_all_ways(const char *file, int line, const struct reply_case *c,
                          const struct mr_h1_limits *limits)
{
    feed(file, line, c, limits, 0, 0);
    feed(file, line, c, limits, 1, 1);
    feed(file, line, c, limits, 3, 3);
    for (size_t cut = 1; cut < c->len; cut++)
        feed(file, line, c, limits, cut, 0);
}

#define RUN_TABLE(table, limits)                                                                   \
    do {                                                                                           \
        for (size_t i_ = 0; i_ < sizeof(table) / sizeof *(table); i_++)                            \
            FEED_ALL_WAYS(&(table)[i_], limits);                                                   \
    } while (0)

static void test_status_lines(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0,
             "head 200/1 'OK' length 0 [Content-Length=0] | done+"),
        CASE("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 0,
             "head 200/0 'OK' length 0 [Content-Length=0] | done-"),
        CASE("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 0,
             "head 404/1 'Not Found' length 2 [Content-Length=2] | body no | done+"),
        CASE("HTTP/1.1 204 \r\n\r\n", 0, "head 204/1 '' none [] | done+"),
        CASE("HTTP/1.1 204\r\n\r\n", 0, "head 204/1 '' none [] | done+"),
        CASE("HTTP/1.1 204  two  spaces \r\n\r\n", 0, "head 204/1 ' two  spaces ' none [] | done+"),
        CASE("HTTP/1.1 204 caf\xc3\xa9\tx\r\n\r\n", 0,
             "head 204/1 'caf\\c3\\a9\\09x' none [] | done+"),
        CASE("HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n", 0,
             "head 599/1 'x' length 0 [Content-Length=0] | done+"),
        CASE("HTTP/1.1 999 no\r\nContent-Length: 0\r\n\r\n", 0,
             "head 999/1 'no' length 0 [Content-Length=0] | done+"),
        CASE("HTTP/1.1 099 x\r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1 20 OK\r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1 2000 OK\r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1 2OO OK\r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1 -20 OK\r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1  200 OK\r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1 \r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1 200\tOK\r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1 200OK\r\n\r\n", 0, " | error STATUS"),
        CASE("HTTP/1.1\r\n\r\n", 0, " | error VERSION"),
        CASE("HTTP/1.1\t200 OK\r\n\r\n", 0, " | error VERSION"),
        CASE("HTTP/1.2 200 OK\r\n\r\n", 0, " | error VERSION"),
        CASE("HTTP/2 200 OK\r\n\r\n", 0, " | error VERSION"),
        CASE("HTTP/0.9 200 OK\r\n\r\n", 0, " | error VERSION"),
        CASE("HTTP/1.10 200 OK\r\n\r\n", 0, " | error VERSION"),
        CASE("HTTP/11 200 OK\r\n\r\n", 0, " | error VERSION"),
        CASE("http/1.1 200 OK\r\n\r\n", 0, " | error NOT_HTTP"),
        CASE("\r\nHTTP/1.1 200 OK\r\n\r\n", 0, " | error NOT_HTTP"),
        CASE(" HTTP/1.1 200 OK\r\n\r\n", 0, " | error NOT_HTTP"),
        CASE("ICY 200 OK\r\n\r\n", 0, " | error NOT_HTTP"),
        CASE("SSH-2.0-OpenSSH_9.2", 0, " | error NOT_HTTP"),
        CASE("\x15\x03\x01\x00\x02\x02\x46", 0, " | error NOT_HTTP"),
        CASE("\x00\x00\x12\x04\x00\x00\x00\x00\x00", 0, " | error NOT_HTTP"),
        CASE("<html>", 0, " | error NOT_HTTP"),
        CASE("HTTP/1.1 200 O\rK\r\n\r\n", 0, " | error BARE_CR"),
        CASE("HTTP/1.1 200 OK\r\r\n\r\n", 0, " | error BARE_CR"),
        CASE("HTTP/1.1 200 OK\n\n", 0, " | error BARE_LF"),
        CASE("HTTP/1.1 200\n\n", 0, " | error BARE_LF"),
        CASE("HTTP/1.1 200 O\0K\r\n\r\n", 0, " | error REASON"),
        CASE("HTTP/1.1 200 O\x7fK\r\n\r\n", 0, " | error REASON"),
        CASE("HTTP/1.1 200 \x1b[31m\r\n\r\n", 0, " | error REASON"),
    };
    RUN_TABLE(table, NULL);
}

static void test_fields(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE("HTTP/1.1 204 x\r\nA:b\r\n\r\n", 0, "head 204/1 'x' none [A=b] | done+"),
        CASE("HTTP/1.1 204 x\r\nA: \t b c \t\r\n\r\n", 0, "head 204/1 'x' none [A=b c] | done+"),
        CASE("HTTP/1.1 204 x\r\nA:\r\nB: \r\nC:\t \t\r\n\r\n", 0,
             "head 204/1 'x' none [A=; B=; C=] | done+"),
        CASE("HTTP/1.1 204 x\r\nA: b:c\r\nD: e\r\n\r\n", 0,
             "head 204/1 'x' none [A=b:c; D=e] | done+"),
        CASE("HTTP/1.1 204 x\r\n!#$%&'*+-.^_`|~09azAZ: v\r\n\r\n", 0,
             "head 204/1 'x' none [!#$%&'*+-.^_`|~09azAZ=v] | done+"),
        CASE("HTTP/1.1 204 x\r\nA: caf\xe9\tx\r\n\r\n", 0,
             "head 204/1 'x' none [A=caf\\e9\\09x] | done+"),
        CASE("HTTP/1.1 204 x\r\nA: 1\r\na: 2\r\nA: 3\r\n\r\n", 0,
             "head 204/1 'x' none [A=1; a=2; A=3] | done+"),
        CASE("HTTP/1.1 204 x\r\nX-A-Rather-Long-Name-Of-More-Than-Two-Blocks: a value that is "
             "longer than three blocks of sixteen bytes\r\nB: c\r\n\r\n",
             0,
             "head 204/1 'x' none [X-A-Rather-Long-Name-Of-More-Than-Two-Blocks=a value that is "
             "longer than three blocks of sixteen bytes; B=c] | done+"),
        CASE("HTTP/1.1 204 x\r\nContent-Lengthy: x\r\nContent-Langth: x\r\nTransfer-Encodings: x"
             "\r\nTransfer-Encodinf: x\r\nConnectiom: close\r\n\r\n",
             0,
             "head 204/1 'x' none [Content-Lengthy=x; Content-Langth=x; Transfer-Encodings=x; "
             "Transfer-Encodinf=x; Connectiom=close] | done+"),
        CASE(OK11 "A: b\r\n c\r\n\r\n", 0, " | error FOLDED"),
        CASE(OK11 "A: b\r\n\tc\r\n\r\n", 0, " | error FOLDED"),
        CASE(OK11 " A: b\r\n\r\n", 0, " | error FOLDED"),
        CASE(OK11 " \r\n\r\n", 0, " | error FOLDED"),
        CASE(OK11 "A : b\r\n\r\n", 0, " | error NAME_SPACE"),
        CASE(OK11 "A\t : b\r\n\r\n", 0, " | error NAME_SPACE"),
        CASE(OK11 "Content-Length : 5\r\n\r\nhello", 0, " | error NAME_SPACE"),
        CASE(OK11 "A b: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "A(b): c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "A\0b: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "A\x80: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "\"A\": c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "A\x0b: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "\x01: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "[: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "{: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "@: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 "A/B: c\r\n\r\n", 0, " | error NAME"),
        CASE(OK11 ": c\r\n\r\n", 0, " | error NAME_EMPTY"),
        CASE(OK11 "nothing\r\n\r\n", 0, " | error NO_COLON"),
        CASE(OK11 "nothing\n\r\n", 0, " | error NO_COLON"),
        CASE(OK11 "A: b\nC: d\r\n\r\n", 0, " | error BARE_LF"),
        CASE(OK11 "A: b\n\n", 0, " | error BARE_LF"),
        CASE(OK11 "A: b\r\n\n", 0, " | error BARE_LF"),
        CASE(OK11 "\n", 0, " | error BARE_LF"),
        CASE(OK11 "A: b\rC: d\r\n\r\n", 0, " | error BARE_CR"),
        CASE(OK11 "A: b\r\r\n\r\n", 0, " | error BARE_CR"),
        CASE(OK11 "A: b\r\n\rX\r\n", 0, " | error BARE_CR"),
        CASE(OK11 "A\rB: c\r\n\r\n", 0, " | error BARE_CR"),
        CASE(OK11 "A: b\0c\r\n\r\n", 0, " | error VALUE"),
        CASE(OK11 "A: \x7f\r\n\r\n", 0, " | error VALUE"),
        CASE(OK11 "A: \x0b\r\n\r\n", 0, " | error VALUE"),
        CASE(OK11 "A: \x1f a value longer than sixteen bytes\r\n\r\n", 0, " | error VALUE"),
        CASE(OK11 "A: b\r\nC", 0, " | more"),
        CASE(OK11 "A: b\0", 0, " | more"),
        CASE(OK11 "A: b\r\n\r", 0, " | more"),
    };
    RUN_TABLE(table, NULL);
}

static void test_lengths(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE(OK11 "Content-Length: 5\r\n\r\nhello", 0,
             "head 200/1 'OK' length 5 [Content-Length=5] | body hello | done+"),
        CASE(OK11 "cONTENT-lENGTH:5\r\n\r\nhello", 0,
             "head 200/1 'OK' length 5 [cONTENT-lENGTH=5] | body hello | done+"),
        CASE(OK11 "Content-Length: 005\r\n\r\nhello", 0,
             "head 200/1 'OK' length 5 [Content-Length=005] | body hello | done+"),
        CASE(OK11 "Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n", 0,
             "head 200/1 'OK' length 5 [Content-Length=5] | body hello | done+ | left HTTP/1.1 "
             "200 OK\\0d\\0a"),
        CASE(OK11 "Content-Length: 5\r\n\r\n\r\n\0\xff!", 0,
             "head 200/1 'OK' length 5 [Content-Length=5] | body \\0d\\0a\\00\\ff! | done+"),
        CASE(OK11 "Content-Length: 5\r\n\r\nhel", 0,
             "head 200/1 'OK' length 5 [Content-Length=5] | body hel | more"),
        CASE(OK11 "Content-Length: 5\r\n\r\nhel", CLOSES,
             "head 200/1 'OK' length 5 [Content-Length=5] | body hel | error EOF_IN_BODY"),
        CASE(OK11 "Content-Length: 9223372036854775807\r\n\r\nx", 0,
             "head 200/1 'OK' length 9223372036854775807 [Content-Length=9223372036854775807] | "
             "body x | more"),
        CASE(OK11 "Content-Length: 9223372036854775808\r\n\r\n", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 18446744073709551621\r\n\r\n", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 99999999999999999999999\r\n\r\n", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: \r\n\r\n", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: -1\r\n\r\n", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: +5\r\n\r\nhello", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 0x5\r\n\r\nhello", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 5 5\r\n\r\nhello", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 5,5\r\n\r\nhello", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 5, 6\r\n\r\nhello", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 5;\r\n\r\nhello", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 5.0\r\n\r\nhello", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: \xb5\r\n\r\nhello", 0, " | error LENGTH"),
        CASE(OK11 "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 0,
             " | error LENGTH_TWICE"),
        CASE(OK11 "Content-Length: 5\r\nA: b\r\ncontent-length: 6\r\n\r\nhello", 0,
             " | error LENGTH_TWICE"),
        CASE(OK11 "Content-Length: 0\r\nContent-Length: 44\r\n\r\nHTTP/1.1 200 OK\r\n", 0,
             " | error LENGTH_TWICE"),
    };
    RUN_TABLE(table, NULL);
}

#define CHUNKED      OK11 "Transfer-Encoding: chunked\r\n\r\n"
#define CHUNKED_HEAD "head 200/1 'OK' chunked [Transfer-Encoding=chunked]"

static void test_chunks(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE(CHUNKED "5\r\nhello\r\n0\r\n\r\n", 0, CHUNKED_HEAD " | body hello | done+"),
        CASE(CHUNKED "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 0,
             CHUNKED_HEAD " | body hello world | done+"),
        CASE(CHUNKED "0\r\n\r\n", 0, CHUNKED_HEAD " | done+"),
        CASE(CHUNKED "000\r\n\r\nX", 0, CHUNKED_HEAD " | done+ | left X"),
        CASE(CHUNKED "0005\r\nhello\r\n0\r\n\r\n", 0, CHUNKED_HEAD " | body hello | done+"),
        CASE(CHUNKED "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", 0,
             CHUNKED_HEAD " | body 01234567890123456789 | done+"),
        CASE(CHUNKED "7\r\n0\r\n\r\nab\r\n0\r\n\r\n", 0,
             CHUNKED_HEAD " | body 0\\0d\\0a\\0d\\0aab | done+"),
        CASE(CHUNKED "1;a\r\nx\r\n0;b=\"c;d\"\r\n\r\n", 0, CHUNKED_HEAD " | body x | done+"),
        CASE(CHUNKED "1 \t;a=b;;\r\nx\r\n0\r\n\r\n", 0, CHUNKED_HEAD " | body x | done+"),
        CASE(CHUNKED "1;\xe9\t\r\nx\r\n0\r\n\r\n", 0, CHUNKED_HEAD " | body x | done+"),
        CASE(CHUNKED "1 \r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "1 1\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED " 1\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED ";a\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "0x1\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "-1\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "+1\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "1_0\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "G\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "1\0\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_SIZE"),
        CASE(CHUNKED "1\nx\r\n0\r\n\r\n", 0, CHUNKED_HEAD " | error BARE_LF"),
        CASE(CHUNKED "1;a\nx\r\n0\r\n\r\n", 0, CHUNKED_HEAD " | error BARE_LF"),
        CASE(CHUNKED "1\rx", 0, CHUNKED_HEAD " | error BARE_CR"),
        CASE(CHUNKED "1;a\rb\r\nx", 0, CHUNKED_HEAD " | error BARE_CR"),
        CASE(CHUNKED "1;a\0b\r\nx", 0, CHUNKED_HEAD " | error CHUNK_EXT"),
        CASE(CHUNKED "1\r\nxx\r\n", 0, CHUNKED_HEAD " | body x | error CHUNK_END"),
        CASE(CHUNKED "1\r\nx\n", 0, CHUNKED_HEAD " | body x | error CHUNK_END"),
        CASE(CHUNKED "1\r\nx\rx", 0, CHUNKED_HEAD " | body x | error CHUNK_END"),
        CASE(CHUNKED "1\r\nx0\r\n\r\n", 0, CHUNKED_HEAD " | body x | error CHUNK_END"),
        CASE(CHUNKED "7fffffffffffffff\r\nx", 0, CHUNKED_HEAD " | body x | more"),
        CASE(CHUNKED "8000000000000000\r\nx", 0, CHUNKED_HEAD " | error CHUNK_OVERFLOW"),
        CASE(CHUNKED "10000000000000001\r\nx", 0, CHUNKED_HEAD " | error CHUNK_OVERFLOW"),
        CASE(CHUNKED "00000000000000001\r\nx", 0, CHUNKED_HEAD " | error CHUNK_OVERFLOW"),
        CASE(CHUNKED "5\r\nhel", CLOSES, CHUNKED_HEAD " | body hel | error EOF_IN_BODY"),
        CASE(CHUNKED "5\r\nhello\r\n", CLOSES, CHUNKED_HEAD " | body hello | error EOF_IN_BODY"),
        CASE(CHUNKED "0\r\n", CLOSES, CHUNKED_HEAD " | error EOF_IN_BODY"),
        CASE(CHUNKED "0\r\n\r\n", CLOSES, CHUNKED_HEAD " | done+"),
        CASE(OK11 "Transfer-Encoding: CHUNKED\r\nConnection: close\r\n\r\n0\r\n\r\n", 0,
             "head 200/1 'OK' chunked [Transfer-Encoding=CHUNKED; Connection=close] | done-"),
    };
    RUN_TABLE(table, NULL);
}

static void test_trailers(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE(CHUNKED "1\r\nx\r\n0\r\nA: b\r\nC:d\r\n\r\nX", 0,
             CHUNKED_HEAD " | body x | trailers [A=b; C=d] | done+ | left X"),
        CASE(CHUNKED "0\r\nHost: x\r\nSet-Cookie: a\r\nDate: now\r\nX: y\r\nconnection: close\r\n"
                     "\r\n",
             0, CHUNKED_HEAD " | trailers [X=y] | done+"),
        CASE(CHUNKED "0\r\nTrailer: x\r\n\r\n", 0, CHUNKED_HEAD " | done+"),
        CASE(CHUNKED "0\r\nContent-Length: 5\r\n\r\n", 0, CHUNKED_HEAD " | error TRAILER_FRAMING"),
        CASE(CHUNKED "0\r\nTransfer-Encoding: chunked\r\n\r\n", 0,
             CHUNKED_HEAD " | error TRAILER_FRAMING"),
        CASE(CHUNKED "0\r\nTransfer-Encoding: gzip\r\n\r\n", 0, CHUNKED_HEAD " | error CODING"),
        CASE(CHUNKED "0\r\nContent-Length: x\r\n\r\n", 0, CHUNKED_HEAD " | error LENGTH"),
        CASE(CHUNKED "0\r\nA: b\r\n c\r\n\r\n", 0, CHUNKED_HEAD " | error FOLDED"),
        CASE(CHUNKED "0\r\nA : b\r\n\r\n", 0, CHUNKED_HEAD " | error NAME_SPACE"),
        CASE(CHUNKED "0\r\nA: b\n\n", 0, CHUNKED_HEAD " | error BARE_LF"),
        CASE(CHUNKED "0\r\n\n", 0, CHUNKED_HEAD " | error BARE_LF"),
        CASE(CHUNKED "0\r\nHTTP/1.1 200 OK\r\n\r\n", 0, CHUNKED_HEAD " | error NAME"),
        CASE(CHUNKED "0\r\nA: b\r\n", CLOSES, CHUNKED_HEAD " | error EOF_IN_BODY"),
    };
    RUN_TABLE(table, NULL);
}

static void test_smuggling(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE(OK11 "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0,
             " | error LENGTH_AND_CODING"),
        CASE(OK11 "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 0,
             " | error LENGTH_AND_CODING"),
        CASE(OK11 "Transfer-Encoding: gzip, chunked\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: chunked, gzip\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: chunked, chunked\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: chunked,\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: , chunked\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: identity\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: xchunked\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: chunkedx\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: chunke\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: \"chunked\"\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: chunked;q=1\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding:\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0,
             " | error CODING_TWICE"),
        CASE(OK11 "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 0,
             " | error CODING_TWICE"),
        CASE(OK11 "Transfer-Encoding : chunked\r\n\r\n", 0, " | error NAME_SPACE"),
        CASE(OK11 "Transfer-Encoding:\x0b"
                  "chunked\r\n\r\n",
             0, " | error VALUE"),
        CASE(OK11 "Transfer-Encoding:\r\n chunked\r\n\r\n", 0, " | error CODING"),
        CASE(OK11 "X: y\r\n Transfer-Encoding: chunked\r\n\r\n", 0, " | error FOLDED"),
        CASE(OK11 "X: y\rTransfer-Encoding: chunked\r\n\r\n", 0, " | error BARE_CR"),
        CASE(OK11 "X: y\nTransfer-Encoding: chunked\r\n\r\n", 0, " | error BARE_LF"),
        CASE(OK11 "\0Transfer-Encoding: chunked\r\n\r\n", 0, " | error NAME"),
        CASE("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0,
             " | error CODING_HTTP10"),
        CASE(OK11 "Location: /\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX: evil\r\n\r\n", 0,
             "head 200/1 'OK' length 0 [Location=/; Content-Length=0] | done+ | left HTTP/1.1 200 "
             "OK\\0d\\0aX: evil\\0d\\0a\\0d\\0a"),
        CASE(OK11 "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", HEAD,
             " | error LENGTH_AND_CODING"),
        CASE("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\nhello", 0,
             "head 204/1 'x' none 5 [Content-Length=5] | done- | left hello"),
        CASE("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", 0,
             "head 204/1 'x' none [Transfer-Encoding=chunked] | done-"),
        CASE("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n", 0,
             "head 204/1 'x' none 0 [Content-Length=0] | done+"),
    };
    RUN_TABLE(table, NULL);
}

static void test_replies_without_body(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE(OK11 "Content-Length: 5\r\n\r\n", HEAD,
             "head 200/1 'OK' none 5 [Content-Length=5] | done+"),
        CASE(CHUNKED, HEAD, "head 200/1 'OK' none [Transfer-Encoding=chunked] | done+"),
        CASE(OK11 "\r\n", HEAD, "head 200/1 'OK' none [] | done+"),
        CASE(OK11 "Content-Length: 5\r\n\r\nhello", HEAD,
             "head 200/1 'OK' none 5 [Content-Length=5] | done+ | left hello"),
        CASE("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 0,
             "head 304/1 'Not Modified' none 5 [Content-Length=5] | done+"),
        CASE("HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", 0,
             "head 205/1 'Reset' length 0 [Content-Length=0] | done+"),
        CASE(OK11 "\r\n", CONNECT, "head 200/1 'OK' none [] | done^"),
        CASE(OK11 "\r\n\x16\x03", CONNECT, "head 200/1 'OK' none [] | done^ | left \\16\\03"),
        CASE(OK11 "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nab", CONNECT,
             "head 200/1 'OK' none 5 [Content-Length=5; Transfer-Encoding=chunked] | done^ | left "
             "ab"),
        CASE("HTTP/1.1 407 No\r\nContent-Length: 1\r\n\r\nx", CONNECT,
             "head 407/1 'No' length 1 [Content-Length=1] | body x | done+"),
    };
    RUN_TABLE(table, NULL);
}

static void test_interim_replies(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 x\r\n\r\n", 0,
             "1xx 100/1 'Continue' none [] | head 204/1 'x' none [] | done+"),
        CASE("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 \r\n\r\n" OK11
             "Content-Length: 1\r\n\r\nx",
             0,
             "1xx 103/1 'Early Hints' none [Link=</a>] | 1xx 100/1 '' none [] | head 200/1 'OK' "
             "length 1 [Content-Length=1] | body x | done+"),
        CASE("HTTP/1.1 100 \r\nConnection: close\r\n\r\n" OK11 "Content-Length: 0\r\n\r\n", 0,
             "1xx 100/1 '' none [Connection=close] | head 200/1 'OK' length 0 [Content-Length=0] "
             "| done+"),
        CASE("HTTP/1.1 100 \r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 x\r\n\r\n", 0,
             "1xx 100/1 '' none 0 [Content-Length=0] | head 204/1 'x' none [] | done+"),
        CASE("HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\nX", 0,
             "1xx 100/1 '' none [] |  | error BARE_LF"),
        CASE("HTTP/1.1 100 \r\n\r\nGET ", 0, "1xx 100/1 '' none [] |  | error NOT_HTTP"),
        CASE("HTTP/1.1 100 \r\nContent-Length: 5\r\n\r\nhello", 0, " | error INTERIM_BODY"),
        CASE("HTTP/1.1 100 \r\nTransfer-Encoding: chunked\r\n\r\n", 0, " | error INTERIM_BODY"),
        CASE("HTTP/1.1 100 \r\n\r\n", CLOSES, "1xx 100/1 '' none [] |  | error EOF_IN_HEAD"),
        CASE(
            "HTTP/1.1 101 Switch\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81", UPGRADE,
            "head 101/1 'Switch' none [Upgrade=websocket; Connection=Upgrade] | done^ | left \\81"),
        CASE("HTTP/1.1 101 Switch\r\n\r\n", 0, " | error UPGRADE_UNASKED"),
        CASE("HTTP/1.1 101 Switch\r\nContent-Length: 5\r\n\r\n", UPGRADE, " | error INTERIM_BODY"),
        CASE("HTTP/1.1 100 \r\n\r\nHTTP/1.1 101 x\r\n\r\n", UPGRADE,
             "1xx 100/1 '' none [] | head 101/1 'x' none [] | done^"),
    };
    RUN_TABLE(table, NULL);
}

static void test_ends_of_connection(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE("", CLOSES, " | error EOF_UNTOUCHED"),
        CASE("H", CLOSES, " | error EOF_IN_HEAD"),
        CASE("HTTP/1.1", CLOSES, " | error EOF_IN_HEAD"),
        CASE(OK11, CLOSES, " | error EOF_IN_HEAD"),
        CASE(OK11 "A: b", CLOSES, " | error EOF_IN_HEAD"),
        CASE(OK11 "\r\n", CLOSES, "head 200/1 'OK' eof [] | done-"),
        CASE(OK11 "\r\nto the end", CLOSES, "head 200/1 'OK' eof [] | body to the end | done-"),
        CASE(OK11 "\r\nto the", 0, "head 200/1 'OK' eof [] | body to the | more"),
        CASE("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nx", CLOSES,
             "head 200/0 'OK' eof [Connection=keep-alive] | body x | done-"),
        CASE(OK11 "Content-Length: 0\r\n\r\n", CLOSES,
             "head 200/1 'OK' length 0 [Content-Length=0] | done+"),
    };
    RUN_TABLE(table, NULL);
}

#define LENGTH0  "Content-Length: 0\r\n\r\n"
#define LENGTH0_ "Content-Length=0]"

static void test_keep_alive(void **state)
{
    (void)state;
    static const struct reply_case table[] = {
        CASE(OK11 "Connection: close\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [Connection=close; " LENGTH0_ " | done-"),
        CASE(OK11 "connection: CLOSE\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [connection=CLOSE; " LENGTH0_ " | done-"),
        CASE(OK11 "Connection: keep-alive, close\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [Connection=keep-alive, close; " LENGTH0_ " | done-"),
        CASE(OK11 "Connection: close , X\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [Connection=close , X; " LENGTH0_ " | done-"),
        CASE(OK11 "Connection: X\r\nConnection: ,,\tclose\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [Connection=X; Connection=,,\\09close; " LENGTH0_
             " | done-"),
        CASE(OK11 "Connection: closed, xclose, clos\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [Connection=closed, xclose, clos; " LENGTH0_ " | done+"),
        CASE(OK11 "Connection: \r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [Connection=; " LENGTH0_ " | done+"),
        CASE(OK11 "Proxy-Connection: close\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [Proxy-Connection=close; " LENGTH0_ " | done+"),
        CASE("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" LENGTH0, 0,
             "head 200/0 'OK' length 0 [Connection=Keep-Alive; " LENGTH0_ " | done+"),
        CASE("HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n" LENGTH0, 0,
             "head 200/0 'OK' length 0 [Connection=keep-alive, close; " LENGTH0_ " | done-"),
        CASE("HTTP/1.0 200 OK\r\nConnection: keep-alivf\r\n" LENGTH0, 0,
             "head 200/0 'OK' length 0 [Connection=keep-alivf; " LENGTH0_ " | done-"),
        CASE(OK11 "Keep-Alive: timeout=5, max=100\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 idle=5 [Keep-Alive=timeout=5, max=100; " LENGTH0_
             " | done+"),
        CASE(OK11 "Keep-Alive: max=9, Timeout=75\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 idle=75 [Keep-Alive=max=9, Timeout=75; " LENGTH0_
             " | done+"),
        CASE(OK11 "Keep-Alive: timeout=99999999999\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 idle=4294967295 [Keep-Alive=timeout=99999999999; " LENGTH0_
             " | done+"),
        CASE(OK11 "Keep-Alive: timeout=, timeout=x\r\n" LENGTH0, 0,
             "head 200/1 'OK' length 0 [Keep-Alive=timeout=, timeout=x; " LENGTH0_ " | done+"),
    };
    RUN_TABLE(table, NULL);
}

static void test_limits(void **state)
{
    (void)state;
    static const struct mr_h1_limits tight = {
        .head_bytes_max = 40,
        .header_count_max = 2,
        .trailer_bytes_max = 12,
        .chunk_ext_bytes_max = 4,
        .interim_count_max = 1,
        .body_bytes_max = 6,
    };
    static const struct reply_case table[] = {
        CASE("HTTP/1.1 204 x\r\nA: 34567890123456789\r\n\r\n", 0,
             "head 204/1 'x' none [A=34567890123456789] | done+"),
        CASE("HTTP/1.1 204 x\r\nA: 345678901234567890\r\n\r\n", 0, " | error HEAD_TOO_BIG"),
        CASE("HTTP/1.1 204 a reason that has no end at all", 0, " | error HEAD_TOO_BIG"),
        CASE("HTTP/1.1 204 x\r\nA: 345678901234567890\n\r\n", 0, " | error BARE_LF"),
        CASE("HTTP/1.1 204 x\r\nA: 345678901234567890123456789\n\r\n", 0, " | error HEAD_TOO_BIG"),
        CASE("HTTP/1.1 204 x\r\nA: b\r\nC: d\r\n\r\n", 0, "head 204/1 'x' none [A=b; C=d] | done+"),
        CASE("HTTP/1.1 204 x\r\nA: b\r\nC: d\r\nE: f\r\n\r\n", 0, " | error HEADERS_TOO_MANY"),
        CASE(OK11 "Content-Length: 6\r\n\r\n123456", 0,
             "head 200/1 'OK' length 6 [Content-Length=6] | body 123456 | done+"),
        CASE(OK11 "Content-Length: 7\r\n\r\n1234567", 0, " | error BODY_TOO_BIG"),
        CASE(OK11 "Content-Length: 7\r\n\r\n", HEAD,
             "head 200/1 'OK' none 7 [Content-Length=7] | done+"),
        CASE(OK11 "\r\n123456", CLOSES, "head 200/1 'OK' eof [] | body 123456 | done-"),
        CASE(OK11 "\r\n1234567", 0, "head 200/1 'OK' eof [] | body 123456 | error BODY_TOO_BIG"),
        CASE("HTTP/1.1 100 \r\n\r\nHTTP/1.1 204 x\r\n\r\n", 0,
             "1xx 100/1 '' none [] | head 204/1 'x' none [] | done+"),
        CASE("HTTP/1.1 100 \r\n\r\nHTTP/1.1 100 \r\n\r\n", 0,
             "1xx 100/1 '' none [] |  | error INTERIM_TOO_MANY"),
    };
    RUN_TABLE(table, &tight);

    struct mr_h1_limits chunky = tight;
    chunky.head_bytes_max = 100;
    static const struct reply_case chunks[] = {
        CASE(CHUNKED "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", 0, CHUNKED_HEAD " | body abcdef | done+"),
        CASE(CHUNKED "3\r\nabc\r\n4\r\ndefg\r\n", 0,
             CHUNKED_HEAD " | body abc | error BODY_TOO_BIG"),
        CASE(CHUNKED "7fffffffffffffff\r\n", 0, CHUNKED_HEAD " | error BODY_TOO_BIG"),
        CASE(CHUNKED "1;234\r\nx\r\n0\r\n\r\n", 0, CHUNKED_HEAD " | body x | done+"),
        CASE(CHUNKED "1;23456\r\nx\r\n", 0, CHUNKED_HEAD " | error CHUNK_EXT_TOO_BIG"),
        CASE(CHUNKED "1   \t  ;", 0, CHUNKED_HEAD " | error CHUNK_EXT_TOO_BIG"),
        CASE(CHUNKED "3;aaa\r\nxyz\r\n3;bbb\r\nxyz\r\n0;cccc\r\n\r\n", 0,
             CHUNKED_HEAD " | body xyzxyz | done+"),
        CASE(CHUNKED "1;aaa\r\nx\r\n1;bbb\r\n", 0,
             CHUNKED_HEAD " | body x | error CHUNK_EXT_TOO_BIG"),
        CASE(CHUNKED "0\r\nA: 45678\r\n\r\n", 0, CHUNKED_HEAD " | trailers [A=45678] | done+"),
        CASE(CHUNKED "0\r\nA: 456789\r\n\r\n", 0, CHUNKED_HEAD " | error TRAILERS_TOO_BIG"),
        CASE(CHUNKED "0\r\nA:\r\nB:\r\nC:\r\n\r\n", 0, CHUNKED_HEAD " | error HEADERS_TOO_MANY"),
    };
    RUN_TABLE(chunks, &chunky);
}

/* Builds "N: v" lines until the list leaves the inline storage twice. */
static size_t many_headers(char *buf, size_t cap, int count)
{
    size_t len = (size_t)snprintf(buf, cap, "HTTP/1.1 204 x\r\n");
    for (int i = 0; i < count; i++)
        len += (size_t)snprintf(buf + len, cap - len, "X-%d: %d\r\n", i, i * 7);
    return len + (size_t)snprintf(buf + len, cap - len, "\r\n");
}

static void test_lists_grow_up_to_the_limit(void **state)
{
    (void)state;
    static char bytes[4096], events[4096];
    for (int count = 15; count <= 129; count += count < 34 ? 1 : 19) {
        size_t len = (size_t)snprintf(events, sizeof events, "head 204/1 'x' none [");
        for (int i = 0; i < count; i++)
            len += (size_t)snprintf(events + len, sizeof events - len, "%sX-%d=%d", i ? "; " : "",
                                    i, i * 7);
        snprintf(events + len, sizeof events - len, "] | done+");
        const struct reply_case c = {bytes, many_headers(bytes, sizeof bytes, count), 0,
                                     count <= 128 ? events : " | error HEADERS_TOO_MANY"};
        FEED_ALL_WAYS(&c, NULL);
    }
}

static void test_each_allocation_may_fail(void **state)
{
    (void)state;
    static char bytes[4096];
    struct h1_feed f = {.bytes = (const uint8_t *)bytes,
                        .len = many_headers(bytes, sizeof bytes, 100)};
    for (size_t first = 0; first < 2; first++) {
        size_t granted = 0;
        for (;; granted++) {
            f.first = f.step = first;
            f.allocs_max = granted + 1;
            char *const seen = h1_log_of(&f);
            const bool done = strstr(seen, "done+");
            if (!done)
                assert_string_equal(seen, " | error NO_MEMORY");
            free(seen);
            if (done)
                break;
        }
        assert_true(granted >= 3);
    }
}

static void test_a_plain_head_allocates_nothing_and_copies_nothing(void **state)
{
    (void)state;
    static const char bytes[] = OK11 "Server: nginx\r\nContent-Length: 2\r\n\r\nhi";
    struct h1_heap heap = {.max = 0};
    struct mr_h1_reply r;
    struct mr_h1_out out;
    size_t used;
    const uint8_t *const in = (const uint8_t *)bytes;
    mr_h1_reply_init(&r, NULL, 0, h1_heap_alloc, &heap);
    assert_int_equal(mr_h1_reply_next(&r, in, sizeof bytes - 1, &used, &out), MR_H1_HEAD);
    assert_int_equal(used, sizeof bytes - 3);
    assert_ptr_equal(r.head.reason.base, in + 13);
    assert_ptr_equal(r.head.headers[0].name.base, in + 17);
    assert_ptr_equal(r.head.headers[0].value.base, in + 25);
    assert_int_equal(mr_h1_reply_next(&r, in + used, 2, &used, &out), MR_H1_BODY);
    assert_ptr_equal(out.body.base, in + sizeof bytes - 3);
    assert_int_equal(mr_h1_reply_next(&r, NULL, 0, &used, &out), MR_H1_DONE);
    assert_int_equal(mr_h1_reply_next(&r, NULL, 0, &used, &out), MR_H1_DONE);
    assert_true(r.head.keep_alive);
}

static void test_an_error_stays(void **state)
{
    (void)state;
    struct h1_heap heap = {.max = 0};
    struct mr_h1_reply r;
    struct mr_h1_out out;
    size_t used;
    mr_h1_reply_init(&r, NULL, 0, h1_heap_alloc, &heap);
    assert_int_equal(mr_h1_reply_next(&r, (const uint8_t *)"x", 1, &used, &out), MR_H1_ERROR);
    for (int i = 0; i < 2; i++) {
        memset(&out, 0, sizeof out);
        const enum mr_h1_event event =
            i ? mr_h1_reply_eof(&r, &out) : mr_h1_reply_next(&r, NULL, 0, &used, &out);
        assert_int_equal(event, MR_H1_ERROR);
        assert_int_equal(out.fault, MR_H1_FAULT_NOT_HTTP);
        assert_int_equal(out.err, MOOR_EPROTO);
        assert_string_equal(out.what, "reply does not start with HTTP/1.");
    }
}

/* A peer may drip a head of the full size; each byte must cost the same. */
static void test_a_dripped_head_costs_linear_time(void **state)
{
    (void)state;
    enum { SIZE = 60000 };
    static char bytes[SIZE];
    struct h1_heap heap = {.max = SIZE_MAX};
    struct mr_h1_reply r;
    struct mr_h1_out out;
    size_t used;
    size_t len = (size_t)snprintf(bytes, SIZE, "%sA: ", OK11);
    memset(bytes + len, 'x', SIZE - len);
    memcpy(bytes + SIZE - 4, "\r\n\r\n", 4);
    mr_h1_reply_init(&r, NULL, MR_H1_FOR_HEAD, h1_heap_alloc, &heap);
    for (size_t i = 0; i < SIZE; i++) {
        const enum mr_h1_event event =
            mr_h1_reply_next(&r, (const uint8_t *)bytes + i, 1, &used, &out);
        assert_int_equal(event, i == SIZE - 1 ? MR_H1_HEAD : MR_H1_NEED_MORE);
    }
    assert_int_equal(r.head.headers[0].value.len, SIZE - len - 4);
    assert_true(heap.count < 10);
    for (size_t i = 0; i < heap.count; i++)
        free(heap.blocks[i]);
}

static void test_every_fault_has_a_text(void **state)
{
    (void)state;
    for (int f = 1; f < MR_H1_FAULT_COUNT; f++) {
        assert_true(strlen(mr_h1_fault_text((enum mr_h1_fault)f)) > 10);
        assert_int_not_equal(mr_h1_fault_err((enum mr_h1_fault)f), MOOR_OK);
    }
    assert_int_equal(mr_h1_fault_err(MR_H1_FAULT_COUNT), MOOR_EINVAL);
    assert_non_null(mr_h1_fault_text(MR_H1_FAULT_COUNT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_lines),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_trailers),
        cmocka_unit_test(test_smuggling),
        cmocka_unit_test(test_replies_without_body),
        cmocka_unit_test(test_interim_replies),
        cmocka_unit_test(test_ends_of_connection),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_lists_grow_up_to_the_limit),
        cmocka_unit_test(test_each_allocation_may_fail),
        cmocka_unit_test(test_a_plain_head_allocates_nothing_and_copies_nothing),
        cmocka_unit_test(test_an_error_stays),
        cmocka_unit_test(test_a_dripped_head_costs_linear_time),
        cmocka_unit_test(test_every_fault_has_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
