/*
 * Shards that come and go, and what a runtime gives back at its end.
 */
#include "tests/support/shards.h"

static const char *backend;

static void a_pool_with_credentials_gives_all_its_memory_back(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 1, backend, NULL);
    const size_t before = atomic_load(&s.runtime->heap.used);
    moor_pool *p = NULL;
    assert_int_equal(moor_pool_open(s.runtime, "http://user:secret@127.0.0.1:9", NULL, &p), MOOR_OK);
    shards_drain(&s, p);
    assert_int_equal(atomic_load(&s.runtime->heap.used), before);
    shards_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_with_credentials_gives_all_its_memory_back),
    };
    int failed = 0;
    static const char *const backends[] = {"io_uring", "epoll"};
    for (size_t i = 0; i < 2; i++) {
        backend = backends[i];
        failed += cmocka_run_group_tests_name(backend, tests, NULL, NULL);
    }
    return failed;
}
