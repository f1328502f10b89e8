/*
 * What load and pool measure beside the library's own statistics: time, and the cost of the process.
 */
#ifndef TOOL_MEASURE_H
#define TOOL_MEASURE_H

#include <stdint.h>

#define NS_PER_S 1000000000LL

/* Monotonic. */
int64_t now_ns(void);
/* CPU time of the whole process so far. */
int64_t cpu_ns(void);
/* Bytes that are this process's alone and were written to; -1 if the kernel does not say. */
int64_t private_dirty(void);
/* To what is allowed: a descriptor per connection, and some for the shards. */
void raise_descriptor_limit(void);

#endif
