/*
 * Heaps over the host's malloc, for sanitizer builds: every block has its own red zones, and use
 * after free and leaks are seen. Any thread.
 * Must not group blocks: what was handed out is what the sanitizer knows.
 */
#include "alloc/heap_store.h"
#include "alloc/sanitize.h"

#if MR_HEAP_ON_HOST

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>

moor_err mr_heap_store_open(struct mr_heap *h)
{
    (void)h;
    return MOOR_OK;
}

void mr_heap_store_close(struct mr_heap *h)
{
    (void)h;
}

void mr_heap_store_trim(struct mr_heap *h)
{
    (void)h;
}

void *mr_heap_store_alloc(const struct mr_heap *h, size_t size, size_t align, bool is_zeroed)
{
    (void)h;
    /* As jemalloc does; AddressSanitizer would stop the process. */
    if (size > PTRDIFF_MAX / 2)
        return NULL;
    if (align <= 16)
        return is_zeroed ? calloc(1, size) : malloc(size);
    void *p = NULL;
    return posix_memalign(&p, align, size) == 0 ? p : NULL;
}

void mr_heap_store_free(const struct mr_heap *h, void *p, size_t size, size_t align)
{
    (void)h;
    (void)size;
    (void)align;
    free(p);
}

size_t mr_heap_store_round(const struct mr_heap *h, size_t size)
{
    (void)h;
    return size > PTRDIFF_MAX / 2 ? 0 : size;
}

size_t mr_heap_store_usable(const struct mr_heap *h, void *p)
{
    (void)h;
    return malloc_usable_size(p);
}

#else

/* A file with nothing in it is not C: this build is served by heap_jemalloc.c. */
typedef int mr_heap_host_unused;

#endif
