/* h2/message.h: RFC 9113 8, rule by rule, and byte by byte in names and values. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/scan.h"
#include "base/span.h"
#include "h2/message.h"

/* With the padding that is read, of bytes that no name may have. */
static const char *field_of(struct mr_h2_message *m, const char *name, size_t name_len,
                            const char *value, size_t value_len)
{
    char *n = malloc(name_len + MR_SCAN_PAD), *v = malloc(value_len + MR_SCAN_PAD);
    memset(n, '\n', name_len + MR_SCAN_PAD);
    memset(v, '\n', value_len + MR_SCAN_PAD);
    memcpy(n, name, name_len);
    memcpy(v, value, value_len);
    const char *what = mr_h2_message_field(m, (moor_span){n, name_len}, (moor_span){v, value_len});
    free(n);
    free(v);
    return what;
}

static const char *field(struct mr_h2_message *m, const char *name, const char *value)
{
    return field_of(m, name, strlen(name), value, strlen(value));
}

static const char *status(struct mr_h2_message *m, const char *text)
{
    return mr_h2_message_pseudo(m, mr_span_cstr(":status"), mr_span_cstr(text));
}

static struct mr_h2_message begun(const char *status_text)
{
    struct mr_h2_message m = {0};
    mr_h2_message_begin(&m);
    assert_null(status(&m, status_text));
    return m;
}

static struct mr_h2_message with_length(const char *status_text, const char *length)
{
    struct mr_h2_message m = begun(status_text);
    assert_null(field(&m, "content-length", length));
    return m;
}

static void test_a_response_with_all_its_parts(void **state)
{
    (void)state;
    struct mr_h2_message m = begun("103");
    assert_null(field(&m, "link", "</style.css>"));
    assert_null(field(&m, "content-length", "7")); /* says nothing of the final one */
    assert_null(mr_h2_message_section(&m, false));
    assert_false(m.is_final);
    mr_h2_message_begin(&m);
    assert_null(status(&m, "200"));
    assert_null(field(&m, "content-length", "5"));
    assert_null(field(&m, "content-length", "5")); /* RFC 9110 8.6 */
    assert_null(field(&m, "x-empty", ""));
    assert_null(mr_h2_message_section(&m, false));
    assert_true(m.is_final);
    assert_int_equal(m.status, 200);
    assert_null(mr_h2_message_data(&m, 2));
    assert_null(mr_h2_message_data(&m, 0));
    assert_null(mr_h2_message_data(&m, 3));
    mr_h2_message_begin(&m);
    assert_null(field(&m, "content-length", "9")); /* a trailer of that name frames nothing */
    assert_null(mr_h2_message_section(&m, true));
    assert_null(mr_h2_message_end(&m));
}

static void test_status(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",    "2",   "20",  "2000",  "20x",
                                        "-20", " 20", "+99", "2\0000"};
    struct mr_h2_message m = {0};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mr_h2_message_begin(&m);
        assert_non_null(status(&m, wrong[i]));
    }
    mr_h2_message_begin(&m);
    assert_non_null(mr_h2_message_section(&m, false)); /* none */
    m = begun("200");
    assert_non_null(status(&m, "200"));
    mr_h2_message_begin(&m);
    assert_null(field(&m, "a", "b"));
    assert_non_null(status(&m, "200")); /* behind others */
    static const char *const names[] = {":", ":path", ":method", ":statu", ":status2", ":Status"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        mr_h2_message_begin(&m);
        assert_non_null(mr_h2_message_pseudo(&m, mr_span_cstr(names[i]), mr_span_cstr("200")));
    }
    static const char *const out[] = {"000", "050", "099", "101"};
    for (size_t i = 0; i < sizeof out / sizeof *out; i++) {
        m = begun(out[i]);
        assert_non_null(mr_h2_message_section(&m, false));
    }
    m = begun("100");
    assert_non_null(mr_h2_message_section(&m, true)); /* ends the stream */
    m = begun("999");
    assert_null(mr_h2_message_section(&m, true));
}

