/* DER: headers, what is refused of them, and the values that are read. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/der_text.h"
#include "tls/der.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static unsigned char *assemble(const char *text, moor_span *out)
{
    struct der_text d = {.len = 0};
    der_text_add(&d, text);
    assert_int_equal(d.depth, 0);
    unsigned char *copy = der_text_copy(d.bytes, d.len);
    *out = (moor_span){copy, d.len};
    return copy;
}

static void test_elements(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int body_len; /* -1 = refused */
    } cases[] = {
        {"", -1},
        {"04", -1},
        {"0400", 0},
        {"0401 61", 1},
        {"0401", -1},
        {"0402 61", -1},
        {"0480", -1},
        {"0480 61 0000", -1},
        {"04ff 61", -1},
        {"0481", -1},
        {"0481 00", -1},
        {"0481 01 61", -1},
        {"0481 7f", -1},
        {"0482 0001 61", -1},
        {"0482 0080", -1},
        {"0482", -1},
        {"0482 01", -1},
        {"0483 ffffff", -1},
        {"0484 00000001 61", -1},
        {"0484 ffffffff", -1},
        {"0488 ffffffffffffffff", -1},
        {"1f01 61", -1},
        {"3f01 61", -1},
        {"df01 61", -1},
        {"bf8101 00", -1},
        {"0001 61", 1},
        {"a101 61", 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        moor_span all;
        unsigned char *bytes = assemble(cases[i].text, &all);
        moor_span rest = all;
        struct mr_der element = {.tag = 4711};
        const bool taken = mr_der_next(&rest, &element);
        if (taken != (cases[i].body_len >= 0))
            fail_msg("\"%s\"", cases[i].text);
        assert_ptr_equal(rest.base, taken ? bytes + all.len : bytes);
        if (taken) {
            assert_int_equal(element.tag, bytes[0]);
            assert_int_equal(element.body.len, cases[i].body_len);
            assert_int_equal(element.whole.len, all.len);
            assert_ptr_equal(element.whole.base, bytes);
        } else {
            assert_int_equal(element.tag, 4711);
            assert_int_equal(rest.len, all.len);
        }
        free(bytes);
    }
    moor_span nothing = {NULL, 0};
    struct mr_der element;
    assert_false(mr_der_next(&nothing, &element));
    assert_false(mr_der_is_next(nothing, MR_DER_NULL));
}

/* Each form of a length, at both ends of what it may say. */
static void test_lengths(void **state)
{
    (void)state;
    static const struct {
        size_t len, header;
    } cases[] = {{0, 2},     {0x7f, 2},   {0x80, 3},    {0xff, 3},
                 {0x100, 4}, {0xffff, 4}, {0x10000, 5}, {0xffffff, 5}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        const size_t total = cases[i].header + cases[i].len;
        unsigned char *bytes = calloc(1, total + 2);
        assert_non_null(bytes);
        bytes[0] = MR_DER_OCTET_STRING;
        if (cases[i].header == 2) {
            bytes[1] = (unsigned char)cases[i].len;
        } else {
            bytes[1] = (unsigned char)(0x80 + cases[i].header - 2);
            for (size_t b = 0; b < cases[i].header - 2; b++)
                bytes[cases[i].header - 1 - b] = (unsigned char)(cases[i].len >> (8 * b));
        }
        bytes[total] = MR_DER_NULL;
        moor_span rest = {bytes, total + 2};
        struct mr_der first;
        struct mr_der second;
        assert_true(mr_der_take(&rest, MR_DER_OCTET_STRING, &first));
        assert_int_equal(first.body.len, cases[i].len);
        assert_int_equal(first.whole.len, total);
        assert_false(mr_der_take(&rest, MR_DER_OCTET_STRING, &second));
        assert_true(mr_der_take(&rest, MR_DER_NULL, &second));
        assert_int_equal(rest.len, 0);
        rest = (moor_span){bytes, total - 1};
        assert_false(mr_der_next(&rest, &first));
        free(bytes);
    }
}

/* As many bytes follow as the form without a length could be taken to ask for. */
static void test_indefinite(void **state)
{
    (void)state;
    static const unsigned char forms[] = {0x80, 0xff};
    for (size_t i = 0; i < COUNT(forms); i++) {
        unsigned char bytes[2 + 0xff] = {MR_DER_SEQUENCE, forms[i]};
        moor_span rest = {bytes, sizeof bytes};
        struct mr_der element;
        assert_false(mr_der_next(&rest, &element));
        bytes[0] = MR_DER_OCTET_STRING;
        assert_false(mr_der_next(&rest, &element));
    }
}

