/* Arenas: alignment, limits, large pieces, blocks kept for the next exchange. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "alloc/arena.h"
#include "tests/support/canary.h"

static struct mr_heap heap;
static struct mr_arena_cache cache;

static int setup(void **state)
{
    (void)state;
    if (mr_heap_init(&heap, SIZE_MAX, false) != MOOR_OK)
        return -1;
    mr_arena_cache_init(&cache, &heap, 2);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mr_arena_cache_fini(&cache);
    size_t left = atomic_load(&heap.used);
    mr_heap_fini(&heap);
    return left == 0 ? 0 : -1;
}

static void test_pieces_are_aligned_and_do_not_overlap(void **state)
{
    (void)state;
    struct mr_arena a;
    mr_arena_init(&a, &cache, SIZE_MAX);
    unsigned char *pieces[400];
    size_t sizes[400];
    for (size_t i = 0; i < 400; i++) {
        sizes[i] = i * 37 % 3000 + (i % 50 == 0 ? 20000 : 0);
        pieces[i] = mr_arena_alloc(&a, sizes[i]);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        memset(pieces[i], (int)i, sizes[i]);
    }
    for (size_t i = 0; i < 400; i++)
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_equal(pieces[i][j], (unsigned char)i);
    mr_arena_fini(&a);
    assert_int_equal(a.used, 0);
}

static void test_copies_end_in_a_nul(void **state)
{
    (void)state;
    struct mr_arena a;
    mr_arena_init(&a, &cache, SIZE_MAX);
    assert_string_equal(mr_arena_copy(&a, "mooringxxx", 7), "mooring");
    assert_string_equal(mr_arena_copy(&a, NULL, 0), "");
    assert_null(mr_arena_copy(&a, "", SIZE_MAX));
    mr_arena_fini(&a);
}

static void test_the_limit_refuses_and_later_pieces_that_fit_go_on(void **state)
{
    (void)state;
    struct mr_arena a;
    mr_arena_init(&a, &cache, 10000);
    assert_null(mr_arena_alloc(&a, 10000));
    assert_null(mr_arena_alloc(&a, SIZE_MAX));
    assert_non_null(mr_arena_alloc(&a, 9000));
    assert_null(mr_arena_alloc(&a, 1000));
    assert_non_null(mr_arena_alloc(&a, 500));
    assert_true(a.used <= 10000);
    mr_arena_fini(&a);
    assert_non_null(mr_arena_alloc(&a, 9000));
    mr_arena_fini(&a);
}

static void test_a_limit_below_a_block_is_still_of_use(void **state)
{
    (void)state;
    struct mr_arena a;
    mr_arena_init(&a, &cache, 500);
    assert_non_null(mr_arena_alloc(&a, 100));
    assert_non_null(mr_arena_alloc(&a, 100));
    assert_null(mr_arena_alloc(&a, 400));
    mr_arena_fini(&a);
}

static void test_the_next_exchange_reuses_the_blocks(void **state)
{
    (void)state;
    if (MR_ASAN) {
        print_message("skipped: in this build every piece is a block of its own\n");
        skip();
    }
    struct mr_arena a;
    mr_arena_init(&a, &cache, SIZE_MAX);
    void *first = mr_arena_alloc(&a, 64);
    mr_arena_alloc(&a, 100000);
    mr_arena_fini(&a);
    assert_int_equal(cache.count, 1);
    mr_heap_fault_at(-1);
    for (int i = 0; i < 100; i++) {
        mr_arena_init(&a, &cache, SIZE_MAX);
        assert_ptr_equal(mr_arena_alloc(&a, 64), first);
        mr_arena_fini(&a);
    }
    assert_int_equal(mr_heap_fault_count(), 0);
    for (int i = 0; i < 100; i++)
        mr_arena_alloc(&a, 1000);
    mr_arena_fini(&a);
    assert_int_equal(cache.count, 2);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    struct mr_arena a;
    for (int large = 0; large < 2; large++) {
        struct mr_arena_cache empty;
        mr_arena_cache_init(&empty, &heap, 0);
        mr_arena_init(&a, &empty, SIZE_MAX);
        mr_heap_fault_at(0);
        assert_null(mr_arena_alloc(&a, large ? 50000 : 50));
        assert_null(a.blocks);
        assert_int_equal(a.used, 0);
        assert_non_null(mr_arena_alloc(&a, large ? 50000 : 50));
        mr_heap_fault_at(-1);
        mr_arena_fini(&a);
    }
}

static void use_after_fini(void *unused)
{
    (void)unused;
    struct mr_arena a;
    mr_arena_init(&a, &cache, SIZE_MAX);
    volatile char *p = mr_arena_alloc(&a, 40);
    mr_arena_fini(&a);
    p[0] = 1;
}

static void run_into_the_next_piece(void *unused)
{
    (void)unused;
    struct mr_arena a;
    mr_arena_init(&a, &cache, SIZE_MAX);
    volatile char *p = mr_arena_alloc(&a, 33);
    mr_arena_alloc(&a, 33);
    p[33] = 1;
}

static void test_canary_pieces(void **state)
{
    (void)state;
    CANARY_NEEDS_ASAN();
    struct canary c = canary_run(use_after_fini, NULL);
    assert_true(canary_was_caught(&c));
    c = canary_run(run_into_the_next_piece, NULL);
    assert_true(canary_was_caught(&c));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_pieces_are_aligned_and_do_not_overlap),
        TEST(test_copies_end_in_a_nul),
        TEST(test_the_limit_refuses_and_later_pieces_that_fit_go_on),
        TEST(test_a_limit_below_a_block_is_still_of_use),
        TEST(test_the_next_exchange_reuses_the_blocks),
        TEST(test_every_allocation_may_fail),
        TEST(test_canary_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
