/*
 * Reads a request's body piece by piece, never more than the library asks for. Runs inside body_cb
 * on the shard, so it must not sleep on a pipe: it says "later" and leaves the waiting to the loop.
 */
#include "source.h"

#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE_CAP = 64 * 1024 };

bool source_open(struct source *s, const char *argument)
{
    *s = (struct source){.fd = -1};
    if (*argument != '@') {
        s->text = (moor_span){argument, strlen(argument)};
        return true;
    }
    s->path = argument + 1;
    const bool is_stdin = strcmp(s->path, "-") == 0;
    struct stat st;
    s->fd =
        is_stdin ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(s->path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st) < 0) {
        cli_complain("cannot read %s: %s", s->path, strerror(errno));
        source_close(s);
        return false;
    }
    s->length = MOOR_LENGTH_UNKNOWN;
    if (S_ISREG(st.st_mode)) {
        /* Standard input may have been read from already. */
        const off_t at = is_stdin ? lseek(s->fd, 0, SEEK_CUR) : 0;
        s->length = at < st.st_size ? (uint64_t)(st.st_size - (at > 0 ? at : 0)) : 0;
    }
    s->left = s->length;
    return true;
}

static void free_piece(void *bytes)
{
    free(bytes);
}

static moor_body_more give_up(struct source *s, char *bytes, int number)
{
    free(bytes);
    s->failed_errno = number;
    s->was_short = number == 0;
    return MOOR_BODY_ABORT;
}

moor_body_more source_next(struct source *s, moor_piece *out)
{
    const bool is_file = s->length != MOOR_LENGTH_UNKNOWN;
    *out = (moor_piece){0};
    s->is_awaited = false;
    if (is_file && s->left == 0)
        return MOOR_BODY_LAST;
    struct pollfd readable = {.fd = s->fd, .events = POLLIN};
    if (!is_file && poll(&readable, 1, 0) == 0) {
        s->is_awaited = true;
        return MOOR_BODY_LATER;
    }
    char *bytes = malloc(PIECE_CAP);
    if (!bytes)
        return give_up(s, NULL, ENOMEM);
    const size_t wanted = is_file && s->left < PIECE_CAP ? (size_t)s->left : PIECE_CAP;
    ssize_t got;
    do {
        got = read(s->fd, bytes, wanted);
    } while (got < 0 && errno == EINTR);
    if (got < 0 || (got == 0 && is_file))
        return give_up(s, bytes, got < 0 ? errno : 0);
    if (got == 0) {
        free(bytes);
        return MOOR_BODY_LAST;
    }
    *out = (moor_piece){{bytes, (size_t)got}, free_piece, bytes};
    if (is_file)
        s->left -= (uint64_t)got;
    return is_file && s->left == 0 ? MOOR_BODY_LAST : MOOR_BODY_MORE;
}

void source_close(struct source *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}
