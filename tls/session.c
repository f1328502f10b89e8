/*
 * One wolfSSL session, fed from spans and drained into pieces.
 * Owner thread: the conn's shard. Must not touch the conn: whoever calls decides what a failure means.
 */
#include "tls/session.h"

#include "base/span.h"
#include "core/shard.h"
#include "tls/hello.h"
#include "tls/chain.h"
#include "tls/verify.h"
#include "tls/wolf.h"

#include <arpa/inet.h>
#include <string.h>

/* Bytes of one piece, and the piece in front of them. */
struct piece {
    struct mr_out out;
    struct mr_tls_conn *conn;
    uint8_t bytes[];
};

static struct mr_heap *heap_of(const struct mr_tls_conn *t)
{
    return &t->runtime->heap;
}

bool mr_tls_is_address(const char *host)
{
    unsigned char any[16];
    return inet_pton(AF_INET, host, any) == 1 || inet_pton(AF_INET6, host, any) == 1;
}

/* ---- bytes in and out, called by the library ---- */

/* RFC 8446 5.1: change_cipher_spec, alert, handshake, application_data. */
static bool is_record_type(uint8_t byte)
{
    return byte >= 20 && byte <= 23;
}

/* Where in which record the reading is. False: this is none, nor was meant to be one. */
static bool follow(struct mr_tls_conn *t, const uint8_t *at, size_t n)
{
    for (const uint8_t *end = at + n; at < end;) {
        if (t->body_left > 0) {
            const size_t part =
                (size_t)(end - at) < t->body_left ? (size_t)(end - at) : t->body_left;
            t->body_left -= (uint32_t)part;
            at += part;
            continue;
        }
        if (t->header_len == 0 && t->hello && !is_record_type(*at))
            return false;
        t->header = t->header << 8 | *at++;
        if (++t->header_len < 5)
            continue;
        t->header_len = 0;
        t->record = t->body_left = t->header & 0xffff;
    }
    return true;
}

static int on_read(WOLFSSL *w, char *into, int cap, void *ctx)
{
    (void)w;
    struct mr_tls_conn *t = ctx;
    if (!t->in_len)
        return WOLFSSL_CBIO_ERR_WANT_READ;
    const size_t n = t->in_len < (size_t)cap ? t->in_len : (size_t)cap;
    if (!follow(t, t->in, n)) {
        t->hello->refused = "TLS handshake: the server does not speak TLS on this port";
        return WOLFSSL_CBIO_ERR_GENERAL;
    }
    memcpy(into, t->in, n);
    t->in += n;
    t->in_len -= n;
    return (int)n;
}

static void piece_sent(struct mr_out *o, int err)
{
    (void)err;
    struct piece *p = MR_CONTAINER_OF(o, struct piece, out);
    p->conn->unsent -= sizeof *p + o->len;
    mr_heap_free(heap_of(p->conn), p, sizeof *p + o->len);
}

static int on_write(WOLFSSL *w, char *bytes, int len, void *ctx)
{
    (void)w;
    struct mr_tls_conn *t = ctx;
    t->is_flooded |= t->is_reading && t->unsent > 2 * MR_TLS_UNSENT_MAX;
    if (t->is_flooded)
        return WOLFSSL_CBIO_ERR_GENERAL;
    struct piece *p = mr_heap_alloc(heap_of(t), sizeof *p + (size_t)len);
    if (!p) {
        t->is_short = true;
        return WOLFSSL_CBIO_ERR_GENERAL;
    }
    p->conn = t;
    p->out = (struct mr_out){.base = p->bytes, .len = (size_t)len, .sent = piece_sent};
    memcpy(p->bytes, bytes, (size_t)len);
    t->unsent += sizeof *p + (size_t)len;
    *t->made_last = &p->out;
    t->made_last = &p->out.next;
    return len;
}

/* ---- certificates ---- */

