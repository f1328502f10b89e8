/* Spans and the hash map: equality, numbers, chains. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/hash.h"
#include "base/list.h"
#include "base/span.h"

static void test_equality(void **state)
{
    (void)state;
    assert_true(mr_span_is_equal(mr_span_cstr(NULL), MR_SPAN("")));
    assert_true(mr_span_is_equal(mr_span_cstr("abc"), MR_SPAN("abc")));
    assert_false(mr_span_is_equal(MR_SPAN("abc"), MR_SPAN("abcd")));
    assert_false(mr_span_is_equal(MR_SPAN("abc"), MR_SPAN("abC")));
    assert_true(mr_span_is_equal_nocase(MR_SPAN("Content-LENGTH"), MR_SPAN("content-length")));
    /* Only letters fold: '@' and '`' differ by the same bit. */
    assert_false(mr_span_is_equal_nocase(MR_SPAN("@"), MR_SPAN("`")));
    assert_false(mr_span_is_equal_nocase(MR_SPAN("\xc3\x84"), MR_SPAN("\xc3\xa4")));
    assert_int_equal(mr_span_skip(MR_SPAN("abc"), 2).len, 1);
    assert_int_equal(mr_span_skip(MR_SPAN("abc"), 9).len, 0);
}

static void test_numbers(void **state)
{
    (void)state;
    uint64_t value = 7;
    assert_true(mr_span_to_u64(MR_SPAN("0"), &value));
    assert_int_equal(value, 0);
    assert_true(mr_span_to_u64(MR_SPAN("18446744073709551615"), &value));
    assert_true(value == UINT64_MAX);
    static const char *const bad[] = {
        "",    "-1", "+1", " 1", "1 ", "0x1", "18446744073709551616", "99999999999999999999999",
        "1.0", "one"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        value = 7;
        assert_false(mr_span_to_u64(mr_span_cstr(bad[i]), &value));
        assert_int_equal(value, 7);
    }
}

static void test_hash_spreads_and_is_seeded(void **state)
{
    (void)state;
    unsigned buckets[64] = {0};
    for (unsigned i = 0; i < 64 * 64; i++) {
        const char key[4] = {'k', (char)('0' + i % 64), (char)('0' + i / 64), 0};
        buckets[mr_hash_bytes(key, 3, 42) & 63]++;
    }
    for (unsigned i = 0; i < 64; i++)
        assert_in_range(buckets[i], 24, 120);
    assert_true(mr_hash_bytes("abc", 3, 1) != mr_hash_bytes("abc", 3, 2));
    assert_true(mr_hash_bytes("a", 1, 1) != mr_hash_bytes("a\0", 2, 1));
    assert_true(mr_hash_bytes("", 0, 1) == mr_hash_bytes(NULL, 0, 1));
    assert_true(mr_hash_u64(1, 9) != mr_hash_u64(2, 9));
}

struct thing {
    int id;
    struct mr_map_node node;
};

static void test_map_keeps_equal_hashes_apart(void **state)
{
    (void)state;
    struct mr_map_node *buckets[4];
    struct mr_map map;
    struct thing things[32];
    mr_map_init(&map, buckets, 4);
    for (int i = 0; i < 32; i++) {
        things[i].id = i;
        mr_map_insert(&map, &things[i].node, (uint64_t)(i / 2));
    }
    assert_int_equal(map.count, 32);
    struct mr_map_node *n = mr_map_first(&map, 5);
    assert_int_equal(MR_CONTAINER_OF(n, struct thing, node)->id, 11);
    n = mr_map_next(n);
    assert_int_equal(MR_CONTAINER_OF(n, struct thing, node)->id, 10);
    assert_null(mr_map_next(n));
    assert_true(mr_map_remove(&map, n));
    assert_false(mr_map_remove(&map, n));
    assert_null(mr_map_next(mr_map_first(&map, 5)));
    assert_null(mr_map_first(&map, 99));
    assert_int_equal(map.count, 31);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equality),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_hash_spreads_and_is_seeded),
        cmocka_unit_test(test_map_keeps_equal_hashes_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
