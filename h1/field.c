/*
 * Field lines of heads and trailers, and the few fields that decide framing and reuse.
 * Pure; any thread. Must never copy a field: spans point into the bytes parsed.
 */
#include "h1/field.h"

#include <string.h>

#include "base/scan.h"

static enum mr_h1_fault note(struct mr_h1_section *s, const moor_header *h);
static enum mr_h1_fault grow(struct mr_h1_section *s);
static enum mr_h1_fault name_fault(const uint8_t *line, const uint8_t *stop, const uint8_t *end);
static __attribute__((noinline)) uint32_t keep_alive_timeout(moor_span value);

/* Names of these lengths are looked at: connection, keep-alive; content-length; transfer-encoding. */
static inline bool may_matter(size_t name_len)
{
    return name_len <= 17 && ((1u << name_len) & (1u << 10 | 1u << 14 | 1u << 17)) != 0;
}

static inline bool is_crlf(const uint8_t *p)
{
    return memcmp(p, "\r\n", 2) == 0;
}

/* Where the value's line stops: at its CR if the line is whole and sound. */
static inline enum mr_h1_fault value_fault(const uint8_t *stop)
{
    if (stop[0] == '\r')
        return stop[1] == '\n' ? MR_H1_FAULT_NONE : MR_H1_FAULT_BARE_CR;
    return stop[0] == '\n' ? MR_H1_FAULT_BARE_LF : MR_H1_FAULT_VALUE;
}

#if MR_SCAN_SSE2
enum { PLAIN_VALUE_BLOCKS = 3, WINDOW = 16 + 2 + PLAIN_VALUE_BLOCKS * 16 + 14 };

/* A line as nearly all are: a name of at most 15 letters and dashes, a colon, a space or none, at
 * most 48 visible characters, CRLF. Reads WINDOW bytes and asks for no bound: what is not such a
 * line gives NULL and is left to take_any_line. shift leads from line to the bytes the
 * spans shall point at. */
static inline const uint8_t *take_plain_line(const uint8_t *line, uintptr_t shift, moor_header *h)
{
    const size_t name_len = mr_scan_name_run(line);
    const uint8_t *value = line + name_len + 1;
    const uint8_t *block;
    size_t run;

    if (value[-1] != ':' || name_len == 0)
        return NULL;
    value += *value == ' ';
    if (*value <= ' ')
        return NULL;
    for (block = value; (run = mr_scan_value_run(block)) == 16; block += 16)
        if (block == value + (PLAIN_VALUE_BLOCKS - 1) * 16)
            return NULL;
    const uint8_t *const stop = block + run;
    if (!is_crlf(stop) || stop[-1] == ' ')
        return NULL;
    h->name = (moor_span){(const uint8_t *)((uintptr_t)line + shift), name_len};
    h->value = (moor_span){(const uint8_t *)((uintptr_t)value + shift), (size_t)(stop - value)};
    return stop + 2;
}
#endif

/* One line, with every bound and every case; *next is the line after it. */
enum line_kind { LINE_FIELD, LINE_EMPTY, LINE_PART, LINE_BAD };

static __attribute__((noinline)) enum line_kind take_any_line(struct mr_h1_section *s,
                                                              const uint8_t *line,
                                                              const uint8_t *end,
                                                              const uint8_t **next)
{
    const uint8_t *const colon = mr_scan_name(line, end);
    enum mr_h1_fault fault;

    if (colon == end)
        return LINE_PART;
    if (*colon != ':' || colon == line) {
        fault = name_fault(line, colon, end);
        if (fault)
            goto bad;
        *next = line + 2;
        return LINE_EMPTY;
    }
    const uint8_t *value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    const uint8_t *const stop = mr_scan_value(value, end);
    if (end - stop < 2 && (stop == end || *stop == '\r'))
        return LINE_PART;
    fault = value_fault(stop);
    if (fault)
        goto bad;
    const uint8_t *value_end = stop;
    while (value_end > value && (value_end[-1] == ' ' || value_end[-1] == '\t'))
        value_end--;
    if (s->count == s->cap && (fault = grow(s)) != MR_H1_FAULT_NONE)
        goto bad;
    moor_header *const h = &s->list[s->count++];
    h->name = (moor_span){line, (size_t)(colon - line)};
    h->value = (moor_span){value, (size_t)(value_end - value)};
    if (may_matter(h->name.len) && (fault = note(s, h)) != MR_H1_FAULT_NONE)
        goto bad;
    *next = stop + 2;
    return LINE_FIELD;
bad:
    if (!memchr(line, '\n', (size_t)(end - line)))
        return LINE_PART;
    s->fault = fault;
    return LINE_BAD;
}

