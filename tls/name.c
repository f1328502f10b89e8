/*
 * Compares a host with a certificate's names. Any thread; no state, no allocation.
 * Never guesses: what is not certainly a match is none, since a match is what lets secrets out.
 */
#include "tls/name.h"
#include "base/span.h"

#include <arpa/inet.h>

#define NAME_MAX_BYTES  253 /* RFC 1035 2.3.4, as text without the final dot */
#define LABEL_MAX_BYTES 63

static bool is_address_named(const struct mr_cert *c, moor_span host);
static bool is_name_named(const struct mr_cert *c, moor_span host);

bool mr_tls_name_matches(const struct mr_cert *c, moor_span host, bool is_ip)
{
    return is_ip ? is_address_named(c, host) : is_name_named(c, host);
}

/* 4 or 16 bytes of an address; 0 if it is none. */
static size_t read_address(moor_span host, unsigned char address[16])
{
    char text[INET6_ADDRSTRLEN];
    /* inet_pton stops at a NUL, wherever it stands. */
    if (host.len == 0 || host.len >= sizeof text || memchr(host.base, 0, host.len))
        return 0;
    memcpy(text, host.base, host.len);
    text[host.len] = 0;
    if (inet_pton(AF_INET, text, address) == 1)
        return 4;
    return inet_pton(AF_INET6, text, address) == 1 ? 16 : 0;
}

static bool is_address_named(const struct mr_cert *c, moor_span host)
{
    unsigned char address[16];
    const moor_span wanted = {address, read_address(host, address)};
    moor_span rest = c->san;
    struct mr_cert_san san;
    if (wanted.len == 0)
        return false;
    while (mr_cert_next_san(&rest, &san))
        if (san.kind == MR_CERT_SAN_IP && mr_span_is_equal(san.value, wanted))
            return true;
    return false;
}

/* The length of the first label. */
static size_t label_len(moor_span name)
{
    const char *dot = name.len ? memchr(name.base, '.', name.len) : NULL;
    return dot ? (size_t)(dot - (const char *)name.base) : name.len;
}

static bool is_label(moor_span label)
{
    const unsigned char *b = label.base;
    if (label.len == 0 || label.len > LABEL_MAX_BYTES)
        return false;
    for (size_t i = 0; i < label.len; i++)
        if (!mr_ascii_is_alpha(b[i]) && !mr_ascii_is_digit(b[i]) && b[i] != '-' && b[i] != '_')
            return false;
    return true;
}

/* 255 or 0xff, or 0x alone: resolvers differ over that. */
static bool is_number(moor_span label)
{
    const unsigned char *b = label.base;
    const bool is_hex = label.len >= 2 && b[0] == '0' && mr_ascii_lower(b[1]) == 'x';
    for (size_t i = is_hex ? 2 : 0; i < label.len; i++)
        if (is_hex ? mr_ascii_hex(b[i]) < 0 : !mr_ascii_is_digit(b[i]))
            return false;
    return true;
}

/* A name without wildcard and final dot; its number of labels, 0 if it is none. */
static size_t count_labels(moor_span name)
{
    size_t count = 0;
    if (name.len > NAME_MAX_BYTES)
        return 0;
    for (;;) {
        const moor_span label = {name.base, label_len(name)};
        if (!is_label(label))
            return 0;
        count++;
        if (label.len == name.len)
            return is_number(label) ? 0 : count;
        name = mr_span_skip(name, label.len + 1);
    }
}

/* host is a name, so what equals it is one too. */
static bool is_match(moor_span pattern, moor_span host)
{
    const unsigned char *p = pattern.base;
    if (pattern.len < 2 || p[0] != '*' || p[1] != '.')
        return mr_span_is_equal_nocase(pattern, host);
    const moor_span suffix = mr_span_skip(pattern, 2);
    return count_labels(suffix) >= 2 &&
           mr_span_is_equal_nocase(suffix, mr_span_skip(host, label_len(host) + 1));
}

static bool is_name_named(const struct mr_cert *c, moor_span host)
{
    const char *h = host.base;
    moor_span rest = c->san;
    struct mr_cert_san san;
    if (host.len && h[host.len - 1] == '.')
        host.len--;
    if (count_labels(host) == 0)
        return false;
    while (mr_cert_next_san(&rest, &san))
        if (san.kind == MR_CERT_SAN_DNS && is_match(san.value, host))
            return true;
    return false;
}
