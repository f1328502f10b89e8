/*
 * HTTP/2 on a conn: frames in and out, how many streams at a time, signs of life, goodbye.
 * Owner thread: the conn's shard. Streams are h2_exchange.c's. Never waits for a PING before it sends.
 */
#include "client/h2_conn.h"

#include "core/pool.h"
#include "core/shard.h"

#include <string.h>

/* Frames of one send; and how much of them may wait for the socket before more are made, so that what is
 * urgent is not queued behind what is not. */
enum { BLOCK_SIZE = 16384, UNSENT_MAX = 65536 };
/* How long the last words may take. */
#define GOODBYE_NS MR_NS_PER_SEC

struct mr_h2_block {
    struct mr_out out;
    struct mr_h2_conn *owner;
    uint8_t bytes[BLOCK_SIZE - 64];
};

static struct mr_loop *loop_of(struct mr_h2_conn *h)
{
    return &h->conn->slot.shard->mine.loop;
}

static struct mr_heap *heap_of(struct mr_h2_conn *h)
{
    return &h->conn->slot.shard->mine.heap;
}

static const moor_pool_options *options_of(struct mr_h2_conn *h)
{
    return &h->conn->berth->upstream->pool->options;
}

static bool is_closing(const struct mr_h2_conn *h)
{
    return mr_conn_state(h->conn) >= MR_CONN_CLOSING;
}

/* ---- out ---- */

static void block_sent(struct mr_out *o, int err)
{
    (void)err;
    struct mr_h2_block *b = MR_CONTAINER_OF(o, struct mr_h2_block, out);
    struct mr_h2_conn *h = b->owner;
    if (!h->spare && !is_closing(h) && h->conn->used)
        h->spare = b;
    else
        mr_heap_free(heap_of(h), b, sizeof *b);
}

static void let_go_of_spare(struct mr_h2_conn *h)
{
    if (h->spare)
        mr_heap_free(heap_of(h), h->spare, sizeof *h->spare);
    h->spare = NULL;
}

static struct mr_h2_block *take_block(struct mr_h2_conn *h)
{
    struct mr_h2_block *b = h->spare;
    h->spare = NULL;
    if (!b)
        b = mr_heap_alloc(heap_of(h), sizeof *b);
    if (b) {
        b->owner = h;
        b->out.sent = block_sent;
        b->out.base = b->bytes;
    }
    return b;
}

static void fail(struct mr_h2_conn *h, moor_err err, const char *what)
{
    mr_conn_fail(h->conn, &(moor_fault){.err = err, .what = what});
}

static void fail_broken(struct mr_h2_conn *h, const char *what)
{
    MR_STAT_ADD(h->conn->berth->local, h2_broken, 1);
    fail(h, MOOR_EPROTO, what);
}

/* Nothing can follow frames that were not written. */
static void fail_to_write(struct mr_h2_conn *h, moor_err err)
{
    fail(h, err, "write HTTP/2 frames");
}

/* False: nothing more to write now. */
static bool write_block(struct mr_h2_conn *h)
{
    struct mr_h2_block *b = take_block(h);
    if (!b) {
        fail_to_write(h, MOOR_ENOMEM);
        return false;
    }
    b->out.len =
        mr_h2_output(&h->session, b->bytes, sizeof b->bytes, mr_shard_now(h->conn->slot.shard));
    const size_t len = b->out.len;
    const moor_err e = len && !is_closing(h) ? mr_conn_write(h->conn, &b->out) : MOOR_OK;
    if (!len || e || is_closing(h)) {
        block_sent(&b->out, 0);
        if (e)
            fail_to_write(h, e);
        return false;
    }
    return len == sizeof b->bytes && mr_conn_unsent(h->conn) < UNSENT_MAX;
}

/* Nothing is left to say, and nothing to hear. */
static void end_if_over(struct mr_h2_conn *h)
{
    if (h->session.failure)
        fail_to_write(h, h->session.failure);
    if (is_closing(h) || mr_conn_unsent(h->conn))
        return;
    if (h->end_what)
        fail_broken(h, h->end_what);
    else if (h->session.fault)
        fail_broken(h, h->session.fault);
    else if (mr_h2_is_over(&h->session))
        fail(h, h->session.invalid ? MOOR_EPROTO : MOOR_ERESET,
             h->session.invalid ? h->session.invalid : "the HTTP/2 connection is over");
}

static void run_write(struct mr_deferred *d)
{
    struct mr_h2_conn *h = MR_CONTAINER_OF(d, struct mr_h2_conn, write);
    if (is_closing(h) || mr_conn_state(h->conn) < MR_CONN_PREPARING)
        return;
    if (mr_conn_unsent(h->conn) < UNSENT_MAX)
        while (mr_h2_wants_output(&h->session) && write_block(h))
            ;
    if (is_closing(h))
        return;
    mr_conn_flush_now(h->conn);
    end_if_over(h);
}

void mr_h2_conn_write_later(struct mr_h2_conn *h)
{
    mr_loop_flush_later(loop_of(h), &h->write);
}

