/*
 * What the parts of the redis driver share: the codec, the kinds of commands, a pool's configuration.
 */
#ifndef DRIVERS_REDIS_INTERNAL_H
#define DRIVERS_REDIS_INTERNAL_H

#include <mooring/redis.h>
#include <mooring/runtime.h>

#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define REDIS_NS_PER_MS 1000000ll
#define REDIS_NEVER     INT64_MAX

static inline int64_t redis_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 * REDIS_NS_PER_MS + t.tv_nsec;
}

/* REDIS_NEVER: MOOR_FOREVER. */
static inline int64_t redis_deadline(moor_ms timeout_ms)
{
    if (timeout_ms < 0 || timeout_ms > REDIS_NEVER / REDIS_NS_PER_MS / 4)
        return REDIS_NEVER;
    return redis_now() + timeout_ms * REDIS_NS_PER_MS;
}

/* What is left until then, rounded up: a wait for it does not end early. */
static inline moor_ms redis_left(int64_t deadline_ns, int64_t now_ns)
{
    if (deadline_ns == REDIS_NEVER)
        return MOOR_FOREVER;
    return deadline_ns <= now_ns ? 0
                                 : (deadline_ns - now_ns + REDIS_NS_PER_MS - 1) / REDIS_NS_PER_MS;
}

/* ---- reply.c: a reply and the memory it lives in ---- */

struct moor_redis_reply {
    uint8_t type; /* moor_redis_type */
    bool is_root;
    size_t len; /* bytes of text, or elements */
    union {
        const char *text; /* a DOUBLE: after its value */
        int64_t integer;
        struct moor_redis_reply *elements;
    };
};

/* One reply and everything below it: freed at once. */
struct redis_root {
    struct moor_redis_reply reply;
    struct redis_block *blocks;
    char *at, *end; /* free bytes of the newest block */
    size_t bytes;   /* allocated for it in all */
    bool is_kept;   /* moor_redis_reply_keep */
};

/* A root with room for `extra` bytes, which the first redis_root_take gets. NULL: no memory. */
struct redis_root *redis_root_make(size_t extra);
/* Zeroed and aligned for anything. NULL: no memory. */
void *redis_root_take(struct redis_root *root, size_t bytes);
/* Unless it was kept. NULL is fine. */
void redis_reply_done(struct moor_redis_reply *r);

/* ---- codec.c: hiredis' reader with our replies and our limits ---- */

struct redis_codec {
    redisReader *reader;
    size_t reply_bytes_max;
    struct redis_root *root; /* of the reply that is being read */
    moor_err fault;          /* why a hook of the reader refused */
};

/* MOOR_OK, or ENOMEM. */
moor_err redis_codec_init(struct redis_codec *c, size_t reply_bytes_max);
void redis_codec_fini(struct redis_codec *c);
/* Takes all of `bytes`, and adds them to what is there. EPROTO, ETOOBIG, ENOMEM: no more can be read. */
moor_err redis_codec_feed(struct redis_codec *c, moor_span bytes);
/* The next reply that is complete; NULL: none is. It is the caller's. Errors as above. */
moor_err redis_codec_next(struct redis_codec *c, struct moor_redis_reply **out);
/* Bytes are there that no reply has used up. */
bool redis_codec_has_rest(const struct redis_codec *c);
/* Static text for the errors above. */
const char *redis_codec_what(moor_err e);

/* A command as it is sent, to be freed by redis_command_free. EINVAL, ENOMEM. */
moor_err redis_command_make(int argc, const char *const *argv, const size_t *argvlen,
                            char **out_bytes, size_t *out_len);
void redis_command_free(char *bytes);

/* Bytes to send. Zeroed: empty. */
struct redis_buf {
    char *bytes;
    size_t len, cap;
};
/* Room for `more` bytes. ENOMEM: as before. */
moor_err redis_buf_reserve(struct redis_buf *b, size_t more);
void redis_buf_add(struct redis_buf *b, const char *bytes,
                   size_t len); /* for which there is room */
/* Empty again; what a burst has made large is given back. */
void redis_buf_clear(struct redis_buf *b);
void redis_buf_fini(struct redis_buf *b);

/* ---- kind.c: what a command does to its connection ---- */

enum {
    REDIS_STATE = 1,    /* leaves a state behind */
    REDIS_BLOCKS = 2,   /* others behind it would wait for data or for replicas */
    REDIS_LISTENS = 4,  /* what comes after it is in no order of commands */
    REDIS_NO_ORDER = 8, /* replies fail to come, or are not RESP: not even a session can */
    REDIS_MULTI = 16,   /* these two leave one, too, until it is ended */
    REDIS_WATCH = 32,
    REDIS_CLOSES = 64, /* EXEC, DISCARD: the state of both is gone */
    REDIS_UNWATCH = 128,
    REDIS_LAST = 256, /* the server closes after it */
};
unsigned redis_kind(int argc, const char *const *argv, const size_t *argvlen);
/* Why a shared connection refuses it, into why (may be NULL with cap 0). True: it does not. */
bool redis_kind_is_shareable(unsigned kind, const char *name, size_t len, char *why, size_t cap);

/* ---- config.c ---- */

#define REDIS_DATABASE_MAX 1000000000u

struct redis_config {
    moor_redis_reset reset;
    unsigned protocol, database;
    size_t reply_bytes_max;
    char client_name[256];
};

moor_err redis_config_open(const moor_driver_url *url, const void *given, void **out_config,
                           char *why, size_t why_cap);
void redis_config_shut(void *config);

/* The configuration of a lease of a redis pool. ESTALE, EINVAL. */
moor_err redis_lease_config(moor_lease lease, const struct redis_config **out);

/* First word of an error reply that the pool has to hear of (READONLY ...). */
void redis_report(moor_lease lease, const struct moor_redis_reply *r);

#endif
