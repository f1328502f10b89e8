/*
 * An HTTP/1.1 server behind xor layers. One thread per conn; blocking.
 */
#include "tests/support/xor_server.h"

#include "tests/support/xor_filter.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LAYERS_MAX 3
#define CONNS_MAX  256

struct layer {
    uint64_t sent_at, received_at;
    uint8_t record[XOR_RECORD_LIMIT];
    size_t at, len;
    bool has_ended;
};

struct conn {
    struct xor_server *server;
    int fd;
    struct layer layers[LAYERS_MAX];
};

struct xor_server {
    struct xor_server_options options;
    char url[64];
    int listener, stop[2];
    pthread_t acceptor, threads[CONNS_MAX];
    int fds[CONNS_MAX];
    _Atomic(unsigned) conns, open, ends[LAYERS_MAX];
};

/* ---- layers: level 0 is the socket, level n what is above n layers ---- */

static bool put(struct conn *c, unsigned level, const void *bytes, size_t len)
{
    const uint8_t *from = bytes;
    if (level == 0) {
        while (len) {
            const ssize_t n = send(c->fd, from, len, MSG_NOSIGNAL);
            if (n <= 0)
                return false;
            from += n;
            len -= (size_t)n;
        }
        return true;
    }
    struct layer *l = &c->layers[level - 1];
    const size_t most = c->server->options.record_max ? c->server->options.record_max : 16384;
    uint8_t *record = malloc(2 + most);
    bool is_sent = true;
    do {
        const size_t part = len < most ? len : most;
        record[0] = (uint8_t)(part >> 8);
        record[1] = (uint8_t)part;
        for (size_t i = 0; i < part; i++)
            record[2 + i] = from[i] ^ xor_key(false, l->sent_at++);
        is_sent = put(c, level - 1, record, 2 + part);
        from += part;
        len -= part;
    } while (len && is_sent);
    free(record);
    return is_sent;
}

static bool take(struct conn *c, unsigned level, void *bytes, size_t len);

static bool next_record(struct conn *c, unsigned level)
{
    struct layer *l = &c->layers[level - 1];
    uint8_t header[2];
    if (l->has_ended || !take(c, level - 1, header, 2))
        return false;
    l->at = 0;
    l->len = (size_t)header[0] << 8 | header[1];
    if (!l->len) {
        l->has_ended = true;
        atomic_fetch_add(&c->server->ends[level - 1], 1);
        return false;
    }
    if (!take(c, level - 1, l->record, l->len))
        return false;
    for (size_t i = 0; i < l->len; i++)
        l->record[i] ^= xor_key(true, l->received_at++);
    return true;
}

static bool take(struct conn *c, unsigned level, void *bytes, size_t len)
{
    uint8_t *to = bytes;
    while (len) {
        size_t n;
        if (level == 0) {
            const ssize_t got = recv(c->fd, to, len, 0);
            if (got <= 0)
                return false;
            n = (size_t)got;
        } else {
            struct layer *l = &c->layers[level - 1];
            if (l->at == l->len && !next_record(c, level))
                return false;
            n = l->len - l->at < len ? l->len - l->at : len;
            memcpy(to, l->record + l->at, n);
            l->at += n;
        }
        to += n;
        len -= n;
    }
    return true;
}

static bool shake(struct conn *c, unsigned level)
{
    const struct xor_server_options *o = &c->server->options;
    const enum xor_handshake how = o->hit_layer == level ? o->handshake : XOR_WHOLE;
    char ask[4];
    if (!take(c, level, ask, 4) || memcmp(ask, XOR_ASK, 4))
        return false;
    switch (how) {
    case XOR_DRIBBLED:
        for (int i = 0; i < 4; i++) {
            if (!put(c, level, &XOR_GRANT[i], 1))
                return false;
            usleep(2000);
        }
        return true;
    case XOR_STALLED:
        (void)take(c, level, ask, 1); /* until the client goes */
        return false;
    case XOR_REFUSED:
        (void)put(c, level, XOR_REFUSE, 4);
        (void)take(c, level, ask, 1);
        return false;
    case XOR_CUT:
        (void)put(c, level, XOR_GRANT, 2);
        return false;
    default:
        if (o->is_eager && level + 1 == o->layers) { /* one write: the client sees both at once */
            uint8_t both[4 + 3] = XOR_GRANT;
            both[4] = 0;
            both[5] = 1;
            both[6] = '!' ^ xor_key(false, c->layers[level].sent_at++);
            return put(c, level, both, sizeof both);
        }
        return put(c, level, XOR_GRANT, 4);
    }
}

/* ---- HTTP ---- */

static bool put_chunks(struct conn *c, const uint8_t *body, size_t n)
{
    const unsigned top = c->server->options.layers;
    char line[32];
    for (size_t part; n; n -= part, body += part) {
        part = n < 1000 ? n : 1000;
        snprintf(line, sizeof line, "%zx\r\n", part);
        if (!put(c, top, line, strlen(line)) || !put(c, top, body, part) || !put(c, top, "\r\n", 2))
            return false;
    }
    static const char end[] = "0\r\nX-Trailer: here\r\n\r\n";
    return put(c, top, end, sizeof end - 1);
}

