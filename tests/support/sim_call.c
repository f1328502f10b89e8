/*
 * One request in the simulated world, and everything it checks about what it is told. See sim_rig.h.
 * Callbacks run on the call's shard.
 */
#include "base/assert.h"
#include "tests/support/sim_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const moor_http_handlers handlers;

struct sim_call *sim_call_plan(struct sim_rig *g)
{
    SIM_CHECK(&g->w, g->call_count < SIM_REQUESTS_MAX, "more requests than the server remembers");
    struct sim_call *c = &g->calls[g->call_count];
    *c = (struct sim_call){.rig = g,
                           .id = g->call_count++,
                           .method = "GET",
                           .wanted = 10,
                           .timeout_ms = MOOR_TIMEOUT_OF_POOL,
                           .connect_timeout_ms = MOOR_TIMEOUT_OF_POOL,
                           .first_byte_timeout_ms = MOOR_TIMEOUT_OF_POOL};
    return c;
}

/* ---- the body ---- */

struct piece {
    struct sim_call *call;
    size_t len;
    uint8_t bytes[];
};

static void piece_sent(void *ctx)
{
    struct piece *p = ctx;
    struct sim_call *c = p->call;
    SIM_CHECK(&c->rig->w, c->pieces-- > 0, "request %u: a piece came back twice", c->id);
    memset(p->bytes, 0xee, p->len); /* whoever still reads it, reads this */
    free(p);
}

static moor_body_more give_body(void *user, moor_piece *out)
{
    struct sim_call *c = user;
    struct sim *w = &c->rig->w;
    SIM_CHECK(w, !c->is_in_call && !c->is_done, "request %u: asked for its body too early or late",
              c->id);
    SIM_CHECK(w, moor_shard_self() == c->rig->shards[c->shard], "request %u: wrong shard", c->id);
    SIM_CHECK(w, !c->is_paused, "request %u: asked for its body though it said later", c->id);
    if (sim_chance(w, c->later)) {
        c->is_paused = true;
        return MOOR_BODY_LATER;
    }
    const size_t left = c->body_len - c->given;
    const size_t n = sim_chance(w, 300) ? left : sim_below(w, left + 1);
    struct piece *p = malloc(sizeof *p + n);
    MR_ASSERT(p);
    p->call = c;
    p->len = n;
    for (size_t i = 0; i < n; i++)
        p->bytes[i] = sim_http_byte(c->id, true, c->given + i);
    c->given += (uint32_t)n;
    c->pieces++;
    *out = (moor_piece){.bytes = {p->bytes, n}, .sent = piece_sent, .ctx = p};
    const bool is_last = c->given == c->body_len && (n == 0 || sim_chance(w, 700));
    return is_last || (!c->is_chunked && c->given == c->body_len) ? MOOR_BODY_LAST : MOOR_BODY_MORE;
}

/* ---- the answer ---- */

static void check_place(struct sim_call *c, const char *what)
{
    struct sim *w = &c->rig->w;
    SIM_CHECK(w, !c->is_in_call, "request %u: %s inside moor_http_send", c->id, what);
    SIM_CHECK(w, !c->is_done, "request %u: %s after on_done", c->id, what);
    SIM_CHECK(w, moor_shard_self() == c->rig->shards[c->shard], "request %u: %s on another shard",
              c->id, what);
}

static void on_head(void *user, const moor_http_head *h)
{
    struct sim_call *c = user;
    struct sim *w = &c->rig->w;
    check_place(c, "on_head");
    SIM_CHECK(w, !c->has_head, "request %u: a head after the final one", c->id);
    if (h->status < 200)
        return;
    c->has_head = true;
    const moor_span id = moor_http_header(h, "X-Id");
    char text[16] = "";
    if (id.len > 0 && id.len < sizeof text)
        memcpy(text, id.base, id.len);
    c->is_bogus = strtoul(text, NULL, 10) != c->id || id.len == 0;
    SIM_CHECK(w, !c->is_bogus || c->rig->http.is_tainted, "request %u got the answer to %s", c->id,
              text);
}

static bool is_right(const struct sim_call *c, const moor_chunk *chunk, uint64_t at)
{
    const uint8_t *p = chunk->bytes.base;
    for (size_t i = 0; i < chunk->bytes.len; i++) {
        if (p[i] != sim_http_byte(c->id, false, at + i))
            return false;
    }
    return true;
}

