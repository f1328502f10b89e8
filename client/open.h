/*
 * What opening a pool is made of, for each kind of scheme. The thread of moor_pool_open.
 */
#ifndef MR_CLIENT_OPEN_H
#define MR_CLIENT_OPEN_H

#include "base/url.h"
#include "core/pool.h"

#include <mooring/driver.h>

#define MR_SCHEME_MAX 32

/* Overlaid with the environment and made consistent; a fault is logged. is_any: an open pool. */
MOOR_NODISCARD moor_err mr_open_options(struct moor_runtime *r, const moor_pool_options *given,
                                        const char *name, bool is_any, moor_pool_options *out);
/* Logs and returns e. */
moor_err mr_open_refuse(struct moor_runtime *r, moor_err e, const char *what, const char *url);
void mr_open_name(const struct mr_url *u, const moor_pool_options *given, char *name, size_t cap);

/* The driver of a URL's scheme, which is put into scheme; NULL: no driver's. */
const moor_driver *mr_open_find_driver(struct moor_runtime *r, const char *url,
                                       char scheme[MR_SCHEME_MAX]);
MOOR_NODISCARD moor_err mr_open_driver(struct moor_runtime *r, const moor_driver *d,
                                       const char *scheme, const char *text, const struct mr_url *u,
                                       const moor_pool_options *given, moor_pool **out_pool);

#endif
