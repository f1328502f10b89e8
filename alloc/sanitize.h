/*
 * Which sanitizer this build runs under, and marking bytes that nobody may touch. Pure; any thread.
 * Without AddressSanitizer the marks cost nothing.
 */
#ifndef MR_ALLOC_SANITIZE_H
#define MR_ALLOC_SANITIZE_H

#if defined(__has_feature)
#define MR_HAS_FEATURE(x) __has_feature(x)
#else
#define MR_HAS_FEATURE(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || MR_HAS_FEATURE(address_sanitizer)
#define MR_ASAN 1
#include <sanitizer/asan_interface.h>
#define MR_POISON(ptr, len)   ASAN_POISON_MEMORY_REGION((ptr), (len))
#define MR_UNPOISON(ptr, len) ASAN_UNPOISON_MEMORY_REGION((ptr), (len))
#else
#define MR_ASAN               0
#define MR_POISON(ptr, len)   ((void)(ptr), (void)(len))
#define MR_UNPOISON(ptr, len) ((void)(ptr), (void)(len))
#endif

#if defined(__SANITIZE_THREAD__) || MR_HAS_FEATURE(thread_sanitizer)
#define MR_TSAN 1
#else
#define MR_TSAN 0
#endif

/* Sanitizers know the host's malloc only: under them it is what stands behind every heap. */
#define MR_HEAP_ON_HOST (MR_ASAN || MR_TSAN || MR_HAS_FEATURE(memory_sanitizer))

#endif
