/*
 * The driver of the lease benchmarks: a connection is one end of a socket pair, its native object a counter.
 * So everything the pool does is real (descriptor, watch, ages), and no server is needed.
 */
#ifndef LEASE_VOID_DRIVER_H
#define LEASE_VOID_DRIVER_H

#include "harness.h"

#include <mooring/mooring.h>
#include <mooring/driver.h>

#define VOID_URL "void://127.0.0.1:1"

extern const moor_driver void_driver;

/* Uses of the handles dropped since the last call. */
uint64_t void_uses_taken(void);
/* A runtime with default options that knows the driver; says what is wrong. 77: refused here. */
int void_runtime(moor_runtime **out);

#endif
