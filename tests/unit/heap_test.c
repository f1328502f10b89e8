/* Heaps: budgets, peaks, sized and unsized blocks, the fault plan, memory given back. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "alloc/arena.h"
#include "alloc/buf.h"
#include "alloc/slab.h"
#include "tests/support/canary.h"
#include "tests/support/fault.h"

#include <pthread.h>

static size_t used(struct mr_heap *h)
{
    return atomic_load(&h->used);
}

static void test_used_and_peak_count_what_was_asked_for(void **state)
{
    (void)state;
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, SIZE_MAX, false), MOOR_OK);
    void *a = mr_heap_alloc(&h, 100);
    void *b = mr_heap_zalloc(&h, 5000);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal((uintptr_t)a % 16, 0);
    for (size_t i = 0; i < 5000; i++)
        assert_int_equal(((char *)b)[i], 0);
    assert_int_equal(used(&h), 5100);
    mr_heap_free(&h, b, 5000);
    assert_int_equal(used(&h), 100);
    assert_int_equal(atomic_load(&h.peak), 5100);
    mr_heap_free(&h, a, 100);
    mr_heap_free(&h, NULL, 77);
    assert_int_equal(used(&h), 0);
    mr_heap_fini(&h);
}

static void test_zeroed_blocks_are_zero_when_recycled(void **state)
{
    (void)state;
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, SIZE_MAX, false), MOOR_OK);
    for (int round = 0; round < 100; round++) {
        char *p = mr_heap_zalloc(&h, 256);
        for (int i = 0; i < 256; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xee, 256);
        mr_heap_free(&h, p, 256);
    }
    mr_heap_fini(&h);
}

static void check_limit(bool is_shared)
{
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, 1000, is_shared), MOOR_OK);
    void *a = mr_heap_alloc(&h, 600);
    assert_non_null(a);
    assert_null(mr_heap_alloc(&h, 401));
    assert_null(mr_heap_alloc(&h, SIZE_MAX));
    assert_int_equal(used(&h), 600);
    void *b = mr_heap_alloc(&h, 400);
    assert_non_null(b);
    assert_null(mr_heap_alloc(&h, 1));
    void *nothing = mr_heap_alloc(&h, 0);
    assert_non_null(nothing);
    mr_heap_free(&h, nothing, 0);
    mr_heap_free(&h, a, 600);
    mr_heap_free(&h, b, 400);
    assert_int_equal(used(&h), 0);
    assert_int_equal(atomic_load(&h.peak), 1000);
    mr_heap_fini(&h);
}

static void test_the_limit_is_exact(void **state)
{
    (void)state;
    check_limit(false);
    check_limit(true);
}

static void test_impossible_sizes_are_refused_not_wrapped(void **state)
{
    (void)state;
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, SIZE_MAX, false), MOOR_OK);
    assert_null(mr_heap_alloc(&h, SIZE_MAX));
    assert_null(mr_heap_alloc(&h, SIZE_MAX / 2));
    assert_null(mr_heap_alloc_unsized(&h, SIZE_MAX));
    assert_int_equal(used(&h), 0);
    mr_heap_fini(&h);
}

static void test_alignment_up_to_2_MiB(void **state)
{
    (void)state;
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, SIZE_MAX, false), MOOR_OK);
    for (size_t align = 1; align <= 2u << 20; align *= 2) {
        void *p = mr_heap_alloc_aligned(&h, 4096, align);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % align, 0);
        mr_heap_free_aligned(&h, p, 4096, align);
    }
    assert_int_equal(used(&h), 0);
    mr_heap_fini(&h);
}

static void test_unsized_blocks_keep_their_bytes_and_their_charge(void **state)
{
    (void)state;
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, 1 << 20, false), MOOR_OK);
    char *p = mr_heap_realloc_unsized(&h, NULL, 10);
    memcpy(p, "123456789", 10);
    size_t before = used(&h);
    assert_true(before >= 10);
    for (size_t size = 20; size <= 100000; size = size * 3 / 2) {
        p = mr_heap_realloc_unsized(&h, p, size);
        assert_string_equal(p, "123456789");
        assert_true(used(&h) >= size);
    }
    before = used(&h);
    assert_null(mr_heap_realloc_unsized(&h, p, 2 << 20));
    assert_int_equal(used(&h), before);
    assert_string_equal(p, "123456789");
    p = mr_heap_realloc_unsized(&h, p, 10);
    assert_string_equal(p, "123456789");
    assert_true(used(&h) < 100);
    p = mr_heap_realloc_unsized(&h, p, 0);
    assert_non_null(p);
    mr_heap_free_unsized(&h, p);
    mr_heap_free_unsized(&h, NULL);
    assert_int_equal(used(&h), 0);
    mr_heap_fini(&h);
}

static void test_the_fault_plan_fails_one_allocation_of_all_heaps(void **state)
{
    (void)state;
    struct mr_heap a, b;
    assert_int_equal(mr_heap_init(&a, SIZE_MAX, false), MOOR_OK);
    assert_int_equal(mr_heap_init(&b, SIZE_MAX, true), MOOR_OK);
    mr_heap_fault_at(2);
    void *one = mr_heap_alloc(&a, 8);
    void *two = mr_heap_alloc(&b, 8);
    assert_non_null(one);
    assert_non_null(two);
    assert_null(mr_heap_alloc(&a, 8));
    void *four = mr_heap_alloc(&a, 8);
    assert_non_null(four);
    assert_int_equal(mr_heap_fault_count(), 4);
    assert_int_equal(used(&a), 16);
    mr_heap_fault_at(-1);
    assert_int_equal(mr_heap_fault_count(), 0);
    mr_heap_free(&a, one, 8);
    mr_heap_free(&b, two, 8);
    mr_heap_free(&a, four, 8);
    mr_heap_fini(&a);
    mr_heap_fini(&b);
}

/* What a shard begins with, as far as memory allows. */
static void open_and_close(void *heap)
{
    struct mr_heap *h = heap;
    struct mr_slab slab;
    struct mr_buf_pool bufs;
    struct mr_arena_cache cache;
    struct mr_arena arena;
    mr_slab_init(&slab, h, 100, 2);
    mr_arena_cache_init(&cache, h, 1);
    mr_arena_init(&arena, &cache, SIZE_MAX);
    if (mr_buf_pool_init(&bufs, h, 512, 4, 1) == MOOR_OK) {
        struct mr_buf *b = mr_buf_take(&bufs);
        void *items[3] = {mr_slab_take(&slab), mr_slab_take(&slab), mr_slab_take(&slab)};
        mr_arena_alloc(&arena, 100);
        mr_arena_alloc(&arena, 10000);
        for (int i = 0; i < 3; i++)
            if (items[i])
                mr_slab_give(&slab, items[i]);
        if (b)
            mr_buf_untake(b);
    }
    mr_buf_pool_fini(&bufs);
    mr_arena_fini(&arena);
    mr_arena_cache_fini(&cache);
    mr_slab_fini(&slab);
    assert_true(fault_heap_is_empty(h));
}

