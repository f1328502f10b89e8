/* A request's head and the decoder of its body. No I/O; what it says holds for h1 and h2. */
#ifndef ORIGIN_REQUEST_H
#define ORIGIN_REQUEST_H

#include "text.h"

enum { HEAD_MAX = 64 * 1024 };

/* All spans are borrowed from the input: valid until it is consumed. */
struct request {
    struct span method;
    struct span path;
    struct span query;  /* without the '?' */
    struct span fields; /* the header lines as received, each with its CRLF */
    uint8_t minor_version;
    bool keep_alive;
    bool expects_continue;
    bool has_host;
    bool has_length;
    bool is_chunked; /* on h2: there is a body, and its length is not told */
    bool is_early;   /* its first byte was TLS early data; the parser does not know */
    uint64_t length;
};

/* Parses a head that ends with its empty line. Returns 0 or the status that refuses it. */
int request_parse(struct span head, struct request *out_request);

/* For those who take a head apart themselves; 0 or the status that refuses it. The target is the
 * whole one of h1 or the :path of h2. */
int request_set_target(struct request *q, struct span target);
int request_take_field(struct request *q, struct span name, struct span value);

/* Value of a numeric query parameter; `fallback` if absent, false if malformed or above max. */
bool request_number(const struct request *q, const char *name, uint64_t fallback, uint64_t max,
                    uint64_t *out_value);

/* Where the body of a request stands. */
struct body_in {
    enum { BODY_FIXED, BODY_CHUNK_SIZE, BODY_CHUNK_DATA, BODY_CHUNK_END, BODY_TRAILER } state;
    uint64_t left; /* of the body or of the chunk */
};

void body_begin(struct body_in *b, const struct request *q);

enum body_step { BODY_DONE, BODY_DATA, BODY_MORE, BODY_BAD };

/* Eats from `in`; BODY_DATA gives a piece of the body, BODY_MORE asks for more input. */
enum body_step body_next(struct body_in *b, struct span *in, struct span *out_data);

#endif
