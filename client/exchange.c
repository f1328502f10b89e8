/*
 * An exchange's life: waiting for a conn, being granted one, being broken and replayed, its end.
 * Owner thread: the shard it was submitted on. Callbacks never run inside moor_http_send.
 */
#include "client/exchange.h"

#include "client/body.h"
#include "client/coalesce.h"
#include "core/shard.h"

#include <string.h>

/* How long the rest of a canceled response may take to come. */
#define DRAIN_TIME_NS MR_NS_PER_SEC
enum { GOAWAYS_PER_REPLAY = 10 };

static void free_if_over(struct mr_exchange *x);
static void granted(struct mr_claim *claim, struct mr_conn *conn, bool is_reused);
static void failed(struct mr_claim *claim, const moor_fault *fault, const moor_why *why);
static void asked(struct moor_slot_ *slot, unsigned what);
static void aborted(struct mr_pool_op *op);
static void fire_total(struct mr_timer *t, int64_t now_ns);
static void fire_stage(struct mr_timer *t, int64_t now_ns);
static void let_go_of_conn(struct mr_exchange *x, bool is_reusable);
static void run_end(struct mr_deferred *d);
static void not_begun(struct mr_exchange *x, moor_err e);
static bool may_replay(const struct mr_exchange *x, const moor_fault *fault, bool had_sent,
                       bool is_proven);
static void replay(struct mr_exchange *x);
static void try_again(struct mr_exchange *x);
static void window_reopened(struct mr_window *w);

static struct mr_loop *loop_of(struct mr_exchange *x)
{
    return &x->shard->mine.loop;
}

static struct mr_slab *handle_slab(struct moor_shard *s)
{
    return mr_shard_slab(s, MR_SLAB_EXCHANGE, sizeof(struct mr_exchange_slot));
}

/* ---- beginning ---- */

struct mr_exchange *mr_exchange_alloc(struct moor_shard *s, const moor_http_handlers *h, void *user)
{
    struct mr_arena arena;
    mr_arena_init(&arena, &s->mine.arenas, s->runtime->options.memory_limit);
    struct mr_exchange *x = mr_arena_alloc(&arena, sizeof *x);
    struct mr_exchange_slot *handle = x ? mr_slab_take(handle_slab(s)) : NULL;
    if (!handle) {
        mr_arena_fini(&arena);
        return NULL;
    }
    memset(x, 0, sizeof *x);
    handle->exchange = x;
    x->handle = handle;
    x->shard = s;
    x->arena = arena;
    x->handlers = h;
    x->user = user;
    x->claim.granted = granted;
    x->claim.failed = failed;
    x->op.abort = aborted;
    x->total.fire = fire_total;
    x->stage.fire = fire_stage;
    x->end.run = run_end;
    mr_body_init(x);
    return x;
}

void mr_exchange_discard(struct mr_exchange *x)
{
    struct mr_arena arena = x->arena; /* which holds x */
    mr_slab_give(handle_slab(x->shard), x->handle);
    mr_arena_fini(&arena);
}

static moor_err acquire(struct mr_exchange *x)
{
    return mr_berth_acquire(mr_coalesce_where(x->berth), &x->claim);
}

moor_err mr_exchange_start(struct mr_exchange *x, uint64_t *out_generation)
{
    struct mr_pool_shard *local = x->berth->local;
    x->asked_ns = mr_shard_now(x->shard);
    mr_window_init(&x->window, local->pool->options.window_bytes, window_reopened);
    *out_generation = mr_op_begin(&x->handle->slot, x->shard, asked);
    mr_pool_op_begin(local, &x->op);
    const moor_err e = acquire(x);
    if (e) {
        mr_op_end(&x->handle->slot);
        mr_pool_op_end(local, &x->op);
        return e;
    }
    if (x->total_ns != MR_NEVER)
        mr_loop_timer(loop_of(x), &x->total, x->total_ns);
    return MOOR_OK;
}

/* ---- a conn ---- */

/* Later, and on conns of its own: this may be inside moor_http_send. */
static void go_alone(struct mr_exchange *x)
{
    mr_coalesce_end(x->berth);
    x->is_replaying = true;
    x->h2.is_unprocessed = true; /* nothing was sent, any conn of its host will do */
    mr_loop_defer(loop_of(x), &x->end);
}

static bool is_served_by(struct mr_exchange *x, struct mr_conn *conn)
{
    if (conn->berth == x->berth)
        return true;
    if (!mr_coalesce_covers(conn, x->berth)) {
        mr_berth_release(conn, true);
        go_alone(x);
        return false;
    }
    MR_STAT_ADD(x->berth->local, h2_coalesced, 1);
    return true;
}

