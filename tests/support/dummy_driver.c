/*
 * The dummy driver. Hooks run on the keeper; counters are read by tests on other threads.
 */
#include "tests/support/dummy_driver.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static _Atomic(int) next_id;

static moor_err open_script(const moor_driver_url *url, const void *config, void **out_config,
                            char *why, size_t why_cap)
{
    if (!strcmp(url->path, "refused")) {
        snprintf(why, why_cap, "the dummy refuses this path");
        return MOOR_EINVAL;
    }
    *out_config = (void *)(uintptr_t)config;
    return MOOR_OK;
}

static struct dummy_script *script_of(moor_link *l)
{
    return moor_link_config(l);
}

static bool takes(_Atomic(int) *count)
{
    int n = atomic_load(count);
    while (n > 0 && !atomic_compare_exchange_weak(count, &n, n - 1))
        ;
    return n != 0;
}

static void make_pair(struct dummy *d)
{
    int pair[2];
    d->fd = d->peer = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
        return;
    d->fd = pair[0];
    d->peer = pair[1];
}

static void close_pair(struct dummy *d)
{
    if (d->fd >= 0)
        close(d->fd);
    if (d->peer >= 0)
        close(d->peer);
    d->fd = d->peer = -1;
}

static moor_step end_step(moor_link *l)
{
    struct dummy_script *s = script_of(l);
    struct dummy *d = moor_link_native(l);
    const moor_err fault = atomic_load(&s->fault);
    bool fails = false;
    switch (moor_link_task(l)) {
    case MOOR_TASK_CONNECT:
        fails = takes(&s->connects_fail);
        break;
    case MOOR_TASK_PREPARE:
        fails = takes(&s->prepares_fail);
        atomic_fetch_add(&s->ready, !fails);
        atomic_fetch_sub(&s->connecting, 1);
        break;
    case MOOR_TASK_CHECK:
        atomic_fetch_add(&s->checks, 1);
        d->checks++;
        fails = takes(&s->checks_fail);
        break;
    case MOOR_TASK_RESET:
        atomic_fetch_add(&s->resets, 1);
        d->resets++;
        d->is_dirty = false;
        if (atomic_load(&s->reset_swaps)) {
            close_pair(d);
            make_pair(d);
        }
        fails = takes(&s->resets_fail);
        break;
    default:
        break;
    }
    if (fails && moor_link_task(l) == MOOR_TASK_CONNECT)
        atomic_fetch_sub(&s->connecting, 1);
    if (fails)
        return moor_link_fail(l, fault ? fault : MOOR_ECONNECT, 0,
                              atomic_load(&s->says_bytes) ? "caf\xe9 \xff\"\n"
                                                          : "as the script says");
    return MOOR_STEP_DONE;
}

static moor_step after(moor_link *l, int ms)
{
    return ms ? moor_link_wait(l, -1, 0, ms) : end_step(l);
}

static void block(moor_link *l)
{
    const int ms = atomic_load(&script_of(l)->block_ms);
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

static moor_step start(moor_link *l)
{
    struct dummy_script *s = script_of(l);
    struct dummy *d = calloc(1, sizeof *d);
    const moor_target *t = moor_link_target(l);
    snprintf(s->user, sizeof s->user, "%s", t->user);
    snprintf(s->password, sizeof s->password, "%s", t->password);
    if (!d)
        return moor_link_fail(l, MOOR_ENOMEM, 0, "");
    d->id = atomic_fetch_add(&next_id, 1);
    d->fd = d->peer = -1;
    if (atomic_load(&s->has_fd))
        make_pair(d);
    if (d->peer >= 0 && atomic_load(&s->hangs_up)) {
        close(d->peer);
        d->peer = -1;
    }
    moor_link_set_native(l, d);
    atomic_fetch_add(&s->connects, 1);
    const int now = atomic_fetch_add(&s->connecting, 1) + 1;
    if (now > atomic_load(&s->connecting_max))
        atomic_store(&s->connecting_max, now);
    if (atomic_load(&s->block_ms))
        return moor_link_block(l, block);
    return after(l, atomic_load(&s->connect_ms));
}

static moor_step prepare(moor_link *l)
{
    return after(l, atomic_load(&script_of(l)->prepare_ms));
}

static moor_step check(moor_link *l)
{
    return after(l, atomic_load(&script_of(l)->check_ms));
}

static moor_step reset(moor_link *l)
{
    return after(l, atomic_load(&script_of(l)->reset_ms));
}

static moor_step goodbye(moor_link *l)
{
    atomic_fetch_add(&script_of(l)->closes, 1);
    return after(l, atomic_load(&script_of(l)->close_ms));
}

static moor_step resume(moor_link *l, unsigned events)
{
    (void)events;
    return end_step(l);
}

static void drop(moor_link *l)
{
    struct dummy *d = moor_link_native(l);
    if (d)
        close_pair(d);
    free(d);
    moor_link_set_native(l, NULL);
    atomic_fetch_add(&script_of(l)->dropped, 1);
}

static int fd_of(moor_link *l)
{
    const struct dummy *d = moor_link_native(l);
    return d->fd;
}

static moor_verdict idle(moor_link *l)
{
    const struct dummy *d = moor_link_native(l);
    char bytes[64];
    atomic_fetch_add(&script_of(l)->idles, 1);
    if (!atomic_load(&script_of(l)->idle_keeps))
        return MOOR_VERDICT_DISCARD;
    return read(d->fd, bytes, sizeof bytes) > 0 ? MOOR_VERDICT_KEEP : MOOR_VERDICT_DISCARD;
}

static moor_verdict returned(moor_link *l, moor_release_how how)
{
    if (how == MOOR_DIRTY)
        return MOOR_VERDICT_RESET;
    return (moor_verdict)atomic_load(&script_of(l)->verdict);
}

static moor_verdict judge(moor_link *l, const char *sqlstate, int code)
{
    (void)l;
    (void)code;
    return !sqlstate                     ? MOOR_VERDICT_KEEP
           : !strcmp(sqlstate, "25006")  ? MOOR_VERDICT_FLUSH
           : !strncmp(sqlstate, "08", 2) ? MOOR_VERDICT_DISCARD
           : !strcmp(sqlstate, "dirty")  ? MOOR_VERDICT_RESET
                                         : MOOR_VERDICT_KEEP;
}

const moor_driver dummy_driver = {
    .size = sizeof dummy_driver,
    .name = "dummy",
    .schemes = "dummy",
    .port = 1,
    .open = open_script,
    .connect = start,
    .prepare = prepare,
    .check = check,
    .reset = reset,
    .close = goodbye,
    .resume = resume,
    .drop = drop,
    .fd = fd_of,
    .idle = idle,
    .returned = returned,
    .judge = judge,
};

const moor_driver dummy_plain_driver = {
    .size = sizeof dummy_plain_driver,
    .name = "plain",
    .schemes = "plain",
    .port = 1,
    .open = open_script,
    .connect = start,
    .prepare = prepare,
    .check = check,
    .reset = reset,
    .close = goodbye,
    .resume = resume,
    .drop = drop,
    .fd = fd_of,
    .idle = idle,
    .judge = judge,
};

int dummy_ids(void)
{
    return atomic_load(&next_id);
}

void dummy_enter(struct dummy *d)
{
    if (atomic_fetch_add(&d->holders, 1) != 0) {
        fprintf(stderr, "dummy %d has two holders\n", d->id);
        abort();
    }
}

void dummy_leave(struct dummy *d)
{
    if (atomic_fetch_sub(&d->holders, 1) != 1) {
        fprintf(stderr, "dummy %d is left twice\n", d->id);
        abort();
    }
}
