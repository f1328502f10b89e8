/*
 * One TLS connection of ours as bytes in and bytes out: handshake, records, tickets. No I/O: what it reads it
 * is given, what it writes it leaves in a list. Owner thread: the conn's shard.
 */
#ifndef MR_TLS_SESSION_H
#define MR_TLS_SESSION_H

#include "core/conn.h"
#include "tls/pool.h"

struct WOLFSSL;
struct WOLFSSL_CTX;
struct mr_tls_hello;

#define MR_TLS_PLAIN_MAX 16384 /* of one record, RFC 8446 5.1 */
/* Encrypted and not yet sent: beyond this what is pushed waits as it is. A peer that asks for answers (KeyUpdate)
 * and does not read them is broken off at twice that. */
#define MR_TLS_UNSENT_MAX ((size_t)4 * MR_TLS_PLAIN_MAX)

struct mr_tls_conn {
    struct mr_filter filter;
    struct moor_runtime *runtime;
    struct mr_upstream *upstream;
    struct mr_tls_context *context; /* one reference */
    struct WOLFSSL *wolf;           /* NULL until its turn */
    struct mr_tls_hello *hello;     /* NULL once the handshake is over */
    const uint8_t *in;              /* what may be read, during a call */
    size_t in_len;
    struct mr_out *made, **made_last; /* written and not yet emitted, during a call */
    size_t unsent;                    /* written and not yet sent, with what its pieces cost */
    uint32_t record;                  /* body of the record being read */
    uint32_t body_left;               /* of it */
    uint32_t header;                  /* the last bytes of a header that is not whole */
    uint8_t header_len;               /* bytes of it; 0..4 */
    int32_t code;                     /* the library's, of the last failure */
    int64_t cert_expires_s;           /* of the server's certificate */
    struct mr_tls_text named;         /* it, DER, for the other hosts it names: h2_coalesce */
    bool is_connected, is_resumed, is_stapled;
    bool is_short;   /* of memory: the failure is that */
    bool is_flooded; /* by a peer that does not read what it asks for */
    bool is_reading; /* inside the library's read: where tickets come */
    bool is_broken;  /* nothing more is said or believed */
};

/* An IPv4 or IPv6 address, not a name. */
bool mr_tls_is_address(const char *host);

/* For every context: whom its connections call. */
void mr_tls_session_hooks(struct WOLFSSL_CTX *wolf, bool is_insecure);

/* Makes the session, from a ticket if there is one. `announces_early`: where the ticket allows it. ENOMEM. */
MOOR_NODISCARD moor_err mr_tls_session_begin(struct mr_tls_conn *t, bool announces_early);
/* As far as it goes with what there is to read. FAILED: filter.fault says why. */
enum mr_step mr_tls_session_handshake(struct mr_tls_conn *t);
/* Plain bytes of the next record; 0: more is needed. */
enum mr_tls_read { MR_TLS_MORE, MR_TLS_BYTES, MR_TLS_END, MR_TLS_BROKEN };
enum mr_tls_read mr_tls_session_read(struct mr_tls_conn *t, uint8_t *into, size_t cap,
                                     size_t *out_len);
/* Of the record whose beginning was read. */
size_t mr_tls_session_unread(struct mr_tls_conn *t);
/* One record. False: broken, as read says. */
bool mr_tls_session_write(struct mr_tls_conn *t, const void *bytes, size_t len);
/* False: broken. */
bool mr_tls_session_write_early(struct mr_tls_conn *t, const void *bytes, size_t len);
/* After the handshake: the server has the early data. Else it is to be sent again. */
bool mr_tls_session_is_early_taken(struct mr_tls_conn *t);
void mr_tls_session_shut(struct mr_tls_conn *t);
void mr_tls_session_end(struct mr_tls_conn *t);

/* What came of the handshake; certificate, subject and issuer are not filled in. */
/* Of what is offered, what the peer picked; static, NULL = nothing. After the handshake. */
const char *mr_tls_session_alpn(struct mr_tls_conn *t);
void mr_tls_session_info(struct mr_tls_conn *t, moor_tls_info *out);

#endif
