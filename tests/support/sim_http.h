/*
 * The simulated HTTP/1.1 server. It understands requests for /r/<id>/<length>, checks that every byte
 * of them is what the client was asked to send, remembers which it has acted on, and answers with a
 * body that only this id has - or misbehaves, as the world's faults say.
 */
#ifndef TESTS_SUPPORT_SIM_HTTP_H
#define TESTS_SUPPORT_SIM_HTTP_H

#include "tests/support/sim_net.h"

enum { SIM_REQUESTS_MAX = 512 };

struct sim_request {
    uint32_t acted;     /* complete heads a living server has read */
    uint32_t answered;  /* whole answers it sent */
    bool is_idempotent; /* set by the client: may be acted on more than once */
    uint32_t body_len;  /* of the request */
    int64_t delay_ns;   /* until it is answered; MR_NEVER: never. Set by the client */
    uint32_t wire;      /* that it last came over */
    uint64_t order;     /* of its coming: 1 = the server's first */
};

struct sim_http {
    struct sim *w;
    struct sim_request requests[SIM_REQUESTS_MAX];
    bool is_tainted; /* it has sent a response nobody asked for */
    bool is_tame;    /* no misbehaviour of its own */
    bool is_plain;   /* every answer has a Content-Length */
    uint64_t count;
};

/* The host's ctx is the sim_http. */
extern const struct sim_service sim_http_service;

/* Byte i of the response to, or of the request's own body of, `id`. */
static inline uint8_t sim_http_byte(uint32_t id, bool is_request, size_t i)
{
    return (uint8_t)(id * 131u + (is_request ? 7u : 0u) + (uint32_t)i * 31u + (uint32_t)(i >> 8));
}

#endif
