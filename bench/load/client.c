/* The load clients' command line and report. Main thread. */
#include "client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static bool split_url(struct load_job *job)
{
    unsigned port = 0;
    int end = 0;
    if (sscanf(job->url, "http://%47[0-9.]:%5u%n", job->address, &port, &end) != 2 || port == 0 ||
        port > UINT16_MAX || job->url[end] != '/' || (size_t)end >= sizeof job->origin)
        return false;
    memcpy(job->origin, job->url, (size_t)end);
    job->origin[end] = '\0';
    job->port = (uint16_t)port;
    job->path = job->url + end;
    return true;
}

static bool read_option(struct load_job *job, int option)
{
    char *end = optarg;
    errno = 0;
    switch (option) {
    case 'c':
        job->conc = (unsigned)strtoul(optarg, &end, 10);
        return !errno && !*end && job->conc > 0 && job->conc <= 10000;
    case 'd':
        job->seconds = strtod(optarg, &end);
        return !errno && !*end && job->seconds > 0;
    case 'n':
        job->requests = strtoull(optarg, &end, 10);
        return !errno && !*end && job->requests > 0;
    case 'p':
        return job->is_plain = true;
    default:
        return false;
    }
}

bool load_job_read(int argc, char **argv, const char *version, struct load_job *out_job)
{
    struct load_job job = {.conc = 64, .requests = UINT64_MAX, .seconds = 0};
    bool is_valid = true;
    for (int option; is_valid && (option = getopt(argc, argv, "c:d:n:pV")) != -1;) {
        if (option == 'V') {
            puts(version);
            exit(0);
        }
        is_valid = read_option(&job, option);
    }
    if (is_valid && optind + 1 == argc) {
        job.url = argv[optind];
        if (job.seconds == 0)
            job.seconds = job.requests == UINT64_MAX ? 2 : 3600;
        if (split_url(&job)) {
            *out_job = job;
            return true;
        }
    }
    fprintf(stderr,
            "usage: %s [-c CONC] [-d SECONDS] [-n REQUESTS] [-p] http://ADDRESS:PORT/PATH\n",
            argv[0]);
    return false;
}

double load_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

int load_report(const struct load_result *r, const char *more)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    const double cpu = seconds_of(used.ru_utime) + seconds_of(used.ru_stime);
    const double requests = r->requests ? (double)r->requests : 1;
    printf("{\"requests\":%llu,\"errors\":%llu,\"seconds\":%.6f,\"requests_per_second\":%.0f,"
           "\"cpu_us_per_request\":%.4f,\"user_us_per_request\":%.4f%s}\n",
           (unsigned long long)r->requests, (unsigned long long)r->errors, r->seconds,
           r->seconds > 0 ? (double)r->requests / r->seconds : 0, cpu * 1e6 / requests,
           seconds_of(used.ru_utime) * 1e6 / requests, more);
    return r->errors || !r->requests ? 1 : 0;
}
