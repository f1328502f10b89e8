/*
 * Any bytes to the codec, whole and in pieces: the same replies, the same end, within the limits.
 * The first byte is the size of the pieces.
 */
#include "drivers/redis/internal.h"

#include <stdlib.h>
#include <string.h>

#define ROOM 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    moor_err err;
    uint64_t hash;
    unsigned count;
};

static void mix(struct outcome *o, const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        o->hash = (o->hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
}

static void walk(struct outcome *o, const moor_redis_reply *r, unsigned depth)
{
    const moor_redis_type type = moor_redis_reply_type(r);
    const moor_span text = moor_redis_reply_text(r);
    const int64_t n = moor_redis_reply_integer(r);
    if (depth > MOOR_REDIS_DEPTH_MAX)
        abort();
    mix(o, &type, sizeof type);
    mix(o, text.base, text.len);
    mix(o, &n, sizeof n);
    if (text.len && ((const char *)text.base)[text.len] != 0)
        abort();
    for (size_t i = 0; i < moor_redis_reply_count(r); i++)
        walk(o, moor_redis_reply_at(r, i), depth + 1);
}

static struct outcome run(const char *bytes, size_t len, size_t piece)
{
    struct outcome o = {.hash = 0xcbf29ce484222325u};
    struct redis_codec c;
    struct moor_redis_reply *r;
    o.err = redis_codec_init(&c, ROOM);
    for (size_t i = 0; i < len && !o.err; i += piece) {
        o.err = redis_codec_feed(&c, (moor_span){bytes + i, len - i < piece ? len - i : piece});
        while (!o.err && !(o.err = redis_codec_next(&c, &r)) && r) {
            if (CONTAINER_OF(r, struct redis_root, reply)->bytes > 3 * ROOM)
                abort();
            walk(&o, r, 0);
            o.count++;
            moor_redis_reply_free(r);
        }
    }
    redis_codec_fini(&c);
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const char *bytes = (const char *)data + 1;
    const struct outcome whole = run(bytes, size - 1, size);
    const struct outcome pieces = run(bytes, size - 1, data[0] ? data[0] : 1);
    if (whole.count != pieces.count || whole.hash != pieces.hash || whole.err != pieces.err)
        abort();
    return 0;
}