#if MR_SCAN_SSE2

/* The last bytes of the input, and zeros: lets take_plain_line run to the very end. Returns where
 * line, less than WINDOW before end, is in the copy. */
static inline const uint8_t *copy_tail(uint8_t tail[2 * WINDOW], const uint8_t *data,
                                       const uint8_t *line, const uint8_t *end)
{
    const size_t left = (size_t)(end - line);

    memset(tail + WINDOW, 0, WINDOW);
    if (end - data >= WINDOW)
        memcpy(tail, end - WINDOW, WINDOW);
    else
        memcpy(tail + WINDOW - left, line, left);
    return tail + WINDOW - left;
}

enum mr_h1_parsed mr_h1_section_parse(struct mr_h1_section *s, const uint8_t *data, size_t len,
                                      size_t *at)
{
    uint8_t tail[2 * WINDOW];
    const uint8_t *const end = data + len;
    const uint8_t *line = data + *at;
    /* From here on a line is too near the end to be read without bounds. */
    const uint8_t *near_end = len >= WINDOW ? end - WINDOW + 1 : data;
    uintptr_t shift = 0;
    moor_header *h = s->list + s->count;
    const moor_header *h_end = s->list + s->cap;
    enum line_kind kind;

    for (;;) {
        if (line >= near_end) {
            const uint8_t *const copied = copy_tail(tail, data, line, end);
            shift = (uintptr_t)line - (uintptr_t)copied;
            line = copied;
            near_end = tail + WINDOW + 1;
        }
        const uint8_t *next = h < h_end ? take_plain_line(line, shift, h) : NULL;
        if (next) {
            kind = LINE_BAD;
            if (may_matter(h->name.len) && (s->fault = note(s, h)) != MR_H1_FAULT_NONE)
                break;
            h++;
            line = next;
            continue;
        }
        kind = LINE_EMPTY;
        if (is_crlf(line))
            break;
        s->count = (uint32_t)(h - s->list);
        next = (const uint8_t *)((uintptr_t)line + shift);
        kind = take_any_line(s, next, end, &next);
        h = s->list + s->count;
        h_end = s->list + s->cap;
        if (kind != LINE_FIELD)
            break;
        line = (const uint8_t *)((uintptr_t)next - shift);
    }
    s->count = (uint32_t)(h - s->list);
    *at = (size_t)((uintptr_t)line + shift - (uintptr_t)data) + (kind == LINE_EMPTY ? 2 : 0);
    return kind == LINE_EMPTY  ? MR_H1_PARSED_ALL
           : kind == LINE_PART ? MR_H1_PARSED_PART
                               : MR_H1_PARSED_BAD;
}

#else

enum mr_h1_parsed mr_h1_section_parse(struct mr_h1_section *s, const uint8_t *data, size_t len,
                                      size_t *at)
{
    const uint8_t *line = data + *at;
    enum line_kind kind;

    do
        kind = take_any_line(s, line, data + len, &line);
    while (kind == LINE_FIELD);
    *at = (size_t)(line - data);
    return kind == LINE_EMPTY  ? MR_H1_PARSED_ALL
           : kind == LINE_PART ? MR_H1_PARSED_PART
                               : MR_H1_PARSED_BAD;
}

