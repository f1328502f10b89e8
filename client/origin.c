/*
 * Where a pool's requests go, in the words of the request head. Pure.
 */
#include "client/origin.h"

#include <stdio.h>
#include <string.h>

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static size_t encode(const unsigned char *in, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i += 3) {
        const unsigned b = i + 1 < len ? in[i + 1] : 0;
        const unsigned c = i + 2 < len ? in[i + 2] : 0;
        const unsigned bits = (unsigned)in[i] << 16 | b << 8 | c;
        out[n++] = base64[bits >> 18];
        out[n++] = base64[bits >> 12 & 63];
        out[n++] = i + 1 < len ? base64[bits >> 6 & 63] : '=';
        out[n++] = i + 2 < len ? base64[bits & 63] : '=';
    }
    return n;
}

size_t mr_origin_basic(moor_span user, moor_span password, char *out, size_t cap)
{
    unsigned char both[MR_URL_USER_MAX + MR_URL_PASSWORD_MAX + 1];
    const size_t len = user.len + 1 + password.len;
    if (len > sizeof both || cap < 6 + (len + 2) / 3 * 4)
        return 0;
    memcpy(both, user.base, user.len);
    both[user.len] = ':';
    if (password.len)
        memcpy(both + user.len + 1, password.base, password.len);
    memcpy(out, "Basic ", 6);
    const size_t n = 6 + encode(both, len, out + 6);
    explicit_bzero(both, sizeof both);
    return n;
}

size_t mr_origin_authority(const struct mr_url *u, char *out, size_t cap)
{
    const bool is_v6 = u->host_kind == MR_URL_IPV6;
    const bool is_default = u->port == (mr_url_scheme_is_tls(u->scheme) ? 443 : 80);
    char port[8] = "";
    if (!is_default)
        snprintf(port, sizeof port, ":%u", u->port);
    const int n = snprintf(out, cap, "%s%.*s%s%s", is_v6 ? "[" : "", (int)u->host.len,
                           (const char *)u->host.base, is_v6 ? "]" : "", port);
    return n < 0 || (size_t)n >= cap ? 0 : (size_t)n;
}
