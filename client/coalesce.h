/*
 * HTTP/2 conns that serve further hosts (RFC 9113 9.1.1): where the server's certificate names the host, and the address is
 * one of the host's. Off unless h2_coalesce. Owner thread: the berths' shard.
 */
#ifndef MR_CLIENT_COALESCE_H
#define MR_CLIENT_COALESCE_H

#include "core/berth.h"

/* mr_pool_spec.meets. */
bool mr_coalesce_meets(struct mr_berth *b, struct mr_addrs *addrs);
/* Where a claim of b's is to wait: b, or the berth of the host whose conns serve it. */
struct mr_berth *mr_coalesce_where(struct mr_berth *b);
/* A conn of mr_coalesce_where's serves b, indeed: each is another certificate and address. */
bool mr_coalesce_covers(struct mr_conn *c, struct mr_berth *b);
/* It did not do: b has conns of its own from now on. */
void mr_coalesce_end(struct mr_berth *b);

#endif
