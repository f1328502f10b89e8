/*
 * The request head: checked, measured, written. Runs on any thread; the caller owns every byte.
 * Must never let a name or value end its line early: that would be a second request.
 */
#include "h1/request.h"

#include <string.h>

#include "base/scan.h"

/* What the user wrote himself and we must not write again. */
enum {
    HAS_HOST = 1,
    HAS_AGENT = 2,
    HAS_LENGTH = 4,
    HAS_CODING = 8,
    HAS_EXPECT = 16,
    HAS_CLOSE = 32,
};

/* The fixed parts of a head; their sizes are counted by the plan. */
#define VERSION_LINE " HTTP/1.1\r\n"
#define HOST_FIELD   "Host: "
#define AGENT_FIELD  "User-Agent: "
#define LENGTH_FIELD "Content-Length: "
#define CODING_LINE  "Transfer-Encoding: chunked\r\n"
#define EXPECT_LINE  "Expect: 100-continue\r\n"
#define CLOSE_LINE   "Connection: close\r\n"
#define LEN(literal) (sizeof(literal) - 1)

static enum mr_h1_refusal check_line(const struct mr_h1_request *q);
static enum mr_h1_refusal check_header(const struct mr_h1_request *q, struct mr_h1_plan *plan,
                                       const moor_header *h, unsigned *has);
static bool needs_zero_length(moor_span method);
static bool measure(const struct mr_h1_request *q, struct mr_h1_plan *plan);

const char *mr_h1_refusal_text(enum mr_h1_refusal r)
{
    static const char *const texts[MR_H1_REFUSAL_COUNT] = {
#define X(name, text) [MR_H1_REFUSE_##name] = text,
        MR_H1_REFUSALS(X)
#undef X
    };
    return (unsigned)r < MR_H1_REFUSAL_COUNT ? texts[r] : "not a refusal of this list";
}

static moor_err refuse(struct mr_h1_plan *plan, enum mr_h1_refusal refusal, size_t bad_header)
{
    plan->refusal = refusal;
    plan->bad_header = bad_header;
    plan->what = mr_h1_refusal_text(refusal);
    return MOOR_EINVAL;
}

moor_err mr_h1_request_plan(const struct mr_h1_request *q, struct mr_h1_plan *plan)
{
    unsigned has = 0;

    *plan = (struct mr_h1_plan){.bad_header = q->header_count,
                                .expect_continue = q->expect_continue,
                                .close = q->close,
                                .length = q->content_length};
    enum mr_h1_refusal refusal = check_line(q);
    if (refusal)
        return refuse(plan, refusal, q->header_count);
    for (size_t i = 0; i < q->header_count; i++) {
        refusal = check_header(q, plan, &q->headers[i], &has);
        if (refusal)
            return refuse(plan, refusal, i);
    }
    plan->adds_close = q->close && !(has & HAS_CLOSE);
    plan->adds_host = !(has & HAS_HOST);
    plan->adds_user_agent = q->user_agent.base && !(has & HAS_AGENT);
    plan->adds_expect = q->expect_continue && !(has & HAS_EXPECT);
    plan->adds_coding = q->framing == MR_H1_SEND_CHUNKED && !(has & HAS_CODING);
    plan->adds_length = q->framing == MR_H1_SEND_LENGTH && !(has & HAS_LENGTH);
    if (q->framing == MR_H1_SEND_NONE && !(has & HAS_LENGTH) && needs_zero_length(q->method)) {
        plan->adds_length = true;
        plan->length = 0;
    }
    if (!measure(q, plan))
        return refuse(plan, MR_H1_REFUSE_TOO_BIG, q->header_count);
    return MOOR_OK;
}

/* Not empty, and every byte of the class. */
static bool consists_of(moor_span s, unsigned class_bits)
{
    const uint8_t *const p = s.base;
    return s.len > 0 && mr_scan_class(p, p + s.len, class_bits) == p + s.len;
}

static bool is_value(moor_span s)
{
    const uint8_t *const p = s.base;
    return s.len == 0 || mr_scan_value(p, p + s.len) == p + s.len;
}

static enum mr_h1_refusal check_line(const struct mr_h1_request *q)
{
    if (!consists_of(q->method, MR_BYTE_TOKEN))
        return MR_H1_REFUSE_METHOD;
    if (!consists_of(q->target, MR_BYTE_TARGET))
        return MR_H1_REFUSE_TARGET;
    if (!consists_of(q->host, MR_BYTE_AUTHORITY))
        return MR_H1_REFUSE_HOST;
    if (q->user_agent.base && !is_value(q->user_agent))
        return MR_H1_REFUSE_USER_AGENT;
    return MR_H1_REFUSE_NONE;
}

/* The body decides; a header may only say the same thing, once. */
static enum mr_h1_refusal check_length(const struct mr_h1_request *q, moor_span value,
                                       unsigned *has)
{
    const uint64_t body = q->framing == MR_H1_SEND_LENGTH ? q->content_length : 0;
    uint64_t said;

    if (!mr_h1_length_parse(value, &said))
        return MR_H1_REFUSE_LENGTH;
    if (*has & HAS_LENGTH || q->framing == MR_H1_SEND_CHUNKED || said != body)
        return MR_H1_REFUSE_LENGTH_CONFLICT;
    *has |= HAS_LENGTH;
    return MR_H1_REFUSE_NONE;
}

