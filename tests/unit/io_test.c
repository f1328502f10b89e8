/* The contract of core/io.h for one socket: connect, send, receive, stop, close; on each backend.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- connect ---- */

static void test_connect_sets_our_options(void **state)
{
    struct io_fixture *f = *state;
    struct sockaddr_in to;
    int listener = io_listen(&to);
    struct io_client c;
    io_client_init(&c, f);
    const struct mr_sock_options o = {.keepalive_idle_s = 7,
                                      .keepalive_interval_s = 3,
                                      .keepalive_count = 4,
                                      .user_timeout_ms = 1234};
    assert_int_equal(mr_io_connect(f->io, &c.s, (struct sockaddr *)&to, sizeof to, &o), 0);
    assert_int_equal(c.connected, 0);
    io_until(f, c.connected);
    assert_int_equal(c.connect_err, 0);
    const struct {
        int level, name, value;
    } expected[] = {{IPPROTO_TCP, TCP_NODELAY, 1},  {SOL_SOCKET, SO_KEEPALIVE, 1},
                    {IPPROTO_TCP, TCP_KEEPIDLE, 7}, {IPPROTO_TCP, TCP_KEEPINTVL, 3},
                    {IPPROTO_TCP, TCP_KEEPCNT, 4},  {IPPROTO_TCP, TCP_USER_TIMEOUT, 1234}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        int value = -1;
        socklen_t len = sizeof value;
        assert_int_equal(getsockopt(c.s.fd, expected[i].level, expected[i].name, &value, &len), 0);
        assert_int_equal(value, expected[i].value);
    }
    assert_true(fcntl(c.s.fd, F_GETFD) & FD_CLOEXEC);
    io_client_close(&c);
    close(listener);
}

static void test_connect_refused(void **state)
{
    struct io_fixture *f = *state;
    struct sockaddr_in to;
    close(io_listen(&to));
    struct io_client c;
    io_client_init(&c, f);
    assert_int_equal(mr_io_connect(f->io, &c.s, (struct sockaddr *)&to, sizeof to, NULL), 0);
    io_until(f, c.connected);
    assert_int_equal(c.connect_err, ECONNREFUSED);
    io_client_close(&c);
    assert_int_equal(c.connected, 1);
}

static void test_connect_without_descriptors(void **state)
{
    struct io_fixture *f = *state;
    struct sockaddr_in to;
    int listener = io_listen(&to);
    struct io_client c;
    io_client_init(&c, f);
    struct rlimit old, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int e = mr_io_connect(f->io, &c.s, (struct sockaddr *)&to, sizeof to, NULL);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(e, EMFILE);
    assert_int_equal(c.s.fd, -1);
    io_turn(f, 0);
    assert_int_equal(c.connected, 0);
    /* A socket without a descriptor closes like any other. */
    io_client_close(&c);
    close(listener);
}

static void test_connect_unix(void **state)
{
    struct io_fixture *f = *state;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int n = snprintf(to.sun_path + 1, sizeof to.sun_path - 1, "mooring-io-test-%d", (int)getpid());
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    struct io_client c;
    io_client_init(&c, f);
    assert_int_equal(mr_io_connect(f->io, &c.s, (struct sockaddr *)&to, len, NULL), 0);
    io_until(f, c.connected);
    assert_int_equal(c.connect_err, ECONNREFUSED);
    io_client_close(&c);

    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&to, len), 0);
    assert_int_equal(listen(listener, 4), 0);
    io_client_init(&c, f);
    assert_int_equal(mr_io_connect(f->io, &c.s, (struct sockaddr *)&to, len, NULL), 0);
    io_until(f, c.connected);
    assert_int_equal(c.connect_err, 0);
    int peer = accept(listener, NULL, NULL);
    mr_io_recv_start(f->io, &c.s);
    io_client_send(&c, "ping", 4);
    io_until(f, c.sent);
    char got[4];
    assert_int_equal(read(peer, got, 4), 4);
    assert_int_equal(write(peer, "pong", 4), 4);
    io_until(f, c.bytes == 4);
    io_client_close(&c);
    close(peer);
    close(listener);
}

static void test_close_while_connecting(void **state)
{
    struct io_fixture *f = *state;
    struct sockaddr_in to;
    int listener = io_listen(&to);
    for (int turns = 0; turns < 2; turns++) {
        struct io_client c;
        io_client_init(&c, f);
        assert_int_equal(mr_io_connect(f->io, &c.s, (struct sockaddr *)&to, sizeof to, NULL), 0);
        if (turns)
            assert_int_equal(mr_io_wait(f->io, 0), MOOR_OK);
        io_client_close(&c);
        assert_int_equal(c.connected, 0);
    }
    close(listener);
}

