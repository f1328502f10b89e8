/* TLS of the HTTP listener: what --tls... asks for, and the context that all loops share. */
#ifndef ORIGIN_TLS_H
#define ORIGIN_TLS_H

#include <stdbool.h>
#include <stdint.h>

struct ssl_ctx_st;

enum { TLS_NAMES_MAX = 16, TLS_TICKETS_MAX = 64, TLS_EARLY_BYTES_MAX = 16 * 1024 };

enum tls_key_type { TLS_KEY_ECDSA, TLS_KEY_RSA, TLS_KEY_ED25519 };

/* Strings are borrowed; NULL = not given. */
struct tls_options {
    bool is_on;
    enum tls_key_type key_type;
    const char *names[TLS_NAMES_MAX]; /* more subject alternative names: DNS or IP */
    unsigned name_count;
    const char *ca_out;
    const char *cert; /* with `key`: instead of a throw-away one */
    const char *key;
    const char *client_ca; /* demands client certificates that it signed */
    const char *groups;
    int version_min; /* TLS1_2_VERSION or TLS1_3_VERSION */
    int version_max;
    unsigned tickets; /* after a full handshake; 0 = nothing can be resumed */
    bool takes_early_data;
    bool allows_replay; /* of early data: the same ticket again and again */
    uint32_t handshake_timeout_ms;
};

/* Makes the certificate, writes `ca_out`. NULL after saying on stderr what failed. */
struct ssl_ctx_st *tls_open(const struct tls_options *o, const char *bind_to, bool offers_h2);
void tls_close(struct ssl_ctx_st *ctx);

#endif
