/*
 * What the program's subcommands share: exit codes, arguments, one-line errors, the runtime they run on.
 * Main thread, except that the log callback may come from any.
 */
#ifndef TOOL_CLI_H
#define TOOL_CLI_H

#include <mooring/mooring.h>

#include <stdarg.h>

/* curl's numbers where curl has one, so that scripts need not learn new ones. */
enum {
    EXIT_OK = 0,
    EXIT_OTHER = 1,
    EXIT_USAGE = 2,
    EXIT_RESOLVE = 6,
    EXIT_CONNECT = 7,
    EXIT_HTTP_STATUS = 22,
    EXIT_WRITE = 23,
    EXIT_READ = 26,
    EXIT_MEMORY = 27,
    EXIT_TIMEOUT = 28,
    EXIT_TLS = 35,
    EXIT_PEER = 56,   /* reset, or broke the protocol */
    EXIT_VERIFY = 60, /* the server's certificate was refused */
    EXIT_AUTH = 67    /* the server refused the user or the password */
};

/* The header lines of the command line. Names and values point into argv. */
struct header_list {
    moor_header *items; /* owned */
    size_t count;
};

/* "mooring get: <text>" on stderr, in one line. */
void cli_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same, and what to do; returns EXIT_USAGE. */
int cli_misused(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The subcommand's name for both. Static text. */
void cli_set_command(const char *name);

/* These complain themselves. Option is how the user wrote it: "--timeout". */
bool cli_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *out_n);
/* Seconds with a fraction. */
bool cli_seconds(const char *option, const char *text, double *out_seconds);
/* Milliseconds; with a suffix ms, s, m or h. */
bool cli_duration(const char *option, const char *text, moor_ms *out_ms);
bool cli_header_add(struct header_list *h, const char *line);
bool cli_header_has(const struct header_list *h, const char *name);
void cli_header_free(struct header_list *h);

/* Writes the URL without the password and control characters it may hold. Returns out. */
const char *cli_mask_url(const char *url, char *out, size_t cap);

/*
 * A runtime with `shards` threads, which MOORING_SHARDS overrides. Returns 0 or an exit code after the
 * complaint. What the library logs is kept for cli_fault_line, and printed too if MOORING_LOG is set or
 * prints_log is true.
 */
int cli_runtime_create(uint32_t shards, bool prints_log, moor_runtime **out_runtime);
/* Opens the pool; "get" as its name gives it MOORING_POOL_GET_*. */
int cli_pool_open(moor_runtime *r, const char *url, const moor_pool_options *o,
                  moor_pool **out_pool);
/* Closes and destroys; NULLs are fine. What is stuck is given up: the process ends anyway. */
void cli_runtime_close(moor_runtime *r, moor_pool *p);

/* what: the fault's, which tells a refused certificate from other trouble with TLS; it and why may be NULL. */
int cli_exit_code(moor_err e, const char *what, const moor_why *why);
/* "could not connect: connect: Connection refused; check that ...". why may be NULL. Returns out. */
const char *cli_fault_line(const moor_fault *fault, const moor_why *why, char *out, size_t cap);

/* Of moor_http_head.version. */
const char *cli_http_version(int version);
/* "834 us", "1.2 ms", "3.41 s". Returns out. */
const char *cli_time(moor_ns ns, char *out, size_t cap);

#endif
