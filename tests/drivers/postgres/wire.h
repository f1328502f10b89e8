/*
 * The other side of PostgreSQL's protocol, as far as tests need it to be kept or broken.
 */
#ifndef TESTS_DRIVERS_POSTGRES_WIRE_H
#define TESTS_DRIVERS_POSTGRES_WIRE_H

#include "tests/support/peer.h"

#define WIRE_SSL_REQUEST 80877103u
#define WIRE_STARTUP     196608u

/* The code of a request without a type: SSL, GSS, cancel or startup; 0: the client has gone. */
uint32_t wire_request(struct peer_conn *c);
/* A message with a type, its body to c->head; 0: the client has gone. */
char wire_read(struct peer_conn *c);
bool wire_send(struct peer_conn *c, char type, const void *body, size_t len);
bool wire_parameter(struct peer_conn *c, const char *name, const char *value);
/* type 'E' or 'N'. */
bool wire_error(struct peer_conn *c, char type, const char *severity, const char *sqlstate,
                const char *text);
bool wire_notify(struct peer_conn *c, const char *channel, const char *payload);
/* 'I' idle, 'T' in a transaction, 'E' in one that failed. */
bool wire_ready(struct peer_conn *c, char status);
bool wire_complete(struct peer_conn *c, const char *tag, char status);
/* Refuses TLS, then lets anybody in. standby: "on", "off", or NULL = a server before 14. */
bool wire_login(struct peer_conn *c, const char *standby);
/* Both of the above but the end: all up to the ReadyForQuery. */
bool wire_welcome(struct peer_conn *c, const char *standby);

#endif
