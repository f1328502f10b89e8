/*
 * Chunks are lent: kept for long, returned from other threads, twice, or after everything else is
 * over. What is kept stops its own socket and nobody else's.
 */
#include "tests/support/fixture_pool.h"

#include <stdlib.h>
#include <sys/socket.h>

static struct origin_process origin;
static struct fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_open(&f, NULL, origin.url, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_close(&f);
    return 0;
}

static void expect_pattern(const struct call *c)
{
    uint64_t at = 0;
    for (int i = 0; i < c->held_count; i++) {
        const uint8_t *bytes = c->held[i].bytes.base;
        for (size_t k = 0; k < c->held[i].bytes.len; k++, at++)
            if (bytes[k] != (uint8_t)(at % 251 * 131 % 251))
                fail_msg("byte %llu of a kept chunk changed", (unsigned long long)at);
    }
}

/* ---- backpressure ---- */

/* Both kernels' socket buffers, tcp_rmem and tcp_wmem at their usual ceilings. */
enum { WINDOW = 64 << 10, KERNEL_BUFFERS_MAX = 24 << 20 };

static atomic_size_t pushed; /* bytes the server's kernel took */

static void push_for_ever(struct peer_conn *c)
{
    static const char zeros[16384];
    while (peer_head(c)) {
        peer_say(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while (!atomic_load(&c->peer->is_stopping)) {
            const ssize_t n = send(c->fd, zeros, sizeof zeros, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n > 0)
                atomic_fetch_add(&pushed, (size_t)n);
            else
                peer_sleep_ms(1);
            char gone;
            if (recv(c->fd, &gone, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
                return;
        }
    }
}

static uint64_t bytes_of(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    const uint64_t n = c->bytes;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void test_kept_chunks_stop_their_socket(void **state)
{
    (void)state;
    atomic_store(&pushed, 0);
    struct peer peer;
    peer_start(&peer, push_for_ever, NULL);
    moor_pool_options po;
    fixture_pool_options(&po);
    po.window_bytes = WINDOW;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, &po, &p), MOOR_OK);
    struct call *c = malloc(sizeof *c);
    call_init(c, p, "/");
    c->is_holding = true;
    call_start(&f, c);
    eventually(bytes_of(c) >= WINDOW);
    /* Others go on. */
    for (int i = 0; i < 5; i++) {
        struct call other;
        call_init(&other, f.pool, "/bytes/500000");
        call_expect(&f, &other, MOOR_OK);
        assert_true(other.is_pattern);
        call_fini(&other);
    }
    peer_sleep_ms(200);
    /* The window, and what one receive may bring beyond it. */
    const uint64_t stopped_at = bytes_of(c);
    assert_in_range(stopped_at, WINDOW, WINDOW + (64 << 10));
    assert_in_range(atomic_load(&pushed), WINDOW, KERNEL_BUFFERS_MAX);
    /* Returned from this thread: it flows again, until the next full window. */
    pthread_mutex_lock(&c->lock);
    const int n = c->held_count;
    for (int i = 0; i < n; i++)
        moor_chunk_return(c->held[i]);
    pthread_mutex_unlock(&c->lock);
    eventually(bytes_of(c) >= stopped_at + WINDOW);
    peer_sleep_ms(100);
    assert_in_range(bytes_of(c), stopped_at + WINDOW, stopped_at + WINDOW + (64 << 10));
    moor_cancel(c->op);
    call_wait(c);
    assert_err(c->done.fault.err, MOOR_ECANCELED);
    call_return_all(c); /* some for the second time: nothing */
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    call_fini(c);
    free(c);
    peer_stop(&peer);
}

/* A reader that returns late is slow, not broken: the connection is kept. */
static void *return_slowly(void *arg)
{
    struct call *c = arg;
    for (int done = 0; !call_is_over(c) || done < c->held_count;) {
        peer_sleep_ms(2);
        pthread_mutex_lock(&c->lock);
        const int n = c->held_count;
        pthread_mutex_unlock(&c->lock);
        for (; done < n; done++) {
            moor_chunk_return(c->held[done]);
            moor_chunk_return(c->held[done]);
        }
    }
    return NULL;
}

static void test_a_slow_reader_in_another_thread(void **state)
{
    (void)state;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.window_bytes = 32 << 10;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, origin.url, &po, &p), MOOR_OK);
    for (int i = 0; i < 4; i++) {
        struct call *c = malloc(sizeof *c);
        call_init(c, p, i % 2 ? "/bytes/3000000" : "/chunked/3000000?chunk=50000");
        c->is_holding = true;
        call_start(&f, c);
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, return_slowly, c), 0);
        call_wait(c);
        pthread_join(t, NULL);
        assert_err(c->done.fault.err, MOOR_OK);
        assert_int_equal(c->bytes, 3000000);
        assert_true(c->is_pattern);
        call_check(c);
        call_fini(c);
        free(c);
    }
    moor_stats s;
    moor_stats_read(p, &s);
    eventually((moor_stats_read(p, &s), s.chunks_lent == 0));
    assert_int_equal(s.conns_created, 1);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
}

