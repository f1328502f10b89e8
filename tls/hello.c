/*
 * Handshakes among each other and towards the pool: turns, early data, counts, events.
 * Owner thread: the conn's shard. Must not read or write a record but those of early data.
 */
#include "tls/hello.h"

#include "core/shard.h"
#include "tls/cert.h"

#include <string.h>

#define DAY_S 86400
/* A server that says nothing keeps its turn no longer, or a few of them would stop the handshakes of all. Theirs go
 * on; so many of them are as servers are that slow. */
#define PATIENCE_NS MR_NS_PER_SEC

static void run_turn(struct mr_deferred *d);
static void fire_patience(struct mr_timer *timer, int64_t now_ns);
static void fire_deadline(struct mr_timer *timer, int64_t now_ns);

static struct mr_heap *heap_of(const struct mr_tls_conn *t)
{
    return &t->runtime->heap;
}

/* Not the loop's: most of a handshake is spent within one turn. */
static int64_t now_of(const struct mr_tls_hello *h)
{
    return mr_clock_now(h->loop->clock);
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
    h->patience.fire = fire_patience;
    h->deadline.fire = fire_deadline;
    mr_list_init(&h->link);
    t->hello = h;
    return MOOR_OK;
}

static void begin_turn(struct mr_tls_hello *h)
{
    h->is_active = true;
    h->shard->active++;
    h->begun_ns = now_of(h);
    mr_loop_timer(h->loop, &h->patience, h->loop->now_ns + PATIENCE_NS);
}

bool mr_tls_hello_has_turn(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    if (h->begun_ns)
        return true;
    if (h->shard->active >= t->runtime->options.tls_handshakes_max) {
        if (!mr_list_is_linked(&h->link))
            mr_list_push_back(&h->shard->waiting, &h->link);
        return false;
    }
    begin_turn(h);
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
    mr_loop_untimer(h->loop, &h->patience);
    if (!h->is_active)
        return;
    h->is_active = false;
    h->shard->active--;
    struct mr_list *l = mr_list_pop_front(&h->shard->waiting);
    if (!l)
        return;
    struct mr_tls_hello *next = MR_CONTAINER_OF(l, struct mr_tls_hello, link);
    begin_turn(next);
    mr_loop_defer(next->loop, &next->turn);
}

static void fire_patience(struct mr_timer *timer, int64_t now_ns)
{
    (void)now_ns;
    end_turn(MR_CONTAINER_OF(timer, struct mr_tls_hello, patience));
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
                  mr_deadline(h->loop->now_ns, t->upstream->pool->options.connect_timeout_ms));
    return true;
}

bool mr_tls_hello_push_early(struct mr_tls_conn *t, const void *bytes, size_t len)
{
    struct mr_tls_hello *h = t->hello;
    const size_t max = h && h->ticket && h->ticket->early_max < MR_TLS_EARLY_MAX
                           ? h->ticket->early_max
                           : MR_TLS_EARLY_MAX;
    if (!h || !h->is_early || !t->filter.conn->is_replayable || len > max - h->early.len)
        return false;
    if (!mr_tls_session_write_early(t, bytes, len)) {
        t->is_broken = true;
        return false;
    }
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

/* It may be the ticket's fault: wolfSSL takes the refusal of one in 1.2 for a broken handshake, and offers no other
 * version than the ticket's. So this dial was for nothing, and the next handshake will be a full one. */
static void blame_tickets(struct mr_tls_conn *t)
{
    uint8_t key[MR_TLS_HASH_SIZE];
    mr_tls_ticket_key(t->upstream, t->context, key);
    mr_tickets_forget(t->context->state->tickets, key);
    if (!t->hello->is_early)
        t->filter.fault = (moor_fault){.err = MOOR_ECANCELED,
                                       .tls_code = t->filter.fault.tls_code,
                                       .what = "TLS handshake with a ticket: again without"};
}

void mr_tls_hello_failed(struct mr_tls_conn *t)
{
    struct mr_tls_hello *h = t->hello;
    const moor_fault *f = &t->filter.fault;
    t->is_broken = true;
    MR_STAT_ADD(t->filter.conn->berth->local, tls_failed, 1);
    mr_log(&t->runtime->log, MOOR_LOG_INFO, "tls.failed", "pool %s: %s:%u: %s (%d%s%s)",
           t->upstream->pool->name, mr_upstream_text(t->upstream), t->upstream->port, f->what,
           f->tls_code, f->tls_code ? ": " : "",
           f->tls_code ? mr_tls_error_detail(f->tls_code) : "");
    if (h->ticket && f->err != MOOR_ENOMEM)
        blame_tickets(t);
    end_turn(h);
}
