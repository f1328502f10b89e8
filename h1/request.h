/*
 * The HTTP/1.1 request writer: checks that nothing can be injected, then writes the head into the
 * caller's buffer. Plan once, allocate plan.size, write.
 */
#ifndef MR_H1_REQUEST_H
#define MR_H1_REQUEST_H

#include <mooring/error.h>
#include <mooring/types.h>

#include "h1/chunk.h"
#include "h1/field.h"

enum mr_h1_framing {
    MR_H1_SEND_NONE,   /* no body; POST, PUT and PATCH still say Content-Length: 0, RFC 9110 8.6 */
    MR_H1_SEND_LENGTH, /* content_length bytes follow */
    MR_H1_SEND_CHUNKED /* chunks follow, see h1/chunk.h */
};

/* All borrowed. A header the user names himself replaces the one we would write. */
struct mr_h1_request {
    moor_span method;
    moor_span target;     /* path and query, percent-encoded; authority for CONNECT */
    moor_span host;       /* host[:port], IPv6 in brackets */
    moor_span user_agent; /* base NULL: none */
    const moor_header *headers;
    size_t header_count;
    enum mr_h1_framing framing;
    uint64_t content_length; /* MR_H1_SEND_LENGTH */
    bool expect_continue;    /* wait for 100 before the body */
    bool close;              /* ask the server to close after the reply */
};

#define MR_H1_REFUSALS(X)                                                                          \
    X(NONE, "nothing refused")                                                                     \
    X(METHOD, "method is empty or not a token")                                                    \
    X(TARGET, "request target is empty or holds a character that must be percent-encoded")         \
    X(HOST, "host is empty or holds a character not allowed in an authority")                      \
    X(USER_AGENT, "control character in the user agent")                                           \
    X(NAME, "header name is empty or not a token")                                                 \
    X(VALUE, "control character in a header value")                                                \
    X(HOST_TWICE, "more than one Host header")                                                     \
    X(LENGTH, "Content-Length header is not a number")                                             \
    X(LENGTH_CONFLICT, "Content-Length header contradicts the body")                               \
    X(CODING, "Transfer-Encoding header contradicts the body")                                     \
    X(TOO_BIG, "request head does not fit the address space")

enum mr_h1_refusal {
#define X(name, text) MR_H1_REFUSE_##name,
    MR_H1_REFUSALS(X)
#undef X
        MR_H1_REFUSAL_COUNT
};

struct mr_h1_plan {
    size_t size;          /* bytes of the head */
    bool close;           /* Connection: close will be sent: the conn is not to be reused */
    bool upgrade;         /* Connection: upgrade will be sent: parse with MR_H1_FOR_UPGRADE */
    bool expect_continue; /* Expect: 100-continue will be sent */
    bool adds_host, adds_user_agent, adds_length, adds_coding, adds_expect, adds_close;
    uint64_t length; /* written if adds_length */
    enum mr_h1_refusal refusal;
    size_t bad_header; /* index of the header refused, else header_count */
    const char *what;  /* static text, never NULL on failure */
};

/* MOOR_OK and a plan, or MOOR_EINVAL with refusal, bad_header and what. */
MOOR_NODISCARD moor_err mr_h1_request_plan(const struct mr_h1_request *q, struct mr_h1_plan *plan);
/* Writes exactly plan->size bytes. The request must not have changed since the plan. */
void mr_h1_request_write(const struct mr_h1_request *q, const struct mr_h1_plan *plan,
                         uint8_t *buf);

const char *mr_h1_refusal_text(enum mr_h1_refusal r);

#endif
