/*
 * The test server mooring-origin as a child process.
 * The thread that starts it must outlive it: PR_SET_PDEATHSIG follows the thread.
 */
#include "tests/support/origin_process.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void become_origin(int out)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(out, STDOUT_FILENO) < 0)
        _exit(126);
    execl(MOORING_ORIGIN, MOORING_ORIGIN, "--port", "0", "--threads", "1", (char *)NULL);
    _exit(127);
}

void origin_start(struct origin_process *o)
{
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    o->pid = fork();
    assert_true(o->pid >= 0);
    if (o->pid == 0)
        become_origin(pipe_fds[1]);
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
    snprintf(o->url, sizeof o->url, "http://127.0.0.1:%d", o->port);
}

void origin_stop(struct origin_process *o)
{
    kill(o->pid, SIGTERM);
    int status;
    assert_int_equal(waitpid(o->pid, &status, 0), o->pid);
}