static int refuse(struct mr_tls_hello *h, const char *why)
{
    if (!h->refused)
        h->refused = why;
    return 0;
}

/* Events tell whose certificate it was. Short of memory they do not. */
static void keep_leaf(struct mr_tls_conn *t, const struct mr_cert *leaf)
{
    if (!t->upstream->pool->options.on_event || t->hello->leaf.base)
        return;
    t->hello->leaf.base = mr_heap_alloc(heap_of(t), leaf->der.len);
    if (!t->hello->leaf.base)
        return;
    t->hello->leaf.len = leaf->der.len;
    memcpy(t->hello->leaf.base, leaf->der.base, leaf->der.len);
}

/* Constraints were judged for the host that was meant: whose authority has some serves no other. */
static bool is_constrained(const moor_span *chain, size_t count)
{
    struct mr_cert c;
    for (size_t i = 1; i < count; i++)
        if (mr_cert_parse(chain[i], &c, NULL) || c.name_constraints.base)
            return true;
    return false;
}

static void keep_names(struct mr_tls_conn *t, const moor_span *chain, size_t count)
{
    if (!t->upstream->pool->options.h2_coalesce || t->named.base || is_constrained(chain, count))
        return;
    t->named.base = mr_heap_alloc(heap_of(t), chain[0].len);
    if (!t->named.base)
        return;
    t->named.len = chain[0].len;
    memcpy(t->named.base, chain[0].base, chain[0].len);
}

/* Nothing is verified; people who look at the connection still want to see whose it says it is. */
static int on_verify_nothing(int is_good, WOLFSSL_X509_STORE_CTX *store)
{
    (void)is_good;
    struct mr_tls_conn *t = store->userCtx;
    struct mr_cert leaf;
    if (store->error_depth == 0 && store->totalCerts > 0 &&
        !mr_cert_parse((moor_span){store->certs[0].buffer, store->certs[0].length}, &leaf, NULL)) {
        t->cert_expires_s = leaf.not_after_s;
        keep_leaf(t, &leaf);
    }
    return 1;
}

static int on_verify(int is_good, WOLFSSL_X509_STORE_CTX *store)
{
    struct mr_tls_conn *t = store->userCtx;
    struct mr_tls_hello *h = t->hello;
    const int code = is_good ? 0 : mr_tls_verify_code(store->error);
    if (store->error_depth > 0 && (code == ASN_AFTER_DATE_E || code == ASN_BEFORE_DATE_E)) {
        h->date_code = code;
        return 1; /* not remembered as an authority; if the leaf needs it, its own check fails */
    }
    if (!is_good) {
        if (!h->verify_code)
            h->verify_code = code;
        return 0;
    }
    if (store->error_depth != 0) {
        const WOLFSSL_BUFFER_INFO *one = &store->certs[store->error_depth];
        const char *bad = mr_tls_verify_authority((moor_span){one->buffer, one->length});
        return bad ? refuse(h, bad) : 1;
    }
    moor_span chain[MR_TLS_CHAIN_MAX];
    const size_t count = store->totalCerts < 0 ? 0 : (size_t)store->totalCerts;
    if (count > sizeof chain / sizeof *chain)
        return refuse(h, "verify the certificate: the chain is too long");
    for (size_t i = 0; i < count; i++)
        chain[i] = (moor_span){store->certs[i].buffer, store->certs[i].length};
    const char *host = mr_tls_host(t->upstream);
    struct mr_cert leaf;
    const char *why = mr_tls_verify(
        &(struct mr_tls_check){
            .context = t->context,
            .host = mr_span_cstr(host),
            .is_ip = mr_tls_is_address(host),
            .now_s = mr_clock_wall(t->runtime->clock),
        },
        chain, count, &leaf);
    if (why)
        return refuse(h, why);
    t->cert_expires_s = leaf.not_after_s;
    h->must_staple = leaf.has_must_staple;
    keep_leaf(t, &leaf);
    keep_names(t, chain, count);
    return 1;
}

