/* Which backend is chosen and why: io_uring where it is allowed, smaller rings where memory is
 * short, epoll where it is refused. What changes the process for good runs in a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/io_fixture.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77 };

static bool has_uring;

struct outcome {
    moor_err err;
    char name[16];
    char why[96];
};

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void run_in_child(void (*fn)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(20);
        fn();
        exit(0); /* not _exit, which would lose what coverage counted */
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == SKIPPED)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* System call `nr` fails with `e` from now on. */
static void refuse(int nr, int e)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)e),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = sizeof code / sizeof *code, .filter = code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0);
}

/* ---- an echo on whatever backend there is; without cmocka, as it runs in children ---- */

struct echo {
    struct mr_sock s;
    size_t bytes;
    bool connected, sent, closed;
};

static void on_connected(struct mr_sock *s, int err)
{
    CHECK(err == 0);
    MR_CONTAINER_OF(s, struct echo, s)->connected = true;
}
static void on_received(struct mr_sock *s, struct mr_buf *b, uint32_t len)
{
    MR_CONTAINER_OF(s, struct echo, s)->bytes += len;
    mr_buf_unref(b);
}
static void on_ended(struct mr_sock *s, int err)
{
    (void)s;
    CHECK(err == 0);
}
static void on_sent(struct mr_sock *s, int err, size_t taken)
{
    CHECK(err == 0 && taken == 5);
    MR_CONTAINER_OF(s, struct echo, s)->sent = true;
}
static void on_closed(struct mr_sock *s)
{
    MR_CONTAINER_OF(s, struct echo, s)->closed = true;
}
static const struct mr_sock_events events = {on_connected, on_received, on_ended, on_sent,
                                             on_closed};

static void turn(struct mr_io *io)
{
    CHECK(mr_io_wait(io, 10 * MR_NS_PER_MS) == MOOR_OK);
    mr_io_dispatch(io, 0);
}

static void echo(struct mr_io *io)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof to;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&to, sizeof to) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&to, &len) == 0);
    struct echo e = {.s = {.events = &events, .fd = -1}};
    CHECK(mr_io_connect(io, &e.s, (struct sockaddr *)&to, len, NULL) == 0);
    while (!e.connected)
        turn(io);
    int peer = accept(listener, NULL, NULL);
    struct iovec piece = {.iov_base = (void *)(uintptr_t) "hello", .iov_len = 5};
    struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1};
    mr_io_recv_start(io, &e.s);
    mr_io_send(io, &e.s, &m);
    while (!e.sent)
        turn(io);
    static char data[20000];
    CHECK(read(peer, data, sizeof data) == 5);
    CHECK(write(peer, data, sizeof data) == sizeof data);
    while (e.bytes < sizeof data)
        turn(io);
    mr_io_close(io, &e.s);
    while (!e.closed)
        turn(io);
    close(peer);
    close(listener);
}

/* A backend that was made must work too. */
static struct outcome try_backend(const char *backend, uint32_t features)
{
    struct outcome o = {.err = MOOR_OK};
    struct mr_heap heap;
    struct mr_buf_pool bufs;
    CHECK(mr_heap_init(&heap, SIZE_MAX, false) == MOOR_OK);
    CHECK(mr_buf_pool_init(&bufs, &heap, 4096, 64, 0) == MOOR_OK);
    struct mr_io_config c = {.bufs = &bufs, .heap = &heap, .features = features};
    struct mr_io *io = NULL;
    o.err = mr_io_create(backend, &c, &io, o.why, sizeof o.why);
    if (o.err == MOOR_OK) {
        snprintf(o.name, sizeof o.name, "%s", io->ops->name);
        echo(io);
        mr_io_destroy(io);
    } else {
        CHECK(!io);
    }
    mr_buf_pool_fini(&bufs);
    CHECK(atomic_load(&heap.used) == 0);
    mr_heap_fini(&heap);
    return o;
}

/* ---- cases ---- */

static void test_by_name(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    struct outcome o = try_backend("epoll", MR_IO_FEATURES_ALL);
    assert_string_equal(o.name, "epoll");
    assert_string_equal(o.why, "");
    o = try_backend("io_uring", MR_IO_FEATURES_ALL);
    assert_string_equal(o.name, "io_uring");
    assert_string_equal(o.why, "");
    o = try_backend("auto", MR_IO_FEATURES_ALL);
    assert_string_equal(o.name, "io_uring");
    o = try_backend(NULL, MR_IO_FEATURES_ALL);
    assert_string_equal(o.name, "io_uring");
    o = try_backend("kqueue", MR_IO_FEATURES_ALL);
    assert_int_equal(o.err, MOOR_EINVAL);
    assert_string_equal(o.why, "no such backend: kqueue");
}

static void test_with_the_features_of_the_oldest_kernel(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    assert_string_equal(try_backend("io_uring", 0).name, "io_uring");
}

static const char refused[] = "refused by seccomp or kernel.io_uring_disabled";

static void seccomp_child(void)
{
    refuse(SYS_io_uring_setup, EPERM);
    struct outcome o = try_backend("auto", MR_IO_FEATURES_ALL);
    CHECK(o.err == MOOR_OK);
    CHECK(strcmp(o.name, "epoll") == 0);
    CHECK(strcmp(o.why, refused) == 0);
    o = try_backend("io_uring", MR_IO_FEATURES_ALL);
    CHECK(o.err == MOOR_ENOSYS);
    CHECK(strcmp(o.why, refused) == 0);
}

static void test_seccomp_refuses_io_uring(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    run_in_child(seccomp_child);
}

static void no_io_uring_child(void)
{
    refuse(SYS_io_uring_setup, ENOSYS);
    struct outcome o = try_backend("auto", MR_IO_FEATURES_ALL);
    CHECK(strcmp(o.name, "epoll") == 0);
    CHECK(strcmp(o.why, "this kernel has no io_uring") == 0);
}

