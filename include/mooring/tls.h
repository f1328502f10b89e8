/*
 * TLS under connections: what a handshake came to, and changing what a pool trusts while it runs.
 * Everything else is options: tls_* in mooring/options.h.
 */
#ifndef MOORING_TLS_H
#define MOORING_TLS_H

#include <mooring/error.h>
#include <mooring/handle.h>
#include <mooring/options.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Borrowed: valid inside the callback. Texts are never NULL; "" = none or not known. */
typedef struct moor_tls_info {
    size_t size;
    int version;           /* 12 or 13                                                      */
    const char *cipher;    /* "TLS_AES_128_GCM_SHA256"                                      */
    const char *group;     /* key exchange: "X25519"                                        */
    const char *alpn;      /* "http/1.1"                                                    */
    bool resumed;          /* from a ticket: the server's certificate was verified earlier  */
    bool stapled;          /* it came with a good OCSP response                             */
    moor_ns handshake;     /* from the first byte sent to the last received                 */
    int64_t expires_s;     /* end of the server's certificate, seconds since 1970           */
    moor_span certificate; /* the server's, DER; empty when resumed                         */
    const char *subject;   /* "CN=api.example, O=Example"; "" when resumed                  */
    const char *issuer;
} moor_tls_info;

/*
 * Reads roots, certificate, key and pins anew. New connections use them; those there are serve what runs on
 * them and are then closed, so nothing is lost. Tickets are kept only where the material is the same as before.
 * from: its tls_ca, tls_cert, tls_key, tls_pins, tls_pin_chain and PEM in memory replace those of before, all
 * of them; the other tls_* stay. Borrowed. NULL = the same files again.
 * On an error nothing has changed, and the log says what and where.
 * Errors: EINVAL (a file or text that cannot be used; not a TLS pool), EBUSY (another reload of it is under
 * way), ENOMEM, ECLOSED.
 * Reads files: not for a shard's callbacks.
 */
MOOR_API MOOR_NODISCARD moor_err moor_pool_tls_reload(moor_pool *p,
                                                      const moor_pool_options *from) MOOR_BLOCKING;

#ifdef __cplusplus
}
#endif
#endif
