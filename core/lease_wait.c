/*
 * The blocking twins: an ordinary thread sleeps on a futex while the lease's shard works; a thread that
 * adopted a shard drives it meanwhile. What waits lies on the caller's stack, so the caller stays until the
 * shard has let go of it.
 */
#include "core/lease.h"

#include "base/futex.h"
#include "core/stream.h"

struct wait {
    struct mr_message start;   /* to the shard that does the work */
    struct mr_message wake;    /* from it to the shard this thread drives, if that is another */
    struct moor_shard *driven; /* NULL: the thread sleeps on `word` */
    void (*run)(struct wait *w);
    _Atomic(uint32_t) word; /* futex: 1 = done */
    moor_err err;
};

/* ---- waiting ---- */

moor_err mr_check_blocking(const struct moor_runtime *r)
{
    MR_FAIL_IF(mr_runtime_is_forked(r), MOOR_EFORKED);
    const struct moor_shard *s = moor_shard_self();
    MR_FAIL_IF(s && (s->mine.is_turning || !s->is_adopted || s->runtime != r), MOOR_EWRONGTHREAD);
    return MOOR_OK;
}

static void run_start(struct mr_message *m)
{
    struct wait *w = MR_CONTAINER_OF(m, struct wait, start);
    w->run(w);
}

static void run_wake(struct mr_message *m)
{
    struct wait *w = MR_CONTAINER_OF(m, struct wait, wake);
    atomic_store_explicit(&w->word, 1, memory_order_release);
}

/* On the shard that worked, its last use of w. */
static void finish(struct wait *w, moor_err err)
{
    struct moor_shard *driven = w->driven;
    w->err = err;
    if (driven && driven != moor_shard_self()) {
        const bool is_there = mr_shard_post(driven, &w->wake);
        MR_ASSERT(is_there && "a shard does not leave while its thread waits here");
        return;
    }
    atomic_store_explicit(&w->word, 1, memory_order_release);
    if (!driven)
        mr_futex_wake(&w->word, 1);
}

/* False: nobody runs that shard any more. */
static bool begin(struct wait *w, struct moor_shard *s)
{
    w->start.run = run_start;
    w->wake.run = run_wake;
    w->driven = moor_shard_self();
    if (w->driven != s)
        return mr_shard_post(s, &w->start);
    mr_shard_refresh(s);
    w->run(w);
    return true;
}

static moor_err result(struct wait *w)
{
    while (!atomic_load_explicit(&w->word, memory_order_acquire)) {
        if (!w->driven)
            (void)!mr_futex_wait(&w->word, 0, MR_NEVER);
        else if (moor_shard_wait(w->driven, MOOR_FOREVER) == MOOR_EFORKED)
            return MOOR_EFORKED; /* a callback forked: this is the child */
    }
    return w->err;
}

/* When to give up: not before the shard has tried once, so that 0 means "only what is there". */
static int64_t limit(struct moor_shard *s, int64_t deadline_ns)
{
    const int64_t soonest = mr_shard_now(s) + MR_NS_PER_MS;
    return deadline_ns < soonest ? soonest : deadline_ns;
}

/* ---- a lease ---- */

struct acquire_wait {
    struct wait w;
    struct moor_pool *pool;
    int64_t deadline_ns;
    const char *site;
    moor_acquired *out;
    moor_why *why; /* the caller's, or NULL */
};

static void acquire_done(void *user, const moor_acquired *a)
{
    struct acquire_wait *q = user;
    if (a->why && q->why)
        *q->why = *a->why;
    *q->out = *a;
    q->out->why = NULL;
    finish(&q->w, a->fault.err);
}

static void acquire_run(struct wait *w)
{
    struct acquire_wait *q = MR_CONTAINER_OF(w, struct acquire_wait, w);
    const moor_err e = mr_lease_acquire(q->pool, q->deadline_ns, q->site, acquire_done, q, NULL);
    if (e)
        finish(w, e);
}

moor_err mr_lease_wait(struct moor_pool *p, const moor_acquire_options *options, moor_acquired *out,
                       const char *site)
{
    MR_TRY(mr_check_blocking(p->runtime));
    MR_FAIL_IF(!p->protocol->is_stream, MOOR_EINVAL);
    struct acquire_wait q = {.w.run = acquire_run, .pool = p, .site = site, .out = out};
    if (options && options->size >= offsetof(moor_acquire_options, why) + sizeof options->why)
        q.why = options->why;
    MR_TRY(mr_lease_deadline(p, options, mr_clock_now(p->runtime->clock), &q.deadline_ns));
    *out = (moor_acquired){.size = sizeof *out};
    bool has_begun = false;
    for (int tries = 0; !has_begun && tries < 3; tries++) {
        struct moor_shard *s = moor_shard_self();
        if (!s)
            s = mr_runtime_pick(p->runtime);
        has_begun = s && begin(&q.w, s);
    }
    const moor_err e = has_begun ? result(&q.w) : MOOR_ECLOSED;
    if (e && !out->fault.err)
        out->fault = (moor_fault){.err = e, .what = moor_err_text(e), .safe_to_retry = true};
    return e;
}

