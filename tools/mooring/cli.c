/*
 * Arguments in, one-line errors out, and the runtime in between. Main thread; the log callback runs
 * on any thread and only touches the text kept behind log_lock.
 */
#include "cli.h"

#include "tls.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { TEXT_CAP = 512, CLOSE_TIMEOUT_MS = 2000 };

static const char *command = "";
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[TEXT_CAP]; /* the last error or warning of the library; under log_lock */
static bool log_printed;        /* set before the runtime exists */

void cli_set_command(const char *name)
{
    command = name;
}

/* One write, so that lines of several threads or processes do not mix. */
__attribute__((format(printf, 1, 0))) static void print_line(const char *format, va_list arguments,
                                                             const char *end)
{
    char text[2 * TEXT_CAP];
    vsnprintf(text, sizeof text, format, arguments);
    fprintf(stderr, "mooring%s%s: %s%s\n", *command ? " " : "", command, text, end);
}

void cli_complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line(format, arguments, "");
    va_end(arguments);
}

int cli_misused(const char *format, ...)
{
    char hint[64];
    snprintf(hint, sizeof hint, "; see mooring %s%s--help", command, *command ? " " : "");
    va_list arguments;
    va_start(arguments, format);
    print_line(format, arguments, hint);
    va_end(arguments);
    return EXIT_USAGE;
}

bool cli_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *out_n)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long n = strtoull(text, &end, 10);
    if (errno || !isdigit((unsigned char)*text) || *end || n < min || n > max) {
        cli_misused("%s %s is not a number from %llu to %llu", option, text,
                    (unsigned long long)min, (unsigned long long)max);
        return false;
    }
    *out_n = n;
    return true;
}

bool cli_seconds(const char *option, const char *text, double *out_seconds)
{
    enum { SECONDS_MAX = 7 * 86400 };
    char *end = NULL;
    const double n = strtod(text, &end);
    if (end == text || *end || !isfinite(n) || n <= 0 || n > SECONDS_MAX) {
        cli_misused("%s %s is not a number of seconds above 0 and up to %d", option, text,
                    SECONDS_MAX);
        return false;
    }
    *out_seconds = n;
    return true;
}

