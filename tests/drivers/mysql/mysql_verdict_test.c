/*
 * What errors mean, code by code, as docs/mysql.md has it. The hook is called as a holder's report would, with
 * a link of the test's own: there is neither a server nor a pool.
 */
#include "drivers/mysql/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct moor_link {
    void *state;
};

void *moor_link_state(const moor_link *l)
{
    return l->state;
}

static moor_verdict judge(const char *sqlstate, int code)
{
    struct mr_mysql_link s = {.my = mysql_init(NULL)};
    moor_link l = {.state = &s};
    assert_non_null(s.my);
    const moor_verdict verdict = moor_mysql_driver()->judge(&l, sqlstate, code);
    mysql_close(s.my);
    return verdict;
}

static void test_codes(void **unused)
{
    static const int flush[] = {1290, 1836, 1053, 1077, 1079, 3032};
    static const int discard[] = {1080, 1152, 1153, 1154, 1155, 1156, 1157, 1158,
                                  1159, 1160, 1161, 1184, 1927, 3169, 4031, 2006,
                                  2013, 2014, 2020, 2026, 2027, 2055, 5013, 5014};
    /* Duplicate key, deadlock, lock wait, interrupted, syntax, a read-only transaction of one's own. */
    static const int keep[] = {0, 1062, 1213, 1205, 1317, 1064, 1792, -1};
    (void)unused;
    for (size_t i = 0; i < sizeof flush / sizeof *flush; i++)
        assert_int_equal(judge("HY000", flush[i]), MOOR_VERDICT_FLUSH);
    for (size_t i = 0; i < sizeof discard / sizeof *discard; i++)
        assert_int_equal(judge("HY000", discard[i]), MOOR_VERDICT_DISCARD);
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++)
        assert_int_equal(judge("HY000", keep[i]), MOOR_VERDICT_KEEP);
}

static void test_sqlstates(void **unused)
{
    (void)unused;
    assert_int_equal(judge("08S01", 0), MOOR_VERDICT_DISCARD);
    assert_int_equal(judge("23000", 0), MOOR_VERDICT_KEEP);
    assert_int_equal(judge(NULL, 0), MOOR_VERDICT_KEEP);
    assert_int_equal(judge("08S01", 1213), MOOR_VERDICT_KEEP); /* the code says more */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_codes),
                                       cmocka_unit_test(test_sqlstates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
