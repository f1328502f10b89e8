/*
 * The runtime: shards, their memory and clock. One per process is usual; several are independent.
 */
#ifndef MOORING_RUNTIME_H
#define MOORING_RUNTIME_H

#include <mooring/error.h>
#include <mooring/handle.h>
#include <mooring/options.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Starts `options->shards` pinned threads of the library's own (0 = none: adopt shards instead).
 * options: borrowed, NULL = defaults overlaid with MOORING_*. Pass what moor_runtime_options_from_env
 * gave to do the overlay yourself.
 * Errors: EINVAL (option out of range, logged with its name), ENOMEM, ENOSYS (the backend asked for by
 * io_backend is refused here), ENOFILES.
 * Cost: threads and rings; call once. fork() after this leaves the child without a runtime: every call
 * there returns MOOR_EFORKED.
 */
MOOR_API MOOR_NODISCARD moor_err moor_runtime_create(const moor_runtime_options *options,
                                                     moor_runtime **out_runtime) MOOR_BLOCKING;
/*
 * Drains every pool that is still open, stops the shards and frees everything.
 * EBUSY: operations, leases or chunks are still out after `timeout_ms`; nothing is freed, call again.
 * EWRONGTHREAD: called on a shard, or while a shard is adopted (moor_shard_leave first).
 * NULL is fine.
 */
MOOR_API MOOR_NODISCARD moor_err moor_runtime_destroy(moor_runtime *r,
                                                      moor_ms timeout_ms) MOOR_BLOCKING;

/* Shards now in the runtime, threaded and adopted. */
MOOR_API uint32_t moor_runtime_shard_count(const moor_runtime *r) MOOR_ANY_THREAD;
/* "io_uring" or "epoll", as the first shard got it; "" if there is none yet. */
MOOR_API const char *moor_runtime_backend(const moor_runtime *r) MOOR_ANY_THREAD;
/* Why io_uring is not in use; "" if it is, or if epoll was asked for. Valid as long as the runtime. */
MOOR_API const char *moor_runtime_backend_reason(const moor_runtime *r) MOOR_ANY_THREAD;

/* ---- shards: work from inside, or post from outside ---- */

/* The shard whose callback or step is running on this thread, or that this thread adopted; else NULL. */
MOOR_API moor_shard *moor_shard_self(void) MOOR_ANY_THREAD;
/* i < moor_runtime_shard_count; NULL beyond. */
MOOR_API moor_shard *moor_shard_at(const moor_runtime *r, uint32_t i) MOOR_ANY_THREAD;

/* Storage of yours for one posted call. Zeroed before first use. */
typedef struct moor_task {
    void (*run)(void *user); /* on the shard                                                 */
    void *user;
    void *private_[3];       /* the library's; do not touch while posted                     */
} moor_task;

/* Runs task->run on the shard, later, once; never inside the call. Never allocates.
 * EBUSY: this task is posted already. ECLOSED: the shard has left, is stopping, or only starts.
 * Cost: one atomic push, and a wake (about 2 us) only if the shard sleeps. */
MOOR_API MOOR_NODISCARD moor_err moor_post(moor_shard *s, moor_task *task) MOOR_ANY_THREAD;

/* ---- embedding: drive one shard from a loop of your own; that thread becomes the shard ---- */

/* One adopted shard per thread. EBUSY: this thread has one. ENOMEM, ENOSYS, ENOFILES as at creation. */
MOOR_API MOOR_NODISCARD moor_err moor_shard_adopt(moor_runtime *r,
                                                  moor_shard **out_shard) MOOR_BLOCKING;
/* A descriptor to poll for POLLIN. The same for the shard's whole life. */
MOOR_API int moor_shard_fd(const moor_shard *s) MOOR_SHARD_ONLY;
/* Milliseconds until moor_shard_step has work of its own: 0 = now, MOOR_FOREVER = not unless the
 * descriptor becomes readable. Ask anew before every sleep. */
MOOR_API moor_ms moor_shard_timeout(moor_shard *s) MOOR_SHARD_ONLY;
/* One turn without sleeping; handles about `budget` completions (0 = all there are). */
MOOR_API MOOR_NODISCARD moor_err moor_shard_step(moor_shard *s, unsigned budget) MOOR_SHARD_ONLY;
/* One turn that may sleep up to timeout_ms: for programs without a loop of their own. */
MOOR_API MOOR_NODISCARD moor_err moor_shard_wait(moor_shard *s, moor_ms timeout_ms) MOOR_SHARD_ONLY;
/* The shard's operations complete with MOOR_ECANCELED (their callbacks run inside this call), its
 * connections close. Chunks and leases stay valid. NULL is fine. */
MOOR_API void moor_shard_leave(moor_shard *s) MOOR_SHARD_ONLY;

/* Version as MMmmpp, and what the build uses; a program may assert header and library agree. */
#define MOOR_VERSION_NUMBER 100
MOOR_API uint32_t moor_version_number(void) MOOR_ANY_THREAD;
MOOR_API const char *moor_build_info(void) MOOR_ANY_THREAD;

#ifdef __cplusplus
}
#endif
#endif
