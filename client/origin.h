/*
 * Where a pool's requests go: host, port and path of its URL, and what the request says of them.
 * Pure.
 */
#ifndef MR_CLIENT_ORIGIN_H
#define MR_CLIENT_ORIGIN_H

#include "base/url.h"

struct mr_origin {
    char *host;      /* lower case; NULL for none */
    char *authority; /* host[:port] as the Host header says it */
    uint16_t port;
};

/* "Basic " and the base64 of the longest user and password a URL may hold. */
#define MR_BASIC_MAX (8 + (MR_URL_USER_MAX + MR_URL_PASSWORD_MAX + 4) / 3 * 4)

/* RFC 7617. Writes at most cap bytes, no NUL; returns how many, 0 if it does not fit. */
size_t mr_origin_basic(moor_span user, moor_span password, char *out, size_t cap);
/* RFC 9112 3.2: host, with the port if it is not the scheme's. Returns how many bytes, without the NUL
 * that follows; 0 if it does not fit. */
size_t mr_origin_authority(const struct mr_url *u, char *out, size_t cap);

#endif
