/* Polls of foreign descriptors, wakes, timeouts and the embedded descriptor; on each backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/io_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct watcher {
    struct io_fixture *f;
    int fired;
    uint32_t events;
    int again_fd; /* poll this from within the call; -1 = none */
};

static void on_ready(void *ctx, uint32_t events)
{
    struct watcher *w = ctx;
    assert_true(w->f->is_dispatching);
    w->fired++;
    w->events = events;
    int fd = w->again_fd;
    w->again_fd = -1;
    if (fd >= 0)
        assert_true(mr_io_poll(w->f->io, fd, POLLIN, on_ready, w) != 0);
}

static struct watcher watcher(struct io_fixture *f)
{
    return (struct watcher){.f = f, .again_fd = -1};
}

static uint64_t watch(struct watcher *w, int fd, uint32_t mask)
{
    uint64_t id = mr_io_poll(w->f->io, fd, mask, on_ready, w);
    assert_true(id != 0);
    return id;
}

static void settle(struct io_fixture *f)
{
    for (int i = 0; i < 4; i++)
        io_turn(f, 1);
}

/* ---- polls ---- */

static void test_a_poll_fires_once(void **state)
{
    struct io_fixture *f = *state;
    int p[2];
    assert_int_equal(pipe(p), 0);
    struct watcher w = watcher(f);
    watch(&w, p[0], POLLIN);
    settle(f);
    assert_int_equal(w.fired, 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    io_until(f, w.fired);
    assert_int_equal(w.events & POLLIN, POLLIN);
    assert_int_equal(write(p[1], "x", 1), 1);
    settle(f);
    assert_int_equal(w.fired, 1);
    /* Level: what is there already counts. */
    watch(&w, p[0], POLLIN);
    io_until(f, w.fired == 2);
    /* Renewed within its own call, one event each. */
    w.again_fd = p[0];
    watch(&w, p[0], POLLIN);
    io_until(f, w.fired == 4);
    settle(f);
    assert_int_equal(w.fired, 4);
    close(p[0]);
    close(p[1]);
}

static void test_writable_and_hung_up(void **state)
{
    struct io_fixture *f = *state;
    int p[2];
    assert_int_equal(pipe(p), 0);
    struct watcher out = watcher(f), in = watcher(f);
    watch(&out, p[1], POLLOUT);
    watch(&in, p[0], POLLIN);
    io_until(f, out.fired);
    assert_int_equal(out.events, POLLOUT);
    assert_int_equal(in.fired, 0);
    close(p[1]);
    io_until(f, in.fired);
    assert_int_equal(in.events & POLLHUP, POLLHUP);
    close(p[0]);
}

static void test_cancelled_polls_never_fire(void **state)
{
    struct io_fixture *f = *state;
    int p[2];
    assert_int_equal(pipe(p), 0);
    struct watcher w = watcher(f);
    /* Before the kernel knows, while it waits, when it is ready, when it is fetched. */
    mr_io_poll_cancel(f->io, watch(&w, p[0], POLLIN));
    uint64_t id = watch(&w, p[0], POLLIN);
    settle(f);
    mr_io_poll_cancel(f->io, id);
    settle(f);
    id = watch(&w, p[0], POLLIN);
    settle(f);
    assert_int_equal(write(p[1], "x", 1), 1);
    mr_io_poll_cancel(f->io, id);
    settle(f);
    id = watch(&w, p[0], POLLIN);
    assert_int_equal(mr_io_wait(f->io, 100 * MR_NS_PER_MS), MOOR_OK);
    mr_io_poll_cancel(f->io, id);
    settle(f);
    assert_int_equal(w.fired, 0);
    /* Stale ids and no id. */
    mr_io_poll_cancel(f->io, id);
    mr_io_poll_cancel(f->io, 0);
    uint64_t live = watch(&w, p[0], POLLIN);
    assert_true(live != id);
    mr_io_poll_cancel(f->io, id);
    io_until(f, w.fired == 1);
    mr_io_poll_cancel(f->io, live);
    close(p[0]);
    close(p[1]);
}

static void test_two_polls_of_one_descriptor(void **state)
{
    struct io_fixture *f = *state;
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    struct watcher in = watcher(f), out = watcher(f), in2 = watcher(f);
    watch(&in, s[0], POLLIN);
    watch(&out, s[0], POLLOUT);
    uint64_t id = watch(&in2, s[0], POLLIN);
    io_until(f, out.fired);
    settle(f);
    assert_int_equal(in.fired, 0);
    mr_io_poll_cancel(f->io, id);
    assert_int_equal(write(s[1], "x", 1), 1);
    io_until(f, in.fired);
    settle(f);
    assert_int_equal(in.fired, 1);
    assert_int_equal(out.fired, 1);
    assert_int_equal(in2.fired, 0);
    close(s[0]);
    close(s[1]);
}

/* A library closes its descriptor and the next one has the same number. */
static void test_the_number_is_used_again(void **state)
{
    struct io_fixture *f = *state;
    int a[2], b[2];
    for (int fetched = 0; fetched < 2; fetched++) {
        assert_int_equal(pipe(a), 0);
        assert_int_equal(pipe(b), 0);
        struct watcher old = watcher(f), new = watcher(f);
        uint64_t id = watch(&old, a[0], POLLIN);
        settle(f);
        assert_int_equal(write(a[1], "x", 1), 1);
        if (fetched)
            assert_int_equal(mr_io_wait(f->io, 0), MOOR_OK);
        mr_io_poll_cancel(f->io, id);
        assert_int_equal(dup2(b[0], a[0]), a[0]);
        watch(&new, a[0], POLLIN);
        settle(f);
        assert_int_equal(old.fired, 0);
        assert_int_equal(new.fired, 0);
        assert_int_equal(write(b[1], "y", 1), 1);
        io_until(f, new.fired);
        /* After it fired nothing is to be cancelled: the number may change hands at once. */
        close(a[0]);
        close(a[1]);
        int c[2];
        assert_int_equal(pipe(c), 0);
        watch(&new, c[0], POLLIN);
        settle(f);
        assert_int_equal(new.fired, 1);
        assert_int_equal(write(c[1], "z", 1), 1);
        io_until(f, new.fired == 2);
        for (int i = 0; i < 2; i++) {
            close(b[i]);
            close(c[i]);
        }
    }
}

static void test_what_cannot_be_polled(void **state)
{
    struct io_fixture *f = *state;
    struct watcher bad = watcher(f), file = watcher(f);
    int fd = open("/proc/self/exe", O_RDONLY);
    int gone = dup(fd);
    close(gone);
    watch(&bad, gone, POLLIN);
    watch(&file, fd, POLLIN);
    assert_int_equal(bad.fired + file.fired, 0);
    io_until(f, bad.fired && file.fired);
    assert_true(bad.events & POLLERR);
    assert_true(file.events & POLLIN);
    uint64_t id = watch(&file, fd, POLLIN);
    mr_io_poll_cancel(f->io, id);
    settle(f);
    assert_int_equal(file.fired, 1);
    close(fd);
}

static void test_many_polls(void **state)
{
    enum { COUNT = 150 };
    struct io_fixture *f = *state;
    static int s[COUNT][2];
    static struct watcher w[COUNT];
    uint64_t ids[COUNT];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) {
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s[i]), 0);
            w[i] = watcher(f);
            ids[i] = watch(&w[i], s[i][0], POLLIN);
        }
        settle(f);
        for (int i = 0; i < COUNT; i++)
            assert_int_equal(write(s[i][1], "x", 1), 1);
        for (int i = 1; i < COUNT; i += 2)
            mr_io_poll_cancel(f->io, ids[i]);
        for (int i = 0; i < COUNT; i += 2)
            io_until(f, w[i].fired);
        for (int i = 0; i < COUNT; i++) {
            assert_int_equal(w[i].fired, i % 2 == 0);
            close(s[i][0]);
            close(s[i][1]);
        }
    }
}