static void test_each_failing_allocation_leaves_nothing_behind(void **state)
{
    (void)state;
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, SIZE_MAX, false), MOOR_OK);
    assert_true(fault_every_allocation(open_and_close, &h) >= 6);
    mr_heap_fini(&h);
}

static void test_trimming_keeps_what_is_in_use(void **state)
{
    (void)state;
    for (int is_shared = 0; is_shared < 2; is_shared++) {
        struct mr_heap h;
        assert_int_equal(mr_heap_init(&h, SIZE_MAX, is_shared), MOOR_OK);
        char *kept = mr_heap_alloc(&h, 5000);
        memset(kept, 7, 5000);
        for (int i = 0; i < 100; i++)
            mr_heap_free(&h, mr_heap_alloc(&h, 20000), 20000);
        mr_heap_trim(&h);
        for (int i = 0; i < 5000; i++)
            assert_int_equal(kept[i], 7);
        mr_heap_free(&h, kept, 5000);
        mr_heap_fini(&h);
    }
}

/* More than jemalloc has indices for: an index and all its memory come back. */
static void test_heaps_come_and_go(void **state)
{
    (void)state;
    for (int i = 0; i < 5000; i++) {
        struct mr_heap h;
        assert_int_equal(mr_heap_init(&h, SIZE_MAX, i % 2), MOOR_OK);
        void *small = mr_heap_alloc(&h, 48);
        void *large = mr_heap_alloc(&h, 40000);
        assert_non_null(small);
        assert_non_null(large);
        mr_heap_free(&h, large, 40000);
        mr_heap_free(&h, small, 48);
        mr_heap_fini(&h);
    }
}

