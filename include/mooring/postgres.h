/*
 * PostgreSQL over libpq: a pool of connections that hands out PGconn *.
 *
 *     moor_driver_use(runtime, moor_postgres_driver());
 *     moor_pool_open(runtime, "postgres://user:secret@db.example/shop?sslmode=verify-full", &options, &pool);
 *     moor_acquire_wait(pool, NULL, &got);
 *     PGresult *res = PQexec(got.native, "...");       any thread, any call of libpq's
 *     moor_postgres_report(got.lease, res);            what its error means for the pool
 *     moor_release(got.lease, MOOR_REUSE);
 *
 * The URL's query takes libpq's keywords (sslmode, sslrootcert, target_session_attrs, options ...); what libpq
 * would resolve, wait for or ask the environment for itself is the pool's: docs/postgres.md lists both. This
 * header needs none of libpq's; a program that uses the handle includes <libpq-fe.h>.
 */
#ifndef MOORING_POSTGRES_H
#define MOORING_POSTGRES_H

#include <mooring/driver.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What becomes of a connection that its holder returns in good order. One that is in the midst of a query, a
 * COPY or a pipeline, or that is lost, is closed under every policy. */
typedef enum moor_postgres_reset {
    MOOR_POSTGRES_RESET_MARKED, /* reset after MOOR_DIRTY or an open transaction, else kept as it is */
    MOOR_POSTGRES_RESET_ALWAYS, /* reset each time                                           */
    MOOR_POSTGRES_RESET_NEVER,  /* an open transaction is rolled back; MOOR_DIRTY closes     */
    MOOR_POSTGRES_RESET_FORCE_INT_ = 0x7fffffff
} moor_postgres_reset;

/* moor_pool_options.driver_config of a postgres pool; NULL = all defaults. Copied by moor_pool_open. */
typedef struct moor_postgres_options {
    size_t size;                /* set by moor_postgres_options_init                         */
    moor_postgres_reset reset;  /* MARKED                                                    */
    const char *reset_sql;      /* "DISCARD ALL"; an open transaction is rolled back before  */
    const char *prepare_sql;    /* statements for each new connection, and after each reset; NULL = none */
} moor_postgres_options;
MOOR_API void moor_postgres_options_init_sized(moor_postgres_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_postgres_options_init(o) moor_postgres_options_init_sized((o), sizeof *(o))

/* For moor_driver_use. Schemes postgres and postgresql, port 5432. Static. */
MOOR_API const moor_driver *moor_postgres_driver(void) MOOR_ANY_THREAD;

struct pg_result; /* libpq's PGresult */

/*
 * One statement with parameters, which are never made part of its text: $1 is params[0], as text, NULL is NULL.
 * Waits up to timeout_ms (MOOR_FOREVER) on the calling thread. MOOR_OK: the server answered, and *out, yours to
 * PQclear, is the answer, be it an error, which is then reported as by moor_postgres_report. Else *out is NULL:
 * ETIMEDOUT: the statement may still run, and the connection will be closed on release, whatever `how` says.
 * ERESET: the connection is lost; the statement may have run. EBUSY: the handle is in the midst of something.
 * EINVAL: no sql, more than 65535 parameters, or a COPY (the connection will be closed). ENOMEM. ESTALE: not a
 * lease that is held, or not of a postgres pool.
 */
MOOR_API MOOR_NODISCARD moor_err moor_postgres_query(moor_lease lease, const char *sql, int count,
                                                     const char *const *params, moor_ms timeout_ms,
                                                     struct pg_result **out) MOOR_BLOCKING;
/* moor_lease_report with the result's SQLSTATE, if it is an error. NULL, which is what libpq returns when it
 * could not even send, counts as a lost connection. */
MOOR_API void moor_postgres_report(moor_lease lease, const struct pg_result *result) MOOR_ANY_THREAD;

#ifdef __cplusplus
}
#endif
#endif