static void test_integers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t value; /* -1 = not one of 0 to 2^31 - 1 */
        uint32_t bits;
        bool is_integer;
    } cases[] = {
        {"", -1, 0, false},
        {"00", 0, 0, true},
        {"01", 1, 1, true},
        {"7f", 127, 7, true},
        {"80", -1, 0, true},
        {"ff", -1, 0, true},
        {"0080", 128, 8, true},
        {"007f", -1, 0, false},
        {"0000", -1, 0, false},
        {"ff7f", -1, 0, true},
        {"ff80", -1, 0, false},
        {"0100", 256, 9, true},
        {"7fffffff", INT32_MAX, 31, true},
        {"0080000000", -1, 32, true},
        {"00ffffffffffffffff", -1, 64, true},
        {"010000000000000000", -1, 65, true},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        moor_span body;
        int32_t value = -1;
        unsigned char *bytes = assemble(cases[i].text, &body);
        if (mr_der_is_integer(body) != cases[i].is_integer ||
            mr_der_to_int(body, &value) != (cases[i].value >= 0) || value != cases[i].value ||
            mr_der_integer_bits(body) != cases[i].bits)
            fail_msg("\"%s\": %d, %u bits", cases[i].text, value, mr_der_integer_bits(body));
        free(bytes);
    }
}

static void test_small_values(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int as_bool; /* -1 = refused */
        bool is_oid;
        int octets; /* -1 = refused */
    } cases[] = {
        {"", -1, false, -1},      {"00", 0, true, 0},        {"ff", 1, false, -1},
        {"01", -1, true, -1},     {"0000", -1, true, 1},     {"ffff", -1, false, -1},
        {"551d11", -1, true, -1}, {"2a8648", -1, true, -1},  {"2a86", -1, false, -1},
        {"8001", -1, false, -1},  {"2a8001", -1, false, -1}, {"0461", -1, true, -1},
        {"0880", -1, false, -1},  {"008180", -1, false, 2},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        moor_span body;
        moor_span octets;
        bool flag = false;
        unsigned char *bytes = assemble(cases[i].text, &body);
        const int as_bool = mr_der_to_bool(body, &flag) ? flag : -1;
        const int as_octets = mr_der_to_octets(body, &octets) ? (int)octets.len : -1;
        if (as_bool != cases[i].as_bool || mr_der_is_oid(body) != cases[i].is_oid ||
            as_octets != cases[i].octets)
            fail_msg("\"%s\"", cases[i].text);
        free(bytes);
    }
}

#define U       MR_DER_UTC_TIME
#define G       MR_DER_GENERALIZED_TIME
#define REFUSED INT64_MIN

static void test_times(void **state)
{
    (void)state;
    static const struct {
        unsigned tag;
        const char *text;
        int64_t seconds;
    } cases[] = {
        {U, "700101000000Z", 0},
        {U, "691231235959Z", -1},
        {U, "240229120000Z", 1709208000},
        {U, "500101000000Z", -631152000},
        {U, "491231235959Z", 2524607999},
        {G, "20500101000000Z", 2524608000},
        {G, "19700101000000Z", 0},
        {G, "20000229000000Z", 951782400},
        {G, "21000301000000Z", 4107542400},
        {G, "99991231235959Z", 253402300799},
        {G, "00000101000000Z", -62167219200},
        {G, "00000301000000Z", -62162035200},
        {G, "16010101000000Z", -11644473600},
        {G, "21000229000000Z", REFUSED},
        {U, "230229000000Z", REFUSED},
        {U, "240001000000Z", REFUSED},
        {U, "241301000000Z", REFUSED},
        {U, "240100000000Z", REFUSED},
        {U, "240132000000Z", REFUSED},
        {U, "240431000000Z", REFUSED},
        {U, "240101240000Z", REFUSED},
        {U, "240101006000Z", REFUSED},
        {U, "240101000060Z", REFUSED},
        {U, "2401010000Z", REFUSED},
        {U, "240101000000z", REFUSED},
        {U, "240101000000", REFUSED},
        {U, "240101000000+", REFUSED},
        {U, "240101000000+0000", REFUSED},
        {U, "2401010000-1Z", REFUSED},
        {U, "24010100 000Z", REFUSED},
        {U, "20240101000000Z", REFUSED},
        {U, "", REFUSED},
        {U, "Z", REFUSED},
        {G, "240101000000Z", REFUSED},
        {G, "20240101000000.5Z", REFUSED},
        {G, "20240101000000", REFUSED},
        {G, "202401010000Z", REFUSED},
        {MR_DER_OCTET_STRING, "20240101000000Z", REFUSED},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const size_t len = strlen(cases[i].text);
        unsigned char *bytes = der_text_copy(cases[i].text, len);
        int64_t seconds = REFUSED;
        const bool good = mr_der_to_time(cases[i].tag, (moor_span){bytes, len}, &seconds);
        if (seconds != cases[i].seconds || good != (seconds != REFUSED))
            fail_msg("\"%s\": %lld", cases[i].text, (long long)seconds);
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements),     cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_indefinite),   cmocka_unit_test(test_integers),
        cmocka_unit_test(test_small_values), cmocka_unit_test(test_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