/* ---- calls on a lease ---- */

/* Where its shard is. The handle is looked at again over there. */
static moor_err find_shard(moor_lease lease, moor_ms timeout_ms, struct moor_shard **out_shard,
                           int64_t *out_deadline_ns)
{
    MR_FAIL_IF(!lease.slot_, MOOR_ESTALE);
    struct moor_shard *s = lease.slot_->shard;
    MR_FAIL_IF(!s, MOOR_EINVAL);
    MR_TRY(mr_check_blocking(s->runtime));
    MR_FAIL_IF(timeout_ms < MOOR_FOREVER, MOOR_EINVAL);
    MR_FAIL_IF(!mr_op_is_current(lease.slot_, lease.generation_), MOOR_ESTALE);
    *out_shard = s;
    *out_deadline_ns = mr_deadline(mr_clock_now(s->runtime->clock), timeout_ms);
    return MOOR_OK;
}

struct send_wait {
    struct wait w;
    moor_lease handle;
    struct mr_lease *lease;
    struct mr_out out;
    struct mr_timer timer;
    int64_t deadline_ns;
    bool is_late;
};

static void send_sent(struct mr_out *o, int err)
{
    struct send_wait *q = MR_CONTAINER_OF(o, struct send_wait, out);
    struct mr_lease *l = q->lease;
    mr_loop_untimer(&l->slot.shard->mine.loop, &q->timer);
    const moor_err why = l->fault.err ? l->fault.err : MOOR_ERESET;
    finish(&q->w, !err ? MOOR_OK : q->is_late ? MOOR_ETIMEDOUT : why);
    mr_lease_out_gone(l);
}

/* Bytes in the kernel's hands come back only with the end of the conn, and a stream with a hole is of no
 * use to anybody. */
static void send_late(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct send_wait *q = MR_CONTAINER_OF(t, struct send_wait, timer);
    q->is_late = true;
    if (q->lease->conn)
        mr_conn_fail(q->lease->conn, &(moor_fault){.err = MOOR_ERESET, .what = "a send timed out"});
}

static void send_run(struct wait *w)
{
    struct send_wait *q = MR_CONTAINER_OF(w, struct send_wait, w);
    moor_err e = mr_lease_find(q->handle, &q->lease);
    if (!e)
        e = mr_stream_write(q->lease, &q->out);
    if (e) {
        finish(w, e);
        return;
    }
    struct moor_shard *s = q->lease->slot.shard;
    mr_loop_timer(&s->mine.loop, &q->timer, limit(s, q->deadline_ns));
}

moor_err moor_stream_send_wait(moor_lease lease, moor_span bytes, moor_ms timeout_ms)
{
    MR_FAIL_IF(bytes.len && !bytes.base, MOOR_EINVAL);
    struct send_wait q = {
        .w.run = send_run,
        .handle = lease,
        .out = {.base = bytes.base, .len = bytes.len, .sent = send_sent},
        .timer.fire = send_late,
    };
    struct moor_shard *s;
    MR_TRY(find_shard(lease, timeout_ms, &s, &q.deadline_ns));
    return begin(&q.w, s) ? result(&q.w) : MOOR_ESTALE;
}

struct read_wait {
    struct wait w;
    moor_lease handle;
    struct mr_lease *lease;
    struct mr_lease_reader reader;
    struct mr_timer timer;
    int64_t deadline_ns;
    moor_chunk *out;
};

static void read_done(struct mr_lease_reader *r, moor_err err, moor_chunk chunk)
{
    struct read_wait *q = MR_CONTAINER_OF(r, struct read_wait, reader);
    mr_loop_untimer(&q->lease->slot.shard->mine.loop, &q->timer);
    if (!err)
        *q->out = chunk;
    finish(&q->w, err);
}

static void read_late(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct read_wait *q = MR_CONTAINER_OF(t, struct read_wait, timer);
    q->lease->reader = NULL;
    finish(&q->w, MOOR_ETIMEDOUT);
}

static void read_run(struct wait *w)
{
    struct read_wait *q = MR_CONTAINER_OF(w, struct read_wait, w);
    moor_err e = mr_lease_find(q->handle, &q->lease);
    if (e) {
        finish(w, e);
        return;
    }
    struct moor_shard *s = q->lease->slot.shard;
    mr_loop_timer(&s->mine.loop, &q->timer, limit(s, q->deadline_ns));
    e = mr_stream_ask(q->lease, &q->reader);
    if (e) {
        mr_loop_untimer(&s->mine.loop, &q->timer);
        finish(w, e);
    }
}

moor_err moor_stream_read_wait(moor_lease lease, moor_ms timeout_ms, moor_chunk *out)
{
    MR_FAIL_IF(!out, MOOR_EINVAL);
    struct read_wait q = {
        .w.run = read_run,
        .handle = lease,
        .reader.done = read_done,
        .timer.fire = read_late,
        .out = out,
    };
    struct moor_shard *s;
    MR_TRY(find_shard(lease, timeout_ms, &s, &q.deadline_ns));
    return begin(&q.w, s) ? result(&q.w) : MOOR_ESTALE;
}
