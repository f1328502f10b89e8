/*
 * mooring-origin: the HTTP server of mooring's tests and demos, misbehaviour on request included.
 * Owns the listening sockets and the threads; each thread owns its loop.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "conn.h"
#include "h2.h"
#include "listen.h"
#include "options.h"
#include "pattern.h"
#include "tls_conn.h"

struct server {
    struct options options;
    struct loop loops[THREADS_MAX];
    unsigned loops_begun; /* to be given to loop_fini */
    pthread_t threads[THREADS_MAX];
    struct listen_set http;
    struct listen_set echo;
    struct ssl_ctx_st *tls_context; /* NULL: plain */
};

static bool open_listeners(struct server *s)
{
    const struct options *o = &s->options;
    if (!listen_open(&s->http, o->bind, o->port, o->threads))
        return false;
    const bool has_echo = o->echo_port >= 0;
    return !has_echo || listen_open(&s->echo, s->http.is_unix ? "127.0.0.1" : o->bind,
                                    (unsigned)o->echo_port, o->threads);
}

static bool open_tls(struct server *s)
{
    const struct options *o = &s->options;
    if (!o->tls.is_on)
        return true;
    s->tls_context = tls_open(&o->tls, o->bind, o->speaks_h2);
    return s->tls_context != NULL;
}

static bool init_loops(struct server *s)
{
    const unsigned count = s->options.threads;
    const struct protocol *spoken = s->tls_context ? &tls_protocol : &h1_protocol;
    for (unsigned i = 0; i < count; i++) {
        struct loop *l = &s->loops[i];
        s->loops_begun++;
        if (!loop_init(l, &s->options, s->loops, count, s->tls_context) ||
            !loop_add_listener(l, s->http.fds[i], spoken) ||
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
        const char *scheme = s->tls_context ? "https://" : "http://";
        printf("listening on %s%s\n", s->http.is_unix ? "" : scheme, s->http.name);
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
    int code = options_read(argc, argv, &s->options);
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
        code = h2_init() && open_tls(s) && open_listeners(s) && init_loops(s) ? serve(s, &ends) : 1;
        for (unsigned i = 0; i < s->loops_begun; i++)
            loop_fini(&s->loops[i]);
        listen_close(&s->echo);
        listen_close(&s->http);
        if (s->tls_context)
            tls_close(s->tls_context);
        h2_exit();
    }
    free(s);
    return code;
}
