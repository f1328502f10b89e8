/*
 * A server scripted by a test, with plain blocking sockets: shares no code with what it tests.
 */
#include "tests/support/peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void raise_to(atomic_int *peak, int value)
{
    int seen = atomic_load(peak);
    while (seen < value && !atomic_compare_exchange_weak(peak, &seen, value))
        ;
}

static void *run_conn(void *arg)
{
    struct peer_conn *c = arg;
    struct peer *p = c->peer;
    atomic_fetch_add(&p->open, 1);
    p->serve(c);
    atomic_fetch_sub(&p->open, 1);
    shutdown(c->fd, SHUT_WR);
    pthread_mutex_lock(&p->closing);
    close(c->fd);
    c->fd = -1;
    pthread_mutex_unlock(&p->closing);
    return NULL;
}

/* How many the client holds open, as the kernel knows it: the thread of a conn may hear of its end much later. All of
 * them were accepted before the count begins, so those it counts were open at one time, then. */
static int count_held(struct peer *p)
{
    int n = 0;
    pthread_mutex_lock(&p->closing);
    for (int i = 0; i < atomic_load(&p->accepted); i++) {
        struct tcp_info info;
        socklen_t len = sizeof info;
        const int fd = p->conns[i]->fd;
        n += fd >= 0 && !getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) &&
             info.tcpi_state == TCP_ESTABLISHED;
    }
    pthread_mutex_unlock(&p->closing);
    return n;
}

static void *run_acceptor(void *arg)
{
    struct peer *p = arg;
    for (;;) {
        const int fd = accept(p->listener, NULL, NULL);
        if (atomic_load(&p->is_stopping)) {
            if (fd >= 0)
                close(fd);
            return NULL;
        }
        if (fd < 0) {
            peer_sleep_ms(1); /* out of descriptors: the test's doing */
            continue;
        }
        const int nth = atomic_load(&p->accepted);
        struct peer_conn *c = nth < PEER_CONNS_MAX ? calloc(1, sizeof *c) : NULL;
        if (!c) {
            close(fd);
            continue;
        }
        *c = (struct peer_conn){.peer = p, .fd = fd, .nth = nth};
        const struct timeval patience = {.tv_usec = 20000};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        p->conns[nth] = c;
        atomic_fetch_add(&p->accepted, 1);
        raise_to(&p->peak, count_held(p));
        pthread_create(&c->thread, NULL, run_conn, c);
    }
}

void peer_bind(struct peer *p, peer_fn serve, void *user)
{
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->closing, NULL);
    p->serve = serve;
    p->user = user;
    p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(p->listener >= 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof at;
    assert_int_equal(bind(p->listener, (struct sockaddr *)&at, len), 0);
    assert_int_equal(getsockname(p->listener, (struct sockaddr *)&at, &len), 0);
    p->port = ntohs(at.sin_port);
    snprintf(p->url, sizeof p->url, "http://127.0.0.1:%d", p->port);
}

void peer_listen(struct peer *p)
{
    assert_int_equal(listen(p->listener, 256), 0);
    assert_int_equal(pthread_create(&p->acceptor, NULL, run_acceptor, p), 0);
    p->is_listening = true;
}

void peer_stop(struct peer *p)
{
    atomic_store(&p->is_stopping, true);
    shutdown(p->listener, SHUT_RDWR);
    if (p->is_listening)
        pthread_join(p->acceptor, NULL);
    close(p->listener);
    const int n = atomic_load(&p->accepted);
    for (int i = 0; i < n; i++) {
        pthread_join(p->conns[i]->thread, NULL);
        free(p->conns[i]);
    }
    pthread_mutex_destroy(&p->closing);
}

static bool is_again(ssize_t n)
{
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static ssize_t read_some(struct peer_conn *c, void *to, size_t cap)
{
    ssize_t n;
    do
        n = recv(c->fd, to, cap, 0);
    while (is_again(n) && !atomic_load(&c->peer->is_stopping));
    return n;
}

size_t peer_read(struct peer_conn *c, void *to, size_t cap)
{
    const ssize_t n = read_some(c, to, cap);
    return n > 0 ? (size_t)n : 0;
}

bool peer_head(struct peer_conn *c)
{
    size_t len = 0;
    while (len < PEER_HEAD_MAX - 1) {
        if (read_some(c, c->head + len, 1) != 1)
            return false;
        c->head[++len] = '\0';
        if (len >= 4 && !memcmp(c->head + len - 4, "\r\n\r\n", 4)) {
            c->requests++;
            atomic_fetch_add(&c->peer->requests, 1);
            raise_to(&c->peer->busy_peak, atomic_fetch_add(&c->peer->busy, 1) + 1);
            return true;
        }
    }
    return false;
}

bool peer_body(struct peer_conn *c, size_t n)
{
    char bytes[4096];
    while (n) {
        const ssize_t got = read_some(c, bytes, n < sizeof bytes ? n : sizeof bytes);
        if (got <= 0)
            return false;
        n -= (size_t)got;
        c->body_len += (size_t)got;
    }
    return true;
}

bool peer_send(struct peer_conn *c, const void *bytes, size_t len)
{
    const char *at = bytes;
    while (len) {
        const ssize_t n = send(c->fd, at, len, MSG_NOSIGNAL);
        if (is_again(n) && !atomic_load(&c->peer->is_stopping))
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

bool peer_say(struct peer_conn *c, const char *text)
{
    atomic_fetch_sub(&c->peer->busy, 1);
    return peer_send(c, text, strlen(text));
}

void peer_reset(struct peer_conn *c)
{
    const struct linger now = {.l_onoff = 1};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    /* run_conn's shutdown would send a FIN first: close here and leave it a harmless descriptor. */
    dup2(STDERR_FILENO, c->fd);
}

size_t peer_linger(struct peer_conn *c)
{
    char bytes[4096];
    size_t sum = 0;
    ssize_t n;
    while ((n = read_some(c, bytes, sizeof bytes)) > 0)
        sum += (size_t)n;
    return sum;
}

void peer_sleep_ms(int ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

void peer_serve_ok(struct peer_conn *c)
{
    while (peer_head(c))
        if (!peer_say(c, PEER_OK))
            return;
}
