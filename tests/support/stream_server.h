/*
 * A server of byte streams for tests: a thread that accepts, and one for each connection, which behaves
 * as the server was last told. TCP on a free port of loopback, or a Unix socket.
 */
#ifndef TESTS_SUPPORT_STREAM_SERVER_H
#define TESTS_SUPPORT_STREAM_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum stream_server_mode {
    STREAM_ECHO,    /* what comes goes back; at the client's FIN "bye" and a FIN */
    STREAM_GREET,   /* "hello" first, then as ECHO */
    STREAM_SILENT,  /* reads nothing, says nothing */
    STREAM_GOODBYE, /* "hello" and a FIN, then reads until the client ends */
    STREAM_RESET,   /* an RST as soon as a byte has come */
    STREAM_FLOOD    /* `flood` bytes counting up from 0, then a FIN */
};

struct stream_server {
    int fd;
    uint16_t port;
    char url[128];
    char path[100]; /* of a Unix socket, else "" */
    pthread_t thread;
    _Atomic(int) mode;
    _Atomic(size_t) flood;
    _Atomic(int) conns;  /* now open */
    _Atomic(int) served; /* accepted so far */
    _Atomic(bool) is_over;
};

struct stream_server_conn {
    struct stream_server *server;
    int fd;
};

/* False: the connection is over, or the server. */
static inline bool stream_server_wait(struct stream_server_conn *c, short events)
{
    while (!atomic_load(&c->server->is_over)) {
        struct pollfd p = {.fd = c->fd, .events = events};
        if (poll(&p, 1, 10) > 0)
            return true;
    }
    return false;
}

static inline bool stream_server_say(struct stream_server_conn *c, const void *base, size_t len)
{
    for (const char *at = base; len;) {
        if (!stream_server_wait(c, POLLOUT))
            return false;
        ssize_t n = send(c->fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static inline void stream_server_echo(struct stream_server_conn *c, bool is_quiet)
{
    char bytes[16384];
    while (stream_server_wait(c, POLLIN)) {
        ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
        if (n < 0)
            return;
        if (n == 0) {
            if (!is_quiet)
                (void)stream_server_say(c, "bye", 3);
            return;
        }
        if (!is_quiet && !stream_server_say(c, bytes, (size_t)n))
            return;
    }
}

static inline void stream_server_reset(struct stream_server_conn *c)
{
    const struct linger now = {.l_onoff = 1};
    if (stream_server_wait(c, POLLIN))
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

static inline void stream_server_pour(struct stream_server_conn *c)
{
    unsigned char bytes[8192];
    size_t done = 0;
    const size_t all = atomic_load(&c->server->flood);
    while (done < all) {
        size_t n = all - done < sizeof bytes ? all - done : sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (unsigned char)(done + i);
        if (!stream_server_say(c, bytes, n))
            return;
        done += n;
    }
}

static inline void *stream_server_serve(void *arg)
{
    struct stream_server_conn *c = arg;
    switch (atomic_load(&c->server->mode)) {
    case STREAM_GREET:
        if (stream_server_say(c, "hello", 5))
            stream_server_echo(c, false);
        break;
    case STREAM_SILENT:
        while (!atomic_load(&c->server->is_over)) {
            struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
            if (poll(&p, 1, 10) > 0)
                break;
        }
        break;
    case STREAM_GOODBYE:
        (void)stream_server_say(c, "hello", 5);
        shutdown(c->fd, SHUT_WR);
        stream_server_echo(c, true);
        break;
    case STREAM_RESET:
        stream_server_reset(c);
        break;
    case STREAM_FLOOD:
        stream_server_pour(c);
        shutdown(c->fd, SHUT_WR);
        stream_server_echo(c, true);
        break;
    default:
        stream_server_echo(c, false);
        break;
    }
    close(c->fd);
    atomic_fetch_sub(&c->server->conns, 1);
    free(c);
    return NULL;
}

static inline void *stream_server_accept(void *arg)
{
    struct stream_server *s = arg;
    while (!atomic_load(&s->is_over)) {
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        int fd = poll(&p, 1, 10) > 0 ? accept4(s->fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd < 0)
            continue;
        struct stream_server_conn *c = malloc(sizeof *c);
        *c = (struct stream_server_conn){s, fd};
        atomic_fetch_add(&s->conns, 1);
        atomic_fetch_add(&s->served, 1);
        pthread_t t;
        if (pthread_create(&t, NULL, stream_server_serve, c))
            abort();
        pthread_detach(t);
    }
    return NULL;
}

static inline void stream_server_begin(struct stream_server *s)
{
    if (listen(s->fd, 128) || pthread_create(&s->thread, NULL, stream_server_accept, s))
        abort();
}

static inline struct stream_server *stream_server_start(void)
{
    struct stream_server *s = calloc(1, sizeof *s);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    if (bind(s->fd, (struct sockaddr *)&a, len) || getsockname(s->fd, (struct sockaddr *)&a, &len))
        abort();
    s->port = ntohs(a.sin_port);
    snprintf(s->url, sizeof s->url, "tcp://127.0.0.1:%u", s->port);
    stream_server_begin(s);
    return s;
}

static inline struct stream_server *stream_server_start_unix(void)
{
    struct stream_server *s = calloc(1, sizeof *s);
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(s->path, sizeof s->path, "/tmp/mooring-stream-%ld.sock", (long)getpid());
    unlink(s->path);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", s->path);
    if (bind(s->fd, (struct sockaddr *)&a, sizeof a))
        abort();
    snprintf(s->url, sizeof s->url, "unix:%s", s->path);
    stream_server_begin(s);
    return s;
}

static inline void stream_server_stop(struct stream_server *s)
{
    atomic_store(&s->is_over, true);
    pthread_join(s->thread, NULL);
    while (atomic_load(&s->conns) > 0)
        usleep(1000);
    close(s->fd);
    if (s->path[0])
        unlink(s->path);
    free(s);
}

#endif
