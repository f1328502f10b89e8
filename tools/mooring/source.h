/*
 * A request's body as the command line names it: text, a file, or standard input as it comes.
 * Owner thread: the shard the request runs on.
 */
#ifndef TOOL_SOURCE_H
#define TOOL_SOURCE_H

#include <mooring/mooring.h>

struct source {
    moor_span text;   /* a body given literally; fd is -1 then */
    const char *path; /* of what is read, for complaints */
    int fd;           /* -1 = none */
    uint64_t length;  /* MOOR_LENGTH_UNKNOWN for what is no file */
    uint64_t left;    /* of length */
    bool is_awaited;  /* nothing to read yet: poll fd, then resume */
    int failed_errno; /* why reading ended early; 0 = it did not */
    bool was_short;   /* the file ended before its length */
};

/* argument: DATA, @FILE or @- . Complains; then nothing is open. */
bool source_open(struct source *s, const char *argument);
/* The next piece, for moor_http_request.body_cb with `user` a struct source; never sleeps. */
moor_body_more source_next(struct source *s, moor_piece *out);
void source_close(struct source *s);

#endif
