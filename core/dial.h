/*
 * One dial: a race over a list of addresses (RFC 8305) that ends with one connected descriptor.
 * Owner thread of the loop only. A dial belongs to no waiter and holds nothing but its own sockets.
 */
#ifndef MR_CORE_DIAL_H
#define MR_CORE_DIAL_H

#include "core/addrs.h"
#include "core/loop.h"

struct mr_dial;

/* RFC 8305 8: the recommended Connection Attempt Delay. */
#define MR_DIAL_STAGGER_NS (INT64_C(250) * MR_NS_PER_MS)
/* Addresses one dial tries: a long answer must not cost a descriptor each. start_index reaches the
 * others. */
#define MR_DIAL_TRIES_MAX 16

/* Borrowed, valid inside done only. */
struct mr_dial_result {
    /* OK, ECONNECT, ETIMEDOUT (the dial's deadline), ECANCELED, ENOFILES, ENOMEM. */
    moor_err err;
    int os_errno;   /* of the last attempt that failed, 0 = none did */
    int fd;         /* OK: connected and in nobody's backend (mr_io_attach it), blocking or not as
                       the backend likes; else -1                                             */
    uint32_t index; /* in addrs->list: of the winner, else of the last attempt that failed */
    int family;     /* the winner's: the next dial's first_family; AF_UNSPEC on failure */
    uint32_t tried; /* addresses a connect was begun to */
    int64_t elapsed_ns; /* from start to the end of the race */
    const char *what;   /* static; never NULL on failure */
};

struct mr_dial_args {
    struct mr_addrs *addrs; /* the dial takes a reference of its own */
    uint16_t port;          /* 0 = the addresses carry it */
    int first_family;       /* begin with this family if the list has it; AF_UNSPEC */
    uint32_t start_index;   /* rotation: any number, taken modulo the count */
    int64_t deadline_ns;    /* absolute, MR_NEVER = none */
    int64_t stagger_ns;     /* 0 = MR_DIAL_STAGGER_NS */
    const struct mr_sock_options *options; /* copied; NULL = the kernel's */
    /* Exactly once, never inside start or cancel. When it runs, every socket but the winner's is
     * closed and nothing of the dial is left in the loop; the dial itself is gone. */
    void (*done)(void *ctx, const struct mr_dial_result *r);
    void *ctx;
};

/* Begins at once. *out_ is good for mr_dial_cancel until done. ENOMEM: done is never called. */
MOOR_NODISCARD moor_err mr_dial_start(struct mr_loop *l, const struct mr_dial_args *a,
                                      struct mr_dial **out_);
/* done follows with ECANCELED, unless the race was already over: then with its result (an fd too).
 */
void mr_dial_cancel(struct mr_dial *d);

#endif
