/*
 * Answers of the name servers, good and bad, bounded in number; the one unused for longest goes
 * first. Any thread: one lock, held for a hash lookup and list surgery only.
 */
#ifndef MR_CORE_NAME_CACHE_H
#define MR_CORE_NAME_CACHE_H

#include "base/hash.h"
#include "base/list.h"
#include "base/lock.h"
#include "core/addrs.h"

struct mr_name_cache {
    struct mr_heap *heap; /* shared */
    uint64_t seed;
    uint32_t names_max;
    uint32_t bucket_count;
    struct mr_map_node **buckets;
    struct mr_lock lock; /* everything below */
    struct mr_map map;
    struct mr_list used; /* newest use first */
    uint64_t generation; /* entries of an older one are dead: "forget everything" costs nothing */
};

/* An answer: addresses, or none and why. */
struct mr_name_answer {
    struct mr_addrs *addrs; /* a reference; NULL = a failure */
    const char *what;       /* static; why there is none */
};

MOOR_NODISCARD moor_err mr_name_cache_init(struct mr_name_cache *c, struct mr_heap *heap,
                                           uint32_t names_max, uint64_t seed);
void mr_name_cache_fini(struct mr_name_cache *c);

/* False: not known, or not any more. */
bool mr_name_cache_get(struct mr_name_cache *c, const char *name, size_t len, int64_t now_ns,
                       struct mr_name_answer *out_);
/* Takes references of its own. An answer asked for under an older generation is not kept; neither
 * is one there is no memory for. */
void mr_name_cache_put(struct mr_name_cache *c, const char *name, size_t len,
                       const struct mr_name_answer *a, int64_t expires_ns, uint64_t generation);
void mr_name_cache_forget_all(struct mr_name_cache *c);
uint64_t mr_name_cache_generation(struct mr_name_cache *c);

#endif
