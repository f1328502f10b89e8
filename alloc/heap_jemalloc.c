/*
 * Heaps over jemalloc. A shard's heap is an arena and a cache of its own: no lock is contended, and
 * all its memory goes back at once. Shared heaps share one arena. Threads as in heap.h.
 * Must not use jemalloc's automatic caches: they would tie memory to threads.
 */
#include "alloc/heap_store.h"
#include "alloc/sanitize.h"
#include "base/assert.h"

#if !MR_HEAP_ON_HOST

#include <jemalloc/jemalloc.h>

#include <stdio.h>

/*
 * Read by jemalloc before its first allocation. Each arena costs about 84 KB of metadata, so there
 * is one that exists anyway, for shared heaps, and one per shard; none for sizes beyond a threshold.
 * No caches made behind our back for every thread that allocates. Our own caches are never trimmed
 * by time, so what they may keep is bounded here (to about 1 MB) and let go by mr_heap_trim.
 */
const char *mrj_malloc_conf =
    "narenas:1,oversize_threshold:0,tcache:false,tcache_nslots_small_min:8,"
    "tcache_nslots_small_max:64,tcache_nslots_large:2,"
    "dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:false";

/* jemalloc's own first arena. It takes locks, which shared heaps need; nothing else uses it. */
enum { SHARED_ARENA = 0 };

static void control(unsigned arena, const char *verb);
static int align_flag(size_t align);

moor_err mr_heap_store_open(struct mr_heap *h)
{
    if (h->is_shared) {
        h->arena = SHARED_ARENA;
        h->flags = MALLOCX_ARENA(SHARED_ARENA) | MALLOCX_TCACHE_NONE;
        return MOOR_OK;
    }
    size_t len = sizeof h->arena;
    if (mrj_mallctl("arenas.create", &h->arena, &len, NULL, 0) != 0)
        return MOOR_ENOMEM;
    len = sizeof h->cache;
    if (mrj_mallctl("tcache.create", &h->cache, &len, NULL, 0) != 0) {
        control(h->arena, "destroy");
        return MOOR_ENOMEM;
    }
    h->flags = MALLOCX_ARENA(h->arena) | MALLOCX_TCACHE(h->cache);
    return MOOR_OK;
}

void mr_heap_store_close(struct mr_heap *h)
{
    if (h->is_shared) {
        control(h->arena, "purge");
        return;
    }
    /* The cache first: it flushes into the arena. */
    int failed = mrj_mallctl("tcache.destroy", NULL, NULL, &h->cache, sizeof h->cache);
    MR_ASSERT(!failed);
    control(h->arena, "destroy");
}

void mr_heap_store_trim(struct mr_heap *h)
{
    if (!h->is_shared) {
        int failed = mrj_mallctl("tcache.flush", NULL, NULL, &h->cache, sizeof h->cache);
        MR_ASSERT(!failed);
    }
    control(h->arena, "purge");
}

void *mr_heap_store_alloc(const struct mr_heap *h, size_t size, size_t align, bool is_zeroed)
{
    return mrj_mallocx(size, h->flags | align_flag(align) | (is_zeroed ? MALLOCX_ZERO : 0));
}

void mr_heap_store_free(const struct mr_heap *h, void *p, size_t size, size_t align)
{
    mrj_sdallocx(p, size, h->flags | align_flag(align));
}

size_t mr_heap_store_round(const struct mr_heap *h, size_t size)
{
    return mrj_nallocx(size, h->flags);
}

size_t mr_heap_store_usable(const struct mr_heap *h, void *p)
{
    return mrj_sallocx(p, h->flags);
}

static void control(unsigned arena, const char *verb)
{
    char name[32];
    snprintf(name, sizeof name, "arena.%u.%s", arena, verb);
    int failed = mrj_mallctl(name, NULL, NULL, NULL, 0);
    MR_ASSERT(!failed);
}

static int align_flag(size_t align)
{
    return align ? MALLOCX_ALIGN(align) : 0;
}

#else

/* A file with nothing in it is not C: this build is served by heap_host.c. */
typedef int mr_heap_jemalloc_unused;

#endif
