/* The request writer: exact bytes out, and nothing that could inject a line. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "h1/request.h"

#define SPAN(literal)                                                                              \
    {                                                                                              \
        literal, sizeof(literal) - 1                                                               \
    }
#define H(name, value)                                                                             \
    {                                                                                              \
        SPAN(name), SPAN(value)                                                                    \
    }

struct request_case {
    struct mr_h1_request q;
    moor_header headers[4];
    size_t header_count;
    const char *bytes;          /* NULL: refused */
    enum mr_h1_refusal refusal; /* with bytes NULL */
    size_t bad_header;          /* with bytes NULL */
    bool close, upgrade, expect_continue;
};

#define GET        .method = SPAN("GET"), .target = SPAN("/"), .host = SPAN("a")
#define POST       .method = SPAN("POST"), .target = SPAN("/"), .host = SPAN("a")
#define GET_BYTES  "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST_BYTES "POST / HTTP/1.1\r\nHost: a\r\n"

static const struct request_case written[] = {
    {.q = {GET}, .bytes = GET_BYTES "\r\n"},
    {.q = {.method = SPAN("GET"), .target = SPAN("/p%20q?a=b&c"), .host = SPAN("[::1]:8080")},
     .bytes = "GET /p%20q?a=b&c HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n"},
    {.q = {.method = SPAN("CONNECT"), .target = SPAN("h:443"), .host = SPAN("h:443")},
     .bytes = "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"},
    {.q = {GET, .user_agent = SPAN("mooring/1")},
     .bytes = GET_BYTES "User-Agent: mooring/1\r\n\r\n"},
    {.q = {GET, .user_agent = SPAN("mooring/1")},
     .headers = {H("user-agent", "mine")},
     .header_count = 1,
     .bytes = GET_BYTES "user-agent: mine\r\n\r\n"},
    {.q = {GET},
     .headers = {H("X", ""), H("Y", "a\tb \xc3\xa9")},
     .header_count = 2,
     .bytes = GET_BYTES "X: \r\nY: a\tb \xc3\xa9\r\n\r\n"},
    {.q = {GET},
     .headers = {H("HOST", "other:1")},
     .header_count = 1,
     .bytes = "GET / HTTP/1.1\r\nHOST: other:1\r\n\r\n"},
    {.q = {POST}, .bytes = POST_BYTES "Content-Length: 0\r\n\r\n"},
    {.q = {.method = SPAN("PUT"), .target = SPAN("/"), .host = SPAN("a")},
     .bytes = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"},
    {.q = {POST, .framing = MR_H1_SEND_LENGTH, .content_length = UINT64_C(18446744073709551615)},
     .bytes = POST_BYTES "Content-Length: 18446744073709551615\r\n\r\n"},
    {.q = {GET, .framing = MR_H1_SEND_LENGTH}, .bytes = GET_BYTES "Content-Length: 0\r\n\r\n"},
    {.q = {POST, .framing = MR_H1_SEND_LENGTH, .content_length = 5},
     .headers = {H("content-length", "05")},
     .header_count = 1,
     .bytes = POST_BYTES "content-length: 05\r\n\r\n"},
    {.q = {POST},
     .headers = {H("Content-Length", "0")},
     .header_count = 1,
     .bytes = POST_BYTES "Content-Length: 0\r\n\r\n"},
    {.q = {POST, .framing = MR_H1_SEND_CHUNKED},
     .bytes = POST_BYTES "Transfer-Encoding: chunked\r\n\r\n"},
    {.q = {POST, .framing = MR_H1_SEND_CHUNKED},
     .headers = {H("transfer-encoding", "Chunked")},
     .header_count = 1,
     .bytes = POST_BYTES "transfer-encoding: Chunked\r\n\r\n"},
    {.q = {POST, .framing = MR_H1_SEND_LENGTH, .content_length = 5, .expect_continue = true},
     .bytes = POST_BYTES "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
     .expect_continue = true},
    {.q = {POST, .framing = MR_H1_SEND_LENGTH, .content_length = 5, .expect_continue = true},
     .headers = {H("expect", "100-Continue")},
     .header_count = 1,
     .bytes = POST_BYTES "expect: 100-Continue\r\nContent-Length: 5\r\n\r\n",
     .expect_continue = true},
    {.q = {POST, .framing = MR_H1_SEND_CHUNKED},
     .headers = {H("Expect", "100-continue")},
     .header_count = 1,
     .bytes = POST_BYTES "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
     .expect_continue = true},
    {.q = {GET, .close = true}, .bytes = GET_BYTES "Connection: close\r\n\r\n", .close = true},
    {.q = {GET},
     .headers = {H("connection", "X, Close")},
     .header_count = 1,
     .bytes = GET_BYTES "connection: X, Close\r\n\r\n",
     .close = true},
    {.q = {GET, .close = true},
     .headers = {H("Connection", "close")},
     .header_count = 1,
     .bytes = GET_BYTES "Connection: close\r\n\r\n",
     .close = true},
    {.q = {GET, .close = true},
     .headers = {H("Connection", "upgrade"), H("Upgrade", "x")},
     .header_count = 2,
     .bytes = GET_BYTES "Connection: upgrade\r\nUpgrade: x\r\nConnection: close\r\n\r\n",
     .close = true,
     .upgrade = true},
    {.q = {GET},
     .headers = {H("Connection", "keep-alive")},
     .header_count = 1,
     .bytes = GET_BYTES "Connection: keep-alive\r\n\r\n"},
};

#define REFUSED_LINE(m, t, h, why)                                                                 \
    {                                                                                              \
        .q = {.method = SPAN(m), .target = SPAN(t), .host = SPAN(h)}, .refusal = why               \
    }
#define REFUSED_SECOND(name, value, why)                                                           \
    {                                                                                              \
        .q = {GET}, .headers = {H("A", "b"), H(name, value), H("C", "d")}, .header_count = 3,      \
        .refusal = why, .bad_header = 1                                                            \
    }

static const struct request_case refused[] = {
    REFUSED_LINE("", "/", "a", MR_H1_REFUSE_METHOD),
    REFUSED_LINE("GE T", "/", "a", MR_H1_REFUSE_METHOD),
    REFUSED_LINE("GET\r\n", "/", "a", MR_H1_REFUSE_METHOD),
    REFUSED_LINE("GET\0", "/", "a", MR_H1_REFUSE_METHOD),
    REFUSED_LINE("GET", "", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/ HTTP/1.1\r\nX: y", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/a b", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/\r", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/\n", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/\0", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/\t", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/\x7f", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/\xc3\xa9", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/#fragment", "a", MR_H1_REFUSE_TARGET),
    REFUSED_LINE("GET", "/", "", MR_H1_REFUSE_HOST),
    REFUSED_LINE("GET", "/", "a\r\nX: y", MR_H1_REFUSE_HOST),
    REFUSED_LINE("GET", "/", "a b", MR_H1_REFUSE_HOST),
    REFUSED_LINE("GET", "/", "a/b", MR_H1_REFUSE_HOST),
    REFUSED_LINE("GET", "/", "user@a", MR_H1_REFUSE_HOST),
    {.q = {GET, .user_agent = SPAN("a\nb")}, .refusal = MR_H1_REFUSE_USER_AGENT},
    REFUSED_SECOND("", "v", MR_H1_REFUSE_NAME),
    REFUSED_SECOND("N:", "v", MR_H1_REFUSE_NAME),
    REFUSED_SECOND("N ", "v", MR_H1_REFUSE_NAME),
    REFUSED_SECOND("N\r\nX", "v", MR_H1_REFUSE_NAME),
    REFUSED_SECOND("N\0", "v", MR_H1_REFUSE_NAME),
    REFUSED_SECOND("N\xe9", "v", MR_H1_REFUSE_NAME),
    REFUSED_SECOND("N", "v\r\nX: y", MR_H1_REFUSE_VALUE),
    REFUSED_SECOND("N", "v\r", MR_H1_REFUSE_VALUE),
    REFUSED_SECOND("N", "\n", MR_H1_REFUSE_VALUE),
    REFUSED_SECOND("N", "a value longer than sixteen bytes\0", MR_H1_REFUSE_VALUE),
    REFUSED_SECOND("N", "\x7f", MR_H1_REFUSE_VALUE),
    REFUSED_SECOND("Host", "a b", MR_H1_REFUSE_HOST),
    REFUSED_SECOND("Host", "", MR_H1_REFUSE_HOST),
    REFUSED_SECOND("Content-Length", "5", MR_H1_REFUSE_LENGTH_CONFLICT),
    REFUSED_SECOND("Content-Length", "x", MR_H1_REFUSE_LENGTH),
    REFUSED_SECOND("Content-Length", "0, 0", MR_H1_REFUSE_LENGTH),
    REFUSED_SECOND("Transfer-Encoding", "chunked", MR_H1_REFUSE_CODING),
    {.q = {POST, .framing = MR_H1_SEND_CHUNKED},
     .headers = {H("Content-Length", "0")},
     .header_count = 1,
     .refusal = MR_H1_REFUSE_LENGTH_CONFLICT},
    {.q = {POST, .framing = MR_H1_SEND_CHUNKED},
     .headers = {H("Transfer-Encoding", "gzip, chunked")},
     .header_count = 1,
     .refusal = MR_H1_REFUSE_CODING},
    {.q = {POST, .framing = MR_H1_SEND_CHUNKED},
     .headers = {H("Transfer-Encoding", "chunked"), H("transfer-encoding", "chunked")},
     .header_count = 2,
     .refusal = MR_H1_REFUSE_CODING,
     .bad_header = 1},
    {.q = {POST, .framing = MR_H1_SEND_LENGTH, .content_length = 5},
     .headers = {H("Content-Length", "5"), H("Content-Length", "5")},
     .header_count = 2,
     .refusal = MR_H1_REFUSE_LENGTH_CONFLICT,
     .bad_header = 1},
    {.q = {GET},
     .headers = {H("Host", "a"), H("host", "a")},
     .header_count = 2,
     .refusal = MR_H1_REFUSE_HOST_TWICE,
     .bad_header = 1},
    {.q = {.method = SPAN("GET"), .target = SPAN("/"), .host = SPAN("a"), .user_agent = {"", 0}},
     .headers = {H("X", "\x1b")},
     .header_count = 1,
     .refusal = MR_H1_REFUSE_VALUE},
};

static void test_requests_are_written_exactly(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
        struct mr_h1_request q = written[i].q;
        struct mr_h1_plan plan;
        q.headers = written[i].headers;
        q.header_count = written[i].header_count;
        assert_int_equal(mr_h1_request_plan(&q, &plan), MOOR_OK);
        char *const text = calloc(1, plan.size + 1);
        uint8_t *const exact = malloc(plan.size); /* a sanitizer sees one byte too many */
        mr_h1_request_write(&q, &plan, exact);
        memcpy(text, exact, plan.size);
        assert_string_equal(text, written[i].bytes);
        assert_int_equal(plan.size, strlen(written[i].bytes));
        assert_int_equal(plan.close, written[i].close);
        assert_int_equal(plan.upgrade, written[i].upgrade);
        assert_int_equal(plan.expect_continue, written[i].expect_continue);
        free(exact);
        free(text);
    }
}

static void test_injection_is_refused_and_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct mr_h1_request q = refused[i].q;
        struct mr_h1_plan plan;
        q.headers = refused[i].headers;
        q.header_count = refused[i].header_count;
        assert_int_equal(mr_h1_request_plan(&q, &plan), MOOR_EINVAL);
        assert_string_equal(plan.what, mr_h1_refusal_text(refused[i].refusal));
        assert_int_equal(plan.refusal, refused[i].refusal);
        if (refused[i].header_count)
            assert_int_equal(plan.bad_header, refused[i].bad_header);
    }
}