static bool answer(struct conn *c, const char *head, size_t length)
{
    const unsigned top = c->server->options.layers;
    char *request_length = strcasestr(head, "content-length: ");
    const size_t posted = request_length ? strtoul(request_length + 16, NULL, 10) : 0;
    uint8_t *body = malloc(length + posted + 1);
    bool is_sent = take(c, top, body, posted);
    char line[160];
    size_t n = posted;
    if (strstr(head, "/echo")) {
        snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", posted);
    } else {
        n = length;
        for (size_t i = 0; i < n; i++)
            body[i] = xor_body(i);
        if (strstr(head, "/eof/"))
            snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        else if (strstr(head, "/chunked/"))
            snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        else
            snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", n);
    }
    is_sent = is_sent && put(c, top, line, strlen(line));
    if (strstr(head, "/chunked/"))
        is_sent = is_sent && put_chunks(c, body, n);
    else
        is_sent = is_sent && (!n || put(c, top, body, n));
    free(body);
    return is_sent && !strstr(head, "/eof/");
}

static bool serve_one(struct conn *c)
{
    char head[2048];
    size_t len = 0;
    do {
        if (len + 1 >= sizeof head || !take(c, c->server->options.layers, head + len, 1))
            return false;
        head[++len] = '\0';
    } while (len < 4 || memcmp(head + len - 4, "\r\n\r\n", 4));
    const char *digits = strpbrk(head + 4, "0123456789 ");
    return answer(c, head, digits && *digits != ' ' ? strtoul(digits, NULL, 10) : 0);
}

static void *run_conn(void *arg)
{
    struct conn *c = arg;
    struct xor_server *s = c->server;
    bool is_open = true;
    for (unsigned level = 0; level < s->options.layers && is_open; level++)
        is_open = shake(c, level);
    unsigned served = 0;
    while (is_open && (!s->options.requests_max || served < s->options.requests_max) &&
           serve_one(c))
        served++;
    if (is_open && !s->options.cuts)
        for (unsigned level = s->options.layers; level > 0; level--)
            (void)put(c, level - 1, "\0\0", 2);
    shutdown(c->fd, SHUT_WR);
    char rest[512]; /* what is unread would turn our FIN into a reset; markers are counted */
    while (is_open && s->options.layers && take(c, s->options.layers, rest, 1))
        ;
    for (unsigned level = s->options.layers; level > 1 && is_open; level--)
        while (take(c, level - 1, rest, 1))
            ;
    while (recv(c->fd, rest, sizeof rest, 0) > 0)
        ;
    shutdown(c->fd, SHUT_RDWR);
    atomic_fetch_sub(&s->open, 1);
    free(c);
    return NULL;
}

static void *run_acceptor(void *arg)
{
    struct xor_server *s = arg;
    for (;;) {
        struct pollfd p[2] = {{.fd = s->listener, .events = POLLIN},
                              {.fd = s->stop[0], .events = POLLIN}};
        if (poll(p, 2, -1) < 0 || p[1].revents)
            return NULL;
        const int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
        const unsigned i = atomic_load(&s->conns);
        if (fd < 0 || i == CONNS_MAX)
            return NULL;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct conn *c = calloc(1, sizeof *c);
        c->server = s;
        c->fd = s->fds[i] = fd;
        atomic_fetch_add(&s->open, 1);
        atomic_fetch_add(&s->conns, 1); /* before it is served: a test looks right after */
        if (pthread_create(&s->threads[i], NULL, run_conn, c))
            abort();
    }
}

struct xor_server *xor_server_start(const struct xor_server_options *o)
{
    struct xor_server *s = calloc(1, sizeof *s);
    s->options = *o;
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    if (bind(s->listener, (void *)&at, sizeof at) || listen(s->listener, 256) ||
        getsockname(s->listener, (void *)&at, &len) || pipe(s->stop) ||
        pthread_create(&s->acceptor, NULL, run_acceptor, s))
        abort();
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%u", ntohs(at.sin_port));
    return s;
}

void xor_server_stop(struct xor_server *s)
{
    if (write(s->stop[1], "", 1) != 1)
        abort();
    pthread_join(s->acceptor, NULL);
    for (unsigned i = 0; i < atomic_load(&s->conns); i++) {
        shutdown(s->fds[i], SHUT_RDWR);
        pthread_join(s->threads[i], NULL);
        close(s->fds[i]);
    }
    close(s->listener);
    close(s->stop[0]);
    close(s->stop[1]);
    free(s);
}

const char *xor_server_url(const struct xor_server *s)
{
    return s->url;
}

unsigned xor_server_conns(const struct xor_server *s)
{
    return atomic_load(&s->conns);
}

unsigned xor_server_ends(const struct xor_server *s, unsigned layer)
{
    return atomic_load(&s->ends[layer]);
}

unsigned xor_server_open(const struct xor_server *s)
{
    return atomic_load(&s->open);
}
