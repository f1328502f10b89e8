/*
 * Pins of authorities: is a pinned key truly one of those that vouch for the leaf? What a server sends beside
 * its chain proves nothing, so the path from the leaf is walked by its signatures. On a shard.
 */
#ifndef MR_TLS_CHAIN_H
#define MR_TLS_CHAIN_H

#include "tls/context.h"

#define MR_TLS_CHAIN_MAX 10 /* certificates from leaf to root: what the library accepts */

/* chain: as sent, leaf first, verified. The context's roots count as members where the path ends in one. */
bool mr_tls_chain_has_pin(const struct mr_tls_context *x, const moor_span *chain, size_t count);

#endif
