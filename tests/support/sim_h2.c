/*
 * The simulated HTTP/2 server. Driven by the world. Must not forgive: whatever a client may not send ends the
 * run. See sim_h2.h.
 */
#include "tests/support/sim_h2.h"

#include "base/assert.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STREAMS_MAX = 20, WINDOW_MAX = 70000, NO_ID = SIM_REQUESTS_MAX };

struct stream {
    struct stream *next; /* the peer's */
    int32_t at;          /* the stream's id */
    uint32_t id, wanted; /* of the request; NO_ID until its path has come */
    bool is_head, expects, has_id, has_acted, is_answered;
    size_t got, given, cut_at;
    int64_t due_ns; /* when it is answered; MR_NEVER */
};

struct peer {
    struct sim_wire *x;
    struct sim_http *http;
    nghttp2_session *ng;
    struct stream *streams;
    int32_t acted_at; /* the newest stream that was acted on */
    bool is_going;    /* GOAWAY was said */
    bool is_hole;     /* hears and says nothing any more */
};

static struct sim *world(struct peer *p)
{
    return p->x->w;
}

static bool misbehaves(struct peer *p, unsigned per_mille)
{
    return !p->http->is_tame && sim_chance(world(p), per_mille);
}

/* ---- answering ---- */

static ssize_t give(nghttp2_session *ng, int32_t at, uint8_t *to, size_t cap, uint32_t *flags,
                    nghttp2_data_source *source, void *user)
{
    struct stream *s = source->ptr;
    struct sim *w = world(user);
    if (s->given >= s->cut_at)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* RST_STREAM */
    size_t n = s->wanted - s->given;
    n = n < cap ? n : cap;
    if (n > 1 && sim_chance(w, 300))
        n = 1 + sim_below(w, n);
    for (size_t i = 0; i < n; i++)
        to[i] = sim_http_byte(s->id, false, s->given + i);
    s->given += n;
    if (s->given < s->wanted)
        return (ssize_t)n;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (sim_chance(w, 200)) {
        const nghttp2_nv trailer = {(uint8_t *)"x-trailer", (uint8_t *)"yes", 9, 3, 0};
        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        MR_ASSERT(!nghttp2_submit_trailer(ng, at, &trailer, 1));
    }
    return (ssize_t)n;
}

static nghttp2_nv field(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
                        strlen(value), 0};
}

static void say_interim(struct peer *p, const struct stream *s, const char *status)
{
    const nghttp2_nv nv = field(":status", status);
    MR_ASSERT(nghttp2_submit_headers(p->ng, 0, s->at, NULL, &nv, 1, NULL) == 0);
}

static void act(struct peer *p, struct stream *s)
{
    struct sim_request *r = &p->http->requests[s->id];
    sim_note(world(p), "wire %u: server acts on %u, stream %d", p->x->index, s->id, s->at);
    SIM_CHECK(world(p), r->is_idempotent || r->acted == 0, "request %u was executed twice", s->id);
    r->acted++;
    r->wire = p->x->index;
    r->order = ++p->http->count;
    s->has_acted = true;
    if (s->at > p->acted_at)
        p->acted_at = s->at;
}

static void respond(struct peer *p, struct stream *s)
{
    char id[16], length[16];
    struct sim *w = world(p);
    const bool is_empty = s->wanted == 0 && sim_chance(w, 300);
    const bool has_length = !is_empty && sim_chance(w, 500);
    snprintf(id, sizeof id, "%u", s->id);
    snprintf(length, sizeof length, "%u", s->wanted);
    const nghttp2_nv nv[] = {field(":status", is_empty ? "204" : "200"), field("x-id", id),
                             field("content-length", length)};
    const nghttp2_data_provider data = {.source.ptr = s, .read_callback = give};
    const bool has_body = !s->is_head && !is_empty;
    if (misbehaves(p, w->faults.cut_short))
        s->cut_at = sim_below(w, s->wanted + 1);
    while (sim_chance(w, w->faults.interim))
        say_interim(p, s, "103");
    sim_note(w, "wire %u: server answers %u", p->x->index, s->id);
    s->is_answered = true;
    MR_ASSERT(
        !nghttp2_submit_response(p->ng, s->at, nv, has_length ? 3 : 2, has_body ? &data : NULL));
}

static void think_on(struct peer *p)
{
    int64_t due = MR_NEVER;
    for (struct stream *s = p->streams; s; s = s->next)
        if (!s->is_answered && s->due_ns < due)
            due = s->due_ns;
    if (due == MR_NEVER)
        sim_forget(world(p), &p->x->think);
    else
        sim_peer_think(p->x, due > p->x->w->now_ns ? due - p->x->w->now_ns : 0);
}