bool cli_duration(const char *option, const char *text, moor_ms *out_ms)
{
    static const struct {
        const char *suffix;
        uint64_t ms;
    } units[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    enum { DAY_MS = 86400000 };
    char *end = NULL;
    errno = 0;
    const unsigned long long n = strtoull(text, &end, 10);
    if (!errno && isdigit((unsigned char)*text))
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (strcmp(end, units[i].suffix) == 0 && n >= 1 && n <= DAY_MS / units[i].ms) {
                *out_ms = (moor_ms)(n * units[i].ms);
                return true;
            }
    cli_misused("%s %s is not a time from 1 ms to 24 h (milliseconds, or with ms, s, m or h)",
                option, text);
    return false;
}

bool cli_header_add(struct header_list *h, const char *line)
{
    const char *colon = strchr(line, ':');
    if (!colon || colon == line) {
        cli_misused("-H '%s' is not 'Name: value'", line);
        return false;
    }
    moor_header *items = realloc(h->items, (h->count + 1) * sizeof *items);
    if (!items) {
        cli_complain("out of memory");
        return false;
    }
    const char *value = colon + 1;
    while (*value == ' ' || *value == '\t')
        value++;
    h->items = items;
    items[h->count++] = (moor_header){{line, (size_t)(colon - line)}, {value, strlen(value)}};
    return true;
}

bool cli_header_has(const struct header_list *h, const char *name)
{
    const size_t len = strlen(name);
    for (size_t i = 0; i < h->count; i++)
        if (h->items[i].name.len == len && strncasecmp(h->items[i].name.base, name, len) == 0)
            return true;
    return false;
}

void cli_header_free(struct header_list *h)
{
    free(h->items);
    *h = (struct header_list){0};
}

/* Of parameters like sslpassword. In place. */
static void mask_query(char *query)
{
    char *to = query;
    for (const char *from = query; *from;) {
        const size_t pair = strcspn(from, "&"), key = strcspn(from, "=&");
        const bool has_rest = from[pair] == '&';
        /* "pass" in any case, before the '=' of something: what is put there is never longer. */
        bool is_secret = false;
        for (size_t i = 0; i + 4 <= key && key + 1 < pair && !is_secret; i++)
            is_secret = strncasecmp(from + i, "pass", 4) == 0;
        const size_t kept = is_secret ? key + 1 : pair;
        memmove(to, from, kept);
        to += kept;
        if (is_secret)
            *to++ = '*';
        if (has_rest)
            *to++ = '&';
        from += pair + has_rest;
    }
    *to = '\0';
}

const char *cli_mask_url(const char *url, char *out, size_t cap)
{
    const char *scheme_end = strstr(url, "://");
    const char *authority = scheme_end ? scheme_end + 3 : url;
    const size_t authority_len = strcspn(authority, "/?#");
    const char *at = memrchr(authority, '@', authority_len);
    snprintf(out, cap, "%.*s%s%s", (int)(authority - url), url, at ? "***@" : "",
             at ? at + 1 : authority);
    char *query = strchr(out, '?');
    if (query)
        mask_query(query + 1);
    /* It is printed: it may not end the line or talk to the terminal. */
    for (char *c = out; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return out;
}

static void keep_log(void *user, int level, const char *code, const char *text)
{
    (void)user;
    if (level <= MOOR_LOG_WARN) {
        pthread_mutex_lock(&log_lock);
        snprintf(log_text, sizeof log_text, "%s", text);
        pthread_mutex_unlock(&log_lock);
    }
    if (log_printed)
        fprintf(stderr, "mooring: %s: %s\n", code, text);
}

/* What the library said last, once. */
static bool take_log(char *out, size_t cap)
{
    pthread_mutex_lock(&log_lock);
    const bool has_text = *log_text;
    if (has_text)
        snprintf(out, cap, "%s", log_text);
    *log_text = '\0';
    pthread_mutex_unlock(&log_lock);
    return has_text;
}

static int complain_of_setup(const char *what, moor_err e)
{
    char text[TEXT_CAP];
    const moor_fault fault = {.err = e, .what = what};
    cli_complain("%s", cli_fault_line(&fault, NULL, text, sizeof text));
    return cli_exit_code(e, NULL, NULL);
}

int cli_runtime_create(uint32_t shards, bool prints_log, moor_runtime **out_runtime)
{
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = shards;
    o.on_log = keep_log;
    log_printed = prints_log || getenv("MOORING_LOG");
    char text[TEXT_CAP];
    /* Done here and not left to the library: its answer is the line the user should see. */
    moor_err e = moor_runtime_options_from_env(&o, text, sizeof text);
    if (e != MOOR_OK) {
        cli_complain("%s", text);
        return EXIT_USAGE;
    }
    e = moor_runtime_create(&o, out_runtime);
    return e == MOOR_OK ? EXIT_OK : complain_of_setup("runtime", e);
}

int cli_pool_open(moor_runtime *r, const char *url, const moor_pool_options *o,
                  moor_pool **out_pool)
{
    moor_pool_options seen = *o;
    char text[TEXT_CAP];
    moor_err e = moor_pool_options_from_env(&seen, text, sizeof text);
    if (e != MOOR_OK) {
        cli_complain("%s", text);
        return EXIT_USAGE;
    }
    e = moor_pool_open(r, url, o, out_pool);
    return e == MOOR_OK ? EXIT_OK : complain_of_setup("pool", e);
}

void cli_runtime_close(moor_runtime *r, moor_pool *p)
{
    moor_err e = moor_pool_close(p, CLOSE_TIMEOUT_MS);
    if (e == MOOR_OK)
        e = moor_runtime_destroy(r, CLOSE_TIMEOUT_MS);
    if (e != MOOR_OK)
        cli_complain("not everything could be closed: %s", moor_err_text(e));
}

int cli_exit_code(moor_err e, const char *what, const moor_why *why)
{
    switch (e) {
    case MOOR_OK:
        return EXIT_OK;
    case MOOR_EINVAL:
        return EXIT_USAGE;
    case MOOR_ENOMEM:
        return EXIT_MEMORY;
    case MOOR_ETIMEDOUT:
        /* The wait ended because every connect failed: that is what the caller should learn. */
        if (why && why->connect_err != MOOR_OK && why->connect_err != MOOR_ETIMEDOUT)
            return cli_exit_code(why->connect_err, why->connect_what, NULL);
        return EXIT_TIMEOUT;
    case MOOR_ERESOLVE:
        return EXIT_RESOLVE;
    case MOOR_ECONNECT:
        return EXIT_CONNECT;
    case MOOR_ETLS:
        return tls_is_distrust(what) ? EXIT_VERIFY : EXIT_TLS;
    case MOOR_EAUTH:
        return EXIT_AUTH;
    case MOOR_EPROTO:
    case MOOR_ERESET:
    case MOOR_ETOOBIG:
        return EXIT_PEER;
    default:
        return EXIT_OTHER;
    }
}

/* Of the failure, or of the connects that kept failing while it waited. */
static const char *advice(const moor_fault *fault, const moor_why *why)
{
    if (fault->err == MOOR_ETIMEDOUT && why && why->connect_err == MOOR_ETLS)
        return tls_advice(why->connect_what);
    switch (fault->err) {
    case MOOR_ERESOLVE:
        return "check the name, and the name servers in /etc/resolv.conf";
    case MOOR_ECONNECT:
        return "check that a server listens there";
    case MOOR_ETLS:
        return tls_advice(fault->what);
    case MOOR_ETIMEDOUT:
        return "allow more time, or find out why the server is slow";
    case MOOR_ERESET:
        return fault->safe_to_retry ? "trying again is safe"
                                    : "the server may have acted on the request";
    case MOOR_EPROTO:
        return "what answers there breaks the protocol, or speaks another";
    case MOOR_EAUTH:
        return "check user, password and keys";
    case MOOR_ETOOBIG:
        return "raise MOORING_HEADER_BYTES_MAX, MOORING_HEADER_COUNT_MAX or MOORING_BODY_BYTES_MAX";
    case MOOR_ENOMEM:
        return "raise MOORING_MEMORY_LIMIT";
    case MOOR_EBUSY:
        return "raise MOORING_WAITERS_MAX";
    case MOOR_ENOFILES:
        return "raise the limit of open files (ulimit -n)";
    case MOOR_ENOSYS:
        return "see mooring version for what this build can do";
    default:
        return "see mooring --help";
    }
}

const char *cli_fault_line(const moor_fault *fault, const moor_why *why, char *out, size_t cap)
{
    char logged[TEXT_CAP];
    /* Misuse is explained in the log alone: which character of the URL, which header. */
    const bool is_explained =
        (fault->err == MOOR_EINVAL || fault->err == MOOR_ENOSYS) && take_log(logged, sizeof logged);
    if (is_explained) {
        snprintf(out, cap, "%s", logged);
        return out;
    }
    const bool blames_connect = why && why->connect_err != MOOR_OK;
    const int number =
        fault->os_errno ? fault->os_errno : (blames_connect ? why->connect_errno : 0);
    char os_text[128] = "", waiting[320] = "";
    if (number)
        snprintf(os_text, sizeof os_text, ": %s", strerror(number));
    if (why && why->reason != MOOR_WAIT_NONE && fault->err == MOOR_ETIMEDOUT)
        snprintf(waiting, sizeof waiting, " (waited for a connection: %s%s%s%s%s)",
                 moor_wait_reason_text(why->reason), blames_connect ? "; last connect: " : "",
                 blames_connect ? moor_err_text(why->connect_err) : "", blames_connect ? ": " : "",
                 blames_connect ? why->connect_what : "");
    const char *what = fault->what && *fault->what ? fault->what : "";
    snprintf(out, cap, "%s%s%s%s%s; %s", moor_err_text(fault->err), *what ? ": " : "", what,
             os_text, waiting, advice(fault, why));
    return out;
}

const char *cli_http_version(int version)
{
    return version == 20 ? "HTTP/2" : version == 10 ? "HTTP/1.0" : "HTTP/1.1";
}

const char *cli_time(moor_ns ns, char *out, size_t cap)
{
    const double us = (double)ns / 1e3;
    if (us < 1000)
        snprintf(out, cap, "%.*f us", us < 10 ? 1 : 0, us);
    else if (us < 1e6)
        snprintf(out, cap, "%.*f ms", us < 1e5 ? 2 : 0, us / 1e3);
    else
        snprintf(out, cap, "%.2f s", us / 1e6);
    return out;
}
