/*
 * The body pattern, computed once and shared read-only by all threads.
 */
#include "pattern.h"

static char pattern[PATTERN_BLOCK + PATTERN_PERIOD];
static char fill[PATTERN_BLOCK];

void pattern_init(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)(i * 131 % PATTERN_PERIOD);
    memset(fill, 'a', sizeof fill);
}

struct span pattern_at(uint64_t offset, uint64_t len)
{
    return (struct span){pattern + offset % PATTERN_PERIOD,
                         len < PATTERN_BLOCK ? (size_t)len : PATTERN_BLOCK};
}

struct span pattern_fill(uint64_t len)
{
    return (struct span){fill, len < PATTERN_BLOCK ? (size_t)len : PATTERN_BLOCK};
}

bool pattern_matches(uint64_t offset, struct span bytes)
{
    while (bytes.len) {
        const struct span want = pattern_at(offset, bytes.len);
        if (memcmp(want.ptr, bytes.ptr, want.len) != 0)
            return false;
        offset += want.len;
        bytes.ptr += want.len;
        bytes.len -= want.len;
    }
    return true;
}