static void test_a_poll_without_memory(void **state)
{
    struct io_fixture *f = *state;
    int p[2];
    assert_int_equal(pipe(p), 0);
    struct watcher w = watcher(f);
    long failed = 0;
    for (long nth = 0; nth < 3; nth++) {
        mr_heap_fault_at(nth);
        uint64_t id = mr_io_poll(f->io, p[0], POLLIN, on_ready, &w);
        mr_heap_fault_at(-1);
        failed += id == 0;
        mr_io_poll_cancel(f->io, id);
        settle(f);
    }
    assert_true(failed > 0);
    watch(&w, p[0], POLLIN);
    assert_int_equal(write(p[1], "x", 1), 1);
    io_until(f, w.fired);
    /* Cancelled, and the backend is destroyed before the kernel says so. */
    assert_int_equal(read(p[0], &(char){0}, 1), 1);
    uint64_t id = watch(&w, p[0], POLLIN);
    io_turn(f, 0);
    mr_io_poll_cancel(f->io, id);
    close(p[0]);
    close(p[1]);
}

/* ---- wake and time ---- */

static void *wake_later(void *io)
{
    usleep(20000);
    mr_io_wake(io);
    return NULL;
}

static int64_t now(void)
{
    return mr_clock_now(&mr_clock_system);
}

/* A wait may end early: a ring that was destroyed before interrupts its thread once more when the
 * kernel has really ended it. */
static void assert_waits(struct io_fixture *f, int64_t ns)
{
    int64_t start = now();
    for (int calls = 0; now() - start < ns; calls++) {
        assert_true(calls < 4);
        assert_int_equal(mr_io_wait(f->io, ns - (now() - start)), MOOR_OK);
        assert_int_equal(mr_io_dispatch(f->io, 0), 0);
    }
    assert_true(now() - start < ns + MR_NS_PER_SEC);
}

