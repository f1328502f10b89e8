/*
 * One reply: assembles heads and trailers that were cut, decides the framing (RFC 9112 6.3), hands
 * out the body. Runs on the thread of the conn; sees spans only.
 * Must never read beyond the reply's end, nor guess where a contradictory reply ends.
 */
#include "h1/reply.h"

#include <string.h>

#include "base/scan.h"

#define APART __attribute__((noinline))

enum { HEAD, BODY_LENGTH, BODY_EOF, BODY_CHUNKED, TRAILERS, OVER, FAILED };

const struct mr_h1_limits mr_h1_limits_default = {
    .head_bytes_max = 64 * 1024,
    .header_count_max = 128,
    .trailer_bytes_max = 16 * 1024,
    .chunk_ext_bytes_max = 16 * 1024,
    .interim_count_max = 64,
    .body_bytes_max = MR_H1_UNLIMITED,
};

/* Inlined, the first three would make the calls that tell BODY and DONE save their registers too. */
static APART enum mr_h1_event take_head(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                        struct mr_h1_out *out);
static APART enum mr_h1_event take_chunked(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                           struct mr_h1_out *out);
static APART enum mr_h1_event take_trailers(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                            struct mr_h1_out *out);
static APART enum mr_h1_parsed parse_cut_section(struct mr_h1_reply *r, moor_span in,
                                                 size_t bytes_max, size_t *consumed);
static APART enum mr_h1_event fail(struct mr_h1_reply *r, enum mr_h1_fault fault,
                                   struct mr_h1_out *out);
static enum mr_h1_event take_length(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                    struct mr_h1_out *out);
static enum mr_h1_event take_until_eof(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                       struct mr_h1_out *out);

void mr_h1_reply_init(struct mr_h1_reply *r, const struct mr_h1_limits *limits, unsigned asked,
                      mr_h1_alloc_fn alloc, void *alloc_ctx)
{
    r->limits = limits ? limits : &mr_h1_limits_default;
    r->head.status = 0;
    r->head.keep_alive = false;
    r->at = 0;
    r->side = NULL;
    r->side_len = 0;
    r->side_cap = 0;
    r->interim_count = 0;
    r->asked = (uint8_t)asked;
    r->state = HEAD;
    r->status_done = false;
    r->touched = false;
    r->fault = MR_H1_FAULT_NONE;
    mr_h1_section_init(&r->section, r->limits->header_count_max, alloc, alloc_ctx);
}

enum mr_h1_event mr_h1_reply_next(struct mr_h1_reply *r, const uint8_t *in, size_t len,
                                  size_t *consumed, struct mr_h1_out *out)
{
    const moor_span span = {in, len};

    *consumed = 0;
    if (r->state >= OVER)
        return r->state == OVER ? MR_H1_DONE : fail(r, r->fault, out);
    if (len == 0)
        return MR_H1_NEED_MORE;
    switch (r->state) {
    case HEAD:
        return take_head(r, span, consumed, out);
    case BODY_LENGTH:
        return take_length(r, span, consumed, out);
    case BODY_EOF:
        return take_until_eof(r, span, consumed, out);
    case BODY_CHUNKED:
        return take_chunked(r, span, consumed, out);
    default:
        return take_trailers(r, span, consumed, out);
    }
}

enum mr_h1_event mr_h1_reply_eof(struct mr_h1_reply *r, struct mr_h1_out *out)
{
    switch (r->state) {
    case OVER:
        return MR_H1_DONE;
    case BODY_EOF:
        r->state = OVER;
        return MR_H1_DONE;
    case FAILED:
        return fail(r, r->fault, out);
    case HEAD:
        return fail(r, r->touched ? MR_H1_FAULT_EOF_IN_HEAD : MR_H1_FAULT_EOF_UNTOUCHED, out);
    default:
        return fail(r, MR_H1_FAULT_EOF_IN_BODY, out);
    }
}

static inline void status_is(struct mr_h1_reply *r, unsigned status, uint8_t minor,
                             moor_span reason)
{
    r->head.status = (uint16_t)status;
    r->head.minor = minor;
    r->head.reason = reason;
    r->status_done = true;
}

/* HTTP/1.x SP 3DIGIT [SP reason] CRLF. The space before an absent reason is required by RFC 9112 4
 * and missing in the wild; its absence leaves nothing ambiguous. */
static enum mr_h1_parsed parse_status(struct mr_h1_reply *r, const uint8_t *data, size_t len)
{
    static const char common[] = "HTTP/1.1 200 OK\r\n";
    uint8_t padded[16];
    const uint8_t *line = data;
    enum mr_h1_fault fault = MR_H1_FAULT_NOT_HTTP;

