/*
 * Whether a response is well-formed (RFC 9113 8): what its fields may be and in which order, and that its body is as
 * long as it says. Pure; owner thread: the stream's. Holds nothing of what it was shown.
 * nghttp2 does this too, a byte at a time and without a word of what is wrong; what is wrong is static text here.
 */
#ifndef MR_H2_MESSAGE_H
#define MR_H2_MESSAGE_H

#include <mooring/error.h>

#include <stdbool.h>
#include <stdint.h>

struct mr_h2_message {
    uint64_t length;   /* of the body, meaningful with has_length */
    uint64_t received; /* of it */
    int status;        /* of the section that is being received */
    bool is_for_head;  /* the request was HEAD: no body, whatever its length says */
    bool has_status;   /* in this section */
    bool has_regular;  /* in this section: no pseudo-field any more */
    bool has_length;
    bool is_final; /* the response's head came whole: what comes is its body, then trailers */
};

/* Each returns NULL, or what is wrong. */

/* A section of fields begins: of a 1xx or the final response, or trailers. */
void mr_h2_message_begin(struct mr_h2_message *m);
/* Its name begins with ':'. */
const char *mr_h2_message_pseudo(struct mr_h2_message *m, moor_span name, moor_span value);
/* Any other. MR_SCAN_PAD bytes behind name and value are read. */
const char *mr_h2_message_field(struct mr_h2_message *m, moor_span name, moor_span value);
/* The section is over; is_end: with END_STREAM. */
const char *mr_h2_message_section(struct mr_h2_message *m, bool is_end);
const char *mr_h2_message_data(struct mr_h2_message *m, size_t len);
/* END_STREAM. */
const char *mr_h2_message_end(const struct mr_h2_message *m);

#endif
