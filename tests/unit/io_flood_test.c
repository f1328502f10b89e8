/* The contract of core/io.h for many sockets at once, few buffers and small queues; on each
 * backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/io_fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { MANY = 200 };

struct crowd {
    struct io_fixture *f;
    int listener;
    struct io_client clients[MANY];
    int peers[MANY];
    int count;
};

static int sum_of(const struct crowd *c, size_t field)
{
    int sum = 0;
    for (int i = 0; i < c->count; i++)
        sum += *(const int *)(const void *)((const char *)&c->clients[i] + field);
    return sum;
}
#define SUM(c, field) sum_of((c), offsetof(struct io_client, field))

static bool all_have(const struct crowd *c, size_t bytes)
{
    for (int i = 0; i < c->count; i++)
        if (c->clients[i].bytes < bytes)
            return false;
    return true;
}

/* Peers are told apart by the port, since connects need not be accepted in order. */
static void accept_all(struct crowd *c)
{
    for (int i = 0; i < c->count; i++) {
        struct sockaddr_in from;
        socklen_t len = sizeof from;
        int peer = accept(c->listener, (struct sockaddr *)&from, &len);
        assert_true(peer >= 0);
        for (int j = 0; j < c->count; j++) {
            struct sockaddr_in own;
            len = sizeof own;
            assert_int_equal(getsockname(c->clients[j].s.fd, (struct sockaddr *)&own, &len), 0);
            if (own.sin_port == from.sin_port)
                c->peers[j] = peer;
        }
    }
}

/* All connects are asked for before the kernel hears of the first. */
static struct crowd *crowd_open(struct io_fixture *f, int count)
{
    struct crowd *c = calloc(1, sizeof *c);
    struct sockaddr_in to;
    c->f = f;
    c->count = count;
    c->listener = io_listen(&to);
    for (int i = 0; i < count; i++) {
        io_client_init(&c->clients[i], f);
        c->peers[i] = -1;
        assert_int_equal(
            mr_io_connect(f->io, &c->clients[i].s, (struct sockaddr *)&to, sizeof to, NULL), 0);
    }
    io_until(f, SUM(c, connected) == count);
    accept_all(c);
    return c;
}

static void crowd_close(struct crowd *c)
{
    for (int i = 0; i < c->count; i++) {
        io_client_drop_held(&c->clients[i]);
        mr_io_close(c->f->io, &c->clients[i].s);
    }
    assert_int_equal(SUM(c, closed), 0);
    io_until(c->f, SUM(c, closed) == c->count);
    for (int i = 0; i < c->count; i++)
        close(c->peers[i]);
    close(c->listener);
    free(c);
}

static void peers_write(struct crowd *c, const void *bytes, size_t len)
{
    for (int i = 0; i < c->count; i++)
        assert_int_equal(write(c->peers[i], bytes, len), len);
}

static struct io_fixture *open_small(void **state, uint32_t bufs, uint32_t sq, uint32_t cq)
{
    const struct mr_io_config config = {
        .sq_entries = sq, .cq_entries = cq, .features = MR_IO_FEATURES_ALL};
    struct io_fixture *f = io_fixture_open(*state, bufs, &config);
    assert_non_null(f);
    return f;
}

static bool is_uring(const struct io_fixture *f)
{
    return strcmp(f->backend, "io_uring") == 0;
}

/* ---- many ---- */

static void test_ping_pong_of_many(void **state)
{
    struct io_fixture *f = open_small(state, 256, 0, 0);
    struct crowd *c = crowd_open(f, MANY);
    for (int i = 0; i < c->count; i++)
        mr_io_recv_start(f->io, &c->clients[i].s);
    for (int round = 1; round <= 5; round++) {
        for (int i = 0; i < c->count; i++)
            io_client_send(&c->clients[i], "ping", 4);
        io_until(f, SUM(c, sent) == c->count * round);
        for (int i = 0; i < c->count; i++) {
            char got[8];
            assert_int_equal(read(c->peers[i], got, sizeof got), 4);
        }
        peers_write(c, "pong!", 5);
        io_until(f, all_have(c, 5u * (unsigned)round));
    }
    assert_int_equal(SUM(c, ended), 0);
    crowd_close(c);
    io_fixture_close(f);
}

