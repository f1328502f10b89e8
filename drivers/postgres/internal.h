/*
 * What the parts of the postgres driver share: a pool's configuration, which hardly changes once it is open, and
 * the state of one connection, which belongs to whoever runs a hook of it: the keeper, the helper thread that
 * works for it meanwhile, or the holder of its lease. Never two of them at a time.
 */
#ifndef DRIVERS_POSTGRES_INTERNAL_H
#define DRIVERS_POSTGRES_INTERNAL_H

#include <mooring/postgres.h>

#include <libpq-fe.h>
#include <stdatomic.h>

/* Keywords of a URL's query: libpq 15 has 40. */
#define PG_WORDS_MAX 48
#define PG_VALUE_MAX 4096
/* What a server may send before it has let us in, or in answer to one of the driver's own statements: libpq
 * stores all of it. */
#define PG_REPLY_BYTES_MAX ((size_t)1 << 20)
/* What a server may send to a connection nobody holds: notifications, which libpq stores for the next holder. */
#define PG_IDLE_BYTES_MAX ((size_t)64 << 10)
/* moor_link_fail cuts there. */
#define PG_TEXT_MAX 160
/* Statements of one task: ROLLBACK, reset_sql, prepare_sql. */
#define PG_SCRIPT_MAX 3

/* What target_session_attrs says of the server's role, for connections that live through a change of it. */
enum pg_role { PG_ROLE_ANY, PG_ROLE_PRIMARY, PG_ROLE_STANDBY };

struct pg_config {
    moor_postgres_reset reset;
    enum pg_role role;
    atomic_bool is_warm; /* a connect has succeeded: libpq has loaded what it loads once   */
    char *reset_sql;
    char *prepare_sql; /* NULL = none                                                     */
    char *database;    /* NULL = libpq's: the user's name                                 */
    char *user;        /* of the URL, else the process's; NULL = neither                  */
    size_t words;
    char *keys[PG_WORDS_MAX], *values[PG_WORDS_MAX]; /* of the URL's query, decoded        */
};

struct pg_link {
    PGconn *conn;
    PQnoticeReceiver notice_receiver;  /* libpq's own, which holders have                   */
    PostgresPollingStatusType polling; /* of the last PQconnectPoll                        */
    ConnStatusType stage;              /* before it: what a failure was a failure of       */
    size_t bytes;                      /* received in this task, or while nobody holds it  */
    const char *script[PG_SCRIPT_MAX];
    unsigned script_len, script_at;
    bool is_sent;     /* the statement script[script_at] is                             */
    bool is_reset;    /* the script ends with everything a holder left undone           */
    bool is_spoiled;  /* a statement was given up half way                               */
    char sqlstate[6]; /* of a FATAL nobody asked for: the server has closed; "" = none   */
};

/* config.c */
moor_err pg_open(const moor_driver_url *url, const void *options, void **out, char *why,
                 size_t why_cap);
void pg_shut(void *config);
bool pg_has_word(const struct pg_config *c, const char *keyword);

/* connect.c */
moor_step pg_connect(moor_link *l);
moor_step pg_connect_resume(moor_link *l, struct pg_link *s, unsigned events);
/* False: more than `most` has come since s->bytes was 0. */
bool pg_count_bytes(struct pg_link *s, size_t most);

/* session.c */
moor_step pg_prepare(moor_link *l);
moor_step pg_check(moor_link *l);
moor_step pg_reset(moor_link *l);
moor_step pg_session_resume(moor_link *l, struct pg_link *s, unsigned events);

/* verdict.c */
void pg_silence(struct pg_link *s);
void pg_listen(struct pg_link *s);
void pg_listen_no_more(struct pg_link *s);
bool pg_has_wrong_role(const struct pg_config *c, const struct pg_link *s);
moor_verdict pg_verdict_of(const char *sqlstate);
moor_verdict pg_idle(moor_link *l);
moor_verdict pg_returned(moor_link *l, moor_release_how how);
moor_verdict pg_judge(moor_link *l, const char *sqlstate, int code);

/* failure.c */
moor_step pg_connect_failed(moor_link *l, struct pg_link *s);
moor_step pg_session_failed(moor_link *l, struct pg_link *s, const PGresult *result);
moor_step pg_failed(moor_link *l, moor_err err, const char *text);

#endif
