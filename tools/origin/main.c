/*
 * mooring-origin: the HTTP server of mooring's tests and demos, misbehaviour on request included.
 * Owns the options, the listening sockets and the threads; each thread owns its loop.
 */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "conn.h"
#include "listen.h"
#include "pattern.h"

enum { THREADS_MAX = 64 };

struct server {
    struct options options;
    struct loop loops[THREADS_MAX];
    unsigned loops_begun; /* to be given to loop_fini */
    pthread_t threads[THREADS_MAX];
    struct listen_set http;
    struct listen_set echo;
};

static const char usage[] =
    "usage: mooring-origin [options]\n"
    "An HTTP/1.1 server for tests and demos. GET / lists its routes.\n"
    "  --port N           port, 0 = a free one (default 0)\n"
    "  --bind ADDR        IPv4, IPv6 or unix:/path (default 127.0.0.1)\n"
    "  --threads N        1 to 64, each with its own listener (default 1)\n"
    "  --idle-timeout MS  close conns idle for so long, 0 = never (default 0)\n"
    "  --max-requests N   close a conn after N requests, 0 = never (default 0)\n"
    "  --echo-port N      also echo raw bytes on this port, 0 = a free one\n"
    "  --help             this text\n"
    "Prints `listening on http://ADDR:PORT` when ready; ends on SIGTERM or SIGINT.\n";

static bool option_number(const char *name, const char *text, uint64_t min, uint64_t max,
                          uint64_t *out_value)
{
    if (parse_u64((struct span){text, strlen(text)}, max, out_value) && *out_value >= min)
        return true;
    fprintf(stderr, "mooring-origin: --%s %s: not a number from %llu to %llu\n", name, text,
            (unsigned long long)min, (unsigned long long)max);
    return false;
}

/* Returns the exit code, or -1 to go on. */
static int read_options(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"port", required_argument, NULL, 'p'},
        {"bind", required_argument, NULL, 'b'},
        {"threads", required_argument, NULL, 't'},
        {"idle-timeout", required_argument, NULL, 'i'},
        {"max-requests", required_argument, NULL, 'm'},
        {"echo-port", required_argument, NULL, 'e'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    *o = (struct options){.bind = "127.0.0.1", .threads = 1, .echo_port = -1};
    uint64_t n = 0;
    bool is_valid = true;
    for (int opt; is_valid && (opt = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (opt) {
        case 'p':
            is_valid = option_number("port", optarg, 0, 65535, &n);
            o->port = (unsigned)n;
            break;
        case 'b':
            o->bind = optarg;
            break;
        case 't':
            is_valid = option_number("threads", optarg, 1, THREADS_MAX, &n);
            o->threads = (unsigned)n;
            break;
        case 'i':
            is_valid = option_number("idle-timeout", optarg, 0, UINT32_MAX, &n);
            o->idle_timeout_ms = (uint32_t)n;
            break;
        case 'm':
            is_valid = option_number("max-requests", optarg, 0, UINT32_MAX, &n);
            o->requests_per_conn_max = n;
            break;
        case 'e':
            is_valid = option_number("echo-port", optarg, 0, 65535, &n);
            o->echo_port = (int)n;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            is_valid = false;
        }
    }
    if (is_valid && optind == argc)
        return -1;
    fputs("try mooring-origin --help\n", stderr);
    return 2;
}

static bool open_listeners(struct server *s)
{
    const struct options *o = &s->options;
    if (!listen_open(&s->http, o->bind, o->port, o->threads))
        return false;
    const bool has_echo = o->echo_port >= 0;
    return !has_echo || listen_open(&s->echo, s->http.is_unix ? "127.0.0.1" : o->bind,
                                    (unsigned)o->echo_port, o->threads);
}

static bool init_loops(struct server *s)
{
    const unsigned count = s->options.threads;
    for (unsigned i = 0; i < count; i++) {
        struct loop *l = &s->loops[i];
        s->loops_begun++;
        if (!loop_init(l, &s->options, s->loops, count) ||
            !loop_add_listener(l, s->http.fds[i], &h1_protocol) ||
            (s->echo.count && !loop_add_listener(l, s->echo.fds[i], &echo_protocol))) {
            perror("mooring-origin: epoll");
            return false;
        }
    }
    return true;
}

static void *run_loop(void *loop)
{
    loop_run(loop);
    return NULL;
}

static void raise_descriptor_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
}

/* The loops run until a signal comes; returns the exit code. */
static int serve(struct server *s, const sigset_t *ends)
{
    unsigned started = 0;
    while (started < s->options.threads &&
           pthread_create(&s->threads[started], NULL, run_loop, &s->loops[started]) == 0)
        started++;
    const bool all_started = started == s->options.threads;
    if (all_started) {
        printf("listening on %s%s\n", s->http.is_unix ? "" : "http://", s->http.name);
        if (s->echo.count)
            printf("echo on %s\n", s->echo.name);
        fflush(stdout);
        int signal_number;
        sigwait(ends, &signal_number);
    } else {
        fputs("mooring-origin: cannot start threads\n", stderr);
    }
    for (unsigned i = 0; i < started; i++)
        loop_stop(&s->loops[i]);
    for (unsigned i = 0; i < started; i++)
        pthread_join(s->threads[i], NULL);
    return all_started ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct server *s = calloc(1, sizeof *s);
    if (!s)
        return 1;
    int code = read_options(argc, argv, &s->options);
    if (code < 0) {
        /* Blocked before any thread exists, so that only sigwait receives them. */
        sigset_t ends;
        sigemptyset(&ends);
        sigaddset(&ends, SIGTERM);
        sigaddset(&ends, SIGINT);
        pthread_sigmask(SIG_BLOCK, &ends, NULL);
        signal(SIGPIPE, SIG_IGN);
        raise_descriptor_limit();
        pattern_init();
        code = open_listeners(s) && init_loops(s) ? serve(s, &ends) : 1;
        for (unsigned i = 0; i < s->loops_begun; i++)
            loop_fini(&s->loops[i]);
        listen_close(&s->echo);
        listen_close(&s->http);
    }
    free(s);
    return code;
}
