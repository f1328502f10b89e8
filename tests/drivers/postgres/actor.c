/*
 * A program that does with a postgres pool what lines on stdin say, for tests that run real servers. Fields are
 * separated by tabs, each line is answered by one. Public calls only.
 *
 *     env NAME VALUE | open URL [WORD=VALUE ...] | close | password TEXT
 *     acquire NAME MS | exec NAME SQL | send NAME SQL | query NAME MS SQL [PARAM ...]
 *     report NAME SQLSTATE | release NAME reuse|dirty|discard
 *     stats | events | snapshot | log | load THREADS MS PAUSE_US | mark NAME | unload
 */
#include <mooring/mooring.h>
#include <mooring/postgres.h>

#include <libpq-fe.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FIELDS_MAX  16
#define LEASES_MAX  64
#define THREADS_MAX 16
#define CALM_MAX    1000000

static moor_runtime *runtime;
static moor_pool *pool;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char text[16384];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if (*c == '\n')
            *c = ' ';
    puts(text);
    fflush(stdout);
}

/* ---- what the pool tells ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char last_log[1024], password[128];
static unsigned event_counts[64];

static void on_log(void *user, int level, const char *code, const char *text)
{
    (void)user;
    (void)level;
    pthread_mutex_lock(&lock);
    snprintf(last_log, sizeof last_log, "%s %s", code, text);
    pthread_mutex_unlock(&lock);
}

static void on_event(void *user, const struct moor_event *e)
{
    (void)user;
    pthread_mutex_lock(&lock);
    if ((unsigned)e->type < 64)
        event_counts[e->type]++;
    pthread_mutex_unlock(&lock);
}

static moor_err credentials(void *user, moor_credentials *out)
{
    pthread_mutex_lock(&lock);
    snprintf(out->password, sizeof out->password, "%s", password);
    pthread_mutex_unlock(&lock);
    out->lifetime_ms = *(const moor_ms *)user;
    return MOOR_OK;
}

/* ---- pool ---- */

static void open_pool(char **f, int n)
{
    static moor_ms lifetime = MOOR_FOREVER;
    moor_pool_options o;
    moor_postgres_options d;
    moor_pool_options_init(&o);
    moor_postgres_options_init(&d);
    o.driver_config = &d;
    o.on_event = on_event;
    o.conns_min_idle = 0;
    for (int i = 2; i < n; i++) {
        char *value = strchr(f[i], '=');
        if (!value)
            continue;
        *value++ = '\0';
        if (!strcmp(f[i], "reset"))
            d.reset = !strcmp(value, "always")  ? MOOR_POSTGRES_RESET_ALWAYS
                      : !strcmp(value, "never") ? MOOR_POSTGRES_RESET_NEVER
                                                : MOOR_POSTGRES_RESET_MARKED;
        else if (!strcmp(f[i], "prepare_sql"))
            d.prepare_sql = value;
        else if (!strcmp(f[i], "reset_sql"))
            d.reset_sql = value;
        else if (!strcmp(f[i], "lifetime")) {
            lifetime = strtol(value, NULL, 10);
            o.hooks.credentials = credentials;
            o.hooks.credentials_user = &lifetime;
        }
    }
    memset(event_counts, 0, sizeof event_counts);
    if (!runtime) {
        moor_runtime_options r;
        moor_runtime_options_init(&r);
        r.shards = 1;
        r.on_log = on_log;
        moor_err e = moor_runtime_options_from_env(&r, NULL, 0);
        if (e == MOOR_OK)
            e = moor_runtime_create(&r, &runtime);
        if (e == MOOR_OK)
            e = moor_driver_use(runtime, moor_postgres_driver());
        if (e != MOOR_OK) {
            say("err\t%s", moor_err_name(e));
            exit(1);
        }
    }
    const moor_err e = moor_pool_open(runtime, f[1], &o, &pool);
    pthread_mutex_lock(&lock);
    if (e == MOOR_OK)
        say("ok");
    else
        say("err\t%s\t%s", moor_err_name(e), last_log);
    pthread_mutex_unlock(&lock);
}