/* ---- tickets ---- */

#if defined(MR_WOLFSSL_EARLY_DATA)
/* What a ticket that says nothing of early data is taken to say after note_outcome. */
#define NO_LIMIT UINT32_MAX

/* The library has no call that tells, so the answer is read from what it serialises: field by field, and
 * believed only if they fill it exactly. */
static uint32_t early_max_of(const uint8_t *at, size_t len)
{
    const uint8_t *const end = at + len;
#define SKIP(n)                                                                                    \
    do {                                                                                           \
        if ((size_t)(end - at) < (size_t)(n))                                                      \
            return 0;                                                                              \
        at += (n);                                                                                 \
    } while (0)
    SKIP(1 + 4 + 4 + 1);       /* side, born, timeout, length of the id */
    SKIP(at[-1] + 48 + 1 + 1); /* id, master secret, extended?, length of the other id */
    SKIP(at[-1] + 2);          /* version */
    if (at[-2] != 3 || at[-1] != 4)
        return 0;
    SKIP(2 + 2);                                      /* suite, length of the server's id */
    SKIP((at[-2] << 8 | at[-1]) + 1 + 2 + 8 + 4 + 1); /* it, verdict, group, seen, added, nonce's */
    SKIP(at[-1] + 4 + 2);                             /* nonce, what we look for, ticket's length */
    const size_t ticket = (size_t)at[-2] << 8 | at[-1];
    const uint32_t max =
        (uint32_t)at[-6] << 24 | (uint32_t)at[-5] << 16 | (uint32_t)at[-4] << 8 | at[-3];
    SKIP(ticket);
#undef SKIP
    return at == end && max != NO_LIMIT ? max : 0;
}
#endif

/* The certificate was verified: by this handshake, or by the one that the ticket was from. */
static bool may_keep_tickets(const struct mr_tls_conn *t)
{
    return t->is_connected && !t->is_broken && (t->context->is_insecure || t->cert_expires_s) &&
           t->upstream->pool->options.tls_tickets_max;
}

static void keep_ticket(struct mr_tls_conn *t, WOLFSSL_SESSION *session)
{
    unsigned char bytes[MR_TICKET_BYTES_MAX];
    unsigned char *at = bytes;
    int len = wolfSSL_i2d_SSL_SESSION(session, NULL);
    if (len <= 0 || (size_t)len > sizeof bytes)
        return;
    len = wolfSSL_i2d_SSL_SESSION(session, &at);
    const int64_t now = mr_clock_wall(t->runtime->clock);
    int64_t life = wolfSSL_SESSION_get_timeout(session);
    if (life > MR_TICKET_LIFE_MAX_S)
        life = MR_TICKET_LIFE_MAX_S;
    struct mr_ticket like = {.expires_s = now + life,
                             .cert_expires_s = t->cert_expires_s,
                             .is_reusable = wolfSSL_version(t->wolf) == TLS1_2_VERSION};
    if (t->cert_expires_s && t->cert_expires_s < like.expires_s)
        like.expires_s = t->cert_expires_s;
    if (len > 0 && like.expires_s > now) {
        uint8_t key[MR_TLS_HASH_SIZE];
#if defined(MR_WOLFSSL_EARLY_DATA)
        like.early_max = early_max_of(bytes, (size_t)len);
#endif
        mr_tls_ticket_key(t->upstream, t->context, key);
        mr_tickets_put(t->context->state->tickets, key, t->upstream->pool->options.tls_tickets_max,
                       &like, (moor_span){bytes, (size_t)len});
    }
    explicit_bzero(bytes, sizeof bytes);
}

/* Called for tickets of 1.3, and for much that is none: in the middle of a handshake of 1.2, which has proven
 * nothing yet, and at the end of any. Only what is read over a conn that was verified is believed. */
