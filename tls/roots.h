/*
 * The trusted roots as we need to know them beside the TLS library: by name, and how long a chain they allow.
 */
#ifndef MR_TLS_ROOTS_H
#define MR_TLS_ROOTS_H

#include "alloc/heap.h"
#include "tls/cert.h"
#include "tls/library.h"

#define MR_TLS_ROOT_DER_MAX                                                                        \
    8192 /* of one root; a larger one is not known here, and so ends no chain */

struct mr_tls_root {
    uint8_t subject[MR_TLS_HASH_SIZE];
    /* Of those with this name the most generous. */
    int32_t path_len_max; /* -1 = no limit */
    int64_t not_after_s;
};

struct mr_tls_roots {
    struct mr_tls_root *all;
    uint32_t count, cap;
};

/* From PEM, between mr_tls_enter and leave. ENOMEM: nothing kept. */
MOOR_NODISCARD moor_err mr_tls_roots_read(struct mr_heap *h, const char *pem,
                                          struct mr_tls_roots *out);
void mr_tls_roots_drop(struct mr_heap *h, struct mr_tls_roots *r);
/* By subject, with its header. NULL: none. Any thread. */
const struct mr_tls_root *mr_tls_roots_find(const struct mr_tls_roots *r, moor_span name);

/* The next certificate of a PEM text that is one; *at moves on. False: no more. */
bool mr_tls_pem_next(const char **at, uint8_t der[MR_TLS_ROOT_DER_MAX], struct mr_cert *out);

#endif
