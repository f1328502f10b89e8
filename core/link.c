/*
 * The memory of links: made once, used again by any pool, freed with the runtime, so that a handle can look
 * at its link's word for ever. Any thread, the list under the runtime's lock.
 */
#include "core/link.h"

#include "core/rack.h"

#include <string.h>
#include <sys/mman.h>

#define LINK_ALIGN 64 /* neighbours are other threads' */

static struct moor_link *take_free(struct moor_runtime *r)
{
    mr_lock_lock(&r->lock);
    struct moor_link *l = r->links_free;
    if (l)
        r->links_free = l->next_free;
    mr_lock_unlock(&r->lock);
    return l;
}

struct moor_link *mr_link_make(struct moor_runtime *r)
{
    struct moor_link *l = take_free(r);
    if (!l) {
        l = mr_heap_alloc_aligned(&r->heap, sizeof *l, LINK_ALIGN);
        if (!l)
            return NULL;
        memset(l, 0, sizeof *l);
        mr_lock_lock(&r->lock);
        l->next_made = r->links_made;
        r->links_made = l;
        mr_lock_unlock(&r->lock);
    }
    mr_list_init(&l->wanted);
    mr_link_set(l, MR_LINK_KEPT);
    return l;
}

void mr_link_give(struct moor_runtime *r, struct moor_link *l)
{
    MR_ASSERT(mr_list_is_empty(&l->wanted) && !l->dial && !l->has_native);
    if (l->route)
        mr_route_unref(r, l->route);
    struct moor_link *made = l->next_made;
    atomic_store_explicit(&l->site, NULL, memory_order_relaxed);
    atomic_store_explicit(&l->uses, 0, memory_order_relaxed);
    atomic_store_explicit(&l->is_worn, 0, memory_order_relaxed);
    atomic_store_explicit(&l->fit, 0, memory_order_relaxed);
    atomic_store_explicit(&l->seen_ns, 0, memory_order_relaxed);
    const size_t from = offsetof(struct moor_link, rack);
    memset((char *)l + from, 0, sizeof *l - from);
    l->next_made = made;
    mr_link_set(l, MR_LINK_EMPTY);
    mr_lock_lock(&r->lock);
    l->next_free = r->links_free;
    r->links_free = l;
    mr_lock_unlock(&r->lock);
}

void mr_links_free(struct moor_runtime *r)
{
    for (struct moor_link *l = r->links_made, *next; l; l = next) {
        next = l->next_made;
        mr_heap_free_aligned(&r->heap, l, sizeof *l, LINK_ALIGN);
    }
    r->links_made = r->links_free = NULL;
}

moor_err mr_hints_make(struct moor_runtime *r)
{
    const size_t size = MR_HINT_LINES * sizeof *r->hints;
    void *lines = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MR_FAIL_IF(lines == MAP_FAILED, MOOR_ENOMEM);
    /* A forked child finds no hint, and so what it may not do: the fast path need not ask. */
    madvise(lines, size, MADV_WIPEONFORK);
    r->hints = lines;
    return MOOR_OK;
}

void mr_hints_free(struct moor_runtime *r)
{
    if (r->hints)
        munmap(r->hints, MR_HINT_LINES * sizeof *r->hints);
    r->hints = NULL;
}
