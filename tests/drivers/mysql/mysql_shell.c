/*
 * A program on the public headers that does what it is told: one command a line, words separated by tabs, one
 * line of answer each. The tests in Python are the script; what libmariadb is used for here is what holders do.
 *
 *     open NAME URL [OPTION=VALUE ...]    close NAME    warm NAME COUNT    stats NAME FIELD    snapshot NAME
 *     acquire NAME VAR [TIMEOUT_MS]       release VAR HOW    report VAR    load NAME THREADS MS SQL
 *     query VAR SQL    big VAR BYTES    charset VAR    become VAR USER PASSWORD
 *     and what holders leave undone: leave VAR SQL    prepare VAR SQL    closed VAR SQL    send VAR SQL
 *     suspend VAR SQL
 */
#include <mooring/mooring.h>
#include <mooring/mysql.h>

#include <mysql.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORDS_MAX   16
#define POOLS_MAX   8
#define LEASES_MAX  16
#define THREADS_MAX 32
#define ERRORS_MAX  16

static struct {
    char name[32];
    moor_pool *pool;
    char credentials[256]; /* a file: user, password */
} pools[POOLS_MAX];

static struct {
    char name[32];
    moor_lease lease;
    MYSQL *my;
} leases[LEASES_MAX];

/* Statements that holders left open: theirs to free, whatever became of the connection. */
static MYSQL_STMT *left[LEASES_MAX];
static int left_count;

static moor_runtime *runtime;

static void on_log(void *user, int level, const char *code, const char *text)
{
    (void)user;
    fprintf(stderr, "log %d %s %s\n", level, code, text);
}

static moor_pool *pool_of(const char *name)
{
    for (int i = 0; i < POOLS_MAX; i++)
        if (pools[i].pool && !strcmp(pools[i].name, name))
            return pools[i].pool;
    return NULL;
}

static int lease_of(const char *name)
{
    for (int i = 0; i < LEASES_MAX; i++)
        if (!strcmp(leases[i].name, name))
            return i;
    return -1;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- pools ---- */

static moor_err read_credentials(void *user, moor_credentials *out)
{
    FILE *f = fopen(user, "r");
    if (!f)
        return MOOR_EAUTH;
    const bool good = fscanf(f, "%255s %4095s", out->user, out->password) == 2;
    fclose(f);
    return good ? MOOR_OK : MOOR_EAUTH;
}

/* "conns_max=3": false if there is no such option. */
static bool read_option(moor_pool_options *o, moor_mysql_options *m, char *credentials,
                        const char *word)
{
    const char *value = strchr(word, '=');
    if (!value)
        return false;
    const size_t len = (size_t)(value++ - word);
    const struct {
        const char *name;
        uint32_t *number;
        moor_ms *ms;
    } numbers[] = {
        {"conns_max", &o->conns_max, NULL},
        {"conns_min_idle", &o->conns_min_idle, NULL},
        {"dials_max", &o->dials_max, NULL},
        {"connect_timeout_ms", NULL, &o->connect_timeout_ms},
        {"acquire_timeout_ms", NULL, &o->acquire_timeout_ms},
        {"check_after_ms", NULL, &o->check_after_ms},
        {"check_every_ms", NULL, &o->check_every_ms},
        {"backoff_min_ms", NULL, &o->backoff_min_ms},
        {"backoff_max_ms", NULL, &o->backoff_max_ms},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strncmp(numbers[i].name, word, len) || numbers[i].name[len])
            continue;
        if (numbers[i].number)
            *numbers[i].number = (uint32_t)atol(value);
        else
            *numbers[i].ms = atol(value);
        return true;
    }
    if (!strncmp(word, "prepare", len))
        m->prepare_sql = value;
    else if (!strncmp(word, "reset", len))
        m->reset = (moor_mysql_reset)atoi(value);
    else if (!strncmp(word, "check_on_return", len))
        o->check_on_return = atoi(value);
    else if (!strncmp(word, "credentials", len))
        snprintf(credentials, 256, "%s", value);
    else
        return false;
    return true;
}

