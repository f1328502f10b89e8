/*
 * One TLS configuration ready for use: shared by every pool that has the same, every shard and every conn made
 * under it. Never changed once made; rotation makes another. Any thread.
 */
#ifndef MR_TLS_CONTEXT_H
#define MR_TLS_CONTEXT_H

#include "tls/material.h"
#include "tls/roots.h"
#include "tls/state.h"

struct WOLFSSL_CTX;

/* Of any key in a chain. */
#define MR_TLS_RSA_BITS_MIN 2048
#define MR_TLS_EC_BITS_MIN  256

struct mr_tls_context {
    struct mr_tls_state *state;
    struct mr_list link; /* state->contexts */
    _Atomic(uint32_t) refs;
    struct WOLFSSL_CTX *wolf;
    uint8_t fingerprint[MR_TLS_HASH_SIZE]; /* of all it was made from */
    uint8_t pins[MR_TLS_PINS_MAX][MR_TLS_HASH_SIZE];
    uint32_t pin_count;
    bool pins_chain, is_insecure, has_cert;
    struct mr_tls_roots roots;    /* by name: where a chain may end */
    struct mr_tls_text roots_pem; /* kept only where pins may name one of them */
};

/* The one made of the same material, or a new one; refs 1 more. EINVAL: `fault` says what the library could
 * not use. */
MOOR_NODISCARD moor_err mr_tls_context_get(struct mr_tls_state *s, const struct mr_tls_material *m,
                                           struct mr_tls_context **out,
                                           char fault[MR_TLS_FAULT_MAX]);
/* Is the key, a SubjectPublicKeyInfo with its header, one of the pins? */
bool mr_tls_context_has_pin(const struct mr_tls_context *c, moor_span spki);
void mr_tls_context_ref(struct mr_tls_context *c);
/* NULL is fine. */
void mr_tls_context_unref(struct mr_tls_context *c);

#endif
