/*
 * The record layer's sending half, by hand. Owns nothing; no I/O.
 */
#include "tests/support/tls_seal.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

enum { TLS_12_ON_THE_WIRE = 0x0303 };

static void hmac(const uint8_t *key, size_t key_len, const uint8_t *in, size_t len,
                 uint8_t out[TLS_SECRET_LEN])
{
    if (!HMAC(EVP_sha256(), key, (int)key_len, in, len, out, NULL))
        abort();
}

/* RFC 8446 7.1, for results that fit in one block. */
static void expand_label(const uint8_t *secret, const char *label, uint8_t *out, size_t len)
{
    uint8_t info[64], block[TLS_SECRET_LEN];
    const size_t label_len = strlen(label);
    size_t n = 0;
    info[n++] = 0;
    info[n++] = (uint8_t)len;
    info[n++] = (uint8_t)(6 + label_len);
    memcpy(info + n, "tls13 ", 6);
    memcpy(info + n + 6, label, label_len);
    n += 6 + label_len;
    info[n++] = 0; /* no context */
    info[n++] = 1; /* the first block */
    hmac(secret, TLS_SECRET_LEN, info, n, block);
    memcpy(out, block, len);
}

void tls_seal_init_13(struct tls_seal *s, const uint8_t secret[TLS_SECRET_LEN], uint64_t seq)
{
    *s = (struct tls_seal){.is_13 = true, .seq = seq};
    expand_label(secret, "key", s->key, sizeof s->key);
    expand_label(secret, "iv", s->iv, sizeof s->iv);
}

/* RFC 5246 5: two blocks hold both keys and both salts. */
void tls_seal_init_12(struct tls_seal *s, const uint8_t master[TLS_MASTER_LEN],
                      const uint8_t client_random[TLS_RANDOM_LEN],
                      const uint8_t server_random[TLS_RANDOM_LEN], uint64_t seq)
{
    enum { LABEL = 13, SEED = LABEL + 2 * TLS_RANDOM_LEN };
    uint8_t a[TLS_SECRET_LEN + SEED], block[2][TLS_SECRET_LEN], next[TLS_SECRET_LEN];
    uint8_t *seed = a + TLS_SECRET_LEN;
    memcpy(seed, "key expansion", LABEL);
    memcpy(seed + LABEL, server_random, TLS_RANDOM_LEN);
    memcpy(seed + LABEL + TLS_RANDOM_LEN, client_random, TLS_RANDOM_LEN);
    hmac(master, TLS_MASTER_LEN, seed, SEED, a);
    for (int i = 0; i < 2; i++) {
        hmac(master, TLS_MASTER_LEN, a, sizeof a, block[i]);
        hmac(master, TLS_MASTER_LEN, a, TLS_SECRET_LEN, next);
        memcpy(a, next, sizeof next);
    }
    *s = (struct tls_seal){.seq = seq};
    memcpy(s->key, block[0] + 16, 16); /* the client's key, the server's, then salts of 4 bytes */
    memcpy(s->iv, block[1] + 4, 4);
}

static void put_number(uint8_t *at, uint64_t value, size_t len)
{
    for (size_t i = len; i > 0; i--, value >>= 8)
        at[i - 1] = (uint8_t)value;
}

static void gcm(const struct tls_seal *s, const uint8_t nonce[12], const uint8_t *aad,
                size_t aad_len, uint8_t *text, size_t len)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n;
    if (!EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, s->key, nonce) ||
        !EVP_EncryptUpdate(ctx, NULL, &n, aad, (int)aad_len) ||
        !EVP_EncryptUpdate(ctx, text, &n, text, (int)len) ||
        !EVP_EncryptFinal_ex(ctx, text + len, &n) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, 16, text + len))
        abort();
    EVP_CIPHER_CTX_free(ctx);
}

size_t tls_seal_record(struct tls_seal *s, uint8_t type, const void *bytes, size_t len,
                       uint8_t *out)
{
    uint8_t nonce[12], aad[13];
    const size_t explicit_len = s->is_13 ? 0 : 8;
    uint8_t *text = out + 5 + explicit_len;
    if (len)
        memcpy(text, bytes, len);
    memcpy(nonce, s->iv, sizeof nonce);
    put_number(aad, s->seq, 8);
    if (s->is_13) {
        for (int i = 0; i < 8; i++)
            nonce[4 + i] ^= aad[i];
        text[len++] = type;
    } else {
        memcpy(nonce + 4, aad, 8);
        memcpy(out + 5, aad, 8);
        aad[8] = type;
        put_number(aad + 9, TLS_12_ON_THE_WIRE, 2);
        put_number(aad + 11, len, 2);
    }
    const size_t body_len = explicit_len + len + 16;
    out[0] = s->is_13 ? 23 : type;
    put_number(out + 1, TLS_12_ON_THE_WIRE, 2);
    put_number(out + 3, body_len, 2);
    if (s->is_13)
        gcm(s, nonce, out, 5, text, len);
    else
        gcm(s, nonce, aad, sizeof aad, text, len);
    s->seq++;
    return 5 + body_len;
}
