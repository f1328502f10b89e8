/*
 * A host and names of a certificate, in lines: the host first, then names, each after a letter for
 * its kind (d DNS, i IP, else another). Checks what must hold of every match, without knowing how
 * it is made.
 */
#include "base/span.h"
#include "tls/name.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

#define LINE_MAX_BYTES 0xffff

static moor_span take_line(moor_span *rest)
{
    const char *end = rest->len ? memchr(rest->base, '\n', rest->len) : NULL;
    const size_t len = end ? (size_t)(end - (const char *)rest->base) : rest->len;
    const moor_span line = {rest->base, len};
    *rest = mr_span_skip(*rest, len + 1);
    return line;
}

/* One GeneralName; returns its length. IP addresses get a length that mr_cert_parse lets through. */
static size_t put_name(unsigned char *to, unsigned char kind, moor_span value)
{
    size_t at = 0;
    if (kind == 'i' && value.len != 4 && value.len != 16)
        return 0;
    to[at++] = kind == 'd' ? 0x82 : kind == 'i' ? 0x87 : 0x86;
    if (value.len >= 0x100) {
        to[at++] = 0x82;
        to[at++] = (unsigned char)(value.len >> 8);
    } else if (value.len >= 0x80) {
        to[at++] = 0x81;
    }
    to[at++] = (unsigned char)value.len;
    if (value.len)
        memcpy(to + at, value.base, value.len);
    return at + value.len;
}

static bool matches(moor_span san, moor_span host, bool is_ip)
{
    const struct mr_cert c = {.san = san};
    return mr_tls_name_matches(&c, host, is_ip);
}

static unsigned char *copy(moor_span bytes, size_t room)
{
    unsigned char *to = malloc(bytes.len + room + 1);
    CHECK(to != NULL);
    if (bytes.len)
        memcpy(to, bytes.base, bytes.len);
    return to;
}

static void swap_case(unsigned char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        text[i] =
            mr_ascii_lower(text[i]) != text[i] ? mr_ascii_lower(text[i]) : mr_ascii_upper(text[i]);
}

/* A match survives another case and a final dot, and no more than that. */
static void check_host(moor_span san, moor_span host, bool is_match)
{
    unsigned char *other = copy(host, 2);
    swap_case(other, host.len);
    CHECK(matches(san, (moor_span){other, host.len}, false) == is_match);
    const bool has_dot = host.len && other[host.len - 1] == '.';
    other[host.len] = '.';
    if (!has_dot)
        CHECK(matches(san, (moor_span){other, host.len + 1}, false) == is_match);
    else
        CHECK(!matches(san, (moor_span){other, host.len + 1}, false));
    other[host.len] = 0;
    CHECK(!matches(san, (moor_span){other, host.len + 1}, false));
    CHECK(!matches(san, (moor_span){other, host.len + 1}, true));
    free(other);
}

/* One DNS name alone: it is equal, or a wildcard that does not care for the first label. */
static void check_dns_match(moor_span san, moor_span name, moor_span host)
{
    const unsigned char *n = name.base;
    const unsigned char *h = host.base;
    if (h[host.len - 1] == '.')
        host.len--;
    for (size_t i = 0; i < host.len; i++)
        CHECK(mr_ascii_is_alpha(h[i]) || mr_ascii_is_digit(h[i]) || strchr("-_.", h[i]));
    CHECK(host.len > 0 && host.len <= 253 && name.len <= 253);
    if (mr_span_is_equal_nocase(name, host))
        return;
    CHECK(name.len > 4 && n[0] == '*' && n[1] == '.');
    const unsigned char *dot = memchr(h, '.', host.len);
    CHECK(dot != NULL && dot > h && dot - h <= 63);
    const moor_span suffix = mr_span_skip(host, (size_t)(dot - h));
    CHECK(mr_span_is_equal_nocase(mr_span_skip(name, 1), suffix));
    CHECK(memchr(dot + 1, '.', suffix.len - 1) != NULL);
    unsigned char *longer = copy((moor_span){"x.x", 3}, suffix.len);
    memcpy(longer + 3, suffix.base, suffix.len);
    CHECK(!matches(san, (moor_span){longer, 3 + suffix.len}, false));
    CHECK(matches(san, (moor_span){longer + 2, 1 + suffix.len}, false));
    CHECK(!matches(san, mr_span_skip(suffix, 1), false));
    free(longer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    moor_span rest = {data, size};
    const moor_span host = take_line(&rest);
    unsigned char *list =
        malloc(2 * size + 1); /* a line and its end become at most twice as long */
    size_t len = 0;
    bool any_name = false;
    bool any_address = false;
    CHECK(list != NULL);
    while (rest.len) {
        const moor_span line = take_line(&rest);
        if (line.len == 0 || line.len > LINE_MAX_BYTES)
            continue;
        const unsigned char kind = *(const unsigned char *)line.base;
        const moor_span value = mr_span_skip(line, 1);
        const moor_span alone = {list + len, put_name(list + len, kind, value)};
        len += alone.len;
        CHECK(len <= 2 * size);
        const bool name = matches(alone, host, false);
        const bool address = matches(alone, host, true);
        CHECK(!name || kind == 'd');
        CHECK(!address || kind == 'i');
        if (name)
            check_dns_match(alone, value, host);
        any_name = any_name || name;
        any_address = any_address || address;
    }
    unsigned char *exact = copy((moor_span){list, len}, 0);
    const moor_span san = {exact, len};
    CHECK(matches(san, host, false) == any_name);
    CHECK(matches(san, host, true) == any_address);
    CHECK(!(any_name && any_address));
    check_host(san, host, any_name);
    free(exact);
    free(list);
    return 0;
}