/* ---- send and receive ---- */

struct echo {
    int fd;
    size_t len;
    unsigned pause_us; /* a slow peer */
};

static void *echo_run(void *arg)
{
    struct echo *e = arg;
    static _Thread_local char part[100000];
    for (size_t done = 0; done < e->len;) {
        size_t most = e->pause_us ? 30000 : sizeof part;
        ssize_t n = read(e->fd, part, most);
        if (n <= 0)
            return NULL;
        if (e->pause_us)
            usleep(e->pause_us);
        for (ssize_t at = 0; at < n;) {
            ssize_t w = write(e->fd, part + at, (size_t)(n - at));
            if (w <= 0)
                return NULL;
            at += w;
        }
        done += (size_t)n;
    }
    return NULL;
}

static void echo_once(struct io_fixture *f, size_t len, unsigned pause_us, size_t pieces)
{
    int listener = io_listen(NULL);
    struct io_client c;
    io_client_init(&c, f);
    struct echo e = {.fd = io_client_connect(&c, listener), .len = len, .pause_us = pause_us};
    char *data = malloc(len);
    for (size_t i = 0; i < len; i++)
        data[i] = (char)(i * 31 + i / 251);
    struct iovec iov[200];
    for (size_t i = 0; i < pieces; i++) {
        iov[i].iov_base = data + len / pieces * i;
        iov[i].iov_len = i + 1 == pieces ? len - len / pieces * i : len / pieces;
    }
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = pieces};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, echo_run, &e), 0);
    mr_io_recv_start(f->io, &c.s);
    mr_io_send(f->io, &c.s, &m);
    assert_int_equal(c.sent, 0);
    io_until(f, c.sent && c.bytes == len);
    assert_int_equal(c.sent, 1);
    assert_int_equal(c.sent_err, 0);
    assert_int_equal(c.taken, len);
    assert_true(c.sum == io_sum(0, 0, data, len));
    pthread_join(thread, NULL);
    io_client_close(&c);
    assert_int_equal(c.ended, 0);
    close(e.fd);
    close(listener);
    free(data);
}

static void test_echo_of_every_size(void **state)
{
    const size_t sizes[] = {1, 100, 4095, 4096, 4097, 65536, 1000003, 8u << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        echo_once(*state, sizes[i], 0, 1);
}

static void test_echo_of_many_pieces(void **state)
{
    echo_once(*state, 1000, 0, 100);
    echo_once(*state, 3000017, 0, 200);
    /* Pieces of no length. */
    echo_once(*state, 5, 0, 12);
}

static void test_echo_with_a_slow_peer(void **state)
{
    echo_once(*state, 4u << 20, 200, 1);
    echo_once(*state, 2u << 20, 200, 7);
}

static void test_empty_send(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    struct io_client c;
    io_client_init(&c, f);
    int peer = io_client_connect(&c, listener);
    struct msghdr nothing = {0};
    mr_io_send(f->io, &c.s, &nothing);
    io_until(f, c.sent);
    assert_int_equal(c.sent_err, 0);
    assert_int_equal(c.taken, 0);
    io_client_close(&c);
    close(peer);
    close(listener);
}

static void test_fin_of_the_peer_and_ours(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    struct io_client c;
    io_client_init(&c, f);
    int peer = io_client_connect(&c, listener);
    mr_io_recv_start(f->io, &c.s);
    assert_int_equal(write(peer, "last words", 10), 10);
    assert_int_equal(shutdown(peer, SHUT_WR), 0);
    io_until(f, c.ended);
    assert_int_equal(c.ended_err, 0);
    assert_int_equal(c.bytes, 10);
    /* Half closed: we may still send. */
    io_client_send(&c, "bye", 3);
    io_until(f, c.sent);
    assert_int_equal(c.sent_err, 0);
    mr_io_finish(f->io, &c.s);
    char got[8];
    assert_int_equal(read(peer, got, sizeof got), 3);
    assert_int_equal(read(peer, got, sizeof got), 0);
    io_client_close(&c);
    assert_int_equal(c.ended, 1);
    close(peer);
    close(listener);
}

static void reset(int fd)
{
    struct linger l = {.l_onoff = 1};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l), 0);
    close(fd);
}

static void test_reset_while_idle(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    struct io_client c;
    io_client_init(&c, f);
    int peer = io_client_connect(&c, listener);
    mr_io_recv_start(f->io, &c.s);
    io_turn(f, 0);
    reset(peer);
    io_until(f, c.ended);
    assert_int_equal(c.ended_err, ECONNRESET);
    io_client_close(&c);
    close(listener);
}

