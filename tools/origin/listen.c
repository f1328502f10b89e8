/*
 * Makes the listening sockets, before any thread runs. On TCP each thread has its own, joined by
 * SO_REUSEPORT, so the kernel spreads conns without a lock between threads.
 */
#include "listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 4096 };

static bool open_unix(struct listen_set *s, const char *path, unsigned count);
static bool open_tcp(struct listen_set *s, const char *host, unsigned port, unsigned count);

bool listen_open(struct listen_set *s, const char *bind_to, unsigned port, unsigned count)
{
    *s = (struct listen_set){0};
    const bool is_unix = strncmp(bind_to, "unix:", 5) == 0;
    if (is_unix ? open_unix(s, bind_to + 5, count) : open_tcp(s, bind_to, port, count))
        return true;
    fprintf(stderr, "mooring-origin: cannot listen on %s port %u: %s\n", bind_to, port,
            strerror(errno));
    return false;
}

void listen_close(struct listen_set *s)
{
    for (unsigned i = 0; i < s->count; i++)
        if (i == 0 || !s->is_unix)
            close(s->fds[i]);
    if (s->path[0])
        unlink(s->path);
    s->count = 0;
}

/* A socket file nobody listens on is left from a run that was killed. */
static void remove_stale(const struct sockaddr_un *a)
{
    struct stat st;
    if (lstat(a->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, (const struct sockaddr *)a, sizeof *a) != 0 && errno == ECONNREFUSED)
        unlink(a->sun_path);
    close(fd);
}

static bool open_unix(struct listen_set *s, const char *path, unsigned count)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const size_t len = strlen(path);
    if (len == 0 || len >= sizeof a.sun_path) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(a.sun_path, path, len + 1);
    remove_stale(&a);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    s->is_unix = true;
    s->fds[0] = fd;
    s->count = 1;
    if (bind(fd, (const struct sockaddr *)&a, sizeof a) != 0)
        return false;
    memcpy(s->path, path, len + 1);
    if (listen(fd, BACKLOG) != 0)
        return false;
    while (s->count < count)
        s->fds[s->count++] = fd;
    snprintf(s->name, sizeof s->name, "unix:%s", path);
    return true;
}

static int open_one(const struct addrinfo *at)
{
    const int on = 1;
    const int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* Accepted sockets inherit it: no system call per conn. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0 &&
        bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    const int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void name_it(struct listen_set *s, int family, unsigned port)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    char host[INET6_ADDRSTRLEN] = "?";
    (void)getsockname(s->fds[0], (struct sockaddr *)&a, &len);
    (void)getnameinfo((struct sockaddr *)&a, len, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    snprintf(s->name, sizeof s->name, family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, port);
}

static unsigned port_of(int fd)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len) != 0)
        return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
                                         : ((struct sockaddr_in *)&a)->sin_port);
}

static bool open_tcp(struct listen_set *s, const char *host, unsigned port, unsigned count)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *at = NULL;
    if (getaddrinfo(host, NULL, &hints, &at) != 0) {
        errno = EADDRNOTAVAIL;
        return false;
    }
    while (s->count < count) {
        if (at->ai_family == AF_INET6)
            ((struct sockaddr_in6 *)at->ai_addr)->sin6_port = htons((uint16_t)port);
        else
            ((struct sockaddr_in *)at->ai_addr)->sin_port = htons((uint16_t)port);
        const int fd = open_one(at);
        if (fd < 0)
            break;
        s->fds[s->count++] = fd;
        port = port_of(fd); /* the others must join the port the first was given */
    }
    if (s->count == count)
        name_it(s, at->ai_family, port);
    freeaddrinfo(at);
    return s->count == count;
}
