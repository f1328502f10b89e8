/*
 * The records a scripted TLS server sends: taken whole from OpenSSL or sealed by hand, counted, spoilt as
 * the script says, and put on the socket. Runs on the connection's thread.
 */
#include "tests/support/tls_wire.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { HEADER = 5, CHANGE_CIPHER = 20, HANDSHAKE = 22, DATA = 23 };

bool tls_records_send(struct tls_conn *c, const void *bytes, size_t len)
{
    if (!c->script.is_dribbled)
        return peer_send(c->peer, bytes, len);
    for (size_t i = 0; i < len; i++)
        if (!peer_send(c->peer, (const uint8_t *)bytes + i, 1))
            return false;
    return true;
}

static bool spoil(struct tls_conn *c, uint8_t *record, size_t len)
{
    const size_t at = c->script.wire.at;
    switch (c->script.wire.how) {
    case TLS_CUT:
        (void)tls_records_send(c, record, at < len ? at : len - 1);
        (void)shutdown(c->peer->fd, SHUT_WR);
        return false;
    case TLS_FLIPPED:
        record[len - 1 - at] ^= 1;
        return tls_records_send(c, record, len);
    case TLS_TWICE:
        for (int i = 0; i < 2; i++)
            if (!tls_records_send(c, record, len))
                return false;
        return true;
    case TLS_OTHER:
        record[0] = (uint8_t)at;
        return tls_records_send(c, record, len);
    default:
        return tls_records_send(c, record, len);
    }
}

static bool send_record(struct tls_conn *c, uint8_t *record, size_t len)
{
    const bool in_handshake = !c->seen.is_ready;
    const unsigned nth = c->records[in_handshake]++;
    if (c->script.wire.in_handshake == in_handshake && c->script.wire.nth == nth)
        return spoil(c, record, len);
    return tls_records_send(c, record, len);
}

static size_t record_len(const uint8_t *record)
{
    return HEADER + ((size_t)record[3] << 8 | record[4]);
}

static bool is_13(const struct tls_conn *c)
{
    return c->seen.version == 13;
}

static void count_sealed(struct tls_conn *c, uint8_t type)
{
    if (is_13(c) ? type == DATA : c->has_changed_cipher)
        c->sealed++;
    c->has_changed_cipher |= type == CHANGE_CIPHER;
}

/* TLS 1.3: the last record of the flight with our hello. TLS 1.2: the one after ChangeCipherSpec. */
static bool is_finished(const struct tls_conn *c, const uint8_t *record, const uint8_t *last_data)
{
    if (c->has_finished)
        return false;
    return is_13(c) ? record == last_data : c->has_changed_cipher && record[0] == HANDSHAKE;
}

static bool send_finished(struct tls_conn *c, uint8_t *record, size_t len)
{
    /* Before the client can know that it is done: what is counted is never more than there is. */
    tls_server_count(c, false);
    if (!tls_wire_deed(c, TLS_AT_FINISHED) || !send_record(c, record, len))
        return false;
    count_sealed(c, record[0]);
    c->has_finished = true;
    if (is_13(c))
        c->sealed = 0;
    return true;
}

static void wait_for_gate(struct tls_conn *c)
{
    const atomic_bool *gate = c->script.gate;
    tls_server_publish(c);
    if (c->script.hello_delay_ms)
        peer_sleep_ms(c->script.hello_delay_ms);
    while (gate && !atomic_load(gate) && !atomic_load(&c->peer->peer->is_stopping))
        peer_sleep_ms(1);
}

static bool send_other(struct tls_conn *c, uint8_t *record, size_t len)
{
    const bool is_first = !c->seen.is_ready && c->records[1] == 0;
    if (is_first) {
        tls_server_count(c, true);
        wait_for_gate(c);
        if (!tls_wire_deed(c, TLS_AT_HELLO))
            return false;
    }
    if (!send_record(c, record, len))
        return false;
    count_sealed(c, record[0]);
    return !is_first || tls_wire_deed(c, TLS_AT_FLIGHT);
}

/* What OpenSSL has made: a copy, freed by the caller. */
static uint8_t *drain(struct tls_conn *c, size_t *out_len)
{
    pthread_mutex_lock(&tls_openssl_lock);
    const size_t len = (size_t)BIO_pending(c->out);
    uint8_t *bytes = len ? malloc(len) : NULL;
    if (len && BIO_read(c->out, bytes, (int)len) != (int)len)
        abort();
    c->seen.version = SSL_version(c->ssl) == TLS1_3_VERSION ? 13 : 12;
    pthread_mutex_unlock(&tls_openssl_lock);
    *out_len = len;
    return bytes;
}

bool tls_records_flush(struct tls_conn *c)
{
    size_t len;
    uint8_t *bytes = drain(c, &len);
    const uint8_t *last_data = NULL;
    for (size_t at = 0; at < len; at += record_len(bytes + at))
        if (bytes[at] == DATA)
            last_data = bytes + at;
    bool is_sent = true;
    for (size_t at = 0; at < len && is_sent && !c->has_seal && !c->is_mute;) {
        uint8_t *record = bytes + at;
        const size_t n = record_len(record);
        at += n;
        is_sent = is_finished(c, record, last_data) ? send_finished(c, record, n)
                                                    : send_other(c, record, n);
    }
    free(bytes);
    return is_sent;
}

bool tls_records_has_keys(const struct tls_conn *c)
{
    return is_13(c) ? c->records[1] > 0 : c->has_changed_cipher;
}

static void begin_seal(struct tls_conn *c)
{
    uint8_t master[TLS_MASTER_LEN], random[2][TLS_RANDOM_LEN];
    c->has_seal = true;
    if (is_13(c)) {
        tls_seal_init_13(&c->seal, c->has_finished ? c->traffic_secret : c->handshake_secret,
                         c->sealed);
        return;
    }
    SSL_get_client_random(c->ssl, random[0], TLS_RANDOM_LEN);
    SSL_get_server_random(c->ssl, random[1], TLS_RANDOM_LEN);
    SSL_SESSION_get_master_key(SSL_get_session(c->ssl), master, sizeof master);
    tls_seal_init_12(&c->seal, master, random[0], random[1], c->sealed);
}

bool tls_records_seal(struct tls_conn *c, uint8_t type, const void *bytes, size_t len)
{
    uint8_t *record = malloc(len + TLS_SEALED_EXTRA);
    pthread_mutex_lock(&tls_openssl_lock);
    if (!c->has_seal)
        begin_seal(c);
    const size_t n = tls_seal_record(&c->seal, type, bytes, len, record);
    pthread_mutex_unlock(&tls_openssl_lock);
    const bool is_sent = send_record(c, record, n);
    free(record);
    return is_sent;
}
