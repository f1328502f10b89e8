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
    job->is_secure = strncmp(job->url, "https://", 8) == 0;
    if (!job->is_secure && strncmp(job->url, "http://", 7) != 0)
        return false;
    const int skipped = job->is_secure ? 8 : 7;
    if (sscanf(job->url + skipped, "%47[0-9.]:%5u%n", job->address, &port, &end) != 2 || port == 0)
        return false;
    end += skipped;
    if (port > UINT16_MAX || job->url[end] != '/' || (size_t)end >= sizeof job->origin)
        return false;
    memcpy(job->origin, job->url, (size_t)end);
    job->origin[end] = '\0';
    job->port = (uint16_t)port;
    job->path = job->url + end;
    return true;
}

static bool read_work(const char *text, enum load_work *out_work)
{
    static const char *const names[] = {
        [LOAD_HANDSHAKES] = "handshakes",
        [LOAD_FLUSH] = "flush",
        [LOAD_IDLE] = "idle",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out_work = (enum load_work)i;
            return true;
        }
    }
    return false;
}

static bool read_tls_option(struct load_tls *tls, int option)
{
    switch (option) {
    case 'a':
        tls->roots = optarg;
        return true;
    case 'b':
        return tls->releases_buffers = true;
    case 'k':
        tls->cert = optarg;
        return true;
    case 'm':
        tls->version_min = optarg;
        return true;
    case 'r':
        return tls->is_resumed = true;
    case 's':
        tls->name = optarg;
        return true;
    case 'x':
        tls->version_max = optarg;
        return true;
    default:
        return false;
    }
}

static bool read_option(struct load_job *job, int option)
{
    char *end = optarg;
    errno = 0;
    switch (option) {
    case '2':
        return job->is_h2 = true;
    case 'c':
        job->conc = (unsigned)strtoul(optarg, &end, 10);
        return !errno && !*end && job->conc <= 10000;
    case 'd':
        job->seconds = strtod(optarg, &end);
        return !errno && !*end && job->seconds > 0;
    case 'l':
        return job->is_threaded = true;
    case 'n':
        job->requests = strtoull(optarg, &end, 10);
        return !errno && !*end && job->requests > 0;
    case 'p':
        return job->is_plain = true;
    case 'w':
        return read_work(optarg, &job->work);
    case 'z':
        job->has_beside = true;
        job->beside = (unsigned)strtoul(optarg, &end, 10);
        return !errno && !*end && job->beside <= 100;
    default:
        return read_tls_option(&job->tls, option);
    }
}

bool load_job_read(int argc, char **argv, const char *version, struct load_job *out_job)
{
    struct load_job job = {.conc = 64, .requests = UINT64_MAX, .seconds = 0};
    bool is_valid = true;
    for (int option;
         is_valid && (option = getopt(argc, argv, "2c:d:ln:pVw:z:a:k:s:m:x:rb")) != -1;) {
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
            "usage: %s [-c CONC] [-d SECONDS] [-n REQUESTS] [-2] [-l] [-p] [-z STOPPED] "
            "http[s]://ADDRESS:PORT/PATH\n"
            "of TLS: [-w handshakes|flush|idle] [-a ROOTS] [-k CERT_AND_KEY] [-s NAME]\n"
            "        [-m VERSION_MIN] [-x VERSION_MAX] [-r] [-b]\n",
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

static void cpu_used(double *out_cpu, double *out_user)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    *out_user = seconds_of(used.ru_utime);
    *out_cpu = *out_user + seconds_of(used.ru_stime);
}

void load_begin(struct load_result *r, uint64_t walls)
{
    r->walls = walls ? calloc(walls, sizeof *r->walls) : NULL;
    r->wall_cap = r->walls ? walls : 0;
    cpu_used(&r->cpu_before, &r->user_before);
}

void load_wall(struct load_result *r, double seconds)
{
    if (r->wall_count < r->wall_cap)
        r->walls[r->wall_count++] = seconds;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_walls(const struct load_result *r)
{
    const uint64_t n = r->wall_count;
    if (n == 0)
        return;
    qsort(r->walls, n, sizeof *r->walls, by_size);
    printf(",\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f", r->walls[n / 2] * 1e6,
           r->walls[n * 99 / 100] * 1e6, r->walls[n - 1] * 1e6);
}

int load_report(struct load_result *r, const char *more)
{
    double cpu, user;
    cpu_used(&cpu, &user);
    cpu -= r->cpu_before;
    user -= r->user_before;
    const double requests = r->requests ? (double)r->requests : 1;
    printf("{\"requests\":%llu,\"errors\":%llu,\"bytes\":%llu,\"seconds\":%.6f,"
           "\"requests_per_second\":%.0f,\"cpu_us_per_request\":%.4f,"
           "\"user_us_per_request\":%.4f",
           (unsigned long long)r->requests, (unsigned long long)r->errors,
           (unsigned long long)r->bytes, r->seconds,
           r->seconds > 0 ? (double)r->requests / r->seconds : 0, cpu * 1e6 / requests,
           user * 1e6 / requests);
    print_walls(r);
    printf("%s}\n", more);
    free(r->walls);
    return r->errors || !r->requests ? 1 : 0;
}
