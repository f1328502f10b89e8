/*
 * The routes: from a request's head to an answer. Owns the answer's text. Runs on any loop; touches
 * nothing shared but the counters, which it only reads.
 */
#include "answer.h"
#include "conn.h"
#include "pattern.h"
#include "tls_conn.h"

enum { ECHO_KEPT_MAX = 64 * 1024, HIDDEN_PIECE = 4096 };
static const uint64_t length_max = UINT64_C(1) << 40;

typedef void (*route_fn)(const struct request *q, struct span rest, struct answer *a);

static void say_index(const struct request *q, struct span rest, struct answer *a);

static void say_bytes(const struct request *q, struct span rest, struct answer *a)
{
    (void)q;
    if (!parse_u64(rest, length_max, &a->length))
        answer_refuse(a, 400);
    else
        a->body = ANSWER_PATTERN;
}

static void say_chunked(const struct request *q, struct span rest, struct answer *a)
{
    if (!parse_u64(rest, length_max, &a->length) ||
        !request_number(q, "chunk", HIDDEN_PIECE, length_max, &a->piece) || a->piece == 0) {
        answer_refuse(a, 400);
        return;
    }
    a->body = ANSWER_PATTERN;
    a->hides_length = true;
}

static void say_delay(const struct request *q, struct span rest, struct answer *a)
{
    uint64_t ms;
    (void)q;
    if (!parse_u64(rest, WAIT_MAX_MS, &ms)) {
        answer_refuse(a, 400);
        return;
    }
    a->delay_ms = (uint32_t)ms;
    buf_add_text(&a->text, "delayed ");
    buf_add_u64(&a->text, ms);
    buf_add_text(&a->text, " ms\n");
}

static void say_status(const struct request *q, struct span rest, struct answer *a)
{
    uint64_t status;
    (void)q;
    /* 1xx is never an answer: see /bad/1xx for those before one. */
    if (!parse_u64(rest, 999, &status) || status < 200) {
        answer_refuse(a, 400);
        return;
    }
    a->status = (int)status;
    buf_add_u64(&a->text, status);
    buf_add_text(&a->text, "\n");
}

static void say_drip(const struct request *q, struct span rest, struct answer *a)
{
    uint64_t interval;
    (void)rest;
    if (!request_number(q, "bytes", 10, length_max, &a->length) ||
        !request_number(q, "piece", 1, length_max, &a->piece) || a->piece == 0 ||
        !request_number(q, "interval", 10, WAIT_MAX_MS, &interval)) {
        answer_refuse(a, 400);
        return;
    }
    a->body = ANSWER_PATTERN;
    a->interval_ms = (uint32_t)interval;
}

static void say_echo(const struct request *q, struct span rest, struct answer *a)
{
    (void)rest;
    a->body = ANSWER_ECHO;
    a->hides_length = q->is_chunked;
    a->method_len = q->method.len < METHOD_ECHO_MAX ? q->method.len : METHOD_ECHO_MAX;
    memcpy(a->method, q->method.ptr, a->method_len);
}

static void say_verdict(const struct request *q, struct span rest, struct answer *a)
{
    (void)q, (void)rest;
    a->body = ANSWER_VERDICT;
}

static void say_headers(const struct request *q, struct span rest, struct answer *a)
{
    (void)rest;
    buf_add_span(&a->text, q->fields);
}

static void say_close(const struct request *q, struct span rest, struct answer *a)
{
    (void)q, (void)rest;
    a->must_close = true;
    buf_add_text(&a->text, "closing\n");
}

static void say_stats(const struct request *q, struct span rest, struct answer *a)
{
    (void)q, (void)rest;
    a->body = ANSWER_STATS;
}

static void say_tls(const struct request *q, struct span rest, struct answer *a)
{
    (void)q, (void)rest;
    a->body = ANSWER_TLS;
}

/* RFC 8470 5.2: whoever hears 425 may ask again once the handshake is done. */
static void say_late(const struct request *q, struct span rest, struct answer *a)
{
    (void)rest;
    if (q->is_early)
        answer_refuse(a, 425);
    else
        buf_add_text(&a->text, "late enough\n");
}

static void misbehave(const struct request *q, struct span rest, struct answer *a)
{
    const struct misdeed *m = misdeed_find(rest);
    if (!m) {
        answer_refuse(a, 404);
        return;
    }
    uint64_t amount, notifies;
    if (!request_number(q, "notify", !(m->flags & MISDEED_TRUNCATES), 1, &notifies) ||
        !request_number(q, "after", m->default_after, WAIT_MAX_MS, &a->after) ||
        !request_number(q, "count", m->default_amount, 10000, &amount) ||
        !request_number(q, "bytes", amount, length_max, &a->amount)) {
        answer_refuse(a, 400);
        return;
    }
    a->misdeed = m;
    a->notifies = notifies;
    a->at_once = m->flags & MISDEED_AT_ONCE;
}

/* A path that ends with '/' takes what follows it; the others are whole. */
static const struct {
    const char *path;
    const char *usage;
    route_fn answer;
} routes[] = {
    {"/bytes/", "/bytes/N                  N bytes, byte i = i * 131 % 251", say_bytes},
    {"/chunked/", "/chunked/N?chunk=M        the same, in chunks of M", say_chunked},
    {"/delay/", "/delay/MS                 answers after MS milliseconds", say_delay},
    {"/status/", "/status/N                 status N, 200 to 999", say_status},
    {"/drip", "/drip?bytes=N&interval=MS&piece=P  N bytes, P at a time", say_drip},
    {"/echo", "/echo                     the request's body, at most 64 MB; X-Method", say_echo},
    {"/sink", "/sink                     JSON: body bytes, and if they match the pattern",
     say_verdict},
    {"/headers", "/headers                  the request's header lines", say_headers},
    {"/close", "/close                    closes after the answer", say_close},
    {"/stats", "/stats                    JSON: counters of this server", say_stats},
    {"/tls", "/tls                      what the TLS handshake agreed on", say_tls},
    {"/late", "/late                     425 if asked with TLS early data", say_late},
    {"/bad/",
     "/bad/...?notify=0         misbehaviour; with 1 or 0 its FIN has a close_notify or not:",
     misbehave},
    {"/", "", say_index},
};

