/*
 * A piece of a request body on an h1 conn. Owner thread: the exchange's shard.
 */
#ifndef MR_CLIENT_H1_BODY_H
#define MR_CLIENT_H1_BODY_H

#include <stdbool.h>

struct mr_exchange;

/* mr_speaker.send_piece. */
bool mr_h1_send_piece(struct mr_exchange *x);

#endif
