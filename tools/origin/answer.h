/* What a route wants answered, said without saying how HTTP/1 or HTTP/2 frames it. */
#ifndef ORIGIN_ANSWER_H
#define ORIGIN_ANSWER_H

#include "request.h"

struct conn;
struct misdeed;

enum answer_body {
    ANSWER_TEXT,    /* answer.text */
    ANSWER_PATTERN, /* answer.length bytes of the pattern */
    ANSWER_ECHO,    /* the request's body */
    ANSWER_VERDICT, /* JSON: how the request's body compared with the pattern */
    ANSWER_STATS,   /* JSON: this server's counters, as they stand when the answer is made */
    ANSWER_TLS,     /* what the conn's handshake agreed on */
};

enum { ECHO_MAX = 64 * 1024 * 1024, WAIT_MAX_MS = 3600 * 1000, METHOD_ECHO_MAX = 32 };

struct answer {
    int status;
    enum answer_body body;
    uint64_t length;
    bool hides_length; /* chunked, although the length is known */
    bool at_once;      /* before the request's body is read; the conn ends with it */
    bool must_close;
    uint64_t piece; /* 0 = as large as possible */
    uint32_t interval_ms;
    uint32_t delay_ms;
    char method[METHOD_ECHO_MAX]; /* for X-Method; empty if not wanted */
    size_t method_len;
    const struct misdeed *misdeed; /* NULL for a good answer */
    uint64_t after;                /* arguments of the misdeed */
    uint64_t amount;
    bool notifies;        /* where the misdeed ends the conn: close_notify on TLS */
    struct buf text;      /* ANSWER_TEXT */
    struct buf echo;      /* the request's body, at most ECHO_MAX */
    uint64_t body_bytes;  /* of the request, so far */
    bool body_mismatches; /* the pattern */
};

/* Ready for the next request; keeps small buffers. */
void answer_clear(struct answer *a);
void answer_fini(struct answer *a);

/* Fills the answer from the request's head. */
void route(const struct request *q, struct answer *a);

/* A piece of the request's body; false if the answer turned into a refusal. */
bool answer_take_body(struct answer *a, struct span data);

/* The request is complete: makes the text of answers that depend on it. */
void answer_finish(struct answer *a, const struct conn *c);

void answer_refuse(struct answer *a, int status);

/* Of a finished answer. */
const char *answer_type(const struct answer *a);
bool answer_is_bodyless(const struct answer *a); /* RFC 9110 6.4.1: has no length either */
uint64_t answer_length(const struct answer *a);

const char *status_reason(int status);

/* --- misbehaviour on HTTP/1, see bad.c --- */
enum {
    MISDEED_AT_ONCE = 1,   /* does not wait for the request's body */
    MISDEED_TRUNCATES = 2, /* ends without close_notify, unless notify=1 says otherwise */
};

struct misdeed {
    const char *name;
    const char *usage;
    uint64_t default_after;
    uint64_t default_amount;
    unsigned flags;
    void (*write)(struct conn *c);
};

const struct misdeed *misdeed_find(struct span name);
const struct misdeed *misdeed_at(size_t index); /* NULL behind the last */

#endif
