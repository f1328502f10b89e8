/*
 * A command for a thread that waits: handed to the multiplexer's shard, its output gathered there. What belongs to
 * the waiting thread lies on its stack, which stays until the shard has said that it is done.
 */
#include "drivers/ssh/mux.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gathered {
    char *bytes;
    size_t len, cap;
};

struct waiter {
    moor_ssh_mux *mux;
    const moor_ssh_command *command;
    moor_task task;
    sem_t done;
    _Atomic(bool) is_done;
    uint64_t id;
    struct gathered out, err;
    bool is_out_of_memory;
    moor_err result;
    int exit_status;
    char signal[32];
    char why[MOOR_SSH_TEXT_MAX];
};

/* Doubles; output_max bounds it. With a NUL behind. */
static bool gather(struct gathered *g, moor_span bytes)
{
    if (g->len + bytes.len + 1 > g->cap) {
        size_t cap = g->cap ? g->cap * 2 : 1024;
        while (cap < g->len + bytes.len + 1)
            cap *= 2;
        char *more = realloc(g->bytes, cap);
        if (!more)
            return false;
        g->bytes = more;
        g->cap = cap;
    }
    if (bytes.len)
        memcpy(g->bytes + g->len, bytes.base, bytes.len);
    g->len += bytes.len;
    g->bytes[g->len] = 0;
    return true;
}

static void on_output(void *user, bool is_stderr, moor_span bytes)
{
    struct waiter *w = user;
    if (w->is_out_of_memory || gather(is_stderr ? &w->err : &w->out, bytes))
        return;
    w->is_out_of_memory = true;
    moor_ssh_cancel((moor_ssh_op){w->mux, w->id});
}

static void finish(struct waiter *w, moor_err err)
{
    w->result = w->is_out_of_memory ? MOOR_ENOMEM : err;
    atomic_store(&w->is_done, true);
    (void)sem_post(&w->done);
}

static void on_done(void *user, const moor_ssh_done *done)
{
    struct waiter *w = user;
    w->exit_status = done->exit_status;
    snprintf(w->signal, sizeof w->signal, "%s", done->signal);
    const char *what = done->fault.what ? done->fault.what : "";
    snprintf(w->why, sizeof w->why, "%s%s%s", what, *done->text ? ": " : "", done->text);
    finish(w, done->fault.err);
}

static void submit(void *user)
{
    struct waiter *w = user;
    const moor_ssh_handlers handlers = {
        .size = sizeof handlers, .on_output = on_output, .on_done = on_done};
    const moor_err e = mr_ssh_mux_submit(w->mux, w->command, &handlers, w, &w->id);
    if (e)
        finish(w, e);
}

static moor_err make_result(struct waiter *w, moor_ssh_result **out_result)
{
    moor_ssh_result *r = calloc(1, sizeof *r);
    if (!r || !gather(&w->out, (moor_span){NULL, 0}) || !gather(&w->err, (moor_span){NULL, 0})) {
        free(r);
        return MOOR_ENOMEM;
    }
    r->size = sizeof *r;
    r->exit_status = w->exit_status;
    memcpy(r->signal, w->signal, sizeof r->signal);
    r->out = (moor_span){w->out.bytes, w->out.len};
    r->err = (moor_span){w->err.bytes, w->err.len};
    *out_result = r;
    return MOOR_OK;
}

static moor_err run(struct waiter *w, moor_ssh_result **out_result)
{
    w->task.run = submit;
    w->task.user = w;
    moor_err e = moor_post(w->mux->shard, &w->task);
    if (e)
        return e;
    mr_ssh_mux_wait(w->mux, &w->done, &w->is_done);
    e = w->result ? w->result : make_result(w, out_result);
    if (e) {
        free(w->out.bytes);
        free(w->err.bytes);
    }
    return e;
}

moor_err moor_ssh_exec_wait(moor_ssh_mux *mux, const moor_ssh_command *command,
                            moor_ssh_result **out_result)
{
    if (!mux || !command || !out_result)
        return MOOR_EINVAL;
    moor_err e = mr_ssh_mux_check_thread(mux);
    if (e)
        return e;
    struct waiter w = {.mux = mux, .command = command};
    if (sem_init(&w.done, 0, 0))
        return MOOR_ENOMEM;
    e = run(&w, out_result);
    sem_destroy(&w.done);
    if (e && command->why && command->why_cap)
        snprintf(command->why, command->why_cap, "%s", w.why);
    return e;
}

void moor_ssh_result_free(moor_ssh_result *result)
{
    if (!result)
        return;
    free((void *)result->out.base);
    free((void *)result->err.base);
    free(result);
}