static void test_reset_while_sending(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    const size_t len = 32u << 20;
    char *data = calloc(1, len);
    for (int receiving = 0; receiving < 2; receiving++) {
        struct io_client c;
        io_client_init(&c, f);
        int peer = io_client_connect(&c, listener);
        if (receiving)
            mr_io_recv_start(f->io, &c.s);
        io_client_send(&c, data, len);
        for (int i = 0; i < 5; i++)
            io_turn(f, 1);
        assert_int_equal(c.sent, 0);
        reset(peer);
        io_until(f, c.sent && (c.ended || !receiving));
        assert_int_equal(c.sent, 1);
        assert_true(c.sent_err == ECONNRESET || c.sent_err == EPIPE);
        assert_true(c.taken < len);
        io_client_close(&c);
    }
    free(data);
    close(listener);
}

/* ---- stopping ---- */

static void test_stop_and_start_again(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    struct io_client c;
    io_client_init(&c, f);
    int peer = io_client_connect(&c, listener);
    mr_io_recv_stop(f->io, &c.s);
    for (int i = 1; i <= 20; i++) {
        mr_io_recv_start(f->io, &c.s);
        if (i % 2)
            io_turn(f, 0);
        mr_io_recv_stop(f->io, &c.s);
        mr_io_recv_stop(f->io, &c.s);
        assert_int_equal(c.ended, i - 1);
        io_until(f, c.ended == i);
        assert_int_equal(c.ended_err, ECANCELED);
    }
    /* Nothing is read while nobody receives, and nothing is lost. */
    assert_int_equal(write(peer, "kept", 4), 4);
    for (int i = 0; i < 5; i++)
        io_turn(f, 1);
    assert_int_equal(c.bytes, 0);
    mr_io_recv_start(f->io, &c.s);
    io_until(f, c.bytes == 4);
    io_client_close(&c);
    close(peer);
    close(listener);
}

static void stop_now(struct io_client *c)
{
    mr_io_recv_stop(c->f->io, &c->s);
}

static void start_now(struct io_client *c)
{
    if (!c->s.is_closing)
        mr_io_recv_start(c->f->io, &c->s);
}

static void test_stop_in_every_received(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    struct io_client c;
    io_client_init(&c, f);
    c.on_received = stop_now;
    c.on_ended = start_now;
    int peer = io_client_connect(&c, listener);
    mr_io_recv_start(f->io, &c.s);
    char data[50000];
    memset(data, 'x', sizeof data);
    assert_int_equal(write(peer, data, sizeof data), sizeof data);
    io_until(f, c.bytes == sizeof data && c.ended >= 1);
    io_client_close(&c);
    close(peer);
    close(listener);
}

static void close_now(struct io_client *c)
{
    mr_io_close(c->f->io, &c->s);
}

static void test_close_in_received(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    struct io_client c;
    io_client_init(&c, f);
    c.on_received = close_now;
    int peer = io_client_connect(&c, listener);
    mr_io_recv_start(f->io, &c.s);
    char data[60000];
    memset(data, 'x', sizeof data);
    assert_int_equal(write(peer, data, sizeof data), sizeof data);
    io_until(f, c.closed);
    assert_int_equal(c.received, 1);
    assert_int_equal(c.ended, 0);
    close(peer);
    close(listener);
}

static void test_close_with_all_in_flight(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    const size_t len = 16u << 20;
    char *data = calloc(1, len);
    for (int turns = 0; turns < 4; turns++) {
        struct io_client c;
        io_client_init(&c, f);
        int peer = io_client_connect(&c, listener);
        mr_io_recv_start(f->io, &c.s);
        io_client_send(&c, data, len);
        for (int i = 0; i < turns; i++)
            io_turn(f, 0);
        if (turns == 3)
            mr_io_recv_stop(f->io, &c.s);
        assert_int_equal(write(peer, data, 20000), 20000);
        io_client_close(&c);
        assert_int_equal(c.sent + c.ended, 0);
        /* The peer must see the end: a descriptor that is still pinned would send none. */
        struct timeval patience = {.tv_sec = 5};
        setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        ssize_t n;
        while ((n = read(peer, data, len)) > 0)
            ;
        assert_true(n == 0 || errno == ECONNRESET);
        memset(data, 0, len);
        close(peer);
    }
    free(data);
    close(listener);
}

