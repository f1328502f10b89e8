/*
 * The request parser: strict, because origin is also there to catch a client that writes wrong
 * bytes. Owns nothing; pure. Bounds: the caller never passes a head above HEAD_MAX.
 */
#include "request.h"

enum { CHUNK_LINE_MAX = 256, TRAILER_LINE_MAX = 8 * 1024 };

static int parse_request_line(struct span line, struct request *q);

static bool is_token_char(unsigned char ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
           (ch && strchr("!#$%&'*+-.^_`|~", ch));
}

static bool is_token(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!is_token_char((unsigned char)s.ptr[i]))
            return false;
    return s.len > 0;
}

/* Cuts the next line off `in`; false unless it ends with CRLF. */
static bool next_line(struct span *in, struct span *out_line)
{
    const char *lf = memchr(in->ptr, '\n', in->len);
    if (!lf || lf == in->ptr || lf[-1] != '\r')
        return false;
    *out_line = (struct span){in->ptr, (size_t)(lf - in->ptr) - 1};
    in->len -= (size_t)(lf + 1 - in->ptr);
    in->ptr = lf + 1;
    return true;
}

int request_parse(struct span head, struct request *out_request)
{
    struct request q = {0};
    struct span line;
    if (!next_line(&head, &line))
        return 400;
    int status = parse_request_line(line, &q);
    if (status)
        return status;
    q.fields.ptr = head.ptr;
    for (;;) {
        if (!next_line(&head, &line))
            return 400;
        if (line.len == 0)
            break;
        q.fields.len = (size_t)(head.ptr - q.fields.ptr);
        const char *colon = memchr(line.ptr, ':', line.len);
        if (!colon)
            return 400;
        const struct span name = {line.ptr, (size_t)(colon - line.ptr)};
        const struct span value = {colon + 1, line.len - name.len - 1};
        status = request_take_field(&q, name, span_trim(value));
        if (status)
            return status;
    }
    /* RFC 9112 3.2 and 6.1: no Host, or both framings, must be refused. */
    if ((q.minor_version == 1 && !q.has_host) || (q.has_length && q.is_chunked))
        return 400;
    if (q.is_chunked && q.minor_version == 0)
        return 400;
    *out_request = q;
    return 0;
}

static int parse_request_line(struct span line, struct request *q)
{
    const char *first = memchr(line.ptr, ' ', line.len);
    if (!first)
        return 400;
    q->method = (struct span){line.ptr, (size_t)(first - line.ptr)};
    struct span rest = {first + 1, line.len - q->method.len - 1};
    if (rest.len < 9 || rest.ptr[rest.len - 9] != ' ' || !is_token(q->method))
        return 400;
    const struct span version = {rest.ptr + rest.len - 8, 8};
    if (memcmp(version.ptr, "HTTP/1.", 7) != 0)
        return memcmp(version.ptr, "HTTP/", 5) == 0 ? 505 : 400;
    if (version.ptr[7] != '0' && version.ptr[7] != '1')
        return 505;
    q->minor_version = (uint8_t)(version.ptr[7] - '0');
    q->keep_alive = q->minor_version == 1;
    return request_set_target(q, (struct span){rest.ptr, rest.len - 9});
}

int request_set_target(struct request *q, struct span target)
{
    for (size_t i = 0; i < target.len; i++)
        if ((unsigned char)target.ptr[i] <= ' ' || target.ptr[i] == 0x7f)
            return 400;
    const bool is_https = target.len > 8 && memcmp(target.ptr, "https://", 8) == 0;
    if (is_https || (target.len > 7 && memcmp(target.ptr, "http://", 7) == 0)) {
        const size_t scheme = is_https ? 8 : 7;
        const char *slash = memchr(target.ptr + scheme, '/', target.len - scheme);
        if (!slash)
            return 400;
        target.len -= (size_t)(slash - target.ptr);
        target.ptr = slash;
    }
    if (target.len == 0 || target.ptr[0] != '/')
        return 400;
    const char *mark = memchr(target.ptr, '?', target.len);
    q->path = (struct span){target.ptr, mark ? (size_t)(mark - target.ptr) : target.len};
    if (mark)
        q->query = (struct span){mark + 1, target.len - q->path.len - 1};
    return 0;
}

