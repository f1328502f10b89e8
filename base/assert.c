/*
 * The one way the library stops a process. Any thread.
 * Must not allocate: the heap may be what broke.
 */
#include "base/assert.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static _Atomic(void (*)(void)) panic_hook;

void mr_panic_set_hook(void (*hook)(void))
{
    atomic_store(&panic_hook, hook);
}

_Noreturn void mr_panic(const char *file, int line, const char *expr)
{
    fprintf(stderr, "mooring: broken invariant at %s:%d: %s\n", file, line, expr);
    void (*hook)(void) = atomic_exchange(&panic_hook, NULL);
    if (hook)
        hook();
    abort();
}
