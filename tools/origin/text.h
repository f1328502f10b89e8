/* Spans, growable buffers and the few text helpers every file of origin needs. */
#ifndef ORIGIN_TEXT_H
#define ORIGIN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct span {
    const char *ptr;
    size_t len;
};

/* Owned bytes; grows by doubling, never shrinks before buf_fini. */
struct buf {
    char *data;
    size_t len;
    size_t cap;
};

#define SPAN(literal) ((struct span){"" literal, sizeof(literal) - 1})

/* Ends the program when memory is out: every buffer of origin is bounded, so this is no peer's
 * doing. */
void buf_reserve(struct buf *b, size_t extra);
void buf_fini(struct buf *b);
void buf_add_u64(struct buf *b, uint64_t value);
void buf_add_hex(struct buf *b, uint64_t value);

/* Writes decimal or hexadecimal digits, without a terminator; `out` has room for 20. */
size_t format_u64(char *out, uint64_t value);
size_t format_hex(char *out, uint64_t value);

/* All of `s` must be digits and the value at most `max`. */
bool parse_u64(struct span s, uint64_t max, uint64_t *out_value);

bool span_is(struct span s, struct span other);
bool span_is_nocase(struct span s, struct span other);
struct span span_trim(struct span s);

/* Is `token` a member of a comma-separated list such as Connection's? */
bool list_has(struct span list, struct span token);

static inline void buf_add(struct buf *b, const void *bytes, size_t len)
{
    if (len == 0)
        return;
    if (b->cap - b->len < len)
        buf_reserve(b, len);
    memcpy(b->data + b->len, bytes, len);
    b->len += len;
}

static inline void buf_add_span(struct buf *b, struct span s)
{
    buf_add(b, s.ptr, s.len);
}

static inline void buf_add_text(struct buf *b, const char *text)
{
    buf_add(b, text, strlen(text));
}

#endif
