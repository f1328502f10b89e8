/* HTTP/2 on a conn: a session of nghttp2 between the conn's buffers and its streams. */
#ifndef ORIGIN_H2_H
#define ORIGIN_H2_H

#include "h2_stream.h"

struct nghttp2_session;
struct protocol;

enum {
    H2_STREAMS_MAX = 128,             /* of a conn, at a time */
    H2_STREAM_WINDOW = 1024 * 1024,   /* what a peer may send of a body before it was used */
    H2_CONN_WINDOW = 4 * 1024 * 1024, /* the same of all bodies of a conn */
    H2_ECHO_MAX = 2 * ECHO_MAX,       /* kept for the /echo of all streams of a conn */
};

struct h2 {
    struct nghttp2_session *session;
    struct h2_stream_list streams;
    struct h2_stream_list waiting;
    unsigned stream_count;
    int32_t last_id; /* the highest of the streams begun */
    uint64_t requests;
    size_t echo_bytes;
    uint64_t budget; /* bytes this turn may still move */
    uint64_t idle_since_ms;
    bool is_early;  /* what is being taken in was TLS early data */
    bool is_ending; /* GOAWAY is submitted: later streams are not served */
    bool is_broken; /* the session refused its input and gets no more */
    struct h2_head head;
};

/* Chosen by ALPN, or begun by the client's preface on a plain conn. */
extern const struct protocol h2_protocol;

/* Before any conn, after the last. */
bool h2_init(void);
void h2_exit(void);

enum h2_preface { H2_PREFACE_NONE, H2_PREFACE_PART, H2_PREFACE_WHOLE };

/* Does a conn's first input begin with RFC 9113's preface? PART: it may, once there is more. */
enum h2_preface h2_find_preface(struct span input);
/* The conn speaks h2 from here on; its view begins with the preface. May close it. */
void h2_take_over(struct conn *c);

/* Streams after the last one begun are not served; the conn ends with the last that is. */
void h2_go_away(struct conn *c);

#endif
