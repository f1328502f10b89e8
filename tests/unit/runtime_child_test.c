/*
 * Child processes: one that inherits a runtime it must not use, and one that may not use io_uring.
 * In the children nothing asserts with cmocka: they end with what they saw.
 */
#include "tests/support/fixture_pool.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct origin_process origin;
static struct fixture f;

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void expect_child(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- fork ---- */

#if defined(__SANITIZE_THREAD__)
/* ThreadSanitizer ends a child of a threaded process that starts threads. */
static void use_one_of_its_own(void) {}
#else
static void use_one_of_its_own(void)
{
    moor_runtime *own = NULL;
    moor_pool *p = NULL;
    moor_runtime_options ro;
    moor_runtime_options_init(&ro);
    ro.shards = 1;
    CHECK(moor_runtime_create(&ro, &own) == MOOR_OK);
    CHECK(moor_pool_open(own, origin.url, NULL, &p) == MOOR_OK);
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/bytes/1000";
    moor_http_response *res = NULL;
    CHECK(moor_http_fetch(p, &r, &res, NULL) == MOOR_OK);
    CHECK(res->body.len == 1000);
    moor_http_response_free(res);
    CHECK(moor_pool_close(p, 5000) == MOOR_OK);
    CHECK(moor_runtime_destroy(own, 5000) == MOOR_OK);
}
#endif

static void use_what_the_parent_has(moor_chunk chunk, moor_op op)
{
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/";
    moor_http_response *res = NULL;
    moor_pool *p = NULL;
    moor_shard *s = NULL;
    moor_task t = {.run = (void (*)(void *))abort};
    static const moor_http_handlers h = {
        .size = sizeof h, .on_done = (void (*)(void *, const moor_http_done *))abort};
    CHECK(moor_http_fetch(f.pool, &r, &res, NULL) == MOOR_EFORKED);
    CHECK(moor_http_send(f.pool, &r, &h, NULL, NULL) == MOOR_EFORKED);
    CHECK(moor_pool_open(f.runtime, origin.url, NULL, &p) == MOOR_EFORKED);
    CHECK(moor_post(moor_shard_at(f.runtime, 0), &t) == MOOR_EFORKED);
    CHECK(moor_shard_adopt(f.runtime, &s) == MOOR_EFORKED);
    CHECK(moor_pool_close(f.pool, 0) == MOOR_EFORKED);
    CHECK(moor_runtime_destroy(f.runtime, 0) == MOOR_EFORKED);
    moor_pool_drain(f.pool, 0, NULL, NULL);
    moor_chunk_return(chunk);
    moor_cancel(op);
    moor_body_resume(op);
    use_one_of_its_own();
    _exit(0);
}

static void test_a_forked_child_is_told(void **state)
{
    (void)state;
    fixture_open(&f, NULL, origin.url, NULL);
    struct call held, running;
    call_init(&held, f.pool, "/bytes/5000");
    held.is_holding = true;
    call_expect(&f, &held, MOOR_OK);
    call_init(&running, f.pool, "/delay/300");
    call_start(&f, &running);
    /* A sanitizer's allocator does not survive a fork while another thread is inside it: the shard is to
     * wait for the answer by now. */
    peer_sleep_ms(60);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        use_what_the_parent_has(held.held[0], running.op);
    expect_child(pid);
    /* The parent noticed nothing: neither the cancel nor the returned chunk nor the drain. */
    call_wait(&running);
    assert_err(running.done.fault.err, MOOR_OK);
    assert_int_equal(fixture_stats(&f).chunks_lent, (uint64_t)held.held_count);
    call_return_all(&held);
    call_fini(&running);
    call_init(&running, f.pool, "/bytes/10");
    call_expect(&f, &running, MOOR_OK);
    call_fini(&running);
    call_fini(&held);
    fixture_close(&f);
}

static void test_a_child_of_an_adopted_shard(void **state)
{
    (void)state;
    moor_runtime_options ro;
    fixture_runtime_options(&f, &ro);
    ro.shards = 0;
    fixture_open(&f, &ro, origin.url, NULL);
    moor_shard *s = NULL;
    assert_err(moor_shard_adopt(f.runtime, &s), MOOR_OK);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        CHECK(moor_shard_step(s, 0) == MOOR_EFORKED);
        CHECK(moor_shard_wait(s, 10) == MOOR_EFORKED);
        moor_shard_leave(s);
        _exit(0);
    }
    expect_child(pid);
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = "/bytes/100";
    moor_http_response *res = NULL;
    assert_err(moor_http_fetch(f.pool, &r, &res, NULL), MOOR_OK);
    moor_http_response_free(res);
    moor_shard_leave(s);
    fixture_close(&f);
}

/* ---- io_uring refused ---- */

static void forbid_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog prog = {.len = sizeof code / sizeof *code, .filter = code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0);
}

static void note_code(void *user, int level, const char *code, const char *text)
{
    (void)level;
    (void)text;
    atomic_fetch_add((atomic_int *)user, !strcmp(code, "runtime.backend")); /* by any thread */
}

static void work_without_io_uring(void)
{
    forbid_io_uring();
    unsetenv("MOORING_IO_BACKEND");
    moor_runtime_options ro;
    moor_runtime_options_init(&ro);
    atomic_int logged = 0;
    ro.shards = 2;
    ro.on_log = note_code;
    ro.log_user = &logged;
    moor_runtime *r = NULL;
    moor_pool *p = NULL;
    CHECK(moor_runtime_create(&ro, &r) == MOOR_OK);
    CHECK(!strcmp(moor_runtime_backend(r), "epoll"));
    CHECK(strstr(moor_runtime_backend_reason(r), "seccomp"));
    CHECK(moor_pool_open(r, origin.url, NULL, &p) == MOOR_OK);
    moor_http_request q;
    moor_http_request_init(&q);
    q.url = "/bytes/300000";
    for (int i = 0; i < 4; i++) {
        moor_http_response *res = NULL;
        CHECK(moor_http_fetch(p, &q, &res, NULL) == MOOR_OK);
        CHECK(res->body.len == 300000);
        moor_http_response_free(res);
    }
    CHECK(moor_pool_close(p, 5000) == MOOR_OK);
    CHECK(moor_runtime_destroy(r, 5000) == MOOR_OK);
    CHECK(logged == 1);
    /* Asked for by name, it is an error and nothing else is taken. */
    ro.io_backend = "io_uring";
    CHECK(moor_runtime_create(&ro, &r) == MOOR_ENOSYS);
    _exit(0);
}

static void test_io_uring_refused_by_seccomp(void **state)
{
    (void)state;
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        work_without_io_uring();
    expect_child(pid);
}

static void test_the_backend_asked_for(void **state)
{
    (void)state;
    fixture_open(&f, NULL, origin.url, NULL);
    const char *wanted = getenv("MOORING_IO_BACKEND");
    if (wanted) {
        assert_string_equal(moor_runtime_backend(f.runtime), wanted);
        assert_string_equal(moor_runtime_backend_reason(f.runtime), "");
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First, while this process has one thread. */
        cmocka_unit_test(test_io_uring_refused_by_seccomp),
        cmocka_unit_test(test_a_forked_child_is_told),
        cmocka_unit_test(test_a_child_of_an_adopted_shard),
        cmocka_unit_test(test_the_backend_asked_for),
    };
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