static void h2_drained(struct mr_conn *c)
{
    struct mr_h2_conn *h = mr_h2_conn_of(c);
    if (!h) /* what filters said before it was open */
        return;
    if (mr_h2_wants_output(&h->session))
        mr_h2_conn_write_later(h);
    end_if_over(h);
}

/* ---- signs of life ---- */

static void watch(struct mr_h2_conn *h)
{
    const moor_pool_options *o = options_of(h);
    int64_t at = MR_NEVER;
    if (h->end_what)
        at = h->asked_ns + GOODBYE_NS;
    else if (h->session.is_alive_asked)
        at = mr_deadline(h->asked_ns > h->heard_ns ? h->asked_ns : h->heard_ns,
                         o->h2_ping_timeout_ms);
    else if (!mr_list_is_empty(&h->exchanges))
        at = mr_deadline(h->heard_ns, o->h2_ping_after_ms);
    if (at == MR_NEVER)
        mr_loop_untimer(loop_of(h), &h->alive);
    else if (!mr_timer_is_armed(&h->alive) || at < h->alive.at_ns)
        mr_loop_timer(loop_of(h), &h->alive, at);
}

static void ask(struct mr_h2_conn *h)
{
    if (h->session.is_alive_asked)
        return;
    mr_h2_ping(&h->session);
    h->asked_ns = mr_shard_now(h->conn->slot.shard);
    mr_h2_conn_write_later(h);
}

static void fire_alive(struct mr_timer *t, int64_t now_ns)
{
    struct mr_h2_conn *h = MR_CONTAINER_OF(t, struct mr_h2_conn, alive);
    const moor_pool_options *o = options_of(h);
    if (is_closing(h))
        return;
    if (h->end_what) {
        fail_broken(h, h->end_what);
        return;
    }
    const bool is_silent = now_ns >= mr_deadline(h->heard_ns, o->h2_ping_after_ms);
    const int64_t since = h->asked_ns > h->heard_ns ? h->asked_ns : h->heard_ns;
    if (h->session.is_alive_asked && now_ns >= mr_deadline(since, o->h2_ping_timeout_ms)) {
        MR_STAT_ADD(h->conn->berth->local, h2_silent, 1);
        fail(h, MOOR_ERESET, "no answer to a PING within h2_ping_timeout_ms");
        return;
    }
    if (is_silent && !mr_list_is_empty(&h->exchanges))
        ask(h);
    watch(h);
}

void mr_h2_conn_submitted(struct mr_h2_conn *h)
{
    if (mr_h2_is_exhausted(&h->session)) /* at once: who is granted it next would find none */
        mr_conn_drain(h->conn, "its stream ids are used up, or it ends");
}

void mr_h2_conn_used(struct mr_h2_conn *h)
{
    const int64_t now = mr_shard_now(h->conn->slot.shard);
    if (now >= mr_deadline(h->heard_ns, options_of(h)->h2_ping_after_ms))
        ask(h);
    watch(h);
    mr_h2_conn_write_later(h);
}

void mr_h2_conn_pong(struct mr_h2_session *s)
{
    struct mr_h2_conn *h = MR_CONTAINER_OF(s, struct mr_h2_conn, session);
    if (!h->is_checking)
        return;
    h->is_checking = false;
    mr_berth_release(h->conn, true);
}

/* Idle for a while: what it kept warm for the next request goes back, too. */
static void h2_check(struct mr_conn *c)
{
    struct mr_h2_conn *h = mr_h2_conn_of(c);
    let_go_of_spare(h);
    mr_h2_memory_trim(&h->session.memory);
    h->is_checking = true;
    ask(h);
    watch(h);
}

/* ---- how many at a time ---- */

static void set_capacity(struct mr_h2_conn *h, uint32_t capacity)
{
    if (capacity == h->capacity)
        return;
    h->capacity = capacity;
    mr_conn_set_capacity(h->conn, capacity);
}

void mr_h2_conn_settings(struct mr_h2_session *s, uint32_t streams_max)
{
    struct mr_h2_conn *h = MR_CONTAINER_OF(s, struct mr_h2_conn, session);
    const uint32_t ours = options_of(h)->h2_streams_max;
    h->streams_max = streams_max < ours ? streams_max : ours;
    mr_conn_expect(h->conn, h->streams_max);
    set_capacity(h, h->streams_max);
}

void mr_h2_conn_refused(struct mr_h2_conn *h)
{
    const uint32_t used = h->conn->used;
    if (used < h->capacity)
        set_capacity(h, used ? used : 1);
}

void mr_h2_conn_served(struct mr_h2_conn *h)
{
    h->has_served = true;
    h->ended++;
    if (h->capacity < h->streams_max)
        set_capacity(h, h->capacity + 1);
}

void mr_h2_conn_going_away(struct mr_h2_session *s, uint32_t code)
{
    struct mr_h2_conn *h = MR_CONTAINER_OF(s, struct mr_h2_conn, session);
    MR_STAT_ADD(h->conn->berth->local, h2_goaways, !h->is_left);
    h->is_left = true;
    h->is_leaving_well = !code && h->has_served;
    h->is_calmed = code == MR_H2_ENHANCE_YOUR_CALM;
    if (h->is_calmed)
        mr_pool_note_useless(h->conn->berth->upstream, mr_h2_calm,
                             mr_shard_now(h->conn->slot.shard), mr_loop_random(loop_of(h)));
    mr_conn_drain(h->conn, code ? "the server goes away with an error" : "the server goes away");
}