/* The whole request is here. */
static void decide(struct peer *p, struct stream *s)
{
    struct sim *w = world(p);
    const struct sim_request *r = &p->http->requests[s->id];
    SIM_CHECK(w, s->has_id && s->got == r->body_len, "request %u: %zu bytes of its body", s->id,
              s->got);
    if (misbehaves(p, w->faults.early)) {
        nghttp2_submit_rst_stream(p->ng, 0, s->at, NGHTTP2_REFUSED_STREAM);
        return;
    }
    const bool is_slow = sim_chance(w, w->faults.slow);
    s->due_ns = w->now_ns + r->delay_ns;
    if (r->delay_ns == MR_NEVER)
        s->due_ns = MR_NEVER;
    else if (is_slow)
        s->due_ns += sim_between(w, 0, 300) * w->latency_ns;
    if (!is_slow || sim_chance(w, 500))
        act(p, s); /* else when it is answered: a GOAWAY may come before */
    if (misbehaves(p, w->faults.silent))
        s->due_ns = MR_NEVER;
    if (misbehaves(p, w->faults.silent / 4))
        p->is_hole = true;
}

/* ---- misdeeds and goodbyes ---- */

static void change_settings(struct peer *p)
{
    struct sim *w = world(p);
    const nghttp2_settings_entry s[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)sim_below(w, STREAMS_MAX)},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
         sim_chance(w, 200) ? 0 : (uint32_t)sim_below(w, WINDOW_MAX)},
    };
    MR_ASSERT(!nghttp2_submit_settings(p->ng, 0, s, 1 + sim_below(w, 2)));
}

/* Streams above the last id are not acted on and hear nothing. */
static void go_away(struct peer *p, bool is_strict)
{
    if (p->is_going)
        return;
    p->is_going = true;
    const int32_t newest = nghttp2_session_get_last_proc_stream_id(p->ng);
    const int32_t last = is_strict ? p->acted_at : newest;
    sim_note(world(p), "wire %u: GOAWAY after %d of %d", p->x->index, last, newest);
    MR_ASSERT(!nghttp2_submit_goaway(p->ng, 0, last, NGHTTP2_NO_ERROR, NULL, 0));
}

static void break_a_rule(struct peer *p)
{
    static const uint8_t frames[][17] = {
        {0, 0, 8, 6, 0, 0, 0, 0, 9},             /* PING of a stream */
        {0, 0, 8, 0, 0, 0, 0, 0, 0},             /* DATA of none */
        {0, 0, 8, 1, 4, 0, 0, 0, 2},             /* HEADERS of a stream of ours */
        {0, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0}, /* WINDOW_UPDATE of a wrong size */
    };
    sim_note(world(p), "wire %u: server breaks a rule", p->x->index);
    sim_peer_write(p->x, frames[sim_below(world(p), 4)], sizeof frames[0]);
    p->is_hole = true;
}

/* Between answers. */
static void misbehave(struct peer *p)
{
    const struct sim_faults *f = &world(p)->faults;
    if (misbehaves(p, f->extra))
        change_settings(p);
    if (misbehaves(p, f->close_after))
        go_away(p, true);
    else if (sim_chance(world(p), f->close_said))
        go_away(p, false);
    if (misbehaves(p, f->garbage))
        break_a_rule(p);
}

/* ---- what the session tells ---- */

static int on_begin(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    struct peer *p = user;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct stream *s = calloc(1, sizeof *s);
    MR_ASSERT(s);
    s->at = frame->hd.stream_id;
    s->id = NO_ID;
    s->due_ns = MR_NEVER;
    s->cut_at = SIZE_MAX;
    s->next = p->streams;
    p->streams = s;
    nghttp2_session_set_stream_user_data(ng, s->at, s);
    return 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    struct peer *p = user;
    struct stream *s = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);
    (void)name_len; /* both end with NUL */
    (void)value_len;
    (void)flags;
    const char *n = (const char *)name, *v = (const char *)value;
    if (!s)
        return 0;
    if (!strcmp(n, ":path"))
        SIM_CHECK(world(p),
                  sscanf(v, "/r/%u/%u", &s->id, &s->wanted) == 2 && s->id < SIM_REQUESTS_MAX,
                  "wire %u: not a request: %.60s", p->x->index, v);
    else if (!strcmp(n, ":method"))
        s->is_head = !strcmp(v, "HEAD");
    else if (!strcmp(n, "x-id"))
        s->has_id = strtoul(v, NULL, 10) == s->id;
    else if (!strcmp(n, "expect"))
        s->expects = true;
    SIM_CHECK(world(p), strcmp(n, "connection") && strcmp(n, "transfer-encoding"),
              "wire %u: a field of HTTP/1.1: %s", p->x->index, n);
    return 0;
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    struct peer *p = user;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    struct stream *s = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);
    if (!s)
        return 0;
    SIM_CHECK(world(p), s->id != NO_ID, "wire %u: a request without a path", p->x->index);
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
        decide(p, s);
    else if (s->expects && frame->hd.type == NGHTTP2_HEADERS &&
             !sim_chance(world(p), world(p)->faults.early))
        say_interim(p, s, "100");
    return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t at, const uint8_t *bytes, size_t len,
                   void *user)
{
    struct peer *p = user;
    (void)flags;
    struct stream *s = nghttp2_session_get_stream_user_data(ng, at);
    for (size_t i = 0; s && i < len; i++)
        SIM_CHECK(world(p), bytes[i] == sim_http_byte(s->id, true, s->got++),
                  "wire %u: byte %zu of the body of request %u is wrong", p->x->index, s->got - 1,
                  s->id);
    return 0;
}

