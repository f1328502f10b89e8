/*
 * wolfSSL as a whole: its beginning, its memory, its clock, its hash, its errors in our words.
 * Any thread; what is per call is per thread. Must not keep a runtime beyond mr_tls_leave.
 */
#include "tls/library.h"

#include "core/runtime.h"
#include "tls/wolf.h"

#include <string.h>

static _Thread_local struct moor_runtime *here;
static _Thread_local bool was_short;

struct moor_runtime *mr_tls_enter(struct moor_runtime *r)
{
    struct moor_runtime *before = here;
    if (!before)
        was_short = false;
    here = r;
    return before;
}

void mr_tls_leave(struct moor_runtime *before)
{
    here = before;
}

void mr_tls_library_rest(void)
{
#if defined(MR_WOLFSSL_FP_ECC)
    wc_ecc_fp_free();
#endif
}

bool mr_tls_is_short(void)
{
    return was_short;
}

static time_t wall(time_t *out)
{
    const int64_t now = mr_clock_wall(here ? here->clock : &mr_clock_system);
    if (out)
        *out = (time_t)now;
    return (time_t)now;
}

#if !defined(MR_WOLFSSL_SHARED)

/* What it allocates for good, at its beginning, belongs to no runtime. */
static struct mr_heap own;

static struct mr_heap *heap(void)
{
    return here ? &here->heap : &own;
}

static void *noted(void *p)
{
    was_short |= !p;
    return p;
}

static void *take(size_t size)
{
    return noted(mr_heap_alloc_unsized(heap(), size));
}

static void give(void *p)
{
    mr_heap_free_unsized(heap(), p);
}

static void *resize(void *p, size_t size)
{
    return noted(mr_heap_realloc_unsized(heap(), p, size));
}

static bool give_memory(void)
{
    return !mr_heap_init(&own, SIZE_MAX, true) && !wolfSSL_SetAllocators(take, give, resize);
}

#else

/* A library that the program may use, too: its allocator is not ours to set. */
static bool give_memory(void)
{
    return true;
}

#endif

static moor_err begun;

static void begin(void)
{
    begun = MOOR_ENOSYS;
    if (wolfSSL_lib_version_hex() != LIBWOLFSSL_VERSION_HEX || !give_memory())
        return;
    if (wolfSSL_Init() != WOLFSSL_SUCCESS)
        return;
#if !defined(MR_WOLFSSL_SHARED)
    if (wc_SetTimeCb(wall))
        return;
#else
    (void)wall;
#endif
    begun = MOOR_OK;
}

moor_err mr_tls_library_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, begin);
    return begun;
}

void mr_tls_hash(const moor_span *parts, size_t count, uint8_t out[MR_TLS_HASH_SIZE])
{
    wc_Sha256 sha;
    int failed = wc_InitSha256(&sha);
    for (size_t i = 0; i < count && !failed; i++)
        if (parts[i].len)
            failed = wc_Sha256Update(&sha, parts[i].base, (word32)parts[i].len);
    if (!failed)
        failed = wc_Sha256Final(&sha, out);
    wc_Sha256Free(&sha);
    MR_ASSERT(!failed && "a hash in software needs nothing that could be missing");
}

bool mr_tls_base64(moor_span text, uint8_t *out, size_t *out_len)
{
    word32 len = (word32)*out_len;
    if (!text.len || Base64_Decode(text.base, (word32)text.len, out, &len))
        return false;
    *out_len = len;
    return true;
}

/* ---- errors ---- */

