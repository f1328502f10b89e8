/*
 * The futex system call, private to the process, with absolute deadlines.
 * Any thread. The kernel compares the word and sleeps atomically, so no wake is lost; a waker may
 * touch the word's address after the sleeper is gone, which the kernel answers with an error we
 * drop.
 */
#include "base/futex.h"
#include "base/assert.h"
#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

moor_err mr_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns)
{
    struct timespec at = {
        .tv_sec = deadline_ns / MR_NS_PER_SEC,
        .tv_nsec = deadline_ns % MR_NS_PER_SEC,
    };
    if (deadline_ns <= 0)
        at = (struct timespec){0};
    /* WAIT_BITSET, unlike WAIT, takes an absolute time: a spurious wake cannot stretch it. */
    const long failed = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected,
                                deadline_ns == MR_NEVER ? NULL : &at, NULL, FUTEX_BITSET_MATCH_ANY);
    if (!failed)
        return MOOR_OK;
    MR_ASSERT(errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT);
    return errno == ETIMEDOUT ? MOOR_ETIMEDOUT : MOOR_OK;
}

unsigned mr_futex_wake(_Atomic uint32_t *word, unsigned count)
{
    const int limit = count > INT_MAX ? INT_MAX : (int)count;
    const long woken = syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, limit, NULL, NULL, 0);
    return woken > 0 ? (unsigned)woken : 0;
}
