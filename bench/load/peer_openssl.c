/*
 * The peer: OpenSSL on blocking sockets, as its manual has it, with nothing in between. Conns of
 * one request each, one after the other, for what a handshake costs (with http:// the same without
 * TLS), or many that rest, for what they occupy. One context for all; certificates and names are
 * verified. One thread.
 */
#include "client.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct peer {
    const struct load_job *job;
    SSL_CTX *context;
    SSL_SESSION *ticket; /* the newest; NULL = none yet */
    char request[512];
    int request_size;
    uint64_t resumed;
    char session[128]; /* version, cipher and group of the newest handshake */
    struct load_result result;
};

/* Both or, without TLS, only the socket. */
struct conn {
    int fd;
    SSL *ssl;
};

static void die(const char *what)
{
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int on_ticket(SSL *ssl, SSL_SESSION *session)
{
    struct peer *p = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    SSL_SESSION_free(p->ticket);
    p->ticket = session;
    return 1;
}

static int version_of(const char *text)
{
    return !text ? 0 : strcmp(text, "1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
}

static SSL_CTX *make_context(struct peer *p)
{
    const struct load_tls *tls = &p->job->tls;
    SSL_CTX *c = SSL_CTX_new(TLS_client_method());
    if (!c || !SSL_CTX_load_verify_locations(c, tls->roots, NULL) ||
        !SSL_CTX_set_min_proto_version(c, tls->version_min ? version_of(tls->version_min)
                                                           : TLS1_2_VERSION) ||
        !SSL_CTX_set_max_proto_version(c, version_of(tls->version_max)) ||
        !SSL_CTX_set1_groups_list(c, "X25519:P-256:P-384") ||
        !SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                     "TLS_CHACHA20_POLY1305_SHA256") ||
        !SSL_CTX_set_cipher_list(c, "ECDHE+AESGCM:ECDHE+CHACHA20"))
        die("context");
    if (tls->cert && (!SSL_CTX_use_certificate_chain_file(c, tls->cert) ||
                      !SSL_CTX_use_PrivateKey_file(c, tls->cert, SSL_FILETYPE_PEM)))
        die("certificate");
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_app_data(c, p);
    if (tls->is_resumed) {
        SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(c, on_ticket);
    }
    if (tls->releases_buffers)
        SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS);
    return c;
}

static int connect_one(const struct load_job *job)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(job->port)};
    const int one = 1;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, job->address, &to.sin_addr) != 1 || fd < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) ||
        connect(fd, (struct sockaddr *)&to, sizeof to))
        die("connect");
    return fd;
}

static void shake_hands(struct peer *p, struct conn *c)
{
    const char *name = p->job->tls.name;
    c->ssl = SSL_new(p->context);
    if (!c->ssl || !SSL_set_fd(c->ssl, c->fd))
        die("conn");
    if (name ? !SSL_set_tlsext_host_name(c->ssl, name) || !SSL_set1_host(c->ssl, name)
             : !X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(c->ssl), p->job->address))
        die("name");
    if (p->ticket && !SSL_set_session(c->ssl, p->ticket))
        die("ticket");
    if (SSL_connect(c->ssl) != 1)
        die("handshake");
    if (p->session[0] == '\0')
        snprintf(p->session, sizeof p->session, "%s, %s, %s", SSL_get_version(c->ssl),
                 SSL_get_cipher(c->ssl), OBJ_nid2sn((int)SSL_get_negotiated_group(c->ssl)));
    p->resumed += (uint64_t)SSL_session_reused(c->ssl);
}

static void open_conn(struct peer *p, struct conn *c)
{
    const double start = load_clock();
    *c = (struct conn){.fd = connect_one(p->job)};
    if (!p->job->is_secure)
        return;
    shake_hands(p, c);
    load_wall(&p->result, load_clock() - start);
}

