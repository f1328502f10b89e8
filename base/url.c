/*
 * One pass from left to right: scheme, authority, target. Any thread; the parts live in the
 * caller's storage. Never guesses: what two programs could read differently is refused, since the
 * one who checked a URL may not be the one who dials it.
 */
#include "base/url.h"
#include "base/assert.h"
#include "base/span.h"

#include <arpa/inet.h>
#include <stdio.h>

struct parser {
    const unsigned char *text;
    size_t len;
    size_t at;     /* everything before is parsed */
    char *storage; /* next free byte */
    struct mr_url *url;
    struct mr_url_fault fault;
    bool is_driver;
    uint16_t port; /* is_driver: where the URL gives none */
};

static const struct {
    const char *name;
    uint16_t port;
    bool is_http;
    bool is_tls;
} schemes[] = {
#define X(id, name, port, is_http, is_tls) {name, port, is_http, is_tls},
    MR_URL_SCHEMES(X)
#undef X
};

const char *mr_url_scheme_name(enum mr_url_scheme s)
{
    return schemes[s].name;
}

bool mr_url_scheme_is_tls(enum mr_url_scheme s)
{
    return schemes[s].is_tls;
}

bool mr_url_scheme_is_http(enum mr_url_scheme s)
{
    return schemes[s].is_http;
}

static moor_err refuse(struct parser *p, moor_err e, size_t at, const char *what)
{
    p->fault = (struct mr_url_fault){.what = what, .at = at};
    return e;
}

static moor_err check_bytes(struct parser *p);
static moor_err parse_scheme(struct parser *p);
static moor_err parse_unix(struct parser *p);
static moor_err parse_authority(struct parser *p);
static moor_err parse_target(struct parser *p);

static moor_err parse_all(struct parser *p)
{
    MR_TRY(check_bytes(p));
    MR_TRY(parse_scheme(p));
    if (p->url->scheme == MR_URL_UNIX)
        return parse_unix(p);
    MR_TRY(parse_authority(p));
    return parse_target(p);
}

static moor_err parse(struct parser *p, char *storage, struct mr_url *out,
                      struct mr_url_fault *out_fault)
{
    struct mr_url parsed = {.user = {"", 0}, .password = {"", 0}, .target = {"", 0}};
    p->storage = storage;
    p->url = &parsed;
    const moor_err e = parse_all(p);
    MR_ASSERT((size_t)(p->storage - storage) <= MR_URL_STORAGE(p->len));
    if (e == MOOR_OK)
        *out = parsed;
    else if (out_fault)
        *out_fault = p->fault;
    return e;
}

moor_err mr_url_parse(moor_span url, char *storage, struct mr_url *out,
                      struct mr_url_fault *out_fault)
{
    struct parser p = {.text = url.base, .len = url.len};
    return parse(&p, storage, out, out_fault);
}

moor_err mr_url_parse_driver(moor_span url, uint16_t port, char *storage, struct mr_url *out,
                             struct mr_url_fault *out_fault)
{
    struct parser p = {.text = url.base, .len = url.len, .is_driver = true, .port = port};
    return parse(&p, storage, out, out_fault);
}

/* Copies bytes to the storage and puts a NUL behind them. */
static moor_span keep(struct parser *p, const void *from, size_t len)
{
    char *to = p->storage;
    if (len)
        memmove(to, from, len);
    to[len] = 0;
    p->storage += len + 1;
    return (moor_span){to, len};
}

/* Hosts are compared as bytes by whoever pools by them, so they have one spelling. */
static moor_span keep_lower(struct parser *p, size_t from, size_t to)
{
    char *host = p->storage;
    for (size_t i = 0; i < to - from; i++)
        host[i] = (char)mr_ascii_lower(p->text[from + i]);
    return keep(p, host, to - from);
}

static moor_err check_bytes(struct parser *p)
{
    bool in_authority = !(p->len >= 5 && memcmp(p->text, "unix:", 5) == 0);
    unsigned slashes = 0;
    MR_FAIL_IF(p->len == 0, refuse(p, MOOR_EINVAL, 0, "the URL is empty"));
    MR_FAIL_IF(p->len > MR_URL_MAX,
               refuse(p, MOOR_ETOOBIG, MR_URL_MAX, "the URL is longer than 8192 bytes"));
    for (size_t i = 0; i < p->len; i++) {
        const unsigned char c = p->text[i];
        slashes += c == '/';
        in_authority = in_authority && slashes < 3 && c != '?' && c != '#';
        if (c == ' ')
            return refuse(p, MOOR_EINVAL, i, "a space: write %20");
        if (c < ' ' || c == 0x7f)
            return refuse(p, MOOR_EINVAL, i, "a control character");
        if (c >= 0x80)
            return refuse(p, MOOR_EINVAL, i,
                          in_authority ? "IDN is not supported: use the xn-- form of the host"
                                       : "a byte that is not ASCII: percent-encode it");
    }
    return MOOR_OK;
}

