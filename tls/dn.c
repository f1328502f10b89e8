/*
 * Walks a distinguished name, to see that it is one or to print it. Any thread; no state.
 * Never prints a byte that could break a line or pass for the frame around a value.
 */
#include "tls/dn.h"
#include "tls/der.h"
#include "base/span.h"

/* Takes the next type and value; *rdn is what is left of the set it is in, *rest of the Name. */
static bool next_attribute(moor_span *rest, moor_span *rdn, moor_span *out_type,
                           struct mr_der *out_value)
{
    struct mr_der set;
    struct mr_der attribute;
    struct mr_der type;
    if (rdn->len == 0) {
        if (!mr_der_take(rest, MR_DER_SET, &set))
            return false;
        *rdn = set.body;
    }
    if (!mr_der_take(rdn, MR_DER_SEQUENCE, &attribute) ||
        !mr_der_take(&attribute.body, MR_DER_OID, &type) || !mr_der_is_oid(type.body) ||
        !mr_der_next(&attribute.body, out_value) || attribute.body.len)
        return false;
    *out_type = type.body;
    return true;
}

bool mr_dn_is_valid(moor_span body)
{
    moor_span rdn = {NULL, 0};
    while (body.len || rdn.len) {
        moor_span type;
        struct mr_der value;
        if (!next_attribute(&body, &rdn, &type, &value))
            return false;
    }
    return true;
}

struct sink {
    char *buf;
    size_t cap;
    size_t len;
};

static void put(struct sink *out, unsigned char c)
{
    if (out->len + 1 < out->cap)
        out->buf[out->len++] = (char)c;
}

static void put_text(struct sink *out, const char *text)
{
    while (*text)
        put(out, (unsigned char)*text++);
}

static void put_type(struct sink *out, moor_span type);
static void put_value(struct sink *out, const struct mr_der *value);

const char *mr_dn_text(moor_span name, char *buf, size_t cap)
{
    struct sink out = {buf, cap, 0};
    struct mr_der list;
    struct mr_der value;
    moor_span rdn = {NULL, 0};
    moor_span type;
    const char *separator = "";
    if (mr_der_take(&name, MR_DER_SEQUENCE, &list)) {
        while (next_attribute(&list.body, &rdn, &type, &value)) {
            put_text(&out, separator);
            put_type(&out, type);
            put(&out, '=');
            put_value(&out, &value);
            separator = rdn.len ? " + " : ", ";
        }
    }
    if (cap)
        buf[out.len] = 0;
    return buf;
}

static void put_number(struct sink *out, uint32_t number)
{
    uint32_t scale = 1;
    while (number / scale >= 10)
        scale *= 10;
    for (; scale; scale /= 10)
        put(out, (unsigned char)('0' + number / scale % 10));
}

/* Dotted; a number beyond 32 bits is "?". */
static void put_oid(struct sink *out, moor_span oid)
{
    const unsigned char *b = oid.base;
    uint64_t number = 0;
    bool is_first = true;
    for (size_t i = 0; i < oid.len; i++) {
        number = number > UINT32_MAX ? number : number << 7 | (b[i] & 0x7fu);
        if (b[i] >= 0x80)
            continue;
        /* The first two numbers share one: 40 times the first, which is 0 to 2, and the second. */
        if (is_first) {
            const uint32_t root = number < 80 ? (uint32_t)number / 40 : 2;
            put_number(out, root);
            number -= (uint64_t)root * 40;
        }
        put(out, '.');
        if (number > UINT32_MAX)
            put(out, '?');
        else
            put_number(out, (uint32_t)number);
        is_first = false;
        number = 0;
    }
}

static void put_type(struct sink *out, moor_span type)
{
    static const struct {
        moor_span oid;
        const char *name;
    } types[] = {
        {{"\x55\x04\x03", 3}, "CN"},
        {{"\x55\x04\x05", 3}, "serialNumber"},
        {{"\x55\x04\x06", 3}, "C"},
        {{"\x55\x04\x07", 3}, "L"},
        {{"\x55\x04\x08", 3}, "ST"},
        {{"\x55\x04\x09", 3}, "street"},
        {{"\x55\x04\x0a", 3}, "O"},
        {{"\x55\x04\x0b", 3}, "OU"},
        {{"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01", 10}, "UID"},
        {{"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19", 10}, "DC"},
        {{"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01", 9}, "emailAddress"},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (mr_span_is_equal(type, types[i].oid)) {
            put_text(out, types[i].name);
            return;
        }
    }
    put_oid(out, type);
}

static void put_value(struct sink *out, const struct mr_der *value)
{
    const unsigned char *b = value->body.base;
    size_t width = 1; /* bytes of a character */
    if (value->tag == 0x1e)
        width = 2; /* BMPString */
    else if (value->tag == 0x1c)
        width = 4; /* UniversalString */
    for (size_t i = 0; i + width <= value->body.len; i += width) {
        bool is_printable = b[i + width - 1] >= ' ' && b[i + width - 1] < 0x7f;
        for (size_t high = 0; high + 1 < width; high++)
            is_printable = is_printable && b[i + high] == 0;
        const unsigned char c = is_printable ? b[i + width - 1] : '?';
        if (c == ',' || c == '+' || c == '\\')
            put(out, '\\');
        put(out, c);
    }
}