static void test_a_kernel_without_io_uring(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    run_in_child(no_io_uring_child);
}

static void old_io_uring_child(void)
{
    refuse(SYS_io_uring_setup, EINVAL);
    struct outcome o = try_backend("auto", MR_IO_FEATURES_ALL);
    CHECK(strcmp(o.name, "epoll") == 0);
    CHECK(strcmp(o.why, "kernel older than 6.1: no DEFER_TASKRUN") == 0);
}

static void test_an_io_uring_that_is_too_old(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    run_in_child(old_io_uring_child);
}

static void no_register_child(void)
{
    refuse(SYS_io_uring_register, EPERM);
    struct outcome o = try_backend("auto", MR_IO_FEATURES_ALL);
    CHECK(strcmp(o.name, "epoll") == 0);
    CHECK(strcmp(o.why, refused) == 0);
}

static void test_only_registering_is_refused(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    run_in_child(no_register_child);
}

static void no_enter_child(void)
{
    refuse(SYS_io_uring_enter, EPERM);
    struct outcome o = try_backend("auto", MR_IO_FEATURES_ALL);
    CHECK(strcmp(o.name, "epoll") == 0);
    CHECK(strcmp(o.why, refused) == 0);
}

static void test_only_entering_is_refused(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    run_in_child(no_enter_child);
}

static void old_epoll_child(void)
{
    refuse(SYS_epoll_pwait2, ENOSYS);
    CHECK(strcmp(try_backend("epoll", MR_IO_FEATURES_ALL).name, "epoll") == 0);
}

static void test_an_epoll_without_nanoseconds(void **state)
{
    (void)state;
    run_in_child(old_epoll_child);
}

/* Without the capability that exempts from the limit. What counts is all that the user has locked.
 */
static void limit_locked_memory(rlim_t bytes)
{
    struct rlimit l = {.rlim_cur = bytes, .rlim_max = bytes};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &l) == 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    CHECK(syscall(SYS_capset, &header, none) == 0);
}

static void small_memlock_child(void)
{
    limit_locked_memory(64 * 1024);
    struct outcome o = try_backend("auto", MR_IO_FEATURES_ALL);
    /* An ordinary user's other rings may have used the little there is. */
    if (getuid() != 0 && strcmp(o.name, "epoll") == 0)
        exit(SKIPPED);
    CHECK(strcmp(o.name, "io_uring") == 0);
    CHECK(strcmp(o.why, "") == 0);
}

static void test_little_locked_memory_makes_small_rings(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    run_in_child(small_memlock_child);
}

static void no_memlock_child(void)
{
    limit_locked_memory(4096);
    struct outcome o = try_backend("auto", MR_IO_FEATURES_ALL);
    CHECK(strcmp(o.name, "epoll") == 0);
    CHECK(strcmp(o.why, "out of locked memory (RLIMIT_MEMLOCK)") == 0);
}

static void test_no_locked_memory_makes_epoll(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    run_in_child(no_memlock_child);
}

static void test_without_descriptors(void **state)
{
    (void)state;
    const char *const backends[] = {"io_uring", "epoll", "auto"};
    struct rlimit old, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    for (size_t i = 0; i < 3; i++) {
        none = old;
        none.rlim_cur = 0;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        struct outcome o = try_backend(backends[i], MR_IO_FEATURES_ALL);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        assert_int_equal(o.err, MOOR_ENOFILES);
        assert_true(o.why[0] != '\0');
    }
}

static void test_every_allocation_of_the_creation_fails(void **state)
{
    (void)state;
    if (!has_uring)
        skip();
    const char *const backends[] = {"io_uring", "epoll"};
    for (size_t i = 0; i < 2; i++) {
        struct mr_heap heap;
        struct mr_buf_pool bufs;
        struct mr_io *io = NULL;
        char why[64];
        assert_int_equal(mr_heap_init(&heap, SIZE_MAX, false), MOOR_OK);
        assert_int_equal(mr_buf_pool_init(&bufs, &heap, 4096, 64, 0), MOOR_OK);
        struct mr_io_config c = {.bufs = &bufs, .heap = &heap};
        mr_heap_fault_at(0);
        assert_int_equal(mr_io_create(backends[i], &c, &io, why, sizeof why), MOOR_ENOMEM);
        /* The later ones are buffers to post: it is made without and gets them later. */
        for (long nth = 1; nth < 20; nth++) {
            mr_heap_fault_at(nth);
            assert_int_equal(mr_io_create(backends[i], &c, &io, why, sizeof why), MOOR_OK);
            mr_heap_fault_at(-1);
            mr_io_destroy(io);
        }
        mr_heap_fault_at(-1);
        mr_buf_pool_fini(&bufs);
        assert_int_equal(atomic_load(&heap.used), 0);
        mr_heap_fini(&heap);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_name),
        cmocka_unit_test(test_with_the_features_of_the_oldest_kernel),
        cmocka_unit_test(test_seccomp_refuses_io_uring),
        cmocka_unit_test(test_a_kernel_without_io_uring),
        cmocka_unit_test(test_an_io_uring_that_is_too_old),
        cmocka_unit_test(test_only_registering_is_refused),
        cmocka_unit_test(test_only_entering_is_refused),
        cmocka_unit_test(test_an_epoll_without_nanoseconds),
        cmocka_unit_test(test_little_locked_memory_makes_small_rings),
        cmocka_unit_test(test_no_locked_memory_makes_epoll),
        cmocka_unit_test(test_without_descriptors),
        cmocka_unit_test(test_every_allocation_of_the_creation_fails),
    };
    has_uring = io_skip_refused();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
