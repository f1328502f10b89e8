/*
 * The HTTP/1.1 reply parser: bytes in, events out. No I/O, no clock, one reply per init.
 *
 *     mr_h1_reply_init(&r, &limits, MR_H1_FOR_HEAD, alloc, arena);
 *     do {
 *         ev = mr_h1_reply_next(&r, in, len, &used, &out);
 *         in += used, len -= used;
 *     } while (ev is none of MR_H1_NEED_MORE, MR_H1_DONE, MR_H1_ERROR);
 *
 * Call until one of those three comes, even when len has become 0: a reply without a body gives
 * HEAD and then DONE. The events do not depend on how the input is cut, except that one piece of
 * body may come as several.
 */
#ifndef MR_H1_REPLY_H
#define MR_H1_REPLY_H

#include <mooring/types.h>

#include "h1/chunk.h"
#include "h1/fault.h"
#include "h1/field.h"

#define MR_H1_UNLIMITED UINT64_MAX
#define MR_H1_NO_LENGTH UINT64_MAX

/* Each bounds what a hostile server can make us hold or do. */
struct mr_h1_limits {
    uint32_t head_bytes_max;      /* status line to empty line, each 1xx on its own: memory */
    uint32_t header_count_max;    /* fields of one head, or of the trailers: memory */
    uint32_t trailer_bytes_max;   /* trailers with their empty line: memory */
    uint32_t chunk_ext_bytes_max; /* extension bytes beyond the data seen: CPU for no data */
    uint32_t interim_count_max;   /* 1xx replies before the final one: an endless exchange */
    uint64_t body_bytes_max;      /* decoded body; MR_H1_UNLIMITED by default */
};
extern const struct mr_h1_limits mr_h1_limits_default;

/* What was asked decides how the reply is framed. */
enum mr_h1_asked {
    MR_H1_FOR_ANY = 0,
    MR_H1_FOR_HEAD = 1 << 0,    /* HEAD: never a body */
    MR_H1_FOR_CONNECT = 1 << 1, /* CONNECT: 2xx turns the conn into a tunnel */
    MR_H1_FOR_UPGRADE = 1 << 2  /* Connection: upgrade was sent: 101 is welcome */
};

enum mr_h1_body {
    MR_H1_BODY_NONE,
    MR_H1_BODY_LENGTH,
    MR_H1_BODY_CHUNKED,
    MR_H1_BODY_EOF /* RFC 9112 6.3: a reply without length ends at close */
};

struct mr_h1_head {
    uint16_t status; /* 100 to 999; above 599 to be treated as 5xx, RFC 9110 15 */
    uint8_t minor;   /* HTTP/1.minor */
    enum mr_h1_body body;
    bool upgraded;           /* 101, or 2xx to CONNECT: what follows DONE is another protocol */
    bool keep_alive;         /* the conn may be reused after DONE */
    uint32_t keep_alive_s;   /* Keep-Alive: timeout=N; 0 = not told */
    uint64_t content_length; /* as announced, also for HEAD and 304; MR_H1_NO_LENGTH */
    moor_span reason;        /* may be empty */
    const moor_header *headers;
    size_t header_count;
};

enum mr_h1_event {
    MR_H1_NEED_MORE, /* everything consumed, nothing to tell */
    MR_H1_HEAD_1XX,  /* r->head is an interim reply, another head follows */
    MR_H1_HEAD,      /* r->head is the final one */
    MR_H1_BODY,      /* out->body: at least one byte, a span of the input */
    MR_H1_TRAILERS,  /* r->head.headers now holds the trailers; only if there are any */
    MR_H1_DONE,      /* the reply is over; input not consumed is not ours */
    MR_H1_ERROR      /* out->err, out->what; the conn must be closed; comes again if asked */
};

struct mr_h1_out {
    moor_span body;         /* MR_H1_BODY */
    moor_err err;           /* MR_H1_ERROR */
    enum mr_h1_fault fault; /* MR_H1_ERROR */
    const char *what;       /* MR_H1_ERROR: static text */
};

/* Storage of the caller, about 1 KB; needed only while an exchange runs. Nothing to fini. */
struct mr_h1_reply {
    struct mr_h1_head head; /* read it after HEAD_1XX, HEAD, TRAILERS and DONE */

    const struct mr_h1_limits *limits;
    uint64_t left; /* body bytes still to come (LENGTH) or still allowed (EOF) */
    size_t at;     /* bytes of the section already judged */
    uint8_t *side; /* a section cut by the input's end is assembled here */
    size_t side_len, side_cap;
    uint32_t interim_count;
    uint8_t asked;
    uint8_t state;
    bool status_done; /* the status line is behind r->at */
    bool touched;     /* a byte was seen */
    enum mr_h1_fault fault;
    struct mr_h1_chunked chunked;
    struct mr_h1_section section;
};

/* limits is borrowed until the reply is over; NULL means mr_h1_limits_default. asked is a set of
 * enum mr_h1_asked. */
void mr_h1_reply_init(struct mr_h1_reply *r, const struct mr_h1_limits *limits, unsigned asked,
                      mr_h1_alloc_fn alloc, void *alloc_ctx);

/* The next event of in[0, len). *consumed bytes are done with; the spans of r->head and out->body
 * stay valid while the caller keeps the input, at most until the next call. A head that was cut is
 * consumed into our own memory. in may be NULL if len is 0. */
enum mr_h1_event mr_h1_reply_next(struct mr_h1_reply *r, const uint8_t *in, size_t len,
                                  size_t *consumed, struct mr_h1_out *out);

/* The peer closed: DONE if that ends the reply (or it was over), else ERROR. */
enum mr_h1_event mr_h1_reply_eof(struct mr_h1_reply *r, struct mr_h1_out *out);

/* No byte of a reply was seen: on a reused conn the request may never have been read. */
static inline bool mr_h1_reply_is_untouched(const struct mr_h1_reply *r)
{
    return !r->touched;
}

#endif
