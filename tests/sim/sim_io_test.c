/*
 * The contract of core/io.h on the simulator itself: what it must keep is what the two real backends
 * keep (tests/unit/io_test.c), and it must catch those who break the rules.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/canary.h"
#include "tests/support/io_sim.h"
#include "tests/support/sim_net.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_MAX = 64, SEEDS = 300 };

struct fixture {
    struct sim w;
    struct mr_heap heap;
    struct mr_buf_pool bufs;
    struct mr_io *io;
    bool is_dispatching;
};

struct client {
    struct mr_sock s;
    struct fixture *f;
    int connected, sent, ended, closed, received;
    int connect_err, sent_err, ended_err;
    size_t taken, bytes;
    uint8_t *wanted; /* what is to come */
    struct mr_buf *held[HELD_MAX];
    int held_count;
    bool is_holding, stops, restarts, closes;
    struct iovec piece;
    struct msghdr message;
};

static void count(struct mr_sock *s, int *counter)
{
    struct client *c = MR_CONTAINER_OF(s, struct client, s);
    assert_true(c->f->is_dispatching);
    assert_int_equal(c->closed, 0);
    ++*counter;
}

static void on_connected(struct mr_sock *s, int err)
{
    struct client *c = MR_CONTAINER_OF(s, struct client, s);
    count(s, &c->connected);
    c->connect_err = err;
}

static void on_received(struct mr_sock *s, struct mr_buf *b, uint32_t len)
{
    struct client *c = MR_CONTAINER_OF(s, struct client, s);
    count(s, &c->received);
    assert_true(s->is_receiving);
    assert_in_range(len, 1, b->cap);
    if (c->wanted)
        assert_memory_equal(b->data, c->wanted + c->bytes, len);
    c->bytes += len;
    if (c->is_holding)
        c->held[c->held_count++] = b;
    else
        mr_buf_unref(b);
    if (c->stops)
        mr_io_recv_stop(c->f->io, s);
    if (c->closes)
        mr_io_close(c->f->io, s);
}

static void on_ended(struct mr_sock *s, int err)
{
    struct client *c = MR_CONTAINER_OF(s, struct client, s);
    count(s, &c->ended);
    assert_false(s->is_receiving);
    c->ended_err = err;
    if (c->restarts && err == ECANCELED)
        mr_io_recv_start(c->f->io, s);
}

static void on_sent(struct mr_sock *s, int err, size_t taken)
{
    struct client *c = MR_CONTAINER_OF(s, struct client, s);
    count(s, &c->sent);
    assert_false(s->is_sending);
    c->sent_err = err;
    c->taken = taken;
}

static void on_closed(struct mr_sock *s)
{
    struct client *c = MR_CONTAINER_OF(s, struct client, s);
    count(s, &c->closed);
    assert_int_equal(s->fd, -1);
}

static const struct mr_sock_events client_events = {on_connected, on_received, on_ended, on_sent,
                                                    on_closed};

/* ---- the fixture ---- */

static void make_io(struct fixture *f, uint32_t bufs)
{
    assert_int_equal(mr_heap_init(&f->heap, SIZE_MAX, false), MOOR_OK);
    assert_int_equal(mr_buf_pool_init(&f->bufs, &f->heap, 512, bufs, 0), MOOR_OK);
    const struct mr_io_config config = {.bufs = &f->bufs, .heap = &f->heap};
    assert_int_equal(io_sim_create(&f->w, &config, &f->io), MOOR_OK);
}

static void start(struct fixture *f, uint64_t seed, uint32_t bufs)
{
    memset(f, 0, sizeof *f);
    sim_init(&f->w, seed);
    make_io(f, bufs);
}

static void finish(struct fixture *f)
{
    mr_io_destroy(f->io);
    sim_fini(&f->w);
    mr_buf_pool_fini(&f->bufs);
    mr_heap_fini(&f->heap);
}

/* Late, split and short, but nothing is refused or lost. */
static void draw_delays(struct fixture *f)
{
    struct sim *w = &f->w;
    sim_draw_faults(w);
    w->faults.connect_refused = w->faults.connect_lost = w->faults.connect_unreachable = 0;
    w->faults.files_out = w->faults.reset = 0;
}

static void turn(struct fixture *f, int64_t timeout_ms)
{
    assert_int_equal(mr_io_wait(f->io, timeout_ms * MR_NS_PER_MS), MOOR_OK);
    f->is_dispatching = true;
    mr_io_dispatch(f->io, 0);
    f->is_dispatching = false;
}

