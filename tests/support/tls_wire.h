/*
 * One connection of the scripted TLS server: OpenSSL's engine between memory BIOs, and what the script
 * does to the records on their way. On the connection's thread, but for the lock.
 */
#ifndef TESTS_SUPPORT_TLS_WIRE_H
#define TESTS_SUPPORT_TLS_WIRE_H

#include "tests/support/tls_seal.h"
#include "tests/support/tls_server.h"

#include <openssl/ssl.h>
#include <pthread.h>

enum { TLS_RECORD_MAX = 16384 };

struct tls_server {
    struct peer peer;
    char url[64];
    SSL_CTX *ctx;
    pthread_mutex_t lock; /* all below */
    struct tls_script script;
    struct tls_seen seen[PEER_CONNS_MAX];
    unsigned shaking, peak;
};

struct tls_conn {
    struct tls_server *server;
    struct peer_conn *peer;
    struct tls_script script; /* as it was when this conn came */
    SSL *ssl;
    BIO *in, *out;
    uint8_t handshake_secret[TLS_SECRET_LEN], traffic_secret[TLS_SECRET_LEN];
    bool is_shaking;         /* counted in server->shaking */
    bool has_finished;       /* our Finished has left */
    bool has_changed_cipher; /* TLS 1.2: our ChangeCipherSpec has */
    bool is_mute;            /* the script has ended it: what OpenSSL still says is lost */
    bool has_reset;
    uint64_t sealed;     /* records sent under the keys in use */
    unsigned records[2]; /* sent: [0] after the handshake, [1] in it */
    bool has_seal;       /* records are sealed by hand from now on */
    struct tls_seal seal;
    uint8_t plain[TLS_RECORD_MAX];
    size_t at, len; /* what is left of `plain` */
    struct tls_seen seen;
};

/* All: false when the conversation is over: the client has gone or the script has ended it. */
bool tls_wire_handshake(struct tls_conn *c);
bool tls_wire_put(struct tls_conn *c, const void *bytes, size_t len);
bool tls_wire_take(struct tls_conn *c, void *bytes, size_t len);
bool tls_wire_deed(struct tls_conn *c, enum tls_stage stage);
/* close_notify, `late` bytes of data, FIN. */
void tls_wire_close(struct tls_conn *c, size_t late);
/* Until the client goes: what still comes is looked at. */
void tls_wire_linger(struct tls_conn *c);

/* Sends every record OpenSSL has made (tls_records.c). */
bool tls_records_flush(struct tls_conn *c);
/* One sealed by hand, which OpenSSL's are no longer after that. */
bool tls_records_seal(struct tls_conn *c, uint8_t type, const void *bytes, size_t len);
bool tls_records_send(struct tls_conn *c, const void *bytes, size_t len);
bool tls_records_has_keys(const struct tls_conn *c);

/* Lets others look at c->seen. */
void tls_server_publish(struct tls_conn *c);
/* Begins or ends to count it as shaking hands. */
void tls_server_count(struct tls_conn *c, bool is_shaking);
/* Under tls_openssl_lock (tls_setup.c). */
SSL_CTX *tls_setup_ctx(void);
void tls_setup_conn(struct tls_conn *c);

#endif
