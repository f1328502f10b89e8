/*
 * The chunked coding, read and written. Pure; any thread.
 * Must never hold body bytes: data is handed out as spans of the input.
 */
#include "h1/chunk.h"

#include "base/scan.h"

enum { SIZE, BLANK, EXT, SIZE_LF, DATA, DATA_CR, DATA_LF };

static int hex_value(uint8_t c);
static void read_size_byte(struct mr_h1_chunked *c, uint8_t byte);
static void read_ext_byte(struct mr_h1_chunked *c, uint8_t byte, uint32_t ext_bytes_max);
static void end_size_line(struct mr_h1_chunked *c, uint8_t byte, uint64_t body_bytes_max);

void mr_h1_chunked_init(struct mr_h1_chunked *c)
{
    *c = (struct mr_h1_chunked){.state = SIZE, .fault = MR_H1_FAULT_NONE};
}

enum mr_h1_chunk_step mr_h1_chunked_next(struct mr_h1_chunked *c, uint32_t ext_bytes_max,
                                         uint64_t body_bytes_max, moor_span in, size_t *consumed,
                                         moor_span *body)
{
    const uint8_t *const p = in.base;
    size_t i = 0;

    while (i < in.len && c->fault == MR_H1_FAULT_NONE) {
        switch (c->state) {
        case SIZE:
            read_size_byte(c, p[i++]);
            break;
        case BLANK:
        case EXT:
            read_ext_byte(c, p[i++], ext_bytes_max);
            break;
        case SIZE_LF:
            end_size_line(c, p[i++], body_bytes_max);
            if (c->fault == MR_H1_FAULT_NONE && c->left == 0) {
                *consumed = i;
                return MR_H1_CHUNK_LAST;
            }
            break;
        case DATA: {
            const size_t take = in.len - i < c->left ? in.len - i : (size_t)c->left;
            *body = (moor_span){p + i, take};
            *consumed = i + take;
            c->left -= take;
            c->state = c->left ? DATA : DATA_CR;
            return MR_H1_CHUNK_DATA;
        }
        case DATA_CR:
            c->fault = p[i++] == '\r' ? MR_H1_FAULT_NONE : MR_H1_FAULT_CHUNK_END;
            c->state = DATA_LF;
            break;
        default:
            c->fault = p[i++] == '\n' ? MR_H1_FAULT_NONE : MR_H1_FAULT_CHUNK_END;
            c->state = SIZE;
            c->digits = 0;
            break;
        }
    }
    *consumed = i;
    return c->fault == MR_H1_FAULT_NONE ? MR_H1_CHUNK_MORE : MR_H1_CHUNK_BAD;
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void read_size_byte(struct mr_h1_chunked *c, uint8_t byte)
{
    const int digit = hex_value(byte);

    if (digit >= 0) {
        /* 16 digits, leading zeros included: a size line has no other bound. */
        if (c->digits == 16 || c->left > (uint64_t)INT64_MAX >> 4)
            c->fault = MR_H1_FAULT_CHUNK_OVERFLOW;
        c->left = c->left << 4 | (uint64_t)digit;
        c->digits++;
    } else if (c->digits == 0) {
        c->fault = MR_H1_FAULT_CHUNK_SIZE;
    } else if (byte == '\r') {
        c->state = SIZE_LF;
    } else if (byte == ';') {
        c->state = EXT;
    } else if (byte == ' ' || byte == '\t') {
        c->state = BLANK;
    } else {
        c->fault = byte == '\n' ? MR_H1_FAULT_BARE_LF : MR_H1_FAULT_CHUNK_SIZE;
    }
}

/* BLANK: white space that only a semicolon may end. Readers have disagreed on anything else. */
static void read_ext_byte(struct mr_h1_chunked *c, uint8_t byte, uint32_t ext_bytes_max)
{
    if (c->state == BLANK && byte != ' ' && byte != '\t') {
        if (byte == ';')
            c->state = EXT;
        else
            c->fault = MR_H1_FAULT_CHUNK_SIZE;
    } else if (byte == '\r') {
        c->state = SIZE_LF;
    } else if (!mr_byte_is(byte, MR_BYTE_VALUE)) {
        c->fault = byte == '\n' ? MR_H1_FAULT_BARE_LF : MR_H1_FAULT_CHUNK_EXT;
    } else if (c->unpaid >= ext_bytes_max) {
        c->fault = MR_H1_FAULT_CHUNK_EXT_TOO_BIG;
    } else {
        c->unpaid++;
    }
}

static void end_size_line(struct mr_h1_chunked *c, uint8_t byte, uint64_t body_bytes_max)
{
    if (byte != '\n') {
        c->fault = MR_H1_FAULT_BARE_CR;
    } else if (c->total > body_bytes_max || c->left > body_bytes_max - c->total) {
        c->fault = MR_H1_FAULT_BODY_TOO_BIG;
    } else {
        c->total += c->left;
        c->unpaid = c->unpaid > c->left ? c->unpaid - (uint32_t)c->left : 0;
        c->state = DATA;
    }
}

size_t mr_h1_chunk_head(char out[20], uint64_t size)
{
    static const char digits[] = "0123456789abcdef";
    size_t len = 0;

    if (size == 0)
        return 0;
    for (int shift = (63 - __builtin_clzll(size)) & ~3; shift >= 0; shift -= 4)
        out[len++] = digits[size >> shift & 15];
    out[len++] = '\r';
    out[len++] = '\n';
    return len;
}
