/* When responses are let gather, and for how long. */
#include "h2/gather.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { US = 1000, MAX = 50 * US, OPEN = 100 };

static struct mr_h2_gather g;
static int64_t now;

/* n receives, one every `gap`, each of so many responses; what the last one said. */
static int64_t receive(int n, int64_t gap, uint32_t ended, uint32_t open)
{
    int64_t wait = 0;
    for (int i = 0; i < n; i++)
        wait = mr_h2_gather(&g, ended, open, MAX, now += gap);
    return wait;
}

static int setup(void **state)
{
    (void)state;
    g = (struct mr_h2_gather){0};
    now = 5000000000;
    return 0;
}

static void test_one_by_one(void **state)
{
    (void)state;
    assert_int_equal(receive(1, 10 * US, 1, OPEN), 0);
    assert_in_range(receive(300, 10 * US, 1, OPEN), 49 * US, MAX);
    assert_in_range(receive(600, 5 * US, 1, OPEN), 6 * 5 * US - US, 6 * 5 * US + US);
    assert_in_range(receive(600, 5 * US, 1, 32), 2 * 5 * US - US, 2 * 5 * US + US);
}

static void test_too_few_are_open(void **state)
{
    (void)state;
    assert_int_equal(receive(300, 10 * US, 1, 31), 0);
    assert_int_equal(receive(300, 10 * US, 1, 1), 0);
}

/* Then a sleep would bring one response, as a wake does. */
static void test_too_slow(void **state)
{
    (void)state;
    assert_int_equal(receive(300, 34 * US, 1, OPEN), 0);
    assert_in_range(receive(300, 20 * US, 1, OPEN), 2 * 20 * US, MAX);
    assert_int_equal(receive(3, 700 * US, 1, OPEN), 0);
}

static void test_many_at_once(void **state)
{
    (void)state;
    assert_int_equal(receive(300, 60 * US, 6, OPEN), 0);
    assert_true(receive(300, 60 * US, 5, OPEN) > 0);
}

/* Buffers of one turn count as one receive. */
static void test_several_buffers_of_a_turn(void **state)
{
    (void)state;
    receive(300, 30 * US, 3, OPEN);
    assert_true(receive(1, 30 * US, 3, OPEN) > 0);
    assert_int_equal(receive(1, 0, 3, OPEN), 0);
    assert_true(receive(1, 30 * US, 3, OPEN) > 0);
}

static void test_large_responses(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++)
        assert_int_equal(receive(1, 10 * US, i % 100 == 0, OPEN), 0);
}

/* What was fast is judged anew before it is waited for. */
static void test_after_a_pause(void **state)
{
    (void)state;
    assert_true(receive(300, 10 * US, 1, OPEN) > 0);
    assert_int_equal(receive(2, 4000 * US, 1, OPEN), 0);
}

static void test_never(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++)
        assert_int_equal(mr_h2_gather(&g, 1, OPEN, 0, now += 10 * US), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_one_by_one, setup),
        cmocka_unit_test_setup(test_too_few_are_open, setup),
        cmocka_unit_test_setup(test_too_slow, setup),
        cmocka_unit_test_setup(test_many_at_once, setup),
        cmocka_unit_test_setup(test_several_buffers_of_a_turn, setup),
        cmocka_unit_test_setup(test_large_responses, setup),
        cmocka_unit_test_setup(test_after_a_pause, setup),
        cmocka_unit_test_setup(test_never, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
