/*
 * One loop on a chosen backend for a test: heaps, buffers, real time. Everything a test of core/
 * needs before the first assertion. The test's own thread drives it.
 */
#ifndef TESTS_SUPPORT_LOOP_FIXTURE_H
#define TESTS_SUPPORT_LOOP_FIXTURE_H

#include "alloc/buf.h"
#include "alloc/heap.h"
#include "core/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct loop_fixture {
    struct mr_heap heap;   /* the loop's */
    struct mr_heap shared; /* a runtime's */
    struct mr_buf_pool bufs;
    struct mr_loop loop;
    struct mr_clock frozen; /* after loop_fixture_freeze */
    int64_t frozen_ns;
};

/* False (nothing kept): this machine has no such backend. */
static inline bool loop_fixture_init(struct loop_fixture *f, const char *backend)
{
    memset(f, 0, sizeof *f);
    char why[160] = "";
    assert_int_equal(mr_heap_init(&f->heap, SIZE_MAX, false), MOOR_OK);
    assert_int_equal(mr_heap_init(&f->shared, SIZE_MAX, true), MOOR_OK);
    assert_int_equal(mr_buf_pool_init(&f->bufs, &f->heap, 4096, 16, 4), MOOR_OK);
    struct mr_io_config c = {
        .bufs = &f->bufs,
        .heap = &f->heap,
        .sq_entries = 64,
        .cq_entries = 256,
        .posted_bytes_max = 64 << 10,
        .features = MR_IO_FEATURES_ALL,
    };
    struct mr_io *io;
    moor_err err = mr_io_create(backend, &c, &io, why, sizeof why);
    if (err == MOOR_ENOSYS) {
        print_message("no %s here: %s\n", backend, why);
        mr_buf_pool_fini(&f->bufs);
        mr_heap_fini(&f->shared);
        mr_heap_fini(&f->heap);
        return false;
    }
    assert_int_equal(err, MOOR_OK);
    mr_loop_init(&f->loop, io, &f->heap, &mr_clock_system, 1);
    return true;
}

static inline void loop_fixture_turn(struct loop_fixture *f, int64_t timeout_ms)
{
    assert_int_equal(mr_loop_turn(&f->loop, timeout_ms * MR_NS_PER_MS, 0), MOOR_OK);
}

/* Turns until *flag or until `ms` have passed. Returns *flag. */
static inline bool loop_fixture_run(struct loop_fixture *f, const bool *flag, int64_t ms)
{
    int64_t end = mr_clock_now(&mr_clock_system) + ms * MR_NS_PER_MS;
    while (!*flag && mr_clock_now(&mr_clock_system) < end)
        loop_fixture_turn(f, 1); /* deferred work may set the flag just before the wait */
    return *flag;
}

static inline void loop_fixture_run_for(struct loop_fixture *f, int64_t ms)
{
    bool never = false;
    (void)loop_fixture_run(f, &never, ms);
}

static inline int64_t loop_fixture_frozen_now(void *ctx)
{
    return ((struct loop_fixture *)ctx)->frozen_ns;
}

/* The loop's time stands still from now on, and moves by loop_fixture_pass only. */
static inline void loop_fixture_freeze(struct loop_fixture *f)
{
    f->frozen_ns = mr_clock_now(&mr_clock_system);
    f->frozen = (struct mr_clock){.now = loop_fixture_frozen_now, .ctx = f};
    f->loop.clock = &f->frozen;
    loop_fixture_turn(f, 0);
}

/* Moves the frozen time, then turns until what that sets off has had its events. */
static inline void loop_fixture_pass(struct loop_fixture *f, int64_t ms)
{
    f->frozen_ns += ms * MR_NS_PER_MS;
    for (int i = 0; i < 8; i++)
        loop_fixture_turn(f, i < 4 ? 0 : 1);
}

/* Every byte of both heaps must have come back. */
static inline void loop_fixture_fini(struct loop_fixture *f)
{
    mr_loop_fini(&f->loop);
    mr_buf_pool_fini(&f->bufs);
    assert_int_equal(atomic_load(&f->shared.used), 0);
    assert_int_equal(atomic_load(&f->heap.used), 0);
    mr_heap_fini(&f->shared);
    mr_heap_fini(&f->heap);
}

#endif