int request_take_field(struct request *q, struct span name, struct span value)
{
    if (!is_token(name))
        return 400;
    for (size_t i = 0; i < value.len; i++) {
        const unsigned char ch = (unsigned char)value.ptr[i];
        if ((ch < ' ' && ch != '\t') || ch == 0x7f)
            return 400;
    }
    switch (name.len) {
    case 4:
        if (span_is_nocase(name, SPAN("host"))) {
            if (q->has_host)
                return 400;
            q->has_host = true;
        }
        return 0;
    case 6:
        if (span_is_nocase(name, SPAN("expect"))) {
            if (!span_is_nocase(value, SPAN("100-continue")))
                return 417;
            q->expects_continue = q->minor_version == 1;
        }
        return 0;
    case 10:
        if (span_is_nocase(name, SPAN("connection"))) {
            if (list_has(value, SPAN("close")))
                q->keep_alive = false;
            else if (q->minor_version == 0 && list_has(value, SPAN("keep-alive")))
                q->keep_alive = true;
        }
        return 0;
    case 14:
        if (span_is_nocase(name, SPAN("content-length"))) {
            if (q->has_length || !parse_u64(value, INT64_MAX, &q->length))
                return 400;
            q->has_length = true;
        }
        return 0;
    case 17:
        if (span_is_nocase(name, SPAN("transfer-encoding"))) {
            if (q->is_chunked)
                return 400;
            if (!span_is_nocase(value, SPAN("chunked")))
                return 501;
            q->is_chunked = true;
        }
        return 0;
    default:
        return 0;
    }
}

bool request_number(const struct request *q, const char *name, uint64_t fallback, uint64_t max,
                    uint64_t *out_value)
{
    const size_t name_len = strlen(name);
    struct span rest = q->query;
    while (rest.len) {
        const char *amp = memchr(rest.ptr, '&', rest.len);
        const size_t len = amp ? (size_t)(amp - rest.ptr) : rest.len;
        if (len > name_len && rest.ptr[name_len] == '=' && memcmp(rest.ptr, name, name_len) == 0)
            return parse_u64((struct span){rest.ptr + name_len + 1, len - name_len - 1}, max,
                             out_value);
        const size_t skip = amp ? len + 1 : len;
        rest.ptr += skip;
        rest.len -= skip;
    }
    *out_value = fallback;
    return true;
}

void body_begin(struct body_in *b, const struct request *q)
{
    b->state = q->is_chunked ? BODY_CHUNK_SIZE : BODY_FIXED;
    b->left = q->length;
}

/* chunk-size [ ";" extensions ]; RFC 9112 7.1. */
static bool parse_chunk_line(struct span line, uint64_t *out_size)
{
    uint64_t size = 0;
    size_t digits = 0;
    for (; digits < line.len; digits++) {
        const char ch = line.ptr[digits];
        const char *hex = ch ? strchr("0123456789abcdef", ch | 0x20) : NULL;
        if (ch >= '0' && ch <= '9')
            size = size * 16 + (uint64_t)(ch - '0');
        else if (hex && ((ch | 0x20) >= 'a'))
            size = size * 16 + (uint64_t)((ch | 0x20) - 'a') + 10;
        else
            break;
        if (digits >= 15)
            return false;
    }
    if (digits == 0)
        return false;
    const struct span rest = span_trim((struct span){line.ptr + digits, line.len - digits});
    *out_size = size;
    return rest.len == 0 || rest.ptr[0] == ';';
}

static enum body_step take_data(struct body_in *b, struct span *in, struct span *out_data)
{
    const size_t len = in->len < b->left ? in->len : (size_t)b->left;
    *out_data = (struct span){in->ptr, len};
    in->ptr += len;
    in->len -= len;
    b->left -= len;
    return BODY_DATA;
}

enum body_step body_next(struct body_in *b, struct span *in, struct span *out_data)
{
    struct span line;
    for (;;) {
        if (b->state == BODY_FIXED && b->left == 0)
            return BODY_DONE;
        if (in->len == 0)
            return BODY_MORE;
        if (b->state == BODY_FIXED)
            return take_data(b, in, out_data);
        if (b->state == BODY_CHUNK_DATA) {
            if (b->left)
                return take_data(b, in, out_data);
            b->state = BODY_CHUNK_END;
        }
        const size_t max = b->state == BODY_TRAILER ? TRAILER_LINE_MAX : CHUNK_LINE_MAX;
        const char *lf = memchr(in->ptr, '\n', in->len);
        if (!lf)
            return in->len > max ? BODY_BAD : BODY_MORE;
        if ((size_t)(lf - in->ptr) > max || !next_line(in, &line))
            return BODY_BAD;
        if (b->state == BODY_CHUNK_SIZE) {
            if (!parse_chunk_line(line, &b->left))
                return BODY_BAD;
            b->state = b->left ? BODY_CHUNK_DATA : BODY_TRAILER;
        } else if (b->state == BODY_CHUNK_END) {
            if (line.len)
                return BODY_BAD;
            b->state = BODY_CHUNK_SIZE;
        } else if (line.len == 0) {
            return BODY_DONE;
        }
    }
}
