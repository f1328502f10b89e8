/*
 * Peers that are down, names that do not resolve, descriptors and memory that run out: an error
 * soon, few attempts, and recovery within a second.
 */
#include "tests/support/fixture_pool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static struct fixture f;

/* A port where every connect is refused, until peer_listen. */
static struct peer down;

/* ---- refused ---- */

static void test_a_refused_connect(void **state)
{
    (void)state;
    peer_bind(&down, peer_serve_ok, NULL);
    fixture_open(&f, NULL, down.url, NULL);
    struct call c;
    call_init(&c, f.pool, "/");
    call_expect(&f, &c, MOOR_ECONNECT);
    assert_true(c.done.fault.safe_to_retry);
    assert_int_equal(c.done.fault.os_errno, ECONNREFUSED);
    assert_non_null(c.done.why);
    assert_err(c.why.connect_err, MOOR_ECONNECT);
    assert_int_equal(c.why.connect_errno, ECONNREFUSED);
    assert_true(c.why.connect_what[0] != '\0');
    assert_true(c.done.total < 2000 * 1000000LL);
    assert_true(fixture_has_logged(&f, "Connection refused"));
    call_fini(&c);
    fixture_close(&f);
    peer_stop(&down);
}

static void test_no_storm_on_a_peer_that_is_down(void **state)
{
    (void)state;
    peer_bind(&down, peer_serve_ok, NULL);
    fixture_open(&f, NULL, down.url, NULL);
    const int64_t began = fixture_now_ms();
    unsigned requests = 0;
    while (fixture_now_ms() - began < 600) {
        struct call c;
        call_init(&c, f.pool, "/");
        call_start(&f, &c);
        call_wait(&c);
        assert_err(c.done.fault.err, MOOR_ECONNECT);
        call_fini(&c);
        requests++;
    }
    const moor_stats s = fixture_stats(&f);
    assert_true(requests > 20);
    /* 100 ms doubled with jitter: about four attempts, at first perhaps several at once. */
    assert_in_range(s.dials_failed, 2, 20);
    assert_int_equal(s.waiters, 0);
    fixture_close(&f);
    peer_stop(&down);
}

static void test_recovery_within_a_second(void **state)
{
    (void)state;
    peer_bind(&down, peer_serve_ok, NULL);
    fixture_open(&f, NULL, down.url, NULL);
    struct call c;
    for (int i = 0; i < 30; i++) { /* long enough for the longest backoff */
        call_init(&c, f.pool, "/");
        call_expect(&f, &c, MOOR_ECONNECT);
        call_fini(&c);
        peer_sleep_ms(50);
    }
    peer_listen(&down);
    const int64_t back = fixture_now_ms();
    moor_err e = MOOR_ECONNECT;
    while (e && fixture_now_ms() - back < 10000) {
        call_init(&c, f.pool, "/");
        call_start(&f, &c);
        call_wait(&c);
        e = c.done.fault.err;
        call_fini(&c);
        peer_sleep_ms(5);
    }
    assert_err(e, MOOR_OK);
    assert_in_range(fixture_now_ms() - back, 0, 1000 + 500);
    fixture_close(&f);
    peer_stop(&down);
}

/* Waiters that came before the peer's return are told soon, not at their timeout. */
static void test_all_waiters_are_told(void **state)
{
    (void)state;
    peer_bind(&down, peer_serve_ok, NULL);
    fixture_open(&f, NULL, down.url, NULL);
    struct call *calls = calloc(50, sizeof *calls);
    for (int i = 0; i < 50; i++) {
        call_init(&calls[i], f.pool, "/");
        call_start(&f, &calls[i]);
    }
    for (int i = 0; i < 50; i++) {
        call_wait(&calls[i]);
        assert_err(calls[i].done.fault.err, MOOR_ECONNECT);
        assert_true(calls[i].done.total < 2000 * 1000000LL);
        call_fini(&calls[i]);
    }
    assert_in_range(fixture_stats(&f).dials_failed, 1, 60);
    free(calls);
    fixture_close(&f);
    peer_stop(&down);
}

/* ---- a peer that resets every idle connection ---- */

static void answer_then_reset(struct peer_conn *c)
{
    if (peer_head(c)) {
        peer_say(c, PEER_OK);
        peer_sleep_ms(5);
        peer_reset(c);
    }
}

static void test_a_peer_that_resets_every_idle_connection(void **state)
{
    (void)state;
    struct peer p;
    peer_start(&p, answer_then_reset, NULL);
    moor_pool_options po;
    fixture_pool_options(&po);
    fixture_open(&f, NULL, p.url, &po);
    for (int i = 0; i < 20; i++) {
        fixture_get_ok(&f);
        peer_sleep_ms(10);
    }
    const moor_stats s = fixture_stats(&f);
    assert_int_equal(s.requests_failed, 0);
    assert_in_range(atomic_load(&p.accepted), 10, 60);
    fixture_close(&f);
    peer_stop(&p);
}

static void reset_at_once(struct peer_conn *c)
{
    peer_sleep_ms(2);
    peer_reset(c);
}

static void test_min_idle_against_a_peer_that_resets_them(void **state)
{
    (void)state;
    struct peer p;
    peer_start(&p, reset_at_once, NULL);
    moor_pool_options po;
    fixture_pool_options(&po);
    po.conns_min_idle = 10;
    fixture_open(&f, NULL, p.url, &po);
    struct call c;
    call_init(&c, f.pool, "/");
    c.request.timeout_ms = 1000;
    call_start(&f, &c);
    call_wait(&c);
    call_fini(&c);
    const int before = atomic_load(&p.accepted);
    peer_sleep_ms(500);
    /* Ten at a time for ever would be a thousand. */
    assert_in_range(atomic_load(&p.accepted) - before, 0, 100);
    fixture_close(&f);
    peer_stop(&p);
}

