/*
 * TLS on a conn: decrypts what the socket gives, seals what the buffers hold. OpenSSL sees no
 * socket: its BIO is the loop's two scratches for ciphertext, so a request still costs one receive
 * and one send. Owns the SSL; runs on the conn's loop. Keeps at most one scratch of each direction.
 */
#include "tls_conn.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    RECORD_MAX = 16 * 1024,
    SEALED_RECORD_MAX = RECORD_MAX + 256 + 5, /* RFC 8446 5.2: expansion and header */
    RECEIVES_MAX = 16, /* a peer that sends records without data must not keep the loop */
    RAW_KEPT_MAX = 16 * 1024,
};

static BIO_METHOD *scratch_bio;

static int read_raw(BIO *b, char *into, int room);
static int write_sealed(BIO *b, const char *bytes, int len);
static long control(BIO *b, int command, long number, void *pointer);

bool tls_conn_init(void)
{
    scratch_bio = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "origin");
    return scratch_bio && BIO_meth_set_read(scratch_bio, read_raw) == 1 &&
           BIO_meth_set_write(scratch_bio, write_sealed) == 1 &&
           BIO_meth_set_ctrl(scratch_bio, control) == 1;
}

void tls_conn_exit(void)
{
    BIO_meth_free(scratch_bio);
    scratch_bio = NULL;
}

void tls_conn_open(struct conn *c)
{
    struct tls_conn *t = calloc(1, sizeof *t);
    BIO *b = BIO_new(scratch_bio);
    if (!t || !b || !(t->ssl = SSL_new(c->loop->tls_context))) {
        fputs("mooring-origin: out of memory\n", stderr);
        abort();
    }
    BIO_set_data(b, c);
    BIO_set_init(b, 1);
    SSL_set_bio(t->ssl, b, b);
    SSL_set_app_data(t->ssl, t);
    SSL_set_accept_state(t->ssl);
    c->tls = t;
}

void tls_conn_fini(struct conn *c)
{
    struct tls_conn *t = c->tls;
    c->loop->sealed_len = 0;
    SSL_free(t->ssl);
    buf_fini(&t->raw_kept);
    buf_fini(&t->sealed);
    free(t);
    c->tls = NULL;
}

/* --- what OpenSSL takes for its transport --- */

/* The end of the stream stays with us: after it OpenSSL would refuse to write, and a client that
 * has only ended its own side is still owed its answers. */
