/*
 * The chunked transfer coding, RFC 9112 7.1: its reader and its writer.
 */
#ifndef MR_H1_CHUNK_H
#define MR_H1_CHUNK_H

#include <mooring/types.h>

#include "h1/fault.h"

struct mr_h1_chunked {
    uint64_t left;   /* data bytes of this chunk still to come */
    uint64_t total;  /* data bytes announced so far */
    uint32_t unpaid; /* extension bytes not yet outweighed by data, see chunk_ext_bytes_max */
    uint8_t state;
    uint8_t digits;
    enum mr_h1_fault fault;
};

enum mr_h1_chunk_step {
    MR_H1_CHUNK_MORE, /* all input consumed */
    MR_H1_CHUNK_DATA, /* *body holds data */
    MR_H1_CHUNK_LAST, /* the zero chunk's line was consumed; the trailers follow */
    MR_H1_CHUNK_BAD   /* see fault */
};

void mr_h1_chunked_init(struct mr_h1_chunked *c);
enum mr_h1_chunk_step mr_h1_chunked_next(struct mr_h1_chunked *c, uint32_t ext_bytes_max,
                                         uint64_t body_bytes_max, moor_span in, size_t *consumed,
                                         moor_span *body);

/* The line before a chunk's data: writes at most 18 bytes, returns how many. Nothing for size 0,
 * because a zero chunk would end the body. */
size_t mr_h1_chunk_head(char out[20], uint64_t size);
/* What follows a chunk's data, and what ends a body without trailers. */
#define MR_H1_CHUNK_END  "\r\n"
#define MR_H1_CHUNKS_END "0\r\n\r\n"

#endif