#define UNTIL(f, condition)                                                                        \
    do {                                                                                           \
        for (int turns_ = 0; !(condition); turns_++) {                                             \
            assert_true(turns_ < 100000);                                                          \
            turn((f), 1000);                                                                       \
        }                                                                                          \
    } while (0)

static void client_init(struct client *c, struct fixture *f)
{
    memset(c, 0, sizeof *c);
    c->f = f;
    c->s.fd = -1;
    c->s.events = &client_events;
}

static int client_dial(struct client *c, const struct sim_host *h)
{
    return mr_io_connect(c->f->io, &c->s, (const struct sockaddr *)&h->address, h->address_len,
                         NULL);
}

static void client_connect(struct client *c, struct fixture *f, const struct sim_host *h)
{
    client_init(c, f);
    assert_int_equal(client_dial(c, h), 0);
    UNTIL(f, c->connected);
    assert_int_equal(c->connect_err, 0);
}

static void client_send(struct client *c, const void *bytes, size_t len)
{
    c->piece = (struct iovec){.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    c->message = (struct msghdr){.msg_iov = &c->piece, .msg_iovlen = 1};
    mr_io_send(c->f->io, &c->s, &c->message);
}

static void client_close(struct client *c)
{
    mr_io_close(c->f->io, &c->s);
    assert_int_equal(c->closed, 0);
    UNTIL(c->f, c->closed);
    while (c->held_count > 0)
        mr_buf_unref(c->held[--c->held_count]);
    for (int i = 0; i < 10; i++)
        turn(c->f, 100);
    assert_int_equal(c->closed, 1);
}

static uint8_t *pattern(size_t len)
{
    uint8_t *p = malloc(len);
    assert_non_null(p);
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(i * 31 + i / 251);
    return p;
}

/* ---- services ---- */

static void ignore(struct sim_wire *x)
{
    (void)x;
}

static void echo_input(struct sim_wire *x, const uint8_t *bytes, size_t len)
{
    sim_peer_write(x, bytes, len);
}

static void sink_input(struct sim_wire *x, const uint8_t *bytes, size_t len)
{
    (void)bytes;
    *(size_t *)x->host->ctx += len;
}

static void close_too(struct sim_wire *x, bool is_reset)
{
    if (!is_reset)
        sim_peer_close(x);
}

static const struct sim_service echo = {ignore, echo_input, close_too, ignore, NULL};
static const struct sim_service sink = {ignore, sink_input, close_too, ignore, NULL};

static struct sim_wire *only_wire(struct fixture *f)
{
    assert_int_equal(f->w.wire_count, 1);
    return f->w.wires[0];
}

/* ---- connect ---- */

static void test_connect_ends_as_the_host_answers(void **state)
{
    (void)state;
    const struct {
        enum sim_answer answer;
        int err;
        int64_t least_ns;
    } table[] = {{SIM_ACCEPTS, 0, 1},
                 {SIM_REFUSES, ECONNREFUSED, 1},
                 {SIM_UNREACHABLE, EHOSTUNREACH, 0},
                 {SIM_IGNORES, ETIMEDOUT, 100 * MR_NS_PER_SEC}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fixture f;
        start(&f, i, 8);
        struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
        h->answer = table[i].answer;
        struct client c;
        client_init(&c, &f);
        const int64_t began = f.w.now_ns;
        assert_int_equal(client_dial(&c, h), 0);
        assert_int_equal(c.connected, 0);
        UNTIL(&f, c.connected);
        assert_int_equal(c.connect_err, table[i].err);
        assert_true(f.w.now_ns - began >= table[i].least_ns);
        assert_int_equal(h->established, table[i].err ? 0 : 1);
        client_close(&c);
        assert_int_equal(c.connected, 1);
        assert_int_equal(h->sockets, 0);
        assert_int_equal(h->sockets_max, 1);
        finish(&f);
    }
}

static void test_connect_without_descriptors(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 1, 8);
    struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
    f.w.files_max = 1;
    struct client a, b;
    client_connect(&a, &f, h);
    client_init(&b, &f);
    assert_int_equal(client_dial(&b, h), EMFILE);
    assert_int_equal(b.s.fd, -1);
    /* A socket without a descriptor closes like any other. */
    client_close(&b);
    assert_int_equal(b.connected, 0);
    client_close(&a);
    client_connect(&b, &f, h);
    client_close(&b);
    finish(&f);
}