static bool may_be_in_name(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool may_be_in_value(int c)
{
    return c == '\t' || (c >= ' ' && c != 0x7f);
}

/* At every place of texts of every length up to two vectors and more. */
static void test_every_byte_of_names_and_values(void **state)
{
    (void)state;
    for (size_t len = 1; len <= 35; len++) {
        char text[35];
        for (size_t at = 0; at < len; at++) {
            for (int c = 0; c < 256; c++) {
                struct mr_h2_message m = begun("200");
                memset(text, 'q', sizeof text);
                text[at] = (char)c;
                assert_int_equal(!field_of(&m, text, len, "v", 1), may_be_in_name(c));
                assert_int_equal(!field_of(&m, "n", 1, text, len), may_be_in_value(c));
            }
        }
    }
    struct mr_h2_message m = begun("200");
    assert_non_null(field(&m, "", "v"));
}

static void test_fields_of_connections(void **state)
{
    (void)state;
    static const char *const names[] = {"connection", "keep-alive", "proxy-connection",
                                        "transfer-encoding", "upgrade"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct mr_h2_message m = begun("200");
        assert_non_null(field(&m, names[i], "x"));
        char other[32];
        snprintf(other, sizeof other, "%s", names[i]);
        other[0] = 'x';
        assert_null(field(&m, other, "x"));
    }
}

static void test_lengths(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "x",
                                        "1x",
                                        "-1",
                                        "+1",
                                        "1 2",
                                        "1,1",
                                        "0x10",
                                        "9223372036854775808",
                                        "18446744073709551616",
                                        "99999999999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct mr_h2_message m = begun("200");
        assert_non_null(field(&m, "content-length", wrong[i]));
    }
    struct mr_h2_message m = with_length("200", "9223372036854775807");
    assert_non_null(field(&m, "content-length", "3"));
    m = with_length("200", "3");
    assert_null(mr_h2_message_section(&m, false));
    assert_null(mr_h2_message_data(&m, 2));
    assert_non_null(mr_h2_message_end(&m));
    assert_null(mr_h2_message_data(&m, 1));
    assert_null(mr_h2_message_end(&m));
    assert_non_null(mr_h2_message_data(&m, 1));
}

static void test_responses_without_a_body(void **state)
{
    (void)state;
    static const char *const codes[] = {"204", "304", "200"};
    for (size_t i = 0; i < 3; i++) {
        struct mr_h2_message m = with_length(codes[i], "10");
        m.is_for_head = i == 2;
        assert_null(mr_h2_message_section(&m, true));
        assert_null(mr_h2_message_end(&m));
        assert_non_null(mr_h2_message_data(&m, 1));
        struct mr_h2_message bare = begun(codes[i]);
        bare.is_for_head = i == 2;
        assert_null(mr_h2_message_section(&bare, false));
        assert_non_null(mr_h2_message_data(&bare, 1));
    }
}

static void test_what_comes_too_early_or_late(void **state)
{
    (void)state;
    struct mr_h2_message m = {0};
    assert_non_null(mr_h2_message_data(&m, 1));
    assert_non_null(mr_h2_message_end(&m));
    m = begun("100");
    assert_null(mr_h2_message_section(&m, false));
    assert_non_null(mr_h2_message_end(&m));
    m = begun("200");
    assert_null(mr_h2_message_section(&m, false));
    mr_h2_message_begin(&m);
    assert_non_null(status(&m, "200")); /* in trailers */
    mr_h2_message_begin(&m);
    assert_null(field(&m, "a", "b"));
    assert_non_null(mr_h2_message_section(&m, false)); /* which do not end the stream */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_response_with_all_its_parts),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_every_byte_of_names_and_values),
        cmocka_unit_test(test_fields_of_connections),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_responses_without_a_body),
        cmocka_unit_test(test_what_comes_too_early_or_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