static void granted(struct mr_claim *claim, struct mr_conn *conn, bool is_reused)
{
    struct mr_exchange *x = MR_CONTAINER_OF(claim, struct mr_exchange, claim);
    if (!is_served_by(x, conn))
        return;
    x->conn = conn;
    x->is_reused = is_reused;
    x->granted_ns = mr_shard_now(x->shard);
    x->sent_before = conn->bytes_out;
    x->speaker = conn->protocol == &mr_h2_protocol ? &mr_h2_speaker : &mr_h1_speaker;
    const moor_err e = x->speaker->begin(x);
    if (e)
        not_begun(x, e);
    else
        mr_body_begin(x);
}

/* What follows comes later: this may still be inside moor_http_send. */
static void not_begun(struct mr_exchange *x, moor_err e)
{
    const moor_fault nothing_sent = {.err = MOOR_ERESET};
    const bool goes_elsewhere = e == MOOR_ECLOSED && may_replay(x, &nothing_sent, false, false);
    let_go_of_conn(x, false); /* now: it must not give its bytes to half an exchange */
    if (goes_elsewhere) {
        x->h2.is_unprocessed = true;
        replay(x);
        return;
    }
    x->fault = (moor_fault){
        .err = e,
        .safe_to_retry = !x->was_sent,
        .what = e == MOOR_ETOOBIG
                    ? "the request's head exceeds 64 KiB or 512 fields, HTTP/2's bounds"
                    : "send the request"};
    mr_loop_defer(loop_of(x), &x->end);
}

static void failed(struct mr_claim *claim, const moor_fault *fault, const moor_why *why)
{
    struct mr_exchange *x = MR_CONTAINER_OF(claim, struct mr_exchange, claim);
    if (x->berth->instead.berth && fault->err != MOOR_ETIMEDOUT && fault->err != MOOR_ECLOSED) {
        go_alone(x); /* the other host's trouble is not ours */
        return;
    }
    x->fault = *fault;
    x->fault.safe_to_retry = fault->safe_to_retry && !x->was_sent;
    x->why = *why;
    x->has_why = true;
    mr_exchange_finish(x);
}

/* ---- the end ---- */

static void let_go_of_conn(struct mr_exchange *x, bool is_reusable)
{
    if (x->conn)
        x->speaker->leave(x, false, is_reusable);
}

static void window_reopened(struct mr_window *w)
{
    struct mr_exchange *x = MR_CONTAINER_OF(w, struct mr_exchange, window);
    if (x->conn)
        x->speaker->window_reopened(x);
}

/* The peer may answer a body of known length before body_cb said that there is no more. */
static bool is_all_sent(const struct mr_exchange *x)
{
    return !x->outs && (x->body_state == MR_BODY_NONE || x->body_state == MR_BODY_SENT ||
                        x->body_given == x->body_length);
}

/* A canceled response whose rest is small costs less to read than a new conn. */
static bool may_drain(const struct mr_exchange *x)
{
    return x->conn && x->is_canceled && !x->is_aborted && x->has_head && is_all_sent(x) &&
           x->speaker->may_drain(x);
}

static void begin_draining(struct mr_exchange *x)
{
    x->is_draining = true;
    mr_loop_timer(loop_of(x), &x->stage, mr_shard_now(x->shard) + DRAIN_TIME_NS);
    mr_conn_resume(x->conn);
}

static void end_draining(struct mr_exchange *x, bool is_reusable)
{
    x->is_draining = false;
    mr_loop_untimer(loop_of(x), &x->stage);
    let_go_of_conn(x, is_reusable);
    free_if_over(x);
}

/* Frees once the kernel looks at none of our bytes and on_done has run. */
static void free_if_over(struct mr_exchange *x)
{
    if (!x->is_over || x->outs || x->is_draining)
        return;
    struct mr_pool_shard *local = x->berth->local;
    mr_loop_undefer(&x->end);
    mr_loop_undefer(&x->pull);
    mr_pool_op_end(local, &x->op);
    mr_exchange_discard(x);
}

static void note_result(struct mr_exchange *x, int64_t total)
{
    struct mr_pool_shard *local = x->berth->local;
    MR_STAT_ADD(local, requests, 1);
    if (x->fault.err)
        MR_STAT_ADD(local, requests_failed, 1);
    else
        mr_histogram_record(&local->histograms[MOOR_HISTOGRAM_REQUEST], total);
}

