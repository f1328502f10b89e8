/*
 * Bump allocation in blocks that go back all at once, through a short list of blocks kept warm.
 * Owner thread: the shard of its heap.
 * Must not hand out two pieces of one block in sanitizer builds: there every piece is a block.
 */
#include "alloc/arena.h"

#include "alloc/sanitize.h"
#include "base/assert.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

enum { ALIGNMENT = 16 };

/* The usual block, header and all. Head, response head and a small body of most exchanges fit in
 * one. 0: there is no usual block, every piece gets its own (see above). */
#define BLOCK_SIZE (MR_ASAN ? (size_t)0 : (size_t)4096)

struct mr_arena_block {
    struct mr_arena_block *next;
    uint32_t at; /* bytes handed out of a usual block, header included */
    uint32_t is_usual;
    size_t size; /* as allocated */
    size_t unused_;
};
static_assert(sizeof(struct mr_arena_block) % ALIGNMENT == 0, "pieces follow the header");

static void *alloc_from_new_block(struct mr_arena *a, size_t size);

void mr_arena_cache_init(struct mr_arena_cache *c, struct mr_heap *heap, unsigned count_max)
{
    *c = (struct mr_arena_cache){.heap = heap, .count_max = count_max};
}

void mr_arena_cache_fini(struct mr_arena_cache *c)
{
    for (struct mr_arena_block *b = c->free, *next; b; b = next) {
        next = b->next;
        mr_heap_free(c->heap, b, b->size);
    }
    c->free = NULL;
    c->count = 0;
}

void mr_arena_init(struct mr_arena *a, struct mr_arena_cache *cache, size_t limit)
{
    *a = (struct mr_arena){.cache = cache, .limit = limit};
}

void *mr_arena_alloc(struct mr_arena *a, size_t size)
{
    struct mr_arena_block *b = a->blocks;
    if (MR_LIKELY(b && b->is_usual && size <= BLOCK_SIZE - b->at)) {
        void *p = (char *)b + b->at;
        /* Cannot pass the end: header and block are multiples of the alignment. */
        b->at += (uint32_t)((size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1));
        return p;
    }
    return alloc_from_new_block(a, size);
}

char *mr_arena_copy(struct mr_arena *a, const void *bytes, size_t len)
{
    if (len == SIZE_MAX)
        return NULL;
    char *p = mr_arena_alloc(a, len + 1);
    if (!p)
        return NULL;
    if (len)
        memcpy(p, bytes, len);
    p[len] = '\0';
    return p;
}

void mr_arena_fini(struct mr_arena *a)
{
    struct mr_arena_cache *c = a->cache;
    for (struct mr_arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        if (b->is_usual && c->count < c->count_max) {
            b->next = c->free;
            c->free = b;
            c->count++;
        } else {
            mr_heap_free(c->heap, b, b->size);
        }
    }
    a->blocks = NULL;
    a->used = 0;
}

static bool has_room(const struct mr_arena *a, size_t bytes)
{
    return a->used <= a->limit && bytes <= a->limit - a->used;
}

/* A block of the usual size: from the cache, or new. */
static struct mr_arena_block *take_usual(struct mr_arena *a)
{
    struct mr_arena_cache *c = a->cache;
    struct mr_arena_block *b = c->free;
    if (b) {
        c->free = b->next;
        c->count--;
    } else if (!(b = mr_heap_alloc(c->heap, BLOCK_SIZE))) {
        return NULL;
    }
    *b = (struct mr_arena_block){.at = sizeof *b, .is_usual = true, .size = BLOCK_SIZE};
    b->next = a->blocks;
    a->blocks = b;
    a->used += BLOCK_SIZE;
    return b;
}

/* A block for this piece alone. Filed second, so that the rest of the newest block is still used. */
static struct mr_arena_block *take_single(struct mr_arena *a, size_t size)
{
    size_t bytes = sizeof(struct mr_arena_block) + size;
    struct mr_arena_block *b = mr_heap_alloc(a->cache->heap, bytes);
    if (!b)
        return NULL;
    *b = (struct mr_arena_block){.at = sizeof *b, .is_usual = false, .size = bytes};
    struct mr_arena_block **at = a->blocks ? &a->blocks->next : &a->blocks;
    b->next = *at;
    *at = b;
    a->used += bytes;
    return b;
}

static void *alloc_from_new_block(struct mr_arena *a, size_t size)
{
    const size_t header = sizeof(struct mr_arena_block);
    if (size > SIZE_MAX - header || !has_room(a, header + size))
        return NULL;
    /* A large piece would waste the rest of the block before it; near the limit a whole block may
     * not fit although the piece does. */
    bool is_usual = header + size <= BLOCK_SIZE / 2 && has_room(a, BLOCK_SIZE);
    struct mr_arena_block *b = is_usual ? take_usual(a) : take_single(a, size);
    if (!b)
        return NULL;
    void *p = (char *)b + b->at;
    if (is_usual)
        b->at += (uint32_t)((size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1));
    return p;
}
