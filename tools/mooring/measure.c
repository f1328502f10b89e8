/*
 * The clock, and what the kernel says about this process. Any thread but raise_descriptor_limit, which is
 * for main before there are others.
 */
#include "measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

int64_t cpu_ns(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NS_PER_S +
           ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

int64_t private_dirty(void)
{
    static const char key[] = "Private_Dirty:";
    char line[256];
    long long kib = -1;
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    while (f && kib < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, key, sizeof key - 1) == 0)
            kib = strtoll(line + sizeof key - 1, NULL, 10);
    if (f)
        fclose(f);
    return kib < 0 ? -1 : kib * 1024;
}

void raise_descriptor_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
}