/* ---- bytes ---- */

static void test_echo_whatever_the_order(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct fixture f;
        start(&f, seed, 4 + seed % 8);
        draw_delays(&f);
        struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
        struct client c;
        client_connect(&c, &f, h);
        const size_t len = 1 + sim_below(&f.w, 20000);
        uint8_t *bytes = pattern(len);
        c.wanted = bytes;
        c.stops = c.restarts = seed % 3 == 0;
        mr_io_recv_start(f.io, &c.s);
        client_send(&c, bytes, len);
        assert_int_equal(c.sent, 0);
        UNTIL(&f, c.sent && c.bytes == len);
        assert_int_equal(c.sent_err, 0);
        assert_int_equal(c.taken, len);
        mr_io_finish(f.io, &c.s);
        UNTIL(&f, !c.s.is_receiving);
        assert_int_equal(c.ended_err, 0);
        client_close(&c);
        assert_int_equal(c.sent, 1);
        assert_int_equal(c.bytes, len);
        free(bytes);
        finish(&f);
    }
}

static void test_a_fin_comes_after_the_data(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct fixture f;
        start(&f, seed, 4);
        draw_delays(&f);
        struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
        struct client c;
        client_connect(&c, &f, h);
        mr_io_recv_start(f.io, &c.s);
        sim_peer_write(only_wire(&f), "last words", 10);
        sim_peer_finish(only_wire(&f));
        UNTIL(&f, c.ended);
        assert_int_equal(c.ended_err, 0);
        assert_int_equal(c.bytes, 10);
        /* Half closed: we may still send. */
        client_send(&c, "bye", 3);
        UNTIL(&f, c.sent);
        assert_int_equal(c.sent_err, 0);
        client_close(&c);
        assert_int_equal(c.ended, 1);
        finish(&f);
    }
}

static void test_reset_ends_both_directions(void **state)
{
    (void)state;
    uint8_t *bytes = pattern(50000);
    int failed = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct fixture f;
        start(&f, seed, 8);
        draw_delays(&f);
        f.w.faults.send_partial = 900;
        size_t got = 0;
        struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &sink, &got);
        struct client c;
        client_connect(&c, &f, h);
        mr_io_recv_start(f.io, &c.s);
        client_send(&c, bytes, 50000);
        sim_peer_reset(only_wire(&f));
        UNTIL(&f, c.sent && c.ended);
        assert_int_equal(c.ended_err, ECONNRESET);
        failed += c.sent_err != 0;
        if (c.sent_err)
            assert_true(c.sent_err == ECONNRESET || c.sent_err == EPIPE);
        assert_true(c.sent_err == 0 || c.taken < 50000);
        assert_int_equal(got, 0);
        client_close(&c);
        finish(&f);
    }
    assert_true(failed > 0);
    free(bytes);
}

static void test_data_to_a_closed_server_is_answered_by_a_reset(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 3, 8);
    struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
    struct client c;
    client_connect(&c, &f, h);
    sim_peer_close(only_wire(&f));
    client_send(&c, "hello", 5);
    UNTIL(&f, c.sent);
    assert_int_equal(c.sent_err, 0);
    for (int i = 0; i < 10; i++)
        turn(&f, 100);
    client_send(&c, "hello", 5);
    UNTIL(&f, c.sent == 2);
    assert_int_not_equal(c.sent_err, 0);
    assert_int_equal(c.taken, 0);
    client_close(&c);
    finish(&f);
}

/* ---- stopping and closing ---- */

static void test_close_whatever_is_under_way(void **state)
{
    (void)state;
    uint8_t *bytes = pattern(30000);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct fixture f;
        start(&f, seed, 8);
        draw_delays(&f);
        struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
        struct client c;
        client_init(&c, &f);
        assert_int_equal(client_dial(&c, h), 0);
        for (uint64_t turns = sim_below(&f.w, 5); turns > 0; turns--)
            turn(&f, 1);
        if (c.connected) {
            c.closes = sim_chance(&f.w, 300);
            mr_io_recv_start(f.io, &c.s);
            client_send(&c, bytes, 30000);
            if (sim_chance(&f.w, 500))
                mr_io_recv_stop(f.io, &c.s);
            for (uint64_t turns = sim_below(&f.w, 5); turns > 0; turns--)
                turn(&f, 1);
        }
        const int events = c.connected + c.sent + c.ended + c.received;
        const bool was_closed = c.closed || c.s.is_closing;
        if (!c.closed)
            client_close(&c);
        assert_int_equal(c.closed, 1);
        if (!was_closed)
            assert_int_equal(c.connected + c.sent + c.ended + c.received, events);
        assert_int_equal(h->sockets, 0);
        assert_int_equal(h->established, 0);
        assert_int_equal(f.w.files, 0);
        finish(&f);
    }
    free(bytes);
}

