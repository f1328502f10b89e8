/*
 * One HTTP/2 connection, the client's side: bytes in, bytes out, events between. The frames are nghttp2's
 * (RFC 9113), the allocator and the bounds ours. No I/O, no clock: the time is an argument.
 * Owner thread: whoever drives it. Never frees a stream: streams are embedded in what the caller calls a
 * request, and are forgotten once closed() was called or mr_h2_stream_leave.
 */
#ifndef MR_H2_SESSION_H
#define MR_H2_SESSION_H

#include <mooring/http.h>

#include "h2/bdp.h"
#include "h2/guard.h"
#include "h2/memory.h"
#include "h2/message.h"
#include "h2/schedule.h"

struct nghttp2_session;
struct mr_h2_session;
struct mr_h2_stream;

/* Each bounds what a hostile server can make us hold. */
struct mr_h2_limits {
    uint32_t
        header_bytes_max; /* names and values of one section, 32 more for each (RFC 9113 6.5.2) */
    uint32_t header_count_max;  /* fields of one section */
    uint32_t interim_count_max; /* 1xx replies before the final one */
    uint32_t window_stream;     /* bytes, at first; never more than half of window_max */
    uint32_t window_conn;
    uint32_t
        window_max; /* the conn's grows to it; received and not returned beyond it: stays shut */
};

enum {
    MR_H2_INTERIM_COUNT_MAX = 16,
    /* Beyond window_max, which may be on its way to a stream we left: received in a row without a frame that is
     * for anybody. Unknown ones have no bucket of the guard's, as nghttp2 tells nothing of them. */
    MR_H2_IDLE_BYTES_MAX = 1048576,
    MR_H2_FIELDS_MAX = 512, /* of a request, pseudo-fields included */
    MR_H2_HEAD_BYTES_MAX =
        65536, /* of a request: names and values, 12 more for each field and once */
    /* CONTINUATION frames of a response's head beyond those its header_bytes_max can fill */
    MR_H2_CONTINUATIONS_MORE = 8,
    MR_H2_STREAMS_ASSUMED = 100 /* before SETTINGS; RFC 9113 6.5.2 recommends no fewer */
};

/* RFC 9113 7, those we say or tell apart. */
enum {
    MR_H2_PROTOCOL_ERROR = 1,
    MR_H2_FLOW_CONTROL_ERROR = 3,
    MR_H2_FRAME_SIZE_ERROR = 6,
    MR_H2_CANCEL = 8,
    MR_H2_ENHANCE_YOUR_CALM = 11
};

struct mr_h2_head {
    int status;
    const moor_header *headers; /* of the stream's memory; names in lower case, without ":status" */
    size_t header_count;
};

/* Why a stream is over. */
struct mr_h2_end {
    uint32_t code;    /* RFC 9113 7; NO_ERROR where the response is whole */
    moor_err err;     /* not OK: a bound of ours was passed */
    bool is_complete; /* the response is whole */
    bool
        is_unprocessed; /* the peer has done nothing with it: refused, above a GOAWAY's last id, or never sent */
    const char *what; /* static text */
};

/* What is said of ENHANCE_YOUR_CALM. */
extern const char mr_h2_calm[];

/* Called inside mr_h2_input and mr_h2_output; any call but mr_h2_session_destroy is allowed inside. */
struct mr_h2_events {
    void (*head)(struct mr_h2_stream *s, const struct mr_h2_head *h); /* 1xx and final */
    /* A span of the input. Whoever keeps it says mr_h2_stream_consumed once it is done with it. */
    void (*data)(struct mr_h2_stream *s, moor_span bytes);
    void (*trailers)(struct mr_h2_stream *s, const moor_header *h, size_t count);
    /* All of the piece has been taken. */
    void (*fed)(struct mr_h2_stream *s);
    void (*closed)(struct mr_h2_stream *s, const struct mr_h2_end *end); /* the last of it */
    void (*settings)(struct mr_h2_session *h, uint32_t streams_max);     /* the peer's */
    void (*going_away)(struct mr_h2_session *h, uint32_t code);
    void (*pong)(struct mr_h2_session *h);
    void *(*alloc)(struct mr_h2_stream *s,
                   size_t size); /* the stream's memory; NULL fails the stream */
};

struct mr_h2_stream {
    struct mr_h2_session *session; /* NULL: none, or over */
    int32_t id;
    struct mr_h2_turn turn; /* among those with something to send */
    moor_span piece;        /* of the body, not yet taken */
    bool is_last_piece;
    bool is_sent;      /* its HEADERS were written: the peer may act on it */
    bool is_ended;     /* END_STREAM was received */
    bool is_ignored;   /* refused by us: what follows is nobody's */
    bool is_body_over; /* END_STREAM was sent, or there is no body */
    uint32_t interim_count;
    struct mr_h2_message message;
    moor_header *headers; /* of the section being received */
    uint32_t header_count, header_cap;
    size_t header_bytes;
    char *text; /* room for the bytes of more */
    size_t text_left;
    moor_err err; /* why we gave it up, MOOR_OK if we did not */
    const char *what;
};

