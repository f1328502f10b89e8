/*
 * What becomes of an answer between its route and its framing: takes in the request's body, makes
 * the texts that depend on it, tells type and length. Owns the answer's buffers. Runs on the conn's
 * loop; of what is shared it reads the counters only.
 */
#include "answer.h"

#include "conn.h"
#include "pattern.h"
#include "tls_conn.h"

enum { TEXT_KEPT_MAX = 64 * 1024 };

void answer_clear(struct answer *a)
{
    if (a->echo.cap > TEXT_KEPT_MAX)
        buf_fini(&a->echo);
    if (a->text.cap > TEXT_KEPT_MAX)
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
        {",\"h2_conns\":", offsetof(struct counters, h2_conns)},
        {",\"h2_requests\":", offsetof(struct counters, h2_requests)},
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

const char *answer_type(const struct answer *a)
{
    switch (a->body) {
    case ANSWER_PATTERN:
    case ANSWER_ECHO:
        return "application/octet-stream";
    case ANSWER_VERDICT:
    case ANSWER_STATS:
        return "application/json";
    default:
        return "text/plain";
    }
}

bool answer_is_bodyless(const struct answer *a)
{
    return a->status == 204 || a->status == 304;
}

uint64_t answer_length(const struct answer *a)
{
    if (a->status == 205)
        return 0;
    if (a->body == ANSWER_PATTERN)
        return a->length;
    return a->body == ANSWER_ECHO ? a->echo.len : a->text.len;
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