enum { ROUTE_COUNT = sizeof routes / sizeof *routes };

static void say_index(const struct request *q, struct span rest, struct answer *a)
{
    (void)q;
    if (rest.len) {
        answer_refuse(a, 404);
        return;
    }
    buf_add_text(&a->text, "mooring-origin: a server for tests\n\n");
    for (size_t i = 0; i + 1 < ROUTE_COUNT; i++) {
        buf_add_text(&a->text, routes[i].usage);
        buf_add_text(&a->text, "\n");
    }
    const struct misdeed *m;
    for (size_t i = 0; (m = misdeed_at(i)); i++) {
        buf_add_text(&a->text, "  /bad/");
        buf_add_text(&a->text, m->usage);
        buf_add_text(&a->text, "\n");
    }
}

void route(const struct request *q, struct loop *l, struct answer *a)
{
    (void)l;
    answer_clear(a);
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        const size_t len = strlen(routes[i].path);
        const bool is_prefix = routes[i].path[len - 1] == '/';
        if (q->path.len < len || (!is_prefix && q->path.len != len) ||
            memcmp(q->path.ptr, routes[i].path, len) != 0)
            continue;
        routes[i].answer(q, (struct span){q->path.ptr + len, q->path.len - len}, a);
        return;
    }
}

void answer_clear(struct answer *a)
{
    if (a->echo.cap > ECHO_KEPT_MAX)
        buf_fini(&a->echo);
    if (a->text.cap > ECHO_KEPT_MAX)
        buf_fini(&a->text);
    const struct buf echo = {a->echo.data, 0, a->echo.cap}, text = {a->text.data, 0, a->text.cap};
    *a = (struct answer){.status = 200, .echo = echo, .text = text};
}

void answer_fini(struct answer *a)
{
    buf_fini(&a->echo);
    buf_fini(&a->text);
}

void answer_refuse(struct answer *a, int status)
{
    answer_clear(a);
    a->status = status;
    a->at_once = true;
    buf_add_u64(&a->text, (uint64_t)status);
    buf_add_text(&a->text, " ");
    buf_add_text(&a->text, status_reason(status));
    buf_add_text(&a->text, "\n");
}

bool answer_take_body(struct answer *a, struct span data)
{
    if (a->body == ANSWER_ECHO) {
        if (data.len > ECHO_MAX - a->echo.len) {
            answer_refuse(a, 413);
            return false;
        }
        buf_add_span(&a->echo, data);
    } else if (a->body == ANSWER_VERDICT && !a->body_mismatches) {
        a->body_mismatches = !pattern_matches(a->body_bytes, data);
    }
    a->body_bytes += data.len;
    return true;
}

static void add_figure(struct buf *text, const char *name, uint64_t value)
{
    buf_add_text(text, name);
    buf_add_u64(text, value);
}

static uint64_t sum_of(const struct loop *l, size_t offset)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < l->peer_count; i++) {
        const char *counters = (const char *)&l->peers[i].counters;
        sum += atomic_load_explicit((const _Atomic uint64_t *)(const void *)(counters + offset),
                                    memory_order_acquire);
    }
    return sum;
}

static void add_stats(struct buf *text, const struct loop *l)
{
    static const struct {
        const char *name;
        size_t offset;
    } figures[] = {
        {",\"requests\":", offsetof(struct counters, requests)},
        {",\"bytes_in\":", offsetof(struct counters, bytes_in)},
        {",\"bytes_out\":", offsetof(struct counters, bytes_out)},
        {",\"handshakes\":", offsetof(struct counters, handshakes)},
        {",\"handshakes_resumed\":", offsetof(struct counters, handshakes_resumed)},
        {",\"handshakes_failed\":", offsetof(struct counters, handshakes_failed)},
        {",\"early_data_accepted\":", offsetof(struct counters, early_data_accepted)},
    };
    /* A conn closed between the two sums must not make `open` wrap around. */
    const uint64_t closed = sum_of(l, offsetof(struct counters, closed));
    const uint64_t accepted = sum_of(l, offsetof(struct counters, accepted));
    add_figure(text, "{\"open\":", accepted > closed ? accepted - closed : 0);
    add_figure(text, ",\"accepted\":", accepted);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        add_figure(text, figures[i].name, sum_of(l, figures[i].offset));
    add_figure(text, ",\"threads\":", l->peer_count);
    buf_add_text(text, "}\n");
}

void answer_finish(struct answer *a, const struct conn *c)
{
    if (a->body == ANSWER_VERDICT) {
        add_figure(&a->text, "{\"bytes\":", a->body_bytes);
        buf_add_text(&a->text,
                     a->body_mismatches ? ",\"matches\":false}\n" : ",\"matches\":true}\n");
    } else if (a->body == ANSWER_STATS) {
        add_stats(&a->text, c->loop);
    } else if (a->body == ANSWER_TLS) {
        tls_describe(c, &a->text);
    }
}

const char *status_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } known[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {205, "Reset Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {425, "Too Early"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status)
            return known[i].reason;
    return "Unnamed";
}
