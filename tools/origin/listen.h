/* Listening sockets: one per thread on TCP, one for all on a Unix path. */
#ifndef ORIGIN_LISTEN_H
#define ORIGIN_LISTEN_H

#include <stdbool.h>

struct listen_set {
    int fds[64];
    unsigned count;
    bool is_unix;
    char name[160]; /* ADDR:PORT, [ADDR]:PORT or unix:/path */
    char path[108]; /* to be removed at the end; empty on TCP */
};

/* Says on stderr what failed. */
bool listen_open(struct listen_set *s, const char *bind_to, unsigned port, unsigned count);
void listen_close(struct listen_set *s);

#endif