void mr_exchange_finish(struct mr_exchange *x)
{
    if (x->is_over)
        return;
    x->is_over = true;
    mr_loop_untimer(loop_of(x), &x->total);
    mr_loop_untimer(loop_of(x), &x->stage);
    mr_berth_cancel(&x->claim);
    if (may_drain(x))
        begin_draining(x);
    else
        let_go_of_conn(x, false);
    mr_body_let_go(x);
    mr_op_end(&x->handle->slot);
    mr_window_fini(&x->window);
    const int64_t now = mr_shard_now(x->shard);
    const moor_http_done done = {
        .fault = x->fault,
        .bytes_up = x->body_given,
        .bytes_down = x->bytes_down,
        .waited = (x->granted_ns ? x->granted_ns : now) - x->asked_ns,
        .first_byte = x->first_byte_ns ? x->first_byte_ns - x->asked_ns : 0,
        .total = now - x->asked_ns,
        .reused = x->is_reused,
        .replays = x->replays,
        .why = x->has_why ? &x->why : NULL,
    };
    note_result(x, done.total);
    x->handlers->on_done(x->user, &done);
    free_if_over(x);
}

void mr_exchange_complete(struct mr_exchange *x, bool is_conn_reusable)
{
    if (x->is_draining) {
        end_draining(x, is_conn_reusable);
        return;
    }
    /* An answer before the whole request was sent: the rest would be read as the next request. */
    let_go_of_conn(x, is_conn_reusable && is_all_sent(x) && !x->wants_close);
    mr_exchange_finish(x);
}

static void run_end(struct mr_deferred *d)
{
    struct mr_exchange *x = MR_CONTAINER_OF(d, struct mr_exchange, end);
    if (x->is_over)
        return;
    if (x->is_replaying)
        try_again(x);
    else
        mr_exchange_finish(x);
}

static void end_with(struct mr_exchange *x, moor_err err, const char *what)
{
    x->fault = (moor_fault){.err = err, .what = what, .safe_to_retry = !mr_exchange_has_sent(x)};
    mr_exchange_finish(x);
}

/* ---- broken conns and replays ---- */

/* Of this attempt. */
static bool has_conn_sent(const struct mr_exchange *x)
{
    return x->conn && x->speaker->has_sent(x);
}

bool mr_exchange_has_sent(const struct mr_exchange *x)
{
    return x->was_sent || has_conn_sent(x);
}

/* RFC 9110 9.2.2 and RFC 9112 9.3.1: a request goes again only if nobody can have acted on it, or
 * if acting on it twice is the same as once. */
static bool may_replay(const struct mr_exchange *x, const moor_fault *fault, bool had_sent,
                       bool is_proven)
{
    uint32_t most = MR_OPTION(x->berth->local->pool->options.replays_max);
    if (x->h2.is_moved) /* each time by a server that goes away in good order */
        most *= GOAWAYS_PER_REPLAY;
    if (x->is_canceled || x->is_body_begun || fault->err != MOOR_ERESET || x->h2.is_calmed ||
        x->replays >= most)
        return false;
    if (!had_sent)
        return true;
    /* A server that goes away ends the conns it has just taken, too: the new conn of a replay may be
     * one of them. A first try on a new conn is the server's answer to this request, such as it is. */
    return (is_proven || x->replays > 0) && x->is_idempotent && x->speaker->is_untouched(x);
}

static void replay(struct mr_exchange *x)
{
    x->is_replaying = true;
    x->replays++;
    MR_STAT_ADD(x->berth->local, replays, 1);
    if (!x->outs)
        mr_loop_defer(loop_of(x), &x->end); /* else when the old conn has let go of our bytes */
}

void mr_exchange_broken(struct mr_exchange *x, const moor_fault *fault, bool is_conn_gone)
{
    const bool had_sent = has_conn_sent(x);
    const bool is_proven = x->speaker->is_proven(x);
    x->was_sent |= had_sent;
    mr_loop_untimer(loop_of(x), &x->stage);
    mr_loop_undefer(&x->pull);
    x->fault = *fault;
    x->fault.safe_to_retry = !x->was_sent;
    x->speaker->leave(x, is_conn_gone, false);
    if (x->is_draining) {
        end_draining(x, false);
        return;
    }
    if (may_replay(x, fault, had_sent, is_proven))
        replay(x);
    else
        mr_exchange_finish(x);
}

