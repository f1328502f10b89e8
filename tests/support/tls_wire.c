/*
 * The engine of a scripted TLS server: handshake, data and ends of one connection, and the script's
 * deeds in between. Runs on the connection's thread and blocks; what is wrong is recorded, not asserted.
 */
#include "tests/support/tls_wire.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>

enum { ALERT = 21, HANDSHAKE = 22, DATA = 23, WARNING = 1, FATAL = 2 };

/* ---- between socket and engine ---- */

static bool is_stopping(const struct tls_conn *c)
{
    return atomic_load(&c->peer->peer->is_stopping);
}

/* More bytes from the client to the engine. */
static bool fill(struct tls_conn *c)
{
    uint8_t bytes[TLS_RECORD_MAX];
    ssize_t n;
    tls_server_publish(c);
    do
        n = recv(c->peer->fd, bytes, sizeof bytes, 0);
    while (n < 0 && (errno == EAGAIN || errno == EINTR) && !is_stopping(c));
    if (n <= 0) {
        c->seen.was_reset |= n < 0 && errno == ECONNRESET && !c->seen.close_notifies;
        return false;
    }
    if (c->seen.close_notifies) {
        c->seen.late_len += (size_t)n;
        return true;
    }
    pthread_mutex_lock(&tls_openssl_lock);
    BIO_write(c->in, bytes, (int)n);
    pthread_mutex_unlock(&tls_openssl_lock);
    return true;
}

static void answer_close(struct tls_conn *c)
{
    pthread_mutex_lock(&tls_openssl_lock);
    (void)SSL_shutdown(c->ssl);
    pthread_mutex_unlock(&tls_openssl_lock);
    (void)tls_records_flush(c);
}

/* Runs it, and sends what comes of it, until it wants no more input. > 0: what it said. */
static int drive(struct tls_conn *c, int (*call)(struct tls_conn *c))
{
    for (;;) {
        pthread_mutex_lock(&tls_openssl_lock);
        ERR_clear_error();
        const int n = call(c);
        const int e = n > 0 ? SSL_ERROR_NONE : SSL_get_error(c->ssl, n);
        if (e == SSL_ERROR_ZERO_RETURN) {
            c->seen.late_len += (size_t)BIO_pending(c->in);
            (void)BIO_reset(c->in);
        }
        pthread_mutex_unlock(&tls_openssl_lock);
        if (!tls_records_flush(c))
            return -1;
        if (n > 0)
            return n;
        if (e == SSL_ERROR_WANT_READ && fill(c))
            continue;
        if (e == SSL_ERROR_ZERO_RETURN)
            answer_close(c);
        (void)shutdown(c->peer->fd, SHUT_WR);
        return -1;
    }
}

/* ---- the handshake ---- */

static int shake(struct tls_conn *c)
{
    return SSL_accept(c->ssl);
}

/* 1: there was some, or none will come any more. */
static int read_early(struct tls_conn *c)
{
    size_t n = 0;
    const int what = SSL_read_early_data(c->ssl, c->plain + c->len, sizeof c->plain - c->len, &n);
    c->len += n;
    c->seen.early_len += n;
    if (what == SSL_READ_EARLY_DATA_ERROR)
        return -1;
    if (what == SSL_READ_EARLY_DATA_SUCCESS)
        return 1;
    return 2;
}

static void keep_outcome(struct tls_conn *c)
{
    struct tls_seen *s = &c->seen;
    s->is_resumed = SSL_session_reused(c->ssl);
    s->is_early_accepted = SSL_get_early_data_status(c->ssl) == SSL_EARLY_DATA_ACCEPTED;
    strncpy(s->cipher, SSL_get_cipher_name(c->ssl), sizeof s->cipher - 1);
    X509 *cert = SSL_get0_peer_certificate(c->ssl);
    s->has_client_cert = cert != NULL;
    if (cert)
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, s->client_name,
                                  sizeof s->client_name);
}

bool tls_wire_handshake(struct tls_conn *c)
{
    int early = c->script.early_max && !c->script.refuses_early ? 1 : 2;
    while (early == 1)
        early = drive(c, read_early);
    if (early < 0 || drive(c, shake) < 0)
        return false;
    pthread_mutex_lock(&tls_openssl_lock);
    keep_outcome(c);
    pthread_mutex_unlock(&tls_openssl_lock);
    c->seen.is_ready = true;
    tls_server_publish(c);
    return tls_wire_deed(c, TLS_AT_READY);
}

/* ---- data ---- */

static int read_record(struct tls_conn *c)
{
    size_t n = 0;
    const int is_read = SSL_read_ex(c->ssl, c->plain, sizeof c->plain, &n);
    if (is_read) {
        c->at = 0;
        c->len = n;
        c->seen.data_records++;
    }
    return is_read;
}

bool tls_wire_take(struct tls_conn *c, void *bytes, size_t len)
{
    uint8_t *to = bytes;
    while (len) {
        if (c->at == c->len && drive(c, read_record) <= 0)
            return false;
        const size_t n = c->len - c->at < len ? c->len - c->at : len;
        memcpy(to, c->plain + c->at, n);
        c->at += n;
        to += n;
        len -= n;
    }
    return true;
}