static moor_err parse_scheme(struct parser *p)
{
    size_t end = 0;
    while (end < p->len && (mr_ascii_is_alpha(p->text[end]) || mr_ascii_is_digit(p->text[end]) ||
                            (end && memchr("+-.", p->text[end], 3))))
        end++;
    const bool is_unix = end == 4 && end < p->len && p->text[end] == ':' &&
                         mr_span_is_equal_nocase((moor_span){p->text, end}, MR_SPAN("unix"));
    MR_FAIL_IF(end == 0 || end == p->len || p->text[end] != ':',
               refuse(p, MOOR_EINVAL, 0, "a scheme is missing, such as http://"));
    /* "host:80" has the shape of a scheme; the two slashes tell. */
    if (!is_unix && (p->len - end < 3 || p->text[end + 1] != '/' || p->text[end + 2] != '/'))
        return refuse(p, MOOR_EINVAL, end + 1, "// is missing after the scheme");
    p->at = is_unix ? end + 1 : end + 3;
    const moor_span given = {p->text, end};
    if (p->is_driver) {
        p->url->scheme = MR_URL_DRIVER;
        return MOOR_OK;
    }
    for (int i = 0; i < MR_URL_DRIVER; i++) {
        if (mr_span_is_equal_nocase(given, mr_span_cstr(schemes[i].name))) {
            p->url->scheme = (enum mr_url_scheme)i;
            return MOOR_OK;
        }
    }
    /* libpq's other name for it. */
    if (mr_span_is_equal_nocase(given, MR_SPAN("postgresql"))) {
        p->url->scheme = MR_URL_POSTGRES;
        return MOOR_OK;
    }
    return refuse(p, MOOR_ENOSYS, 0,
                  "unknown scheme: http https h2c ws wss tcp unix redis postgres mysql ssh");
}

/* Decodes text[from, to) into the storage. */
static moor_err keep_decoded(struct parser *p, size_t from, size_t to, moor_span *out)
{
    size_t len;
    size_t bad;
    if (!mr_percent_decode((moor_span){p->text + from, to - from}, p->storage, &len, &bad))
        return refuse(p, MOOR_EINVAL, from + bad,
                      "% is not followed by two hexadecimal digits above 00");
    *out = keep(p, p->storage, len);
    return MOOR_OK;
}

/* unix:/path and unix:///path. */
static moor_err parse_unix(struct parser *p)
{
    if (p->len - p->at >= 3 && memcmp(p->text + p->at, "///", 3) == 0)
        p->at += 2;
    if (p->at == p->len || p->text[p->at] != '/' ||
        (p->len - p->at > 1 && p->text[p->at + 1] == '/'))
        return refuse(p, MOOR_EINVAL, p->at, "an absolute path is missing: unix:/path");
    for (size_t i = p->at; i < p->len; i++)
        if (p->text[i] == '?' || p->text[i] == '#')
            return refuse(p, MOOR_EINVAL, i, "a socket's path has no query: write %3F or %23");
    MR_TRY(keep_decoded(p, p->at, p->len, &p->url->host));
    MR_FAIL_IF(p->url->host.len > MR_URL_PATH_MAX,
               refuse(p, MOOR_ETOOBIG, p->at, "the socket's path is longer than 107 bytes"));
    MR_FAIL_IF(p->url->host.len < 2,
               refuse(p, MOOR_EINVAL, p->len, "the socket's path is missing"));
    p->url->host_kind = MR_URL_PATH;
    return MOOR_OK;
}

static bool is_unreserved(unsigned char c)
{
    return mr_ascii_is_alpha(c) || mr_ascii_is_digit(c) || (c && strchr("-._~", c));
}