    if (len >= sizeof common - 1 && memcmp(data, common, sizeof common - 1) == 0) {
        status_is(r, 200, 1, (moor_span){data + 13, 2});
        r->at = sizeof common - 1;
        return MR_H1_PARSED_ALL;
    }
    if (len < sizeof padded) {
        memset(padded, 0, sizeof padded);
        memcpy(padded, data, len);
        line = padded;
    }
    if (memcmp(line, "HTTP/", 5) != 0) {
        /* Told at the first wrong byte: a peer of another protocol may never send an LF. */
        if (memcmp(line, "HTTP/", len < 5 ? len : 5) != 0)
            goto bad_at_once;
        return MR_H1_PARSED_PART;
    }
    fault = MR_H1_FAULT_VERSION;
    if (line[5] != '1' || line[6] != '.' || (line[7] | 1) != '1' || line[8] != ' ')
        goto bad;
    fault = MR_H1_FAULT_STATUS;
    const unsigned hundreds = line[9] - (unsigned)'0';
    const unsigned tens = line[10] - (unsigned)'0';
    const unsigned ones = line[11] - (unsigned)'0';
    if (hundreds - 1 > 8 || tens > 9 || ones > 9)
        goto bad;
    if (line[12] != ' ' && line[12] != '\r' && line[12] != '\n')
        goto bad;
    const uint8_t *const end = data + len;
    const uint8_t *const reason = data + (line[12] == ' ' ? 13 : 12);
    const uint8_t *const stop = mr_scan_value(reason, end);
    if (end - stop < 2 && (stop == end || *stop == '\r'))
        return MR_H1_PARSED_PART;
    fault = *stop == '\n' ? MR_H1_FAULT_BARE_LF : MR_H1_FAULT_REASON;
    if (*stop != '\r')
        goto bad;
    fault = MR_H1_FAULT_BARE_CR;
    if (stop[1] != '\n')
        goto bad;
    status_is(r, hundreds * 100 + tens * 10 + ones, line[7] & 1,
              (moor_span){reason, (size_t)(stop - reason)});
    r->at = (size_t)(stop + 2 - data);
    return MR_H1_PARSED_ALL;
bad:
    if (!memchr(data, '\n', len))
        return MR_H1_PARSED_PART;
bad_at_once:
    r->section.fault = fault;
    return MR_H1_PARSED_BAD;
}

static inline enum mr_h1_parsed parse_section(struct mr_h1_reply *r, const uint8_t *data,
                                              size_t len)
{
    if (!r->status_done) {
        const enum mr_h1_parsed parsed = parse_status(r, data, len);
        if (parsed != MR_H1_PARSED_ALL)
            return parsed;
    }
    return mr_h1_section_parse(&r->section, data, len, &r->at);
}

static void rebase(struct mr_h1_reply *r, const uint8_t *from, const uint8_t *to)
{
    mr_h1_section_rebase(&r->section, from, to);
    if (r->state == HEAD && r->status_done)
        r->head.reason.base = to + ((uintptr_t)r->head.reason.base - (uintptr_t)from);
}

/* Appends to the side buffer; spans into it follow when it moves. */
static bool append(struct mr_h1_reply *r, const uint8_t *in, size_t len, size_t bytes_max)
{
    if (len > r->side_cap - r->side_len) {
        size_t cap = (r->side_len + len) * 2 < 512 ? 512 : (r->side_len + len) * 2;
        if (cap > bytes_max)
            cap = bytes_max;
        uint8_t *const side = r->section.alloc(r->section.alloc_ctx, cap);
        if (!side)
            return false;
        if (r->side_len) {
            memcpy(side, r->side, r->side_len);
            rebase(r, r->side, side);
        }
        r->side = side;
        r->side_cap = cap;
    }
    memcpy(r->side + r->side_len, in, len);
    r->side_len += len;
    return true;
}

/* Goes on with a section begun in an earlier input. The bytes up to each LF are appended, then that
 * line is judged, so the work is linear however the peer cuts, and nothing after the section's end
 * is taken. */
