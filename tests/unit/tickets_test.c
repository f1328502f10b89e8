/* The ticket store: single use, order, ends, limits, keys, and short memory. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tls/tickets.h"

static struct mr_heap heap;
static struct mr_tickets *store;

static int setup(void **state)
{
    (void)state;
    if (mr_heap_init(&heap, SIZE_MAX, true) != MOOR_OK)
        return -1;
    store = mr_tickets_create(&heap);
    return store ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    mr_heap_fault_at(-1);
    mr_tickets_destroy(store);
    const size_t left = atomic_load(&heap.used);
    mr_heap_fini(&heap);
    return left == 0 ? 0 : -1;
}

static const uint8_t *key(unsigned n)
{
    static uint8_t bytes[MR_TLS_HASH_SIZE];
    memset(bytes, 0, sizeof bytes);
    bytes[0] = (uint8_t)n;
    bytes[1] = (uint8_t)(n >> 8);
    return bytes;
}

static void put(unsigned k, const char *text, int64_t expires_s, uint32_t max)
{
    mr_tickets_put(store, key(k), max, &(struct mr_ticket){.expires_s = expires_s},
                   (moor_span){text, strlen(text)});
}

/* What take gives, as a text; "" = nothing. */
static const char *take(unsigned k, int64_t now_s)
{
    static char text[64];
    struct mr_ticket *t = mr_tickets_take(store, key(k), now_s);
    snprintf(text, sizeof text, "%.*s", t ? (int)t->len : 0, t ? (const char *)t->bytes : "");
    mr_ticket_unref(&heap, t);
    return text;
}

static void test_newest_first_and_once(void **state)
{
    (void)state;
    put(1, "a", 100, 9);
    put(1, "b", 100, 9);
    put(1, "c", 100, 9);
    assert_int_equal(mr_tickets_count(store, key(1)), 3);
    assert_string_equal(take(1, 0), "c");
    assert_string_equal(take(1, 0), "b");
    assert_int_equal(mr_tickets_count(store, key(1)), 1);
}

static void test_the_last_one_stays(void **state)
{
    (void)state;
    put(1, "a", 100, 9);
    for (int i = 0; i < 3; i++)
        assert_string_equal(take(1, 0), "a");
    put(1, "b", 100, 9);
    assert_string_equal(take(1, 0), "b");
    assert_string_equal(take(1, 0), "a");
}

static void test_a_key_sees_only_its_own(void **state)
{
    (void)state;
    /* 1 and 257 share their first byte, and so their bucket. */
    put(1, "one", 100, 9);
    put(257, "other", 100, 9);
    assert_string_equal(take(257, 0), "other");
    assert_string_equal(take(1, 0), "one");
    assert_string_equal(take(2, 0), "");
}

static void test_ends_are_kept(void **state)
{
    (void)state;
    put(1, "early", 50, 9);
    put(1, "late", 100, 9);
    assert_string_equal(take(1, 99), "late");
    assert_string_equal(take(1, 100), "");
    assert_int_equal(mr_tickets_count(store, key(1)), 0);
}

static void test_the_limit_of_a_key(void **state)
{
    (void)state;
    put(1, "none", 100, 0);
    assert_int_equal(mr_tickets_count(store, key(1)), 0);
    for (int i = 0; i < 20; i++) {
        char text[8];
        snprintf(text, sizeof text, "%d", i);
        put(1, text, 100, 5);
    }
    assert_int_equal(mr_tickets_count(store, key(1)), 5);
    for (int i = 19; i >= 15; i--) {
        char text[8];
        snprintf(text, sizeof text, "%d", i);
        assert_string_equal(take(1, 0), text);
    }
    assert_string_equal(take(1, 0), "15"); /* and none before it */
}