static size_t receive(const struct conn *c, char *bytes, size_t cap)
{
    const ssize_t n = c->ssl ? SSL_read(c->ssl, bytes, (int)cap) : read(c->fd, bytes, cap);
    return n > 0 ? (size_t)n : 0;
}

/* A reply ends where its Content-Length says. */
static void exchange(struct peer *p, const struct conn *c)
{
    char text[8192];
    size_t used = 0, size = SIZE_MAX;
    const ssize_t sent = c->ssl ? SSL_write(c->ssl, p->request, p->request_size)
                                : write(c->fd, p->request, (size_t)p->request_size);
    if (sent != p->request_size)
        die("send");
    while (used < size) {
        const size_t got = receive(c, text + used, sizeof text - 1 - used);
        if (got == 0)
            die("receive");
        used += got;
        text[used] = '\0';
        const char *end = strstr(text, "\r\n\r\n");
        const char *length = strcasestr(text, "\r\nContent-Length:");
        if (end && length)
            size = (size_t)(end + 4 - text) + strtoul(length + 17, NULL, 10);
    }
    const bool is_good = used == size && strncmp(text, "HTTP/1.1 200", 12) == 0;
    p->result.requests += is_good;
    p->result.errors += !is_good;
}

static void close_conn(struct conn *c)
{
    if (c->ssl)
        SSL_shutdown(c->ssl);
    SSL_free(c->ssl);
    close(c->fd);
}

static void one_after_the_other(struct peer *p)
{
    struct conn c;
    /* One conn first: it pays for what is loaded once, and brings the first ticket. */
    open_conn(p, &c);
    exchange(p, &c);
    close_conn(&c);
    p->result.requests = p->resumed = 0;
    load_begin(&p->result, p->job->requests);
    const double start = load_clock();
    for (uint64_t i = 0; i < p->job->requests; i++) {
        open_conn(p, &c);
        exchange(p, &c);
        close_conn(&c);
    }
    p->result.seconds = load_clock() - start;
}

static void rest(struct peer *p)
{
    struct conn *conns = calloc(p->job->conc + 1, sizeof *conns);
    if (!conns)
        die("memory");
    for (unsigned i = 0; i < p->job->conc; i++) {
        open_conn(p, &conns[i]);
        exchange(p, &conns[i]);
    }
    printf("{\"idle\":%u,\"errors\":%llu}\n", p->job->conc, (unsigned long long)p->result.errors);
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    for (unsigned i = 0; i < p->job->conc; i++)
        close_conn(&conns[i]);
    free(conns);
}

static int report(struct peer *p)
{
    char more[512];
    snprintf(more, sizeof more, ",\"handshakes\":%llu,\"resumed\":%llu,\"session\":\"%s\"",
             p->job->is_secure ? (unsigned long long)p->job->requests : 0,
             (unsigned long long)p->resumed, p->session);
    return load_report(&p->result, more);
}

int main(int argc, char **argv)
{
    struct load_job job;
    struct peer p = {.job = &job};
    if (!load_job_read(argc, argv, OpenSSL_version(OPENSSL_VERSION), &job))
        return 2;
    if (job.work == LOAD_FLUSH || (job.work == LOAD_HANDSHAKES && job.requests == UINT64_MAX)) {
        fprintf(stderr, "-w handshakes needs -n; there is no pool to flush\n");
        return 2;
    }
    p.request_size = snprintf(p.request, sizeof p.request,
                              "GET %.300s HTTP/1.1\r\nHost: %s:%u\r\n%s\r\n", job.path, job.address,
                              job.port, job.work == LOAD_IDLE ? "" : "Connection: close\r\n");
    if (job.is_secure)
        p.context = make_context(&p);
    if (job.work == LOAD_IDLE)
        rest(&p);
    else
        one_after_the_other(&p);
    const int status = job.work == LOAD_IDLE ? p.result.errors != 0 : report(&p);
    SSL_SESSION_free(p.ticket);
    SSL_CTX_free(p.context);
    return status;
}
