/*
 * The simulated HTTP/1.1 server: reads requests byte by byte, answers or misbehaves. Driven by the
 * world. Must not forgive: a request that is not exactly what the client meant ends the run.
 */
#include "tests/support/sim_http.h"

#include "base/assert.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_MAX = 4096, BOGUS_LEN = 13 };

enum stage { AT_HEAD, AT_BODY, AT_CHUNK_LINE, AT_CHUNK, AT_CHUNK_END, AT_TRAILERS, AT_END };

struct session {
    struct sim_http *http;
    char head[HEAD_MAX];
    size_t head_len;
    enum stage stage;
    uint64_t left; /* of the body, or of the chunk */
    size_t body_at;
    uint32_t id, wanted;
    char method[8];
    bool is_chunked, is_answered;
    bool closes;     /* after this answer */
    uint8_t *answer; /* being thought about */
    size_t answer_len;
    bool is_aborting; /* ends with RST rather than FIN */
};

static void answer(struct sim_wire *x, struct session *s);

static struct session *session_of(struct sim_wire *x)
{
    return x->peer;
}

static void http_opened(struct sim_wire *x)
{
    struct session *s = calloc(1, sizeof *s);
    MR_ASSERT(s);
    s->http = x->host->ctx;
    x->peer = s;
}

static void http_dropped(struct sim_wire *x)
{
    free(session_of(x)->answer);
    free(x->peer);
}

/* ---- reading requests ---- */

/* The value of a header in the NUL-terminated head, or NULL. */
static const char *header(const struct session *s, const char *name)
{
    const size_t len = strlen(name);
    for (const char *line = strstr(s->head, "\r\n"); line && line[2];
         line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':')
            return line + 2 + len + 1 + strspn(line + 2 + len + 1, " ");
    }
    return NULL;
}

static void act(struct sim_wire *x, struct session *s)
{
    struct sim *w = x->w;
    struct sim_request *r = &s->http->requests[s->id];
    sim_note(w, "wire %u: server acts on %s %u", x->index, s->method, s->id);
    SIM_CHECK(w, r->is_idempotent || r->acted == 0, "request %u was executed twice", s->id);
    r->acted++;
    r->wire = x->index;
    r->order = ++s->http->count;
}

