/*
 * A small HTTP/1.1 server behind any number of xor layers, for tests of the filter chain: threads
 * of its own, blocking sockets, none of the library's code.
 *
 *   GET /bytes/N   N bytes, Content-Length          POST /echo   the body back
 *   GET /eof/N     N bytes until the end            GET /chunked/N  in chunks, with a trailer
 */
#ifndef TESTS_SUPPORT_XOR_SERVER_H
#define TESTS_SUPPORT_XOR_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum xor_handshake {
    XOR_WHOLE,    /* answers at once */
    XOR_DRIBBLED, /* byte by byte */
    XOR_STALLED,  /* never answers */
    XOR_REFUSED,  /* says no */
    XOR_CUT       /* half an answer, then closes */
};

struct xor_server_options {
    unsigned layers;
    enum xor_handshake handshake;
    unsigned hit_layer;    /* which layer's handshake that is about */
    size_t record_max;     /* 0 = 16384 */
    bool cuts;             /* ends without end markers */
    bool is_eager;         /* the handshake's answer and a byte of data leave in one write */
    unsigned requests_max; /* per conn, then it ends; 0 = any */
};

struct xor_server;

struct xor_server *xor_server_start(const struct xor_server_options *o);
void xor_server_stop(struct xor_server *s);
/* "http://127.0.0.1:PORT" */
const char *xor_server_url(const struct xor_server *s);
/* Byte `i` of every body it makes. */
static inline uint8_t xor_body(size_t i)
{
    return (uint8_t)(i * 31 + (i >> 8) + 7);
}
/* Conns accepted; end markers received at the top layer and at the bottom one. */
unsigned xor_server_conns(const struct xor_server *s);
unsigned xor_server_ends(const struct xor_server *s, unsigned layer);
/* Conns that are still being served. */
unsigned xor_server_open(const struct xor_server *s);

#endif