static enum mr_h1_parsed parse_cut_section(struct mr_h1_reply *r, moor_span in, size_t bytes_max,
                                           size_t *consumed)
{
    const uint8_t *p = in.base;
    const uint8_t *const end = p + in.len;
    enum mr_h1_parsed parsed = MR_H1_PARSED_PART;

    while (p < end && parsed == MR_H1_PARSED_PART) {
        const size_t room = bytes_max - r->side_len;
        const size_t visible = (size_t)(end - p) < room ? (size_t)(end - p) : room;
        const uint8_t *const lf = memchr(p, '\n', visible);
        const size_t take = lf ? (size_t)(lf - p) + 1 : visible;
        if (!append(r, p, take, bytes_max)) {
            r->section.fault = MR_H1_FAULT_NO_MEMORY;
            return MR_H1_PARSED_BAD;
        }
        p += take;
        *consumed += take;
        if (lf || !r->status_done)
            parsed = parse_section(r, r->side, r->side_len);
        if (parsed == MR_H1_PARSED_PART && r->side_len == bytes_max) {
            r->section.fault =
                r->state == HEAD ? MR_H1_FAULT_HEAD_TOO_BIG : MR_H1_FAULT_TRAILERS_TOO_BIG;
            return MR_H1_PARSED_BAD;
        }
    }
    return parsed;
}

/* Parses a head or the trailers: in place when they are whole, else in the side buffer. */
static enum mr_h1_parsed take_section(struct mr_h1_reply *r, moor_span in, size_t bytes_max,
                                      size_t *consumed)
{
    if (r->side_len)
        return parse_cut_section(r, in, bytes_max, consumed);

    const size_t visible = in.len < bytes_max ? in.len : bytes_max;
    const enum mr_h1_parsed parsed = parse_section(r, in.base, visible);
    if (parsed != MR_H1_PARSED_PART) {
        *consumed = r->at;
        return parsed;
    }
    if (visible == bytes_max) {
        r->section.fault =
            r->state == HEAD ? MR_H1_FAULT_HEAD_TOO_BIG : MR_H1_FAULT_TRAILERS_TOO_BIG;
        return MR_H1_PARSED_BAD;
    }
    if (!append(r, in.base, in.len, bytes_max)) {
        r->section.fault = MR_H1_FAULT_NO_MEMORY;
        return MR_H1_PARSED_BAD;
    }
    rebase(r, in.base, r->side);
    *consumed = in.len;
    return MR_H1_PARSED_PART;
}

/* The fields become readable in r->head; the next section starts afresh in the same memory. */
static void publish(struct mr_h1_reply *r)
{
    r->head.headers = r->section.list;
    r->head.header_count = r->section.count;
    r->at = 0;
    r->side_len = 0;
    r->section.count = 0;
}

/* Decides how the reply is framed and whether the conn survives it: RFC 9112 6.3, in its order. */
static enum mr_h1_fault frame(struct mr_h1_reply *r)
{
    struct mr_h1_head *const h = &r->head;
    const uint32_t seen = r->section.seen;
    const bool has_length = seen & MR_H1_SEEN_LENGTH;
    const bool has_coding = seen & MR_H1_SEEN_CODING;
    const bool has_body = has_coding || (has_length && r->section.length);

    h->content_length = has_length ? r->section.length : MR_H1_NO_LENGTH;
    h->keep_alive_s = r->section.keep_alive_s;
    h->body = MR_H1_BODY_NONE;
    h->keep_alive = !(seen & MR_H1_SEEN_CLOSE) && (h->minor || (seen & MR_H1_SEEN_KEEP_ALIVE));
    h->upgraded = h->status == 101 || (r->asked & MR_H1_FOR_CONNECT && h->status / 100 == 2);
    if (h->upgraded)
        h->keep_alive = false;
    if (h->upgraded && h->status != 101)
        return MR_H1_FAULT_NONE; /* RFC 9110 9.3.6: length and coding are ignored */
    if (has_coding && has_length)
        return MR_H1_FAULT_LENGTH_AND_CODING;
    if (has_coding && h->minor == 0)
        return MR_H1_FAULT_CODING_HTTP10;
    if (h->status < 200) {
        if (h->upgraded && !(r->asked & MR_H1_FOR_UPGRADE))
            return MR_H1_FAULT_UPGRADE_UNASKED;
        return has_body ? MR_H1_FAULT_INTERIM_BODY : MR_H1_FAULT_NONE;
    }
    if (h->status == 204 && has_body)
        h->keep_alive = false; /* RFC 9110 8.6 forbids it: the server may well send that body */
    if (r->asked & MR_H1_FOR_HEAD || h->status == 204 || h->status == 304)
        return MR_H1_FAULT_NONE;
    if (has_coding) {
        h->body = MR_H1_BODY_CHUNKED;
        mr_h1_chunked_init(&r->chunked);
    } else if (has_length) {
        h->body = MR_H1_BODY_LENGTH;
        r->left = r->section.length;
        if (r->left > r->limits->body_bytes_max)
            return MR_H1_FAULT_BODY_TOO_BIG;
    } else {
        h->body = MR_H1_BODY_EOF;
        h->keep_alive = false;
        r->left = r->limits->body_bytes_max;
    }
    return MR_H1_FAULT_NONE;
}

