/*
 * Records sealed by hand, for what OpenSSL would never send: the server's side of AES-128-GCM with
 * SHA-256, in TLS 1.3 (RFC 8446 5.2) and TLS 1.2 (RFC 5288). Any thread, one at a time.
 */
#ifndef TESTS_SUPPORT_TLS_SEAL_H
#define TESTS_SUPPORT_TLS_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TLS_SECRET_LEN = 32, TLS_MASTER_LEN = 48, TLS_RANDOM_LEN = 32, TLS_SEALED_EXTRA = 64 };

struct tls_seal {
    bool is_13;
    uint8_t key[16], iv[12];
    uint64_t seq; /* of the next record */
};

/* secret: SERVER_HANDSHAKE_TRAFFIC_SECRET or SERVER_TRAFFIC_SECRET_0. */
void tls_seal_init_13(struct tls_seal *s, const uint8_t secret[TLS_SECRET_LEN], uint64_t seq);
void tls_seal_init_12(struct tls_seal *s, const uint8_t master[TLS_MASTER_LEN],
                      const uint8_t client_random[TLS_RANDOM_LEN],
                      const uint8_t server_random[TLS_RANDOM_LEN], uint64_t seq);
/* out: len + TLS_SEALED_EXTRA. Returns the record's length. */
size_t tls_seal_record(struct tls_seal *s, uint8_t type, const void *bytes, size_t len,
                       uint8_t *out);

#endif
