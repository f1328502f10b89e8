/*
 * A message to a shard: storage its sender owns, so that posting cannot fail for lack of memory.
 */
#ifndef MR_BASE_MESSAGE_H
#define MR_BASE_MESSAGE_H

struct mr_message {
    struct mr_message *next;
    void (*run)(struct mr_message *m); /* on the shard; may free or post the message again */
};

#endif
