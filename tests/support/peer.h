/*
 * A server scripted by a test: one thread accepts, one thread per connection runs the test's
 * function. What is wrong is recorded, never asserted: cmocka asserts on the test's own thread
 * only.
 */
#ifndef TESTS_SUPPORT_PEER_H
#define TESTS_SUPPORT_PEER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PEER_CONNS_MAX = 512, PEER_HEAD_MAX = 16384 };

struct peer;

struct peer_conn {
    struct peer *peer;
    int fd;
    int nth;                  /* 0 = the first connection accepted */
    int requests;             /* heads read on it */
    char head[PEER_HEAD_MAX]; /* the last head read, NUL-terminated */
    size_t body_len;          /* bytes read beyond that head */
    pthread_t thread;
};

typedef void (*peer_fn)(struct peer_conn *c);

struct peer {
    peer_fn serve; /* returns when the conn is done: its fd is closed then */
    void *user;
    int port;
    char url[64];
    int listener;
    pthread_t acceptor;
    struct peer_conn *conns[PEER_CONNS_MAX];
    atomic_int accepted;
    atomic_int open;            /* being served: may count some that the client has closed */
    atomic_int peak;            /* most that the client held open, seen whenever one is accepted */
    pthread_mutex_t closing;    /* held while one is closed, so that a number is not another's */
    atomic_int requests;        /* heads read on all connections */
    atomic_int busy, busy_peak; /* between peer_head and peer_say */
    atomic_bool is_stopping;
    bool is_listening;
};

/* Takes a free port of 127.0.0.1, where connects are refused until peer_listen. */
void peer_bind(struct peer *p, peer_fn serve, void *user);
void peer_listen(struct peer *p);
static inline void peer_start(struct peer *p, peer_fn serve, void *user)
{
    peer_bind(p, serve, user);
    peer_listen(p);
}
/* Closes the listener, ends every connection and joins every thread. */
void peer_stop(struct peer *p);

/* Reads a request's head, byte by byte up to the empty line. False: the client closed. */
bool peer_head(struct peer_conn *c);
/* Reads exactly n bytes into c->head's place (n < PEER_HEAD_MAX) or throws them away. */
bool peer_body(struct peer_conn *c, size_t n);
/* What has come, at least one byte. 0: the client closed. */
size_t peer_read(struct peer_conn *c, void *to, size_t cap);
/* False: the client is gone. */
bool peer_say(struct peer_conn *c, const char *text);
bool peer_send(struct peer_conn *c, const void *bytes, size_t len);
/* Closing will be an RST. */
void peer_reset(struct peer_conn *c);
/* Waits until the client closes or the peer stops; what comes is thrown away. Returns how much
 * came. */
size_t peer_linger(struct peer_conn *c);
void peer_sleep_ms(int ms);

/* A connection that answers every request with 200 and "ok". */
void peer_serve_ok(struct peer_conn *c);
#define PEER_OK "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

#endif
