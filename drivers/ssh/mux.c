/*
 * The multiplexer: its queue, and which session runs what. The shard's thread, but for its making.
 * It never dials: a session is a lease of the pool, which bounds and spaces connects.
 */
#include "drivers/ssh/mux.h"

#include <mooring/stats.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t mr_ssh_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- lists ---- */

static void insert_before(struct mr_ssh_list *list, struct mr_ssh_command *at,
                          struct mr_ssh_command *c)
{
    c->next = at;
    c->prev = at ? at->prev : list->last;
    *(c->prev ? &c->prev->next : &list->first) = c;
    *(at ? &at->prev : &list->last) = c;
    list->count++;
}

void mr_ssh_list_add(struct mr_ssh_list *list, struct mr_ssh_command *c)
{
    insert_before(list, NULL, c);
}

void mr_ssh_list_remove(struct mr_ssh_list *list, struct mr_ssh_command *c)
{
    *(c->prev ? &c->prev->next : &list->first) = c->next;
    *(c->next ? &c->next->prev : &list->last) = c->prev;
    c->next = c->prev = NULL;
    list->count--;
}

void mr_ssh_mux_requeue(moor_ssh_mux *m, struct mr_ssh_command *c)
{
    struct mr_ssh_command *at = m->queue.first;
    while (at && at->id < c->id)
        at = at->next;
    c->state = MR_SSH_QUEUED;
    insert_before(&m->queue, at, c);
}

/* ---- sessions for the queue ---- */

uint32_t mr_ssh_mux_limit(const struct mr_ssh_session *s)
{
    const uint32_t most = s->mux->options.channels_max, limit = s->link->channels_limit;
    if (limit == 0 || limit >= most)
        return most;
    /* It may have been somebody else's channels that were in the way. */
    return mr_ssh_now_ms() - s->link->channels_limit_ms > MR_SSH_LIMIT_RAISE_MS ? limit + 1 : limit;
}

/* The pool must see its sessions now and then: to retire them, and for those who wait for one. */
static bool must_leave(const struct mr_ssh_session *s)
{
    const moor_ssh_mux *m = s->mux;
    const int64_t held = mr_ssh_now_ms() - s->held_ms;
    if (held > m->options.hold_max_ms)
        return true;
    if (held <= MR_SSH_SHARE_MS)
        return false;
    moor_stats stats;
    moor_stats_read(m->pool, &stats);
    return stats.waiters > m->pending_count;
}

static bool has_room(struct mr_ssh_session *s)
{
    const uint32_t closing = s->link->channels_limit ? s->link->channels_closed : 0;
    if (s->is_leaving || s->commands.count + closing >= mr_ssh_mux_limit(s))
        return false;
    s->is_leaving = must_leave(s);
    return !s->is_leaving;
}

static struct mr_ssh_session *least_loaded(const moor_ssh_mux *m)
{
    struct mr_ssh_session *best = NULL;
    for (struct mr_ssh_session *s = m->sessions; s; s = s->next)
        if ((!best || s->commands.count < best->commands.count) && has_room(s))
            best = s;
    return best;
}

static void fail_queue(moor_ssh_mux *m, uint64_t last_id, const moor_acquired *a)
{
    char text[MOOR_SSH_TEXT_MAX] = "";
    if (a->why && *a->why->connect_text)
        snprintf(text, sizeof text, "%s", a->why->connect_text);
    else if (a->why)
        (void)moor_why_text(a->why, text, sizeof text);
    while (m->queue.first && m->queue.first->id <= last_id) {
        struct mr_ssh_command *c = m->queue.first;
        mr_ssh_list_remove(&m->queue, c);
        snprintf(c->why, sizeof c->why, "%s", text);
        mr_ssh_command_tell(c, a->fault.err, a->fault.what ? a->fault.what : "lease a session");
        mr_ssh_command_free(c);
    }
}

static void refuse_lease(moor_ssh_mux *m, uint64_t last_id, moor_lease lease, moor_err err,
                         const char *what)
{
    moor_release(lease, MOOR_REUSE);
    const moor_acquired a = {.size = sizeof a, .fault = {.err = err, .what = what}};
    fail_queue(m, last_id, &a);
}

static void refuse_first(moor_ssh_mux *m, moor_err err, const char *what)
{
    struct mr_ssh_command *c = m->queue.first;
    mr_ssh_list_remove(&m->queue, c);
    mr_ssh_command_tell(c, err, what);
    mr_ssh_command_free(c);
}

