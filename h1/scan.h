/*
 * Finding the first byte that may not go on: 16 at a time with SSE2, one at a time without.
 * Never reads outside [begin, end): the last bytes are read as the 16 that end at end.
 */
#ifndef MR_H1_SCAN_H
#define MR_H1_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__SSE2__) && !defined(MR_H1_SCALAR)
#include <emmintrin.h>
#define MR_H1_SSE2 1
#else
#define MR_H1_SSE2 0
#endif

/* Classes of bytes; bits of mr_h1_class[]. */
enum {
    MR_H1_TOKEN = 1,     /* tchar, RFC 9110 5.6.2: names and methods            */
    MR_H1_VALUE = 2,     /* field-content: SP, TAB, visible, obs-text           */
    MR_H1_TARGET = 4,    /* visible ASCII but '#': a request target             */
    MR_H1_AUTHORITY = 8, /* host, port, brackets, percent: a Host value         */
};
extern const uint8_t mr_h1_class[256];

static inline bool mr_h1_is(uint8_t byte, unsigned class_bits)
{
    return (mr_h1_class[byte] & class_bits) != 0;
}

/* The first byte outside the class, or end. */
static inline const uint8_t *mr_h1_scan_class(const uint8_t *p, const uint8_t *end, unsigned bits)
{
    while (p < end && mr_h1_is(*p, bits))
        p++;
    return p;
}

#if MR_H1_SSE2

/* Bits of the bytes that are neither a letter nor '-': nearly every name has nothing else. */
static inline unsigned mr_h1_name_stops(const uint8_t *p)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i lower = _mm_or_si128(v, _mm_set1_epi8(0x20));
    /* 'a'..'z' moved to 102..127, where one signed comparison finds them. */
    const __m128i letter =
        _mm_cmpgt_epi8(_mm_add_epi8(lower, _mm_set1_epi8(127 - 'z')), _mm_set1_epi8(127 - 26));
    const __m128i dash = _mm_cmpeq_epi8(v, _mm_set1_epi8('-'));
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(letter, dash)) ^ 0xffffu;
}

/* Bits of the control characters, TAB among them: the caller looks at what stopped it. */
static inline unsigned mr_h1_value_stops(const uint8_t *p)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
    const __m128i del = _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f));
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(low, del));
}

#define MR_H1_SCAN_BLOCKS(p, begin, end, stops)                                                    \
    do {                                                                                           \
        while ((end) - (p) >= 16) {                                                                \
            const unsigned mask_ = stops(p);                                                       \
            if (mask_)                                                                             \
                return (p) + __builtin_ctz(mask_);                                                 \
            (p) += 16;                                                                             \
        }                                                                                          \
        if ((end) - (begin) >= 16) {                                                               \
            const unsigned mask_ = stops((end)-16) >> (16 - ((end) - (p)));                        \
            return mask_ ? (p) + __builtin_ctz(mask_) : (end);                                     \
        }                                                                                          \
    } while (0)

static inline const uint8_t *mr_h1_scan_plain_name(const uint8_t *p, const uint8_t *begin,
                                                   const uint8_t *end)
{
    MR_H1_SCAN_BLOCKS(p, begin, end, mr_h1_name_stops);
    return p;
}

static inline const uint8_t *mr_h1_scan_plain_value(const uint8_t *p, const uint8_t *begin,
                                                    const uint8_t *end)
{
    MR_H1_SCAN_BLOCKS(p, begin, end, mr_h1_value_stops);
    return p;
}

#else

static inline const uint8_t *mr_h1_scan_plain_name(const uint8_t *p, const uint8_t *begin,
                                                   const uint8_t *end)
{
    (void)begin;
    (void)end;
    return p;
}

static inline const uint8_t *mr_h1_scan_plain_value(const uint8_t *p, const uint8_t *begin,
                                                    const uint8_t *end)
{
    (void)begin;
    (void)end;
    return p;
}

#endif

/* The first byte that is not a token character, or end. [begin, p) must be readable. */
static inline const uint8_t *mr_h1_scan_name(const uint8_t *p, const uint8_t *begin,
                                             const uint8_t *end)
{
    p = mr_h1_scan_plain_name(p, begin, end);
    if (p < end && *p == ':')
        return p;
    return mr_h1_scan_class(p, end, MR_H1_TOKEN);
}

/* The first byte that may not stand in a value, or end. [begin, p) must be readable. */
static inline const uint8_t *mr_h1_scan_value(const uint8_t *p, const uint8_t *begin,
                                              const uint8_t *end)
{
    p = mr_h1_scan_plain_value(p, begin, end);
    if (p < end && *p == '\r')
        return p;
    return mr_h1_scan_class(p, end, MR_H1_VALUE);
}

#endif
