/*
 * The test server mooring-origin as a child process: ends with the test whatever happens to it.
 */
#ifndef TESTS_SUPPORT_ORIGIN_PROCESS_H
#define TESTS_SUPPORT_ORIGIN_PROCESS_H

#include <sys/types.h>

struct origin_process {
    pid_t pid;
    int port;
    char url[64]; /* "http://127.0.0.1:PORT", or https */
};

/* Starts one on a free port and reads where it listens from its first line. Fails the test if it
 * cannot. */
void origin_start(struct origin_process *o);
/* The same with flags of its own, NULL at the end: at most 16. `address` is what url says. */
void origin_start_with(struct origin_process *o, const char *address, const char *const flags[]);
void origin_stop(struct origin_process *o);

#endif