/* A submission queue of 16 and a completion queue of 64: bursts overflow both. */
static void test_queues_overflow_and_nothing_is_lost(void **state)
{
    struct io_fixture *f = open_small(state, 256, 16, 64);
    struct crowd *c = crowd_open(f, MANY);
    for (int i = 0; i < c->count; i++)
        mr_io_recv_start(f->io, &c->clients[i].s);
    io_turn(f, 0);
    for (unsigned round = 1; round <= 10; round++) {
        for (int part = 0; part < 4; part++)
            peers_write(c, "01234567", 8);
        io_until(f, all_have(c, 32 * round));
    }
    /* Asked for again and again with nobody to take what came: receives end for want of room. */
    for (int part = 0; part < 8; part++) {
        peers_write(c, "89abcdef", 8);
        assert_int_equal(mr_io_wait(f->io, 0), MOOR_OK);
    }
    for (int i = 0; i < c->count; i += 2)
        mr_io_recv_stop(f->io, &c->clients[i].s);
    io_until(f, SUM(c, ended) == MANY / 2);
    for (int i = 0; i < c->count; i += 2) {
        assert_int_equal(c->clients[i].ended_err, ECANCELED);
        c->clients[i].ended = 0;
        mr_io_recv_start(f->io, &c->clients[i].s);
    }
    io_until(f, all_have(c, 320 + 64));
    if (is_uring(f)) {
        assert_true(f->io->stats.overflows > 0);
        assert_true(f->io->stats.rearms > 0);
    }
    assert_int_equal(SUM(c, ended), 0);
    /* Ends and closings in one burst. */
    for (int i = 0; i < c->count; i += 2) {
        close(c->peers[i]);
        c->peers[i] = -1;
    }
    io_until(f, SUM(c, ended) == MANY / 2);
    crowd_close(c);
    io_fixture_close(f);
}

static void test_close_of_many_with_data_on_its_way(void **state)
{
    struct io_fixture *f = open_small(state, 64, 16, 64);
    struct crowd *c = crowd_open(f, MANY);
    static char data[6000];
    for (int i = 0; i < c->count; i++) {
        mr_io_recv_start(f->io, &c->clients[i].s);
        io_client_send(&c->clients[i], data, sizeof data);
    }
    peers_write(c, data, sizeof data);
    assert_int_equal(mr_io_wait(f->io, 0), MOOR_OK);
    crowd_close(c);
    assert_int_equal(f->bufs.held, 0);
    io_fixture_close(f);
}

/* ---- few buffers ---- */

static void test_starved_receives_wait_and_go_on(void **state)
{
    enum { BUFS = 8, CLIENTS = 40 };
    struct io_fixture *f = open_small(state, BUFS, 0, 0);
    struct crowd *c = crowd_open(f, CLIENTS);
    for (int i = 0; i < c->count; i++) {
        c->clients[i].is_holding = true;
        mr_io_recv_start(f->io, &c->clients[i].s);
    }
    io_turn(f, 0);
    peers_write(c, "hungry", 6);
    io_until(f, f->bufs.held == BUFS);
    for (int i = 0; i < 5; i++)
        io_turn(f, 1);
    assert_int_equal(SUM(c, received), BUFS);
    assert_true(f->io->stats.starved > 0);
    /* Nothing to do before a buffer comes back: a loop that polled would burn its core. */
    assert_false(mr_io_is_ready(f->io));
    uint64_t enters = f->io->stats.enters;
    assert_int_equal(mr_io_wait(f->io, 5 * MR_NS_PER_MS), MOOR_OK);
    assert_true(f->io->stats.enters - enters <= 1);

    for (int served = BUFS; served < CLIENTS; served++) {
        for (int i = 0; i < c->count; i++) {
            if (c->clients[i].held_count) {
                io_client_drop_held(&c->clients[i]);
                break;
            }
        }
        assert_true(mr_io_is_ready(f->io));
        io_until(f, SUM(c, received) == served + 1);
    }
    assert_true(all_have(c, 6));
    crowd_close(c);
    io_fixture_close(f);
}

/* Four greedy peers that always have more, twelve with one message: none of these waits for ever.
 */
static void test_starvation_is_fair(void **state)
{
    enum { BUFS = 4, CLIENTS = 16, GREEDY = 4 };
    struct io_fixture *f = open_small(state, BUFS, 0, 0);
    struct crowd *c = crowd_open(f, CLIENTS);
    static char lots[200000];
    for (int i = 0; i < c->count; i++) {
        c->clients[i].is_holding = true;
        mr_io_recv_start(f->io, &c->clients[i].s);
    }
    for (int i = 0; i < c->count; i++) {
        size_t len = i < GREEDY ? sizeof lots : 10;
        assert_int_equal(write(c->peers[i], lots, len), len);
    }
    int turns = 0;
    for (;; turns++) {
        int waiting = 0;
        for (int i = GREEDY; i < c->count; i++)
            waiting += c->clients[i].bytes < 10;
        if (!waiting)
            break;
        assert_true(turns < 100);
        io_turn(f, 1);
        for (int i = 0; i < c->count; i++)
            io_client_drop_held(&c->clients[i]);
    }
    /* The greedy ones were not done before: there was something to be fair about. */
    size_t greedy_bytes = 0;
    for (int i = 0; i < GREEDY; i++)
        greedy_bytes += c->clients[i].bytes;
    assert_true(greedy_bytes < GREEDY * sizeof lots);
    for (int i = 0; i < c->count; i++)
        c->clients[i].is_holding = false;
    for (int i = 0; i < GREEDY; i++)
        io_until(f, c->clients[i].bytes == sizeof lots);
    crowd_close(c);
    io_fixture_close(f);
}

