/*
 * The soak: MOORING_SOAK_SECONDS long (else as the argument says), then everything must be where it was.
 * `soak [SECONDS [ARGUMENT]]`; `soak --canary`: does one thing wrong at a time and must notice each.
 */
#include "tests/soak/soak.h"

#include <mooring/stats.h>

#include <dirent.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { COMPLAINTS_MAX = 20, CANARY_MS = 3000, HANGS_AFTER_S = 120 };

static _Atomic(unsigned) complaints;

void soak_complain(const char *format, ...)
{
    if (atomic_fetch_add(&complaints, 1) >= COMPLAINTS_MAX)
        return;
    va_list args;
    va_start(args, format);
    flockfile(stderr);
    fputs("soak: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    funlockfile(stderr);
    va_end(args);
}

bool soak_has_failed(void)
{
    return atomic_load(&complaints) > 0;
}

void soak_sleep_us(uint64_t us)
{
    nanosleep(&(struct timespec){(time_t)(us / 1000000), (long)(us % 1000000) * 1000}, NULL);
}

moor_ms soak_patience_ms(const struct soak *s)
{
    return s->leak == LEAK_NONE ? 10000 : 200;
}

/* A link on its way to be reset or closed is open still: hence the patience. */
void soak_check_counts(const struct soak *soak, const char *name, moor_pool *p, uint64_t acquired,
                       uint64_t released)
{
    moor_stats s = {0};
    for (moor_ms i = 0; i < soak_patience_ms(soak); i++) {
        moor_stats_read(p, &s);
        if (!s.dials && !s.conns_leased && s.conns_created - s.conns_closed == s.conns_open)
            break;
        soak_sleep_us(1000);
    }
    if (acquired != released || s.acquires != acquired)
        soak_complain("%s: %" PRIu64 " acquired, %" PRIu64 " released, %" PRIu64
                      " counted by the pool",
                      name, acquired, released, s.acquires);
    if (s.conns_created - s.conns_closed != s.conns_open)
        soak_complain("%s: %" PRIu64 " made, %" PRIu64 " closed, but %" PRIu64 " open", name,
                      s.conns_created, s.conns_closed, s.conns_open);
    if (s.conns_leased || s.waiters)
        soak_complain("%s: %" PRIu64 " still leased, %" PRIu64 " still waiting", name,
                      s.conns_leased, s.waiters);
    if (!acquired)
        soak_complain("%s: nothing was acquired", name);
}

static int count_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

static void run(int64_t ms, enum soak_leak leak, const char *argument)
{
    struct soak s = {.argument = argument, .seed = seed_start(), .leak = leak};
    if (!soak_prepare(&s)) {
        soak_complain("there is nothing to begin with");
        return;
    }
    const int descriptors = count_descriptors();
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 2;
    o.shard_pin = false;
    o.log_level = MOOR_LOG_OFF;
    if (moor_runtime_create(&o, &s.runtime)) {
        soak_complain("there is no runtime");
        return;
    }
    soak_begin(&s);
    soak_watch_memory(&s, ms);
    atomic_store(&s.is_over, true);
    soak_end(&s);
    if (moor_runtime_destroy(s.runtime, soak_patience_ms(&s)))
        soak_complain("something is out when the runtime is destroyed");
    else if (count_descriptors() != descriptors)
        soak_complain("%d descriptors, %d at the beginning", count_descriptors(), descriptors);
}

static int canary(void)
{
    static const char *const names[LEAK_KINDS] = {
        [LEAK_LEASE] = "a lease", [LEAK_CHUNK] = "a chunk", [LEAK_MEMORY] = "memory"};
    int status = 0;
    for (int kind = LEAK_LEASE; kind < LEAK_KINDS; kind++) {
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            run(CANARY_MS, (enum soak_leak)kind, NULL);
            fflush(stdout);
            _exit(soak_has_failed() ? 42 : 0);
        }
        int ended = 0;
        const bool is_noticed =
            waitpid(child, &ended, 0) == child && WIFEXITED(ended) && WEXITSTATUS(ended) == 42;
        printf("%s is lost: %s\n", names[kind], is_noticed ? "noticed" : "NOT NOTICED");
        status |= !is_noticed;
    }
    return status;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--canary"))
        return canary();
    const char *text = getenv("MOORING_SOAK_SECONDS");
    if (!text)
        text = argc > 1 ? argv[1] : "60";
    const long seconds = strtol(text, NULL, 10);
    if (seconds < 1 || seconds > 1000000) {
        fprintf(stderr, "usage: soak [SECONDS [ARGUMENT] | --canary]\n");
        return 2;
    }
    alarm((unsigned)seconds + HANGS_AFTER_S); /* a deadlock ends it, and that is a failure too */
    run(seconds * 1000, LEAK_NONE, argc > 2 ? argv[2] : NULL);
    printf("%ld s, %s\n", seconds, soak_has_failed() ? "FAILED" : "all is where it was");
    return soak_has_failed();
}
