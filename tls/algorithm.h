/*
 * Algorithms in certificates: how strong a signature's is, and what kind of key a
 * SubjectPublicKeyInfo holds. Pure; any thread.
 */
#ifndef MR_TLS_ALGORITHM_H
#define MR_TLS_ALGORITHM_H

#include "tls/cert.h"

enum mr_strength { MR_STRENGTH_GOOD, MR_STRENGTH_WEAK, MR_STRENGTH_UNKNOWN };

/* Contents of a signature's AlgorithmIdentifier. False: malformed. */
MOOR_NODISCARD bool mr_algorithm_signature(moor_span identifier, enum mr_strength *out);

/* Contents of a SubjectPublicKeyInfo; see struct mr_cert. False: malformed. A key of a kind not
 * listed there, or on a curve without a name, is not looked into. */
MOOR_NODISCARD bool mr_algorithm_key(moor_span spki, enum mr_cert_key *out_key, uint32_t *out_bits);

#endif
