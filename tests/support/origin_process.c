/*
 * The test server mooring-origin as a child process.
 * The thread that starts it must outlive it: PR_SET_PDEATHSIG follows the thread.
 */
#include "tests/support/origin_process.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { FLAGS_MAX = 16 };

static void become_origin(int out, const char *const flags[])
{
    char *argv[FLAGS_MAX + 2] = {(char *)(uintptr_t)MOORING_ORIGIN};
    for (int i = 0; i < FLAGS_MAX && flags[i]; i++)
        argv[i + 1] = (char *)(uintptr_t)flags[i];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(out, STDOUT_FILENO) < 0)
        _exit(126);
    execv(MOORING_ORIGIN, argv);
    _exit(127);
}

void origin_start(struct origin_process *o)
{
    origin_start_with(o, "127.0.0.1", (const char *const[]){"--threads", "1", NULL});
}

void origin_start_with(struct origin_process *o, const char *address, const char *const flags[])
{
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    o->pid = fork();
    assert_true(o->pid >= 0);
    if (o->pid == 0)
        become_origin(pipe_fds[1], flags);
    close(pipe_fds[1]);
    FILE *lines = fdopen(pipe_fds[0], "r");
    assert_non_null(lines);
    char line[128] = "";
    assert_non_null(fgets(line, sizeof line, lines));
    (void)fclose(lines);
    const char *colon = strrchr(line, ':');
    assert_non_null(colon);
    o->port = (int)strtol(colon + 1, NULL, 10);
    assert_true(o->port > 0);
    const bool is_tls = strstr(line, "https://") != NULL;
    snprintf(o->url, sizeof o->url, "http%s://%s:%d", is_tls ? "s" : "", address, o->port);
}

void origin_stop(struct origin_process *o)
{
    kill(o->pid, SIGTERM);
    int status;
    assert_int_equal(waitpid(o->pid, &status, 0), o->pid);
}