static void on_chunk(void *user, moor_chunk chunk)
{
    struct sim_call *c = user;
    struct sim_rig *g = c->rig;
    check_place(c, "on_chunk");
    SIM_CHECK(&g->w, chunk.bytes.len > 0, "request %u: an empty chunk", c->id);
    SIM_CHECK(&g->w, g->http.is_tainted || is_right(c, &chunk, c->bytes),
              "request %u: wrong bytes at %lu", c->id, (unsigned long)c->bytes);
    if (g->held_count < SIM_HELD_MAX && !g->http.is_tainted && sim_chance(&g->w, c->hold))
        g->held[g->held_count++] = (struct sim_held){chunk, c->id, c->bytes};
    else
        moor_chunk_return(chunk);
    c->bytes += chunk.bytes.len;
}

void sim_rig_return(struct sim_rig *g, unsigned i, int from)
{
    struct sim_held h = g->held[i];
    g->held[i] = g->held[--g->held_count];
    SIM_CHECK(&g->w, is_right(&g->calls[h.id], &h.chunk, h.at),
              "request %u: bytes changed while they were lent", h.id);
    struct moor_shard *before = moor_shard_self();
    mr_shard_enter(from >= 0 ? g->shards[from] : NULL);
    moor_chunk_return(h.chunk);
    if (sim_chance(&g->w, 100))
        moor_chunk_return(h.chunk); /* a second time is nothing */
    mr_shard_enter(before);
    if (from >= 0)
        sim_rig_ask(g, (unsigned)from);
}

static void check_fault(struct sim_call *c, const moor_http_done *d)
{
    struct sim *w = &c->rig->w;
    const struct sim_request *r = &c->rig->http.requests[c->id];
    const moor_err e = d->fault.err;
    if (e == MOOR_OK) {
        const bool is_head = strcmp(c->method, "HEAD") == 0;
        const uint64_t wanted = is_head ? 0 : c->wanted;
        SIM_CHECK(w, c->has_head, "request %u: success without a head", c->id);
        SIM_CHECK(w, c->rig->http.is_tainted || c->bytes == wanted,
                  "request %u: %lu bytes instead of %lu", c->id, (unsigned long)c->bytes,
                  (unsigned long)wanted);
        SIM_CHECK(w, c->rig->http.is_tainted || r->acted > 0,
                  "request %u: answered, though nobody got it", c->id);
        return;
    }
    SIM_CHECK(w, d->fault.what && d->fault.what[0], "request %u: %s, and no word why", c->id,
              moor_err_name(e));
    SIM_CHECK(w,
              e == MOOR_ENOMEM || e == MOOR_ECLOSED || e == MOOR_EBUSY || e == MOOR_ETIMEDOUT ||
                  e == MOOR_ECANCELED || e == MOOR_ERESOLVE || e == MOOR_ECONNECT ||
                  e == MOOR_EPROTO || e == MOOR_ERESET || e == MOOR_ETOOBIG || e == MOOR_ENOFILES,
              "request %u ended with %s", c->id, moor_err_name(e));
    SIM_CHECK(w, !d->fault.safe_to_retry || r->acted == 0,
              "request %u: %s: %s is called safe to retry, but the server acted on it", c->id,
              moor_err_name(e), d->fault.what);
}

static void on_done(void *user, const moor_http_done *d)
{
    struct sim_call *c = user;
    struct sim_rig *g = c->rig;
    check_place(c, "on_done");
    SIM_CHECK(&g->w, c->is_submitted, "request %u: on_done of a refused request", c->id);
    c->fault = d->fault;
    c->has_why = d->why != NULL;
    if (d->why)
        c->why = *d->why;
    c->is_reused = d->reused;
    c->waited_ns = d->waited;
    c->replays = d->replays;
    c->done_ns = g->w.now_ns;
    sim_note(&g->w, "request %u done: %s%s%s%s", c->id, moor_err_name(d->fault.err),
             d->fault.err ? ", " : "", d->fault.err ? d->fault.what : "",
             d->fault.safe_to_retry ? " (safe to retry)" : "");
    check_fault(c, d);
    /* A server of HTTP/2 that goes away in good order costs less than one that breaks. */
    const uint32_t most = g->pool_options.replays_max * (g->service == &sim_http_service ? 1 : 10);
    SIM_CHECK(&g->w, d->replays <= most, "request %u: %u replays", c->id, d->replays);
    c->is_done = true;
    g->open_calls--;
    if (c->follow)
        sim_call_submit(c->follow);
    if (g->on_done)
        g->on_done(c);
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers, .on_head = on_head, .on_chunk = on_chunk, .on_done = on_done};