bool mr_exchange_too_early(struct mr_exchange *x)
{
    const moor_pool_options *o = &x->berth->local->pool->options;
    if (!x->claim.is_replayable || !o->tls_early_data || x->is_body_begun || x->is_draining ||
        x->replays >= MR_OPTION(o->replays_max))
        return false;
    x->claim.is_replayable = false;
    mr_loop_untimer(loop_of(x), &x->stage);
    let_go_of_conn(x, false);
    replay(x);
    return true;
}

bool mr_exchange_misdirected(struct mr_exchange *x)
{
    if (!x->conn || x->conn->berth == x->berth)
        return false;
    mr_coalesce_end(x->berth);
    if (x->is_body_begun || x->is_canceled || x->is_draining)
        return false;
    mr_loop_untimer(loop_of(x), &x->stage);
    let_go_of_conn(x, false);
    x->h2.is_unprocessed = true;
    replay(x);
    return true;
}

static void try_again(struct mr_exchange *x)
{
    x->is_replaying = false;
    x->fault = (moor_fault){0}; /* of the attempt before: it did not end the request */
    x->claim.wants_fresh = !x->h2.is_unprocessed; /* refused: by that conn only */
    x->claim.is_again = true;
    x->h2.is_unprocessed = x->h2.is_moved = false;
    x->first_byte_ns = 0;
    const moor_err e = acquire(x);
    if (e)
        end_with(x, e, "send the request again");
}

void mr_exchange_sent(struct mr_exchange *x)
{
    if (!x->has_head && is_all_sent(x))
        mr_loop_timer(loop_of(x), &x->stage, mr_deadline(mr_shard_now(x->shard), x->first_byte_ms));
}

void mr_exchange_out_gone(struct mr_exchange *x)
{
    MR_ASSERT(x->outs > 0);
    x->outs--;
    if (x->outs == 0 && !x->is_over) {
        if (x->is_replaying)
            mr_loop_defer(loop_of(x), &x->end);
        else
            mr_body_room(x);
        if (!x->is_replaying)
            mr_exchange_sent(x);
    }
    free_if_over(x);
}

/* ---- time, cancel, abort ---- */

static void fire_total(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct mr_exchange *x = MR_CONTAINER_OF(t, struct mr_exchange, total);
    end_with(x, MOOR_ETIMEDOUT, x->conn ? "wait for the response" : "wait for a connection");
}

static void fire_stage(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct mr_exchange *x = MR_CONTAINER_OF(t, struct mr_exchange, stage);
    if (x->is_draining)
        end_draining(x, false);
    else if (x->body_state == MR_BODY_WAITING)
        mr_exchange_continue(x);
    else if (!x->outs)
        end_with(x, MOOR_ETIMEDOUT, "wait for the response's first byte");
    else if (!x->speaker->may_stall || !x->speaker->may_stall(x))
        end_with(x, MOOR_ETIMEDOUT, "wait for the server's windows to let the body through");
}

void mr_exchange_continue(struct mr_exchange *x)
{
    if (x->body_state != MR_BODY_WAITING)
        return;
    mr_loop_untimer(loop_of(x), &x->stage);
    mr_body_go(x);
}

static void cancel(struct mr_exchange *x, const char *what)
{
    x->is_canceled = true;
    if (!x->is_over)
        end_with(x, MOOR_ECANCELED, what);
    else if (x->is_draining)
        end_draining(x, false);
}

static void asked(struct moor_slot_ *slot, unsigned what)
{
    struct mr_exchange *x = MR_CONTAINER_OF(slot, struct mr_exchange_slot, slot)->exchange;
    switch (what) {
    case MR_ASK_CANCEL:
        cancel(x, "canceled by the caller");
        break;
    case MR_ASK_RESUME:
        mr_body_resumed(x);
        break;
    default:
        x->urgency = (uint8_t)(mr_op_value(slot) >> 1);
        x->is_incremental = mr_op_value(slot) & 1;
        if (x->conn)
            x->speaker->prioritize(x);
        break;
    }
}

void moor_http_prioritize(moor_op op, uint32_t urgency, bool incremental)
{
    const unsigned least = MR_H2_URGENCIES - 1;
    if (op.slot_)
        mr_op_ask_set(op.slot_, op.generation_,
                      (urgency < least ? urgency : least) << 1 | (unsigned)incremental);
}

static void aborted(struct mr_pool_op *op)
{
    struct mr_exchange *x = MR_CONTAINER_OF(op, struct mr_exchange, op);
    x->is_aborted = true;
    cancel(x, "the pool was closed");
}
