/*
 * The hosts file, parsed. Any thread: a table is never written after it was returned.
 * Reads no file itself: text comes in, a table goes out.
 */
#include "core/hosts.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/span.h"

#include <string.h>

/* One name of one line. */
struct entry {
    struct mr_map_node node;
    struct in6_addr ip; /* IPv4 in the first four bytes */
    uint32_t scope;
    uint32_t name_at; /* offset into names */
    uint32_t name_len;
    bool is_v6;
};

/* One allocation: this, the entries, the buckets, the names. */
struct mr_hosts {
    struct mr_heap *heap;
    _Atomic(uint32_t) refs;
    size_t bytes;
    struct mr_map map;
    char *names;
    struct entry entries[];
};

/* Buckets are the application's own machine's file: no seed needed against the outside. */
#define HOSTS_SEED 0

static moor_span next_line(const char **at, const char *end)
{
    const char *start = *at;
    const char *stop = memchr(start, '\n', (size_t)(end - start));
    *at = stop ? stop + 1 : end;
    if (!stop)
        stop = end;
    const char *comment = memchr(start, '#', (size_t)(stop - start));
    return (moor_span){start, (size_t)((comment ? comment : stop) - start)};
}

static moor_span next_word(moor_span *line)
{
    const char *c = line->base;
    const char *end = c + line->len;
    while (c < end && (*c == ' ' || *c == '\t' || *c == '\r'))
        c++;
    const char *start = c;
    while (c < end && *c != ' ' && *c != '\t' && *c != '\r')
        c++;
    *line = (moor_span){c, (size_t)(end - c)};
    return (moor_span){start, (size_t)(c - start)};
}

/* Upper bounds: every word of every line could be a name. */
static void measure(const char *text, size_t len, uint32_t *out_names, size_t *out_name_bytes)
{
    *out_names = 0;
    *out_name_bytes = 0;
    for (const char *at = text; at < text + len;) {
        moor_span line = next_line(&at, text + len);
        (void)next_word(&line);
        for (moor_span word = next_word(&line); word.len; word = next_word(&line)) {
            ++*out_names;
            *out_name_bytes += word.len;
        }
    }
}

static void fill(struct mr_hosts *h, const char *text, size_t len, uint32_t *out_count)
{
    uint32_t count = 0;
    uint32_t name_at = 0;
    for (const char *at = text; at < text + len;) {
        moor_span line = next_line(&at, text + len);
        moor_span ip = next_word(&line);
        struct mr_addr addr;
        if (ip.len == 0 || mr_addr_parse(ip.base, ip.len, &addr) != MOOR_OK)
            continue;
        for (moor_span word = next_word(&line); word.len; word = next_word(&line)) {
            struct entry *e = &h->entries[count++];
            memset(e, 0, sizeof *e);
            e->is_v6 = addr.sa.sa_family == AF_INET6;
            if (e->is_v6)
                e->ip = addr.in6.sin6_addr;
            else
                memcpy(&e->ip, &addr.in.sin_addr, sizeof addr.in.sin_addr);
            e->scope = e->is_v6 ? addr.in6.sin6_scope_id : 0;
            e->name_at = name_at;
            e->name_len = (uint32_t)word.len;
            for (size_t i = 0; i < word.len; i++)
                h->names[name_at++] = (char)mr_ascii_lower(((const unsigned char *)word.base)[i]);
        }
    }
    *out_count = count;
}

moor_err mr_hosts_parse(struct mr_heap *heap, const char *text, size_t len, struct mr_hosts **out_)
{
    MR_ASSERT(len < UINT32_MAX);
    uint32_t names;
    size_t name_bytes;
    measure(text, len, &names, &name_bytes);
    uint32_t buckets = 1;
    while (buckets < names)
        buckets *= 2;

    size_t entries_end = sizeof(struct mr_hosts) + names * sizeof(struct entry);
    size_t buckets_end = entries_end + buckets * sizeof(struct mr_map_node *);
    size_t bytes = buckets_end + name_bytes;
    struct mr_hosts *h = mr_heap_alloc(heap, bytes);
    if (!h)
        return MOOR_ENOMEM;
    h->heap = heap;
    h->bytes = bytes;
    atomic_init(&h->refs, 1);
    h->names = (char *)h + buckets_end;
    mr_map_init(&h->map, (struct mr_map_node **)((char *)h + entries_end), buckets);

    uint32_t count;
    fill(h, text, len, &count);
    /* The map finds the newest first, so what stands first in the file goes in last. */
    for (uint32_t i = count; i-- > 0;) {
        struct entry *e = &h->entries[i];
        mr_map_insert(&h->map, &e->node,
                      mr_hash_bytes(h->names + e->name_at, e->name_len, HOSTS_SEED));
    }
    *out_ = h;
    return MOOR_OK;
}

struct mr_hosts *mr_hosts_ref(struct mr_hosts *h)
{
    atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
    return h;
}

void mr_hosts_unref(struct mr_hosts *h)
{
    if (h && atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) == 1)
        mr_heap_free(h->heap, h, h->bytes);
}

uint32_t mr_hosts_find(const struct mr_hosts *h, const char *name, size_t len, struct mr_addr *out_,
                       uint32_t cap)
{
    uint32_t found = 0;
    const struct mr_map_node *n = mr_map_first(&h->map, mr_hash_bytes(name, len, HOSTS_SEED));
    for (; n && found < cap; n = mr_map_next(n)) {
        const struct entry *e = MR_CONTAINER_OF(n, struct entry, node);
        if (e->name_len != len || memcmp(h->names + e->name_at, name, len) != 0)
            continue;
        struct mr_addr *a = &out_[found++];
        if (e->is_v6) {
            mr_addr_from_ipv6(&e->ip, a);
            a->in6.sin6_scope_id = e->scope;
        } else {
            struct in_addr v4;
            memcpy(&v4, &e->ip, sizeof v4);
            mr_addr_from_ipv4(v4, a);
        }
    }
    return found;
}
