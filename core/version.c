/*
 * What this build is. Pure.
 */
#include <mooring/runtime.h>

#include <ares_version.h>

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

_Static_assert(MOOR_VERSION_NUMBER == 100, "the text below names the same version");

uint32_t moor_version_number(void)
{
    return MOOR_VERSION_NUMBER;
}

const char *moor_build_info(void)
{
    return "mooring 0.1.0; c-ares " ARES_VERSION_STR "; io_uring and epoll; "
           "wolfSSL " MR_WOLFSSL_TEXT "; " COMPILER;
}