static void test_every_control_character_is_refused_in_a_value(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        const char value[] = {'a', (char)c, 'b'};
        const moor_header h = {SPAN("N"), {value, sizeof value}};
        const struct mr_h1_request q = {GET, .headers = &h, .header_count = 1};
        struct mr_h1_plan plan;
        const bool control = (c < 0x20 && c != '\t') || c == 0x7f;
        assert_int_equal(mr_h1_request_plan(&q, &plan), control ? MOOR_EINVAL : MOOR_OK);
    }
}

static void test_every_refusal_has_a_text(void **state)
{
    (void)state;
    for (int r = 1; r <= MR_H1_REFUSAL_COUNT; r++)
        assert_true(strlen(mr_h1_refusal_text((enum mr_h1_refusal)r)) > 10);
}

static void test_chunk_heads(void **state)
{
    (void)state;
    static const struct {
        uint64_t size;
        const char *text;
    } table[] = {
        {0, ""},
        {1, "1\r\n"},
        {15, "f\r\n"},
        {16, "10\r\n"},
        {0xabc, "abc\r\n"},
        {UINT64_C(0x7fffffffffffffff), "7fffffffffffffff\r\n"},
        {UINT64_MAX, "ffffffffffffffff\r\n"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char out[21] = {0};
        assert_int_equal(mr_h1_chunk_head(out, table[i].size), strlen(table[i].text));
        assert_string_equal(out, table[i].text);
    }
}

/* What the writer writes the reader reads. */
static void test_chunks_come_back(void **state)
{
    (void)state;
    for (size_t size = 1; size < 70000; size = size * 3 + 1) {
        char *const wire = malloc(size + 64);
        size_t len = mr_h1_chunk_head(wire, size);
        memset(wire + len, 'x', size);
        const size_t data_at = len;
        len += size;
        memcpy(wire + len, MR_H1_CHUNK_END MR_H1_CHUNKS_END, 7);
        len += 7;
        struct mr_h1_chunked c;
        moor_span body;
        size_t used, more;
        mr_h1_chunked_init(&c);
        assert_int_equal(
            mr_h1_chunked_next(&c, 0, UINT64_MAX, (moor_span){wire, len}, &used, &body),
            MR_H1_CHUNK_DATA);
        assert_ptr_equal(body.base, wire + data_at);
        assert_int_equal(body.len, size);
        assert_int_equal(mr_h1_chunked_next(&c, 0, UINT64_MAX, (moor_span){wire + used, len - used},
                                            &more, &body),
                         MR_H1_CHUNK_LAST);
        assert_int_equal(used + more, len - 2);
        free(wire);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_are_written_exactly),
        cmocka_unit_test(test_injection_is_refused_and_named),
        cmocka_unit_test(test_every_control_character_is_refused_in_a_value),
        cmocka_unit_test(test_every_refusal_has_a_text),
        cmocka_unit_test(test_chunk_heads),
        cmocka_unit_test(test_chunks_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