static void take_session(moor_ssh_mux *m, uint64_t last_id, const moor_acquired *a)
{
    moor_link *l = moor_lease_link(a->lease);
    if (!l || moor_link_driver(l) != moor_ssh_driver()) {
        refuse_lease(m, last_id, a->lease, MOOR_EINVAL, "not a pool of ssh sessions");
        return;
    }
    struct mr_ssh_link *link = moor_link_state(l);
    struct mr_ssh_command *c = m->queue.first;
    if (!c) {
        moor_release(a->lease, MOOR_REUSE);
    } else if (mr_ssh_is_alive(link->session)) {
        mr_ssh_session_add(m, a->lease, link->session, link);
    } else {
        moor_release(a->lease, MOOR_DISCARD);
        if (c->losses++ >= MR_SSH_LOSSES_MAX)
            refuse_first(m, MOOR_ERESET, "lease a session: it was lost already");
    }
}

static void on_acquired(void *user, const moor_acquired *a)
{
    struct mr_ssh_pending *p = user;
    moor_ssh_mux *m = p->mux;
    struct mr_ssh_pending **at = &m->pending;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    m->pending_count--;
    const uint64_t last_id = p->last_id;
    free(p);
    if (a->fault.err == MOOR_OK)
        take_session(m, last_id, a);
    else if (m->session_count == 0 && m->pending_count == 0)
        fail_queue(m, last_id, a); /* nobody else is there to run them */
    mr_ssh_mux_kick(m);
}

static bool acquire(moor_ssh_mux *m)
{
    struct mr_ssh_pending *p = calloc(1, sizeof *p);
    moor_err e = p ? MOOR_OK : MOOR_ENOMEM;
    if (!e) {
        p->mux = m;
        p->last_id = m->queue.last->id;
        e = moor_acquire(m->pool, NULL, on_acquired, p, &p->op);
    }
    if (!e) {
        p->next = m->pending;
        m->pending = p;
        m->pending_count++;
        return true;
    }
    free(p);
    if (m->session_count == 0 && m->pending_count == 0) {
        const moor_acquired a = {.size = sizeof a,
                                 .fault = {.err = e, .what = "ask for a session"}};
        fail_queue(m, m->queue.last->id, &a);
    }
    return false;
}

static void dispatch(moor_ssh_mux *m)
{
    struct mr_ssh_session *s;
    while (m->queue.first && (s = least_loaded(m)) != NULL) {
        struct mr_ssh_command *c = m->queue.first;
        mr_ssh_list_remove(&m->queue, c);
        (void)mr_ssh_command_start(c, s);
        s->is_stirred = true;
    }
    while (m->queue.first && m->session_count + m->pending_count < m->options.sessions_max &&
           (uint64_t)m->pending_count * m->options.channels_max < m->queue.count)
        if (!acquire(m))
            return;
}

/* Those that were cancelled, or whose time ran out, before their turn. */
static void sweep_queue(moor_ssh_mux *m)
{
    for (struct mr_ssh_command *c = m->queue.first, *next; c; c = next) {
        next = c->next;
        if (!c->end)
            continue;
        mr_ssh_list_remove(&m->queue, c);
        mr_ssh_command_tell(c, c->end, "wait for a session");
        mr_ssh_command_free(c);
    }
}

static void run_kick(void *user)
{
    moor_ssh_mux *m = user;
    m->is_kicked = false;
    sweep_queue(m);
    dispatch(m);
    for (struct mr_ssh_pending *p = m->pending; p && m->is_closing && !m->queue.first; p = p->next)
        moor_cancel(p->op);
    for (struct mr_ssh_session *s = m->sessions, *next; s; s = next) {
        next = s->next;
        if (s->is_stirred || s->is_leaving || s->commands.count == 0)
            mr_ssh_session_turn(s);
    }
    mr_ssh_mux_close_if_over(m);
}

void mr_ssh_mux_kick(moor_ssh_mux *m)
{
    if (m->is_kicked)
        return;
    m->kick.run = run_kick;
    m->kick.user = m;
    /* Only a shard that leaves says no: it takes everything of ours along. */
    m->is_kicked = moor_post(m->shard, &m->kick) == MOOR_OK;
}

/* ---- calls ---- */

