/*
 * A scripted name server on loopback for one test, UDP and TCP on one free port, on a thread of its
 * own. Answers what its rules say and counts what it was asked; a name without a rule does not
 * exist.
 */
#ifndef TESTS_SUPPORT_DNS_SERVER_H
#define TESTS_SUPPORT_DNS_SERVER_H

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum dns_action {
    DNS_ANSWER, /* addrs of the asked type; none of them = no data */
    DNS_NXDOMAIN,
    DNS_SERVFAIL,
    DNS_REFUSED,
    DNS_TRUNCATE, /* over UDP only the TC bit; over TCP the answer */
    DNS_SILENCE,
    DNS_GARBAGE, /* the right id and question, then an answer that cannot be parsed */
};

struct dns_rule {
    const char *name; /* "*" = every name */
    int type;         /* 1 = A, 28 = AAAA, 0 = both */
    enum dns_action action;
    const char *addrs; /* "127.0.0.1,::1" */
    uint32_t ttl;
    int delay_ms;
};

#define DNS_RULES_MAX   16
#define DNS_DELAYED_MAX 64
#define DNS_PEERS_MAX   8
#define DNS_MESSAGE_MAX 4096

struct dns_delayed {
    int64_t due_ms; /* 0 = free */
    struct sockaddr_in to;
    size_t len;
    unsigned char bytes[DNS_MESSAGE_MAX];
};

struct dns_server {
    int udp, tcp, stop;
    int peers[DNS_PEERS_MAX];
    uint16_t port;
    pthread_t thread;
    pthread_mutex_t mutex; /* rules and counts */
    struct dns_rule rules[DNS_RULES_MAX];
    size_t rule_count;
    unsigned asked[3]; /* all, A, AAAA: over UDP */
    unsigned asked_tcp;
    struct dns_delayed delayed[DNS_DELAYED_MAX];
};

static inline int64_t dns_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static inline void dns_put16(unsigned char *p, unsigned v)
{
    p[0] = (unsigned char)(v >> 8);
    p[1] = (unsigned char)v;
}

/* Reads the first question. Returns the message's length up to its end, 0 = nonsense. */
static inline size_t dns_read_question(const unsigned char *m, size_t len, char name[256],
                                       int *type)
{
    size_t at = 12, out = 0;
    if (len < 17)
        return 0;
    while (at < len && m[at]) {
        size_t n = m[at++];
        if (n > 63 || at + n >= len || out + n + 2 > 256)
            return 0;
        if (out)
            name[out++] = '.';
        memcpy(name + out, m + at, n);
        out += n;
        at += n;
    }
    name[out] = 0;
    if (at + 5 > len)
        return 0;
    *type = m[at + 1] << 8 | m[at + 2];
    return at + 5;
}

static inline size_t dns_put_answers(unsigned char *out, size_t at, const struct dns_rule *r,
                                     int type)
{
    char text[1024];
    unsigned count = 0;
    snprintf(text, sizeof text, "%s", r->addrs ? r->addrs : "");
    char *save = NULL;
    for (char *a = strtok_r(text, ",", &save); a; a = strtok_r(NULL, ",", &save)) {
        unsigned char ip[16];
        size_t ip_len = type == 1 ? 4 : 16;
        if (inet_pton(type == 1 ? AF_INET : AF_INET6, a, ip) != 1)
            continue;
        dns_put16(out + at, 0xc00c); /* the question's name */
        dns_put16(out + at + 2, (unsigned)type);
        dns_put16(out + at + 4, 1);
        dns_put16(out + at + 6, r->ttl >> 16);
        dns_put16(out + at + 8, r->ttl & 0xffff);
        dns_put16(out + at + 10, (unsigned)ip_len);
        memcpy(out + at + 12, ip, ip_len);
        at += 12 + ip_len;
        count++;
    }
    dns_put16(out + 6, count);
    return at;
}

