/*
 * Sleep until a 32-bit word changes. What the blocking entry points wait on.
 */
#ifndef MR_BASE_FUTEX_H
#define MR_BASE_FUTEX_H

#include <mooring/error.h>

#include <stdatomic.h>

/*
 * Sleeps while *word is `expected`, until woken or until `deadline_ns` of CLOCK_MONOTONIC (MR_NEVER
 * = no deadline). MOOR_OK may be spurious, so callers test their condition again; MOOR_ETIMEDOUT
 * only when the deadline has passed. Never call it on a shard.
 */
MOOR_NODISCARD moor_err mr_futex_wait(_Atomic uint32_t *word, uint32_t expected,
                                      int64_t deadline_ns);
/* Wakes at most `count` sleepers; returns how many. Store to the word first. Any thread. */
unsigned mr_futex_wake(_Atomic uint32_t *word, unsigned count);

#endif