static void close_pool(void)
{
    const moor_err e = moor_pool_close(pool, 10000);
    if (e == MOOR_OK)
        pool = NULL;
    say("%s", e == MOOR_OK ? "ok" : moor_err_name(e));
}

/* ---- leases ---- */

static struct held {
    char name[32];
    moor_acquired a;
} leases[LEASES_MAX];

static struct held *find(const char *name)
{
    for (int i = 0; i < LEASES_MAX; i++)
        if (!strcmp(leases[i].name, name))
            return &leases[i];
    return NULL;
}

static void acquire(const char *name, const char *ms)
{
    struct held *h = find("");
    if (!h) {
        say("what?\tmore than %d leases", LEASES_MAX);
        return;
    }
    moor_acquire_options o;
    moor_why why;
    memset(&why, 0, sizeof why);
    why.size = sizeof why;
    moor_acquire_options_init(&o);
    o.timeout_ms = strtol(ms, NULL, 10);
    o.why = &why;
    memset(&h->a, 0, sizeof h->a);
    h->a.size = sizeof h->a;
    const moor_err e = moor_acquire_wait(pool, &o, &h->a);
    if (e == MOOR_OK) {
        snprintf(h->name, sizeof h->name, "%s", name);
        say("ok\t%d\t%d", PQbackendPID(h->a.native), h->a.reused);
        return;
    }
    char text[1024] = "";
    say("fail\t%s\t%s\t%s\t%s", moor_err_name(e), moor_err_name(why.connect_err), why.connect_text,
        moor_why_text(&why, text, sizeof text));
}

static void say_result(const PGresult *r)
{
    const char *sqlstate = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    switch (PQresultStatus(r)) {
    case PGRES_TUPLES_OK:
        say("row\t%s", PQntuples(r) ? PQgetvalue(r, 0, 0) : "");
        break;
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
        say("ok");
        break;
    case PGRES_COPY_IN:
    case PGRES_COPY_OUT:
        say("copy");
        break;
    default:
        say("error\t%s\t%s", sqlstate ? sqlstate : "", PQresultErrorMessage(r));
    }
}

static void use(char **f, int n, struct held *h)
{
    if (!strcmp(f[0], "exec")) {
        PGresult *r = PQexec(h->a.native, f[2]);
        say_result(r);
        PQclear(r);
    } else if (!strcmp(f[0], "send")) {
        say("%s", PQsendQuery(h->a.native, f[2]) ? "ok" : PQerrorMessage(h->a.native));
    } else if (!strcmp(f[0], "query")) {
        PGresult *r = NULL;
        const moor_err e = moor_postgres_query(
            h->a.lease, f[3], n - 4, (const char *const *)(f + 4), strtol(f[2], NULL, 10), &r);
        if (e == MOOR_OK)
            say_result(r);
        else
            say("fail\t%s", moor_err_name(e));
        PQclear(r);
    } else if (!strcmp(f[0], "report")) {
        moor_lease_report(h->a.lease, f[2], 0);
        say("ok");
    } else {
        moor_release(h->a.lease, !strcmp(f[2], "dirty")     ? MOOR_DIRTY
                                 : !strcmp(f[2], "discard") ? MOOR_DISCARD
                                                            : MOOR_REUSE);
        h->name[0] = '\0';
        say("ok");
    }
}

/* ---- load ---- */

static struct {
    pthread_t threads[THREADS_MAX], watcher;
    int count;
    moor_ms timeout_ms;
    unsigned pause_us;
    atomic_bool stops;
    double down, up;               /* marks; 0 = not yet                              */
    atomic_uint ok, broken, fails; /* fails: acquires                                 */
    atomic_uint unexplained;       /* of those, without the last connect's error      */
    atomic_uint outside;           /* of those, over before it was down, or begun long after */
    atomic_uint late;              /* of those, 5 s and more past their timeout       */
    atomic_ullong first_us;        /* from `up` to the first success after it         */
    atomic_uint dials_peak, open_peak;
    atomic_uint calm;        /* acquires begun neither while down nor up for less than a second */
    float calm_us[CALM_MAX]; /* how long those took that succeeded              */
    char example[1024];      /* of a failure                                    */
} load;

