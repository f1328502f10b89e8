/*
 * What the load clients share: the job their command line gives, and the one line of JSON they end
 * with. All do the same job, so that bench/load/run can compare what it cost them: GET one resource
 * over `conc` keep-alive conns, the next request of a conn as soon as its reply is complete.
 */
#ifndef BENCH_LOAD_CLIENT_H
#define BENCH_LOAD_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct load_job {
    const char *url;  /* http://ADDRESS:PORT/PATH */
    char origin[64];  /* the URL up to its path */
    char address[48]; /* IPv4 */
    uint16_t port;
    const char *path;  /* into url */
    unsigned conc;     /* requests in flight */
    uint64_t requests; /* to be made; UINT64_MAX = as many as the time allows */
    double seconds;    /* for as long; a limit beside `requests` */
    bool is_plain;     /* the way the peer's manual shows, not its fastest */
};

struct load_result {
    uint64_t requests; /* complete and as expected */
    uint64_t errors;
    double seconds;
};

/*
 * usage: PROGRAM [-c CONC] [-d SECONDS] [-n REQUESTS] [-p] URL; complains and returns false if it
 * is not so. -V prints `version` and ends the program. Strings point into argv.
 */
bool load_job_read(int argc, char **argv, const char *version, struct load_job *out_job);

/* Prints the object; `more` is further members, `,"name":"value"`, or "". Returns main's status. */
int load_report(const struct load_result *r, const char *more);

/* Seconds since some moment in the past. */
double load_clock(void);

#endif