static int on_session(WOLFSSL *w, WOLFSSL_SESSION *session)
{
    struct mr_tls_conn *t = wolfSSL_GetIOReadCtx(w);
    if (t->is_reading && may_keep_tickets(t))
        keep_ticket(t, session);
    return 0;
}

/* A session of 1.2 is whole when its handshake is. One that was resumed is the one we have. */
static void keep_session_of_12(struct mr_tls_conn *t)
{
    if (!may_keep_tickets(t) || t->is_resumed || wolfSSL_version(t->wolf) != TLS1_2_VERSION)
        return;
    WOLFSSL_SESSION *session = wolfSSL_get1_session(t->wolf);
    if (!session)
        return;
    keep_ticket(t, session);
    wolfSSL_SESSION_free(session);
}

static void use_ticket(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    uint8_t key[MR_TLS_HASH_SIZE];
    mr_tls_ticket_key(t->upstream, t->context, key);
    h->ticket = mr_tickets_take(t->context->state->tickets, key, mr_clock_wall(t->runtime->clock));
    if (!h->ticket)
        return;
    const unsigned char *at = h->ticket->bytes;
    WOLFSSL_SESSION *session = wolfSSL_d2i_SSL_SESSION(NULL, &at, h->ticket->len);
    if (!session)
        return;
    (void)wolfSSL_set_session(t->wolf, session);
    wolfSSL_SESSION_free(session);
}

/* ---- begin and end ---- */

void mr_tls_session_hooks(WOLFSSL_CTX *w, bool is_insecure)
{
    wolfSSL_CTX_set_verify(w, WOLFSSL_VERIFY_PEER, is_insecure ? on_verify_nothing : on_verify);
    wolfSSL_CTX_SetIORecv(w, on_read);
    wolfSSL_CTX_SetIOSend(w, on_write);
    wolfSSL_CTX_set_session_cache_mode(w,
                                       WOLFSSL_SESS_CACHE_CLIENT | WOLFSSL_SESS_CACHE_NO_INTERNAL);
    wolfSSL_CTX_sess_set_new_cb(w, on_session);
#if defined(MR_WOLFSSL_STAPLING)
    (void)wolfSSL_CTX_EnableOCSPStapling(w);
#endif
}

static bool set_up(struct mr_tls_conn *t)
{
    WOLFSSL *w = t->wolf;
    const char *host = mr_tls_host(t->upstream);
    const char *alpn = mr_tls_pool_of(t->upstream)->alpn;
    size_t len = strlen(host);
    if (len && host[len - 1] == '.') /* RFC 6066 3: without the final dot */
        len--;
    wolfSSL_SetIOReadCtx(w, t);
    wolfSSL_SetIOWriteCtx(w, t);
    wolfSSL_SetCertCbCtx(w, t);
#if defined(MR_WOLFSSL_EARLY_DATA)
    /* Without this a ticket that says nothing of early data would be taken to allow it. */
    (void)wolfSSL_set_max_early_data(w, 0);
#endif
#if defined(MR_WOLFSSL_STAPLING)
    if (!t->context->is_insecure &&
        wolfSSL_UseOCSPStapling(w, WOLFSSL_CSR_OCSP, 0) != WOLFSSL_SUCCESS)
        return false;
#endif
    return (mr_tls_is_address(host) ||
            wolfSSL_UseSNI(w, WOLFSSL_SNI_HOST_NAME, host, (word16)len) == WOLFSSL_SUCCESS) &&
           (!alpn[0] || wolfSSL_UseALPN(w, (char *)(uintptr_t)alpn, (unsigned)strlen(alpn),
                                        WOLFSSL_ALPN_CONTINUE_ON_MISMATCH) == WOLFSSL_SUCCESS) &&
           wolfSSL_UseKeyShare(w, WOLFSSL_ECC_X25519) == WOLFSSL_SUCCESS;
}