static void load_failed(double began, const moor_why *why)
{
    atomic_fetch_add(&load.fails, 1);
    if (why->connect_err == MOOR_OK || !why->connect_text[0])
        atomic_fetch_add(&load.unexplained, 1);
    if (now_ms() - began > (double)load.timeout_ms + 5000)
        atomic_fetch_add(&load.late, 1);
    pthread_mutex_lock(&lock);
    if (!load.down || now_ms() < load.down || (load.up && began > load.up + 2000))
        atomic_fetch_add(&load.outside, 1);
    moor_why_text(why, load.example, sizeof load.example);
    pthread_mutex_unlock(&lock);
}

/* Whatever the server does, these are to be served at once. */
static void note_calm(double began)
{
    const double took = now_ms() - began;
    pthread_mutex_lock(&lock);
    if ((!load.down || began < load.down) || (load.up && began > load.up + 1000)) {
        const unsigned n = atomic_fetch_add(&load.calm, 1);
        if (n < CALM_MAX)
            load.calm_us[n] = (float)(took * 1000);
    }
    pthread_mutex_unlock(&lock);
}

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double calm_percentile(double percent)
{
    const unsigned n = load.calm < CALM_MAX ? load.calm : CALM_MAX;
    qsort(load.calm_us, n, sizeof *load.calm_us, by_size);
    return n ? (double)load.calm_us[(unsigned)((double)(n - 1) * percent / 100)] : 0;
}

static void load_served(const moor_acquired *a, double began)
{
    note_calm(began);
    PGresult *r = PQexec(a->native, "select 1");
    if (PQresultStatus(r) != PGRES_TUPLES_OK) {
        atomic_fetch_add(&load.broken, 1);
    } else {
        atomic_fetch_add(&load.ok, 1);
        pthread_mutex_lock(&lock);
        if (load.up && !atomic_load(&load.first_us))
            atomic_store(&load.first_us, (unsigned long long)((now_ms() - load.up) * 1000) + 1);
        pthread_mutex_unlock(&lock);
    }
    moor_postgres_report(a->lease, r);
    PQclear(r);
    moor_release(a->lease, MOOR_REUSE);
}

static void *run_load(void *arg)
{
    (void)arg;
    while (!atomic_load(&load.stops)) {
        moor_acquire_options o;
        moor_why why;
        moor_acquired a;
        memset(&why, 0, sizeof why);
        why.size = sizeof why;
        memset(&a, 0, sizeof a);
        a.size = sizeof a;
        moor_acquire_options_init(&o);
        o.timeout_ms = load.timeout_ms;
        o.why = &why;
        const double began = now_ms();
        if (moor_acquire_wait(pool, &o, &a) == MOOR_OK)
            load_served(&a, began);
        else
            load_failed(began, &why);
        if (load.pause_us)
            usleep(load.pause_us);
    }
    return NULL;
}

static void raise_to(atomic_uint *peak, uint64_t value)
{
    if (value > atomic_load(peak))
        atomic_store(peak, (unsigned)value);
}

static void *watch_load(void *arg)
{
    (void)arg;
    while (!atomic_load(&load.stops)) {
        moor_stats s;
        moor_stats_read(pool, &s);
        raise_to(&load.dials_peak, s.dials);
        raise_to(&load.open_peak, s.conns_open);
        usleep(300);
    }
    return NULL;
}

static void start_load(char **f)
{
    memset(&load, 0, sizeof load);
    load.count = (int)strtol(f[1], NULL, 10);
    load.timeout_ms = strtol(f[2], NULL, 10);
    load.pause_us = (unsigned)strtol(f[3], NULL, 10);
    for (int i = 0; i < load.count; i++)
        pthread_create(&load.threads[i], NULL, run_load, NULL);
    pthread_create(&load.watcher, NULL, watch_load, NULL);
    say("ok");
}

