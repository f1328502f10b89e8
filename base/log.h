/*
 * Log records of one runtime: filtered by level, limited per code, masked, handed to the program's
 * callback or to stderr. Any thread; allocates nothing.
 */
#ifndef MR_BASE_LOG_H
#define MR_BASE_LOG_H

#include "base/clock.h"
#include "base/lock.h"

#include <mooring/options.h>

#include <stdatomic.h>

#define MR_LOG_TEXT_MAX 512 /* with the NUL; longer texts end in "..." */
#define MR_LOG_CODES    32 /* codes limited apart at a time; the one silent for longest makes room */
/* An endpoint that is down fails as fast as it is dialled: so many records of a code in so long. */
#define MR_LOG_BURST     10
#define MR_LOG_WINDOW_NS (10 * MR_NS_PER_SEC)

struct mr_log_code {
    const char *code;    /* NULL = free */
    int64_t begun_ns;    /* start of the window */
    uint32_t passed;     /* in the window */
    uint32_t suppressed; /* in the window, told by the first record of the next */
};

struct mr_log {
    _Atomic int level; /* moor_log_level; may be changed at any time */
    void (*on_log)(void *user, int level, const char *code, const char *text); /* NULL = stderr */
    void *user;
    const struct mr_clock *clock; /* borrowed */
    struct mr_lock lock;          /* codes */
    struct mr_log_code codes[MR_LOG_CODES];
};

/* on_log may be NULL. */
void mr_log_init(struct mr_log *l, moor_log_level level,
                 void (*on_log)(void *user, int level, const char *code, const char *text),
                 void *user, const struct mr_clock *clock);
void mr_log_fini(struct mr_log *l);

static inline bool mr_log_wants(const struct mr_log *l, moor_log_level level)
{
    return l && (int)level <= atomic_load_explicit(&l->level, memory_order_relaxed);
}

/* code: static, short, stable: "pool.dial_failed". The callback runs inside, under no lock. */
__attribute__((format(printf, 4, 5))) void mr_log_write(struct mr_log *l, moor_log_level level,
                                                        const char *code, const char *format, ...);

/* Arguments are not evaluated if nobody listens. l may be NULL. */
#define mr_log(l, level, code, ...)                                                                \
    (mr_log_wants((l), (level)) ? mr_log_write((l), (level), (code), __VA_ARGS__) : (void)0)

const char *mr_log_level_name(int level);

#endif
