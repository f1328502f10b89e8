/*
 * Broken invariants stop the process and say why; peer bytes, kernel results, environment and
 * allocation are never asserted on, they are errors.
 */
#ifndef MR_BASE_ASSERT_H
#define MR_BASE_ASSERT_H

#include <mooring/error.h>

/* Prints the failed expression, calls the panic hook (which prints traces), aborts. */
_Noreturn void mr_panic(const char *file, int line, const char *expr);
/* Called once by mr_panic before abort; NULL removes it. Any thread, at start-up. */
void mr_panic_set_hook(void (*hook)(void));

#define MR_LIKELY(x)   __builtin_expect(!!(x), 1)
#define MR_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Cheap, always compiled. */
#define MR_ASSERT(x) (MR_LIKELY(x) ? (void)0 : mr_panic(__FILE__, __LINE__, #x))

/* May be expensive: debug, sanitizer and simulation builds only. */
#if defined(MR_DEBUG)
#define MR_DEBUG_ASSERT(x) MR_ASSERT(x)
#else
#define MR_DEBUG_ASSERT(x) ((void)0)
#endif

/* In a loop that waits for another core. */
#if defined(__x86_64__) || defined(__i386__)
#define MR_RELAX() __builtin_ia32_pause()
#else
#define MR_RELAX() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#endif

#define MR_TRY(expr)                                                                               \
    do {                                                                                           \
        moor_err mr_e_ = (expr);                                                                   \
        if (mr_e_)                                                                                 \
            return mr_e_;                                                                          \
    } while (0)
#define MR_FAIL_IF(cond, e)                                                                        \
    do {                                                                                           \
        if (cond)                                                                                  \
            return (e);                                                                            \
    } while (0)

#endif
