/* Sleeping on a word: wakes, deadlines, changed words; and the lock around a counter. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/futex.h"
#include "base/lock.h"

static _Atomic uint32_t word;
static struct mr_lock lock = MR_LOCK_INIT;
static int counter;

static void *store_and_wake(void *unused)
{
    atomic_store(&word, 1);
    mr_futex_wake(&word, 1);
    return unused;
}

static void test_wake_ends_the_sleep(void **state)
{
    (void)state;
    pthread_t waker;
    atomic_store(&word, 0);
    assert_int_equal(pthread_create(&waker, NULL, store_and_wake, NULL), 0);
    while (atomic_load(&word) == 0)
        assert_int_equal(mr_futex_wait(&word, 0, MR_NEVER), MOOR_OK);
    pthread_join(waker, NULL);
}

static void test_changed_word_does_not_sleep(void **state)
{
    (void)state;
    atomic_store(&word, 5);
    assert_int_equal(mr_futex_wait(&word, 4, MR_NEVER), MOOR_OK);
    assert_int_equal(mr_futex_wake(&word, 8), 0);
}

static void test_deadline_passes(void **state)
{
    (void)state;
    atomic_store(&word, 0);
    const int64_t deadline = mr_clock_now(&mr_clock_system) + 5 * MR_NS_PER_MS;
    moor_err e;
    while ((e = mr_futex_wait(&word, 0, deadline)) == MOOR_OK)
        ;
    assert_int_equal(e, MOOR_ETIMEDOUT);
    assert_true(mr_clock_now(&mr_clock_system) >= deadline);
    assert_int_equal(mr_futex_wait(&word, 0, 0), MOOR_ETIMEDOUT);
    assert_int_equal(mr_futex_wait(&word, 0, -1), MOOR_ETIMEDOUT);
}

static void *count_up(void *unused)
{
    for (int i = 0; i < 10000; i++) {
        mr_lock_lock(&lock);
        counter++;
        mr_lock_unlock(&lock);
    }
    return unused;
}

static void test_lock_excludes(void **state)
{
    (void)state;
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_up, NULL), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(counter, 30000);
    struct mr_lock own;
    mr_lock_init(&own);
    mr_lock_lock(&own);
    mr_lock_unlock(&own);
    mr_lock_fini(&own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wake_ends_the_sleep),
        cmocka_unit_test(test_changed_word_does_not_sleep),
        cmocka_unit_test(test_deadline_passes),
        cmocka_unit_test(test_lock_excludes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
