/*
 * The scripted TLS server: its conns, what was seen of them, and HTTP/1.1 over them. One thread per conn
 * (peer.c); what tests ask for is copied under the server's lock.
 */
#include "tests/support/tls_server.h"

#include "tests/support/tls_wire.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- HTTP ---- */

static bool put_text(struct tls_conn *c, const char *text)
{
    return tls_wire_put(c, text, strlen(text));
}

static bool put_chunks(struct tls_conn *c, const uint8_t *body, size_t n)
{
    char line[32];
    for (size_t part; n; n -= part, body += part) {
        part = n < 1000 ? n : 1000;
        snprintf(line, sizeof line, "%zx\r\n", part);
        if (!put_text(c, line) || !tls_wire_put(c, body, part) || !put_text(c, "\r\n"))
            return false;
    }
    return true;
}

/* In two halves, the script's deed between them. */
static bool put_body(struct tls_conn *c, const uint8_t *body, size_t n, bool is_chunked)
{
    bool (*put)(struct tls_conn *, const uint8_t *, size_t) = put_chunks;
    for (int half = 0; half < 2; half++) {
        const size_t from = half ? n / 2 : 0, to = half ? n : n / 2;
        const bool is_sent =
            is_chunked ? put(c, body + from, to - from) : tls_wire_put(c, body + from, to - from);
        if (!is_sent || (!half && !tls_wire_deed(c, TLS_AT_BODY)))
            return false;
    }
    return !is_chunked || put_text(c, "0\r\nX-Test: here\r\n\r\n");
}

static bool answer(struct tls_conn *c, const char *head)
{
    const char *length_line = strcasestr(head, "content-length: ");
    const size_t posted = length_line ? strtoul(length_line + 16, NULL, 10) : 0;
    const char *digits = strpbrk(strchr(head, ' ') + 1, "0123456789 ");
    const size_t wanted = digits ? strtoul(digits, NULL, 10) : 0;
    const bool is_echo = strstr(head, "/echo") != NULL;
    const bool is_chunked = strstr(head, "/chunked/") != NULL, is_eof = strstr(head, "/eof/");
    const size_t n = is_echo ? posted : wanted;
    uint8_t *body = malloc(n + posted + 1);
    bool is_sent = tls_wire_take(c, body, posted);
    c->seen.body_len += posted;
    if (is_sent)
        c->seen.requests++;
    tls_server_publish(c);
    for (size_t i = 0; i < n && !is_echo; i++)
        body[i] = c->script.body ? c->script.body(i) : tls_body(i);
    char line[128];
    if (is_chunked)
        snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    else if (is_eof)
        snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    else
        snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", n);
    is_sent = is_sent && tls_wire_deed(c, TLS_AT_REQUEST) && put_text(c, line) &&
              put_body(c, body, n, is_chunked);
    free(body);
    return is_sent;
}

/* False: the conn ends. */
static bool serve_one(struct tls_conn *c)
{
    char head[4096];
    size_t len = 0;
    do {
        if (len + 1 >= sizeof head || !tls_wire_take(c, head + len, 1))
            return false;
        head[++len] = '\0';
    } while (len < 4 || memcmp(head + len - 4, "\r\n\r\n", 4) != 0);
    snprintf(c->seen.head, sizeof c->seen.head, "%.*s", (int)sizeof c->seen.head - 1, head);
    if (!answer(c, head))
        return false;
    const int most = c->script.requests_max;
    if (!strstr(head, "/eof/") && (!most || c->seen.requests < most))
        return tls_wire_deed(c, TLS_AT_IDLE);
    if (tls_wire_deed(c, TLS_AT_END))
        tls_wire_close(c, 0);
    return false;
}

/* ---- conns ---- */

void tls_server_publish(struct tls_conn *c)
{
    struct tls_server *s = c->server;
    pthread_mutex_lock(&s->lock);
    s->seen[c->peer->nth] = c->seen;
    pthread_mutex_unlock(&s->lock);
}