/* The last buffer is out and nobody waits yet: who starts now is the first to wait. */
static void test_start_with_no_buffer_left(void **state)
{
    enum { BUFS = 4, CLIENTS = 6 };
    struct io_fixture *f = open_small(state, BUFS, 0, 0);
    struct crowd *c = crowd_open(f, CLIENTS);
    for (int i = 0; i < BUFS; i++) {
        c->clients[i].is_holding = true;
        mr_io_recv_start(f->io, &c->clients[i].s);
    }
    io_turn(f, 0);
    peers_write(c, "x", 1);
    io_until(f, f->bufs.held == BUFS);
    for (int i = BUFS; i < CLIENTS; i++) {
        mr_io_recv_start(f->io, &c->clients[i].s);
        io_turn(f, 1);
        io_turn(f, 1);
    }
    assert_int_equal(SUM(c, received), BUFS);
    assert_false(mr_io_is_ready(f->io));
    c->clients[BUFS].is_holding = true;
    io_client_drop_held(&c->clients[0]);
    io_until(f, c->clients[BUFS].received);
    io_turn(f, 1);
    assert_int_equal(c->clients[BUFS + 1].received, 0);
    io_client_drop_held(&c->clients[1]);
    io_until(f, c->clients[BUFS + 1].received);
    crowd_close(c);
    io_fixture_close(f);
}

/* While starved a socket may be sent on, stopped, closed, and may lose its peer. */
static void test_starved_sockets_still_live(void **state)
{
    enum { BUFS = 4, CLIENTS = 8 };
    struct io_fixture *f = open_small(state, BUFS, 0, 0);
    struct crowd *c = crowd_open(f, CLIENTS);
    for (int i = 0; i < c->count; i++) {
        c->clients[i].is_holding = true;
        mr_io_recv_start(f->io, &c->clients[i].s);
    }
    io_turn(f, 0);
    peers_write(c, "x", 1);
    io_until(f, f->bufs.held == BUFS);
    io_turn(f, 1);
    int starved[CLIENTS], count = 0;
    for (int i = 0; i < c->count; i++)
        if (!c->clients[i].received)
            starved[count++] = i;
    assert_int_equal(count, CLIENTS - BUFS);
    struct io_client *sender = &c->clients[starved[0]], *stopped = &c->clients[starved[1]],
                     *closed = &c->clients[starved[2]], *lost = &c->clients[starved[3]];
    io_client_send(sender, "y", 1);
    mr_io_recv_stop(f->io, &stopped->s);
    io_client_close(closed);
    close(c->peers[starved[3]]);
    c->peers[starved[3]] = -1;
    io_until(f, sender->sent && stopped->ended);
    assert_int_equal(stopped->ended_err, ECANCELED);
    assert_int_equal(stopped->received, 0);
    for (int i = 0; i < 3; i++)
        io_turn(f, 1);
    assert_false(mr_io_is_ready(f->io));
    for (int i = 0; i < c->count; i++)
        io_client_drop_held(&c->clients[i]);
    io_until(f, sender->received && lost->received && lost->ended);
    assert_int_equal(closed->received, 0);
    closed->closed = 0; /* closing it once more is allowed: it has no descriptor */
    crowd_close(c);
    io_fixture_close(f);
}

/* The pool may grow but its heap is at its limit: nothing spins, and all goes on when there is
 * room. */
static void test_a_heap_at_its_limit(void **state)
{
    struct io_fixture *f = open_small(state, 64, 0, 0);
    struct crowd *c = crowd_open(f, 40);
    for (int i = 0; i < c->count; i++) {
        c->clients[i].is_holding = true;
        mr_io_recv_start(f->io, &c->clients[i].s);
    }
    io_turn(f, 0);
    peers_write(c, "x", 1);
    f->heap.limit = atomic_load(&f->heap.used);
    int before = -1;
    for (int i = 0; i < 100 && before != SUM(c, received); i++) {
        before = SUM(c, received);
        io_turn(f, 1);
        io_turn(f, 1);
    }
    assert_true(before < c->count);
    assert_int_equal(mr_io_wait(f->io, 0), MOOR_OK);
    assert_false(mr_io_is_ready(f->io));
    f->heap.limit = SIZE_MAX;
    io_until(f, all_have(c, 1));
    crowd_close(c);
    io_fixture_close(f);
}