static void do_open(char **w, int count)
{
    moor_pool_options o;
    moor_mysql_options m;
    moor_pool_options_init(&o);
    moor_mysql_options_init(&m);
    o.conns_min_idle = 0;
    o.name = w[1];
    o.driver_config = &m;
    int at = 0;
    while (pools[at].pool)
        at++;
    for (int i = 3; i < count; i++)
        if (!read_option(&o, &m, pools[at].credentials, w[i]))
            printf("no option %s\n", w[i]);
    if (pools[at].credentials[0]) {
        o.hooks.credentials = read_credentials;
        o.hooks.credentials_user = pools[at].credentials;
    }
    snprintf(pools[at].name, sizeof pools[at].name, "%s", w[1]);
    const moor_err e = moor_pool_open(runtime, w[2], &o, &pools[at].pool);
    printf("%s\n", moor_err_name(e));
}

static void do_close(char **w)
{
    for (int i = 0; i < POOLS_MAX; i++) {
        if (!pools[i].pool || strcmp(pools[i].name, w[1]) != 0)
            continue;
        const moor_err e = moor_pool_close(pools[i].pool, 5000);
        if (!e)
            memset(&pools[i], 0, sizeof pools[i]);
        printf("%s\n", moor_err_name(e));
        return;
    }
    printf("no pool\n");
}

