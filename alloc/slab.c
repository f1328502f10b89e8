/*
 * Fixed-size objects carved from pages that stay until the slab ends.
 * Owner thread: the shard of its heap; a slot's generation may be read by any thread.
 * Must never touch the slot header of an item that was ever handed out: stale handles read it.
 */
#include "alloc/slab.h"

#include "alloc/sanitize.h"
#include "base/assert.h"

#include <string.h>

enum { SLOT = sizeof(struct moor_slot_), CACHE_LINE = 64 };

/* In a free item, behind the slot header. */
struct free_item {
    void *next; /* item */
};

/* At the end of a page, so that items start as well aligned as the page does. */
struct page_tail {
    void *next;   /* page, by its first item */
    size_t fresh; /* items never taken, the last of the page: memory never touched */
};

static size_t page_bytes(const struct mr_slab *s)
{
    return s->per_page * s->item_size + sizeof(struct page_tail);
}

/* Items that are whole cache lines stay on them: what two threads read never shares a line. */
static size_t page_align(const struct mr_slab *s)
{
    return s->item_size % CACHE_LINE == 0 ? CACHE_LINE : 0;
}

static struct page_tail *tail_of(const struct mr_slab *s, void *page)
{
    return (struct page_tail *)((char *)page + s->per_page * s->item_size);
}

static void *take_fresh(struct mr_slab *s);
static bool add_page(struct mr_slab *s);

void mr_slab_init(struct mr_slab *s, struct mr_heap *heap, size_t item_size, size_t per_page)
{
    MR_ASSERT(item_size <= SIZE_MAX / 2 && per_page > 0);
    if (item_size < SLOT + sizeof(struct free_item))
        item_size = SLOT + sizeof(struct free_item);
    /* Alone in its page an item has the host malloc's red zones around it. */
    *s = (struct mr_slab){.heap = heap,
                          .item_size = (item_size + 15) & ~(size_t)15,
                          .per_page = MR_ASAN ? 1 : per_page};
    MR_ASSERT(s->per_page <= SIZE_MAX / 2 / s->item_size);
}

void mr_slab_fini(struct mr_slab *s)
{
    MR_DEBUG_ASSERT(s->used == 0);
    for (void *page = s->pages, *next; page; page = next) {
        next = tail_of(s, page)->next;
        MR_UNPOISON(page, page_bytes(s));
        mr_heap_free_aligned(s->heap, page, page_bytes(s), page_align(s));
    }
    s->free = NULL;
    s->pages = NULL;
    s->used = 0;
    s->count = 0;
}

void *mr_slab_take(struct mr_slab *s)
{
    char *item = s->free;
    if (item) {
        MR_UNPOISON(item, s->item_size);
        s->free = ((struct free_item *)(item + SLOT))->next;
        memset(item + SLOT, 0, s->item_size - SLOT);
    } else if (!(item = take_fresh(s))) {
        return NULL;
    }
    s->used++;
    return item;
}

void mr_slab_give(struct mr_slab *s, void *item)
{
    MR_ASSERT(item && s->used > 0);
    /* Written before it is poisoned: giving twice is a report, not a corrupt list. */
    ((struct free_item *)((char *)item + SLOT))->next = s->free;
    s->free = item;
    s->used--;
    MR_POISON((char *)item + SLOT, s->item_size - SLOT);
}

/* Items are made one by one as they are first needed: what was never used is never touched. */
static void *take_fresh(struct mr_slab *s)
{
    if ((!s->pages || tail_of(s, s->pages)->fresh == 0) && !add_page(s))
        return NULL;
    struct page_tail *tail = tail_of(s, s->pages);
    char *item = (char *)s->pages + (s->per_page - tail->fresh) * s->item_size;
    tail->fresh--;
    s->count++;
    memset(item, 0, s->item_size);
    return item;
}

static bool add_page(struct mr_slab *s)
{
    size_t align = page_align(s);
    void *page = align ? mr_heap_alloc_aligned(s->heap, page_bytes(s), align)
                       : mr_heap_alloc(s->heap, page_bytes(s));
    if (!page)
        return false;
    *tail_of(s, page) = (struct page_tail){.next = s->pages, .fresh = s->per_page};
    s->pages = page;
    return true;
}