moor_err mr_tls_session_begin(struct mr_tls_conn *t, bool announces_early)
{
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    t->wolf = wolfSSL_new(t->context->wolf);
    const bool is_made = t->wolf && set_up(t);
    if (is_made && t->upstream->pool->options.tls_tickets_max)
        use_ticket(t);
#if defined(MR_WOLFSSL_EARLY_DATA)
    if (is_made && announces_early && t->hello->ticket && t->hello->ticket->early_max) {
        int none;
        t->hello->may_send_early = wolfSSL_write_early_data(t->wolf, "", 0, &none) == 0;
    }
#else
    (void)announces_early;
#endif
    const bool is_short = mr_tls_is_short();
    mr_tls_leave(before);
    return is_made && !is_short ? MOOR_OK : MOOR_ENOMEM;
}

void mr_tls_session_end(struct mr_tls_conn *t)
{
    if (!t->wolf)
        return;
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    wolfSSL_free(t->wolf);
    t->wolf = NULL;
    mr_tls_leave(before);
}

/* ---- the handshake ---- */

static void fail(struct mr_tls_conn *t, int code)
{
    struct mr_tls_hello *h = t->hello;
    WOLFSSL_ALERT_HISTORY alerts = {.last_rx = {.code = -1}};
    (void)wolfSSL_get_alert_history(t->wolf, &alerts);
    if (h && h->verify_code)
        code = h->verify_code == ASN_NO_SIGNER_E && h->date_code ? h->date_code : h->verify_code;
    t->code = code;
    t->filter.fault = (moor_fault){
        .err = t->is_short || mr_tls_is_short() ? MOOR_ENOMEM : MOOR_ETLS,
        .tls_code = code,
        .what = t->is_flooded     ? "TLS: the peer asks for answers and does not read them"
                : h && h->refused ? h->refused
                                  : mr_tls_error_text(code, alerts.last_rx.code),
    };
}

static void note_outcome(struct mr_tls_conn *t)
{
    t->is_resumed = wolfSSL_session_reused(t->wolf);
#if defined(MR_WOLFSSL_EARLY_DATA)
    /* 5.5.4 counts the server's answer against the limit of our early data. */
    if (t->hello->may_send_early)
        (void)wolfSSL_set_max_early_data(t->wolf, NO_LIMIT);
#endif
    if (t->is_resumed && t->hello->ticket)
        t->cert_expires_s = t->hello->ticket->cert_expires_s;
#if defined(MR_WOLFSSL_STAPLING)
    unsigned char when[32];
    int format;
    t->is_stapled = wolfSSL_get_ocsp_producedDate(t->wolf, when, sizeof when, &format) == 0;
#endif
    wolfSSL_FreeArrays(t->wolf);
}

enum mr_step mr_tls_session_handshake(struct mr_tls_conn *t)
{
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    enum mr_step step = MR_STEP_DONE;
    const int got = wolfSSL_connect(t->wolf);
    if (got == WOLFSSL_SUCCESS) {
        note_outcome(t);
        if (t->hello->must_staple && !t->is_stapled && !t->is_resumed) {
            t->hello->refused = "verify the certificate: it demands a stapled OCSP response "
                                "(must-staple), and none came";
            fail(t, OCSP_CERT_UNKNOWN);
            step = MR_STEP_FAILED;
        } else {
            t->is_connected = true;
            keep_session_of_12(t);
        }
    } else {
        const int code = wolfSSL_get_error(t->wolf, got);
        step = code == WOLFSSL_ERROR_WANT_READ ? MR_STEP_AGAIN : MR_STEP_FAILED;
        if (step == MR_STEP_FAILED)
            fail(t, code);
    }
    mr_tls_library_rest();
    mr_tls_leave(before);
    return step;
}

const char *mr_tls_session_alpn(struct mr_tls_conn *t)
{
    static const char *const known[] = {"h2", "http/1.1"};
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    char *alpn = NULL;
    unsigned short len = 0;
    const bool is_told = wolfSSL_ALPN_GetProtocol(t->wolf, &alpn, &len) == WOLFSSL_SUCCESS;
    mr_tls_leave(before);
    for (size_t i = 0; is_told && i < sizeof known / sizeof *known; i++)
        if (mr_span_is_equal((moor_span){alpn, len}, mr_span_cstr(known[i])))
            return known[i];
    return NULL;
}