/* Returns the reply's length, 0 = none. */
static inline size_t dns_reply(struct dns_server *s, const unsigned char *in, size_t len,
                               bool is_tcp, unsigned char out[DNS_MESSAGE_MAX], int *delay_ms)
{
    char name[256];
    int type;
    size_t end = dns_read_question(in, len, name, &type);
    if (!end)
        return 0;
    memcpy(out, in, end);
    out[2] = 0x81; /* a reply, recursion desired */
    out[3] = 0x80;
    dns_put16(out + 6, 0);
    dns_put16(out + 8, 0);
    dns_put16(out + 10, 0);

    pthread_mutex_lock(&s->mutex);
    struct dns_rule r = {.action = DNS_NXDOMAIN};
    for (size_t i = 0; i < s->rule_count; i++) {
        const struct dns_rule *at = &s->rules[i];
        if ((at->type && at->type != type) ||
            (strcmp(at->name, "*") != 0 && strcasecmp(at->name, name) != 0))
            continue;
        r = *at;
        break;
    }
    s->asked[0] += !is_tcp;
    s->asked[type == 28 ? 2 : 1] += !is_tcp;
    s->asked_tcp += is_tcp;
    pthread_mutex_unlock(&s->mutex);

    *delay_ms = r.delay_ms;
    switch (r.action) {
    case DNS_SILENCE:
        return 0;
    case DNS_NXDOMAIN:
        out[3] |= 3;
        return end;
    case DNS_SERVFAIL:
        out[3] |= 2;
        return end;
    case DNS_REFUSED:
        out[3] |= 5;
        return end;
    case DNS_GARBAGE:
        dns_put16(out + 6, 1);
        memset(out + end, 0xff, 7);
        return end + 7;
    case DNS_TRUNCATE:
        if (!is_tcp) {
            out[2] |= 2;
            return end;
        }
        break;
    case DNS_ANSWER:
        break;
    }
    return dns_put_answers(out, end, &r, type);
}

static inline void dns_serve_udp(struct dns_server *s)
{
    unsigned char in[DNS_MESSAGE_MAX], out[DNS_MESSAGE_MAX];
    struct sockaddr_in from;
    socklen_t from_len = sizeof from;
    ssize_t n = recvfrom(s->udp, in, sizeof in, 0, (struct sockaddr *)&from, &from_len);
    int delay_ms = 0;
    size_t len = n > 0 ? dns_reply(s, in, (size_t)n, false, out, &delay_ms) : 0;
    if (!len)
        return;
    if (!delay_ms) {
        (void)!sendto(s->udp, out, len, 0, (struct sockaddr *)&from, from_len);
        return;
    }
    for (size_t i = 0; i < DNS_DELAYED_MAX; i++) {
        struct dns_delayed *d = &s->delayed[i];
        if (d->due_ms)
            continue;
        d->due_ms = dns_now_ms() + delay_ms;
        d->to = from;
        d->len = len;
        memcpy(d->bytes, out, len);
        return;
    }
}

/* Sends what is due; returns how long poll may sleep. */
static inline int dns_serve_delayed(struct dns_server *s)
{
    int64_t now = dns_now_ms(), next = -1;
    for (size_t i = 0; i < DNS_DELAYED_MAX; i++) {
        struct dns_delayed *d = &s->delayed[i];
        if (!d->due_ms)
            continue;
        if (d->due_ms <= now) {
            (void)!sendto(s->udp, d->bytes, d->len, 0, (struct sockaddr *)&d->to, sizeof d->to);
            d->due_ms = 0;
        } else if (next < 0 || d->due_ms - now < next) {
            next = d->due_ms - now;
        }
    }
    return (int)next;
}

/* A question comes in one piece over loopback. False: the peer is done. */
static inline bool dns_serve_tcp(struct dns_server *s, int fd)
{
    unsigned char in[DNS_MESSAGE_MAX], out[DNS_MESSAGE_MAX + 2];
    int delay_ms;
    ssize_t n = recv(fd, in, 2, MSG_WAITALL);
    if (n != 2)
        return false;
    size_t want = (size_t)(in[0] << 8 | in[1]);
    if (want > sizeof in || recv(fd, in, want, MSG_WAITALL) != (ssize_t)want)
        return false;
    size_t len = dns_reply(s, in, want, true, out + 2, &delay_ms);
    dns_put16(out, (unsigned)len);
    return !len || send(fd, out, len + 2, MSG_NOSIGNAL) == (ssize_t)len + 2;
}

