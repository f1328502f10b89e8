/* The error list: every number unique, every name and sentence reachable. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <mooring/error.h>

static const int numbers[] = {
#define X(name, value, text) value,
    MOOR_ERRORS(X)
#undef X
};

static void test_numbers_are_unique(void **state)
{
    (void)state;
    const size_t count = sizeof numbers / sizeof *numbers;
    for (size_t i = 0; i < count; i++)
        for (size_t j = i + 1; j < count; j++)
            assert_int_not_equal(numbers[i], numbers[j]);
}

static void test_every_error_has_a_name_and_a_sentence(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        assert_memory_equal(moor_err_name((moor_err)numbers[i]), "MOOR_", 5);
        assert_true(strlen(moor_err_text((moor_err)numbers[i])) > 5);
    }
    assert_string_equal(moor_err_name(MOOR_ETIMEDOUT), "MOOR_ETIMEDOUT");
    assert_string_equal(moor_err_name((moor_err)9999), "MOOR_UNKNOWN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_are_unique),
        cmocka_unit_test(test_every_error_has_a_name_and_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
