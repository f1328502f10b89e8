/*
 * The handshake: the protocol of a TLS listener's conns until it is done; then ALPN's choice takes
 * over. Runs on the conn's loop. Bounded in time, and in bytes by OpenSSL.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include "h2.h"
#include "options.h"
#include "tls_conn.h"

enum { EARLY_PIECE = 4096, REFUSED_LINGER_MS = 1000, RECEIVES_PER_TURN = 16 };

static enum io_result take_early_data(struct conn *c);
static enum io_result shake_hands(struct conn *c);
static void refuse(struct conn *c);
static void discard(struct conn *c);
static void go_on(struct conn *c);

static void open_handshake(struct conn *c)
{
    const struct tls_options *o = &c->loop->options->tls;
    tls_conn_open(c);
    c->tls->is_early_over = !o->takes_early_data;
    timer_set(c, c->loop->now_ms + o->handshake_timeout_ms);
}

static void drive_handshake(struct conn *c)
{
    struct tls_conn *t = c->tls;
    if (t->is_refused) {
        discard(c);
        return;
    }
    ERR_clear_error();
    t->receives_left = RECEIVES_PER_TURN;
    enum io_result r = t->is_early_over ? IO_OK : take_early_data(c);
    if (r == IO_OK)
        r = shake_hands(c);
    tls_keep_raw(c);
    /* Also after a failure: the alert. */
    if (tls_push(c) == IO_FAILED)
        conn_close(c);
    else if (r == IO_OK)
        go_on(c);
    else if (r != IO_AGAIN)
        refuse(c);
}

static void on_handshake_timer(struct conn *c)
{
    conn_close(c);
}

static void fini_handshake(struct conn *c)
{
    if (!c->tls->is_refused)
        count(&c->loop->counters.handshakes_failed, 1);
}

/* Kept until the handshake is done: its requests are answered then, and say that they were early. */
static enum io_result take_early_data(struct conn *c)
{
    struct tls_conn *t = c->tls;
    for (;;) {
        size_t len = 0;
        buf_reserve(&c->in, EARLY_PIECE);
        switch (SSL_read_early_data(t->ssl, c->in.data + c->in.len, EARLY_PIECE, &len)) {
        case SSL_READ_EARLY_DATA_SUCCESS:
            c->in.len += len;
            break;
        case SSL_READ_EARLY_DATA_FINISH:
            t->is_early_over = true;
            t->early_len = t->plain_in = c->in.len;
            return IO_OK;
        default:
            return tls_failure(c, 0);
        }
    }
}

static enum io_result shake_hands(struct conn *c)
{
    const int result = SSL_do_handshake(c->tls->ssl);
    return result == 1 ? IO_OK : tls_failure(c, result);
}

/* close(2) with unread input sends RST, which may overtake the alert: FIN first. */
static void refuse(struct conn *c)
{
    if (c->peer_ended || shutdown(c->fd, SHUT_WR) != 0) {
        conn_close(c);
        return;
    }
    c->tls->is_refused = true;
    count(&c->loop->counters.handshakes_failed, 1);
    timer_set(c, c->loop->now_ms + REFUSED_LINGER_MS);
    discard(c);
}

static void discard(struct conn *c)
{
    size_t len;
    for (int i = 0; i < RECEIVES_PER_TURN; i++) {
        const enum io_result r = conn_receive(c, c->loop->in_scratch, IN_SCRATCH, &len);
        if (r == IO_AGAIN)
            return;
        if (r != IO_OK) {
            conn_close(c);
            return;
        }
    }
    conn_resume_later(c);
}

static bool has_chosen_h2(const SSL *ssl)
{
    const unsigned char *alpn;
    unsigned len;
    SSL_get0_alpn_selected(ssl, &alpn, &len);
    return len == 2 && memcmp(alpn, "h2", 2) == 0;
}

static void go_on(struct conn *c)
{
    struct counters *n = &c->loop->counters;
    SSL *ssl = c->tls->ssl;
    count(&n->handshakes, 1);
    if (SSL_session_reused(ssl))
        count(&n->handshakes_resumed, 1);
    if (SSL_get_early_data_status(ssl) == SSL_EARLY_DATA_ACCEPTED)
        count(&n->early_data_accepted, 1);
    timer_clear(c);
    c->view = (struct span){c->in.data, c->in.len};
    c->protocol = has_chosen_h2(ssl) ? &h2_protocol : &h1_protocol;
    c->protocol->open(c);
    c->protocol->drive(c);
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the signature is OpenSSL's. */
int tls_conn_count_hello(struct ssl_st *ssl, int *alert, void *user)
{
    (void)alert, (void)user;
    struct tls_conn *t = SSL_get_app_data(ssl);
    t->hellos++;
    return SSL_CLIENT_HELLO_SUCCESS;
}

static void say(struct buf *out, const char *name, const char *value)
{
    buf_add_text(out, name);
    buf_add_text(out, ": ");
    buf_add_text(out, value && *value ? value : "-");
    buf_add_text(out, "\n");
}

static void say_alpn(struct buf *out, const SSL *ssl)
{
    const unsigned char *alpn;
    unsigned len;
    SSL_get0_alpn_selected(ssl, &alpn, &len);
    buf_add_text(out, "alpn: ");
    if (len)
        buf_add(out, alpn, len);
    else
        buf_add_text(out, "-");
    buf_add_text(out, "\n");
}

static void say_client(struct buf *out, const SSL *ssl)
{
    X509 *cert = SSL_get0_peer_certificate(ssl);
    BIO *b = cert ? BIO_new(BIO_s_mem()) : NULL;
    char *text = NULL;
    long len = 0;
    if (b && X509_NAME_print_ex(b, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253) >= 0)
        len = BIO_get_mem_data(b, &text);
    buf_add_text(out, "client: ");
    if (len > 0)
        buf_add(out, text, (size_t)len);
    else
        buf_add_text(out, "-");
    buf_add_text(out, "\n");
    BIO_free(b);
}

void tls_describe(const struct conn *c, struct buf *out)
{
    if (!c->tls) {
        say(out, "version", NULL);
        return;
    }
    SSL *ssl = c->tls->ssl;
    const int early = SSL_get_early_data_status(ssl);
    const int group = SSL_get_negotiated_group(ssl);
    say(out, "version", SSL_get_version(ssl));
    say(out, "cipher", SSL_get_cipher_name(ssl));
    say(out, "group", group ? SSL_group_to_name(ssl, group) : NULL);
    say(out, "sni", SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name));
    say_alpn(out, ssl);
    say(out, "resumed", SSL_session_reused(ssl) ? "yes" : "no");
    say(out, "early-data",
        early == SSL_EARLY_DATA_ACCEPTED   ? "accepted"
        : early == SSL_EARLY_DATA_REJECTED ? "rejected"
                                           : "none");
    say(out, "hello-retry", c->tls->hellos > 1 ? "yes" : "no");
    say_client(out, ssl);
}

const struct protocol tls_protocol = {
    .name = "tls",
    .open = open_handshake,
    .drive = drive_handshake,
    .on_timer = on_handshake_timer,
    .stop = conn_close,
    .fini = fini_handshake,
};