static moor_err parse_userinfo(struct parser *p, size_t end)
{
    size_t colon = end;
    for (size_t i = p->at; i < end; i++) {
        const unsigned char c = p->text[i];
        if (c == ':' && colon == end)
            colon = i;
        if (c == '@')
            return refuse(p, MOOR_EINVAL, i, "@ in the userinfo: write %40");
        if (!is_unreserved(c) && !strchr("!$&'()*+,;=:%", c))
            return refuse(p, MOOR_EINVAL, i,
                          "this character is not allowed in the userinfo: percent-encode it");
    }
    p->url->has_userinfo = true;
    MR_TRY(keep_decoded(p, p->at, colon, &p->url->user));
    MR_FAIL_IF(p->url->user.len > MR_URL_USER_MAX,
               refuse(p, MOOR_ETOOBIG, p->at, "the user is longer than 255 bytes"));
    if (colon < end) {
        p->url->has_password = true;
        MR_TRY(keep_decoded(p, colon + 1, end, &p->url->password));
        MR_FAIL_IF(p->url->password.len > MR_URL_PASSWORD_MAX,
                   refuse(p, MOOR_ETOOBIG, colon + 1, "the password is longer than 1024 bytes"));
    }
    p->at = end + 1;
    return MOOR_OK;
}

static moor_err parse_ipv6(struct parser *p, size_t end, size_t *out_host_end)
{
    const size_t start = p->at + 1;
    size_t close = start;
    struct in6_addr parsed;
    while (close < end && p->text[close] != ']') {
        if (p->text[close] == '%')
            return refuse(p, MOOR_EINVAL, close, "IPv6 zones are not supported");
        close++;
    }
    MR_FAIL_IF(close == end, refuse(p, MOOR_EINVAL, p->at, "] is missing"));
    p->url->host = keep_lower(p, start, close);
    MR_FAIL_IF(inet_pton(AF_INET6, p->url->host.base, &parsed) != 1,
               refuse(p, MOOR_EINVAL, start, "not an IPv6 address"));
    p->url->host_kind = MR_URL_IPV6;
    *out_host_end = close + 1;
    return MOOR_OK;
}

/* The labels of [from, to): neither empty nor too long, of characters host names are made of. */
static moor_err check_labels(struct parser *p, size_t from, size_t to, size_t *out_last_label)
{
    size_t label = from;
    for (size_t i = from; i <= to; i++) {
        const unsigned char c = i < to ? p->text[i] : '.';
        if (c == '%')
            return refuse(p, MOOR_EINVAL, i, "% in the host");
        if (!mr_ascii_is_alpha(c) && !mr_ascii_is_digit(c) && !strchr("-_.", c))
            return refuse(p, MOOR_EINVAL, i, "this character is not allowed in a host");
        if (c != '.')
            continue;
        /* One dot may end the name. */
        if (i == label && !(i == to && i > from))
            return refuse(p, MOOR_EINVAL, i, "an empty label in the host");
        if (i - label > MR_URL_LABEL_MAX)
            return refuse(p, MOOR_ETOOBIG, label, "a label of the host is longer than 63 bytes");
        if (i > label)
            *out_last_label = label;
        label = i + 1;
    }
    return MOOR_OK;
}

/* Resolvers read a host that ends in a number as an address, in notations of their own: 127.1,
 * 0x7f.1. */
static bool ends_in_number(const struct parser *p, size_t last_label, size_t to)
{
    size_t i = last_label;
    if (to - i > 2 && p->text[i] == '0' && mr_ascii_lower(p->text[i + 1]) == 'x') {
        for (i += 2; i < to && mr_ascii_hex(p->text[i]) >= 0;)
            i++;
    } else {
        while (i < to && mr_ascii_is_digit(p->text[i]))
            i++;
    }
    return i == to || (i + 1 == to && i > last_label && p->text[i] == '.');
}

static moor_err parse_host_path(struct parser *p, size_t to)
{
    MR_TRY(keep_decoded(p, p->at, to, &p->url->host));
    MR_FAIL_IF(p->url->host.len > MR_URL_PATH_MAX,
               refuse(p, MOOR_ETOOBIG, p->at, "the socket's path is longer than 107 bytes"));
    p->url->host_kind = MR_URL_PATH;
    return MOOR_OK;
}