static int read_raw(BIO *b, char *into, int room)
{
    struct conn *c = BIO_get_data(b);
    struct tls_conn *t = c->tls;
    BIO_clear_retry_flags(b);
    if (t->raw.len == 0 && t->receives_left && t->received != IO_END && t->received != IO_FAILED) {
        t->receives_left--;
        t->raw_kept.len = 0;
        t->raw.ptr = c->loop->raw_scratch;
        t->received = conn_receive(c, c->loop->raw_scratch, RAW_SCRATCH, &t->raw.len);
    }
    if (t->raw.len == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    const size_t len = t->raw.len < (size_t)room ? t->raw.len : (size_t)room;
    memcpy(into, t->raw.ptr, len);
    t->raw.ptr += len;
    t->raw.len -= len;
    return (int)len;
}

static int write_sealed(BIO *b, const char *bytes, int len)
{
    struct conn *c = BIO_get_data(b);
    struct loop *l = c->loop;
    BIO_clear_retry_flags(b);
    if (SEALED_SCRATCH - l->sealed_len < (size_t)len)
        (void)tls_push(c); /* a failure is seen again by whoever sends next */
    if (SEALED_SCRATCH - l->sealed_len < (size_t)len)
        return -1;
    memcpy(l->sealed_scratch + l->sealed_len, bytes, (size_t)len);
    l->sealed_len += (size_t)len;
    return len;
}

static long control(BIO *b, int command, long number, void *pointer)
{
    (void)b, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

enum io_result tls_push(struct conn *c)
{
    struct tls_conn *t = c->tls;
    struct loop *l = c->loop;
    struct iovec iov[2];
    size_t used = 0, sent;
    const size_t older = t->sealed.len - t->sealed_sent, newer = l->sealed_len;
    if (older)
        iov[used++] = (struct iovec){t->sealed.data + t->sealed_sent, older};
    if (newer)
        iov[used++] = (struct iovec){l->sealed_scratch, newer};
    if (used == 0)
        return IO_OK;
    l->sealed_len = 0;
    if (conn_transmit(c, iov, used, &sent) != IO_OK)
        return IO_FAILED;
    if (sent == older + newer) {
        buf_fini(&t->sealed);
        t->sealed_sent = 0;
        return IO_OK;
    }
    const size_t from_older = sent < older ? sent : older, from_newer = sent - from_older;
    t->sealed_sent += from_older;
    buf_add(&t->sealed, l->sealed_scratch + from_newer, newer - from_newer);
    return IO_AGAIN;
}

void tls_keep_raw(struct conn *c)
{
    struct tls_conn *t = c->tls;
    if (t->raw.len == 0) {
        if (t->raw_kept.cap > RAW_KEPT_MAX)
            buf_fini(&t->raw_kept);
        t->raw_kept.len = 0;
    } else if (t->raw_kept.len == 0) {
        buf_add_span(&t->raw_kept, t->raw);
        t->raw.ptr = t->raw_kept.data;
    }
}

/* --- what conn.c takes for its socket --- */

enum io_result tls_failure(struct conn *c, int result)
{
    const struct tls_conn *t = c->tls;
    switch (SSL_get_error(t->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        break;
    case SSL_ERROR_ZERO_RETURN:
        return IO_END;
    default:
        return IO_FAILED;
    }
    if (t->received == IO_OK && c->readable)
        conn_resume_later(c);
    return t->received == IO_OK ? IO_AGAIN : t->received;
}

enum io_result tls_read(struct conn *c, char *into, size_t room, size_t *out_len)
{
    struct tls_conn *t = c->tls;
    size_t total = 0, len;
    int result;
    ERR_clear_error();
    t->receives_left = RECEIVES_MAX;
    /* Once there is something, only what was received with it is decrypted: as on a plain conn,
     * one call is one receive. */
    while ((result = SSL_read_ex(t->ssl, into + total, room - total, &len)) == 1) {
        t->receives_left = 0;
        total += len;
        if (total == room)
            break;
    }
    const enum io_result r = total ? IO_OK : tls_failure(c, result);
    tls_keep_raw(c);
    t->plain_in += total;
    *out_len = total;
    /* A key update, or the alert that says why this is the end. */
    if (c->loop->sealed_len && tls_push(c) == IO_FAILED)
        return IO_FAILED;
    return r;
}

static enum io_result seal(struct conn *c, struct span plain, size_t *out_taken)
{
    struct loop *l = c->loop;
    enum io_result r = IO_OK;
    size_t taken = 0, len;
    while (taken < plain.len) {
        if (SEALED_SCRATCH - l->sealed_len < SEALED_RECORD_MAX && (r = tls_push(c)) != IO_OK)
            break;
        const size_t left = plain.len - taken;
        if (SSL_write_ex(c->tls->ssl, plain.ptr + taken, left < RECORD_MAX ? left : RECORD_MAX,
                         &len) != 1) {
            r = IO_FAILED;
            break;
        }
        taken += len;
    }
    *out_taken = taken;
    return r;
}

enum io_result tls_send(struct conn *c, const struct span *pieces, unsigned count,
                        uint64_t *out_taken)
{
    struct loop *l = c->loop;
    size_t taken;
    *out_taken = 0;
    ERR_clear_error();
    enum io_result r = tls_has_sealed(c->tls) ? tls_push(c) : IO_OK;
    if (r == IO_OK && c->pending.len) {
        const size_t sent = c->pending_sent;
        r = seal(c, (struct span){c->pending.data + sent, c->pending.len - sent}, &taken);
        conn_drop_pending(c, taken);
    }
    taken = 0;
    if (r == IO_OK && l->out_len)
        r = seal(c, (struct span){l->out_scratch, l->out_len}, &taken);
    conn_keep_scratch(c, taken);
    for (unsigned i = 0; r == IO_OK && i < count; i++) {
        r = seal(c, pieces[i], &taken);
        *out_taken += taken;
    }
    const bool is_sealed = r == IO_OK;
    if (r == IO_FAILED)
        l->sealed_len = 0; /* the scratch is the next conn's, too */
    else if (l->sealed_len)
        r = tls_push(c);
    /* When every piece is taken there is none to be sent again: what the socket refused is for the
     * next call. */
    return r == IO_AGAIN && count && is_sealed ? IO_OK : r;
}

enum io_result tls_notify(struct conn *c)
{
    SSL *ssl = c->tls->ssl;
    const enum io_result r = conn_flush(c);
    if (r != IO_OK || SSL_get_shutdown(ssl) & SSL_SENT_SHUTDOWN)
        return r;
    ERR_clear_error();
    (void)SSL_shutdown(ssl); /* after an error it does nothing, which is right */
    return tls_push(c);
}

bool tls_is_early(const struct conn *c)
{
    return c->tls->plain_in - c->view.len < c->tls->early_len;
}
