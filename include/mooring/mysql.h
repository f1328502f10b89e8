/*
 * MySQL and MariaDB over libmariadb: a pool of connections that hands out MYSQL *.
 *
 *     moor_driver_use(runtime, moor_mysql_driver());
 *     moor_pool_open(runtime, "mysql://user:secret@db.example/shop?ssl-mode=verify-identity", &options, &pool);
 *     moor_acquire_wait(pool, NULL, &got);
 *     mysql_query(got.native, "...");                  any thread, any call of libmariadb's
 *     moor_mysql_report(got.lease);                    what its error means for the pool
 *     moor_release(got.lease, MOOR_REUSE);
 *
 * docs/mysql.md lists what the URL's query takes. No option file is read and no password taken from the
 * environment. This header needs none of libmariadb's; a program that uses the handle includes <mysql.h>.
 */
#ifndef MOORING_MYSQL_H
#define MOORING_MYSQL_H

#include <mooring/driver.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What becomes of a connection that its holder returns in good order. One with a result that was not read to
 * its end, or that is lost, is closed under every policy. */
typedef enum moor_mysql_reset {
    MOOR_MYSQL_RESET_MARKED, /* reset after MOOR_DIRTY, or where a change can be seen: an open transaction,
                                autocommit, another database or character set, prepared statements; else
                                kept as it is                                                */
    MOOR_MYSQL_RESET_ALWAYS, /* reset each time                                              */
    MOOR_MYSQL_RESET_NEVER,  /* MOOR_DIRTY and an open transaction close it                  */
    MOOR_MYSQL_RESET_FORCE_INT_ = 0x7fffffff
} moor_mysql_reset;

/* moor_pool_options.driver_config of a mysql pool; NULL = all defaults. Copied by moor_pool_open. */
typedef struct moor_mysql_options {
    size_t size;                /* set by moor_mysql_options_init                            */
    moor_mysql_reset reset;     /* MARKED; the URL's reset= is stronger                      */
    const char *prepare_sql;    /* one statement for each new connection, and after each reset; NULL = none */
} moor_mysql_options;
MOOR_API void moor_mysql_options_init_sized(moor_mysql_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_mysql_options_init(o) moor_mysql_options_init_sized((o), sizeof *(o))

/* For moor_driver_use. Schemes mysql and mariadb, port 3306. Static. */
MOOR_API const moor_driver *moor_mysql_driver(void) MOOR_ANY_THREAD;

/* moor_lease_report with the error of the handle's last call, if that failed: mysql_errno and mysql_sqlstate. The
 * driver looks at it too when the lease comes back; reported, it counts at once, and further calls do not hide it.
 * For a statement handle's error call moor_lease_report with mysql_stmt_sqlstate and mysql_stmt_errno. Does
 * nothing for a stale lease or one of another driver's. */
MOOR_API void moor_mysql_report(moor_lease lease) MOOR_ANY_THREAD;

#ifdef __cplusplus
}
#endif
#endif
