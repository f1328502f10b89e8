/*
 * Contexts: made of material, found again by its fingerprint, freed with their last user.
 * Any thread; making one parses every root and blocks for some milliseconds.
 */
#include "tls/context.h"

#include "tls/session.h"
#include "tls/wolf.h"

#include <stdio.h>
#include <string.h>

/* AES first only where the processor has it: in software it is slow, and its timing tells. */
#define SUITES_AES_13    "TLS13-AES128-GCM-SHA256:TLS13-AES256-GCM-SHA384:"
#define SUITES_CHACHA_13 "TLS13-CHACHA20-POLY1305-SHA256:"
#define SUITES_AES_12                                                                              \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                                   \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
#define SUITES_CHACHA_12 "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"

#define FAIL(fault, ...) (snprintf(fault, MR_TLS_FAULT_MAX, __VA_ARGS__), MOOR_EINVAL)

static const char *suites(void)
{
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("aes") || !__builtin_cpu_supports("pclmul"))
        return SUITES_CHACHA_13 SUITES_AES_13 SUITES_CHACHA_12 SUITES_AES_12;
#endif
    return SUITES_AES_13 SUITES_CHACHA_13 SUITES_AES_12 SUITES_CHACHA_12;
}

/* ---- making ---- */

static bool set_protocol(WOLFSSL_CTX *w, const struct mr_tls_material *m)
{
    static const word16 groups[] = {WOLFSSL_ECC_X25519, WOLFSSL_ECC_SECP256R1,
                                    WOLFSSL_ECC_SECP384R1};
    /* Of TLS 1.2 servers the default list gets the largest curve: 10 ms a handshake. */
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (wolfSSL_CTX_UseSupportedCurve(w, groups[i]) != WOLFSSL_SUCCESS)
            return false;
    const int oldest = m->version_min == 13 ? WOLFSSL_TLSV1_3 : WOLFSSL_TLSV1_2;
    return wolfSSL_CTX_SetMinVersion(w, oldest) == WOLFSSL_SUCCESS &&
           wolfSSL_CTX_set_cipher_list(w, suites()) == WOLFSSL_SUCCESS &&
           wolfSSL_CTX_SetMinRsaKey_Sz(w, MR_TLS_RSA_BITS_MIN) == WOLFSSL_SUCCESS &&
           wolfSSL_CTX_SetMinEccKey_Sz(w, MR_TLS_EC_BITS_MIN / 8) == WOLFSSL_SUCCESS &&
           wolfSSL_CTX_UseSessionTicket(w) == WOLFSSL_SUCCESS &&
           wolfSSL_CTX_set_group_messages(w) == WOLFSSL_SUCCESS;
}

static moor_err set_roots(WOLFSSL_CTX *w, const struct mr_tls_material *m, char *fault)
{
    if (m->is_insecure)
        return MOOR_OK;
    const int got = wolfSSL_CTX_load_verify_buffer(w, (const unsigned char *)m->roots.base,
                                                   (long)m->roots.len, WOLFSSL_FILETYPE_PEM);
    if (got == MEMORY_E)
        return MOOR_ENOMEM;
    return got == WOLFSSL_SUCCESS ? MOOR_OK
                                  : FAIL(fault, "%s: no certificate of an authority in it (%s)",
                                         m->roots_from, mr_tls_error_detail(got));
}

static moor_err set_pair(WOLFSSL_CTX *w, const struct mr_tls_material *m, char *fault)
{
    if (!m->cert.len)
        return MOOR_OK;
    int got = wolfSSL_CTX_use_certificate_chain_buffer(w, (const unsigned char *)m->cert.base,
                                                       (long)m->cert.len);
    if (got == MEMORY_E)
        return MOOR_ENOMEM;
    if (got != WOLFSSL_SUCCESS)
        return FAIL(fault, "%s: no certificate of ours in it: %s", m->cert_from,
                    mr_tls_error_detail(got));
    if (strstr(m->key.base, "ENCRYPTED"))
        return FAIL(fault,
                    "%s: our key in it is encrypted: give it decrypted, readable by this "
                    "program only",
                    m->key_from);
    got = wolfSSL_CTX_use_PrivateKey_buffer(w, (const unsigned char *)m->key.base, (long)m->key.len,
                                            WOLFSSL_FILETYPE_PEM);
    if (got == MEMORY_E)
        return MOOR_ENOMEM;
    if (got != WOLFSSL_SUCCESS)
        return FAIL(fault, "%s: no key of ours in it: %s", m->key_from, mr_tls_error_detail(got));
    return wolfSSL_CTX_check_private_key(w) == WOLFSSL_SUCCESS
               ? MOOR_OK
               : FAIL(fault, "%s: the key in it is not that of our certificate in %s", m->key_from,
                      m->cert_from);
}

