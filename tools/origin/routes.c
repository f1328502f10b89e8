/*
 * The routes: from a request's head to an answer. Owns nothing; runs on any loop. Must never know
 * how an answer is framed.
 */
#include "answer.h"

enum { HIDDEN_PIECE = 4096 };
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

void route(const struct request *q, struct answer *a)
{
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
