/*
 * A redis-server of the test's own: a folder, a port of 127.0.0.1 and a socket, never as root, gone with the test.
 */
#ifndef TESTS_DRIVERS_REDIS_SERVER_H
#define TESTS_DRIVERS_REDIS_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

struct redis_server {
    char dir[64], socket[128];
    int port, tls_port;
    pid_t pid;
    const char *password; /* for server_ask */
    const char *args[32]; /* besides its own; the first NULL ends them */
};

/* No redis-server here: says so and ends the test with 77. */
void server_need(void);
/* args are kept for restarts. server_make makes folder and ports only. */
void server_make(struct redis_server *s);
void server_run(struct redis_server *s);
void server_start(struct redis_server *s, const char *const *args);
/* SIGKILL. server_run starts it again, on the same port. */
void server_kill(struct redis_server *s);
void server_signal(struct redis_server *s, int number);
/* A command on a connection of its own, by another client than the one that is tested: the reply as text. */
const char *server_ask(struct redis_server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Kills it and removes the folder. */
void server_stop(struct redis_server *s);

#endif
