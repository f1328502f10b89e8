/*
 * Sockets as every shard wants them: close-on-exec, no Nagle delay, keepalive as configured.
 * Any thread. Must not connect or read anything: that is the backend's.
 */
#include "core/io_socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

static int set(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value) == 0 ? 0 : -errno;
}

static int set_keepalive(int fd, const struct mr_sock_options *o)
{
    int e = set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    if (e == 0 && o->keepalive_idle_s > 0)
        e = set(fd, IPPROTO_TCP, TCP_KEEPIDLE, o->keepalive_idle_s);
    if (e == 0 && o->keepalive_interval_s > 0)
        e = set(fd, IPPROTO_TCP, TCP_KEEPINTVL, o->keepalive_interval_s);
    if (e == 0 && o->keepalive_count > 0)
        e = set(fd, IPPROTO_TCP, TCP_KEEPCNT, o->keepalive_count);
    return e;
}

int mr_socket_open(int family, int type_flags, const struct mr_sock_options *o)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | type_flags, 0);
    if (fd < 0)
        return -errno;
    if (family != AF_INET && family != AF_INET6)
        return fd;
    int e = set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (e == 0 && o && o->keepalive_idle_s > 0)
        e = set_keepalive(fd, o);
    if (e == 0 && o && o->user_timeout_ms > 0)
        e = set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)o->user_timeout_ms);
    if (e == 0)
        return fd;
    close(fd);
    return e;
}

bool mr_socket_is_dead(int fd)
{
    struct tcp_info info;
    socklen_t len = sizeof info.tcpi_state;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_state == TCP_CLOSE;
}

size_t mr_msg_len(const struct msghdr *m)
{
    size_t len = 0;
    for (size_t i = 0; i < m->msg_iovlen; i++)
        len += m->msg_iov[i].iov_len;
    return len;
}

size_t mr_msg_seek(const struct msghdr *m, size_t *offset)
{
    size_t i = 0;
    while (i < m->msg_iovlen && *offset >= m->msg_iov[i].iov_len)
        *offset -= m->msg_iov[i++].iov_len;
    return i;
}
