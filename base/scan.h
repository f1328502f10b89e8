/*
 * Finding the first byte that may not go on: 16 at a time with SSE2, one at a time without.
 * Never reads at or beyond end, but for what takes a length: that one reads up to MR_SCAN_PAD bytes beyond.
 */
#ifndef MR_BASE_SCAN_H
#define MR_BASE_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__SSE2__) && !defined(MR_SCAN_SCALAR)
#include <emmintrin.h>
#define MR_SCAN_SSE2 1
#else
#define MR_SCAN_SSE2 0
#endif

enum { MR_SCAN_PAD = 15 };

/* Classes of bytes; bits of mr_byte_class[]. */
enum {
    MR_BYTE_TOKEN = 1,     /* tchar, RFC 9110 5.6.2: names and methods */
    MR_BYTE_VALUE = 2,     /* field-content: SP, TAB, visible, obs-text */
    MR_BYTE_TARGET = 4,    /* visible ASCII but '#': a request target */
    MR_BYTE_AUTHORITY = 8, /* host, port, brackets, percent: a Host value */
};
extern const uint8_t mr_byte_class[256];

static inline bool mr_byte_is(uint8_t byte, unsigned class_bits)
{
    return (mr_byte_class[byte] & class_bits) != 0;
}

/* The first byte outside the class, or end. */
static inline const uint8_t *mr_scan_class(const uint8_t *p, const uint8_t *end, unsigned bits)
{
    while (p < end && mr_byte_is(*p, bits))
        p++;
    return p;
}

#if MR_SCAN_SSE2

/* How many of 16 bytes, from the first on, are a letter or '-': nearly every name has nothing else. */
static inline unsigned mr_scan_name_run(const uint8_t *p)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i lower = _mm_or_si128(v, _mm_set1_epi8(0x20));
    /* 'a'..'z' moved to 102..127, where one signed comparison finds them. */
    const __m128i letter =
        _mm_cmpgt_epi8(_mm_add_epi8(lower, _mm_set1_epi8(127 - 'z')), _mm_set1_epi8(127 - 26));
    const __m128i dash = _mm_cmpeq_epi8(v, _mm_set1_epi8('-'));
    /* Adding 1 to the mask carries up to the first byte that is neither. */
    return (unsigned)__builtin_ctz((unsigned)_mm_movemask_epi8(_mm_or_si128(letter, dash)) + 1);
}

/* How many of 16 bytes, from the first on, are SP or visible ASCII. TAB and obs-text are fine in a
 * value and rare: the caller looks at what stopped it. One more than DEL is the lowest signed byte,
 * so one comparison finds control characters, DEL and obs-text. */
static inline unsigned mr_scan_value_run(const uint8_t *p)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i next = _mm_add_epi8(v, _mm_set1_epi8(1));
    const __m128i plain = _mm_cmpgt_epi8(next, _mm_set1_epi8(0x20));
    return (unsigned)__builtin_ctz((unsigned)_mm_movemask_epi8(plain) + 1);
}

/* How many of 16 bytes, from the first on, are a lower-case letter or '-'. */
static inline unsigned mr_scan_lower_run(const uint8_t *p)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i letter =
        _mm_cmpgt_epi8(_mm_add_epi8(v, _mm_set1_epi8(127 - 'z')), _mm_set1_epi8(127 - 26));
    const __m128i dash = _mm_cmpeq_epi8(v, _mm_set1_epi8('-'));
    return (unsigned)__builtin_ctz((unsigned)_mm_movemask_epi8(_mm_or_si128(letter, dash)) + 1);
}

#define MR_SCAN_BLOCKS(p, end, run)                                                                \
    do {                                                                                           \
        while ((end) - (p) >= 16) {                                                                \
            const unsigned run_ = run(p);                                                          \
            if (run_ < 16)                                                                         \
                return (p) + run_;                                                                 \
            (p) += 16;                                                                             \
        }                                                                                          \
    } while (0)

static inline const uint8_t *mr_scan_plain_name(const uint8_t *p, const uint8_t *end)
{
    MR_SCAN_BLOCKS(p, end, mr_scan_name_run);
    return p;
}

static inline const uint8_t *mr_scan_plain_value(const uint8_t *p, const uint8_t *end)
{
    MR_SCAN_BLOCKS(p, end, mr_scan_value_run);
    return p;
}

/* Of bytes with MR_SCAN_PAD more behind them, which are read and mean nothing. */
#define MR_SCAN_PADDED(p, len, run)                                                                \
    do {                                                                                           \
        for (size_t at_ = 0; at_ < (len); at_ += 16) {                                             \
            const unsigned run_ = run((p) + at_);                                                  \
            if (run_ < 16 && run_ < (len)-at_)                                                     \
                return false;                                                                      \
        }                                                                                          \
        return true;                                                                               \
    } while (0)

static inline bool mr_scan_is_plain_lower(const uint8_t *p, size_t len)
{
    MR_SCAN_PADDED(p, len, mr_scan_lower_run);
}

static inline bool mr_scan_is_plain_value(const uint8_t *p, size_t len)
{
    MR_SCAN_PADDED(p, len, mr_scan_value_run);
}

#else

static inline bool mr_scan_is_plain_lower(const uint8_t *p, size_t len)
{
    (void)p;
    return len == 0;
}

static inline bool mr_scan_is_plain_value(const uint8_t *p, size_t len)
{
    (void)p;
    return len == 0;
}

static inline const uint8_t *mr_scan_plain_name(const uint8_t *p, const uint8_t *end)
{
    (void)end;
    return p;
}

static inline const uint8_t *mr_scan_plain_value(const uint8_t *p, const uint8_t *end)
{
    (void)end;
    return p;
}

#endif

/* The first byte that is not a token character, or end. */
static inline const uint8_t *mr_scan_name(const uint8_t *p, const uint8_t *end)
{
    p = mr_scan_plain_name(p, end);
    if (p < end && *p == ':')
        return p;
    return mr_scan_class(p, end, MR_BYTE_TOKEN);
}

/* The first byte that may not stand in a value, or end. */
static inline const uint8_t *mr_scan_value(const uint8_t *p, const uint8_t *end)
{
    p = mr_scan_plain_value(p, end);
    if (p < end && *p == '\r')
        return p;
    return mr_scan_class(p, end, MR_BYTE_VALUE);
}

/* Whether all of it is a name without capitals (RFC 9113 8.2.1). MR_SCAN_PAD bytes more are read. */
static inline bool mr_scan_is_lower_name(const uint8_t *p, size_t len)
{
    if (mr_scan_is_plain_lower(p, len))
        return true;
    for (size_t i = 0; i < len; i++)
        if (!mr_byte_is(p[i], MR_BYTE_TOKEN) || (p[i] >= 'A' && p[i] <= 'Z'))
            return false;
    return true;
}

/* Whether all of it may stand in a value. MR_SCAN_PAD bytes more are read. */
static inline bool mr_scan_is_value(const uint8_t *p, size_t len)
{
    return mr_scan_is_plain_value(p, len) || mr_scan_class(p, p + len, MR_BYTE_VALUE) == p + len;
}

#endif
