/*
 * Small helpers on borrowed bytes. ASCII only: no locale is ever asked.
 * Pure, inline; any thread.
 */
#ifndef MR_BASE_SPAN_H
#define MR_BASE_SPAN_H

#include <mooring/types.h>

#include <string.h>

#define MR_SPAN(literal) ((moor_span){(literal), sizeof(literal) - 1})

/* NULL gives an empty span. */
static inline moor_span mr_span_cstr(const char *text)
{
    return (moor_span){text, text ? strlen(text) : 0};
}

static inline bool mr_span_is_equal(moor_span a, moor_span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.base, b.base, a.len) == 0);
}

static inline unsigned char mr_ascii_lower(unsigned char c)
{
    return c >= 'A' && c <= 'Z' ? (unsigned char)(c | 0x20) : c;
}

static inline unsigned char mr_ascii_upper(unsigned char c)
{
    return c >= 'a' && c <= 'z' ? (unsigned char)(c & ~0x20) : c;
}

static inline bool mr_ascii_is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

static inline bool mr_ascii_is_alpha(unsigned char c)
{
    return mr_ascii_lower(c) >= 'a' && mr_ascii_lower(c) <= 'z';
}

/* 0..15, or -1 if c is not a hexadecimal digit. */
static inline int mr_ascii_hex(unsigned char c)
{
    if (mr_ascii_is_digit(c))
        return c - '0';
    c = mr_ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static inline bool mr_span_is_equal_nocase(moor_span a, moor_span b)
{
    if (a.len != b.len)
        return false;
    const unsigned char *x = a.base;
    const unsigned char *y = b.base;
    for (size_t i = 0; i < a.len; i++)
        if (mr_ascii_lower(x[i]) != mr_ascii_lower(y[i]))
            return false;
    return true;
}

/* Decimal digits only, at least one; false on anything else and on overflow, *out_value unchanged.
 */
static inline bool mr_span_to_u64(moor_span s, uint64_t *out_value)
{
    const unsigned char *c = s.base;
    uint64_t value = 0;
    if (s.len == 0)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (!mr_ascii_is_digit(c[i]))
            return false;
        const unsigned digit = c[i] - '0';
        if (value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *out_value = value;
    return true;
}

/* The part from `from` on; empty if there is none. */
static inline moor_span mr_span_skip(moor_span s, size_t from)
{
    if (from > s.len)
        from = s.len;
    return (moor_span){s.base ? (const char *)s.base + from : NULL, s.len - from};
}

#endif
