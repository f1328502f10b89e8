/*
 * Addresses one can connect to, and immutable, shared lists of them in the order to try.
 * A list may be kept, passed and dropped by any thread; building one is pure.
 */
#ifndef MR_CORE_ADDRS_H
#define MR_CORE_ADDRS_H

#include "alloc/heap.h"

#include <mooring/error.h>

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

struct mr_addr {
    socklen_t len;
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    };
};

/* A server may answer with hundreds of addresses; a list keeps the first ones. */
#define MR_ADDRS_MAX 64
/* Room for any address as text: a Unix path is the longest. */
#define MR_ADDR_TEXT_CAP 128

/* Never changes after it was made. */
struct mr_addrs {
    struct mr_heap *heap; /* shared: whoever drops the last reference frees */
    _Atomic(uint32_t) refs;
    uint32_t count;     /* 1..MR_ADDRS_MAX */
    int64_t expires_ns; /* when to ask again; MR_NEVER for what cannot change */
    struct mr_addr list[];
};

/* Copies `count` addresses (1..MR_ADDRS_MAX), puts them in order (see mr_addrs_order) and returns
 * one reference. heap is shared. NULL: no memory. */
struct mr_addrs *mr_addrs_create(struct mr_heap *heap, const struct mr_addr *list, uint32_t count,
                                 int64_t expires_ns);
/* One more reference; returns its argument. */
struct mr_addrs *mr_addrs_ref(struct mr_addrs *a);
/* NULL is fine. Any thread. */
void mr_addrs_unref(struct mr_addrs *a);

/* RFC 6724 precedence (loopback, IPv6, IPv4, tunnels, unique local), stable, so that the name
 * server's rotation survives; then families alternate (RFC 8305 4), beginning with the best
 * address's. */
void mr_addrs_order(struct mr_addr *list, uint32_t count);

/* An IPv4 or IPv6 literal, with or without [], with or without %scope (a number or an interface),
 * to an address with port 0. EINVAL: not a literal, so a name. No system call unless a scope names
 * an interface. */
MOOR_NODISCARD moor_err mr_addr_parse(const char *text, size_t len, struct mr_addr *out_);
/* A path, or an abstract name after '@'. EINVAL: empty or too long. */
MOOR_NODISCARD moor_err mr_addr_from_path(const char *path, size_t len, struct mr_addr *out_);
void mr_addr_from_ipv4(struct in_addr ip, struct mr_addr *out_);
void mr_addr_from_ipv6(const struct in6_addr *ip, struct mr_addr *out_);

/* Host byte order; nothing for Unix sockets, 0 from them. */
void mr_addr_set_port(struct mr_addr *a, uint16_t port);
uint16_t mr_addr_port(const struct mr_addr *a);
bool mr_addr_is_equal(const struct mr_addr *a, const struct mr_addr *b);
/* "192.0.2.1:80", "[2001:db8::1]:80", "/run/x.sock"; without a port where it is 0. Always
 * terminated. */
void mr_addr_text(const struct mr_addr *a, char buf[MR_ADDR_TEXT_CAP]);

#endif
