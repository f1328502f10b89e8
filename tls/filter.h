/*
 * TLS as a filter of a conn. Owner thread: the conn's shard; an idle conn may change it.
 */
#ifndef MR_TLS_FILTER_H
#define MR_TLS_FILTER_H

#include "tls/session.h"

/* Puts TLS on a conn that has just connected. */
MOOR_NODISCARD moor_err mr_tls_filter_add(struct mr_upstream *u, struct mr_conn *c);
/* Its certificate was verified, and is one of u's host, too. Only with h2_coalesce; O(names of the certificate). */
bool mr_tls_filter_names(const struct mr_conn *c, const struct mr_upstream *u);

#endif