static void end_load(void)
{
    if (!load.count || atomic_exchange(&load.stops, true))
        return;
    for (int i = 0; i < load.count; i++)
        pthread_join(load.threads[i], NULL);
    pthread_join(load.watcher, NULL);
}

static void stop_load(void)
{
    end_load();
    say("{\"ok\": %u, \"broken\": %u, \"fails\": %u, \"unexplained\": %u, \"outside\": %u, "
        "\"late\": %u, "
        "\"first_ms\": %.1f, \"dials_peak\": %u, \"open_peak\": %u, \"calm\": %u, \"calm_p99_us\": "
        "%.0f}\t%s",
        load.ok, load.broken, load.fails, load.unexplained, load.outside, load.late,
        (double)load.first_us / 1000, load.dials_peak, load.open_peak, load.calm,
        calm_percentile(99), load.example);
}

/* ---- lines ---- */

static void say_stats(void)
{
    moor_stats s;
    moor_stats_read(pool, &s);
    say("{\"open\": %lu, \"idle\": %lu, \"leased\": %lu, \"created\": %lu, \"closed\": %lu, "
        "\"dials_failed\": %lu, "
        "\"acquires\": %lu, \"waiters\": %lu}",
        s.conns_open, s.conns_idle, s.conns_leased, s.conns_created, s.conns_closed, s.dials_failed,
        s.acquires, s.waiters);
}

static void say_events(void)
{
    char text[2048] = "{";
    size_t len = 1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i <= (int)MOOR_EVENT_POOL_DRAINED; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s\"%s\": %u", i ? ", " : "",
                                moor_event_name((moor_event_type)i), event_counts[i]);
    pthread_mutex_unlock(&lock);
    say("%s}", text);
}

static void say_snapshot(void)
{
    static char text[16000];
    size_t len;
    moor_pool_snapshot(pool, text, sizeof text, &len);
    say("%s", text);
}

static void obey(char **f, int n)
{
    struct held *h = n > 1 ? find(f[1]) : NULL;
    if (!strcmp(f[0], "env") && n == 3)
        say(setenv(f[1], f[2], 1) ? "err" : "ok");
    else if (!strcmp(f[0], "open") && n > 1)
        open_pool(f, n);
    else if (!strcmp(f[0], "close"))
        close_pool();
    else if (!strcmp(f[0], "password") && n == 2) {
        pthread_mutex_lock(&lock);
        snprintf(password, sizeof password, "%s", f[1]);
        pthread_mutex_unlock(&lock);
        say("ok");
    } else if (!strcmp(f[0], "mark") && n == 2) {
        pthread_mutex_lock(&lock);
        const bool is_up = !strcmp(f[1], "up");
        if (!is_up)
            load.down = now_ms();
        load.up = is_up ? now_ms() : 0;
        pthread_mutex_unlock(&lock);
        say("ok");
    } else if (!strcmp(f[0], "acquire") && n == 3)
        acquire(f[1], f[2]);
    else if (!strcmp(f[0], "stats"))
        say_stats();
    else if (!strcmp(f[0], "events"))
        say_events();
    else if (!strcmp(f[0], "snapshot"))
        say_snapshot();
    else if (!strcmp(f[0], "log"))
        say("%s", last_log);
    else if (!strcmp(f[0], "load") && n == 4)
        start_load(f);
    else if (!strcmp(f[0], "unload"))
        stop_load();
    else if (h && n >= 3)
        use(f, n, h);
    else
        say("what?\t%s", f[0]);
}

int main(void)
{
    char line[8192];
    while (fgets(line, sizeof line, stdin)) {
        char *fields[FIELDS_MAX], *rest = line;
        int n = 0;
        line[strcspn(line, "\n")] = '\0';
        while (rest && n < FIELDS_MAX)
            fields[n++] = strsep(&rest, "\t");
        obey(fields, n);
    }
    end_load();
    if (pool && moor_pool_close(pool, 5000) != MOOR_OK)
        return 2;
    return moor_runtime_destroy(runtime, 5000) == MOOR_OK ? 0 : 3;
}
