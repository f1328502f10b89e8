/*
 * The drivers a runtime knows, by the scheme of a URL. Find: any thread.
 */
#ifndef MR_CORE_DRIVER_H
#define MR_CORE_DRIVER_H

#include "core/runtime.h"

#include <mooring/driver.h>

/* NULL: nobody speaks it. */
const moor_driver *mr_driver_find(struct moor_runtime *r, moor_span scheme);

#endif
