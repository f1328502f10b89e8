/*
 * Making a socket: what both kernel backends do the same way before they connect it.
 * Any thread; keeps nothing.
 */
#ifndef MR_CORE_IO_SOCKET_H
#define MR_CORE_IO_SOCKET_H

#include "core/io.h"

#define MR_SOCKET_PIECES_MAX 1024 /* IOV_MAX: more are refused by the kernel with EMSGSIZE */

/* A stream socket, close-on-exec, with our options set if the family has TCP. type_flags:
 * SOCK_NONBLOCK or 0; o may be NULL. Returns the descriptor or a negative errno. */
int mr_socket_open(int family, int type_flags, const struct mr_sock_options *o);

/* A TCP connection that is over altogether, not half closed by the peer. One system call. */
bool mr_socket_is_dead(int fd);

/* Bytes of the whole message. */
size_t mr_msg_len(const struct msghdr *m);
/* The piece that byte `*offset` of the message lies in; *offset becomes the offset within that
 * piece. msg_iovlen: everything was passed. Empty pieces are stepped over. */
size_t mr_msg_seek(const struct msghdr *m, size_t *offset);

#endif
