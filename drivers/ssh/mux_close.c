/*
 * The end of a multiplexer, and how ordinary threads wait for its shard.
 */
#include "drivers/ssh/mux.h"

#include <errno.h>
#include <stdlib.h>

#define DRIVE_MS 100

moor_err mr_ssh_mux_check_thread(const moor_ssh_mux *m)
{
    moor_shard *self = moor_shard_self();
    if (!self)
        return MOOR_OK;
    /* A thread that drives this shard may wait by driving it; in a callback the shard says no. */
    return self == m->shard ? moor_shard_step(self, 1) : MOOR_EWRONGTHREAD;
}

void mr_ssh_mux_wait(const moor_ssh_mux *m, sem_t *done, _Atomic(bool) *is_done)
{
    if (moor_shard_self() == m->shard) {
        while (!atomic_load(is_done) && moor_shard_wait(m->shard, DRIVE_MS) == MOOR_OK)
            continue;
    }
    while (sem_wait(done) && errno == EINTR)
        continue;
}

static void cancel_all(moor_ssh_mux *m)
{
    for (struct mr_ssh_command *c = m->queue.first; c; c = c->next)
        mr_ssh_command_end(c, MOOR_ECANCELED, "the multiplexer is closed");
    for (struct mr_ssh_session *s = m->sessions; s; s = s->next)
        for (struct mr_ssh_command *c = s->commands.first; c; c = c->next)
            mr_ssh_command_end(c, MOOR_ECANCELED, "the multiplexer is closed");
    for (struct mr_ssh_pending *p = m->pending; p; p = p->next)
        moor_cancel(p->op);
}

static void run_out(moor_poll *p, unsigned events)
{
    (void)events;
    cancel_all(p->user);
}

static void begin_close(void *user)
{
    moor_ssh_mux *m = user;
    m->is_closing = true;
    m->close_timer.ready = run_out;
    m->close_timer.user = m;
    for (struct mr_ssh_session *s = m->sessions; s; s = s->next)
        s->is_stirred = true;
    if (m->close_timeout_ms == 0 ||
        (m->close_timeout_ms > 0 && moor_poll_start(&m->close_timer, -1, 0, m->close_timeout_ms)))
        cancel_all(m);
    mr_ssh_mux_kick(m);
}

void mr_ssh_mux_close_if_over(moor_ssh_mux *m)
{
    if (!m->is_closing || m->is_kicked || m->commands || m->session_count || m->pending_count)
        return;
    moor_poll_stop(&m->close_timer);
    atomic_store(&m->is_closed, true);
    (void)sem_post(&m->closed); /* the closing thread frees it from here on */
}

moor_err moor_ssh_mux_close(moor_ssh_mux *mux, moor_ms timeout_ms)
{
    if (!mux)
        return MOOR_OK;
    moor_err e = mr_ssh_mux_check_thread(mux);
    if (e)
        return e;
    mux->close_timeout_ms = timeout_ms;
    mux->close_task.run = begin_close;
    mux->close_task.user = mux;
    e = moor_post(mux->shard, &mux->close_task);
    if (e)
        return e;
    mr_ssh_mux_wait(mux, &mux->closed, &mux->is_closed);
    sem_destroy(&mux->closed);
    free(mux);
    return MOOR_OK;
}
