/*
 * The store of session tickets. Any thread, under one lock; memory is taken and freed outside it.
 * Must never give a ticket to another key than it was put under: the key is all that ties it to a name.
 */
#include "tls/tickets.h"

#include "base/assert.h"
#include "base/list.h"
#include "base/lock.h"

#include <string.h>

#define BUCKETS 256

struct entry {
    struct mr_list link; /* its bucket's */
    struct mr_list used; /* all of them, least recently used last */
    struct mr_ticket *newest;
    uint32_t count;
    uint8_t key[MR_TLS_HASH_SIZE];
};

struct mr_tickets {
    struct mr_heap *heap;
    struct mr_lock lock;
    struct mr_list buckets[BUCKETS];
    struct mr_list used;
    uint32_t count; /* entries */
    size_t bytes;   /* of their tickets */
};

struct mr_tickets *mr_tickets_create(struct mr_heap *heap)
{
    struct mr_tickets *t = mr_heap_zalloc(heap, sizeof *t);
    if (!t)
        return NULL;
    t->heap = heap;
    mr_lock_init(&t->lock);
    mr_list_init(&t->used);
    for (size_t i = 0; i < BUCKETS; i++)
        mr_list_init(&t->buckets[i]);
    return t;
}

void mr_ticket_unref(struct mr_heap *heap, struct mr_ticket *ticket)
{
    if (!ticket || atomic_fetch_sub(&ticket->refs, 1) != 1)
        return;
    const size_t size = sizeof *ticket + ticket->len;
    explicit_bzero(ticket, size);
    mr_heap_free(heap, ticket, size);
}

static void unref_all(struct mr_heap *heap, struct mr_ticket *t)
{
    for (struct mr_ticket *next; t; t = next) {
        next = t->next;
        mr_ticket_unref(heap, t);
    }
}

void mr_tickets_destroy(struct mr_tickets *t)
{
    for (struct mr_list *l; (l = mr_list_pop_front(&t->used));) {
        struct entry *e = MR_CONTAINER_OF(l, struct entry, used);
        unref_all(t->heap, e->newest);
        mr_heap_free(t->heap, e, sizeof *e);
    }
    mr_lock_fini(&t->lock);
    mr_heap_free(t->heap, t, sizeof *t);
}

/* ---- under the lock ---- */

/* A key is a hash: any byte of it is as good as another. */
static struct mr_list *bucket_of(struct mr_tickets *t, const uint8_t *key)
{
    return &t->buckets[key[0] % BUCKETS];
}

static struct entry *find(struct mr_tickets *t, const uint8_t *key)
{
    struct mr_list *b = bucket_of(t, key);
    for (struct mr_list *l = b->next; l != b; l = l->next) {
        struct entry *e = MR_CONTAINER_OF(l, struct entry, link);
        if (!memcmp(e->key, key, sizeof e->key))
            return e;
    }
    return NULL;
}

static void touch(struct mr_tickets *t, struct entry *e)
{
    mr_list_remove(&e->used);
    mr_list_push_front(&t->used, &e->used);
}

static size_t size_of(const struct mr_ticket *ticket)
{
    return sizeof *ticket + ticket->len;
}

/* `at` and what is older leave the entry. */
static struct mr_ticket *cut(struct mr_tickets *t, struct entry *e, struct mr_ticket **at)
{
    struct mr_ticket *rest = *at;
    *at = NULL;
    for (const struct mr_ticket *gone = rest; gone; gone = gone->next) {
        e->count--;
        t->bytes -= size_of(gone);
    }
    return rest;
}

/* Those past their end, and those beyond `max`. They came in order, so all before the first such one stay. */
static struct mr_ticket *cut_worn(struct mr_tickets *t, struct entry *e, uint32_t max,
                                  int64_t now_s)
{
    struct mr_ticket **at = &e->newest;
    for (uint32_t n = 0; *at && n < max && (*at)->expires_s > now_s; n++)
        at = &(*at)->next;
    return cut(t, e, at);
}

/* Beyond the limits: the entry unused for longest, but not the one just used. */
static struct entry *remove_oldest(struct mr_tickets *t)
{
    struct mr_list *last = mr_list_last(&t->used);
    if ((t->count <= MR_TICKET_KEYS_MAX && t->bytes <= MR_TICKETS_BYTES_MAX) || t->count < 2)
        return NULL;
    struct entry *e = MR_CONTAINER_OF(last, struct entry, used);
    mr_list_remove(&e->used);
    mr_list_remove(&e->link);
    t->count--;
    for (const struct mr_ticket *gone = e->newest; gone; gone = gone->next)
        t->bytes -= size_of(gone);
    return e;
}

