/*
 * Spans, buffers, number formats. Owns nothing but the memory of a struct buf.
 * Pure; any thread. Must never read a clock or a socket.
 */
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

void buf_reserve(struct buf *b, size_t extra)
{
    size_t cap = b->cap ? b->cap : 256;
    while (cap - b->len < extra)
        cap *= 2;
    if (cap == b->cap)
        return;
    char *grown = realloc(b->data, cap);
    if (!grown) {
        fputs("mooring-origin: out of memory\n", stderr);
        abort();
    }
    b->data = grown;
    b->cap = cap;
}

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

void buf_add_u64(struct buf *b, uint64_t value)
{
    char digits[20];
    buf_add(b, digits, format_u64(digits, value));
}

void buf_add_hex(struct buf *b, uint64_t value)
{
    char digits[20];
    buf_add(b, digits, format_hex(digits, value));
}

static size_t format_base(char *out, uint64_t value, unsigned base)
{
    char reversed[20];
    size_t len = 0;
    do {
        reversed[len++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    for (size_t i = 0; i < len; i++)
        out[i] = reversed[len - 1 - i];
    return len;
}

size_t format_u64(char *out, uint64_t value)
{
    return format_base(out, value, 10);
}

size_t format_hex(char *out, uint64_t value)
{
    return format_base(out, value, 16);
}

bool parse_u64(struct span s, uint64_t max, uint64_t *out_value)
{
    if (s.len == 0 || s.len > 20)
        return false;
    uint64_t value = 0;
    for (size_t i = 0; i < s.len; i++) {
        const unsigned digit = (unsigned)s.ptr[i] - '0';
        if (digit > 9 || value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if (value > max)
        return false;
    *out_value = value;
    return true;
}

bool span_is(struct span s, struct span other)
{
    return s.len == other.len && memcmp(s.ptr, other.ptr, s.len) == 0;
}

bool span_is_nocase(struct span s, struct span other)
{
    return s.len == other.len && strncasecmp(s.ptr, other.ptr, s.len) == 0;
}

struct span span_trim(struct span s)
{
    while (s.len && (*s.ptr == ' ' || *s.ptr == '\t')) {
        s.ptr++;
        s.len--;
    }
    while (s.len && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

bool list_has(struct span list, struct span token)
{
    while (list.len) {
        const char *comma = memchr(list.ptr, ',', list.len);
        const size_t len = comma ? (size_t)(comma - list.ptr) : list.len;
        if (span_is_nocase(span_trim((struct span){list.ptr, len}), token))
            return true;
        const size_t skip = comma ? len + 1 : len;
        list.ptr += skip;
        list.len -= skip;
    }
    return false;
}
