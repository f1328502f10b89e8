/*
 * A driver's step on its link: begun, waited for with one-shot polls, timers and helpers, ended.
 * The keeper's thread; a job runs on a helper, which has the link meanwhile. Polls are forgotten before any
 * hook runs: a hook may close or change the descriptor.
 */
#include "core/driver_stream.h"
#include "core/keeper.h"

#include <stdio.h>
#include <string.h>

static struct mr_loop *loop_of(struct moor_link *l)
{
    return l->rack ? mr_keeper_loop(l->rack) : mr_driver_stream_loop(l);
}

static struct mr_io *io_of(struct moor_link *l)
{
    return loop_of(l)->io;
}

static void forget_wait(struct moor_link *l)
{
    if (l->poll_id)
        mr_io_poll_cancel(io_of(l), l->poll_id);
    l->poll_id = 0;
    mr_loop_untimer(loop_of(l), &l->wait);
}

void mr_link_list(struct moor_link *l)
{
    if (!l->rack)
        return;
    if (!l->is_listed)
        mr_list_push_back(&l->rack->keeper->tasks, &l->tasks);
    l->is_listed = true;
}

void mr_link_unlist(struct moor_link *l)
{
    if (l->is_listed)
        mr_list_remove(&l->tasks);
    l->is_listed = false;
}

/* ---- begin and end ---- */

static void over(struct moor_link *l, bool is_well)
{
    const moor_task_kind task = l->task;
    forget_wait(l);
    mr_loop_untimer(loop_of(l), &l->deadline);
    l->task = MOOR_TASK_NONE;
    if (!l->dial) /* that stays listed until it is over as a whole */
        mr_link_unlist(l);
    if (l->rack)
        mr_keeper_task_over(l, task, is_well);
    else
        mr_driver_stream_over(l, task, is_well);
}

static void take_step(struct moor_link *l, moor_step step)
{
    switch (step) {
    case MOOR_STEP_WAIT:
        MR_ASSERT(!l->rack || l->poll_id || mr_timer_is_armed(&l->wait) || l->is_working ||
                  mr_timer_is_armed(&l->deadline));
        return;
    case MOOR_STEP_DONE:
        over(l, true);
        return;
    default:
        if (!l->fault.err)
            (void)moor_link_fail(l, MOOR_EPROTO, 0, "");
        over(l, false);
    }
}

static moor_step (*hook_of(const moor_driver *d, moor_task_kind task))(moor_link *l)
{
    switch (task) {
    case MOOR_TASK_CONNECT:
        return d->connect;
    case MOOR_TASK_PREPARE:
        return d->prepare;
    case MOOR_TASK_CHECK:
        return d->check;
    case MOOR_TASK_RESET:
        return d->reset;
    case MOOR_TASK_CLOSE:
        return d->close;
    default:
        return NULL;
    }
}

/* By task; before the first there are only credentials to be asked for. */
static const char *const steps[] = {"get credentials from their provider",
                                    "connect",
                                    "prepare the connection",
                                    "check the connection",
                                    "reset the connection",
                                    "close the connection"};

static void fire_wait(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct moor_link *l = MR_CONTAINER_OF(t, struct moor_link, wait);
    forget_wait(l);
    take_step(l, l->driver->resume(l, MOOR_RESUME_TIMEOUT));
}

/* A helper cannot be interrupted: the link is given up when it comes back, the waiters hear of it now. */
static void fire_deadline(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct moor_link *l = MR_CONTAINER_OF(t, struct moor_link, deadline);
    if (!l->is_late)
        l->fault = (moor_fault){.err = MOOR_ETIMEDOUT, .what = steps[l->task]};
    if (l->is_working) {
        const bool was_late = l->is_late;
        l->is_late = true; /* before: the helper may be done, and its errand run, inside */
        if (!was_late && mr_link_is_coming(l))
            mr_keeper_task_late(l);
        return;
    }
    over(l, false);
}

void mr_link_set_deadline(struct moor_link *l, int64_t deadline_ns)
{
    l->deadline.fire = fire_deadline;
    if (deadline_ns != MR_NEVER)
        mr_loop_timer(loop_of(l), &l->deadline, deadline_ns);
}

void mr_link_begin(struct moor_link *l, moor_task_kind task, int64_t deadline_ns)
{
    moor_step (*hook)(moor_link *) = hook_of(l->driver, task);
    l->task = task;
    l->fault = (moor_fault){0};
    l->is_late = false;
    mr_link_unwatch(l); /* the step may close the descriptor, or read from it */
    mr_link_list(l);
    if (!hook) {
        over(l, true);
        return;
    }
    l->wait.fire = fire_wait;
    mr_link_set_deadline(l, deadline_ns);
    take_step(l, hook(l));
}

