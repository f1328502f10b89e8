/* Slabs: stable addresses, the slot header outlives its object, nothing else does. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "alloc/slab.h"
#include "tests/support/canary.h"

struct thing {
    struct moor_slot_ slot;
    char body[100];
};

static struct mr_heap heap;
static struct mr_slab slab;

static int setup(void **state)
{
    (void)state;
    if (mr_heap_init(&heap, SIZE_MAX, false) != MOOR_OK)
        return -1;
    mr_slab_init(&slab, &heap, sizeof(struct thing), 8);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mr_slab_fini(&slab);
    size_t left = atomic_load(&heap.used);
    mr_heap_fini(&heap);
    return left == 0 ? 0 : -1;
}

static bool is_zero(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

static void test_items_are_zeroed_aligned_and_apart(void **state)
{
    (void)state;
    struct thing *things[50];
    for (int i = 0; i < 50; i++) {
        things[i] = mr_slab_take(&slab);
        assert_non_null(things[i]);
        assert_int_equal((uintptr_t)things[i] % 16, 0);
        assert_true(is_zero((char *)things[i], sizeof *things[i]));
        memset(things[i]->body, i + 1, sizeof things[i]->body);
    }
    assert_int_equal(slab.used, 50);
    assert_int_equal(slab.count, 50);
    for (int i = 0; i < 50; i++)
        for (size_t j = 0; j < sizeof things[i]->body; j++)
            assert_int_equal(things[i]->body[j], i + 1);
    for (int i = 0; i < 50; i++)
        mr_slab_give(&slab, things[i]);
    assert_int_equal(slab.used, 0);
}

static void test_the_slot_header_survives_and_the_rest_is_zeroed(void **state)
{
    (void)state;
    void *shard = &heap; /* any address: never followed */
    struct thing *t = mr_slab_take(&slab);
    atomic_store(&t->slot.generation, 7);
    t->slot.shard = shard;
    memset(t->body, 0xee, sizeof t->body);
    mr_slab_give(&slab, t);
    assert_int_equal(atomic_load(&t->slot.generation), 7);
    struct thing *again = mr_slab_take(&slab);
    assert_ptr_equal(again, t);
    assert_int_equal(atomic_load(&t->slot.generation), 7);
    assert_ptr_equal(t->slot.shard, shard);
    assert_true(is_zero(t->body, sizeof t->body));
    mr_slab_give(&slab, t);
}

static void test_the_newest_free_item_is_taken_first(void **state)
{
    (void)state;
    void *a = mr_slab_take(&slab), *b = mr_slab_take(&slab);
    mr_slab_give(&slab, a);
    mr_slab_give(&slab, b);
    assert_ptr_equal(mr_slab_take(&slab), b);
    assert_ptr_equal(mr_slab_take(&slab), a);
    mr_slab_give(&slab, a);
    mr_slab_give(&slab, b);
    assert_int_equal(slab.count, 2);
}

static void test_items_of_whole_lines_lie_on_lines(void **state)
{
    (void)state;
    struct mr_slab lines;
    mr_slab_init(&lines, &heap, 192, 5);
    void *items[20];
    for (int i = 0; i < 20; i++) {
        items[i] = mr_slab_take(&lines);
        assert_int_equal((uintptr_t)items[i] % 64, 0);
    }
    for (int i = 0; i < 20; i++)
        mr_slab_give(&lines, items[i]);
    mr_slab_fini(&lines);
}

static void test_tiny_items_have_room_for_slot_and_link(void **state)
{
    (void)state;
    struct mr_slab tiny;
    mr_slab_init(&tiny, &heap, 1, 4);
    assert_true(tiny.item_size >= sizeof(struct moor_slot_) + sizeof(void *));
    struct moor_slot_ *s = mr_slab_take(&tiny);
    atomic_store(&s->generation, 3);
    mr_slab_give(&tiny, s);
    assert_int_equal(atomic_load(&s->generation), 3);
    mr_slab_fini(&tiny);
}

static void test_out_of_memory_is_null_and_harmless(void **state)
{
    (void)state;
    mr_heap_fault_at(0);
    assert_null(mr_slab_take(&slab));
    assert_int_equal(slab.used, 0);
    mr_heap_fault_at(-1);
    void *p = mr_slab_take(&slab);
    assert_non_null(p);
    mr_slab_give(&slab, p);
}

/* A conn is to cost under 1 KB idle: what the slab adds to each item must not matter. */
static void test_overhead_is_two_words_a_page(void **state)
{
    (void)state;
    if (MR_ASAN) {
        print_message("skipped: in this build every item is an allocation of its own\n");
        skip();
    }
    struct mr_slab s;
    mr_slab_init(&s, &heap, 512, 32);
    size_t before = atomic_load(&heap.used);
    void *items[32];
    for (int i = 0; i < 32; i++)
        items[i] = mr_slab_take(&s);
    assert_int_equal(atomic_load(&heap.used) - before, 32 * 512 + 16);
    for (int i = 0; i < 32; i++)
        mr_slab_give(&s, items[i]);
    mr_slab_fini(&s);
}

static void use_freed(void *unused)
{
    (void)unused;
    struct thing *t = mr_slab_take(&slab);
    mr_slab_give(&slab, t);
    *(volatile char *)&t->body[60] = 1;
}

static void give_twice(void *unused)
{
    (void)unused;
    mr_slab_take(&slab);
    struct thing *t = mr_slab_take(&slab);
    mr_slab_give(&slab, t);
    mr_slab_give(&slab, t);
}

static void run_over(void *unused)
{
    (void)unused;
    struct thing *t = mr_slab_take(&slab);
    mr_slab_take(&slab);
    ((volatile char *)t)[slab.item_size + 16] = 1;
}

static void test_canary_items(void **state)
{
    (void)state;
    CANARY_NEEDS_ASAN();
    void (*const canaries[])(void *) = {use_freed, give_twice, run_over};
    for (size_t i = 0; i < sizeof canaries / sizeof *canaries; i++) {
        struct canary c = canary_run(canaries[i], NULL);
        assert_true(canary_was_caught(&c));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_items_are_zeroed_aligned_and_apart),
        TEST(test_the_slot_header_survives_and_the_rest_is_zeroed),
        TEST(test_the_newest_free_item_is_taken_first),
        TEST(test_items_of_whole_lines_lie_on_lines),
        TEST(test_tiny_items_have_room_for_slot_and_link),
        TEST(test_out_of_memory_is_null_and_harmless),
        TEST(test_overhead_is_two_words_a_page),
        TEST(test_canary_items),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
