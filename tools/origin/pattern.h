/*
 * The bytes of every generated body: byte i is (i * 131) % 251. 251 is prime, so the pattern
 * repeats every 251 bytes, never at a power of two: a lost or doubled block is seen at once.
 */
#ifndef ORIGIN_PATTERN_H
#define ORIGIN_PATTERN_H

#include "text.h"

enum { PATTERN_PERIOD = 251, PATTERN_BLOCK = PATTERN_PERIOD * 261 };

void pattern_init(void); /* once, before any other thread runs */

/* At most `len` bytes of the pattern from `offset` on; valid for ever, PATTERN_BLOCK at most. */
struct span pattern_at(uint64_t offset, uint64_t len);
/* Bytes 'a', same bounds. */
struct span pattern_fill(uint64_t len);

bool pattern_matches(uint64_t offset, struct span bytes);

#endif