bool mr_link_is_coming(const struct moor_link *l)
{
    return (l->task == MOOR_TASK_NONE ? l->halted_task : l->task) != MOOR_TASK_CLOSE;
}

bool mr_link_halt(struct moor_link *l)
{
    forget_wait(l);
    mr_loop_untimer(loop_of(l), &l->deadline);
    mr_link_unlist(l);
    l->halted_task = l->task; /* what mr_link_is_coming goes by from here on */
    l->task = MOOR_TASK_NONE;
    l->is_ended = l->is_working;
    return !l->is_working;
}

void mr_link_drop(struct moor_link *l)
{
    MR_ASSERT(!l->is_working && !l->poll_id && !l->watch_id);
    if (l->has_native)
        l->driver->drop(l);
    l->has_native = false;
    l->native = NULL;
    l->state = NULL;
}

void mr_link_unwatch(struct moor_link *l)
{
    if (l->watch_id)
        mr_io_poll_cancel(io_of(l), l->watch_id);
    l->watch_id = 0;
}

void mr_link_input(struct moor_link *l, moor_span bytes)
{
    take_step(l, l->driver->input(l, bytes));
}

void mr_link_fail_task(struct moor_link *l)
{
    over(l, false);
}

/* ---- what hooks call ---- */

static void on_poll(void *ctx, uint32_t events)
{
    struct moor_link *l = ctx;
    l->poll_id = 0;
    forget_wait(l);
    take_step(l, l->driver->resume(l, events));
}

moor_step moor_link_wait(moor_link *l, int fd, short events, moor_ms timeout_ms)
{
    forget_wait(l);
    if (timeout_ms >= 0)
        mr_loop_timer(loop_of(l), &l->wait, mr_deadline(loop_of(l)->now_ns, timeout_ms));
    if (fd < 0)
        return MOOR_STEP_WAIT;
    l->poll_id = mr_io_poll(io_of(l), fd, (uint32_t)(unsigned short)events, on_poll, l);
    if (!l->poll_id)
        return moor_link_fail(l, MOOR_ENOMEM, 0, "no memory to wait for the descriptor");
    return MOOR_STEP_WAIT;
}

static void run_work(struct mr_helper_job *job)
{
    struct moor_link *l = MR_CONTAINER_OF(job, struct moor_link, job);
    l->work(l);
}

static void work_done(struct mr_helper_job *job)
{
    struct moor_link *l = MR_CONTAINER_OF(job, struct moor_link, job);
    mr_rack_send(l->rack, l, MR_ERRAND_JOB, NULL);
}

moor_step moor_link_block(moor_link *l, void (*work)(moor_link *l))
{
    if (!l->rack)
        return moor_link_fail(l, MOOR_ENOSYS, 0, "a stream driver has nothing that blocks");
    forget_wait(l);
    l->work = work;
    l->job.run = run_work;
    l->job.done = work_done;
    l->is_working = true;
    if (!mr_helpers_submit(l->rack->pool->runtime, &l->job))
        return MOOR_STEP_WAIT;
    l->is_working = false;
    return moor_link_fail(l, MOOR_ENOMEM, 0, "no helper thread could be started");
}

void mr_link_unblocked(struct moor_link *l)
{
    l->is_working = false;
    if (l->is_late && mr_link_is_coming(l))
        l->rack->keeper->coming++; /* as if it had been counted all along */
    if (l->is_ended) {             /* the shard it began on was left */
        l->is_ended = false;
        if (l->dial) {
            mr_link_dial_task_over(l, false);
        } else {
            l->rack->keeper->coming -= mr_link_is_coming(l);
            mr_keeper_gone(l);
        }
    } else if (l->is_late) {
        over(l, false);
    } else if (l->task == MOOR_TASK_NONE) {
        mr_link_dial_task_over(l, true);
    } else {
        take_step(l, l->driver->resume(l, MOOR_RESUME_UNBLOCKED));
    }
}

moor_step moor_link_fail(moor_link *l, moor_err err, int os_errno, const char *text)
{
    l->fault = (moor_fault){
        .err = err ? err : MOOR_EPROTO,
        .os_errno = os_errno,
        .safe_to_retry = true,
        .what = steps[l->task],
    };
    char line[sizeof l->text];
    snprintf(line, sizeof line, "%s", text ? text : "");
    /* One line, whatever a server put into it. */
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
    for (size_t n = strlen(line); n && line[n - 1] == ' '; n--)
        line[n - 1] = 0;
    mr_lock_lock(&l->pool->lock);
    memcpy(l->text, line, sizeof line);
    mr_lock_unlock(&l->pool->lock);
    return MOOR_STEP_FAILED;
}
