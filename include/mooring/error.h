/*
 * The one list of errors, and what a failed operation tells about itself.
 * Numbers are stable for ever; a gap is never reused.
 */
#ifndef MOORING_ERROR_H
#define MOORING_ERROR_H

#include <mooring/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOOR_ERRORS(X)                                                                             \
    X(OK, 0, "success")                                                                            \
    X(EINVAL, 1, "an argument or option is out of range")                                          \
    X(ENOMEM, 2, "memory limit reached")                                                           \
    X(EWRONGTHREAD, 3, "called from a thread that may not call this")                              \
    X(ECLOSED, 4, "the pool or runtime is draining or closed")                                     \
    X(EBUSY, 5, "a bounded queue is full; retry after a completion")                               \
    X(ETIMEDOUT, 6, "deadline passed")                                                             \
    X(ECANCELED, 7, "canceled by the caller")                                                      \
    X(ERESOLVE, 8, "the name did not resolve")                                                     \
    X(ECONNECT, 9, "could not connect")                                                            \
    X(ETLS, 10, "TLS handshake or record failure")                                                 \
    X(EPROTO, 11, "the peer broke the protocol")                                                   \
    X(ERESET, 12, "the peer closed the connection")                                                \
    X(ESTALE, 13, "the handle was already released")                                               \
    X(ETOOBIG, 14, "a configured size limit was exceeded")                                         \
    X(ENOSYS, 15, "not supported by this build or kernel")                                         \
    X(EFORKED, 16, "the runtime belongs to the parent process; create one after fork")             \
    X(ENOFILES, 17, "out of file descriptors")                                                     \
    X(EAUTH, 18, "the peer refused the credentials")

typedef enum moor_err {
#define X(name, value, text) MOOR_##name = value,
    MOOR_ERRORS(X)
#undef X
    MOOR_ERR_FORCE_INT_ = 0x7fffffff
} moor_err;

/* "MOOR_ETIMEDOUT"; "MOOR_UNKNOWN" for a number that is not in the list. Static text. */
MOOR_API const char *moor_err_name(moor_err e) MOOR_ANY_THREAD;
/* One sentence; static text, never NULL. */
MOOR_API const char *moor_err_text(moor_err e) MOOR_ANY_THREAD;

/* What went wrong, and whether trying again is safe. Borrowed: valid inside the callback. */
typedef struct moor_fault {
    moor_err err;
    int os_errno;       /* 0 if none                                                     */
    int tls_code;       /* the TLS library's code, 0 if none                             */
    bool safe_to_retry; /* true only if the peer cannot have acted on the request        */
    const char *what;   /* static text: the step that failed; never NULL on failure      */
} moor_fault;

#ifdef __cplusplus
}
#endif
#endif