static const struct {
    int code;
    const char *text;
} texts[] = {
    {ASN_NO_SIGNER_E, "verify the certificate: no trusted authority signed it, or its chain is "
                      "incomplete"},
    {ASN_SELF_SIGNED_E, "verify the certificate: it is self-signed and not trusted"},
    {ASN_BEFORE_DATE_E, "verify the certificate: not valid yet"},
    {ASN_AFTER_DATE_E, "verify the certificate: expired"},
    {ASN_SIG_CONFIRM_E, "verify the certificate: wrong signature"},
    {ASN_SIG_HASH_E, "verify the certificate: signed with a hash that is not supported"},
    {ASN_SIG_OID_E, "verify the certificate: signed in a way that is not supported"},
    {ASN_NAME_INVALID_E, "verify the certificate: its authority may not sign for this name"},
    {ASN_PATHLEN_SIZE_E, "verify the certificate: the chain is longer than its authority allows"},
    {ASN_PATHLEN_INV_E, "verify the certificate: the chain is longer than its authority allows"},
    {ASN_CRIT_EXT_E, "verify the certificate: a critical extension is not known"},
    {ASN_PARSE_E, "verify the certificate: malformed"},
    {MAX_CHAIN_ERROR, "verify the certificate: the chain is too long"},
    {BUFFER_ERROR, "TLS: malformed message"},
    {EXTKEYUSE_AUTH_E, "verify the certificate: not meant for servers"},
    {EXTKEYUSAGE_E, "verify the certificate: not meant for servers"},
    {KEYUSE_ENCIPHER_E, "verify the certificate: its key may not be used for this"},
    {KEYUSE_SIGNATURE_E, "verify the certificate: its key may not be used for this"},
    {KEYUSAGE_E, "verify the certificate: an authority in the chain may not sign certificates"},
    {RSA_KEY_SIZE_E, "verify the certificate: a key is too short"},
    {ECC_KEY_SIZE_E, "verify the certificate: a key is too short"},
    {OCSP_CERT_REVOKED, "verify the certificate: revoked, says the stapled OCSP response"},
    {BAD_CERTIFICATE_STATUS_ERROR, "verify the certificate: the stapled OCSP response is not good"},
    {OCSP_CERT_UNKNOWN, "verify the certificate: the OCSP response does not know it"},
    {OCSP_LOOKUP_FAIL, "verify the certificate: the OCSP response that was announced did not come"},
    {VERIFY_SIGN_ERROR, "TLS handshake: the server does not have its certificate's key"},
    {VERIFY_CERT_ERROR, "verify the certificate"},
    {PEER_KEY_ERROR, "verify the certificate: its key cannot be used"},
    {VERSION_ERROR, "TLS handshake: no version in common"},
    {MATCH_SUITE_ERROR, "TLS handshake: no cipher in common"},
    {UNSUPPORTED_SUITE, "TLS handshake: no cipher in common"},
    {ECC_CURVETYPE_ERROR, "TLS handshake: no group in common"},
    {UNKNOWN_RECORD_TYPE, "TLS: the peer does not speak it, or not here"},
    {UNKNOWN_HANDSHAKE_TYPE, "TLS handshake: unknown message"},
    {OUT_OF_ORDER_E, "TLS handshake: a message out of order"},
    {DUPLICATE_MSG_E, "TLS handshake: a message came twice"},
    {SANITY_MSG_E, "TLS handshake: a message out of order"},
    {LENGTH_ERROR, "TLS: a record is longer than allowed"},
    {VERIFY_MAC_ERROR, "TLS: a record was changed on the way"},
    {DECRYPT_ERROR, "TLS: a record was changed on the way"},
    {AES_GCM_AUTH_E, "TLS: a record was changed on the way"},
    {MAC_CMP_FAILED_E, "TLS: a record was changed on the way"},
    {VERIFY_FINISHED_ERROR, "TLS handshake: it was changed on the way"},
    {BAD_BINDER, "TLS handshake: the ticket's proof was refused"},
    {PSK_KEY_ERROR, "TLS handshake: malformed answer to a ticket"},
    {SOCKET_PEER_CLOSED_E, "TLS handshake: the peer closed the connection"},
    {MEMORY_E, "TLS: out of memory"},
};

/* RFC 8446 6.2; those of TLS 1.2 that servers still send. */
static const struct {
    int alert;
    const char *text;
} alerts[] = {
    {10, "the server's alert: unexpected_message"},
    {20, "the server's alert: bad_record_mac"},
    {21, "the server's alert: decryption_failed"},
    {22, "the server's alert: record_overflow"},
    {40, "the server's alert: handshake_failure"},
    {42, "the server's alert: bad_certificate (ours)"},
    {43, "the server's alert: unsupported_certificate (ours)"},
    {44, "the server's alert: certificate_revoked (ours)"},
    {45, "the server's alert: certificate_expired (ours)"},
    {46, "the server's alert: certificate_unknown (ours)"},
    {47, "the server's alert: illegal_parameter"},
    {48, "the server's alert: unknown_ca (of our certificate)"},
    {49, "the server's alert: access_denied"},
    {50, "the server's alert: decode_error"},
    {51, "the server's alert: decrypt_error"},
    {70, "the server's alert: protocol_version"},
    {71, "the server's alert: insufficient_security"},
    {80, "the server's alert: internal_error"},
    {86, "the server's alert: inappropriate_fallback"},
    {90, "the server's alert: user_canceled"},
    {100, "the server's alert: no_renegotiation"},
    {109, "the server's alert: missing_extension"},
    {110, "the server's alert: unsupported_extension"},
    {112, "the server's alert: unrecognized_name"},
    {113, "the server's alert: bad_certificate_status_response"},
    {115, "the server's alert: unknown_psk_identity"},
    {116, "the server's alert: certificate_required (it wants one of ours)"},
    {120, "the server's alert: no_application_protocol"},
};

int mr_tls_verify_code(int code)
{
    static const struct {
        int theirs, ours;
    } codes[] = {
        {2, ASN_NO_SIGNER_E},    {7, ASN_SIG_CONFIRM_E},  {9, ASN_BEFORE_DATE_E},
        {13, ASN_BEFORE_DATE_E}, {14, ASN_AFTER_DATE_E},  {10, ASN_AFTER_DATE_E},
        {18, ASN_SELF_SIGNED_E}, {19, ASN_SELF_SIGNED_E}, {20, ASN_NO_SIGNER_E},
        {21, ASN_NO_SIGNER_E},   {22, MAX_CHAIN_ERROR},   {24, ASN_PATHLEN_INV_E},
        {25, ASN_PATHLEN_INV_E},
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].theirs == code)
            return codes[i].ours;
    return code;
}

const char *mr_tls_error_text(int code, int alert)
{
    if (code == FATAL_ERROR || code == SOCKET_PEER_CLOSED_E) {
        for (size_t i = 0; i < sizeof alerts / sizeof *alerts; i++)
            if (alerts[i].alert == alert)
                return alerts[i].text;
        if (alert > 0)
            return "the server's alert: one we do not know";
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].code == code)
            return texts[i].text;
    return "TLS";
}

const char *mr_tls_error_detail(int code)
{
    return wolfSSL_ERR_reason_error_string((unsigned long)code);
}
