/*
 * Replies: one tree of values in a few blocks of memory, and how programs read it.
 * Any thread, one at a time for one reply. Never looks at a connection.
 */
#include "drivers/redis/internal.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_MIN 512
#define BLOCK_MAX 65536

struct redis_block {
    struct redis_block *next;
    alignas(max_align_t) char data[];
};

static size_t rounded(size_t bytes)
{
    return (bytes + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
}

struct redis_root *redis_root_make(size_t extra)
{
    const size_t head = rounded(sizeof(struct redis_root));
    struct redis_root *root = calloc(1, head + rounded(extra));
    if (!root)
        return NULL;
    root->reply.is_root = true;
    root->at = (char *)root + head;
    root->end = root->at + rounded(extra);
    root->bytes = head + rounded(extra);
    return root;
}

void *redis_root_take(struct redis_root *root, size_t bytes)
{
    bytes = rounded(bytes);
    if (bytes > (size_t)(root->end - root->at)) {
        size_t cap = root->bytes < BLOCK_MIN ? BLOCK_MIN : root->bytes;
        if (cap > BLOCK_MAX)
            cap = BLOCK_MAX;
        if (cap < bytes)
            cap = bytes;
        struct redis_block *b = calloc(1, sizeof *b + cap);
        if (!b)
            return NULL;
        b->next = root->blocks;
        root->blocks = b;
        root->at = b->data;
        root->end = b->data + cap;
        root->bytes += sizeof *b + cap;
    }
    void *taken = root->at;
    root->at += bytes;
    return taken;
}

void moor_redis_reply_free(moor_redis_reply *r)
{
    if (!r || !r->is_root)
        return;
    struct redis_root *root = CONTAINER_OF(r, struct redis_root, reply);
    for (struct redis_block *b = root->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(root);
}

void redis_reply_done(struct moor_redis_reply *r)
{
    if (r && !CONTAINER_OF(r, struct redis_root, reply)->is_kept)
        moor_redis_reply_free(r);
}

moor_redis_reply *moor_redis_reply_keep(const moor_redis_reply *r)
{
    if (!r || !r->is_root)
        return NULL;
    struct redis_root *root = CONTAINER_OF(r, struct redis_root, reply);
    if (root->is_kept)
        return NULL;
    root->is_kept = true;
    return &root->reply;
}

moor_redis_type moor_redis_reply_type(const moor_redis_reply *r)
{
    return r ? (moor_redis_type)r->type : MOOR_REDIS_NIL;
}

moor_span moor_redis_reply_text(const moor_redis_reply *r)
{
    switch (moor_redis_reply_type(r)) {
    case MOOR_REDIS_STRING:
    case MOOR_REDIS_STATUS:
    case MOOR_REDIS_ERROR:
    case MOOR_REDIS_DOUBLE:
        return (moor_span){r->text, r->len};
    default:
        return (moor_span){"", 0};
    }
}

int64_t moor_redis_reply_integer(const moor_redis_reply *r)
{
    const moor_redis_type t = moor_redis_reply_type(r);
    return t == MOOR_REDIS_INTEGER || t == MOOR_REDIS_BOOL ? r->integer : 0;
}

double moor_redis_reply_double(const moor_redis_reply *r)
{
    double value = 0;
    if (moor_redis_reply_type(r) == MOOR_REDIS_DOUBLE)
        memcpy(&value, r->text - sizeof value, sizeof value);
    return value;
}

size_t moor_redis_reply_count(const moor_redis_reply *r)
{
    switch (moor_redis_reply_type(r)) {
    case MOOR_REDIS_ARRAY:
    case MOOR_REDIS_MAP:
    case MOOR_REDIS_SET:
    case MOOR_REDIS_PUSH:
        return r->len;
    default:
        return 0;
    }
}

const moor_redis_reply *moor_redis_reply_at(const moor_redis_reply *r, size_t i)
{
    return i < moor_redis_reply_count(r) ? &r->elements[i] : NULL;
}

bool moor_redis_reply_is_error(const moor_redis_reply *r, const char *code)
{
    if (moor_redis_reply_type(r) != MOOR_REDIS_ERROR)
        return false;
    const size_t len = code ? strlen(code) : 0;
    if (!code)
        return true;
    return r->len >= len && !memcmp(r->text, code, len) && (r->len == len || r->text[len] == ' ');
}