static inline void *dns_serve(void *arg)
{
    struct dns_server *s = arg;
    for (;;) {
        struct pollfd p[3 + DNS_PEERS_MAX] = {
            {s->stop, POLLIN, 0}, {s->udp, POLLIN, 0}, {s->tcp, POLLIN, 0}};
        for (int i = 0; i < DNS_PEERS_MAX; i++)
            p[3 + i] = (struct pollfd){s->peers[i], POLLIN, 0};
        poll(p, 3 + DNS_PEERS_MAX, dns_serve_delayed(s));
        if (p[0].revents)
            return NULL;
        if (p[1].revents)
            dns_serve_udp(s);
        for (int i = 0; i < DNS_PEERS_MAX; i++) {
            if (p[3 + i].revents && !dns_serve_tcp(s, s->peers[i])) {
                close(s->peers[i]);
                s->peers[i] = -1;
            }
        }
        int fd = p[2].revents ? accept(s->tcp, NULL, NULL) : -1;
        for (int i = 0; fd >= 0 && i < DNS_PEERS_MAX; i++) {
            if (s->peers[i] < 0) {
                s->peers[i] = fd;
                fd = -1;
            }
        }
        if (fd >= 0)
            close(fd);
    }
}

/* The texts of the rules are borrowed while they are in place. */
static inline void dns_server_script(struct dns_server *s, const struct dns_rule *rules,
                                     size_t count)
{
    assert(count <= DNS_RULES_MAX);
    pthread_mutex_lock(&s->mutex);
    if (count)
        memcpy(s->rules, rules, count * sizeof *rules);
    s->rule_count = count;
    memset(s->asked, 0, sizeof s->asked);
    s->asked_tcp = 0;
    pthread_mutex_unlock(&s->mutex);
}
#define DNS_SCRIPT(s, ...)                                                                         \
    dns_server_script((s), (const struct dns_rule[]){__VA_ARGS__},                                 \
                      sizeof((const struct dns_rule[]){__VA_ARGS__}) / sizeof(struct dns_rule))

/* UDP questions since the script was put in place: type 0 = all, 1 = A, 28 = AAAA. */
static inline unsigned dns_server_asked(struct dns_server *s, int type)
{
    pthread_mutex_lock(&s->mutex);
    unsigned n = s->asked[type == 0 ? 0 : type == 28 ? 2 : 1];
    pthread_mutex_unlock(&s->mutex);
    return n;
}

static inline unsigned dns_server_asked_tcp(struct dns_server *s)
{
    pthread_mutex_lock(&s->mutex);
    unsigned n = s->asked_tcp;
    pthread_mutex_unlock(&s->mutex);
    return n;
}

static inline struct dns_server *dns_server_start(void)
{
    struct dns_server *s = calloc(1, sizeof *s);
    assert(s);
    pthread_mutex_init(&s->mutex, NULL);
    for (int i = 0; i < DNS_PEERS_MAX; i++)
        s->peers[i] = -1;
    s->stop = eventfd(0, EFD_CLOEXEC);
    /* The free UDP port may be taken in TCP: try others. */
    for (int i = 0; i < 50 && !s->port; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof a;
        s->udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        s->tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (bind(s->udp, (struct sockaddr *)&a, sizeof a) == 0 &&
            getsockname(s->udp, (struct sockaddr *)&a, &len) == 0 &&
            bind(s->tcp, (struct sockaddr *)&a, sizeof a) == 0 && listen(s->tcp, 8) == 0) {
            s->port = ntohs(a.sin_port);
        } else {
            close(s->udp);
            close(s->tcp);
        }
    }
    assert(s->port);
    int failed = pthread_create(&s->thread, NULL, dns_serve, s);
    assert(!failed);
    (void)failed;
    return s;
}

static inline void dns_server_stop(struct dns_server *s)
{
    eventfd_write(s->stop, 1);
    pthread_join(s->thread, NULL);
    close(s->udp);
    close(s->tcp);
    close(s->stop);
    for (int i = 0; i < DNS_PEERS_MAX; i++)
        if (s->peers[i] >= 0)
            close(s->peers[i]);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

#endif