/* ---- names ---- */

static void test_a_name_that_does_not_resolve(void **state)
{
    (void)state;
    moor_runtime_options ro;
    fixture_runtime_options(&f, &ro);
    ro.dns_servers = "127.0.0.1:9"; /* nobody answers there */
    ro.dns_timeout_ms = 50;
    ro.dns_tries = 1;
    fixture_open(&f, &ro, "http://no-such-name.invalid:80", NULL);
    struct call c;
    call_init(&c, f.pool, "/");
    call_expect(&f, &c, MOOR_ERESOLVE);
    assert_true(c.done.fault.safe_to_retry);
    assert_non_null(c.done.why);
    assert_err(c.why.connect_err, MOOR_ERESOLVE);
    call_fini(&c);
    fixture_close(&f);
}

static void test_a_name_of_the_hosts_file(void **state)
{
    (void)state;
    struct peer p;
    peer_start(&p, peer_serve_ok, NULL);
    char path[] = "/tmp/mooring-hosts-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "127.0.0.1 upstream.test\n", 24), 24);
    close(fd);
    moor_runtime_options ro;
    fixture_runtime_options(&f, &ro);
    ro.hosts_file = path;
    char url[64];
    snprintf(url, sizeof url, "http://upstream.test:%d", p.port);
    fixture_open(&f, &ro, url, NULL);
    fixture_get_ok(&f);
    fixture_close(&f);
    unlink(path);
    peer_stop(&p);
}

/* ---- what runs out here ---- */

static void test_out_of_descriptors(void **state)
{
    (void)state;
    struct peer p;
    peer_start(&p, peer_serve_ok, NULL);
    fixture_open(&f, NULL, p.url, NULL);
    /* The limit is one above what is open: the library's next socket is refused. */
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    int fillers[64], n = 0;
    const struct rlimit tight = {.rlim_cur = 64, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    while (n < 64 && (fillers[n] = open("/dev/null", O_RDONLY)) >= 0)
        n++;
    struct call c;
    call_init(&c, f.pool, "/");
    call_start(&f, &c);
    call_wait(&c);
    for (int i = 0; i < n; i++)
        close(fillers[i]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_err(c.done.fault.err, MOOR_ENOFILES);
    assert_int_equal(c.done.fault.os_errno, EMFILE);
    assert_true(c.done.fault.safe_to_retry);
    assert_non_null(c.done.why);
    call_fini(&c);
    const int64_t began = fixture_now_ms();
    moor_err e = MOOR_ENOFILES;
    while (e && fixture_now_ms() - began < 10000) {
        call_init(&c, f.pool, "/");
        call_start(&f, &c);
        call_wait(&c);
        e = c.done.fault.err;
        call_fini(&c);
        peer_sleep_ms(5);
    }
    assert_err(e, MOOR_OK);
    assert_in_range(fixture_now_ms() - began, 0, 1000 + 500);
    fixture_close(&f);
    peer_stop(&p);
}

static void stay_silent(struct peer_conn *c)
{
    if (peer_head(c))
        peer_linger(c);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct peer p;
    peer_start(&p, stay_silent, NULL);
    moor_runtime_options ro;
    fixture_runtime_options(&f, &ro);
    ro.memory_limit = 1 << 20;
    ro.recv_buffers = 16;
    ro.recv_buffer_size = 4096;
    ro.recv_posted_bytes = 16 << 10;
    ro.ring_entries = 64;
    fixture_open(&f, &ro, p.url, NULL);
    enum { N = 400 };
    struct call *calls = calloc(N, sizeof *calls);
    static char big[8192];
    memset(big, 'x', sizeof big);
    int sent = 0, refused = 0;
    for (int i = 0; i < N; i++) {
        call_init(&calls[i], f.pool, "/");
        calls[i].request.body = (moor_span){big, sizeof big};
        call_start(&f, &calls[i]);
        if (calls[i].sent == MOOR_OK)
            sent++;
        else {
            assert_err(calls[i].sent, MOOR_ENOMEM);
            refused++;
        }
    }
    assert_true(sent > 10);
    assert_true(refused > 10);
    for (int i = 0; i < N; i++) {
        moor_cancel(calls[i].op);
        if (calls[i].sent == MOOR_OK) {
            call_wait(&calls[i]);
            assert_true(calls[i].done.fault.err == MOOR_ECANCELED ||
                        calls[i].done.fault.err == MOOR_ENOMEM);
            call_check(&calls[i]);
        }
        call_fini(&calls[i]);
    }
    free(calls);
    /* Newcomers are welcome again, and what is left at the end is asserted by the heaps. A dial that failed for
     * memory is not tried again at once. */
    peer_sleep_ms(200);
    struct call c;
    call_init(&c, f.pool, "/");
    c.request.timeout_ms = 100;
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    call_fini(&c);
    fixture_close(&f);
    peer_stop(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test(test_##name)
        T(a_refused_connect),
        T(no_storm_on_a_peer_that_is_down),
        T(recovery_within_a_second),
        T(all_waiters_are_told),
        T(a_peer_that_resets_every_idle_connection),
        T(min_idle_against_a_peer_that_resets_them),
        T(a_name_that_does_not_resolve),
        T(a_name_of_the_hosts_file),
        T(out_of_descriptors),
        T(out_of_memory),
#undef T
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