/* ---- few buffers ---- */

static void test_new_data_is_copied_when_buffers_are_low(void **state)
{
    (void)state;
    moor_runtime_options ro;
    struct fixture g;
    fixture_runtime_options(&g, &ro);
    ro.recv_buffers = 16;
    ro.recv_buffer_size = 4096;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.window_bytes = 1 << 30;
    fixture_open(&g, &ro, origin.url, &po);
    struct call *c = malloc(sizeof *c);
    call_init(c, g.pool, "/bytes/1000000");
    c->is_holding = true;
    call_expect(&g, c, MOOR_OK);
    assert_true(c->is_pattern);
    const moor_stats s = fixture_stats(&g);
    assert_true(s.chunks_copied > 0);
    assert_int_equal(s.chunks_lent, (uint64_t)c->held_count);
    /* While all of that is out, others are served. */
    struct call other;
    call_init(&other, g.pool, "/bytes/300000");
    call_expect(&g, &other, MOOR_OK);
    assert_true(other.is_pattern);
    call_fini(&other);
    expect_pattern(c);
    call_return_all(c);
    eventually(fixture_stats(&g).chunks_lent == 0);
    call_fini(c);
    free(c);
    fixture_close(&g);
}

/* ---- the end ---- */

static void test_close_waits_for_chunks(void **state)
{
    (void)state;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, origin.url, NULL, &p), MOOR_OK);
    struct call *c = malloc(sizeof *c);
    call_init(c, p, "/bytes/100000");
    c->is_holding = true;
    call_start(&f, c);
    call_wait(c);
    assert_err(c->done.fault.err, MOOR_OK);
    assert_err(moor_pool_close(p, 50), MOOR_EBUSY);
    expect_pattern(c);
    assert_err(moor_pool_close(p, 0), MOOR_EBUSY);
    call_return_all(c);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    call_fini(c);
    free(c);
}

static void test_destroy_waits_for_chunks(void **state)
{
    (void)state;
    struct fixture g;
    fixture_open(&g, NULL, origin.url, NULL);
    struct call *c = malloc(sizeof *c);
    call_init(c, g.pool, "/bytes/100000");
    c->is_holding = true;
    call_expect(&g, c, MOOR_OK);
    assert_err(moor_runtime_destroy(g.runtime, 50), MOOR_EBUSY);
    expect_pattern(c);
    call_return_all(c);
    assert_err(moor_runtime_destroy(g.runtime, 5000), MOOR_OK);
    call_fini(c);
    free(c);
}

static void *return_and_again(void *arg)
{
    struct call *c = arg;
    for (int i = 0; i < c->held_count; i++)
        moor_chunk_return(c->held[i]);
    return NULL;
}

static void test_two_threads_return_the_same_chunks(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        struct call *c = malloc(sizeof *c);
        call_init(c, f.pool, "/bytes/200000");
        c->is_holding = true;
        call_expect(&f, c, MOOR_OK);
        pthread_t a, b;
        assert_int_equal(pthread_create(&a, NULL, return_and_again, c), 0);
        assert_int_equal(pthread_create(&b, NULL, return_and_again, c), 0);
        pthread_join(a, NULL);
        pthread_join(b, NULL);
        eventually(fixture_stats(&f).chunks_lent == 0);
        call_fini(c);
        free(c);
    }
    moor_runtime_stats rs;
    moor_runtime_stats_read(f.runtime, &rs);
    eventually((moor_runtime_stats_read(f.runtime, &rs), rs.buffers_held == 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        T(kept_chunks_stop_their_socket),
        T(a_slow_reader_in_another_thread),
        T(new_data_is_copied_when_buffers_are_low),
        T(close_waits_for_chunks),
        T(destroy_waits_for_chunks),
        T(two_threads_return_the_same_chunks),
#undef T
    };
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
