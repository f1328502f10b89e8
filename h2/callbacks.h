/*
 * What nghttp2 calls, turned into the session's events. Between session.c and callbacks.c only.
 */
#ifndef MR_H2_CALLBACKS_H
#define MR_H2_CALLBACKS_H

#include "h2/session.h"

#include <nghttp2/nghttp2.h>

void mr_h2_set_callbacks(nghttp2_session_callbacks *c);

/* A PING of ours came back; a sample of the path begins. */
void mr_h2_pong(struct mr_h2_session *h, const uint8_t opaque[8]);
void mr_h2_measure(struct mr_h2_session *h);
/* Without it the peer would wait for what we believe to have said, or have a hole in what it reads. */
void mr_h2_must(struct mr_h2_session *h, int ng_err);
/* The connection ends: the caller hears it from mr_h2_input. */
void mr_h2_refuse(struct mr_h2_session *h, const char *what);
/* Off the schedule; the session no longer knows it, nor it the session. */
void mr_h2_stream_forget(struct mr_h2_stream *s);

#endif