static void read_head(struct sim_wire *x, struct session *s)
{
    struct sim *w = x->w;
    s->head[s->head_len] = '\0';
    int end = 0;
    const int found =
        sscanf(s->head, "%7[A-Z] /r/%u/%u HTTP/1.1\r\n%n", s->method, &s->id, &s->wanted, &end);
    SIM_CHECK(w, found == 3 && end > 0 && s->id < SIM_REQUESTS_MAX, "wire %u: not a request: %.60s",
              x->index, s->head);
    const char *id = header(s, "X-Id");
    SIM_CHECK(w, id && strtoul(id, NULL, 10) == s->id, "wire %u: two requests in one", x->index);
    SIM_CHECK(w, header(s, "Host") != NULL, "wire %u: no Host", x->index);
    const char *length = header(s, "Content-Length"), *coding = header(s, "Transfer-Encoding");
    SIM_CHECK(w, !length || !coding, "wire %u: two framings", x->index);
    s->is_chunked = coding != NULL;
    s->left = length ? strtoull(length, NULL, 10) : 0;
    s->body_at = 0;
    s->is_answered = s->closes = s->is_aborting = false;
    s->stage = s->is_chunked ? AT_CHUNK_LINE : s->left ? AT_BODY : AT_END;
    s->head_len = 0;
    const bool is_continuing = header(s, "Expect") && !sim_chance(w, w->faults.early);
    const char *connection = header(s, "Connection");
    s->closes = connection && strncasecmp(connection, "close", 5) == 0;
    act(x, s);
    if (is_continuing)
        sim_peer_write(x, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    if (s->stage != AT_END && !s->http->is_tame && sim_chance(w, w->faults.early))
        answer(x, s);
}

static void body_byte(struct sim_wire *x, struct session *s, uint8_t b)
{
    SIM_CHECK(x->w, b == sim_http_byte(s->id, true, s->body_at),
              "wire %u: byte %zu of the body of request %u is wrong", x->index, s->body_at, s->id);
    s->body_at++;
    s->left--;
}

static void line_byte(struct sim_wire *x, struct session *s, uint8_t b)
{
    SIM_CHECK(x->w, s->head_len + 1 < sizeof s->head, "wire %u: a line without end", x->index);
    s->head[s->head_len++] = (char)b;
}

static bool is_line(const struct session *s)
{
    return s->head_len >= 2 && memcmp(s->head + s->head_len - 2, "\r\n", 2) == 0;
}

static void chunk_line(struct sim_wire *x, struct session *s)
{
    char *end = NULL;
    s->head[s->head_len] = '\0';
    s->left = strtoull(s->head, &end, 16);
    SIM_CHECK(x->w, end != s->head && *end == '\r', "wire %u: not a chunk: %s", x->index, s->head);
    s->stage = s->left ? AT_CHUNK : AT_TRAILERS;
    s->head_len = 0;
}

static void take(struct sim_wire *x, struct session *s, uint8_t b)
{
    switch (s->stage) {
    case AT_HEAD:
        line_byte(x, s, b);
        if (s->head_len >= 4 && memcmp(s->head + s->head_len - 4, "\r\n\r\n", 4) == 0)
            read_head(x, s);
        break;
    case AT_BODY:
        body_byte(x, s, b);
        if (!s->left)
            s->stage = AT_END;
        break;
    case AT_CHUNK_LINE:
        line_byte(x, s, b);
        if (is_line(s))
            chunk_line(x, s);
        break;
    case AT_CHUNK:
        body_byte(x, s, b);
        if (!s->left)
            s->stage = AT_CHUNK_END;
        break;
    case AT_CHUNK_END:
        line_byte(x, s, b);
        SIM_CHECK(x->w, s->head_len < 2 || is_line(s), "wire %u: no end of chunk", x->index);
        if (s->head_len == 2) {
            s->stage = AT_CHUNK_LINE;
            s->head_len = 0;
        }
        break;
    case AT_TRAILERS:
        line_byte(x, s, b);
        SIM_CHECK(x->w, s->head_len < 2 || is_line(s), "wire %u: trailers", x->index);
        if (s->head_len == 2) {
            s->stage = AT_END;
            s->head_len = 0;
        }
        break;
    case AT_END:
        SIM_CHECK(x->w, false, "wire %u: bytes before request %u was answered", x->index, s->id);
    }
}

/* The request is here and answered: ready for the next. */
static void next_request(struct session *s)
{
    if (s->stage == AT_END && s->is_answered) {
        s->stage = AT_HEAD;
        s->head_len = 0;
    }
}

static void http_input(struct sim_wire *x, const uint8_t *bytes, size_t len)
{
    struct session *s = session_of(x);
    for (size_t i = 0; i < len && !x->is_hung_up; i++) {
        take(x, s, bytes[i]);
        if (s->stage != AT_END)
            continue;
        SIM_CHECK(x->w, s->body_at == s->http->requests[s->id].body_len,
                  "request %u: the body has %zu bytes", s->id, s->body_at);
        if (s->is_answered)
            next_request(s);
        else if (!s->answer)
            answer(x, s);
    }
}

static void http_ended(struct sim_wire *x, bool is_reset)
{
    if (!is_reset)
        sim_peer_close(x);
}

/* ---- answering ---- */

struct text {
    uint8_t *bytes;
    size_t len, cap;
};

static void add(struct text *t, const void *bytes, size_t len)
{
    if (t->len + len > t->cap) {
        t->cap = (t->len + len) * 2;
        t->bytes = realloc(t->bytes, t->cap);
        MR_ASSERT(t->bytes);
    }
    memcpy(t->bytes + t->len, bytes, len);
    t->len += len;
}

static void add_text(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_text(struct text *t, const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    MR_ASSERT(n >= 0 && n < (int)sizeof line);
    add(t, line, (size_t)n);
}

static void add_body(struct text *t, const struct session *s, size_t from, size_t len)
{
    for (size_t i = 0; i < len; i++)
        add(t, &(uint8_t){sim_http_byte(s->id, false, from + i)}, 1);
}

static void add_chunks(struct sim *w, struct text *t, const struct session *s)
{
    for (size_t at = 0; at < s->wanted;) {
        size_t n = 1 + sim_below(w, s->wanted - at);
        add_text(t, "%zx%s\r\n", n, sim_chance(w, 100) ? ";note=\"x\"" : "");
        add_body(t, s, at, n);
        add_text(t, "\r\n");
        at += n;
    }
    add_text(t, "0\r\n%s\r\n", sim_chance(w, 200) ? "X-Trailer: yes\r\n" : "");
}

/* Returns the length of the answer proper; framing by the end of the connection is told in *until_end. */
static void compose(struct sim *w, const struct session *s, struct text *t, bool *until_end,
                    bool *closes)
{
    const struct sim_faults *f = &w->faults;
    while (sim_chance(w, f->interim))
        add_text(t, "HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n");
    const bool is_head = strcmp(s->method, "HEAD") == 0;
    const bool is_empty = s->wanted == 0 && sim_chance(w, 300);
    const uint64_t framing = is_empty ? 3 : s->http->is_plain ? 9 : sim_below(w, 10);
    *until_end = !is_head && !is_empty && framing == 0;
    *closes = *until_end || s->closes || sim_chance(w, f->close_said);
    add_text(t, "HTTP/1.%c %s\r\nX-Id: %u\r\n", *until_end && sim_chance(w, 300) ? '0' : '1',
             is_empty ? "204 No Content" : "200 OK", s->id);
    if (*closes)
        add_text(t, "Connection: close\r\n");
    if (is_empty || *until_end) {
        add_text(t, "\r\n");
        if (*until_end)
            add_body(t, s, 0, s->wanted);
    } else if (framing < 5) {
        add_text(t, "Transfer-Encoding: chunked\r\n\r\n");
        if (!is_head)
            add_chunks(w, t, s);
    } else {
        add_text(t, "Content-Length: %u\r\n\r\n", s->wanted);
        if (!is_head)
            add_body(t, s, 0, s->wanted);
    }
}

static void misbehave(struct sim *w, struct session *s, struct text *t, bool until_end)
{
    const struct sim_faults *f = &w->faults;
    if (s->http->is_tame)
        return;
    if (sim_chance(w, f->garbage)) {
        for (size_t i = 0; i < t->len; i += 1 + sim_below(w, 8))
            t->bytes[i] ^= (uint8_t)(1 + sim_below(w, 255));
        s->http->is_tainted = true;
        s->closes = true;
    } else if (sim_chance(w, f->cut_short)) {
        t->len = sim_below(w, t->len);
        s->closes = true;
        s->is_aborting = until_end || sim_chance(w, 500);
    } else if (sim_chance(w, f->extra)) {
        add_text(t, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nbogus answer!", BOGUS_LEN);
        s->http->is_tainted = true;
    }
}

static void http_send(struct sim_wire *x, struct session *s)
{
    struct sim *w = x->w;
    sim_note(w, "wire %u: server answers %u%s", x->index, s->id, s->closes ? " and closes" : "");
    sim_peer_write(x, s->answer, s->answer_len);
    free(s->answer);
    s->answer = NULL;
    s->is_answered = true;
    s->http->requests[s->id].answered++;
    if (s->is_aborting) {
        sim_peer_reset(x);
    } else if (s->closes) {
        sim_peer_close(x);
    } else {
        next_request(s);
        if (sim_chance(w, w->faults.close_idle))
            sim_peer_think(x, sim_between(w, 0, 200 * w->latency_ns));
    }
}

static void answer(struct sim_wire *x, struct session *s)
{
    struct sim *w = x->w;
    sim_forget(w, &x->think);
    const int64_t delay_ns = s->http->requests[s->id].delay_ns;
    if (delay_ns == MR_NEVER || (!s->http->is_tame && sim_chance(w, w->faults.silent))) {
        s->is_answered = true; /* never */
        sim_note(w, "wire %u: server will not answer %u", x->index, s->id);
        return;
    }
    struct text t = {0};
    bool until_end, closes;
    compose(w, s, &t, &until_end, &closes);
    s->closes = closes || sim_chance(w, w->faults.close_after);
    misbehave(w, s, &t, until_end);
    s->answer = t.bytes;
    s->answer_len = t.len;
    if (delay_ns)
        sim_peer_think(x, delay_ns);
    else if (sim_chance(w, w->faults.slow))
        sim_peer_think(x, sim_between(w, 0, 300) * w->latency_ns);
    else
        http_send(x, s);
}

static void http_thinks(struct sim_wire *x)
{
    struct session *s = session_of(x);
    if (s->answer) {
        http_send(x, s);
    } else if (s->stage == AT_HEAD && s->head_len == 0) {
        sim_note(x->w, "wire %u: server closes it while idle", x->index);
        sim_peer_close(x);
    }
}

const struct sim_service sim_http_service = {http_opened, http_input, http_ended, http_thinks,
                                             http_dropped};
