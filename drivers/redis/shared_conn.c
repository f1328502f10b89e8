/*
 * One connection of a shared object: takes commands from its inbox, sends what a turn brought in one piece, and
 * matches replies to commands by order alone. Thread: its shard, but for the first three functions.
 * It must never skip a reply: a command that was given up keeps its place until its reply has come.
 */
#include "drivers/redis/shared.h"

#include <stdlib.h>

/* Bytes of one batch, about: a longer queue is sent in several, one after the other. */
#define BATCH_MAX (256u * 1024)

static void run_pump(void *user);
static void run_stop(void *user);
static void pump(struct conn *c);
static void write_batch(struct conn *c);
static void arm_timer(struct conn *c);
static void start_acquire(struct conn *c);
static void lose(struct conn *c, moor_err e, const char *what);

void conn_init(struct conn *c, struct moor_redis_shared *s, moor_shard *shard)
{
    c->shared = s;
    c->shard = shard;
    c->pump = (moor_task){.run = run_pump, .user = c};
    c->stop = (moor_task){.run = run_stop, .user = c};
    c->timer_at_ns = REDIS_NEVER;
}

void conn_fini(struct conn *c)
{
    free(c->heap);
}

/* ---- any thread ---- */

static struct slot *take_inbox(struct conn *c)
{
    struct slot *newest = atomic_exchange(&c->inbox, NULL), *oldest = NULL;
    while (newest) {
        struct slot *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

/* Nobody turns the shard any more: who would have woken it takes back what is in the inbox. */
static bool take_back(struct conn *c, struct slot *own)
{
    bool is_found = false;
    for (struct slot *slot = take_inbox(c), *next; slot; slot = next) {
        next = slot->next;
        if (slot == own) {
            is_found = true;
            continue;
        }
        slot_finish(slot, 0, MOOR_ECLOSED, "the connection's shard has left", NULL, false);
        slot_unref(slot);
    }
    return is_found;
}

moor_err conn_submit(struct conn *c, struct slot *slot)
{
    struct slot *newest = atomic_load_explicit(&c->inbox, memory_order_relaxed);
    do {
        slot->next = newest;
    } while (!atomic_compare_exchange_weak(&c->inbox, &newest, slot));
    if (newest)
        return MOOR_OK; /* who found it empty wakes the shard */
    const moor_err e = moor_post(c->shard, &c->pump);
    if (e == MOOR_ECLOSED)
        return take_back(c, slot) ? e : MOOR_OK;
    return e == MOOR_EBUSY ? MOOR_OK : e; /* posted already: it will find this one */
}

void conn_abandoned(struct conn *c)
{
    atomic_store(&c->has_abandoned, true);
    (void)!moor_post(c->shard, &c->pump);
}

void conn_stop(struct conn *c)
{
    const moor_err e = moor_post(c->shard, &c->stop);
    if (e == MOOR_ECLOSED) { /* it has left, and ended all of its leases and acquires */
        (void)take_back(c, NULL);
        atomic_store(&c->is_stopped, true);
    }
}

/* ---- lists ---- */

static void list_add(struct slot_list *l, struct slot *slot)
{
    slot->next = NULL;
    if (l->last)
        l->last->next = slot;
    else
        l->first = slot;
    l->last = slot;
    l->count++;
}

static struct slot *list_pop(struct slot_list *l)
{
    struct slot *slot = l->first;
    if (!slot)
        return NULL;
    l->first = slot->next;
    if (!l->first)
        l->last = NULL;
    l->count--;
    return slot;
}

/* The connection has no more to do with it. */
static void let_go(struct conn *c, struct slot *slot)
{
    heap_remove(c, slot);
    slot_unref(slot);
}

static void fail_list(struct conn *c, struct slot_list *l, moor_err e, const char *what)
{
    struct slot_list all = *l; /* callbacks may submit: what they add is not for this error */
    *l = (struct slot_list){0};
    for (struct slot *slot; (slot = list_pop(&all));) {
        slot_finish(slot, 0, e, what, NULL, true);
        let_go(c, slot);
    }
}

/* Those given up while queued hold places in the limits for nothing. */
static void sweep_queue(struct conn *c)
{
    struct slot_list all = c->queue;
    c->queue = (struct slot_list){0};
    for (struct slot *slot; (slot = list_pop(&all));) {
        if (slot_is_told(slot))
            let_go(c, slot);
        else
            list_add(&c->queue, slot);
    }
}

/* ---- the inbox ---- */

static void run_pump(void *user)
{
    pump(user);
}

static void pump(struct conn *c)
{
    for (struct slot *slot = take_inbox(c), *next; slot; slot = next) {
        next = slot->next;
        if (slot_is_told(slot)) {
            slot_unref(slot);
            continue;
        }
        if (c->is_stopping || (slot->deadline_ns != REDIS_NEVER && heap_add(c, slot))) {
            slot_finish(slot, 0, c->is_stopping ? MOOR_ECANCELED : MOOR_ENOMEM,
                        c->is_stopping ? "the shared connections were closed" : "no memory", NULL,
                        true);
            let_go(c, slot);
            continue;
        }
        list_add(&c->queue, slot);
    }
    if (atomic_exchange(&c->has_abandoned, false))
        sweep_queue(c);
    if (c->wire)
        write_batch(c);
    else if (c->queue.first)
        start_acquire(c);
    arm_timer(c);
}

/* ---- the lease ---- */

static void free_wire(struct wire *w)
{
    redis_codec_fini(&w->codec);
    redis_buf_fini(&w->batch);
    free(w);
}

/* Gives the lease back; what is still being sent keeps its bytes until it is let go of. */
static void drop_wire(struct conn *c, moor_release_how how)
{
    struct wire *w = c->wire;
    c->wire = NULL;
    c->is_turning_over = false;
    atomic_store(&c->is_connected, false);
    w->conn = NULL;
    moor_release(w->lease, how);
    if (!w->is_sending)
        free_wire(w);
}

static void lose(struct conn *c, moor_err e, const char *what)
{
    const bool has_served = c->wire->has_served;
    drop_wire(c, MOOR_DISCARD);
    fail_list(c, &c->sent, e, what);
    /* At once, so that the next command need not wait for it; but not for ever with a server that only closes. */
    if (!c->is_stopping && (has_served || c->queue.first))
        start_acquire(c);
}

/* Between two replies, so none is under way: the pool decides whether it is fit for more. */
static void turn_over(struct conn *c)
{
    drop_wire(c, MOOR_REUSE);
    if (c->queue.first)
        start_acquire(c);
}

static moor_err take_lease(struct conn *c, moor_lease lease);

static void on_acquired(void *user, const moor_acquired *a)
{
    struct conn *c = user;
    c->is_acquiring = false;
    moor_err e = a->fault.err;
    const char *what = a->fault.what;
    if (!e && c->is_stopping) {
        moor_release(a->lease, MOOR_REUSE);
        e = MOOR_ECANCELED;
    } else if (!e) {
        e = take_lease(c, a->lease);
        what = "the pool is not a redis pool, or no memory";
        if (e)
            moor_release(a->lease, MOOR_DISCARD);
    }
    if (e)
        fail_list(c, &c->queue, e, what);
    else
        write_batch(c);
    arm_timer(c);
    if (c->is_stopping)
        atomic_store(&c->is_stopped, true);
}

static void start_acquire(struct conn *c)
{
    if (c->is_acquiring || c->wire)
        return;
    const moor_err e = moor_acquire(c->shared->pool, NULL, on_acquired, c, &c->acquire);
    c->is_acquiring = !e;
    if (e)
        fail_list(c, &c->queue, e, "no connection was had");
}

static void on_chunk(void *user, moor_chunk chunk);
static void on_end(void *user, const moor_fault *fault);

static moor_err take_lease(struct conn *c, moor_lease lease)
{
    const struct redis_config *config;
    moor_err e = redis_lease_config(lease, &config);
    if (e)
        return e;
    struct wire *w = calloc(1, sizeof *w);
    if (!w)
        return MOOR_ENOMEM;
    w->conn = c;
    w->lease = lease;
    const moor_stream_handlers h = {.size = sizeof h, .on_chunk = on_chunk, .on_end = on_end};
    e = redis_codec_init(&w->codec, config->reply_bytes_max);
    if (!e)
        e = moor_stream_read(lease, &h, w);
    if (e) {
        free_wire(w);
        return e;
    }
    c->wire = w;
    c->rotate_at_ns = redis_deadline(c->shared->options.rotate_ms);
    atomic_store(&c->is_connected, true);
    atomic_fetch_add_explicit(&c->connects, 1, memory_order_relaxed);
    return MOOR_OK;
}

/* ---- down ---- */

static void on_sent(void *user)
{
    struct wire *w = user;
    w->is_sending = false;
    redis_buf_clear(&w->batch);
    if (!w->conn) {
        free_wire(w);
        return;
    }
    write_batch(w->conn);
    arm_timer(w->conn);
}

/* From the queue into the batch, and to the list of those whose replies are awaited. */
static void fill_batch(struct conn *c, struct wire *w)
{
    while (c->queue.first && w->batch.len < BATCH_MAX) {
        struct slot *slot = list_pop(&c->queue);
        if (redis_buf_reserve(&w->batch, slot->len)) {
            slot_finish(slot, 0, MOOR_ENOMEM, "no memory", NULL, true);
            let_go(c, slot);
            continue;
        }
        if (!slot_send(slot)) { /* given up before a byte of it left */
            let_go(c, slot);
            continue;
        }
        redis_buf_add(&w->batch, slot->bytes, slot->len);
        redis_command_free(slot->bytes);
        slot->bytes = NULL;
        if (!c->sent.first)
            c->heard_ns = redis_now();
        list_add(&c->sent, slot);
    }
}

static void write_batch(struct conn *c)
{
    struct wire *w = c->wire;
    if (!w || w->is_sending || c->is_turning_over || !c->queue.first)
        return;
    fill_batch(c, w);
    if (c->wire != w || !w->batch.len)
        return;
    w->is_sending = true;
    atomic_fetch_add_explicit(&c->sends, 1, memory_order_relaxed);
    const moor_err e = moor_stream_send(
        w->lease, (moor_piece){.bytes = {w->batch.bytes, w->batch.len}, .sent = on_sent, .ctx = w});
    if (!e)
        return;
    w->is_sending = false;
    lose(c, e, "send");
}

/* ---- up ---- */

static void take_reply(struct conn *c, struct moor_redis_reply *reply)
{
    struct slot *slot = list_pop(&c->sent);
    if (!slot) {
        moor_redis_reply_free(reply);
        lose(c, MOOR_EPROTO, "more replies than commands");
        return;
    }
    c->wire->has_served = true;
    if (reply->type == MOOR_REDIS_ERROR) {
        redis_report(c->wire->lease, reply);
        if (moor_redis_reply_is_error(reply, "READONLY") ||
            moor_redis_reply_is_error(reply, "NOAUTH"))
            c->is_turning_over = true; /* what follows shall meet the server that took over */
    }
    if (slot_finish(slot, 0, MOOR_OK, NULL, reply, true)) {
        atomic_fetch_add_explicit(&c->replies, 1, memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&c->replies_late, 1, memory_order_relaxed);
        moor_redis_reply_free(reply);
    }
    let_go(c, slot);
}

static void on_chunk(void *user, moor_chunk chunk)
{
    struct wire *w = user;
    struct conn *c = w->conn;
    struct moor_redis_reply *reply;
    c->heard_ns = redis_now();
    moor_err e = redis_codec_feed(&w->codec, chunk.bytes);
    moor_chunk_return(chunk);
    while (!e) {
        e = redis_codec_next(&w->codec, &reply);
        if (e || !reply)
            break;
        if (reply->type == MOOR_REDIS_PUSH)
            moor_redis_reply_free(reply);
        else
            take_reply(c, reply);
        if (c->wire != w)
            break; /* lost, and perhaps freed */
    }
    if (e)
        lose(c, e, redis_codec_what(e));
    else if (c->wire == w && c->is_turning_over && !c->sent.first)
        turn_over(c);
    arm_timer(c);
}

static void on_end(void *user, const moor_fault *fault)
{
    struct wire *w = user;
    struct conn *c = w->conn;
    lose(c, fault->err ? fault->err : MOOR_ERESET,
         fault->err && fault->what ? fault->what : "the server closed the connection");
    arm_timer(c);
}

/* ---- time ---- */

static int64_t stall_at(const struct conn *c)
{
    const moor_ms limit = c->shared->options.stall_ms;
    return c->wire && c->sent.first && limit >= 0 ? c->heard_ns + limit * REDIS_NS_PER_MS
                                                  : REDIS_NEVER;
}

static int64_t next_event(const struct conn *c)
{
    int64_t at = c->heap_count ? c->heap[0]->deadline_ns : REDIS_NEVER;
    if (stall_at(c) < at)
        at = stall_at(c);
    if (c->wire && !c->is_turning_over && c->rotate_at_ns < at)
        at = c->rotate_at_ns;
    return at;
}

static void on_timer(moor_poll *p, unsigned events)
{
    struct conn *c = CONTAINER_OF(p, struct conn, timer);
    const int64_t now = redis_now();
    (void)events;
    c->timer_at_ns = REDIS_NEVER;
    bool has_abandoned = false;
    while (c->heap_count && c->heap[0]->deadline_ns <= now) {
        struct slot *slot = c->heap[0];
        heap_remove(c, slot);
        slot_finish(slot, 0, MOOR_ETIMEDOUT, "no reply in time", NULL, true);
        has_abandoned = true;
    }
    if (has_abandoned && c->queue.first)
        sweep_queue(c);
    if (stall_at(c) <= now)
        lose(c, MOOR_ETIMEDOUT, "the server was silent for stall_ms");
    if (c->wire && c->rotate_at_ns <= now)
        c->is_turning_over = true;
    if (c->wire && c->is_turning_over && !c->sent.first)
        turn_over(c);
    arm_timer(c);
}

/* The timer is left where it is if that is early enough: it looks again when it runs. */
static void arm_timer(struct conn *c)
{
    const int64_t at = next_event(c);
    if (c->is_stopping || (at >= c->timer_at_ns && at != REDIS_NEVER))
        return;
    /* Nothing to wait for, no timer: a shard that leaves has ended everything before. */
    if (c->timer_at_ns != REDIS_NEVER)
        moor_poll_stop(&c->timer);
    c->timer_at_ns = REDIS_NEVER;
    if (at == REDIS_NEVER)
        return;
    c->timer.ready = on_timer;
    if (moor_poll_start(&c->timer, -1, 0, redis_left(at, redis_now())) == MOOR_OK)
        c->timer_at_ns = at;
}

/* ---- the end ---- */

static void run_stop(void *user)
{
    struct conn *c = user;
    static const char why[] = "the shared connections were closed";
    c->is_stopping = true;
    if (c->timer_at_ns != REDIS_NEVER)
        moor_poll_stop(&c->timer);
    c->timer_at_ns = REDIS_NEVER;
    fail_list(c, &c->queue, MOOR_ECANCELED, why);
    pump(c); /* fails the inbox */
    if (c->wire)
        drop_wire(c, c->sent.first ? MOOR_DISCARD : MOOR_REUSE);
    fail_list(c, &c->sent, MOOR_ECANCELED, why);
    if (c->is_acquiring)
        moor_cancel(c->acquire); /* on_acquired says that it is over */
    else
        atomic_store(&c->is_stopped, true);
}
