/*
 * One link, driven on the test's own thread; what the driver wants on a helper thread gets one.
 */
#include "tests/drivers/postgres/keeper.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

/* ---- what drivers call ---- */

bool moor_driver_query(const char *query, const char *key, char *buf, size_t cap)
{
    const size_t len = strlen(key);
    for (const char *at = query; *at; at += strcspn(at, "&"), at += *at == '&') {
        if (strncmp(at, key, len) != 0 || at[len] != '=')
            continue;
        size_t n = 0;
        for (const char *c = at + len + 1; *c && *c != '&'; c++, n++) {
            if (n + 1 >= cap)
                return false;
            unsigned byte = (unsigned char)*c;
            if (*c == '%') {
                char digits[3] = {c[1], c[1] ? c[2] : '\0', '\0'}, *end;
                byte = (unsigned)strtoul(digits, &end, 16);
                if (end != digits + 2)
                    return false;
                c += 2;
            }
            buf[n] = (char)byte;
        }
        buf[n] = '\0';
        return true;
    }
    return false;
}

const moor_driver *moor_link_driver(const moor_link *l)
{
    return l->driver;
}

void *moor_link_config(const moor_link *l)
{
    return l->config;
}

void *moor_link_state(const moor_link *l)
{
    return l->state;
}

void moor_link_set_state(moor_link *l, void *state)
{
    l->state = state;
}

void *moor_link_native(const moor_link *l)
{
    return l->native;
}

void moor_link_set_native(moor_link *l, void *native)
{
    l->native = native;
}

const moor_target *moor_link_target(const moor_link *l)
{
    return &l->target;
}

moor_task_kind moor_link_task(const moor_link *l)
{
    return l->task;
}

moor_step moor_link_wait(moor_link *l, int fd, short events, moor_ms timeout_ms)
{
    (void)timeout_ms;
    assert_true(fd >= 0);
    l->fd = fd;
    l->events = events;
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0); /* an open descriptor, not last step's */
    if (l->wait_count < KEEPER_WAITS_MAX)
        l->waits[l->wait_count++] =
            (struct keeper_wait){.fd = fd, .socket = st.st_ino, .events = events};
    return MOOR_STEP_WAIT;
}

moor_step moor_link_block(moor_link *l, void (*work)(moor_link *l))
{
    l->work = work;
    l->work_count++;
    return MOOR_STEP_WAIT;
}

moor_step moor_link_fail(moor_link *l, moor_err err, int os_errno, const char *text)
{
    (void)os_errno;
    l->err = err;
    snprintf(l->text, sizeof l->text, "%s", text);
    return MOOR_STEP_FAILED;
}

void moor_link_flush(moor_link *l, const char *why)
{
    l->flushed = why;
}

moor_link *moor_lease_link(moor_lease lease)
{
    return (moor_link *)lease.slot_;
}

void moor_lease_report(moor_lease lease, const char *sqlstate, int code)
{
    (void)code;
    moor_link *l = moor_lease_link(lease);
    snprintf(l->reported, sizeof l->reported, "%s", sqlstate ? sqlstate : "");
}

moor_lease keeper_lease(moor_link *l)
{
    return (moor_lease){.slot_ = (struct moor_slot_ *)l};
}

/* ---- what tests call ---- */

bool keeper_open(moor_link *l, const char *host, const char *path, const char *query,
                 const moor_postgres_options *options, char why[256])
{
    memset(l, 0, sizeof *l);
    l->driver = moor_postgres_driver();
    why[0] = '\0';
    const moor_driver_url url = {.size = sizeof url,
                                 .scheme = "postgres",
                                 .host = host,
                                 .port = 5432,
                                 .user = "app",
                                 .password = "",
                                 .path = path,
                                 .query = query};
    return l->driver->open(&url, options, &l->config, why, 256) == MOOR_OK;
}

void keeper_aim(moor_link *l, int port)
{
    l->target = (moor_target){.size = sizeof l->target,
                              .host = "db.invalid", /* a libpq that resolves fails */
                              .address = "127.0.0.1",
                              .path = "",
                              .port = (uint16_t)port,
                              .fd = -1,
                              .user = "app",
                              .password = "s3cret",
                              .timeout_ms = KEEPER_LONG_MS};
}

static void *run_work(void *arg)
{
    moor_link *l = arg;
    l->work(l);
    return NULL;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* False: not in time. */
static bool next_event(moor_link *l, int64_t until, unsigned *events)
{
    if (l->work) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, run_work, l), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        l->work = NULL;
        *events = MOOR_RESUME_UNBLOCKED;
        return true;
    }
    struct pollfd p = {.fd = l->fd, .events = l->events};
    const int64_t left = until - now_ms();
    if (left <= 0 || poll(&p, 1, (int)left) <= 0)
        return false;
    *events = (unsigned)p.revents;
    return true;
}

static moor_step begin(moor_link *l, moor_task_kind task)
{
    const moor_driver *d = l->driver;
    l->task = task;
    switch (task) {
    case MOOR_TASK_CONNECT:
        return d->connect(l);
    case MOOR_TASK_PREPARE:
        return d->prepare(l);
    case MOOR_TASK_CHECK:
        return d->check(l);
    default:
        assert_int_equal(task, MOOR_TASK_RESET);
        return d->reset(l);
    }
}

moor_step keeper_run(moor_link *l, moor_task_kind task, int ms)
{
    const int64_t until = now_ms() + ms;
    moor_step step = task == MOOR_TASK_NONE ? MOOR_STEP_WAIT : begin(l, task);
    unsigned events;
    while (step == MOOR_STEP_WAIT) {
        if (!next_event(l, until, &events))
            return MOOR_STEP_WAIT;
        step = l->driver->resume(l, events);
    }
    return step;
}

void keeper_connect(moor_link *l, int port, const char *query, const moor_postgres_options *options)
{
    char why[256];
    if (!keeper_open(l, "db.invalid", "shop", query, options, why))
        fail_msg("%s", why);
    keeper_aim(l, port);
    for (moor_task_kind t = MOOR_TASK_CONNECT; t <= MOOR_TASK_PREPARE; t++)
        if (keeper_run(l, t, KEEPER_LONG_MS) != MOOR_STEP_DONE)
            fail_msg("task %d: %s %s", (int)t, moor_err_name(l->err), l->text);
    assert_non_null(l->native);
}

unsigned keeper_sockets(const moor_link *l)
{
    unsigned count = 0;
    for (unsigned i = 0; i < l->wait_count; i++) {
        unsigned before = 0;
        while (before < i && l->waits[before].socket != l->waits[i].socket)
            before++;
        count += before == i;
    }
    return count;
}

moor_verdict keeper_idle(moor_link *l)
{
    struct pollfd p = {.fd = l->driver->fd(l), .events = POLLIN};
    assert_int_equal(poll(&p, 1, KEEPER_LONG_MS), 1);
    return l->driver->idle(l);
}

void keeper_close(moor_link *l)
{
    if (l->state)
        l->driver->drop(l);
    assert_null(l->state);
    l->driver->shut(l->config);
}
