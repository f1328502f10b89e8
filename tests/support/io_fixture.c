/* See io_fixture.h. */
#include "tests/support/io_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static int64_t give_up_at;

static int64_t seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec;
}

void io_watchdog(void)
{
    assert_true(seconds() < give_up_at);
}

/* ---- events ---- */

static void count_one(struct mr_sock *s, int *counter)
{
    struct io_client *c = MR_CONTAINER_OF(s, struct io_client, s);
    assert_true(c->f->is_dispatching);
    assert_int_equal(c->closed, 0);
    ++*counter;
}

static void on_connected(struct mr_sock *s, int err)
{
    struct io_client *c = MR_CONTAINER_OF(s, struct io_client, s);
    count_one(s, &c->connected);
    assert_false(s->is_connecting);
    c->connect_err = err;
}

static void on_received(struct mr_sock *s, struct mr_buf *b, uint32_t len)
{
    struct io_client *c = MR_CONTAINER_OF(s, struct io_client, s);
    count_one(s, &c->received);
    assert_true(s->is_receiving);
    assert_in_range(len, 1, b->cap);
    c->sum = io_sum(c->sum, c->bytes, b->data, len);
    c->bytes += len;
    if (c->is_holding) {
        assert_true(c->held_count < IO_HELD_MAX);
        c->held[c->held_count++] = b;
    } else {
        mr_buf_unref(b);
    }
    if (c->on_received)
        c->on_received(c);
}

static void on_recv_ended(struct mr_sock *s, int err)
{
    struct io_client *c = MR_CONTAINER_OF(s, struct io_client, s);
    count_one(s, &c->ended);
    assert_false(s->is_receiving);
    c->ended_err = err;
    if (c->on_ended)
        c->on_ended(c);
}

static void on_sent(struct mr_sock *s, int err, size_t taken)
{
    struct io_client *c = MR_CONTAINER_OF(s, struct io_client, s);
    count_one(s, &c->sent);
    assert_false(s->is_sending);
    c->sent_err = err;
    c->taken = taken;
    if (c->on_sent)
        c->on_sent(c);
}

static void on_closed(struct mr_sock *s)
{
    struct io_client *c = MR_CONTAINER_OF(s, struct io_client, s);
    count_one(s, &c->closed);
    assert_int_equal(s->fd, -1);
}

static const struct mr_sock_events client_events = {
    .connected = on_connected,
    .received = on_received,
    .recv_ended = on_recv_ended,
    .sent = on_sent,
    .closed = on_closed,
};

/* ---- the fixture ---- */

struct io_fixture *io_fixture_open(const char *backend, uint32_t count,
                                   const struct mr_io_config *config)
{
    struct io_fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->backend = backend;
    if (config)
        f->config = *config;
    else
        f->config.features = MR_IO_FEATURES_ALL;
    assert_int_equal(mr_heap_init(&f->heap, SIZE_MAX, false), MOOR_OK);
    assert_int_equal(mr_buf_pool_init(&f->bufs, &f->heap, 4096, count, 0), MOOR_OK);
    f->config.bufs = &f->bufs;
    f->config.heap = &f->heap;
    char why[128];
    if (mr_io_create(backend, &f->config, &f->io, why, sizeof why) == MOOR_OK) {
        assert_string_equal(why, "");
        assert_string_equal(f->io->ops->name, backend);
        give_up_at = seconds() + 60;
        return f;
    }
    print_message("%s: %s\n", backend, why);
    mr_buf_pool_fini(&f->bufs);
    mr_heap_fini(&f->heap);
    free(f);
    return NULL;
}

void io_fixture_close(struct io_fixture *f)
{
    mr_io_destroy(f->io);
    mr_buf_pool_fini(&f->bufs);
    mr_heap_fini(&f->heap);
    free(f);
}

bool io_skip_refused(void)
{
    struct io_fixture *f = io_fixture_open("io_uring", 4, NULL);
    if (!f) {
        cmocka_set_skip_filter("*io_uring");
        return false;
    }
    io_fixture_close(f);
    return true;
}

int io_fixture_setup(void **state)
{
    *state = io_fixture_open(*state, 256, NULL);
    return *state ? 0 : -1;
}

int io_fixture_teardown(void **state)
{
    if (*state)
        io_fixture_close(*state);
    return 0;
}

unsigned io_turn(struct io_fixture *f, int64_t timeout_ms)
{
    assert_int_equal(mr_io_wait(f->io, timeout_ms < 0 ? MR_NEVER : timeout_ms * MR_NS_PER_MS),
                     MOOR_OK);
    f->is_dispatching = true;
    unsigned n = mr_io_dispatch(f->io, 0);
    f->is_dispatching = false;
    return n;
}

/* ---- clients and peers ---- */

void io_client_init(struct io_client *c, struct io_fixture *f)
{
    memset(c, 0, sizeof *c);
    c->f = f;
    c->s.fd = -1;
    c->s.events = &client_events;
}

int io_client_connect(struct io_client *c, int listener)
{
    struct sockaddr_in to;
    socklen_t len = sizeof to;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&to, &len), 0);
    assert_int_equal(mr_io_connect(c->f->io, &c->s, (struct sockaddr *)&to, len, NULL), 0);
    io_until(c->f, c->connected);
    assert_int_equal(c->connect_err, 0);
    int peer = accept(listener, NULL, NULL);
    assert_true(peer >= 0);
    return peer;
}

void io_client_send(struct io_client *c, const void *bytes, size_t len)
{
    c->piece = (struct iovec){.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    c->message = (struct msghdr){.msg_iov = &c->piece, .msg_iovlen = 1};
    mr_io_send(c->f->io, &c->s, &c->message);
}

void io_client_drop_held(struct io_client *c)
{
    while (c->held_count > 0)
        mr_buf_unref(c->held[--c->held_count]);
}

void io_client_close(struct io_client *c)
{
    mr_io_close(c->f->io, &c->s);
    assert_int_equal(c->closed, 0);
    io_until(c->f, c->closed);
    assert_int_equal(c->closed, 1);
}

int io_listen(struct sockaddr_in *out)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 512), 0);
    socklen_t len = sizeof *out;
    if (out)
        assert_int_equal(getsockname(fd, (struct sockaddr *)out, &len), 0);
    return fd;
}

uint64_t io_sum(uint64_t sum, size_t offset, const void *bytes, size_t len)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < len; i++)
        sum += (p[i] + 1u) * ((offset + i) * 2 + 1);
    return sum;
}
