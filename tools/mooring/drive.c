/*
 * Which protocols this build can drive, and what driving them has in common. Main thread, but
 * drive_kind and its like, which are of the thread that holds the lease. Must not hold a lease itself.
 */
#include "drive.h"

#include "measure.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { SCHEME_CAP = 32, LIST_CAP = 256 };

static const struct drive *const drives[] = {
    &drive_stream,
#ifdef MOORING_WITH_POSTGRES
    &drive_postgres,
#endif
#ifdef MOORING_WITH_MYSQL
    &drive_mysql,
#endif
#ifdef MOORING_WITH_REDIS
    &drive_redis,
#endif
#ifdef MOORING_WITH_SSH
    &drive_ssh,
#endif
};
enum { DRIVE_COUNT = sizeof drives / sizeof *drives };

/* Of every driver there is, so that one which is lacking can be named. */
static const struct {
    const char *name, *schemes, *library;
} known[] = {
    {"postgres", "postgres postgresql", "libpq"},
    {"mysql", "mysql mariadb", "libmariadb"},
    {"redis", "redis rediss", "hiredis"},
    {"ssh", "ssh", "libssh"},
};

/* ---- which one ---- */

bool drive_has_scheme(const char *url, const char *schemes)
{
    const size_t len = strcspn(url, ":");
    if (url[len] != ':')
        return false;
    for (const char *s = schemes; *s; s += strspn(s, " ")) {
        const size_t one = strcspn(s, " ");
        if (one == len && strncasecmp(s, url, len) == 0)
            return true;
        s += one;
    }
    return false;
}

const char *drive_schemes(char *out, size_t cap)
{
    size_t len = 0;
    *out = '\0';
    for (size_t i = 0; i < DRIVE_COUNT && len < cap; i++)
        len += (size_t)snprintf(out + len, cap - len, "%s%s", i ? " " : "", drives[i]->schemes);
    return out;
}

const struct drive *drive_find(const char *url)
{
    for (size_t i = 0; i < DRIVE_COUNT; i++)
        if (drive_has_scheme(url, drives[i]->schemes))
            return drives[i];
    char masked[256], list[LIST_CAP];
    cli_mask_url(url, masked, sizeof masked);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (drive_has_scheme(url, known[i].schemes)) {
            cli_complain("%s: this mooring was built without its driver for %s, which needs %s",
                         masked, known[i].name, known[i].library);
            return NULL;
        }
    if (drive_has_scheme(url, "http https"))
        cli_misused("%s: requests over http are for mooring load", masked);
    else
        cli_misused("%s: the URL's scheme is none of %s", masked, drive_schemes(list, sizeof list));
    return NULL;
}

int drive_use(const struct drive *d, moor_runtime *r)
{
    const moor_err e = d->driver ? moor_driver_use(r, d->driver()) : MOOR_OK;
    if (e == MOOR_OK)
        return EXIT_OK;
    cli_complain("the driver for %s is not of this library's version: %s", d->name,
                 moor_err_text(e));
    return EXIT_OTHER;
}

/* The byte that an escape at *s means, which it moves behind; -1: it means none. */
static int take_escape(const char **s)
{
    const char c = *(*s)++;
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case '\\':
        return '\\';
    case 'x':
        if (isxdigit((unsigned char)(*s)[0]) && isxdigit((unsigned char)(*s)[1])) {
            const char digits[3] = {(*s)[0], (*s)[1], '\0'};
            *s += 2;
            return (int)strtol(digits, NULL, 16);
        }
        return -1;
    default:
        return -1;
    }
}

bool drive_read_query(const struct drive *d, char *query, size_t *out_len)
{
    char *to = query;
    const char *from = query;
    while (*from) {
        const char c = *from++;
        const int byte = c == '\\' && d->takes_escapes ? take_escape(&from) : (unsigned char)c;
        if (byte < 0) {
            cli_misused("--query: a backslash stands before n, r, t, xHH or another one");
            return false;
        }
        *to++ = (char)byte;
    }
    *to = '\0';
    *out_len = (size_t)(to - query);
    return true;
}

/* ---- acquiring ---- */

moor_err drive_acquire(moor_pool *p, moor_ms timeout_ms, moor_acquired *out, moor_why *why)
{
    enum { SLICE_MS = 100 };
    moor_stats before, now;
    moor_stats_read(p, &before);
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    o.why = why;
    const int64_t end = now_ns() + timeout_ms * 1000000;
    for (;;) {
        const moor_ms left = (end - now_ns()) / 1000000;
        o.timeout_ms = left < SLICE_MS ? (left > 0 ? left : 0) : SLICE_MS;
        memset(why, 0, sizeof *why);
        why->size = sizeof *why;
        memset(out, 0, sizeof *out);
        out->size = sizeof *out;
        const moor_err e = moor_acquire_wait(p, &o, out);
        out->fault.err = e;
        if (e != MOOR_ETIMEDOUT || left <= SLICE_MS)
            return e;
        /* The dial goes on without us; only one that ended badly is a reason to stop. */
        moor_stats_read(p, &now);
        if (now.dials_failed > before.dials_failed)
            return e;
    }
}

const char *drive_acquire_line(const moor_fault *fault, const moor_why *why, char *line, size_t cap,
                               int *out_exit)
{
    moor_fault seen = *fault;
    const bool blames_connect =
        why->connect_err != MOOR_OK && (seen.err == MOOR_ETIMEDOUT || seen.err == why->connect_err);
    if (blames_connect) {
        seen.err = why->connect_err;
        seen.os_errno = why->connect_errno;
        seen.what = why->connect_what;
    }
    *out_exit = cli_exit_code(seen.err, seen.what, NULL);
    /* The driver's words say more than the step's name. */
    if (blames_connect && *why->connect_text) {
        seen.what = why->connect_text;
        seen.os_errno = 0;
    }
    return cli_fault_line(&seen, NULL, line, cap);
}

void drive_release(const struct drive *d, struct drive_call *c)
{
    if (c->session)
        d->release(c);
    else
        moor_release(c->lease, c->how);
}

/* ---- failures ---- */

void drive_kind(struct drive_call *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->kind, sizeof c->kind, format, arguments);
    va_end(arguments);
}

void drive_text(struct drive_call *c, const char *text)
{
    size_t len = 0;
    for (; text[len] && text[len] != '\n' && len < sizeof c->text - 1; len++) {
        const unsigned char byte = (unsigned char)text[len];
        c->text[len] = byte < 0x20 || byte == 0x7f ? ' ' : text[len];
    }
    c->text[len] = '\0';
}

bool drive_failed(struct drive_call *c, moor_err e, const char *what)
{
    c->how = MOOR_DISCARD;
    drive_kind(c, "%s", moor_err_name(e));
    snprintf(c->text, sizeof c->text, "%s: %s", what, moor_err_text(e));
    return false;
}