void mr_tls_session_info(struct mr_tls_conn *t, moor_tls_info *out)
{
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    char *alpn = NULL;
    unsigned short alpn_len = 0;
    (void)wolfSSL_ALPN_GetProtocol(t->wolf, &alpn, &alpn_len);
    const int suite = wolfSSL_get_current_cipher_suite(t->wolf);
    const char *cipher =
        wolfSSL_get_cipher_name_iana_from_suite((unsigned char)(suite >> 8), (unsigned char)suite);
    const char *group = wolfSSL_get_curve_name(t->wolf);
    *out = (moor_tls_info){
        .size = sizeof *out,
        .version = wolfSSL_version(t->wolf) == TLS1_2_VERSION ? 12 : 13,
        .cipher = cipher ? cipher : "",
        .group = group ? group : "",
        .alpn = alpn ? alpn : "", /* the session's, with its NUL */
        .resumed = t->is_resumed,
        .stapled = t->is_stapled,
        .expires_s = t->cert_expires_s,
        .subject = "",
        .issuer = "",
    };
    mr_tls_leave(before);
}

/* ---- records ---- */

enum mr_tls_read mr_tls_session_read(struct mr_tls_conn *t, uint8_t *into, size_t cap,
                                     size_t *out_len)
{
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    enum mr_tls_read outcome = MR_TLS_BYTES;
    t->is_reading = true;
    const int got = wolfSSL_read(t->wolf, into, (int)cap);
    t->is_reading = false;
    if (got > 0) {
        *out_len = (size_t)got;
    } else {
        const int code = wolfSSL_get_error(t->wolf, got);
        outcome = code == WOLFSSL_ERROR_WANT_READ     ? MR_TLS_MORE
                  : code == WOLFSSL_ERROR_ZERO_RETURN ? MR_TLS_END
                                                      : MR_TLS_BROKEN;
        if (outcome == MR_TLS_BROKEN)
            fail(t, code);
    }
    mr_tls_leave(before);
    return outcome;
}

size_t mr_tls_session_unread(struct mr_tls_conn *t)
{
    const int n = wolfSSL_pending(t->wolf);
    return n > 0 ? (size_t)n : 0;
}

bool mr_tls_session_write(struct mr_tls_conn *t, const void *bytes, size_t len)
{
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    const int got = wolfSSL_write(t->wolf, bytes, (int)len);
    if (got != (int)len)
        fail(t, wolfSSL_get_error(t->wolf, got));
    mr_tls_leave(before);
    return got == (int)len;
}

bool mr_tls_session_write_early(struct mr_tls_conn *t, const void *bytes, size_t len)
{
#if defined(MR_WOLFSSL_EARLY_DATA)
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    int sent = 0;
    const int got = wolfSSL_write_early_data(t->wolf, bytes, (int)len, &sent);
    if (sent != (int)len)
        fail(t, wolfSSL_get_error(t->wolf, got));
    mr_tls_leave(before);
    return sent == (int)len;
#else
    (void)t, (void)bytes, (void)len;
    return false;
#endif
}

bool mr_tls_session_is_early_taken(struct mr_tls_conn *t)
{
#if defined(MR_WOLFSSL_EARLY_DATA)
    return wolfSSL_get_early_data_status(t->wolf) == WOLFSSL_EARLY_DATA_ACCEPTED;
#else
    (void)t;
    return false;
#endif
}

void mr_tls_session_shut(struct mr_tls_conn *t)
{
    struct moor_runtime *before = mr_tls_enter(t->runtime);
    (void)wolfSSL_shutdown(t->wolf);
    mr_tls_leave(before);
}
