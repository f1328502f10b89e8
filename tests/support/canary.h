/*
 * Canaries: code that must be stopped by AddressSanitizer, run in a child. They prove that memory
 * handed out by alloc/ is not hidden from it.
 */
#ifndef MR_TESTS_CANARY_H
#define MR_TESTS_CANARY_H

#include "alloc/sanitize.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* What became of the child. */
struct canary {
    int status;         /* as waitpid tells */
    char stderr_[2048]; /* its first words */
};

/* Runs run(arg) in a child until it returns or dies. */
static inline struct canary canary_run(void (*run)(void *arg), void *arg)
{
    struct canary c = {.status = -1};
    int ends[2];
    if (pipe(ends) != 0)
        return c;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL); /* cmocka's handler would carry on with the parent's tests */
        signal(SIGSEGV, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        run(arg);
        _exit(0);
    }
    close(ends[1]);
    size_t len = 0;
    char rest[256];
    ssize_t n;
    while ((n = read(ends[0], rest, sizeof rest)) > 0) {
        size_t keep = (size_t)n;
        if (keep > sizeof c.stderr_ - 1 - len)
            keep = sizeof c.stderr_ - 1 - len;
        memcpy(c.stderr_ + len, rest, keep);
        len += keep;
    }
    c.stderr_[len] = '\0';
    close(ends[0]);
    if (child < 0 || waitpid(child, &c.status, 0) != child)
        c.status = -1;
    return c;
}

/* The child died with a report. Prints what it said instead if it did not. */
static inline bool canary_was_caught(const struct canary *c)
{
    bool is_dead = c->status != -1 && !(WIFEXITED(c->status) && WEXITSTATUS(c->status) == 0);
    if (is_dead && strstr(c->stderr_, "AddressSanitizer"))
        return true;
    printf("canary: status %d, said: %s\n", c->status, c->stderr_);
    return false;
}

/* The child died in mr_panic, whose message has `words`. */
static inline bool canary_panicked(const struct canary *c, const char *words)
{
    if (c->status != -1 && WIFSIGNALED(c->status) && WTERMSIG(c->status) == SIGABRT &&
        strstr(c->stderr_, words))
        return true;
    printf("canary: status %d, said: %s\n", c->status, c->stderr_);
    return false;
}

/* First statement of a test with a canary. */
#define CANARY_NEEDS_ASAN()                                                                        \
    do {                                                                                           \
        if (!MR_ASAN) {                                                                            \
            print_message("skipped: needs a build with AddressSanitizer\n");                       \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

#endif