static void free_entry(struct mr_tickets *t, struct entry *e)
{
    unref_all(t->heap, e->newest);
    mr_heap_free(t->heap, e, sizeof *e);
}

/* ---- */

static struct mr_ticket *copy(struct mr_tickets *t, const struct mr_ticket *like, moor_span bytes)
{
    struct mr_ticket *made = mr_heap_alloc(t->heap, sizeof *made + bytes.len);
    if (!made)
        return NULL;
    *made = (struct mr_ticket){.len = (uint32_t)bytes.len,
                               .early_max = like->early_max,
                               .is_reusable = like->is_reusable,
                               .expires_s = like->expires_s,
                               .cert_expires_s = like->cert_expires_s};
    atomic_store_explicit(&made->refs, 1, memory_order_relaxed);
    memcpy(made->bytes, bytes.base, bytes.len);
    return made;
}

void mr_tickets_put(struct mr_tickets *t, const uint8_t key[MR_TLS_HASH_SIZE], uint32_t max,
                    const struct mr_ticket *like, moor_span bytes)
{
    if (!max || !bytes.len || bytes.len > MR_TICKET_BYTES_MAX)
        return;
    struct mr_ticket *made = copy(t, like, bytes);
    struct entry *fresh = made ? mr_heap_zalloc(t->heap, sizeof *fresh) : NULL;
    if (!fresh) {
        mr_ticket_unref(t->heap, made);
        return;
    }
    memcpy(fresh->key, key, sizeof fresh->key);
    mr_list_init(&fresh->link);
    mr_list_init(&fresh->used);
    mr_lock_lock(&t->lock);
    struct entry *e = find(t, key);
    struct entry *spare = e ? fresh : NULL;
    if (!e) {
        e = fresh;
        mr_list_push_front(bucket_of(t, key), &e->link);
        t->count++;
    }
    touch(t, e);
    made->next = e->newest;
    e->newest = made;
    e->count++;
    t->bytes += size_of(made);
    struct mr_ticket *gone = cut_worn(t, e, max, 0);
    struct entry *old = remove_oldest(t);
    mr_lock_unlock(&t->lock);
    unref_all(t->heap, gone);
    mr_heap_free(t->heap, spare, sizeof *spare);
    while (old) { /* one at a time: each section stays short */
        free_entry(t, old);
        mr_lock_lock(&t->lock);
        old = remove_oldest(t);
        mr_lock_unlock(&t->lock);
    }
}

struct mr_ticket *mr_tickets_take(struct mr_tickets *t, const uint8_t key[MR_TLS_HASH_SIZE],
                                  int64_t now_s)
{
    struct mr_ticket *taken = NULL, *gone = NULL;
    mr_lock_lock(&t->lock);
    struct entry *e = find(t, key);
    if (e) {
        gone = cut_worn(t, e, UINT32_MAX, now_s);
        taken = e->newest;
        touch(t, e);
    }
    if (taken && taken->next && !taken->is_reusable) {
        e->newest = taken->next;
        e->count--;
        t->bytes -= size_of(taken);
    } else if (
        taken) { /* better used twice than a full handshake: a server that minds makes it one */
        atomic_fetch_add(&taken->refs, 1);
    }
    mr_lock_unlock(&t->lock);
    unref_all(t->heap, gone);
    return taken;
}

void mr_tickets_forget(struct mr_tickets *t, const uint8_t key[MR_TLS_HASH_SIZE])
{
    mr_lock_lock(&t->lock);
    struct entry *e = find(t, key);
    struct mr_ticket *gone = e ? cut(t, e, &e->newest) : NULL;
    mr_lock_unlock(&t->lock);
    unref_all(t->heap, gone);
}

size_t mr_tickets_bytes(struct mr_tickets *t)
{
    mr_lock_lock(&t->lock);
    const size_t n = t->bytes;
    mr_lock_unlock(&t->lock);
    return n;
}

uint32_t mr_tickets_count(struct mr_tickets *t, const uint8_t key[MR_TLS_HASH_SIZE])
{
    mr_lock_lock(&t->lock);
    const struct entry *e = find(t, key);
    const uint32_t n = e ? e->count : 0;
    mr_lock_unlock(&t->lock);
    return n;
}