void moor_ssh_mux_options_init_sized(moor_ssh_mux_options *o, size_t size)
{
    const moor_ssh_mux_options defaults = {.size = size,
                                           .sessions_max = 4,
                                           .channels_max = 8,
                                           .commands_max = 10000,
                                           .keepalive_ms = 15000,
                                           .hold_max_ms = 30000};
    memset(o, 0, size);
    memcpy(o, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

void moor_ssh_command_init_sized(moor_ssh_command *c, size_t size)
{
    const moor_ssh_command defaults = {
        .size = size, .timeout_ms = MOOR_FOREVER, .output_max = (size_t)16 << 20};
    memset(c, 0, size);
    memcpy(c, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

static bool is_in_range(uint32_t value, uint32_t most)
{
    return value >= 1 && value <= most;
}

moor_err moor_ssh_mux_open(moor_pool *p, moor_shard *shard, const moor_ssh_mux_options *options,
                           moor_ssh_mux **out_mux)
{
    moor_ssh_mux_options o;
    moor_ssh_mux_options_init(&o);
    if (options)
        memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    o.size = sizeof o;
    if (!p || !shard || !out_mux || !is_in_range(o.sessions_max, 1000) ||
        !is_in_range(o.channels_max, 1000) || o.commands_max == 0 ||
        (o.keepalive_ms < 1 && o.keepalive_ms != MOOR_FOREVER) || o.hold_max_ms < 1)
        return MOOR_EINVAL;
    moor_ssh_mux *m = calloc(1, sizeof *m);
    if (!m)
        return MOOR_ENOMEM;
    m->pool = p;
    m->shard = shard;
    m->options = o;
    m->next_id = 1;
    if (sem_init(&m->closed, 0, 0)) {
        free(m);
        return MOOR_ENOMEM;
    }
    *out_mux = m;
    return MOOR_OK;
}

static void time_out(moor_poll *p, unsigned events)
{
    (void)events;
    struct mr_ssh_command *c = p->user;
    mr_ssh_command_end(c, MOOR_ETIMEDOUT, "");
}

static struct mr_ssh_command *make(const moor_ssh_command *from, const moor_ssh_handlers *handlers,
                                   void *user)
{
    const size_t text_len = strlen(from->text), len = text_len + 1 + from->input.len;
    struct mr_ssh_command *c = calloc(1, sizeof *c);
    char *memory = c && len > from->input.len ? malloc(len) : NULL;
    if (!memory) {
        free(c);
        return NULL;
    }
    memcpy(memory, from->text, text_len + 1);
    if (from->input.len)
        memcpy(memory + text_len + 1, from->input.base, from->input.len);
    c->text = memory;
    c->text_len = text_len;
    c->input = memory + text_len + 1;
    c->input_len = from->input.len;
    c->output_left = from->output_max;
    c->exit_status = -1;
    memcpy(&c->handlers, handlers,
           handlers->size < sizeof c->handlers ? handlers->size : sizeof c->handlers);
    c->user = user;
    return c;
}

moor_err mr_ssh_mux_submit(moor_ssh_mux *m, const moor_ssh_command *command,
                           const moor_ssh_handlers *handlers, void *user, uint64_t *out_id)
{
    moor_ssh_command from;
    moor_ssh_command_init(&from);
    if (!command || !handlers || !handlers->on_done)
        return MOOR_EINVAL;
    memcpy(&from, command, command->size < sizeof from ? command->size : sizeof from);
    if (!from.text || strnlen(from.text, MOOR_SSH_COMMAND_MAX + 1) > MOOR_SSH_COMMAND_MAX ||
        (from.input.len && !from.input.base) ||
        (from.timeout_ms < 0 && from.timeout_ms != MOOR_FOREVER))
        return MOOR_EINVAL;
    if (m->is_closing)
        return MOOR_ECLOSED;
    if (m->commands >= m->options.commands_max)
        return MOOR_EBUSY;
    struct mr_ssh_command *c = make(&from, handlers, user);
    if (!c)
        return MOOR_ENOMEM;
    c->mux = m;
    c->timer.ready = time_out;
    c->timer.user = c;
    if (from.timeout_ms >= 0 && moor_poll_start(&c->timer, -1, 0, from.timeout_ms)) {
        mr_ssh_command_free(c);
        return MOOR_ENOMEM;
    }
    mr_ssh_mux_kick(m);
    if (!m->is_kicked) {
        mr_ssh_command_free(c);
        return MOOR_ECLOSED;
    }
    c->id = m->next_id++;
    m->commands++;
    mr_ssh_list_add(&m->queue, c);
    *out_id = c->id;
    return MOOR_OK;
}

moor_err moor_ssh_exec(moor_ssh_mux *mux, const moor_ssh_command *command,
                       const moor_ssh_handlers *handlers, void *user, moor_ssh_op *out_op)
{
    if (!mux)
        return MOOR_EINVAL;
    if (moor_shard_self() != mux->shard)
        return MOOR_EWRONGTHREAD;
    uint64_t id = 0;
    const moor_err e = mr_ssh_mux_submit(mux, command, handlers, user, &id);
    if (!e && out_op)
        *out_op = (moor_ssh_op){mux, id};
    return e;
}

static struct mr_ssh_command *find(const struct mr_ssh_list *list, uint64_t id)
{
    struct mr_ssh_command *c = list->first;
    while (c && c->id != id)
        c = c->next;
    return c;
}

void moor_ssh_cancel(moor_ssh_op op)
{
    moor_ssh_mux *m = op.mux_;
    if (!m || moor_shard_self() != m->shard)
        return;
    struct mr_ssh_command *c = find(&m->queue, op.id_);
    for (struct mr_ssh_session *s = m->sessions; s && !c; s = s->next)
        c = find(&s->commands, op.id_);
    if (c)
        mr_ssh_command_end(c, MOOR_ECANCELED, "");
}
