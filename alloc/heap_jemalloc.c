/*
 * Heaps over jemalloc: one arena each, so that all memory of a shard goes back at once and no lock
 * is ever contended. Threads as in heap.h.
 * Must not use jemalloc's automatic arenas and caches: they would tie memory to threads.
 */
#include "alloc/heap_store.h"
#include "alloc/sanitize.h"
#include "base/assert.h"

#if !MR_HEAP_ON_HOST

#include <jemalloc/jemalloc.h>

#include <stdio.h>

/* Read by jemalloc before its first allocation. */
const char *mrj_malloc_conf = "narenas:1,tcache:false,background_thread:false,"
                              "dirty_decay_ms:1000,muzzy_decay_ms:0,oversize_threshold:0";

static void destroy_arena(unsigned arena);
static int align_flag(size_t align);

moor_err mr_heap_store_open(struct mr_heap *h)
{
    size_t len = sizeof h->arena;
    if (mrj_mallctl("arenas.create", &h->arena, &len, NULL, 0) != 0)
        return MOOR_ENOMEM;
    h->flags = MALLOCX_ARENA(h->arena) | MALLOCX_TCACHE_NONE;
    if (h->is_shared)
        return MOOR_OK;
    len = sizeof h->cache;
    if (mrj_mallctl("tcache.create", &h->cache, &len, NULL, 0) != 0) {
        destroy_arena(h->arena);
        return MOOR_ENOMEM;
    }
    h->flags = MALLOCX_ARENA(h->arena) | MALLOCX_TCACHE(h->cache);
    return MOOR_OK;
}

void mr_heap_store_close(struct mr_heap *h)
{
    /* The cache first: it flushes into the arena. */
    if (!h->is_shared) {
        int failed = mrj_mallctl("tcache.destroy", NULL, NULL, &h->cache, sizeof h->cache);
        MR_ASSERT(!failed);
    }
    destroy_arena(h->arena);
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

static void destroy_arena(unsigned arena)
{
    char name[32];
    snprintf(name, sizeof name, "arena.%u.destroy", arena);
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