void tls_server_count(struct tls_conn *c, bool is_shaking)
{
    struct tls_server *s = c->server;
    if (c->is_shaking == is_shaking)
        return;
    c->is_shaking = is_shaking;
    pthread_mutex_lock(&s->lock);
    s->shaking += is_shaking ? 1u : -1u;
    if (s->shaking > s->peak)
        s->peak = s->shaking;
    pthread_mutex_unlock(&s->lock);
}

static void serve(struct peer_conn *p)
{
    struct tls_conn *c = calloc(1, sizeof *c);
    struct tls_server *s = p->peer->user;
    c->server = s;
    c->peer = p;
    c->seen.alert = -1;
    pthread_mutex_lock(&s->lock);
    c->script = s->script;
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&tls_openssl_lock);
    tls_setup_conn(c);
    pthread_mutex_unlock(&tls_openssl_lock);
    if (tls_wire_deed(c, TLS_AT_ACCEPT) && tls_wire_handshake(c))
        while (serve_one(c))
            ;
    tls_wire_linger(c);
    tls_server_count(c, false);
    c->seen.is_over = true;
    tls_server_publish(c);
    pthread_mutex_lock(&tls_openssl_lock);
    SSL_free(c->ssl);
    OPENSSL_thread_stop(); /* or it runs at the thread's end, without the lock */
    pthread_mutex_unlock(&tls_openssl_lock);
    free(c);
}

void tls_server_set(struct tls_server *s, const struct tls_script *script)
{
    static const struct tls_script plain = {0};
    pthread_mutex_lock(&s->lock);
    s->script = script ? *script : plain;
    if (!s->script.identity)
        s->script.identity = tls_identity(TLS_P256, 0);
    const long lifetime = s->script.ticket_lifetime_s;
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&tls_openssl_lock);
    SSL_CTX_set_timeout(s->ctx, lifetime ? lifetime : 7200);
    pthread_mutex_unlock(&tls_openssl_lock);
}

void tls_server_forget(struct tls_server *s)
{
    unsigned char keys[80];
    pthread_mutex_lock(&tls_openssl_lock);
    if (RAND_bytes(keys, sizeof keys) != 1 ||
        SSL_CTX_set_tlsext_ticket_keys(s->ctx, keys, sizeof keys) != 1)
        abort();
    pthread_mutex_unlock(&tls_openssl_lock);
}

struct tls_server *tls_server_start(const struct tls_script *script)
{
    struct tls_server *s = calloc(1, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_lock(&tls_openssl_lock);
    s->ctx = tls_setup_ctx();
    pthread_mutex_unlock(&tls_openssl_lock);
    tls_server_set(s, script);
    peer_start(&s->peer, serve, s);
    snprintf(s->url, sizeof s->url, "https://127.0.0.1:%d", s->peer.port);
    return s;
}

void tls_server_stop(struct tls_server *s)
{
    peer_stop(&s->peer);
    SSL_CTX_free(s->ctx);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- what was seen ---- */

const char *tls_server_url(const struct tls_server *s)
{
    return s->url;
}

int tls_server_port(const struct tls_server *s)
{
    return s->peer.port;
}

unsigned tls_server_conns(struct tls_server *s)
{
    return (unsigned)atomic_load(&s->peer.accepted);
}

unsigned tls_server_open(struct tls_server *s)
{
    return (unsigned)atomic_load(&s->peer.open);
}

struct tls_seen tls_server_seen(struct tls_server *s, unsigned nth)
{
    pthread_mutex_lock(&s->lock);
    const struct tls_seen seen = s->seen[nth];
    pthread_mutex_unlock(&s->lock);
    return seen;
}

unsigned tls_server_ready(struct tls_server *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < tls_server_conns(s); i++)
        n += tls_server_seen(s, i).is_ready;
    return n;
}

unsigned tls_server_requests(struct tls_server *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < tls_server_conns(s); i++)
        n += (unsigned)tls_server_seen(s, i).requests;
    return n;
}

unsigned tls_server_peak(struct tls_server *s)
{
    pthread_mutex_lock(&s->lock);
    const unsigned peak = s->peak;
    pthread_mutex_unlock(&s->lock);
    return peak;
}
