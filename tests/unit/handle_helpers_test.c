/*
 * Helper threads that cannot be started: an error while there is none, and another try with the next job.
 */
#include "tests/support/handle_fixture.h"

#include <dlfcn.h>
#include <errno.h>

static _Atomic(bool) refuses;

/* In the place of the system's. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return atomic_load(&refuses) ? EAGAIN : real(thread, attr, run, arg);
}

static void test_threads_are_tried_again(void **state)
{
    (void)state;
    struct handles h;
    memset(&h, 0, sizeof h);
    moor_runtime_options ro;
    fixture_runtime_options(&h.f, &ro);
    ro.helpers_max = 1;
    fixture_open_runtime(&h.f, &ro);
    handles_open_pool(&h, NULL);
    atomic_store(&h.script.block_ms, 1);
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = 3000;
    moor_acquired a;
    atomic_store(&refuses, true);
    assert_err(moor_acquire_wait(h.pool, &w, &a), MOOR_ENOMEM);
    atomic_store(&refuses, false);
    eventually(moor_acquire_wait(h.pool, &w, &a) == MOOR_OK);
    moor_release(a.lease, MOOR_REUSE);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_are_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
