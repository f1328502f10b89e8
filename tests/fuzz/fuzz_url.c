/*
 * Any bytes as a URL: no memory error, parts within their promises, the offset of an error within
 * the text, and no decoded or masked text longer than its room.
 */
#include "base/mask.h"
#include "base/span.h"
#include "base/url.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

static void check_part(moor_span part, const char *storage, size_t room)
{
    const char *base = part.base;
    CHECK(base != NULL);
    CHECK(base[part.len] == 0);
    CHECK(part.len == 0 || (base >= storage && base + part.len < storage + room));
}

static void check_good(const struct mr_url *u, const char *storage, size_t room)
{
    check_part(u->user, storage, room);
    check_part(u->password, storage, room);
    check_part(u->host, storage, room);
    check_part(u->target, storage, room);
    CHECK(u->host.len > 0);
    CHECK(strlen(u->host.base) == u->host.len);
    CHECK(strlen(u->user.base) == u->user.len);
    CHECK((u->scheme == MR_URL_UNIX) == (u->port == 0));
    if (mr_url_scheme_is_http(u->scheme))
        CHECK(*(const char *)u->target.base == '/');
    const char *target = u->target.base;
    for (size_t i = 0; i < u->target.len; i++)
        CHECK(target[i] > ' ' && target[i] < 0x7f && target[i] != '#');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const moor_span text = {data, size};
    const size_t room = MR_URL_STORAGE(size);
    char *storage = malloc(room);
    struct mr_url u;
    struct mr_url_fault f = {NULL, 0};
    CHECK(storage != NULL);
    if (mr_url_parse(text, storage, &u, &f) == MOOR_OK)
        check_good(&u, storage, room);
    else
        CHECK(f.what != NULL && f.at <= size);

    char masked[64];
    mr_url_masked(text, masked, sizeof masked);
    CHECK(strlen(masked) < sizeof masked);

    size_t len = 0;
    size_t at = 0;
    if (mr_percent_decode(text, storage, &len, &at))
        CHECK(len <= size);
    else
        CHECK(at < size && data[at] == '%');
    free(storage);
    return 0;
}