/* ---- the protocol ---- */

static moor_err h2_open(struct mr_conn *c)
{
    const moor_pool_options *o = &c->berth->upstream->pool->options;
    struct mr_h2_conn *h = mr_heap_zalloc(&c->slot.shard->mine.heap, sizeof *h);
    MR_FAIL_IF(!h, MOOR_ENOMEM);
    const struct mr_h2_limits limits = {
        .header_bytes_max = (uint32_t)o->header_bytes_max,
        .header_count_max = o->header_count_max,
        .interim_count_max = MR_H2_INTERIM_COUNT_MAX,
        .window_stream = (uint32_t)o->h2_window_stream,
        .window_conn = (uint32_t)o->h2_window_conn,
        .window_max = (uint32_t)o->h2_window_max,
    };
    h->conn = c;
    h->write.run = run_write;
    h->alive.fire = fire_alive;
    h->heard_ns = mr_shard_now(c->slot.shard);
    mr_list_init(&h->exchanges);
    const moor_err e =
        mr_h2_session_init(&h->session, heap_of(h), &limits, &mr_h2_conn_events, h->heard_ns);
    if (e) {
        mr_heap_free(heap_of(h), h, sizeof *h);
        return e;
    }
    c->state = h;
    h->streams_max =
        o->h2_streams_max < MR_H2_STREAMS_ASSUMED ? o->h2_streams_max : MR_H2_STREAMS_ASSUMED;
    mr_h2_conn_write_later(h);
    mr_conn_expect(c, h->streams_max);
    set_capacity(h, h->streams_max);
    return MOOR_OK;
}

/* Many small responses that come one by one: the next are let gather. */
static void let_gather(struct mr_h2_conn *h)
{
    struct mr_loop *l = loop_of(h);
    mr_loop_gather(
        l, mr_h2_gather(&h->gather, h->ended, h->conn->used, l->gather_max_ns, h->heard_ns));
    h->ended = 0;
}

static size_t h2_input(struct mr_conn *c, const struct mr_in *in)
{
    struct mr_h2_conn *h = mr_h2_conn_of(c);
    const char *what = NULL;
    h->heard_ns = mr_shard_now(c->slot.shard);
    if (h->end_what)
        return in->len;
    h->in = in;
    const moor_err e = mr_h2_input(&h->session, in->base, in->len, h->heard_ns, &what);
    h->in = NULL;
    if (is_closing(h))
        return in->len;
    if (e == MOOR_ENOMEM) {
        fail(h, e, what);
    } else if (e) { /* GOAWAY says why, then it ends */
        h->end_what = what;
        h->asked_ns = h->heard_ns;
        mr_berth_withdraw(c);
        watch(h);
        mr_h2_conn_write_later(h);
    } else {
        let_gather(h);
        if (mr_h2_wants_output(&h->session))
            mr_h2_conn_write_later(h);
    }
    return in->len;
}

static void h2_ended(struct mr_conn *c, const moor_fault *fault)
{
    struct mr_h2_conn *h = mr_h2_conn_of(c);
    if (!h)
        return;
    moor_fault end = *fault;
    if (!end.err) {
        end.err = MOOR_ERESET;
        end.what = "the server closed the connection before its response";
    }
    h->is_checking = false;
    /* Moved aside: who hears of it may send again at once. */
    struct mr_list aside;
    mr_list_take_all(&aside, &h->exchanges);
    for (struct mr_list *l; (l = mr_list_first(&aside));) {
        struct mr_h2_part *part = MR_CONTAINER_OF(l, struct mr_h2_part, link);
        mr_exchange_broken(MR_CONTAINER_OF(part, struct mr_exchange, h2), &end, true);
    }
    if (!fault->err)
        mr_conn_close(c, "the server closed the connection");
}

static void h2_drain(struct mr_conn *c)
{
    struct mr_h2_conn *h = mr_h2_conn_of(c);
    mr_h2_go_away(&h->session);
    mr_h2_conn_write_later(h);
}

static void h2_dropped(struct mr_conn *c)
{
    struct mr_h2_conn *h = mr_h2_conn_of(c);
    if (!h)
        return;
    c->state = NULL;
    mr_loop_undefer(&h->write);
    mr_loop_untimer(loop_of(h), &h->alive);
    mr_h2_session_fini(&h->session);
    let_go_of_spare(h);
    mr_heap_free(heap_of(h), h, sizeof *h);
}

const struct mr_protocol mr_h2_protocol = {
    .name = "h2",
    .capacity_expected = MR_H2_STREAMS_ASSUMED,
    .is_multiplexed = true,
    .open = h2_open,
    .input = h2_input,
    .ended = h2_ended,
    .drained = h2_drained,
    .drain = h2_drain,
    .check = h2_check,
    .dropped = h2_dropped,
};