#endif
/* The line has no name and colon: NONE if it is the empty line that ends the section. */
static enum mr_h1_fault name_fault(const uint8_t *line, const uint8_t *stop, const uint8_t *end)
{
    if (*stop == '\n')
        return stop == line ? MR_H1_FAULT_BARE_LF : MR_H1_FAULT_NO_COLON;
    if (*stop == '\r') {
        if (end - stop < 2 || stop[1] != '\n')
            return MR_H1_FAULT_BARE_CR;
        return stop == line ? MR_H1_FAULT_NONE : MR_H1_FAULT_NO_COLON;
    }
    if (*stop == ':')
        return MR_H1_FAULT_NAME_EMPTY;
    if (*stop != ' ' && *stop != '\t')
        return MR_H1_FAULT_NAME;
    if (stop == line)
        return MR_H1_FAULT_FOLDED;
    while (stop < end && (*stop == ' ' || *stop == '\t'))
        stop++;
    return stop < end && *stop == ':' ? MR_H1_FAULT_NAME_SPACE : MR_H1_FAULT_NAME;
}

/* The list doubles, so what an abandoned one wastes stays below what is used. */
static enum mr_h1_fault grow(struct mr_h1_section *s)
{
    if (s->count == s->count_max)
        return MR_H1_FAULT_HEADERS_TOO_MANY;
    const uint32_t cap = s->cap > s->count_max / 2 ? s->count_max : s->cap * 2;
    moor_header *const list = s->alloc(s->alloc_ctx, cap * sizeof *list);
    if (!list)
        return MR_H1_FAULT_NO_MEMORY;
    memcpy(list, s->list, s->count * sizeof *list);
    s->list = list;
    s->cap = cap;
    return MR_H1_FAULT_NONE;
}

