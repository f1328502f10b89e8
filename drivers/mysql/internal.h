/*
 * What the parts of the mysql driver share: a pool's configuration, which nobody changes once it is open, and
 * the state of one connection, which belongs to whoever runs a hook of it: the keeper, the helper thread that
 * works for it meanwhile, or the holder of its lease. Never two of them at a time.
 */
#ifndef DRIVERS_MYSQL_INTERNAL_H
#define DRIVERS_MYSQL_INTERNAL_H

#include <mooring/mysql.h>

#include <mysql.h>

/* The longest value of the URL's query. */
#define MR_MYSQL_VALUE_MAX 1024
/* Host names end at 253 bytes, addresses before. */
#define MR_MYSQL_HOST_MAX 256
/* Identifiers end at 64 characters of up to 4 bytes. */
#define MR_MYSQL_DB_MAX 260
/* Users end at 128 characters. */
#define MR_MYSQL_USER_MAX 516
/* What the server may send as one packet: libmariadb's own limit is 1 GiB. packet-max in the query. */
#define MR_MYSQL_PACKET_MAX ((size_t)64 << 20)
/* moor_link_fail cuts there. */
#define MR_MYSQL_TEXT_MAX 160
/* What the server may answer to the driver's own statements: the keeper reads it, so it is little. */
#define MR_MYSQL_REPLY_MAX ((size_t)1 << 20)
#define MR_MYSQL_ROWS_MAX  256

enum mr_mysql_tls {
    MR_MYSQL_TLS_DISABLED,
    MR_MYSQL_TLS_PREFERRED, /* if the server offers it                                       */
    MR_MYSQL_TLS_REQUIRED,
    MR_MYSQL_TLS_VERIFY_CA,
    MR_MYSQL_TLS_VERIFY_IDENTITY,
};

/* Options that are texts, in the order of text_options in config.c. */
enum mr_mysql_text {
    MR_MYSQL_SSL_CA,
    MR_MYSQL_SSL_CAPATH,
    MR_MYSQL_SSL_CERT,
    MR_MYSQL_SSL_KEY,
    MR_MYSQL_SSL_CRL,
    MR_MYSQL_SSL_CIPHER,
    MR_MYSQL_TLS_VERSION,
    MR_MYSQL_CHARSET,
    MR_MYSQL_PLUGIN_DIR,
    MR_MYSQL_PUBLIC_KEY,
    MR_MYSQL_AUTH,
    MR_MYSQL_TEXTS
};

struct mr_mysql_config {
    moor_mysql_reset reset;
    enum mr_mysql_tls tls;
    char *prepare_sql;          /* NULL = none                                               */
    char *database;             /* "" = none                                                 */
    char *text[MR_MYSQL_TEXTS]; /* NULL = not given                                          */
    unsigned long packet_max;
    unsigned read_timeout_s, write_timeout_s; /* of holders' calls; 0 = none                 */
    unsigned long client_flags;               /* CLIENT_FOUND_ROWS, CLIENT_MULTI_STATEMENTS  */
    bool compress;
    bool local_infile;
    /* ERR_clear_error of the OpenSSL of libmariadb's; NULL = it has none. */
    void (*forget_errors)(void);
};

/* The call of libmariadb's that runs, suspended where it would block. */
enum mr_mysql_call {
    MR_MYSQL_IDLE,
    MR_MYSQL_CONNECT,
    MR_MYSQL_PING,
    MR_MYSQL_RESET,
    MR_MYSQL_SELECT_DB,
    MR_MYSQL_SET_CHARSET,
    MR_MYSQL_QUERY,
    MR_MYSQL_FETCH_ROW,
    MR_MYSQL_NEXT_RESULT,
    MR_MYSQL_CLOSE, /* frees the handle when it ends                                        */
};

/* What a holder finds, and what it may have changed. */
struct mr_mysql_session {
    char database[MR_MYSQL_DB_MAX];
    const void *charset; /* libmariadb's own record of it                                 */
    unsigned status;     /* SERVER_STATUS_*                                               */
};

struct mr_mysql_link {
    MYSQL *my;               /* NULL: freed                                                   */
    enum mr_mysql_call call; /* IDLE: none runs                                               */
    int waits;               /* MYSQL_WAIT_* of the call; 0: it has ended                    */
    int ready;               /* what of them has come                                        */
    /* what the call ended with */
    MYSQL *connected;
    int answer;
    MYSQL_RES *result; /* of prepare_sql, not read to its end; NULL = none                  */
    MYSQL_ROW row;
    unsigned rows; /* of the task's statement, and result sets                          */
    /* connect */
    const moor_target *target;
    char host[MR_MYSQL_HOST_MAX]; /* what libmariadb was given, see connect.c                */
    bool is_greeted; /* the server's first packet has come, or need not be waited for */
    bool has_tls;
    moor_poll watch; /* the deadline of what runs on a helper                                */
    bool is_late;    /* it has passed                                                        */
    int watch_fd;    /* a duplicate, so that it is this socket whatever libmariadb does; -1  */
    /* once connected */
    char user[MR_MYSQL_USER_MAX];
    unsigned long thread_id; /* the server's number for it                                   */
    struct mr_mysql_session fresh; /* after connect, before prepare: what reset goes back to */
    struct mr_mysql_session usual; /* after prepare: what holders find                      */
};

/* config.c */
moor_err mr_mysql_open(const moor_driver_url *url, const void *options, void **out, char *why,
                       size_t why_cap);
void mr_mysql_shut(void *config);

/* connect.c */
moor_step mr_mysql_connect(moor_link *l);
moor_step mr_mysql_connect_resume(moor_link *l, unsigned events);
void mr_mysql_drop(moor_link *l);
/* The descriptor's own mode: libmariadb's TLS knows no other way not to block, and no other way to. */
void mr_mysql_set_blocking(const struct mr_mysql_link *s, bool blocking);
/* Continues the suspended call with what is ready. */
void mr_mysql_continue(moor_link *l);
/* To do before each call on a thread of several connections, and after it. OpenSSL keeps the errors of a
 * thread in a queue, and takes those it finds there for the outcome of its next call: libmariadb leaves them, so
 * that a connection which broke would make all others fail. */
void mr_mysql_forget_errors(const moor_link *l);
/* The poll's events as libmariadb's, for a call that waits for `waits`. */
int mr_mysql_ready(int waits, unsigned events);
/* Waits for what the suspended call waits for. */
moor_step mr_mysql_wait(moor_link *l);

/* session.c */
moor_step mr_mysql_prepare(moor_link *l);
moor_step mr_mysql_check(moor_link *l);
moor_step mr_mysql_reset(moor_link *l);
moor_step mr_mysql_close(moor_link *l);
moor_step mr_mysql_session_resume(moor_link *l, unsigned events);
void mr_mysql_note_session(const MYSQL *my, struct mr_mysql_session *out);

/* verdict.c */
int mr_mysql_fd(moor_link *l);
moor_verdict mr_mysql_idle(moor_link *l);
moor_verdict mr_mysql_returned(moor_link *l, moor_release_how how);
moor_verdict mr_mysql_judge(moor_link *l, const char *sqlstate, int code);

/* failure.c */
/* Fails the step with what the handle says; `what` names the step, "": the task says it. */
moor_step mr_mysql_fail(moor_link *l, const char *what);

#endif