/* ---- submitting ---- */

static moor_err send_it(struct sim_call *c)
{
    struct sim_rig *g = c->rig;
    char url[64], id[16];
    snprintf(url, sizeof url, "/r/%u/%u", c->id, c->wanted);
    snprintf(id, sizeof id, "%u", c->id);
    const moor_header headers[] = {{{"X-Id", 4}, {id, strlen(id)}},
                                   {{"Connection", 10}, {"close", 5}}};
    moor_http_request r;
    moor_http_request_init(&r);
    r.method = c->method;
    r.url = url;
    r.headers = headers;
    r.header_count = c->is_asked_close ? 2 : 1;
    r.idempotent = c->is_idempotent;
    r.timeout_ms = c->timeout_ms;
    r.connect_timeout_ms = c->connect_timeout_ms;
    r.first_byte_timeout_ms = c->first_byte_timeout_ms;
    uint8_t *body = malloc(c->body_len + 1);
    MR_ASSERT(body);
    for (uint32_t i = 0; i < c->body_len; i++)
        body[i] = sim_http_byte(c->id, true, i);
    if (c->is_streamed) {
        r.body_cb = give_body;
        r.body_length = c->is_chunked ? MOOR_LENGTH_UNKNOWN : c->body_len;
        r.expect_continue = c->expects;
    } else {
        r.body = (moor_span){body, c->body_len};
    }
    const moor_err e = moor_http_send(g->pool, &r, &handlers, c, &c->op);
    /* It was copied: nobody may look at it any more. */
    memset(body, 0xcc, c->body_len);
    free(body);
    return e;
}

static void submit(struct sim_call *c)
{
    struct sim_rig *g = c->rig;
    struct sim_request *r = &g->http.requests[c->id];
    r->is_idempotent = c->is_idempotent || strcmp(c->method, "POST") != 0;
    r->body_len = c->body_len;
    r->delay_ns = c->delay_ms < 0 ? MR_NEVER : c->delay_ms * MR_NS_PER_MS;
    c->is_posted = false;
    c->is_in_call = c->is_submitted = true;
    c->asked_ns = g->w.now_ns;
    c->order = g->submissions + 1;
    c->submitted = send_it(c);
    c->is_in_call = false;
    sim_note(&g->w, "request %u %s %u+%u on shard %u: %s", c->id, c->method, c->body_len, c->wanted,
             c->shard, moor_err_name(c->submitted));
    if (c->submitted) {
        c->is_submitted = false;
        SIM_CHECK(&g->w, c->submitted != MOOR_EINVAL && c->submitted != MOOR_EWRONGTHREAD,
                  "request %u: %s", c->id, moor_err_name(c->submitted));
    } else {
        g->submissions++;
        g->open_calls++;
    }
}

bool sim_call_submit(struct sim_call *c)
{
    struct moor_shard *before = moor_shard_self();
    mr_shard_enter(c->rig->shards[c->shard]);
    submit(c);
    mr_shard_enter(before);
    if (!before)
        sim_rig_ask(c->rig, c->shard);
    return c->submitted == MOOR_OK;
}

static void run_task(void *user)
{
    struct sim_call *c = user;
    SIM_CHECK(&c->rig->w, moor_shard_self() == c->rig->shards[c->shard], "a task on a wrong shard");
    c->rig->open_calls--;
    submit(c);
}

void sim_call_post(struct sim_call *c)
{
    c->task = (moor_task){.run = run_task, .user = c};
    c->is_posted = true;
    const moor_err e = moor_post(c->rig->shards[c->shard], &c->task);
    SIM_CHECK(&c->rig->w, e == MOOR_OK, "moor_post: %s", moor_err_name(e));
    c->rig->open_calls++; /* until its task has run; then until on_done */
}

void sim_call_cancel(struct sim_call *c)
{
    sim_note(&c->rig->w, "request %u: cancel", c->id);
    moor_cancel(c->op);
}
