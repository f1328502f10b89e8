/*
 * DER written by hand, with the lengths left to the machine:
 *   30{ 06{551d11} 04{ 30{ 82{'example.org'} } } }
 * Hexadecimal digits, in pairs, are bytes; 'text' is its own; the byte before a { is a tag, and the
 * contents up to its } get the shortest length. A length meant to be wrong is written as bytes.
 */
#ifndef TESTS_DER_TEXT_H
#define TESTS_DER_TEXT_H

#include <stdlib.h>
#include <string.h>

#include "base/span.h"

#define DER_TEXT_BYTES_MAX 16384
#define DER_TEXT_DEPTH_MAX 16

struct der_text {
    unsigned char bytes[DER_TEXT_BYTES_MAX];
    size_t len;
    size_t open[DER_TEXT_DEPTH_MAX]; /* where the contents of open elements begin */
    size_t depth;
};

/* Aborts on nonsense: the text is a test's own. */
#define DER_TEXT_CHECK(x)                                                                          \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

static inline void der_text_put(struct der_text *d, unsigned byte)
{
    DER_TEXT_CHECK(d->len < sizeof d->bytes);
    d->bytes[d->len++] = (unsigned char)byte;
}

static inline void der_text_close(struct der_text *d)
{
    DER_TEXT_CHECK(d->depth > 0);
    const size_t start = d->open[--d->depth];
    const size_t len = d->len - start;
    unsigned char header[3] = {(unsigned char)len};
    size_t header_len = 1;
    if (len >= 0x100) {
        header[0] = 0x82;
        header[1] = (unsigned char)(len >> 8);
        header[2] = (unsigned char)len;
        header_len = 3;
    } else if (len >= 0x80) {
        header[0] = 0x81;
        header[1] = (unsigned char)len;
        header_len = 2;
    }
    DER_TEXT_CHECK(len < 0x10000 && d->len + header_len <= sizeof d->bytes);
    memmove(d->bytes + start + header_len, d->bytes + start, len);
    memcpy(d->bytes + start, header, header_len);
    d->len += header_len;
}

/* Appends what the text says; elements may be opened in one call and closed in another. */
static inline void der_text_add(struct der_text *d, const char *text)
{
    while (*text) {
        if (*text == ' ') {
            text++;
        } else if (*text == '{') {
            DER_TEXT_CHECK(d->depth < DER_TEXT_DEPTH_MAX);
            d->open[d->depth++] = d->len;
            text++;
        } else if (*text == '}') {
            der_text_close(d);
            text++;
        } else if (*text == '\'') {
            for (text++; *text != '\''; text++) {
                DER_TEXT_CHECK(*text);
                der_text_put(d, (unsigned char)*text);
            }
            text++;
        } else {
            const int high = mr_ascii_hex((unsigned char)text[0]);
            const int low = high < 0 ? -1 : mr_ascii_hex((unsigned char)text[1]);
            DER_TEXT_CHECK(low >= 0);
            der_text_put(d, (unsigned)(high << 4 | low));
            text += 2;
        }
    }
}

/* Exactly as large as the bytes, from the heap: a sanitizer sees the byte behind. To be freed. */
static inline unsigned char *der_text_copy(const void *bytes, size_t len)
{
    unsigned char *copy = malloc(len ? len : 1);
    DER_TEXT_CHECK(copy != NULL);
    if (len)
        memcpy(copy, bytes, len);
    return copy;
}

#endif