static uint8_t fold(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static inline uint64_t load_lower(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word | 0x2020202020202020u;
}

/* Eight bytes without case against eight in lower case. Both sides hold only visible characters, of
 * which | 0x20 makes equal none but letters and a few the grammar of our words does not use. */
static inline bool has_word(const uint8_t *p, const char *lower)
{
    uint64_t word;
    memcpy(&word, lower, sizeof word);
    return load_lower(p) == word;
}

static enum mr_h1_fault note_length(struct mr_h1_section *s, moor_span value)
{
    if (s->seen & MR_H1_SEEN_LENGTH)
        return MR_H1_FAULT_LENGTH_TWICE;
    if (!mr_h1_length_parse(value, &s->length))
        return MR_H1_FAULT_LENGTH;
    s->seen |= MR_H1_SEEN_LENGTH;
    return MR_H1_FAULT_NONE;
}

static inline bool is_keep_alive(const uint8_t *p, size_t len)
{
    return len == 10 && has_word(p, "keep-ali") && has_word(p + 2, "ep-alive");
}

static enum mr_h1_fault note(struct mr_h1_section *s, const moor_header *h)
{
    const uint8_t *const name = h->name.base;

    if (h->name.len == 14) {
        if (has_word(name, "content-") && has_word(name + 6, "t-length"))
            return note_length(s, h->value);
    } else if (h->name.len == 17) {
        if (has_word(name, "transfer") && has_word(name + 8, "-encodin") &&
            has_word(name + 9, "encoding")) {
            if (s->seen & MR_H1_SEEN_CODING)
                return MR_H1_FAULT_CODING_TWICE;
            if (!mr_h1_is_name(h->value, "chunked"))
                return MR_H1_FAULT_CODING;
            s->seen |= MR_H1_SEEN_CODING;
        }
    } else if (has_word(name, "connecti")) {
        if (has_word(name + 2, "nnection"))
            s->seen |= is_keep_alive(h->value.base, h->value.len) ? MR_H1_SEEN_KEEP_ALIVE
                                                                  : mr_h1_connection_bits(h->value);
    } else if (is_keep_alive(name, h->name.len)) {
        s->keep_alive_s = keep_alive_timeout(h->value);
    }
    return MR_H1_FAULT_NONE;
}

bool mr_h1_length_parse(moor_span value, uint64_t *out_length)
{
    const uint8_t *const p = value.base;
    uint64_t length = 0;

    for (size_t i = 0; i < value.len; i++) {
        const unsigned digit = p[i] - (unsigned)'0';
        if (digit > 9 || length > INT64_MAX / 10)
            return false;
        length = length * 10 + digit;
        if (length > INT64_MAX)
            return false;
    }
    if (value.len == 0)
        return false;
    *out_length = length;
    return true;
}

bool mr_h1_is_name(moor_span name, const char *lower)
{
    const uint8_t *const p = name.base;

    for (size_t i = 0; i < name.len; i++)
        if (lower[i] == '\0' || fold(p[i]) != (uint8_t)lower[i])
            return false;
    return lower[name.len] == '\0';
}

/* Cuts the next element off a comma list, without the white space around it. */
static bool next_element(moor_span *list, moor_span *element)
{
    const uint8_t *p = list->base;
    const uint8_t *const end = p + list->len;

    while (p < end && (*p == ',' || *p == ' ' || *p == '\t'))
        p++;
    if (p == end)
        return false;
    const uint8_t *const comma = memchr(p, ',', (size_t)(end - p));
    const uint8_t *stop = comma ? comma : end;
    *list = (moor_span){stop, (size_t)(end - stop)};
    while (stop[-1] == ' ' || stop[-1] == '\t')
        stop--;
    *element = (moor_span){p, (size_t)(stop - p)};
    return true;
}

__attribute__((noinline)) uint32_t mr_h1_connection_bits(moor_span value)
{
    moor_span token;
    uint32_t bits = 0;

    while (next_element(&value, &token)) {
        if (is_keep_alive(token.base, token.len))
            bits |= MR_H1_SEEN_KEEP_ALIVE;
        else if (mr_h1_is_name(token, "close"))
            bits |= MR_H1_SEEN_CLOSE;
        else if (mr_h1_is_name(token, "upgrade"))
            bits |= MR_H1_SEEN_UPGRADE;
    }
    return bits;
}

/* A hint only, so what cannot be read counts as not told. */
static uint32_t keep_alive_timeout(moor_span value)
{
    static const size_t key_len = sizeof "timeout=" - 1;
    moor_span element;
    uint64_t seconds;

    while (next_element(&value, &element)) {
        const uint8_t *const p = element.base;
        if (element.len <= key_len || !mr_h1_is_name((moor_span){p, key_len}, "timeout="))
            continue;
        if (mr_h1_length_parse((moor_span){p + key_len, element.len - key_len}, &seconds))
            return seconds < UINT32_MAX ? (uint32_t)seconds : UINT32_MAX;
    }
    return 0;
}

static const void *moved(const void *p, const uint8_t *from, const uint8_t *to)
{
    return to + ((uintptr_t)p - (uintptr_t)from);
}

void mr_h1_section_rebase(struct mr_h1_section *s, const uint8_t *from, const uint8_t *to)
{
    for (uint32_t i = 0; i < s->count; i++) {
        s->list[i].name.base = moved(s->list[i].name.base, from, to);
        s->list[i].value.base = moved(s->list[i].value.base, from, to);
    }
}

enum mr_h1_fault mr_h1_section_keep_trailers(struct mr_h1_section *s)
{
    /* Routing, authentication, payload and connection matters belong in the head. */
    static const char *const dropped[] = {
        "host",          "connection",    "keep-alive",   "upgrade",          "te",
        "trailer",       "expect",        "content-type", "content-encoding", "content-range",
        "cache-control", "authorization", "set-cookie",   "www-authenticate", "proxy-authenticate",
        "location",      "age",           "date",         "expires",          "vary",
        "retry-after",
    };
    uint32_t kept = 0;

    if (s->seen & (MR_H1_SEEN_LENGTH | MR_H1_SEEN_CODING))
        return MR_H1_FAULT_TRAILER_FRAMING;
    for (uint32_t i = 0; i < s->count; i++) {
        size_t k = 0;
        while (k < sizeof dropped / sizeof *dropped && !mr_h1_is_name(s->list[i].name, dropped[k]))
            k++;
        if (k == sizeof dropped / sizeof *dropped)
            s->list[kept++] = s->list[i];
    }
    s->count = kept;
    return MR_H1_FAULT_NONE;
}
