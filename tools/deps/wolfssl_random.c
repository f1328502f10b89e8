/*
 * wolfSSL's randomness: the kernel's, a system call for each request. Part of the archive build-wolfssl makes; any
 * thread. Instead of a generator of its own for each connection, which costs more to seed and to test than a handshake
 * ever asks of it.
 */
#include "wolfssl_random.h"

#include <errno.h>
#include <sys/random.h>

int mr_wolfssl_random(unsigned char *into, unsigned int len)
{
    while (len > 0) {
        const ssize_t got = getrandom(into, len, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1; /* wolfSSL fails the handshake */
        into += got;
        len -= (unsigned int)got;
    }
    return 0;
}
