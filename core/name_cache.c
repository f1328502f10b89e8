/*
 * The runtime's cache of names. Any thread; nothing is allocated, freed or called back under the
 * lock. Owns its entries and one reference of each list of addresses; never asks anybody anything.
 */
#include "core/name_cache.h"

#include <string.h>

struct entry {
    struct mr_map_node node;
    struct mr_list used;
    struct mr_name_answer answer;
    int64_t expires_ns;
    uint64_t generation;
    uint32_t len;
    char name[];
};

static size_t entry_bytes(size_t len)
{
    return sizeof(struct entry) + len;
}

moor_err mr_name_cache_init(struct mr_name_cache *c, struct mr_heap *heap, uint32_t names_max,
                            uint64_t seed)
{
    uint32_t buckets = 16;
    while (buckets < names_max && buckets < 1u << 20)
        buckets *= 2;
    *c = (struct mr_name_cache){
        .heap = heap, .seed = seed, .names_max = names_max, .bucket_count = buckets};
    c->buckets = mr_heap_alloc(heap, buckets * sizeof *c->buckets);
    if (!c->buckets)
        return MOOR_ENOMEM;
    mr_map_init(&c->map, c->buckets, buckets);
    mr_list_init(&c->used);
    mr_lock_init(&c->lock);
    return MOOR_OK;
}

static void free_entry(struct mr_name_cache *c, struct entry *e)
{
    mr_addrs_unref(e->answer.addrs);
    mr_heap_free(c->heap, e, entry_bytes(e->len));
}

void mr_name_cache_fini(struct mr_name_cache *c)
{
    for (struct mr_list *l; (l = mr_list_pop_front(&c->used));)
        free_entry(c, MR_CONTAINER_OF(l, struct entry, used));
    mr_lock_fini(&c->lock);
    mr_heap_free(c->heap, c->buckets, c->bucket_count * sizeof *c->buckets);
}

static struct entry *find(struct mr_name_cache *c, const char *name, size_t len, uint64_t hash)
{
    for (struct mr_map_node *n = mr_map_first(&c->map, hash); n; n = mr_map_next(n)) {
        struct entry *e = MR_CONTAINER_OF(n, struct entry, node);
        if (e->len == len && memcmp(e->name, name, len) == 0)
            return e;
    }
    return NULL;
}

static void take_out(struct mr_name_cache *c, struct entry *e)
{
    bool was_there = mr_map_remove(&c->map, &e->node);
    MR_ASSERT(was_there);
    mr_list_remove(&e->used);
}

bool mr_name_cache_get(struct mr_name_cache *c, const char *name, size_t len, int64_t now_ns,
                       struct mr_name_answer *out_)
{
    uint64_t hash = mr_hash_bytes(name, len, c->seed);
    struct entry *dead = NULL;
    mr_lock_lock(&c->lock);
    struct entry *e = find(c, name, len, hash);
    if (e && (e->generation != c->generation || e->expires_ns <= now_ns)) {
        take_out(c, e);
        dead = e;
        e = NULL;
    }
    if (e) {
        mr_list_remove(&e->used);
        mr_list_push_front(&c->used, &e->used);
        *out_ = e->answer;
        if (out_->addrs)
            mr_addrs_ref(out_->addrs);
    }
    mr_lock_unlock(&c->lock);
    if (dead)
        free_entry(c, dead);
    return e != NULL;
}

void mr_name_cache_put(struct mr_name_cache *c, const char *name, size_t len,
                       const struct mr_name_answer *a, int64_t expires_ns, uint64_t generation)
{
    if (c->names_max == 0)
        return;
    struct entry *e = mr_heap_alloc(c->heap, entry_bytes(len));
    if (!e)
        return;
    memset(e, 0, sizeof *e);
    e->answer = *a;
    if (e->answer.addrs)
        mr_addrs_ref(e->answer.addrs);
    e->expires_ns = expires_ns;
    e->generation = generation;
    e->len = (uint32_t)len;
    memcpy(e->name, name, len);

    uint64_t hash = mr_hash_bytes(name, len, c->seed);
    struct entry *old = NULL, *oldest = NULL;
    mr_lock_lock(&c->lock);
    bool is_stale = generation != c->generation;
    if (!is_stale) {
        old = find(c, name, len, hash);
        if (old)
            take_out(c, old);
        if (c->map.count >= c->names_max) {
            oldest = MR_CONTAINER_OF(mr_list_last(&c->used), struct entry, used);
            take_out(c, oldest);
        }
        mr_map_insert(&c->map, &e->node, hash);
        mr_list_push_front(&c->used, &e->used);
    }
    mr_lock_unlock(&c->lock);
    if (is_stale)
        free_entry(c, e);
    if (old)
        free_entry(c, old);
    if (oldest)
        free_entry(c, oldest);
}

void mr_name_cache_forget_all(struct mr_name_cache *c)
{
    mr_lock_lock(&c->lock);
    c->generation++;
    mr_lock_unlock(&c->lock);
}

uint64_t mr_name_cache_generation(struct mr_name_cache *c)
{
    mr_lock_lock(&c->lock);
    uint64_t generation = c->generation;
    mr_lock_unlock(&c->lock);
    return generation;
}
