/*
 * The questions of one loop to the name servers: equal ones are asked once, A and AAAA side by
 * side, under the search domains. A query belongs to no waiter: it ends by itself and feeds the
 * cache. Owner thread of the loop only.
 */
#ifndef MR_CORE_NAME_QUERY_H
#define MR_CORE_NAME_QUERY_H

#include "core/loop.h"
#include "core/name_cache.h"
#include "core/name_files.h"
#include "core/resolver.h"

#define MR_NAME_QUERY_BUCKETS 64
/* A program that asks for ever new names would pile up queries behind a dead server; refuse then.
 */
#define MR_NAME_QUERIES_MAX 4096

struct mr_name_queries {
    struct mr_loop *loop;
    struct mr_name_cache *cache;
    struct mr_name_files *files;
    struct mr_heap *shared; /* of the address lists */
    int64_t ttl_max_ns;
    int64_t negative_ttl_ns;
    /* Answers a waiter later, never inside the call; takes the reference of addrs. */
    void (*finish)(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs, const char *what);

    struct mr_list channels;   /* the one in use first, then replaced ones with replies still due */
    struct mr_deferred reaper; /* lets replaced channels go, outside of c-ares */
    struct mr_map running;     /* by name */
    bool is_ending;
    struct mr_map_node *buckets[MR_NAME_QUERY_BUCKETS];
};

/* The fields up to finish are the caller's to set. */
void mr_name_queries_init(struct mr_name_queries *qs);
/* No waiter may be left (asserted). Drops what runs; leaves nothing in the loop. */
void mr_name_queries_fini(struct mr_name_queries *qs);
/* Makes req (its link and timer are set up) a waiter for `name`, which is well formed. */
void mr_name_queries_join(struct mr_name_queries *qs, struct mr_lookup *req, const char *name,
                          size_t len);

#endif