/* What is posted stays within its limit, and what was never needed was never made. */
static void test_posted_bytes_are_bounded(void **state)
{
    const struct mr_io_config config = {.posted_bytes_max = 8 * 4096,
                                        .features = MR_IO_FEATURES_ALL};
    struct io_fixture *f = io_fixture_open(*state, 1024, &config);
    assert_non_null(f);
    struct crowd *c = crowd_open(f, 32);
    static char data[20000];
    for (int i = 0; i < c->count; i++)
        mr_io_recv_start(f->io, &c->clients[i].s);
    peers_write(c, data, sizeof data);
    io_until(f, all_have(c, sizeof data));
    assert_true(f->bufs.count <= 8 + 1);
    crowd_close(c);
    io_fixture_close(f);
}

/* ---- a turn of the epoll backend ---- */

static void wait_for_bytes(int fd, int count)
{
    for (int there = 0; there < count; usleep(100)) {
        io_watchdog();
        assert_int_equal(ioctl(fd, FIONREAD, &there), 0);
    }
}

/* READS_MAX of core/epoll_recv.c: the rest of a flood waits until the others had their turn. */
static void test_a_flooded_socket_gets_eight_buffers_a_turn(void **state)
{
    enum { BUF = 4096, FLOOD = 12 * BUF };
    struct io_fixture *f = open_small(state, 64, 0, 0);
    struct crowd *c = crowd_open(f, 3);
    static char flood[FLOOD];
    for (int i = 0; i < c->count; i++)
        mr_io_recv_start(f->io, &c->clients[i].s);
    assert_int_equal(write(c->peers[1], flood, FLOOD), FLOOD);
    assert_int_equal(write(c->peers[0], "x", 1), 1);
    assert_int_equal(write(c->peers[2], "x", 1), 1);
    wait_for_bytes(c->clients[1].s.fd, FLOOD);
    wait_for_bytes(c->clients[0].s.fd, 1);
    wait_for_bytes(c->clients[2].s.fd, 1);
    io_turn(f, 0);
    assert_int_equal(c->clients[1].received, 8);
    assert_int_equal(c->clients[0].received, 1);
    assert_int_equal(c->clients[2].received, 1);
    io_turn(f, 0);
    assert_int_equal(c->clients[1].bytes, FLOOD);
    crowd_close(c);
    io_fixture_close(f);
}

/* BURST_BYTES of core/io_epoll.c. Only a send buffer beyond what an ordinary user may ask for takes
 * more than that at once. */
static void test_a_send_is_given_a_megabyte_a_turn(void **state)
{
    enum { PIECES = 1024, BURST = 1 << 20 };
    struct io_fixture *f = open_small(state, 64, 0, 0);
    struct crowd *c = crowd_open(f, 1);
    struct io_client *one = &c->clients[0];
    const int room = 64 << 20;
    if (setsockopt(one->s.fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) != 0) {
        crowd_close(c);
        io_fixture_close(f);
        skip();
    }
    static char piece[4 * BURST / PIECES];
    static struct iovec pieces[PIECES];
    for (int i = 0; i < PIECES; i++)
        pieces[i] = (struct iovec){.iov_base = piece, .iov_len = sizeof piece};
    const struct msghdr m = {.msg_iov = pieces, .msg_iovlen = PIECES};
    mr_io_send(f->io, &one->s, &m);
    for (size_t turns = 1; turns < 4; turns++) {
        assert_int_equal(one->s.out_done, turns * BURST);
        assert_int_equal(one->sent, 0);
        io_turn(f, 100);
    }
    io_until(f, one->sent);
    assert_int_equal(one->taken, 4 * BURST);
    crowd_close(c);
    io_fixture_close(f);
}

#define CASE(fn)                                                                                   \
    {#fn " on io_uring", fn, NULL, NULL, (void *)"io_uring"},                                      \
    {                                                                                              \
#fn " on epoll", fn, NULL, NULL, (void *)"epoll"                                           \
    }

#define EPOLL_CASE(fn)                                                                             \
    {                                                                                              \
#fn " on epoll", fn, NULL, NULL, (void *)"epoll"                                           \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_ping_pong_of_many),
        CASE(test_queues_overflow_and_nothing_is_lost),
        CASE(test_close_of_many_with_data_on_its_way),
        CASE(test_starved_receives_wait_and_go_on),
        CASE(test_starvation_is_fair),
        CASE(test_start_with_no_buffer_left),
        CASE(test_starved_sockets_still_live),
        CASE(test_a_heap_at_its_limit),
        CASE(test_posted_bytes_are_bounded),
        EPOLL_CASE(test_a_flooded_socket_gets_eight_buffers_a_turn),
        EPOLL_CASE(test_a_send_is_given_a_megabyte_a_turn),
    };
    return io_run(tests);
}
