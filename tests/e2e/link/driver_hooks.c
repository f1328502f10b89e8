/*
 * What the example driver's hooks come to in a pool, for driver_test.py. Includes the example, whose own
 * program stays unused. Arguments: URL, the case. Threads: this one, and the runtime's.
 */
#define main example_main
#include "driver_line.c"
#undef main

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static moor_acquired acquire(moor_pool *pool)
{
    moor_acquired got;
    CHECK(moor_acquire_wait(pool, NULL, &got) == MOOR_OK);
    return got;
}

static void time_is_told(moor_acquired got)
{
    const char *text = line_ask(got.native, "TIME\n");
    CHECK(text && !strcmp(text, "12:00"));
}

static void give_back_dirty(moor_pool *pool)
{
    moor_acquired got = acquire(pool);
    moor_release(got.lease, MOOR_DIRTY);
    got = acquire(pool);
    time_is_told(got);
    moor_release(got.lease, MOOR_REUSE);
}

/* The answer to it must never be the next holder's. */
static void give_back_unanswered(moor_pool *pool)
{
    moor_acquired got = acquire(pool);
    CHECK(line_put(got.native, "NAME\n") == 0);
    moor_release(got.lease, MOOR_REUSE);
    got = acquire(pool);
    CHECK(!got.reused);
    time_is_told(got);
    moor_release(got.lease, MOOR_REUSE);
}

/* Something happens to an idle connection; `stays`: whether the leased one is of use after that. */
static void hear_while_idle(moor_pool *pool, bool stays)
{
    moor_acquired leased = acquire(pool), idle = acquire(pool);
    moor_release(idle.lease, MOOR_REUSE);
    const char *text = line_ask(leased.native, "TELL\n");
    CHECK(text && !strcmp(text, "TOLD"));
    moor_release(leased.lease, MOOR_REUSE);
    moor_acquired got = acquire(pool);
    CHECK(got.reused == stays);
    moor_release(got.lease, MOOR_REUSE);
}

int main(int argc, char **argv)
{
    moor_runtime *runtime;
    moor_pool *pool;
    CHECK(argc == 3);
    CHECK(moor_runtime_create(NULL, &runtime) == MOOR_OK);
    CHECK(moor_driver_use(runtime, &line_driver) == MOOR_OK);
    CHECK(moor_pool_open(runtime, argv[1], NULL, &pool) == MOOR_OK);
    if (!strcmp(argv[2], "dirty"))
        give_back_dirty(pool);
    else if (!strcmp(argv[2], "unanswered"))
        give_back_unanswered(pool);
    else if (!strcmp(argv[2], "going"))
        hear_while_idle(pool, false);
    else if (!strcmp(argv[2], "ended"))
        hear_while_idle(pool, true);
    else
        CHECK(!"a known case");
    CHECK(moor_pool_close(pool, 5000) == MOOR_OK);
    CHECK(moor_runtime_destroy(runtime, 5000) == MOOR_OK);
    return 0;
}
