/*
 * A seeded 64-bit hash of bytes, and an intrusive chained map over buckets the caller provides.
 * Pure, inline; whoever owns the map owns the thread.
 */
#ifndef MR_BASE_HASH_H
#define MR_BASE_HASH_H

#include "base/assert.h"

#include <string.h>

static inline uint64_t mr_hash_mix(uint64_t a, uint64_t b)
{
    const unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/*
 * Multiply-and-fold over 8 byte words. Keys come from applications (origins, names): the seed keeps
 * table order unpredictable from outside, it does not make this a cryptographic hash.
 */
static inline uint64_t mr_hash_bytes(const void *base, size_t len, uint64_t seed)
{
    static const uint64_t k0 = UINT64_C(0xa0761d6478bd642f);
    static const uint64_t k1 = UINT64_C(0xe7037ed1a0b428db);
    const unsigned char *p = base;
    uint64_t h = seed ^ k0;
    size_t left = len;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = mr_hash_mix(h ^ word, k1);
    }
    uint64_t tail = 0;
    if (left)
        memcpy(&tail, p, left);
    /* The length tells "a" from "a\0". */
    h = mr_hash_mix(h ^ tail, k1 ^ len);
    return mr_hash_mix(h, k0);
}

/* One integer, for keys that are numbers or addresses. */
static inline uint64_t mr_hash_u64(uint64_t value, uint64_t seed)
{
    return mr_hash_mix(mr_hash_mix(value ^ seed, UINT64_C(0xa0761d6478bd642f)) ^ seed,
                       UINT64_C(0xe7037ed1a0b428db));
}

struct mr_map_node {
    struct mr_map_node *next;
    uint64_t hash;
};

struct mr_map {
    struct mr_map_node **buckets; /* the caller's, zeroed */
    uint32_t mask;                /* bucket count - 1 */
    uint32_t count;
};

/* `bucket_count` must be a power of two; the buckets stay the caller's. */
static inline void mr_map_init(struct mr_map *m, struct mr_map_node **buckets,
                               uint32_t bucket_count)
{
    MR_ASSERT(bucket_count > 0 && (bucket_count & (bucket_count - 1)) == 0);
    memset(buckets, 0, bucket_count * sizeof *buckets);
    *m = (struct mr_map){.buckets = buckets, .mask = bucket_count - 1};
}

static inline void mr_map_insert(struct mr_map *m, struct mr_map_node *n, uint64_t hash)
{
    struct mr_map_node **bucket = &m->buckets[hash & m->mask];
    n->hash = hash;
    n->next = *bucket;
    *bucket = n;
    m->count++;
}

static inline struct mr_map_node *mr_map_match(struct mr_map_node *n, uint64_t hash)
{
    while (n && n->hash != hash)
        n = n->next;
    return n;
}

/* Nodes of exactly this hash, newest first; the caller compares the key. NULL = no more. */
static inline struct mr_map_node *mr_map_first(const struct mr_map *m, uint64_t hash)
{
    return mr_map_match(m->buckets[hash & m->mask], hash);
}

static inline struct mr_map_node *mr_map_next(const struct mr_map_node *n)
{
    return mr_map_match(n->next, n->hash);
}

/* False if the node is not in the map. */
static inline bool mr_map_remove(struct mr_map *m, struct mr_map_node *n)
{
    struct mr_map_node **at = &m->buckets[n->hash & m->mask];
    while (*at && *at != n)
        at = &(*at)->next;
    if (!*at)
        return false;
    *at = n->next;
    n->next = NULL;
    m->count--;
    return true;
}

#endif