enum { THREADS = 4, ROUNDS = 20000 };

static void *churn(void *heap)
{
    struct mr_heap *h = heap;
    for (int i = 0; i < ROUNDS; i++) {
        size_t size = 16 + (size_t)i % 500;
        char *p = mr_heap_alloc(h, size);
        if (!p)
            continue; /* the others hold the budget */
        memset(p, i, size);
        mr_heap_free(h, p, size);
    }
    return NULL;
}

static void test_a_shared_heap_serves_many_threads(void **state)
{
    (void)state;
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, 1000, true), MOOR_OK);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, churn, &h), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(used(&h), 0);
    assert_true(atomic_load(&h.peak) <= 1000);
    assert_true(atomic_load(&h.peak) >= 515);
    mr_heap_fini(&h);
}

static void free_too_much(void *heap)
{
    void *p = mr_heap_alloc(heap, 32);
    mr_heap_free(heap, p, 64);
}

static void test_a_wrong_size_is_a_panic(void **state)
{
    (void)state;
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, SIZE_MAX, false), MOOR_OK);
    struct canary c = canary_run(free_too_much, &h);
    assert_true(canary_panicked(&c, "another size"));
    mr_heap_fini(&h);
}

static void use_freed(void *heap)
{
    volatile char *p = mr_heap_alloc(heap, 32);
    mr_heap_free(heap, (void *)p, 32);
    p[5] = 1;
}

static void run_over(void *heap)
{
    volatile char *p = mr_heap_alloc(heap, 32);
    p[32] = 1;
}

static void test_canary_freed_and_overrun_blocks(void **state)
{
    (void)state;
    CANARY_NEEDS_ASAN();
    struct mr_heap h;
    assert_int_equal(mr_heap_init(&h, SIZE_MAX, false), MOOR_OK);
    struct canary c = canary_run(use_freed, &h);
    assert_true(canary_was_caught(&c));
    c = canary_run(run_over, &h);
    assert_true(canary_was_caught(&c));
    mr_heap_fini(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_used_and_peak_count_what_was_asked_for),
        cmocka_unit_test(test_zeroed_blocks_are_zero_when_recycled),
        cmocka_unit_test(test_the_limit_is_exact),
        cmocka_unit_test(test_impossible_sizes_are_refused_not_wrapped),
        cmocka_unit_test(test_alignment_up_to_2_MiB),
        cmocka_unit_test(test_unsized_blocks_keep_their_bytes_and_their_charge),
        cmocka_unit_test(test_the_fault_plan_fails_one_allocation_of_all_heaps),
        cmocka_unit_test(test_each_failing_allocation_leaves_nothing_behind),
        cmocka_unit_test(test_trimming_keeps_what_is_in_use),
        cmocka_unit_test(test_heaps_come_and_go),
        cmocka_unit_test(test_a_shared_heap_serves_many_threads),
        cmocka_unit_test(test_a_wrong_size_is_a_panic),
        cmocka_unit_test(test_canary_freed_and_overrun_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