static void test_starved_receives_go_on_in_turn(void **state)
{
    (void)state;
    enum { CLIENTS = 12, BUFS = 4 };
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct fixture f;
        start(&f, seed, BUFS);
        draw_delays(&f);
        struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
        struct client c[CLIENTS];
        for (int i = 0; i < CLIENTS; i++) {
            client_connect(&c[i], &f, h);
            c[i].is_holding = true;
            mr_io_recv_start(f.io, &c[i].s);
            sim_peer_write(f.w.wires[i], "x", 1);
        }
        for (int done = 0, turns = 0; done < CLIENTS; turns++) {
            assert_true(turns < 10000);
            turn(&f, 10);
            int held = 0;
            for (int i = 0; i < CLIENTS; i++)
                held += c[i].held_count;
            assert_true(held <= BUFS);
            for (int i = 0; i < CLIENTS && held == BUFS; i++)
                while (c[i].held_count > 0)
                    mr_buf_unref(c[i].held[--c[i].held_count]);
            done = 0;
            for (int i = 0; i < CLIENTS; i++)
                done += c[i].bytes == 1;
        }
        assert_true(f.io->stats.starved > 0);
        for (int i = 0; i < CLIENTS; i++)
            client_close(&c[i]);
        finish(&f);
    }
}

static void test_detach_and_attach(void **state)
{
    (void)state;
    struct fixture here, there;
    start(&here, 5, 8);
    struct sim_host *h = sim_host_add_ipv4(&here.w, 1, 80, &echo, NULL);
    struct client c, d;
    client_connect(&c, &here, h);
    int fd = mr_io_detach(here.io, &c.s);
    assert_int_equal(c.s.fd, -1);
    /* Arrives while nobody has it, and is not lost. */
    sim_peer_write(only_wire(&here), "moved", 5);
    for (int i = 0; i < 10; i++)
        turn(&here, 100);

    memset(&there, 0, sizeof there);
    assert_int_equal(mr_heap_init(&there.heap, SIZE_MAX, false), MOOR_OK);
    assert_int_equal(mr_buf_pool_init(&there.bufs, &there.heap, 512, 8, 0), MOOR_OK);
    const struct mr_io_config config = {.bufs = &there.bufs, .heap = &there.heap};
    assert_int_equal(io_sim_create(&here.w, &config, &there.io), MOOR_OK);
    client_init(&d, &there);
    mr_io_attach(there.io, &d.s, fd);
    mr_io_recv_start(there.io, &d.s);
    UNTIL(&there, d.bytes == 5);
    client_close(&d);
    client_close(&c);
    assert_int_equal(h->sockets, 0);
    mr_io_destroy(there.io);
    mr_buf_pool_fini(&there.bufs);
    mr_heap_fini(&there.heap);
    finish(&here);
}

/* ---- polls, waking, time ---- */

static void on_poll(void *ctx, uint32_t events)
{
    *(uint32_t *)ctx = events;
}

static void test_polls_fire_once_or_not_at_all(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 7, 8);
    struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
    struct client c;
    client_connect(&c, &f, h);
    uint32_t in = 0, out = 0, cancelled = 0;
    uint64_t id = mr_io_poll(f.io, c.s.fd, POLLIN, on_poll, &in);
    assert_int_not_equal(id, 0);
    mr_io_poll(f.io, c.s.fd, POLLOUT, on_poll, &out);
    mr_io_poll_cancel(f.io, mr_io_poll(f.io, c.s.fd, POLLOUT, on_poll, &cancelled));
    turn(&f, 0);
    assert_int_equal(out, POLLOUT);
    assert_int_equal(in, 0);
    sim_peer_write(only_wire(&f), "x", 1);
    UNTIL(&f, *(volatile uint32_t *)&in);
    assert_int_equal(in, POLLIN);
    in = 0;
    turn(&f, 1);
    assert_int_equal(in, 0);
    assert_int_equal(cancelled, 0);
    mr_io_poll_cancel(f.io, id);
    client_close(&c);
    finish(&f);
}

