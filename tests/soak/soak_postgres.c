/*
 * The soak of a real PostgreSQL: `soak_postgres SECONDS URL`. Eight threads leave their sessions in every state
 * there is, and each looks first whether anything of the holder before is left. The script that runs it ends
 * backends and restarts the server meanwhile.
 */
#include "tests/soak/soak.h"

#include <mooring/postgres.h>
#include <mooring/stats.h>

#include <libpq-fe.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 8 };

struct worker {
    pthread_t thread;
    uint64_t seed, turns;
};

static struct soak *soak;
static moor_pool *pool;
static struct worker workers[WORKERS];
static _Atomic(uint64_t) acquired, released, asked, lost, failed, looked;

/* ---- what holders do ---- */

static bool run(moor_acquired *a, const char *sql)
{
    PGresult *r = PQexec(a->native, sql);
    const ExecStatusType status = PQresultStatus(r);
    const bool is_well = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;
    moor_postgres_report(a->lease, r);
    PQclear(r);
    atomic_fetch_add(is_well ? &asked : &lost, 1);
    return is_well;
}

/* Nothing of whoever had it before. */
static bool look(moor_acquired *a)
{
    if (PQtransactionStatus(a->native) != PQTRANS_IDLE && PQstatus(a->native) == CONNECTION_OK)
        soak_complain("a session with an open transaction");
    PGresult *r = PQexec(a->native, "SELECT coalesce(current_setting('soak.mark', true), ''), "
                                    "to_regclass('pg_temp.soak_left') IS NULL");
    const bool is_well = PQresultStatus(r) == PGRES_TUPLES_OK;
    if (is_well && (PQgetvalue(r, 0, 0)[0] || PQgetvalue(r, 0, 1)[0] != 't'))
        soak_complain("a session with the mark %s, table: %s", PQgetvalue(r, 0, 0),
                      PQgetvalue(r, 0, 1));
    moor_postgres_report(a->lease, r);
    PQclear(r);
    atomic_fetch_add(is_well ? &looked : &lost, 1);
    return is_well;
}

static void ask_with_parameters(struct worker *w, moor_acquired *a)
{
    char text[24];
    const char *params[] = {text};
    PGresult *r = NULL;
    snprintf(text, sizeof text, "%d", (int)seed_below(&w->seed, 1000));
    const moor_err e = moor_postgres_query(a->lease, "SELECT $1::int", 1, params, 5000, &r);
    if (!e && PQresultStatus(r) == PGRES_TUPLES_OK && strcmp(PQgetvalue(r, 0, 0), text) != 0)
        soak_complain("asked for %s, got %s", text, PQgetvalue(r, 0, 0));
    if (e && e != MOOR_ERESET && e != MOOR_ETIMEDOUT)
        soak_complain("a query failed with %s", moor_err_name(e));
    atomic_fetch_add(e ? &lost : &asked, 1);
    PQclear(r);
}

static moor_release_how use(struct worker *w, moor_acquired *a)
{
    switch (seed_below(&w->seed, 12)) {
    case 0:
        (void)run(a, "SET soak.mark = 'left'");
        return MOOR_DIRTY;
    case 1:
        (void)run(a, "CREATE TEMP TABLE soak_left (i int)");
        return MOOR_DIRTY;
    case 2: /* the driver sees it */
        (void)(run(a, "BEGIN") && run(a, "SET LOCAL soak.mark = 'local'"));
        return MOOR_REUSE;
    case 3:
        (void)(run(a, "BEGIN") && run(a, "SELECT 1/0"));
        return MOOR_REUSE;
    case 4: /* an answer that nobody reads */
        (void)PQsendQuery(a->native, "SELECT generate_series(1, 1000)");
        return MOOR_REUSE;
    case 5:
        (void)run(a, "COPY (SELECT 1) TO STDOUT");
        return MOOR_REUSE;
    case 6:
        (void)run(a, "SELECT pg_sleep(0.005)");
        return MOOR_DISCARD;
    case 7:
    case 8:
        ask_with_parameters(w, a);
        return MOOR_REUSE;
    default:
        (void)run(a, "SELECT 1");
        return MOOR_REUSE;
    }
}

static void turn(struct worker *w)
{
    static const moor_ms timeouts[] = {0, 5, 50, 500};
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    o.timeout_ms = timeouts[seed_below(&w->seed, 4)];
    o.priority = (uint8_t)seed_below(&w->seed, MOOR_PRIORITIES);
    o.affinity = seed_below(&w->seed, 4) ? 0 : 1 + seed_below(&w->seed, 10);
    moor_acquired got[2];
    const uint32_t count = seed_below(&w->seed, 10) ? 1 : 2;
    const moor_err e =
        count == 1 ? moor_acquire_wait(pool, &o, got) : moor_acquire_many(pool, &o, count, got);
    if (e) {
        atomic_fetch_add(&failed, 1);
        /* A server that comes or goes fails connects in all these ways. */
        if (e != MOOR_ETIMEDOUT && e != MOOR_ECONNECT && e != MOOR_ERESET)
            soak_complain("an acquire failed with %s", moor_err_name(e));
        soak_sleep_us(1000);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        atomic_fetch_add(&acquired, 1);
        const moor_release_how how = look(&got[i]) ? use(w, &got[i]) : MOOR_REUSE;
        atomic_fetch_add(&released, 1);
        moor_release(got[i].lease, how);
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (; !atomic_load(&soak->is_over); w->turns++)
        turn(w);
    return NULL;
}

/* ---- begin and end ---- */

bool soak_prepare(struct soak *s)
{
    return s->argument && s->leak == LEAK_NONE;
}

void soak_begin(struct soak *s)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.name = "postgres";
    o.conns_max = 6;
    o.conns_min_idle = 2;
    o.uses_max = 300;
    o.lifetime_max_ms = 3000;
    o.idle_timeout_ms = 1000;
    o.check_after_ms = 50;
    o.check_every_ms = 100;
    o.surplus_decay_ms = 500;
    o.backoff_max_ms = 100;
    soak = s;
    if (moor_driver_use(s->runtime, moor_postgres_driver()) ||
        moor_pool_open(s->runtime, s->argument, &o, &pool))
        abort();
    for (uint64_t i = 0; i < WORKERS; i++) {
        workers[i].seed = s->seed + i;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            abort();
    }
}

void soak_end(struct soak *s)
{
    for (int i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
    moor_stats st;
    moor_stats_read(pool, &st);
    printf("postgres: %" PRIu64 " acquired, %" PRIu64 " failed, %" PRIu64
           " sessions looked at, %" PRIu64 " statements, %" PRIu64 " failed, %" PRIu64
           " connections made, %" PRIu64 " retired\n",
           acquired, failed, looked, asked, lost, st.conns_created, st.conns_retired);
    if (!looked)
        soak_complain("no session was looked at");
    soak_check_counts(s, "postgres", pool, acquired, released);
    if (moor_pool_close(pool, soak_patience_ms(s)))
        soak_complain("something is out when the pool is closed");
}