static bool put_record(struct tls_conn *c, const uint8_t *bytes, size_t len)
{
    if (c->has_seal)
        return tls_records_seal(c, DATA, bytes, len);
    pthread_mutex_lock(&tls_openssl_lock);
    ERR_clear_error();
    const bool is_written = SSL_write(c->ssl, bytes, (int)len) == (int)len;
    pthread_mutex_unlock(&tls_openssl_lock);
    return is_written && tls_records_flush(c);
}

bool tls_wire_put(struct tls_conn *c, const void *bytes, size_t len)
{
    const size_t most = c->script.record_max ? c->script.record_max : TLS_RECORD_MAX;
    const uint8_t *from = bytes;
    for (size_t n; len; from += n, len -= n) {
        n = len < most ? len : most;
        if (!put_record(c, from, n))
            return false;
    }
    return true;
}

/* ---- ends ---- */

static int shut(struct tls_conn *c)
{
    (void)SSL_shutdown(c->ssl);
    return 1;
}

void tls_wire_close(struct tls_conn *c, size_t late)
{
    static const uint8_t close_notify[] = {WARNING, 0};
    if (late || c->has_seal) {
        uint8_t bytes[TLS_RECORD_MAX] = {0};
        (void)tls_records_seal(c, ALERT, close_notify, sizeof close_notify);
        if (late)
            (void)tls_records_seal(c, DATA, bytes, late < sizeof bytes ? late : sizeof bytes);
    } else {
        (void)drive(c, shut);
    }
    (void)shutdown(c->peer->fd, SHUT_WR);
}

void tls_wire_linger(struct tls_conn *c)
{
    if (c->has_reset)
        return;
    c->is_mute = true;
    if (!c->seen.is_ready)
        (void)drive(c, shake);
    while (drive(c, read_record) > 0)
        ;
    while (fill(c))
        ;
}

/* ---- the script's deeds ---- */

static bool send_alert(struct tls_conn *c, int description, bool is_plain)
{
    const uint8_t body[] = {FATAL, (uint8_t)description};
    if (!is_plain && tls_records_has_keys(c))
        return tls_records_seal(c, ALERT, body, sizeof body);
    const uint8_t record[] = {ALERT, 3, 3, 0, 2, body[0], body[1]};
    return tls_records_send(c, record, sizeof record);
}

static int do_handshake(struct tls_conn *c)
{
    return SSL_do_handshake(c->ssl);
}

static bool update_keys(struct tls_conn *c, bool asks)
{
    pthread_mutex_lock(&tls_openssl_lock);
    SSL_key_update(c->ssl, asks ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);
    pthread_mutex_unlock(&tls_openssl_lock);
    return drive(c, do_handshake) > 0;
}

static bool send_tickets(struct tls_conn *c, int count)
{
    for (int i = 0; i < count; i++) {
        pthread_mutex_lock(&tls_openssl_lock);
        SSL_new_session_ticket(c->ssl);
        pthread_mutex_unlock(&tls_openssl_lock);
        if (drive(c, do_handshake) <= 0)
            return false;
    }
    return true;
}

static bool seal_many(struct tls_conn *c, int count, uint8_t type, const void *bytes, size_t len)
{
    for (int i = 0; i < count; i++)
        if (!tls_records_seal(c, type, bytes, len))
            return false;
    return true;
}

static void end(struct tls_conn *c, const struct tls_deed *d)
{
    switch (d->act) {
    case TLS_ALERT:
    case TLS_PLAIN_ALERT:
        (void)send_alert(c, d->value, d->act == TLS_PLAIN_ALERT);
        return;
    case TLS_RECORD:
        (void)tls_records_seal(c, (uint8_t)d->value, d->bytes, d->len);
        return;
    case TLS_BYTES:
        (void)tls_records_send(c, d->bytes, d->len);
        return;
    case TLS_CLOSE:
        tls_wire_close(c, (size_t)d->value);
        return;
    case TLS_FIN:
        (void)shutdown(c->peer->fd, SHUT_WR);
        return;
    case TLS_RST:
        c->has_reset = true;
        peer_reset(c->peer);
        return;
    default:
        return;
    }
}

bool tls_wire_deed(struct tls_conn *c, enum tls_stage stage)
{
    static const uint8_t hello_request[4] = {0};
    const struct tls_deed d = c->script.at[stage];
    c->script.at[stage].act = TLS_NOTHING; /* once per conn */
    switch (d.act) {
    case TLS_NOTHING:
        return true;
    case TLS_PAUSE:
        peer_sleep_ms(d.value);
        return true;
    case TLS_KEY_UPDATE:
        for (size_t i = 0; i <= d.len; i++)
            if (!update_keys(c, d.value))
                return false;
        return true;
    case TLS_TICKETS:
        return send_tickets(c, d.value);
    case TLS_EMPTIES:
        return seal_many(c, d.value, DATA, NULL, 0);
    case TLS_HELLO_REQUEST:
        return seal_many(c, d.value, HANDSHAKE, hello_request, sizeof hello_request);
    default:
        end(c, &d);
        return false;
    }
}
