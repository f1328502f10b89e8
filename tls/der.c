/*
 * Reads single DER elements off borrowed bytes. Any thread; no state, no allocation.
 * Never looks past the span it was given, never accepts two encodings of one value.
 */
#include "tls/der.h"
#include "base/span.h"

#define TAG_NUMBER_MASK 0x1fu

/* The length field at t[1]; 0 if it is malformed, else its size in bytes. */
static size_t read_length(const unsigned char *t, size_t available, size_t *out_len)
{
    if (available < 2)
        return 0;
    if (t[1] < 0x80) {
        *out_len = t[1];
        return 1;
    }
    const size_t count = t[1] & 0x7fu;
    /* 0x80 alone is the indefinite form. */
    if (count == 0 || count > MR_DER_LENGTH_BYTES_MAX || count > available - 2)
        return 0;
    size_t len = 0;
    for (size_t i = 0; i < count; i++)
        len = len << 8 | t[2 + i];
    const bool is_shortest = t[2] != 0 && len >= 0x80;
    *out_len = len;
    return is_shortest ? 1 + count : 0;
}

bool mr_der_next(moor_span *rest, struct mr_der *out)
{
    const unsigned char *t = rest->base;
    size_t len = 0;
    const size_t length_bytes = read_length(t, rest->len, &len);
    if (length_bytes == 0)
        return false;
    const size_t header = 1 + length_bytes;
    /* Tag numbers over 30 continue in further bytes: X.509 has none. */
    if ((t[0] & TAG_NUMBER_MASK) == TAG_NUMBER_MASK || len > rest->len - header)
        return false;
    *out = (struct mr_der){.tag = t[0], .whole = {t, header + len}, .body = {t + header, len}};
    *rest = mr_span_skip(*rest, header + len);
    return true;
}

bool mr_der_take(moor_span *rest, unsigned tag, struct mr_der *out)
{
    return mr_der_is_next(*rest, tag) && mr_der_next(rest, out);
}

bool mr_der_is_next(moor_span rest, unsigned tag)
{
    return rest.len > 0 && *(const unsigned char *)rest.base == tag;
}

bool mr_der_to_bool(moor_span body, bool *out)
{
    const unsigned char *b = body.base;
    if (body.len != 1 || (b[0] != 0 && b[0] != 0xff))
        return false;
    *out = b[0] != 0;
    return true;
}

bool mr_der_is_integer(moor_span body)
{
    const unsigned char *b = body.base;
    if (body.len == 0)
        return false;
    if (body.len == 1)
        return true;
    /* Nine equal leading bits: the first byte says nothing. */
    return !(b[0] == 0 && b[1] < 0x80) && !(b[0] == 0xff && b[1] >= 0x80);
}

bool mr_der_to_int(moor_span body, int32_t *out)
{
    const unsigned char *b = body.base;
    if (!mr_der_is_integer(body) || body.len > 4 || b[0] >= 0x80)
        return false;
    uint32_t value = 0;
    for (size_t i = 0; i < body.len; i++)
        value = value << 8 | b[i];
    *out = (int32_t)value;
    return true;
}

uint32_t mr_der_integer_bits(moor_span body)
{
    const unsigned char *b = body.base;
    if (!mr_der_is_integer(body) || b[0] >= 0x80)
        return 0;
    const size_t zeros = b[0] == 0;
    if (zeros == body.len)
        return 0;
    uint32_t bits = (uint32_t)(body.len - zeros - 1) * 8;
    for (unsigned top = b[zeros]; top; top >>= 1)
        bits++;
    return bits;
}

bool mr_der_is_oid(moor_span body)
{
    const unsigned char *b = body.base;
    bool is_start = true;
    for (size_t i = 0; i < body.len; i++) {
        if (is_start && b[i] == 0x80)
            return false;
        is_start = b[i] < 0x80;
    }
    return body.len > 0 && is_start;
}

bool mr_der_to_octets(moor_span body, moor_span *out)
{
    if (body.len == 0 || *(const unsigned char *)body.base != 0)
        return false;
    *out = mr_span_skip(body, 1);
    return true;
}

/* Days from 1970-01-01 in the Gregorian calendar; month 1 to 12. Years begin in March here, so that
 * the leap day is a year's last. */
static int64_t days_from_date(int64_t year, int64_t month, int64_t day)
{
    const int64_t y = month <= 2 ? year - 1 + 400 : year + 400;
    const int64_t since_march = (month + 9) % 12;
    const int64_t day_of_year = (153 * since_march + 2) / 5 + day - 1;
    const int64_t days = y * 365 + y / 4 - y / 100 + y / 400 + day_of_year;
    /* The same sum for 1970-01-01, with the 400 years that kept year 0 positive. */
    return days - (719468 + 146097);
}

static int days_in_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const bool is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && is_leap);
}

bool mr_der_to_time(unsigned tag, moor_span body, int64_t *out_s)
{
    const unsigned char *b = body.base;
    const size_t year_len = tag == MR_DER_UTC_TIME ? 2 : 4;
    int part[5]; /* month, day, hour, minute, second */
    int year = 0;
    if (tag != MR_DER_UTC_TIME && tag != MR_DER_GENERALIZED_TIME)
        return false;
    if (body.len != year_len + sizeof "MMDDHHMMSSZ" - 1 || b[body.len - 1] != 'Z')
        return false;
    for (size_t i = 0; i < body.len - 1; i++)
        if (!mr_ascii_is_digit(b[i]))
            return false;
    for (size_t i = 0; i < year_len; i++)
        year = year * 10 + (b[i] - '0');
    for (size_t i = 0; i < 5; i++) {
        const unsigned char *two = b + year_len + 2 * i;
        part[i] = (two[0] - '0') * 10 + (two[1] - '0');
    }
    if (tag == MR_DER_UTC_TIME)
        year += year >= 50 ? 1900 : 2000;
    if (part[0] < 1 || part[0] > 12 || part[1] < 1 || part[1] > days_in_month(year, part[0]))
        return false;
    if (part[2] > 23 || part[3] > 59 || part[4] > 59)
        return false;
    const int64_t days = days_from_date(year, part[0], part[1]);
    *out_s = days * 86400 + (int64_t)part[2] * 3600 + (int64_t)part[3] * 60 + part[4];
    return true;
}