static void test_detach_and_attach(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    const char *const others[] = {"io_uring", "epoll"};
    for (size_t i = 0; i < 2; i++) {
        struct io_fixture *g = io_fixture_open(others[i], 16, NULL);
        assert_non_null(g);
        struct io_client here, there;
        io_client_init(&here, f);
        io_client_init(&there, g);
        int peer = io_client_connect(&here, listener);
        mr_io_recv_start(f->io, &here.s);
        io_turn(f, 0);
        mr_io_recv_stop(f->io, &here.s);
        io_until(f, here.ended);
        int fd = mr_io_detach(f->io, &here.s);
        assert_int_equal(here.s.fd, -1);
        mr_io_attach(g->io, &there.s, fd);
        mr_io_recv_start(g->io, &there.s);
        io_client_send(&there, "moved", 5);
        io_until(g, there.sent);
        char got[8];
        assert_int_equal(read(peer, got, sizeof got), 5);
        assert_int_equal(write(peer, got, 5), 5);
        io_until(g, there.bytes == 5);
        io_client_close(&there);
        io_client_close(&here);
        assert_int_equal(here.bytes, 0);
        close(peer);
        io_fixture_close(g);
    }
    close(listener);
}

static void detach_now(struct io_client *c)
{
    close(mr_io_detach(c->f->io, &c->s));
}

static struct io_client *other;
static int order;

/* What is queued to be submitted at the detach: only the stop, or a send before it, behind it. */
static void stop_and_send(struct io_client *c)
{
    if (order == 1)
        io_client_send(other, "a", 1);
    stop_now(c);
    if (order == 2)
        io_client_send(other, "b", 1);
}

/* The FIN is fetched together with the data whose receiver asks for a stop: the end overtakes it.
 */
static void test_detach_in_recv_ended(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    struct io_client o;
    io_client_init(&o, f);
    other = &o;
    int other_peer = io_client_connect(&o, listener);
    for (order = 0; order < 3; order++) {
        struct io_client c;
        io_client_init(&c, f);
        c.on_received = stop_and_send;
        c.on_ended = detach_now;
        int peer = io_client_connect(&c, listener);
        mr_io_recv_start(f->io, &c.s);
        io_turn(f, 0);
        assert_int_equal(write(peer, "x", 1), 1);
        close(peer);
        io_until(f, c.ended && o.sent == order);
        assert_int_equal(c.s.fd, -1);
        io_turn(f, 0);
    }
    io_client_close(&o);
    close(other_peer);
    close(listener);
}

static void *discard_run(void *arg)
{
    size_t left = *(size_t *)((void **)arg)[1];
    for (ssize_t n = 1; left > 0 && n > 0; left -= (size_t)n)
        n = recv(*(int *)((void **)arg)[0], NULL, 8 << 20, MSG_TRUNC);
    return NULL;
}

/* More than one submission takes: the rest follows by itself. */
static void test_send_of_more_than_a_gibibyte(void **state)
{
    struct io_fixture *f = *state;
    int listener = io_listen(NULL);
    size_t len = (1u << 30) + 12345;
    void *zeros = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(zeros, MAP_FAILED);
    struct io_client c;
    io_client_init(&c, f);
    int peer = io_client_connect(&c, listener);
    void *args[] = {&peer, &len};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, discard_run, args), 0);
    io_client_send(&c, zeros, len);
    io_until(f, c.sent);
    assert_int_equal(c.sent_err, 0);
    assert_int_equal(c.taken, len);
    pthread_join(thread, NULL);
    io_client_close(&c);
    munmap(zeros, len);
    close(peer);
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IO_CASE(test_connect_sets_our_options),
        IO_CASE(test_connect_refused),
        IO_CASE(test_connect_without_descriptors),
        IO_CASE(test_connect_unix),
        IO_CASE(test_close_while_connecting),
        IO_CASE(test_echo_of_every_size),
        IO_CASE(test_echo_of_many_pieces),
        IO_CASE(test_echo_with_a_slow_peer),
        IO_CASE(test_empty_send),
        IO_CASE(test_fin_of_the_peer_and_ours),
        IO_CASE(test_reset_while_idle),
        IO_CASE(test_reset_while_sending),
        IO_CASE(test_stop_and_start_again),
        IO_CASE(test_stop_in_every_received),
        IO_CASE(test_close_in_received),
        IO_CASE(test_close_with_all_in_flight),
        IO_CASE(test_detach_and_attach),
        IO_CASE(test_detach_in_recv_ended),
        {"test_send_of_more_than_a_gibibyte on io_uring", test_send_of_more_than_a_gibibyte,
         io_fixture_setup, io_fixture_teardown, (void *)"io_uring"},
    };
    return io_run(tests);
}
