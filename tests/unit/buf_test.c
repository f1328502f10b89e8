/* Receive buffers: grown on demand, recycled newest first, counted, never freed under the kernel. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "alloc/buf.h"
#include "tests/support/canary.h"

enum { SIZE = 4096, COUNT = 8, RESERVE = 2 };

static struct mr_heap heap;
static struct mr_buf_pool pool;

static int setup(void **state)
{
    (void)state;
    if (mr_heap_init(&heap, SIZE_MAX, false) != MOOR_OK)
        return -1;
    return mr_buf_pool_init(&pool, &heap, SIZE, COUNT, RESERVE) == MOOR_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    mr_buf_pool_fini(&pool);
    size_t left = atomic_load(&heap.used);
    mr_heap_fini(&heap);
    return left == 0 ? 0 : -1;
}

static void test_buffers_are_made_when_needed_until_the_pool_is_dry(void **state)
{
    (void)state;
    struct mr_buf *taken[COUNT];
    assert_int_equal(pool.count, 0);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(mr_buf_pool_available(&pool), COUNT - i);
        taken[i] = mr_buf_take(&pool);
        assert_non_null(taken[i]);
        assert_int_equal(taken[i]->id, i);
        assert_ptr_equal(&pool.all[i], taken[i]);
        assert_int_equal(taken[i]->cap, SIZE);
        assert_int_equal((uintptr_t)taken[i]->data % 4096, 0);
        memset(taken[i]->data, 1, SIZE);
    }
    assert_null(mr_buf_take(&pool));
    assert_int_equal(pool.starved, 1);
    assert_int_equal(mr_buf_pool_available(&pool), 0);
    for (unsigned i = 0; i < COUNT; i++)
        mr_buf_untake(taken[i]);
    assert_int_equal(mr_buf_pool_available(&pool), COUNT);
}

static void test_the_last_reference_puts_it_on_top(void **state)
{
    (void)state;
    struct mr_buf *a = mr_buf_take(&pool), *b = mr_buf_take(&pool);
    a->is_posted = true;
    mr_buf_fill(a);
    mr_buf_fill(b);
    assert_false(a->is_posted);
    assert_int_equal(pool.held, 2);
    mr_buf_ref(a);
    mr_buf_unref(a);
    assert_int_equal(pool.held, 2);
    mr_buf_unref(b);
    mr_buf_unref(a);
    assert_int_equal(pool.held, 0);
    assert_int_equal(pool.spare_count, 2);
    assert_ptr_equal(mr_buf_take(&pool), a);
    assert_ptr_equal(mr_buf_take(&pool), b);
    mr_buf_untake(a);
    mr_buf_untake(b);
}

static void test_the_reserve_is_what_makes_it_low(void **state)
{
    (void)state;
    struct mr_buf *held[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(mr_buf_pool_is_low(&pool), i >= COUNT - RESERVE);
        held[i] = mr_buf_take(&pool);
        mr_buf_fill(held[i]);
    }
    for (unsigned i = 0; i < COUNT; i++)
        mr_buf_unref(held[i]);
    assert_false(mr_buf_pool_is_low(&pool));
}

static void test_small_buffers_lie_on_cache_lines(void **state)
{
    (void)state;
    struct mr_buf_pool small;
    assert_int_equal(mr_buf_pool_init(&small, &heap, 512, 4, 0), MOOR_OK);
    struct mr_buf *b = mr_buf_take(&small);
    assert_int_equal((uintptr_t)b->data % 64, 0);
    mr_buf_untake(b);
    mr_buf_pool_fini(&small);
}

static void test_out_of_memory_is_as_dry(void **state)
{
    (void)state;
    struct mr_buf_pool other;
    mr_heap_fault_at(0);
    assert_int_equal(mr_buf_pool_init(&other, &heap, SIZE, COUNT, 0), MOOR_ENOMEM);
    mr_buf_pool_fini(&other);
    mr_heap_fault_at(0);
    assert_null(mr_buf_take(&pool));
    assert_int_equal(pool.starved, 1);
    mr_heap_fault_at(-1);
    assert_int_equal(mr_buf_pool_available(&pool), COUNT);
    struct mr_buf *b = mr_buf_take(&pool);
    assert_int_equal(b->id, 0);
    mr_buf_untake(b);
}

static void return_twice(void *unused)
{
    (void)unused;
    struct mr_buf *b = mr_buf_take(&pool);
    mr_buf_fill(b);
    mr_buf_unref(b);
    mr_buf_unref(b);
}

static void end_while_posted(void *unused)
{
    (void)unused;
    mr_buf_take(&pool)->is_posted = true;
    mr_buf_pool_fini(&pool);
}

static void end_while_held(void *unused)
{
    (void)unused;
    mr_buf_fill(mr_buf_take(&pool));
    mr_buf_pool_fini(&pool);
}

static void test_misuse_is_a_panic(void **state)
{
    (void)state;
    struct canary c = canary_run(return_twice, NULL);
    assert_true(canary_panicked(&c, "returned twice"));
    c = canary_run(end_while_posted, NULL);
    assert_true(canary_panicked(&c, "posted buffer"));
    c = canary_run(end_while_held, NULL);
    assert_true(canary_panicked(&c, "still has a chunk"));
}

static void use_returned(void *unused)
{
    (void)unused;
    struct mr_buf *b = mr_buf_take(&pool);
    mr_buf_fill(b);
    volatile uint8_t *data = b->data;
    data[100] = 1;
    mr_buf_unref(b);
    data[100] = 2;
}

static void use_untaken(void *unused)
{
    (void)unused;
    struct mr_buf *b = mr_buf_take(&pool);
    mr_buf_untake(b);
    *(volatile uint8_t *)b->data = 2;
}

static void test_canary_returned_buffers(void **state)
{
    (void)state;
    CANARY_NEEDS_ASAN();
    struct canary c = canary_run(use_returned, NULL);
    assert_true(canary_was_caught(&c));
    c = canary_run(use_untaken, NULL);
    assert_true(canary_was_caught(&c));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_buffers_are_made_when_needed_until_the_pool_is_dry),
        TEST(test_the_last_reference_puts_it_on_top),
        TEST(test_the_reserve_is_what_makes_it_low),
        TEST(test_small_buffers_lie_on_cache_lines),
        TEST(test_out_of_memory_is_as_dry),
        TEST(test_misuse_is_a_panic),
        TEST(test_canary_returned_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
