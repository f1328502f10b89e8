/*
 * Whether a response is well-formed. Pure.
 */
#include "h2/message.h"

#include "base/scan.h"
#include "base/span.h"

#include <string.h>

void mr_h2_message_begin(struct mr_h2_message *m)
{
    m->status = 0;
    m->has_status = m->has_regular = false;
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

const char *mr_h2_message_pseudo(struct mr_h2_message *m, moor_span name, moor_span value)
{
    const uint8_t *const digits = value.base;
    if (m->is_final)
        return "a pseudo-field among the trailers";
    if (!mr_span_is_equal(name, mr_span_cstr(":status")))
        return "a pseudo-field that no response has";
    if (m->has_status)
        return "a second :status";
    if (m->has_regular)
        return "a :status behind other fields";
    if (value.len != 3 || !is_digit(digits[0]) || !is_digit(digits[1]) || !is_digit(digits[2]))
        return "a :status that is no number of three digits";
    m->has_status = true;
    m->status = (digits[0] - '0') * 100 + (digits[1] - '0') * 10 + (digits[2] - '0');
    return NULL;
}

/* RFC 9113 8.2.2. */
static bool is_of_conn(moor_span name)
{
    switch (name.len) {
    case 7:
        return !memcmp(name.base, "upgrade", 7);
    case 10:
        return !memcmp(name.base, "connection", 10) || !memcmp(name.base, "keep-alive", 10);
    case 16:
        return !memcmp(name.base, "proxy-connection", 16);
    case 17:
        return !memcmp(name.base, "transfer-encoding", 17);
    default:
        return false;
    }
}

/* RFC 9110 8.6: the same length twice is one. */
static const char *note_length(struct mr_h2_message *m, moor_span value)
{
    uint64_t length;
    if (!mr_span_to_u64(value, &length) || length > INT64_MAX)
        return "a content-length that is no number";
    if (m->has_length && m->length != length)
        return "two content-lengths that differ";
    m->has_length = true;
    m->length = length;
    return NULL;
}

const char *mr_h2_message_field(struct mr_h2_message *m, moor_span name, moor_span value)
{
    m->has_regular = true;
    if (!name.len || !mr_scan_is_lower_name(name.base, name.len))
        return "a field's name has characters that none may have";
    if (!mr_scan_is_value(value.base, value.len))
        return "a field's value has characters that none may have";
    if (is_of_conn(name))
        return "a field of HTTP/1.1 connections, such as connection or transfer-encoding";
    if (name.len == 14 && !m->is_final && !memcmp(name.base, "content-length", 14))
        return note_length(m, value);
    return NULL;
}

/* RFC 9110 6.4.1. */
static bool has_no_body(const struct mr_h2_message *m)
{
    return m->is_for_head || m->status == 204 || m->status == 304;
}

const char *mr_h2_message_section(struct mr_h2_message *m, bool is_end)
{
    if (m->is_final)
        return is_end ? NULL : "trailers that do not end the stream";
    if (!m->has_status)
        return "no :status";
    if (m->status < 100)
        return "a status below 100";
    if (m->status == 101)
        return "status 101, which HTTP/2 does not have";
    if (m->status < 200) {
        m->has_length = false;
        return is_end ? "an interim response that ends the stream" : NULL;
    }
    m->is_final = true;
    if (has_no_body(m)) { /* the length is that of another response's body */
        m->has_length = true;
        m->length = 0;
    }
    return NULL;
}

const char *mr_h2_message_data(struct mr_h2_message *m, size_t len)
{
    m->received += len;
    if (!m->is_final)
        return "DATA before the response's head";
    if (m->has_length && m->received > m->length)
        return "the body is longer than content-length";
    return NULL;
}

const char *mr_h2_message_end(const struct mr_h2_message *m)
{
    if (!m->is_final)
        return "the stream ended before the response's head";
    if (m->has_length && m->received != m->length)
        return "the body is shorter than content-length";
    return NULL;
}
