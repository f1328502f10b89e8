/* What the command line asks for. */
#ifndef ORIGIN_OPTIONS_H
#define ORIGIN_OPTIONS_H

#include <stdint.h>

#include "tls.h"

enum { THREADS_MAX = 64 };

struct options {
    const char *bind;
    unsigned port;
    int echo_port; /* -1 = no raw echo listener */
    unsigned threads;
    uint32_t idle_timeout_ms;       /* 0 = never */
    uint64_t requests_per_conn_max; /* 0 = no limit */
    bool speaks_h2;
    struct tls_options tls;
};

/* Returns the exit code, or -1 to go on. Strings are borrowed from argv. */
int options_read(int argc, char **argv, struct options *out_options);

#endif