struct mr_h2_session {
    struct nghttp2_session *ng;
    const struct mr_h2_events *events;
    struct mr_h2_limits limits;
    struct mr_h2_memory memory; /* nghttp2's */
    struct mr_h2_guard guard;
    struct mr_h2_bdp bdp;
    struct mr_h2_schedule schedule;
    struct mr_h2_stream *chosen; /* whose body goes into the next DATA frame */
    struct mr_h2_stream *last;   /* of the last frame, and its id */
    int32_t last_id;
    moor_span unwritten; /* of the frame nghttp2 gave last */
    const char *fault;   /* the peer broke a rule or a bound: the connection ends */
    const char *invalid; /* of the last frame that broke a rule */
    moor_err failure;    /* ENOMEM: what had to be said cannot be. No output any more */
    int64_t now_ns;
    size_t unreturned; /* received, not consumed: over all streams */
    size_t withheld;   /* of the connection's window */
    uint64_t received;
    size_t idle_bytes;     /* received since the last frame nghttp2 told of */
    uint32_t unsent_count; /* streams whose HEADERS wait to be written */
    bool is_alive_asked;   /* mr_h2_ping is unanswered */
    bool is_going_away;
    bool is_goaway_due; /* ours, behind the last of those HEADERS */
};

/* Queues the preface, SETTINGS and the window. ENOMEM. */
MOOR_NODISCARD moor_err mr_h2_session_init(struct mr_h2_session *h, struct mr_heap *heap,
                                           const struct mr_h2_limits *limits,
                                           const struct mr_h2_events *events, int64_t now_ns);
/* Streams that are left are forgotten without a word. Never inside an event. */
void mr_h2_session_fini(struct mr_h2_session *h);

/* What was received. Not OK: the connection is to end once its output is written; *out_what is static. */
MOOR_NODISCARD moor_err mr_h2_input(struct mr_h2_session *h, const uint8_t *bytes, size_t len,
                                    int64_t now_ns, const char **out_what);
/* Writes at most cap bytes of frames, those of all streams; returns how many. 0: nothing to say. Look at
 * mr_h2_session.failure after it, and after any call below: the connection is to end at once. */
size_t mr_h2_output(struct mr_h2_session *h, uint8_t *to, size_t cap, int64_t now_ns);
bool mr_h2_wants_output(const struct mr_h2_session *h);
/* The peer or we have ended it, and everything is written. */
bool mr_h2_is_over(const struct mr_h2_session *h);
/* Stream ids are used up, or it is about to end: no mr_h2_submit from now on. */
bool mr_h2_is_exhausted(const struct mr_h2_session *h);

/* A new request on a zeroed stream. Fields in the order of RFC 9113 8.3: pseudo-fields first, names in lower
 * case; what they point to stays until is_sent, closed() or mr_h2_stream_leave. ENOMEM; ETOOBIG: beyond
 * MR_H2_FIELDS_MAX or MR_H2_HEAD_BYTES_MAX; ECLOSED: no more on this connection. */
MOOR_NODISCARD moor_err mr_h2_submit(struct mr_h2_session *h, struct mr_h2_stream *s,
                                     const moor_header *fields, size_t count, bool has_body,
                                     uint32_t urgency, bool is_incremental);
/* The next piece of the body; borrowed until fed(), closed() or mr_h2_stream_leave. One at a time. */
void mr_h2_stream_feed(struct mr_h2_stream *s, moor_span piece, bool is_last);
/* The peer's windows let nothing more of it through now. */
bool mr_h2_is_shut(const struct mr_h2_stream *s);
/* Another place among those that send, and PRIORITY_UPDATE if the peer heeds it. Nothing once it is over. */
void mr_h2_prioritize(struct mr_h2_session *h, struct mr_h2_stream *s, uint32_t urgency,
                      bool is_incremental);
/* Bytes of data() are done with: the peer may send as many more. Also after the stream is over. */
void mr_h2_consumed(struct mr_h2_session *h, struct mr_h2_stream *s, size_t len);
/* The caller gives the stream up: RST_STREAM if it is open, and no event of it comes any more. */
void mr_h2_stream_leave(struct mr_h2_stream *s, uint32_t code);

/* Asks for a sign of life; pong() or mr_h2_session.is_alive_asked tell. */
void mr_h2_ping(struct mr_h2_session *h);
/* GOAWAY: nothing new comes from us, what was submitted before goes on. */
void mr_h2_go_away(struct mr_h2_session *h);

#endif
