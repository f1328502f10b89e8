/*
 * A connection from nothing to logged in, step by step on the keeper. libpq owns the socket, may open a second
 * one in mid-connect (sslmode=prefer, target_session_attrs), and is given a numeric address, so it never
 * resolves. What costs it milliseconds of computing or of reading files runs on a helper thread.
 */
#include "drivers/postgres/internal.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define FIXED_WORDS 10

struct words {
    size_t count;
    const char *keys[PG_WORDS_MAX + FIXED_WORDS + 1], *values[PG_WORDS_MAX + FIXED_WORDS + 1];
    char port[8], directory[256];
};

static void add(struct words *w, const char *key, const char *value)
{
    if (!value || !*value)
        return;
    w->keys[w->count] = key;
    w->values[w->count++] = value;
}

/* libpq wants a directory and a number; a path may name the very socket: "/run/postgresql/.s.PGSQL.5432". */
static void split_path(struct words *w, const char *path)
{
    static const char mark[] = "/.s.PGSQL.";
    snprintf(w->directory, sizeof w->directory, "%s", path);
    char *found = strstr(w->directory, mark);
    if (!found)
        return;
    const char *number = found + sizeof mark - 1;
    const size_t digits = strspn(number, "0123456789");
    if (!digits || digits >= sizeof w->port || number[digits])
        return;
    snprintf(w->port, sizeof w->port, "%s", number);
    *found = '\0';
    if (found == w->directory)
        snprintf(w->directory, sizeof w->directory, "/");
}

static void collect_words(struct words *w, const struct pg_config *c, const moor_target *t)
{
    snprintf(w->port, sizeof w->port, "%u", t->port);
    if (*t->path) {
        split_path(w, t->path);
        add(w, "host", w->directory);
    } else {
        add(w, "host", t->host); /* for certificates only */
        add(w, "hostaddr", t->address);
    }
    add(w, "port", w->port);
    add(w, "user", *t->user ? t->user : c->user);
    add(w, "password", t->password);
    add(w, "dbname", c->database);
    /* Kerberos would be looked for in files, and in the network. */
    if (!pg_has_word(c, "gssencmode"))
        add(w, "gssencmode", "disable");
    /* Nor is a password looked for in the home of whoever runs this; a name that cannot exist says so silently. */
    if (!pg_has_word(c, "passfile"))
        add(w, "passfile", "/dev/null/none");
    if (!pg_has_word(c, "fallback_application_name"))
        add(w, "fallback_application_name", "mooring");
    for (size_t i = 0; i < c->words; i++)
        add(w, c->keys[i], c->values[i]);
}

bool pg_count_bytes(struct pg_link *s, size_t most)
{
    int count = 0;
    if (PQsocket(s->conn) >= 0 && ioctl(PQsocket(s->conn), FIONREAD, &count) == 0 && count > 0)
        s->bytes += (size_t)count;
    return s->bytes <= most;
}

static moor_step wait_for_socket(moor_link *l, const struct pg_link *s, short events)
{
    return moor_link_wait(l, PQsocket(s->conn), events, MOOR_FOREVER);
}

moor_step pg_connect(moor_link *l)
{
    struct pg_link *s = calloc(1, sizeof *s);
    if (!s)
        return pg_failed(l, MOOR_ENOMEM, "out of memory");
    moor_link_set_state(l, s);
    struct words w = {.count = 0};
    collect_words(&w, moor_link_config(l), moor_link_target(l));
    s->stage = CONNECTION_STARTED;
    s->conn = PQconnectStartParams(w.keys, w.values, 0);
    if (!s->conn)
        return pg_failed(l, MOOR_ENOMEM, "out of memory");
    if (PQstatus(s->conn) == CONNECTION_BAD)
        return pg_connect_failed(l, s);
    /* The text of an error then has its SQLSTATE, which libpq tells of a failed connect in no other way. */
    (void)PQsetErrorVerbosity(s->conn, PQERRORS_VERBOSE);
    pg_silence(s);
    pg_listen(s);
    if (PQsetnonblocking(s->conn, 1))
        return pg_connect_failed(l, s);
    return wait_for_socket(l, s, POLLOUT);
}

static moor_step connected(moor_link *l, struct pg_link *s)
{
    (void)PQsetErrorVerbosity(s->conn, PQERRORS_DEFAULT);
    /* libpq keeps the password for PQreset, which is not for pooled connections. */
    char *password = PQpass(s->conn);
    if (password)
        explicit_bzero(password, strlen(password));
    /* Holders get the mode they would have from PQconnectdb. */
    if (PQsetnonblocking(s->conn, 0))
        return pg_connect_failed(l, s);
    pg_listen_no_more(s);
    if (*s->sqlstate) {
        char text[64];
        snprintf(text, sizeof text, "the server closes the connection: %s", s->sqlstate);
        return pg_failed(l, MOOR_ERESET, text);
    }
    struct pg_config *c = moor_link_config(l);
    atomic_store_explicit(&c->is_warm, true, memory_order_relaxed);
    moor_link_set_native(l, s->conn);
    return MOOR_STEP_DONE;
}

static moor_step polled(moor_link *l, struct pg_link *s)
{
    switch (s->polling) {
    case PGRES_POLLING_OK:
        return connected(l, s);
    case PGRES_POLLING_READING:
        return wait_for_socket(l, s, POLLIN);
    case PGRES_POLLING_WRITING:
        return wait_for_socket(l, s, POLLOUT);
    default:
        return pg_connect_failed(l, s);
    }
}

/* Keeper or helper thread. The socket never blocks. */
static void poll_once(moor_link *l)
{
    struct pg_link *s = moor_link_state(l);
    s->polling = PQconnectPoll(s->conn);
}

/* SCRAM hashes a password thousands of times, as often as the server says; TLS reads root certificates and
 * proves a chain, and sets OpenSSL up when it is first used; Kerberos, if the URL asks for it, may talk to others. */
static bool is_costly(const struct pg_config *c, ConnStatusType stage)
{
    if (stage == CONNECTION_MADE)
        return !atomic_load_explicit(&c->is_warm, memory_order_relaxed);
    return stage == CONNECTION_AWAITING_RESPONSE || stage == CONNECTION_SSL_STARTUP ||
           stage == CONNECTION_GSS_STARTUP;
}

moor_step pg_connect_resume(moor_link *l, struct pg_link *s, unsigned events)
{
    if (events & MOOR_RESUME_UNBLOCKED)
        return polled(l, s);
    if (!pg_count_bytes(s, PG_REPLY_BYTES_MAX))
        return pg_failed(l, MOOR_EPROTO, "the server sends too much before it is ready");
    s->stage = PQstatus(s->conn);
    if (is_costly(moor_link_config(l), s->stage))
        return moor_link_block(l, poll_once);
    poll_once(l);
    return polled(l, s);
}