static enum mr_h1_refusal check_header(const struct mr_h1_request *q, struct mr_h1_plan *plan,
                                       const moor_header *h, unsigned *has)
{
    if (!consists_of(h->name, MR_BYTE_TOKEN))
        return MR_H1_REFUSE_NAME;
    if (!is_value(h->value))
        return MR_H1_REFUSE_VALUE;
    if (mr_h1_is_name(h->name, "connection")) {
        const uint32_t bits = mr_h1_connection_bits(h->value);
        if (bits & MR_H1_SEEN_CLOSE) {
            *has |= HAS_CLOSE;
            plan->close = true;
        }
        plan->upgrade |= (bits & MR_H1_SEEN_UPGRADE) != 0;
    } else if (mr_h1_is_name(h->name, "host")) {
        if (*has & HAS_HOST)
            return MR_H1_REFUSE_HOST_TWICE;
        if (!consists_of(h->value, MR_BYTE_AUTHORITY))
            return MR_H1_REFUSE_HOST;
        *has |= HAS_HOST;
    } else if (mr_h1_is_name(h->name, "content-length")) {
        return check_length(q, h->value, has);
    } else if (mr_h1_is_name(h->name, "transfer-encoding")) {
        if (*has & HAS_CODING || q->framing != MR_H1_SEND_CHUNKED ||
            !mr_h1_is_name(h->value, "chunked"))
            return MR_H1_REFUSE_CODING;
        *has |= HAS_CODING;
    } else if (mr_h1_is_name(h->name, "user-agent")) {
        *has |= HAS_AGENT;
    } else if (mr_h1_is_name(h->name, "expect") && mr_h1_is_name(h->value, "100-continue")) {
        *has |= HAS_EXPECT;
        plan->expect_continue = true;
    }
    return MR_H1_REFUSE_NONE;
}

/* RFC 9110 8.6: methods that usually carry a body say so when there is none. */
static bool needs_zero_length(moor_span method)
{
    return (method.len == 4 && memcmp(method.base, "POST", 4) == 0) ||
           (method.len == 3 && memcmp(method.base, "PUT", 3) == 0) ||
           (method.len == 5 && memcmp(method.base, "PATCH", 5) == 0);
}

static size_t decimal(char out[20], uint64_t n)
{
    char reversed[20];
    size_t len = 0;

    do
        reversed[len++] = (char)('0' + n % 10);
    while (n /= 10);
    for (size_t i = 0; i < len; i++)
        out[i] = reversed[len - 1 - i];
    return len;
}

static bool add(size_t *size, size_t more)
{
    return !__builtin_add_overflow(*size, more, size);
}

static bool measure(const struct mr_h1_request *q, struct mr_h1_plan *plan)
{
    char digits[20];
    size_t size = LEN(" " VERSION_LINE "\r\n");
    bool fits = add(&size, q->method.len) && add(&size, q->target.len);

    if (plan->adds_host)
        fits = fits && add(&size, LEN(HOST_FIELD "\r\n")) && add(&size, q->host.len);
    if (plan->adds_user_agent)
        fits = fits && add(&size, LEN(AGENT_FIELD "\r\n")) && add(&size, q->user_agent.len);
    for (size_t i = 0; i < q->header_count; i++)
        fits = fits && add(&size, LEN(": \r\n")) && add(&size, q->headers[i].name.len) &&
               add(&size, q->headers[i].value.len);
    if (plan->adds_length)
        fits = fits && add(&size, LEN(LENGTH_FIELD "\r\n") + decimal(digits, plan->length));
    if (plan->adds_coding)
        fits = fits && add(&size, LEN(CODING_LINE));
    if (plan->adds_expect)
        fits = fits && add(&size, LEN(EXPECT_LINE));
    if (plan->adds_close)
        fits = fits && add(&size, LEN(CLOSE_LINE));
    plan->size = size;
    return fits;
}

static uint8_t *put(uint8_t *to, const void *bytes, size_t len)
{
    if (len)
        memcpy(to, bytes, len);
    return to + len;
}

#define PUT(to, literal) put(to, literal, LEN(literal))

static uint8_t *put_field(uint8_t *to, moor_span name, moor_span value)
{
    to = put(to, name.base, name.len);
    to = PUT(to, ": ");
    to = put(to, value.base, value.len);
    return PUT(to, "\r\n");
}

/* Host comes first, RFC 9110 7.2: it decides who answers. */
void mr_h1_request_write(const struct mr_h1_request *q, const struct mr_h1_plan *plan, uint8_t *buf)
{
    char digits[20];
    uint8_t *to = put(buf, q->method.base, q->method.len);

    to = PUT(to, " ");
    to = put(to, q->target.base, q->target.len);
    to = PUT(to, VERSION_LINE);
    if (plan->adds_host)
        to = put_field(to, (moor_span){"Host", 4}, q->host);
    if (plan->adds_user_agent)
        to = put_field(to, (moor_span){"User-Agent", 10}, q->user_agent);
    for (size_t i = 0; i < q->header_count; i++)
        to = put_field(to, q->headers[i].name, q->headers[i].value);
    if (plan->adds_length) {
        to = PUT(to, LENGTH_FIELD);
        to = put(to, digits, decimal(digits, plan->length));
        to = PUT(to, "\r\n");
    }
    if (plan->adds_coding)
        to = PUT(to, CODING_LINE);
    if (plan->adds_expect)
        to = PUT(to, EXPECT_LINE);
    if (plan->adds_close)
        to = PUT(to, CLOSE_LINE);
    PUT(to, "\r\n");
}