static void do_stats(char **w)
{
    moor_stats s;
    moor_stats_read(pool_of(w[1]), &s);
#define X(name, text)                                                                              \
    if (!strcmp(w[2], #name)) {                                                                    \
        printf("%llu\n", (unsigned long long)s.name);                                              \
        return;                                                                                    \
    }
    MOOR_STATS(X)
#undef X
    printf("no such field\n");
}

static void do_snapshot(char **w)
{
    static char text[1 << 16];
    size_t len;
    moor_pool_snapshot(pool_of(w[1]), text, sizeof text, &len);
    for (char *c = text; *c; c++)
        if (*c == '\n')
            *c = ' ';
    printf("%s\n", text);
}

/* ---- leases ---- */

static void do_acquire(char **w, int count)
{
    moor_acquired got = {.size = sizeof got};
    moor_acquire_options o;
    moor_why why = {.size = sizeof why};
    moor_acquire_options_init(&o);
    o.why = &why;
    if (count > 3)
        o.timeout_ms = atol(w[3]);
    const moor_err e = moor_acquire_wait(pool_of(w[1]), &o, &got);
    if (e) {
        char text[512];
        printf("%s: %s\n", moor_err_name(e), moor_why_text(&why, text, sizeof text));
        return;
    }
    const int at = lease_of("");
    snprintf(leases[at].name, sizeof leases[at].name, "%s", w[2]);
    leases[at].lease = got.lease;
    leases[at].my = got.native;
    printf("MOOR_OK %s\n", got.reused ? "reused" : "new");
}

static void print_result(MYSQL *my)
{
    MYSQL_RES *result = mysql_store_result(my);
    MYSQL_ROW row;
    if (!result && mysql_errno(my)) {
        printf("error %u %s\n", mysql_errno(my), mysql_error(my));
        return;
    }
    while (result && (row = mysql_fetch_row(result))) {
        for (unsigned i = 0; i < mysql_num_fields(result); i++)
            printf("%s%s", i ? "|" : "", row[i] ? row[i] : "NULL");
        printf(";");
    }
    mysql_free_result(result);
    printf("\n");
}

static void do_query(char **w)
{
    MYSQL *my = leases[lease_of(w[1])].my;
    if (mysql_query(my, w[2]))
        printf("error %u %s\n", mysql_errno(my), mysql_error(my));
    else
        print_result(my);
}

static void do_prepare(char **w)
{
    MYSQL *my = leases[lease_of(w[1])].my;
    MYSQL_STMT *stmt = mysql_stmt_init(my);
    const int failed = mysql_stmt_prepare(stmt, w[2], strlen(w[2]));
    if (!strcmp(w[0], "closed")) {
        mysql_stmt_close(stmt);
        printf("closed\n");
        return;
    }
    printf("%s\n", failed ? mysql_stmt_error(stmt) : "prepared");
    if (left_count == LEASES_MAX)
        abort();
    left[left_count++] = stmt;
}

/* A statement of that many bytes. */
static void do_big(char **w)
{
    static const char head[] = "select length('", tail[] = "')";
    const size_t count = strtoul(w[2], NULL, 10);
    MYSQL *my = leases[lease_of(w[1])].my;
    char *sql = malloc(sizeof head + count + sizeof tail);
    if (!sql)
        abort();
    memcpy(sql, head, sizeof head - 1);
    memset(sql + sizeof head - 1, 'x', count);
    memcpy(sql + sizeof head - 1 + count, tail, sizeof tail);
    if (mysql_query(my, sql))
        printf("error %u %s\n", mysql_errno(my), mysql_error(my));
    else
        print_result(my);
    free(sql);
}

static void do_suspend(char **w)
{
    static int answer;
    const int waits =
        mysql_real_query_start(&answer, leases[lease_of(w[1])].my, w[2], strlen(w[2]));
    printf("%s\n", waits ? "suspended" : "done");
}

static void do_release(char **w)
{
    const int at = lease_of(w[1]);
    const moor_release_how how = !strcmp(w[2], "reuse")   ? MOOR_REUSE
                                 : !strcmp(w[2], "dirty") ? MOOR_DIRTY
                                                          : MOOR_DISCARD;
    moor_release(leases[at].lease, how);
    memset(&leases[at], 0, sizeof leases[at]);
    printf("released\n");
}

/* ---- load ---- */

struct load {
    moor_pool *pool;
    const char *sql;
    int64_t until;
    moor_ms timeout;
    uint64_t dials_most; /* at a time                                                       */
    atomic_ulong good, refused, broken, late;
    atomic_ulong codes[ERRORS_MAX]; /* acquires by moor_err                                */
    atomic_ulong last_code;         /* of a query that failed                              */
    _Atomic(int64_t) last_bad;      /* when: ms since the start; -1 = never                */
    int64_t start;
};

static void load_one(struct load *d)
{
    moor_acquired got = {.size = sizeof got};
    const int64_t begun = now_ms();
    const moor_err e = moor_acquire_wait(d->pool, NULL, &got);
    if (now_ms() - begun > d->timeout + 2000)
        atomic_fetch_add(&d->late, 1);
    if (e) {
        atomic_fetch_add(&d->refused, 1);
        if (e < ERRORS_MAX)
            atomic_fetch_add(&d->codes[e], 1);
        atomic_store(&d->last_bad, now_ms() - d->start);
        return;
    }
    MYSQL *my = got.native;
    const bool good = !mysql_query(my, d->sql);
    if (good) {
        mysql_free_result(mysql_store_result(my));
        atomic_fetch_add(&d->good, 1);
    } else {
        atomic_fetch_add(&d->broken, 1);
        atomic_store(&d->last_code, mysql_errno(my));
        atomic_store(&d->last_bad, now_ms() - d->start);
        moor_mysql_report(got.lease);
    }
    moor_release(got.lease, MOOR_REUSE);
}

static void *load_thread(void *arg)
{
    struct load *d = arg;
    while (now_ms() < d->until)
        load_one(d);
    mysql_thread_end();
    return NULL;
}

static void do_load(char **w)
{
    static struct load d;
    pthread_t threads[THREADS_MAX];
    const int count = atoi(w[2]);
    memset(&d, 0, sizeof d);
    d.pool = pool_of(w[1]);
    d.start = now_ms();
    d.until = d.start + atol(w[3]);
    d.sql = w[4];
    d.timeout = 2000;
    d.last_bad = -1;
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, load_thread, &d))
            abort();
    while (now_ms() < d.until) {
        moor_stats s;
        moor_stats_read(d.pool, &s);
        d.dials_most = s.dials > d.dials_most ? s.dials : d.dials_most;
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    printf("{\"dials_most\": %llu, ", (unsigned long long)d.dials_most);
    printf("\"good\": %lu, \"refused\": %lu, \"broken\": %lu, \"late\": %lu, \"last_code\": %lu, "
           "\"last_bad\": %lld, \"ms\": %lld, \"errors\": {",
           d.good, d.refused, d.broken, d.late, d.last_code, (long long)d.last_bad,
           (long long)(now_ms() - d.start));
    const char *comma = "";
    for (int i = 0; i < ERRORS_MAX; i++)
        if (d.codes[i]) {
            printf("%s\"%s\": %lu", comma, moor_err_name((moor_err)i), d.codes[i]);
            comma = ", ";
        }
    printf("}}\n");
}