static int on_closed(nghttp2_session *ng, int32_t at, uint32_t code, void *user)
{
    struct peer *p = user;
    struct stream *s = nghttp2_session_get_stream_user_data(ng, at);
    if (!s)
        return 0;
    if (s->is_answered && code == NGHTTP2_NO_ERROR)
        p->http->requests[s->id].answered++;
    struct stream **link = &p->streams;
    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    free(s);
    return 0;
}

static int on_invalid(nghttp2_session *ng, const nghttp2_frame *frame, int error, void *user)
{
    struct peer *p = user;
    (void)ng;
    SIM_CHECK(world(p), error == NGHTTP2_ERR_REFUSED_STREAM,
              "wire %u: frame %u of stream %d is invalid: %s", p->x->index, frame->hd.type,
              frame->hd.stream_id, nghttp2_strerror(error));
    return 0;
}

static void make_session(struct peer *p)
{
    nghttp2_session_callbacks *c;
    struct sim *w = world(p);
    MR_ASSERT(!nghttp2_session_callbacks_new(&c));
    nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin);
    nghttp2_session_callbacks_set_on_header_callback(c, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(c, on_closed);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(c, on_invalid);
    MR_ASSERT(!nghttp2_session_server_new(&p->ng, c, p));
    nghttp2_session_callbacks_del(c);
    const nghttp2_settings_entry s[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1 + (uint32_t)sim_below(w, STREAMS_MAX)},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 + (uint32_t)sim_below(w, WINDOW_MAX)},
    };
    MR_ASSERT(!nghttp2_submit_settings(p->ng, 0, s, sim_below(w, 3)));
}

/* ---- the service ---- */

/* A close with bytes on their way to us is an RST, which may overtake what we said last. */
static void hang_up(struct peer *p)
{
    p->is_hole = true;
    if (misbehaves(p, 500))
        sim_peer_close(p->x);
    else
        sim_peer_finish(p->x);
}

static void write_all(struct peer *p)
{
    const uint8_t *bytes;
    ssize_t n;
    while (!p->is_hole && (n = nghttp2_session_mem_send(p->ng, &bytes)) > 0)
        sim_peer_write(p->x, bytes, (size_t)n);
    if (p->is_hole || nghttp2_session_want_read(p->ng) || nghttp2_session_want_write(p->ng))
        think_on(p);
    else
        hang_up(p);
}

static void h2_opened(struct sim_wire *x)
{
    struct peer *p = calloc(1, sizeof *p);
    MR_ASSERT(p);
    x->peer = p;
    p->x = x;
    p->http = x->host->ctx;
    make_session(p);
    write_all(p);
}

static void h2_input(struct sim_wire *x, const uint8_t *bytes, size_t len)
{
    struct peer *p = x->peer;
    if (p->is_hole || x->is_hung_up)
        return;
    const ssize_t n = nghttp2_session_mem_recv(p->ng, bytes, len);
    SIM_CHECK(x->w, n == (ssize_t)len, "wire %u: %s", x->index, nghttp2_strerror((int)n));
    write_all(p);
}

static void h2_thinks(struct sim_wire *x)
{
    struct peer *p = x->peer;
    if (p->is_hole)
        return;
    for (struct stream *s = p->streams; s; s = s->next) {
        if (s->is_answered || s->due_ns > x->w->now_ns)
            continue;
        if (!s->has_acted)
            act(p, s);
        respond(p, s);
        misbehave(p);
        break; /* what was said goes first */
    }
    write_all(p);
}

static void h2_ended(struct sim_wire *x, bool is_reset)
{
    if (!is_reset)
        sim_peer_close(x);
}

static void h2_dropped(struct sim_wire *x)
{
    struct peer *p = x->peer;
    for (struct stream *s; (s = p->streams);) {
        p->streams = s->next;
        free(s);
    }
    nghttp2_session_del(p->ng);
    free(p);
}

const struct sim_service sim_h2_service = {h2_opened, h2_input, h2_ended, h2_thinks, h2_dropped};
