/*
 * What a TLS configuration is made of, read and in memory: trusted roots, our certificate and key, pins.
 * Blocking: reads files. Secrets are wiped when it ends.
 */
#ifndef MR_TLS_MATERIAL_H
#define MR_TLS_MATERIAL_H

#include "alloc/heap.h"
#include "tls/library.h"

#include <mooring/options.h>

/* Limits: files come from the operator, but may be the wrong ones. */
#define MR_TLS_FILE_MAX                                                                            \
    ((size_t)16 << 20) /* bytes of one file, and of a directory's files together */
#define MR_TLS_PINS_MAX 32

struct mr_tls_text {
    char *base; /* NULL = none; a NUL follows */
    size_t len;
};

struct mr_tls_material {
    struct mr_heap *heap;
    struct mr_tls_text roots, cert, key;           /* PEM */
    const char *roots_from, *cert_from, *key_from; /* for messages; borrowed or static */
    uint8_t pins[MR_TLS_PINS_MAX][MR_TLS_HASH_SIZE];
    uint32_t pin_count;
    bool pins_chain, is_insecure;
    int version_min; /* 12 or 13 */
};

#define MR_TLS_FAULT_MAX 256

/* On EINVAL, ENOSYS (the system's roots are wanted and there are none) and ENOMEM nothing is kept; `fault` says
 * what and where, or is empty. */
MOOR_NODISCARD moor_err mr_tls_material_read(struct mr_heap *heap, const moor_pool_options *o,
                                             struct mr_tls_material *out,
                                             char fault[MR_TLS_FAULT_MAX]);
void mr_tls_material_drop(struct mr_tls_material *m);
/* Tells configurations apart: two with the same are the same. */
void mr_tls_material_fingerprint(const struct mr_tls_material *m, uint8_t out[MR_TLS_HASH_SIZE]);

#endif
