/* The byte classes, and the vector scans against one byte at a time. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/scan.h"

static bool in(const char *set, int c)
{
    return c != 0 && strchr(set, c);
}

static bool is_alnum(int c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static void test_classes_follow_the_grammar(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        const uint8_t b = (uint8_t)c;
        assert_int_equal(mr_byte_is(b, MR_BYTE_TOKEN), is_alnum(c) || in("!#$%&'*+-.^_`|~", c));
        assert_int_equal(mr_byte_is(b, MR_BYTE_VALUE), c == '\t' || (c >= ' ' && c != 0x7f));
        assert_int_equal(mr_byte_is(b, MR_BYTE_TARGET), c > ' ' && c < 0x7f && c != '#');
        assert_int_equal(mr_byte_is(b, MR_BYTE_AUTHORITY), is_alnum(c) || in("-._~!$&'()*+,;=:[]%", c));
    }
}

/* Every byte at every place of blocks of every length up to two vectors and a bit. */
static void test_scans_stop_where_bytes_do(void **state)
{
    (void)state;
    for (size_t len = 1; len <= 37; len++) {
        uint8_t *const block = malloc(len);
        const uint8_t *const end = block + len;
        for (int c = 0; c < 256; c++) {
            for (size_t place = 0; place < len; place++) {
                memset(block, place % 2 ? '-' : 'z', len);
                block[place] = (uint8_t)c;
                for (size_t from = 0; from < len; from += 5) {
                    assert_ptr_equal(mr_scan_name(block + from, end),
                                     mr_scan_class(block + from, end, MR_BYTE_TOKEN));
                    assert_ptr_equal(mr_scan_value(block + from, end),
                                     mr_scan_class(block + from, end, MR_BYTE_VALUE));
                }
            }
        }
        assert_ptr_equal(mr_scan_value(end, end), end);
        free(block);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes_follow_the_grammar),
        cmocka_unit_test(test_scans_stop_where_bytes_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
