/*
 * A backend with its heap and buffers, sockets that record every event, and peers on loopback.
 * Every case runs on each backend: the array of tests names the backend in initial_state.
 */
#ifndef TESTS_SUPPORT_IO_FIXTURE_H
#define TESTS_SUPPORT_IO_FIXTURE_H

#include "alloc/buf.h"
#include "core/io.h"

#include <netinet/in.h>
#include <sys/uio.h>

enum { IO_HELD_MAX = 64 };

struct io_fixture {
    const char *backend;
    struct mr_io_config config;
    struct mr_heap heap;
    struct mr_buf_pool bufs;
    struct mr_io *io;
    bool is_dispatching; /* events may be delivered now */
};

/* A client socket under test. */
struct io_client {
    struct mr_sock s;
    struct io_fixture *f;
    int connected, sent, ended, closed, received; /* events of each kind */
    int connect_err, sent_err, ended_err;
    size_t taken;
    size_t bytes;    /* received */
    uint64_t sum;    /* position-dependent, of received bytes */
    bool is_holding; /* keep the buffers */
    struct mr_buf *held[IO_HELD_MAX];
    int held_count;
    void (*on_received)(struct io_client *c);
    void (*on_ended)(struct io_client *c);
    void (*on_sent)(struct io_client *c);
    struct iovec piece;
    struct msghdr message;
};

/* A backend with 4 KiB buffers, `count` of them; config changes what differs from the defaults. */
struct io_fixture *io_fixture_open(const char *backend, uint32_t count,
                                   const struct mr_io_config *config);
/* Everything closed and given back is asserted by the library's own fini functions. */
void io_fixture_close(struct io_fixture *f);
/* Runs the tests, without those "on io_uring" where the kernel refuses it. */
#define io_run(tests) (io_skip_refused(), cmocka_run_group_tests(tests, NULL, NULL))
/* False where the kernel refuses io_uring: the tests of that name are left out. */
bool io_skip_refused(void);
/* cmocka set-up and tear-down: initial_state is the backend's name. */
int io_fixture_setup(void **state);
int io_fixture_teardown(void **state);

/* One wait and one dispatch. Returns how many events. */
unsigned io_turn(struct io_fixture *f, int64_t timeout_ms);
/* Turns until the condition holds; fails the test after 60 s. */
#define io_until(f, condition)                                                                     \
    do {                                                                                           \
        for (int turns_ = 0; !(condition); turns_++) {                                             \
            assert_true(turns_ < 200000);                                                          \
            io_turn((f), 10);                                                                      \
            io_watchdog();                                                                         \
        }                                                                                          \
    } while (0)
void io_watchdog(void);

void io_client_init(struct io_client *c, struct io_fixture *f);
/* Connects to the listener and accepts; returns the peer's blocking descriptor. */
int io_client_connect(struct io_client *c, int listener);
void io_client_send(struct io_client *c, const void *bytes, size_t len);
void io_client_drop_held(struct io_client *c);
/* Closes and waits for the one closing event. */
void io_client_close(struct io_client *c);

/* A listener on a free port of 127.0.0.1. */
int io_listen(struct sockaddr_in *out);
uint64_t io_sum(uint64_t sum, size_t offset, const void *bytes, size_t len);

/* Runs a case once on each backend. */
#define IO_CASE(fn)                                                                                \
    {#fn " on io_uring", fn, io_fixture_setup, io_fixture_teardown, (void *)"io_uring"},           \
    {                                                                                              \
#fn " on epoll", fn, io_fixture_setup, io_fixture_teardown, (void *)"epoll"                \
    }

#endif
