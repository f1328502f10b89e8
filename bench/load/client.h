/*
 * What the load clients share: the job their command line gives, and the one line of JSON they end
 * with. All do the same job, so that a script can compare what it cost them. Of bench/load/run: GET
 * one resource over `conc` keep-alive conns, the next request of a conn as soon as its reply is
 * complete. Of bench/load/tls, besides: load_work. Of bench/load/h2: the same as one conn of `conc`
 * streams; of bench/load/stopped_reader, besides: `beside`.
 */
#ifndef BENCH_LOAD_CLIENT_H
#define BENCH_LOAD_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum load_work {
    LOAD_HANDSHAKES, /* conns of one request each, one after the other */
    LOAD_FLUSH,      /* `conc` requests in flight, and once a second all conns are replaced */
    LOAD_IDLE,       /* `conc` conns that served a request and then rest until stdin ends */
};

/* How to be a TLS client; texts are NULL where nothing was asked for. */
struct load_tls {
    const char *roots;       /* PEM file of whom to trust */
    const char *cert;        /* PEM file: our certificate, its intermediates, our key */
    const char *name;        /* SNI and verified name, instead of the address */
    const char *version_min; /* "1.2" or "1.3" */
    const char *version_max;
    bool is_resumed;       /* by tickets; else all handshakes are full ones */
    bool releases_buffers; /* OpenSSL only: SSL_MODE_RELEASE_BUFFERS */
};

struct load_job {
    const char *url;  /* http[s]://ADDRESS:PORT/PATH */
    char origin[64];  /* the URL up to its path */
    char address[48]; /* IPv4 */
    uint16_t port;
    const char *path;  /* into url */
    unsigned conc;     /* requests in flight */
    uint64_t requests; /* to be made; UINT64_MAX = as many as the time allows */
    double seconds;    /* for as long; a limit beside `requests` */
    bool is_plain;     /* the way the peer's manual shows, not its fastest */
    bool is_secure;    /* https */
    bool is_h2;        /* HTTP/2 and nothing else, `conc` streams on one conn */
    bool is_threaded;  /* on a thread of the library's, where the client has a choice */
    bool has_beside;   /* `beside` was given: only what comes after they stand is to be reported */
    unsigned beside;   /* requests on the same conn whose reader has stopped */
    enum load_work work;
    struct load_tls tls;
};

struct load_result {
    uint64_t requests; /* complete and as expected */
    uint64_t errors;
    uint64_t bytes; /* of bodies */
    double seconds;
    double cpu_before, user_before; /* CPU seconds that are not to count; see load_begin */
    double *walls;                  /* seconds of each handshake, TCP's included; NULL = none */
    uint64_t wall_count, wall_cap;
};

/*
 * Complains and returns false where the command line is not as `-h` shows it. -V prints `version`
 * and ends the program. Strings point into argv. Which options mean something is the program's.
 */
bool load_job_read(int argc, char **argv, const char *version, struct load_job *out_job);

/* What was used so far is start-up: only what follows is reported, and up to `walls` load_wall's. */
void load_begin(struct load_result *r, uint64_t walls);
void load_wall(struct load_result *r, double seconds);

/* Prints the object; `more` is further members, `,"name":"value"`, or "". Frees what the result
 * holds. Returns main's status. */
int load_report(struct load_result *r, const char *more);

/* Seconds since some moment in the past. */
double load_clock(void);

#endif
