/*
 * Handshakes among each other and towards the pool: turns, early data, counts, events.
 * Owner thread: the conn's shard. Must not read or write a record but those of early data.
 */
#include "tls/hello.h"

#include "core/shard.h"
#include "tls/cert.h"

#include <string.h>

#define DAY_S 86400

static void run_turn(struct mr_deferred *d);
static void fire_deadline(struct mr_timer *timer, int64_t now_ns);

static struct mr_heap *heap_of(const struct mr_tls_conn *t)
{
    return &t->runtime->heap;
}

static int64_t now_of(const struct mr_tls_hello *h)
{
    return h->loop->now_ns;
}

/* ---- turns ---- */

moor_err mr_tls_hello_make(struct mr_tls_conn *t, struct moor_shard *s)
{
    struct mr_tls_hello *h = mr_heap_zalloc(heap_of(t), sizeof *h);
    MR_FAIL_IF(!h, MOOR_ENOMEM);
    h->conn = t;
    h->shard = &mr_tls_pool_of(t->upstream)->state->shards[s->index];
    h->loop = &s->mine.loop;
    h->turn.run = run_turn;
    h->deadline.fire = fire_deadline;
    mr_list_init(&h->link);
    t->hello = h;
    return MOOR_OK;
}

bool mr_tls_hello_has_turn(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    if (h->is_active)
        return true;
    if (h->shard->active >= t->runtime->options.tls_handshakes_max) {
        if (!mr_list_is_linked(&h->link))
            mr_list_push_back(&h->shard->waiting, &h->link);
        return false;
    }
    h->is_active = true;
    h->shard->active++;
    h->begun_ns = now_of(h);
    return true;
}

static void run_turn(struct mr_deferred *d)
{
    struct mr_tls_hello *h = MR_CONTAINER_OF(d, struct mr_tls_hello, turn);
    mr_filter_again(&h->conn->filter);
}

/* The place is given, not just freed: who comes meanwhile waits behind. */
static void end_turn(struct mr_tls_hello *h)
{
    mr_list_remove(&h->link);
    mr_loop_undefer(&h->turn);
    if (!h->is_active)
        return;
    h->is_active = false;
    h->shard->active--;
    struct mr_list *l = mr_list_pop_front(&h->shard->waiting);
    if (!l)
        return;
    struct mr_tls_hello *next = MR_CONTAINER_OF(l, struct mr_tls_hello, link);
    next->is_active = true;
    next->shard->active++;
    next->begun_ns = now_of(next);
    mr_loop_defer(next->loop, &next->turn);
}

void mr_tls_hello_end(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    if (!h)
        return;
    t->hello = NULL;
    end_turn(h);
    mr_loop_untimer(h->loop, &h->deadline);
    mr_ticket_unref(heap_of(t), h->ticket);
    mr_heap_free(heap_of(t), h->leaf.base, h->leaf.len);
    if (h->early.base) {
        explicit_bzero(h->early.base, MR_TLS_EARLY_MAX);
        mr_heap_free(heap_of(t), h->early.base, MR_TLS_EARLY_MAX);
    }
    mr_heap_free(heap_of(t), h, sizeof *h);
}

/* ---- early data ---- */

bool mr_tls_hello_begin_early(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    struct mr_conn *c = t->filter.conn;
    if (!mr_berth_wants_early(c->berth))
        return false;
    h->early.base = mr_heap_alloc(heap_of(t), MR_TLS_EARLY_MAX);
    if (!h->early.base)
        return false;
    h->is_early = true;
    t->filter.is_busy = true;
    mr_loop_timer(h->loop, &h->deadline,
                  mr_deadline(now_of(h), t->upstream->pool->options.connect_timeout_ms));
    return true;
}

bool mr_tls_hello_push_early(struct mr_tls_conn *t, const void *bytes, size_t len)
{
    struct mr_tls_hello *h = t->hello;
    const size_t max = h && h->ticket && h->ticket->early_max < MR_TLS_EARLY_MAX
                           ? h->ticket->early_max
                           : MR_TLS_EARLY_MAX;
    if (!h || !h->is_early || !t->filter.conn->is_replayable || len > max - h->early.len ||
        !mr_tls_session_write_early(t, bytes, len))
        return false;
    memcpy(h->early.base + h->early.len, bytes, len);
    h->early.len += len;
    return true;
}

