/*
 * What we ask of a server's certificates beyond what the TLS library has proven: that the leaf names the host,
 * pins, and no weakness it would let pass. Pure but for the signatures that pins of authorities need.
 */
#ifndef MR_TLS_VERIFY_H
#define MR_TLS_VERIFY_H

#include "tls/cert.h"
#include "tls/context.h"

struct mr_tls_check {
    const struct mr_tls_context *context;
    moor_span host; /* as mr_tls_name_matches takes it */
    bool is_ip;
    int64_t now_s;
};

/* One sent beside the leaf that the library has verified, before it remembers it. NULL: all is well. */
const char *mr_tls_verify_authority(moor_span der);

/* chain: as the server sent it, its own first; verified by the library against the context's roots. NULL: all is
 * well, *out_leaf is its own. Else why not, static text. */
const char *mr_tls_verify(const struct mr_tls_check *q, const moor_span *chain, size_t count,
                          struct mr_cert *out_leaf);

#endif