static void test_waits_take_virtual_time_or_a_wake(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 9, 8);
    int64_t at = f.w.now_ns;
    turn(&f, 5000);
    assert_int_equal(f.w.now_ns - at, 5000 * MR_NS_PER_MS);
    mr_io_wake(f.io);
    at = f.w.now_ns;
    turn(&f, 5000);
    assert_int_equal(f.w.now_ns, at);
    finish(&f);
}

/* ---- what it must catch ---- */

static void misuse(void *arg)
{
    struct fixture f;
    start(&f, 11, 8);
    struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
    struct client c;
    client_connect(&c, &f, h);
    char bytes[] = "some bytes";
    switch (*(int *)arg) {
    case 0:
        client_send(&c, bytes, 10);
        client_send(&c, bytes, 10);
        break;
    case 1:
        mr_io_recv_start(f.io, &c.s);
        mr_io_recv_stop(f.io, &c.s);
        mr_io_recv_start(f.io, &c.s);
        break;
    case 2:
        mr_io_close(f.io, &c.s);
        client_send(&c, bytes, 10);
        break;
    case 3:
        client_send(&c, bytes, 10);
        bytes[0] = 'x';
        UNTIL(&f, c.sent);
        break;
    case 4:
        mr_io_close(f.io, &c.s);
        memset(&c.s, 0, sizeof c.s);
        c.s.events = &client_events;
        UNTIL(&f, c.closed);
        break;
    case 5:
        mr_io_recv_start(f.io, &c.s);
        mr_io_detach(f.io, &c.s);
        break;
    case 6:
        mr_io_destroy(f.io);
        break;
    }
}

static void test_misuse_is_caught(void **state)
{
    (void)state;
    static const char *const words[] = {
        "one send under way", "before recv_ended", "is_closing",  "changed while it was being sent",
        "before closed()",    "is_receiving",      "never closed"};
    for (int i = 0; i < (int)(sizeof words / sizeof *words); i++) {
        struct canary c = canary_run(misuse, &i);
        assert_true(canary_panicked(&c, words[i]));
    }
}

static uint64_t digest(uint64_t seed)
{
    struct fixture f;
    start(&f, seed, 6);
    sim_draw_faults(&f.w);
    struct sim_host *h = sim_host_add_ipv4(&f.w, 1, 80, &echo, NULL);
    uint8_t *bytes = pattern(5000);
    struct client c[4];
    for (int i = 0; i < 4; i++) {
        client_init(&c[i], &f);
        (void)!client_dial(&c[i], h);
    }
    for (int t = 0; t < 200; t++) {
        turn(&f, 10);
        for (int i = 0; i < 4; i++) {
            if (c[i].connected == 1 && c[i].connect_err == 0) {
                mr_io_recv_start(f.io, &c[i].s);
                client_send(&c[i], bytes, 5000);
                c[i].connected = 2;
            }
        }
    }
    for (int i = 0; i < 4; i++)
        client_close(&c[i]);
    uint64_t d = f.w.digest;
    free(bytes);
    finish(&f);
    return d;
}

static void test_a_seed_repeats_its_run(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 50; seed++) {
        assert_true(digest(seed) == digest(seed));
        assert_true(digest(seed) != digest(seed + 1));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connect_ends_as_the_host_answers),
        cmocka_unit_test(test_connect_without_descriptors),
        cmocka_unit_test(test_echo_whatever_the_order),
        cmocka_unit_test(test_a_fin_comes_after_the_data),
        cmocka_unit_test(test_reset_ends_both_directions),
        cmocka_unit_test(test_data_to_a_closed_server_is_answered_by_a_reset),
        cmocka_unit_test(test_close_whatever_is_under_way),
        cmocka_unit_test(test_starved_receives_go_on_in_turn),
        cmocka_unit_test(test_detach_and_attach),
        cmocka_unit_test(test_polls_fire_once_or_not_at_all),
        cmocka_unit_test(test_waits_take_virtual_time_or_a_wake),
        cmocka_unit_test(test_misuse_is_caught),
        cmocka_unit_test(test_a_seed_repeats_its_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
