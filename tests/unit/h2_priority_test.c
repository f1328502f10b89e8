/*
 * The priority value: every combination, defaults left out.
 */
#include "h2/priority.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_known_values(void **state)
{
    (void)state;
    char out[MR_H2_PRIORITY_CAP];
    assert_int_equal(mr_h2_priority_write(out, MR_H2_URGENCY_DEFAULT, false), 0);
    assert_string_equal(out, "");
    assert_int_equal(mr_h2_priority_write(out, MR_H2_URGENCY_DEFAULT, true), 1);
    assert_string_equal(out, "i");
    assert_int_equal(mr_h2_priority_write(out, 0, false), 3);
    assert_string_equal(out, "u=0");
    assert_int_equal(mr_h2_priority_write(out, 1, true), 6);
    assert_string_equal(out, "u=1, i");
}

static void test_all_fit_and_say_their_urgency(void **state)
{
    (void)state;
    for (uint8_t u = 0; u < MR_H2_URGENCIES; u++) {
        if (u == MR_H2_URGENCY_DEFAULT)
            continue;
        for (int i = 0; i < 2; i++) {
            char out[MR_H2_PRIORITY_CAP + 1];
            char wanted[16];
            memset(out, '#', sizeof out);
            snprintf(wanted, sizeof wanted, "u=%d%s", u, i ? ", i" : "");
            assert_int_equal(mr_h2_priority_write(out, u, i), strlen(wanted));
            assert_string_equal(out, wanted);
            assert_int_equal(out[MR_H2_PRIORITY_CAP], '#');
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_all_fit_and_say_their_urgency),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