static moor_err fill(struct mr_tls_context *c, const struct mr_tls_material *m, char *fault)
{
    MR_FAIL_IF(!set_protocol(c->wolf, m), MOOR_ENOMEM);
    MR_TRY(set_roots(c->wolf, m, fault));
    MR_TRY(set_pair(c->wolf, m, fault));
    mr_tls_session_hooks(c->wolf, m->is_insecure);
    memcpy(c->pins, m->pins, sizeof c->pins);
    c->pin_count = m->pin_count;
    c->pins_chain = m->pins_chain;
    c->is_insecure = m->is_insecure;
    c->has_cert = m->cert.len > 0;
    if (m->roots.len)
        MR_TRY(mr_tls_roots_read(m->heap, m->roots.base, &c->roots));
    if (!c->pin_count || !c->pins_chain)
        return MOOR_OK;
    c->roots_pem.base = mr_heap_copy_text(m->heap, (moor_span){m->roots.base, m->roots.len});
    MR_FAIL_IF(!c->roots_pem.base, MOOR_ENOMEM);
    c->roots_pem.len = m->roots.len;
    return MOOR_OK;
}

static void destroy(struct mr_tls_context *c)
{
    struct moor_runtime *r = c->state->runtime;
    struct moor_runtime *before = mr_tls_enter(r);
    wolfSSL_CTX_free(c->wolf);
    mr_tls_leave(before);
    mr_tls_roots_drop(&r->heap, &c->roots);
    if (c->roots_pem.base)
        mr_heap_free(&r->heap, c->roots_pem.base, c->roots_pem.len + 1);
    explicit_bzero(c->fingerprint, sizeof c->fingerprint);
    mr_heap_free(&r->heap, c, sizeof *c);
}

static moor_err make(struct mr_tls_state *s, const struct mr_tls_material *m,
                     struct mr_tls_context **out, char *fault)
{
    struct mr_tls_context *c = mr_heap_zalloc(&s->runtime->heap, sizeof *c);
    MR_FAIL_IF(!c, MOOR_ENOMEM);
    c->state = s;
    mr_list_init(&c->link);
    atomic_store_explicit(&c->refs, 1, memory_order_relaxed);
    struct moor_runtime *before = mr_tls_enter(s->runtime);
    c->wolf = wolfSSL_CTX_new(wolfSSLv23_client_method());
    moor_err e = c->wolf ? fill(c, m, fault) : MOOR_ENOMEM;
    if (mr_tls_is_short()) { /* also if it went on: without one of the roots */
        e = MOOR_ENOMEM;
        fault[0] = '\0';
    }
    mr_tls_leave(before);
    if (e)
        destroy(c);
    else
        *out = c;
    return e;
}

/* ---- sharing ---- */

/* Under the lock. One whose last user is just leaving is as good as gone. */
static struct mr_tls_context *find(struct mr_tls_state *s, const uint8_t *fingerprint)
{
    for (struct mr_list *l = s->contexts.next; l != &s->contexts; l = l->next) {
        struct mr_tls_context *c = MR_CONTAINER_OF(l, struct mr_tls_context, link);
        uint32_t refs = atomic_load(&c->refs);
        if (memcmp(c->fingerprint, fingerprint, sizeof c->fingerprint))
            continue;
        while (refs && !atomic_compare_exchange_weak(&c->refs, &refs, refs + 1))
            ;
        if (refs)
            return c;
    }
    return NULL;
}

moor_err mr_tls_context_get(struct mr_tls_state *s, const struct mr_tls_material *m,
                            struct mr_tls_context **out, char fault[MR_TLS_FAULT_MAX])
{
    uint8_t fingerprint[MR_TLS_HASH_SIZE];
    mr_tls_material_fingerprint(m, fingerprint);
    mr_lock_lock(&s->lock);
    struct mr_tls_context *c = find(s, fingerprint);
    mr_lock_unlock(&s->lock);
    if (!c) {
        MR_TRY(make(s, m, &c, fault));
        memcpy(c->fingerprint, fingerprint, sizeof fingerprint);
        /* Of two made at the same time both serve; later ones find either. */
        mr_lock_lock(&s->lock);
        mr_list_push_front(&s->contexts, &c->link);
        mr_lock_unlock(&s->lock);
    }
    *out = c;
    return MOOR_OK;
}

bool mr_tls_context_has_pin(const struct mr_tls_context *c, moor_span spki)
{
    uint8_t hash[MR_TLS_HASH_SIZE];
    mr_tls_hash(&spki, 1, hash);
    for (uint32_t i = 0; i < c->pin_count; i++)
        if (!memcmp(c->pins[i], hash, MR_TLS_HASH_SIZE))
            return true;
    return false;
}

void mr_tls_context_ref(struct mr_tls_context *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void mr_tls_context_unref(struct mr_tls_context *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    mr_lock_lock(&c->state->lock);
    mr_list_remove(&c->link);
    mr_lock_unlock(&c->state->lock);
    destroy(c);
}