static void test_a_wake_ends_the_wait(void **state)
{
    struct io_fixture *f = *state;
    for (int i = 0; i < 3; i++) {
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, wake_later, f->io), 0);
        assert_int_equal(mr_io_wait(f->io, MR_NEVER), MOOR_OK);
        mr_io_dispatch(f->io, 0);
        pthread_join(t, NULL);
    }
    /* Before the wait, and several as one. */
    for (int i = 0; i < 5; i++)
        mr_io_wake(f->io);
    assert_int_equal(mr_io_wait(f->io, MR_NEVER), MOOR_OK);
    settle(f);
    assert_waits(f, 30 * MR_NS_PER_MS);
}

static void test_timeouts(void **state)
{
    struct io_fixture *f = *state;
    settle(f);
    const int64_t waits[] = {300 * MR_NS_PER_US, 3 * MR_NS_PER_MS, 40 * MR_NS_PER_MS};
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++)
        assert_waits(f, waits[i]);
    assert_false(mr_io_is_ready(f->io));
    int64_t start = now();
    for (int i = 0; i < 100; i++)
        io_turn(f, 0);
    assert_true(now() - start < MR_NS_PER_SEC);
}

static void test_an_idle_turn_of_no_time_costs_no_system_call(void **state)
{
    struct io_fixture *f = *state;
    if (strcmp(f->backend, "io_uring") != 0)
        skip();
    settle(f);
    uint64_t enters = f->io->stats.enters;
    for (int i = 0; i < 100; i++)
        io_turn(f, 0);
    assert_int_equal(f->io->stats.enters, enters);
}

static void test_a_budget_leaves_the_rest(void **state)
{
    enum { COUNT = 10 };
    struct io_fixture *f = *state;
    int p[COUNT][2];
    struct watcher w[COUNT];
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(pipe(p[i]), 0);
        assert_int_equal(write(p[i][1], "x", 1), 1);
        w[i] = watcher(f);
        watch(&w[i], p[i][0], POLLIN);
    }
    settle(f);
    for (int i = 0; i < COUNT; i++)
        watch(&w[i], p[i][0], POLLIN);
    assert_int_equal(mr_io_wait(f->io, 0), MOOR_OK);
    for (int left = COUNT; left > 0; left -= 2) {
        assert_true(mr_io_is_ready(f->io));
        assert_int_equal(mr_io_wait(f->io, MR_NEVER), MOOR_OK);
        f->is_dispatching = true;
        assert_int_equal(mr_io_dispatch(f->io, 2), 2);
        f->is_dispatching = false;
    }
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(w[i].fired, 2);
        close(p[i][0]);
        close(p[i][1]);
    }
}

/* ---- embedded ---- */

static bool polls_readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, timeout_ms) == 1;
}

static void test_the_descriptor_tells_a_foreign_loop(void **state)
{
    const struct mr_io_config config = {.features = MR_IO_FEATURES_ALL, .is_embedded = true};
    struct io_fixture *f = io_fixture_open(*state, 64, &config);
    assert_non_null(f);
    int fd = mr_io_fd(f->io);
    assert_true(fd >= 0);
    /* A wake before the first turn. */
    mr_io_wake(f->io);
    assert_true(polls_readable(fd, 5000));
    settle(f);
    assert_false(polls_readable(fd, 0));

    int listener = io_listen(NULL);
    struct io_client c;
    io_client_init(&c, f);
    int peer = io_client_connect(&c, listener);
    mr_io_recv_start(f->io, &c.s);
    for (int i = 1; i <= 50; i++) {
        while (mr_io_is_ready(f->io))
            io_turn(f, 0);
        assert_false(polls_readable(fd, 0));
        assert_int_equal(write(peer, "tick", 4), 4);
        assert_true(polls_readable(fd, 5000));
        io_turn(f, 0);
        assert_int_equal(c.bytes, 4 * (size_t)i);
    }
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, wake_later, f->io), 0);
    assert_true(polls_readable(fd, 5000));
    pthread_join(t, NULL);
    io_turn(f, 0);
    io_client_close(&c);
    close(peer);
    close(listener);
    io_fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IO_CASE(test_a_poll_fires_once),
        IO_CASE(test_writable_and_hung_up),
        IO_CASE(test_cancelled_polls_never_fire),
        IO_CASE(test_two_polls_of_one_descriptor),
        IO_CASE(test_the_number_is_used_again),
        IO_CASE(test_what_cannot_be_polled),
        IO_CASE(test_many_polls),
        IO_CASE(test_a_poll_without_memory),
        IO_CASE(test_a_wake_ends_the_wait),
        IO_CASE(test_timeouts),
        IO_CASE(test_an_idle_turn_of_no_time_costs_no_system_call),
        IO_CASE(test_a_budget_leaves_the_rest),
        {"embedded on io_uring", test_the_descriptor_tells_a_foreign_loop, NULL, NULL,
         (void *)"io_uring"},
        {"embedded on epoll", test_the_descriptor_tells_a_foreign_loop, NULL, NULL,
         (void *)"epoll"},
    };
    return io_run(tests);
}
