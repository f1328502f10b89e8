/*
 * Connections that lead nowhere. Hooks run on the keeper; nothing here blocks.
 */
#include "void_driver.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct void_conn {
    struct lease_handle handle; /* first: what holders get */
    int fds[2];                 /* ours, the peer's        */
};

static _Atomic uint64_t uses;

static moor_step connect_pair(moor_link *l)
{
    struct void_conn *c = aligned_alloc(_Alignof(struct void_conn), sizeof *c);
    if (!c)
        return moor_link_fail(l, MOOR_ENOMEM, 0, "no memory for a handle");
    c->handle.uses = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, c->fds) != 0) {
        const int e = errno;
        free(c);
        return moor_link_fail(l, MOOR_ECONNECT, e, "no socket pair");
    }
    moor_link_set_state(l, c);
    moor_link_set_native(l, c);
    return MOOR_STEP_DONE;
}

static moor_step resume(moor_link *l, unsigned events)
{
    (void)events;
    return moor_link_fail(l, MOOR_EPROTO, 0, "nothing waits here");
}

static void drop(moor_link *l)
{
    struct void_conn *c = moor_link_state(l);
    if (!c)
        return;
    atomic_fetch_add(&uses, c->handle.uses);
    close(c->fds[0]);
    close(c->fds[1]);
    free(c);
}

static int fd_of(moor_link *l)
{
    const struct void_conn *c = moor_link_state(l);
    return c ? c->fds[0] : -1;
}

const moor_driver void_driver = {
    .size = sizeof void_driver,
    .name = "void",
    .schemes = "void",
    .handle_bytes = sizeof(struct void_conn),
    .connect = connect_pair,
    .resume = resume,
    .drop = drop,
    .fd = fd_of,
};

uint64_t void_uses_taken(void)
{
    return atomic_exchange(&uses, 0);
}

int void_runtime(moor_runtime **out)
{
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    moor_err e = moor_runtime_create(&o, out);
    if (e == MOOR_OK)
        e = moor_driver_use(*out, &void_driver);
    if (e == MOOR_OK)
        return 0;
    fprintf(stderr, "%s\n", moor_err_text(e));
    return e == MOOR_ENOSYS ? 77 : 1;
}