static void test_the_limit_of_keys(void **state)
{
    (void)state;
    put(0, "first", 100, 9);
    put(1, "second", 100, 9);
    for (unsigned k = 2; k < MR_TICKET_KEYS_MAX; k++)
        put(k, "x", 100, 9);
    assert_string_equal(take(0, 0), "first"); /* used: the second is the oldest now */
    const size_t full = atomic_load(&heap.used);
    put(MR_TICKET_KEYS_MAX, "x", 100, 9);
    assert_true(atomic_load(&heap.used) < full + 16);
    assert_string_equal(take(1, 0), "");
    assert_string_equal(take(0, 0), "first");
}

static void test_the_limit_of_one_ticket(void **state)
{
    (void)state;
    static char large[MR_TICKET_BYTES_MAX + 1];
    const struct mr_ticket like = {.expires_s = 100};
    mr_tickets_put(store, key(1), 9, &like, (moor_span){large, sizeof large});
    mr_tickets_put(store, key(1), 9, &like, (moor_span){large, 0});
    assert_int_equal(mr_tickets_count(store, key(1)), 0);
    mr_tickets_put(store, key(1), 9, &like, (moor_span){large, sizeof large - 1});
    assert_int_equal(mr_tickets_count(store, key(1)), 1);
}

static void test_forgetting_all_of_a_key(void **state)
{
    (void)state;
    put(1, "a", 100, 9);
    put(1, "b", 100, 9);
    put(2, "c", 100, 9);
    struct mr_ticket *t = mr_tickets_take(store, key(1), 0);
    mr_tickets_forget(store, key(1));
    mr_tickets_forget(store, key(3));
    mr_ticket_unref(&heap, t);
    assert_string_equal(take(1, 0), "");
    assert_string_equal(take(2, 0), "c");
}

static void test_reusable_ones_stay(void **state)
{
    (void)state;
    put(1, "a", 100, 9);
    mr_tickets_put(store, key(1), 9, &(struct mr_ticket){.expires_s = 100, .is_reusable = true},
                   (moor_span){"b", 1});
    for (int i = 0; i < 3; i++)
        assert_string_equal(take(1, 0), "b");
    assert_int_equal(mr_tickets_count(store, key(1)), 2);
}

static void test_the_limit_of_all(void **state)
{
    (void)state;
    static const char large[MR_TICKET_BYTES_MAX];
    const struct mr_ticket like = {.expires_s = 100};
    for (unsigned k = 0; k < 30; k++) {
        for (int i = 0; i < 100; i++)
            mr_tickets_put(store, key(k), 100, &like, (moor_span){large, sizeof large});
        assert_true(mr_tickets_bytes(store) <= MR_TICKETS_BYTES_MAX);
    }
    assert_true(mr_tickets_bytes(store) > MR_TICKETS_BYTES_MAX / 2);
    assert_string_equal(take(0, 0), "");
    assert_int_equal(mr_tickets_count(store, key(29)), 100);
}

static void test_a_ticket_in_use_outlives_the_store(void **state)
{
    (void)state;
    put(1, "a", 100, 9);
    struct mr_ticket *t = mr_tickets_take(store, key(1), 0);
    mr_tickets_destroy(store);
    store = mr_tickets_create(&heap);
    assert_memory_equal(t->bytes, "a", 1);
    mr_ticket_unref(&heap, t);
}

static void test_short_of_memory_nothing_is_kept(void **state)
{
    (void)state;
    put(1, "a", 100, 9);
    for (long nth = 0; nth < 2; nth++) {
        mr_heap_fault_at(nth);
        put(1, "b", 100, 9);
        put(2, "b", 100, 9);
        mr_heap_fault_at(-1);
    }
    assert_string_equal(take(1, 0), "a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_newest_first_and_once),
        T(test_the_last_one_stays),
        T(test_a_key_sees_only_its_own),
        T(test_ends_are_kept),
        T(test_the_limit_of_a_key),
        T(test_the_limit_of_keys),
        T(test_the_limit_of_one_ticket),
        T(test_forgetting_all_of_a_key),
        T(test_reusable_ones_stay),
        T(test_the_limit_of_all),
        T(test_a_ticket_in_use_outlives_the_store),
        T(test_short_of_memory_nothing_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
