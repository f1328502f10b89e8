/* HTTP/1.x on a conn: requests in, scripts out, one at a time and in order. */
#ifndef ORIGIN_H1_H
#define ORIGIN_H1_H

#include "answer.h"
#include "request.h"
#include "script.h"

struct conn;
struct protocol;

enum h1_phase {
    H1_HEAD, /* waiting for a request, or in the middle of its head */
    H1_BODY, /* taking in the request's body */
    H1_PLAY, /* the answer is on its way */
};

struct h1 {
    enum h1_phase phase;
    bool must_close; /* after this answer */
    bool is_head_request;
    bool is_waiting; /* the script waits for its timer */
    bool has_idle_timer;
    bool is_early; /* the request's first byte was TLS early data */
    uint8_t minor_version;
    uint64_t requests;
    uint64_t idle_since_ms;
    size_t head_scanned; /* bytes of the view known to hold no end of head */
    struct body_in body;
    struct answer answer;
    struct script script;
};

extern const struct protocol h1_protocol;

/* Turns the answer into the script of a well-behaved server. */
void h1_write_answer(struct conn *c);

#endif
