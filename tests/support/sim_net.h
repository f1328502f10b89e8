/*
 * The simulated network: hosts that listen, and wires - connections with one stream of bytes each way,
 * in order, the end after the data. What is on its way arrives by events of the world.
 * A service is the server's program behind a host. One thread.
 */
#ifndef TESTS_SUPPORT_SIM_NET_H
#define TESTS_SUPPORT_SIM_NET_H

#include "core/io.h"
#include "tests/support/sim_world.h"

#include <stddef.h>

/* Beyond any real descriptor: what escapes to the kernel fails there. */
#define SIM_FD_BASE 1000000

/* One direction of a wire. */
struct sim_pipe {
    struct mr_list flying; /* sim_segment, in order */
    struct sim_event arrival;
    int64_t last_ns; /* arrival of the newest: nothing overtakes */
    uint8_t *bytes;  /* arrived and not read: [off, len) */
    size_t off, len, cap;
    bool has_ended;  /* the FIN has arrived */
    bool is_reset;   /* an RST has arrived */
    bool is_shut;    /* the sender sent FIN or RST: no data follows */
    bool is_aborted; /* the sender sent RST */
};

enum sim_answer { SIM_ACCEPTS, SIM_REFUSES, SIM_IGNORES, SIM_UNREACHABLE };

struct sim_host;

struct sim_wire {
    struct sim *w;
    uint32_t index;
    struct sim_host *host; /* NULL: closes a socket that never had a descriptor */
    struct sim_pipe up, down;

    /* Client end: the backend's, but for is_open. */
    bool is_open;         /* the descriptor exists */
    bool is_established;  /* connected, and not yet closed by the client */
    struct mr_sock *sock; /* whose it is now; NULL = detached */
    struct io_sim *io;
    struct mr_list link;   /* io->ready */
    struct mr_list hungry; /* io->starved */
    struct mr_list member; /* io->wires */
    struct sim_event connect, receive, stop, send, close, doom;
    unsigned due; /* SIM_DUE bits */
    bool is_starved;
    bool is_fed; /* was starved, and it is its turn */
    int connect_err;
    const struct msghdr *out;
    size_t out_done; /* taken by the kernel */
    int out_err;
    uint64_t out_sum; /* of all of the message, at the call: it must not change */

    /* Server end: the service's. */
    bool is_accepted;
    bool is_hung_up; /* the server closed: what still comes is answered by RST */
    void *peer;
    struct sim_event think;
};

struct sim_service {
    void (*opened)(struct sim_wire *x);
    void (*input)(struct sim_wire *x, const uint8_t *bytes, size_t len);
    void (*ended)(struct sim_wire *x, bool is_reset); /* the client's FIN or RST */
    void (*thinks)(struct sim_wire *x);               /* after sim_peer_think */
    void (*dropped)(struct sim_wire *x);              /* frees x->peer; may be NULL */
};

struct sim_host {
    struct mr_list link;
    struct sockaddr_storage address;
    socklen_t address_len;
    const struct sim_service *service;
    void *ctx; /* the service's */
    enum sim_answer answer;
    uint32_t sockets, sockets_max; /* client sockets now, most ever: dials and conns */
    uint32_t established, established_max;
    uint64_t accepted;
    int64_t established_ns; /* when the latest connection was made */
};

struct sim_host *sim_host_add(struct sim *w, const struct sockaddr *at, socklen_t len,
                              const struct sim_service *service, void *ctx);
/* 10.0.0.<last>:<port> */
struct sim_host *sim_host_add_ipv4(struct sim *w, unsigned last, uint16_t port,
                                   const struct sim_service *service, void *ctx);
struct sim_host *sim_host_find(struct sim *w, const struct sockaddr *at, socklen_t len);

/* ---- for services: the server's end ---- */
void sim_peer_write(struct sim_wire *x, const void *bytes, size_t len);
void sim_peer_finish(struct sim_wire *x); /* FIN; still reads */
void sim_peer_close(struct sim_wire *x);  /* FIN; whatever comes later is answered by an RST */
void sim_peer_reset(struct sim_wire *x);
void sim_peer_think(struct sim_wire *x, int64_t delay_ns);

/* ---- for the backend: the client's end ---- */
struct sim_wire *sim_wire_create(struct sim *w, struct sim_host *host);
struct sim_wire *sim_wire_of_fd(struct sim *w, int fd);
static inline int sim_wire_fd(const struct sim_wire *x)
{
    return SIM_FD_BASE + (int)x->index;
}
/* The server gets the connection. */
void sim_wire_accept(struct sim_wire *x);
void sim_wire_push_up(struct sim_wire *x, const void *bytes, size_t len);
void sim_wire_finish_up(struct sim_wire *x);
/* The descriptor is gone: FIN or, with bytes unread, RST to the server. */
void sim_wire_hang_up(struct sim_wire *x);
static inline size_t sim_wire_readable(const struct sim_wire *x)
{
    return x->down.len - x->down.off;
}
size_t sim_wire_read(struct sim_wire *x, void *to, size_t most);

void sim_net_fini(struct sim *w);

#endif