/* ---- commands ---- */

static void run(char **w, int count)
{
    if (!strcmp(w[0], "open"))
        do_open(w, count);
    else if (!strcmp(w[0], "close"))
        do_close(w);
    else if (!strcmp(w[0], "acquire"))
        do_acquire(w, count);
    else if (!strcmp(w[0], "query"))
        do_query(w);
    else if (!strcmp(w[0], "leave"))
        printf("%d\n", mysql_query(leases[lease_of(w[1])].my, w[2]));
    else if (!strcmp(w[0], "send"))
        printf("%d\n", mysql_send_query(leases[lease_of(w[1])].my, w[2], strlen(w[2])));
    else if (!strcmp(w[0], "big"))
        do_big(w);
    else if (!strcmp(w[0], "charset"))
        printf("%s\n", mysql_character_set_name(leases[lease_of(w[1])].my));
    else if (!strcmp(w[0], "suspend"))
        do_suspend(w);
    else if (!strcmp(w[0], "become"))
        printf("%d\n", mysql_change_user(leases[lease_of(w[1])].my, w[2], w[3], "shop"));
    else if (!strcmp(w[0], "prepare") || !strcmp(w[0], "closed"))
        do_prepare(w);
    else if (!strcmp(w[0], "report"))
        moor_mysql_report(leases[lease_of(w[1])].lease), printf("reported\n");
    else if (!strcmp(w[0], "release"))
        do_release(w);
    else if (!strcmp(w[0], "warm"))
        printf("%s\n", moor_err_name(
                           moor_pool_warm(pool_of(w[1]), (uint32_t)atol(w[2]), 20000, NULL, NULL)));
    else if (!strcmp(w[0], "stats"))
        do_stats(w);
    else if (!strcmp(w[0], "snapshot"))
        do_snapshot(w);
    else if (!strcmp(w[0], "load"))
        do_load(w);
    else
        printf("what is %s\n", w[0]);
}

int main(void)
{
    static char line[8192];
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 1;
    o.shard_pin = false;
    o.on_log = on_log;
    char text[256];
    if (moor_runtime_options_from_env(&o, text, sizeof text) || moor_runtime_create(&o, &runtime) ||
        moor_driver_use(runtime, moor_mysql_driver()))
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    setvbuf(stderr, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin)) {
        char *words[WORDS_MAX] = {line}, *at = line;
        int count = 1;
        line[strcspn(line, "\n")] = '\0';
        while (count < WORDS_MAX && (at = strchr(at, '\t'))) {
            *at++ = '\0';
            words[count++] = at;
        }
        run(words, count);
    }
    for (int i = 0; i < POOLS_MAX; i++)
        if (pools[i].pool && moor_pool_close(pools[i].pool, 5000))
            return 3;
    while (left_count)
        mysql_stmt_close(left[--left_count]);
    return moor_runtime_destroy(runtime, 5000) ? 4 : 0;
}
