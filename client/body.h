/*
 * The request body of an exchange: asked for piece by piece, one piece under way at a time.
 * Owner thread: the exchange's shard.
 */
#ifndef MR_CLIENT_BODY_H
#define MR_CLIENT_BODY_H

struct mr_exchange;

void mr_body_init(struct mr_exchange *x);
/* The head is queued: the body follows, or waits for 100 Continue. */
void mr_body_begin(struct mr_exchange *x);
/* The waiting is over. */
void mr_body_go(struct mr_exchange *x);
/* Everything queued has gone: room for the next piece. */
void mr_body_room(struct mr_exchange *x);
/* moor_body_resume. */
void mr_body_resumed(struct mr_exchange *x);
/* Its sent() runs: the bytes are the caller's again. */
void mr_body_let_go_of_piece(struct mr_exchange *x);
/* The exchange ends: a piece that never reached a conn is let go. */
void mr_body_let_go(struct mr_exchange *x);

#endif