static uint8_t state_after_head(const struct mr_h1_reply *r)
{
    switch (r->head.body) {
    case MR_H1_BODY_LENGTH:
        return r->left ? BODY_LENGTH : OVER;
    case MR_H1_BODY_CHUNKED:
        return BODY_CHUNKED;
    case MR_H1_BODY_EOF:
        return BODY_EOF;
    default:
        return OVER;
    }
}

static enum mr_h1_event take_head(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                  struct mr_h1_out *out)
{
    r->touched = true;
    const enum mr_h1_parsed parsed = take_section(r, in, r->limits->head_bytes_max, consumed);
    if (parsed == MR_H1_PARSED_PART)
        return MR_H1_NEED_MORE;
    if (parsed == MR_H1_PARSED_BAD)
        return fail(r, r->section.fault, out);
    publish(r);
    const enum mr_h1_fault fault = frame(r);
    if (fault != MR_H1_FAULT_NONE)
        return fail(r, fault, out);
    mr_h1_section_reset(&r->section);
    if (r->head.status >= 200 || r->head.upgraded) {
        r->state = state_after_head(r);
        return MR_H1_HEAD;
    }
    r->status_done = false;
    if (r->interim_count == r->limits->interim_count_max)
        return fail(r, MR_H1_FAULT_INTERIM_TOO_MANY, out);
    r->interim_count++;
    return MR_H1_HEAD_1XX;
}

static enum mr_h1_event take_length(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                    struct mr_h1_out *out)
{
    const size_t take = in.len < r->left ? in.len : (size_t)r->left;

    out->body = (moor_span){in.base, take};
    *consumed = take;
    r->left -= take;
    if (r->left == 0)
        r->state = OVER;
    return MR_H1_BODY;
}

static enum mr_h1_event take_until_eof(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                       struct mr_h1_out *out)
{
    const size_t take = in.len < r->left ? in.len : (size_t)r->left;

    if (take == 0)
        return fail(r, MR_H1_FAULT_BODY_TOO_BIG, out);
    out->body = (moor_span){in.base, take};
    *consumed = take;
    if (r->left != MR_H1_UNLIMITED)
        r->left -= take;
    return MR_H1_BODY;
}

static enum mr_h1_event take_chunked(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                     struct mr_h1_out *out)
{
    switch (mr_h1_chunked_next(&r->chunked, r->limits->chunk_ext_bytes_max,
                               r->limits->body_bytes_max, in, consumed, &out->body)) {
    case MR_H1_CHUNK_MORE:
        return MR_H1_NEED_MORE;
    case MR_H1_CHUNK_DATA:
        return MR_H1_BODY;
    case MR_H1_CHUNK_BAD:
        return fail(r, r->chunked.fault, out);
    default:
        break;
    }
    r->state = TRAILERS;
    const size_t used = *consumed;
    if (used == in.len)
        return MR_H1_NEED_MORE;
    const moor_span rest = {(const uint8_t *)in.base + used, in.len - used};
    *consumed = 0;
    const enum mr_h1_event event = take_trailers(r, rest, consumed, out);
    *consumed += used;
    return event;
}

static enum mr_h1_event take_trailers(struct mr_h1_reply *r, moor_span in, size_t *consumed,
                                      struct mr_h1_out *out)
{
    const enum mr_h1_parsed parsed = take_section(r, in, r->limits->trailer_bytes_max, consumed);

    if (parsed == MR_H1_PARSED_PART)
        return MR_H1_NEED_MORE;
    const enum mr_h1_fault fault =
        parsed == MR_H1_PARSED_BAD ? r->section.fault : mr_h1_section_keep_trailers(&r->section);
    if (fault != MR_H1_FAULT_NONE)
        return fail(r, fault, out);
    publish(r);
    r->state = OVER;
    return r->head.header_count ? MR_H1_TRAILERS : MR_H1_DONE;
}

static enum mr_h1_event fail(struct mr_h1_reply *r, enum mr_h1_fault fault, struct mr_h1_out *out)
{
    r->state = FAILED;
    r->fault = fault;
    r->head.keep_alive = false;
    out->fault = fault;
    out->err = mr_h1_fault_err(fault);
    out->what = mr_h1_fault_text(fault);
    return MR_H1_ERROR;
}