static void fire_deadline(struct mr_timer *timer, int64_t now_ns)
{
    (void)now_ns;
    struct mr_tls_hello *h = MR_CONTAINER_OF(timer, struct mr_tls_hello, deadline);
    mr_conn_fail(h->conn->filter.conn,
                 &(moor_fault){.err = MOOR_ETIMEDOUT, .what = "secure the connection"});
}

static void settle_early(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    struct mr_pool_shard *local = t->filter.conn->berth->local;
    t->filter.is_busy = false;
    if (h->early.len) {
        MR_STAT_ADD(local, tls_early, 1);
        if (!mr_tls_session_is_early_taken(t)) {
            MR_STAT_ADD(local, tls_early_refused, 1);
            if (!mr_tls_session_write(t, h->early.base, h->early.len))
                t->is_broken = true;
        }
    }
    mr_filter_writable(&t->filter);
}

/* ---- what came of it ---- */

static void tell(struct mr_tls_conn *t, moor_event_type type)
{
    struct mr_tls_hello *h = t->hello;
    char subject[256], issuer[256];
    struct mr_cert leaf;
    moor_tls_info info;
    if (!t->upstream->pool->options.on_event)
        return;
    mr_tls_session_info(t, &info);
    info.handshake = now_of(h) - h->begun_ns;
    if (h->leaf.base && !mr_cert_parse((moor_span){h->leaf.base, h->leaf.len}, &leaf, NULL)) {
        info.certificate = leaf.der;
        info.subject = mr_cert_subject_text(&leaf, subject, sizeof subject);
        info.issuer = mr_cert_issuer_text(&leaf, issuer, sizeof issuer);
    }
    mr_pool_event_tls(t->upstream, type, &info);
}

/* Once a day and endpoint, by whoever comes first. */
static bool is_expiry_due(struct mr_tls_conn *t, int64_t now_s)
{
    const int64_t days = t->upstream->pool->options.tls_expiry_warn_days;
    int64_t told = atomic_load(&t->upstream->expiry_told_s);
    return days && t->cert_expires_s && now_s >= t->cert_expires_s - days * DAY_S &&
           (!told || now_s >= told + DAY_S) &&
           atomic_compare_exchange_strong(&t->upstream->expiry_told_s, &told, now_s);
}

static void warn_of_expiry(struct mr_tls_conn *t)
{
    const int64_t now_s = mr_clock_wall(t->runtime->clock);
    if (!is_expiry_due(t, now_s))
        return;
    mr_log(&t->runtime->log, MOOR_LOG_WARN, "tls.expiring",
           "pool %s: the certificate of %s:%u ends in %lld hours", t->upstream->pool->name,
           mr_upstream_text(t->upstream), t->upstream->port,
           (long long)((t->cert_expires_s - now_s) / 3600));
    tell(t, MOOR_EVENT_CERT_EXPIRING);
}

void mr_tls_hello_done(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    struct mr_pool_shard *local = t->filter.conn->berth->local;
    MR_STAT_ADD(local, tls_handshakes, 1);
    if (t->is_resumed)
        MR_STAT_ADD(local, tls_resumed, 1);
    mr_histogram_record(&local->histograms[MOOR_HISTOGRAM_HANDSHAKE], now_of(h) - h->begun_ns);
    if (h->is_early)
        settle_early(t);
    tell(t, MOOR_EVENT_TLS_READY);
    warn_of_expiry(t);
    mr_tls_hello_end(t);
}

void mr_tls_hello_failed(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    const moor_fault *f = &t->filter.fault;
    t->is_broken = true;
    MR_STAT_ADD(t->filter.conn->berth->local, tls_failed, 1);
    if (h->ticket) { /* it may be the ticket's fault: the next handshake shall be a full one */
        uint8_t key[MR_TLS_HASH_SIZE];
        mr_tls_ticket_key(t->upstream, t->context, key);
        mr_tickets_forget(t->context->state->tickets, key, h->ticket);
    }
    mr_log(&t->runtime->log, MOOR_LOG_INFO, "tls.failed", "pool %s: %s:%u: %s (%d%s%s)",
           t->upstream->pool->name, mr_upstream_text(t->upstream), t->upstream->port, f->what,
           f->tls_code, f->tls_code ? ": " : "",
           f->tls_code ? mr_tls_error_detail(f->tls_code) : "");
    end_turn(h);
}
