/*
 * One header or trailer field, and the section of them that a head or a trailer is.
 * Spans point into whatever bytes were parsed: the caller's input or the reply's side buffer. Names
 * are as sent, to be compared without case; values are without the white space around them.
 */
#ifndef MR_H1_FIELD_H
#define MR_H1_FIELD_H

#include <mooring/http.h>

#include "h1/fault.h"

/* Memory for one exchange, freed by the caller with the exchange; aligned for any type. NULL when
 * a limit is reached. Never called for a head of up to 16 fields that arrives in one piece. */
typedef void *(*mr_h1_alloc_fn)(void *ctx, size_t size);

/* What the fields say about framing and reuse; bits of mr_h1_section.seen. */
enum mr_h1_seen {
    MR_H1_SEEN_LENGTH = 1 << 0,
    MR_H1_SEEN_CODING = 1 << 1, /* Transfer-Encoding: chunked */
    MR_H1_SEEN_CLOSE = 1 << 2,
    MR_H1_SEEN_KEEP_ALIVE = 1 << 3,
    MR_H1_SEEN_UPGRADE = 1 << 4, /* Connection: upgrade */
};

enum { MR_H1_HEADERS_INLINE = 16 };

struct mr_h1_section {
    moor_header *list; /* inline_list until it is full */
    uint32_t count, cap, count_max;
    uint32_t seen;
    uint64_t length;       /* Content-Length; meaningful with MR_H1_SEEN_LENGTH */
    uint32_t keep_alive_s; /* Keep-Alive: timeout=N; 0 = the peer did not tell */
    enum mr_h1_fault fault;
    mr_h1_alloc_fn alloc;
    void *alloc_ctx;
    moor_header inline_list[MR_H1_HEADERS_INLINE];
};

enum mr_h1_parsed { MR_H1_PARSED_PART, MR_H1_PARSED_ALL, MR_H1_PARSED_BAD };

/* Forgets the fields, keeps the memory. */
static inline void mr_h1_section_reset(struct mr_h1_section *s)
{
    s->count = 0;
    s->seen = 0;
    s->keep_alive_s = 0;
}

static inline void mr_h1_section_init(struct mr_h1_section *s, uint32_t count_max,
                                      mr_h1_alloc_fn alloc, void *alloc_ctx)
{
    s->list = s->inline_list;
    s->cap = count_max < MR_H1_HEADERS_INLINE ? count_max : MR_H1_HEADERS_INLINE;
    s->count_max = count_max;
    s->fault = MR_H1_FAULT_NONE;
    s->alloc = alloc;
    s->alloc_ctx = alloc_ctx;
    mr_h1_section_reset(s);
}

/* Parses field lines from data[*at] on. A line is judged only once its LF is there, so the answer
 * does not depend on how the bytes were cut. *at moves past what was judged: to the start of the
 * incomplete line (PART) or past the empty line (ALL). On BAD s->fault says why. */
enum mr_h1_parsed mr_h1_section_parse(struct mr_h1_section *s, const uint8_t *data, size_t len,
                                      size_t *at);

/* The parsed bytes moved: makes every span follow. */
void mr_h1_section_rebase(struct mr_h1_section *s, const uint8_t *from, const uint8_t *to);

/* RFC 9110 6.5.1: drops what a trailer may not say. Framing fields are a fault instead, since a
 * reader that believed them would cut the stream elsewhere. */
enum mr_h1_fault mr_h1_section_keep_trailers(struct mr_h1_section *s);

/* The MR_H1_SEEN bits of one Connection value (a comma list of tokens). */
uint32_t mr_h1_connection_bits(moor_span value);
/* Content-Length: digits only, at most INT64_MAX. False if it is anything else. */
bool mr_h1_length_parse(moor_span value, uint64_t *out_length);
/* Compares with a lower-case name, without case. */
bool mr_h1_is_name(moor_span name, const char *lower);

#endif