static moor_err parse_name(struct parser *p, size_t to)
{
    struct in_addr parsed;
    size_t last_label = p->at;
    MR_FAIL_IF(p->at == to, refuse(p, MOOR_EINVAL, p->at, "the host is missing"));
    if (p->is_driver && to - p->at > 3 &&
        mr_span_is_equal_nocase((moor_span){p->text + p->at, 3}, MR_SPAN("%2F")))
        return parse_host_path(p, to);
    const size_t len = to - p->at - (p->text[to - 1] == '.');
    MR_TRY(check_labels(p, p->at, to, &last_label));
    MR_FAIL_IF(len > MR_URL_HOST_MAX,
               refuse(p, MOOR_ETOOBIG, p->at, "the host is longer than 253 bytes"));
    p->url->host = keep_lower(p, p->at, to);
    p->url->host_kind = MR_URL_NAME;
    if (ends_in_number(p, last_label, to)) {
        MR_FAIL_IF(
            inet_pton(AF_INET, p->url->host.base, &parsed) != 1,
            refuse(p, MOOR_EINVAL, p->at, "not an IPv4 address, though it ends in a number"));
        p->url->host_kind = MR_URL_IPV4;
    }
    return MOOR_OK;
}

static moor_err parse_port(struct parser *p, size_t from, size_t to)
{
    uint64_t port;
    if (from == to) {
        p->url->port = p->is_driver ? p->port : schemes[p->url->scheme].port;
        if (p->url->host_kind == MR_URL_PATH)
            return MOOR_OK;
        MR_FAIL_IF(p->url->port == 0, refuse(p, MOOR_EINVAL, to, "this scheme needs a port"));
        return MOOR_OK;
    }
    MR_FAIL_IF(p->text[from] != ':',
               refuse(p, MOOR_EINVAL, from, "only a port may follow the host"));
    MR_FAIL_IF(from + 1 == to, refuse(p, MOOR_EINVAL, to, "the port is missing after the colon"));
    MR_FAIL_IF(!mr_span_to_u64((moor_span){p->text + from + 1, to - from - 1}, &port) ||
                   port == 0 || port > UINT16_MAX,
               refuse(p, MOOR_EINVAL, from + 1, "the port is not a number from 1 to 65535"));
    p->url->port = (uint16_t)port;
    p->url->port_given = true;
    return MOOR_OK;
}

static moor_err parse_authority(struct parser *p)
{
    size_t end = p->at;
    size_t userinfo = 0;
    while (end < p->len && !strchr("/?#", p->text[end]))
        end++;
    /* The last @: what is before it never becomes the host. */
    for (size_t i = p->at; i < end; i++)
        if (p->text[i] == '@')
            userinfo = i;
    if (userinfo)
        MR_TRY(parse_userinfo(p, userinfo));
    size_t host_end = p->at;
    if (p->at < end && p->text[p->at] == '[') {
        MR_TRY(parse_ipv6(p, end, &host_end));
    } else {
        while (host_end < end && p->text[host_end] != ':')
            host_end++;
        MR_TRY(parse_name(p, host_end));
    }
    MR_TRY(parse_port(p, host_end, end));
    p->at = end;
    return MOOR_OK;
}

static moor_err parse_target(struct parser *p)
{
    const unsigned char *fragment = memchr(p->text + p->at, '#', p->len - p->at);
    const size_t end = fragment ? (size_t)(fragment - p->text) : p->len;
    for (size_t i = p->at; i < end; i++)
        if (p->text[i] == '%' &&
            (end - i < 3 || mr_ascii_hex(p->text[i + 1]) < 0 || mr_ascii_hex(p->text[i + 2]) < 0))
            return refuse(p, MOOR_EINVAL, i, "% is not followed by two hexadecimal digits");
    if (schemes[p->url->scheme].is_http && (p->at == end || p->text[p->at] == '?')) {
        /* RFC 9112 3.2.1: a request target in origin form begins with a slash. */
        char *target = p->storage;
        *p->storage++ = '/';
        keep(p, p->text + p->at, end - p->at);
        p->url->target = (moor_span){target, end - p->at + 1};
        return MOOR_OK;
    }
    p->url->target = keep(p, p->text + p->at, end - p->at);
    return MOOR_OK;
}

bool mr_percent_decode(moor_span in, char *out, size_t *out_len, size_t *out_at)
{
    const unsigned char *text = in.base;
    size_t len = 0;
    for (size_t i = 0; i < in.len; i++) {
        if (text[i] != '%') {
            out[len++] = (char)text[i];
            continue;
        }
        const int high = in.len - i > 2 ? mr_ascii_hex(text[i + 1]) : -1;
        const int low = in.len - i > 2 ? mr_ascii_hex(text[i + 2]) : -1;
        /* A NUL would cut the text for every C library that gets it. */
        if (high < 0 || low < 0 || (high | low) == 0) {
            *out_at = i;
            return false;
        }
        out[len++] = (char)(high << 4 | low);
        i += 2;
    }
    *out_len = len;
    return true;
}
