/*
 * Chooses the backend of a shard and tells why it is not io_uring.
 * Runs on the thread that will own the backend.
 */
#include "core/io.h"

#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(struct mr_sock) <= 72, "an idle conn stays small");

moor_err mr_io_create(const char *backend, const struct mr_io_config *c, struct mr_io **out,
                      char *why, size_t why_cap)
{
    if (why_cap > 0)
        why[0] = '\0';
    if (backend && strcmp(backend, "epoll") == 0)
        return mr_io_epoll_create(c, out, why, why_cap);
    if (backend && strcmp(backend, "io_uring") == 0)
        return mr_io_uring_create(c, out, why, why_cap);
    if (backend && strcmp(backend, "auto") != 0) {
        snprintf(why, why_cap, "no such backend: %s", backend);
        return MOOR_EINVAL;
    }
    moor_err e = mr_io_uring_create(c, out, why, why_cap);
    if (e == MOOR_OK || e == MOOR_ENOMEM)
        return e;
    /* epoll keeps the text: it is the reason that counts. */
    return mr_io_epoll_create(c, out, NULL, 0);
}
