/*
 * A small HTTP/2 server, clear text with prior knowledge: nghttp2's session on blocking sockets, a thread per
 * conn (peer.h), none of the library's code.
 *
 *   GET /bytes/N     N bytes                       POST /echo   the body back, once it is whole
 *   GET /trailers/N  the same, and a trailer       GET /never   no answer
 */
#ifndef TESTS_SUPPORT_H2_SERVER_H
#define TESTS_SUPPORT_H2_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct h2_server_options {
    uint32_t streams_max;    /* 0 = 100 */
    uint32_t window;         /* bytes of a request's body at first; 0 = 65535 */
    bool keeps_shut;         /* ... and no more */
    unsigned requests_max;   /* of a conn, then GOAWAY; 0 = any */
    unsigned refuses;        /* the first so many requests, by REFUSED_STREAM */
    bool is_deaf_to_pings;   /* they are read, and that is all */
    uint8_t (*body)(size_t); /* byte i of what it makes */
};

struct h2_server;

struct h2_server *h2_server_start(const struct h2_server_options *o);
void h2_server_stop(struct h2_server *s);
const char *h2_server_url(const struct h2_server *s); /* "h2c://127.0.0.1:PORT" */
unsigned h2_server_conns(struct h2_server *s);        /* accepted */
unsigned h2_server_requests(struct h2_server *s);     /* heads, on all conns */
unsigned h2_server_pings(struct h2_server *s);        /* received */
unsigned h2_server_resets(struct h2_server *s);       /* RST_STREAM received */

#endif
