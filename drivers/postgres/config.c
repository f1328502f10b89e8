/*
 * What a pool's URL and options come to: checked once, on the thread that opens the pool, so that no connect can
 * fail for a word that nobody could ever have accepted. Does no network I/O.
 */
#include "drivers/postgres/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void moor_postgres_options_init_sized(moor_postgres_options *o, size_t size)
{
    const moor_postgres_options defaults = {
        .size = size, .reset = MOOR_POSTGRES_RESET_MARKED, .reset_sql = "DISCARD ALL"};
    memset(o, 0, size);
    memcpy(o, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

/* Keywords of libpq's that are not the query's to give, and what is. */
static const struct {
    const char *keyword, *instead;
} refused[] = {
    {"host", "the host stands after the '@'; a directory of sockets with %2F for '/'"},
    {"hostaddr", "the pool resolves the host itself"},
    {"port", "the port stands after the host"},
    {"user", "the user stands before the '@', or in the credentials hook"},
    {"password", "it stands before the '@', or in the credentials hook"},
    {"dbname", "the database is the path"},
    {"connect_timeout", "the pool's option connect_timeout_ms bounds a connect"},
    {"service", "write out what the service file says"},
    {"servicefile", "write out what the service file says"},
    {"replication", "a walsender cannot be shared"},
};

/* What libpq reads as numbers, and would only complain of in mid-connect. */
static const char *const numbers[] = {"keepalives", "keepalives_idle", "keepalives_interval",
                                      "keepalives_count", "tcp_user_timeout"};

static moor_err copy_text(const char *text, char **out)
{
    *out = text ? strdup(text) : NULL;
    return text && !*out ? MOOR_ENOMEM : MOOR_OK;
}

bool pg_has_word(const struct pg_config *c, const char *keyword)
{
    for (size_t i = 0; i < c->words; i++)
        if (!strcmp(c->keys[i], keyword))
            return true;
    return false;
}

static bool is_number(const char *text)
{
    char *end = NULL;
    (void)strtol(text, &end, 10);
    return end != text && !*end;
}

static moor_err check_word(const struct pg_config *c, const char *key, const char *value, char *why,
                           size_t cap)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (!strcmp(refused[i].keyword, key)) {
            snprintf(why, cap, "%s is not for the query: %s", key, refused[i].instead);
            return MOOR_EINVAL;
        }
    }
    if (pg_has_word(c, key)) {
        snprintf(why, cap, "%s is there twice", key);
        return MOOR_EINVAL;
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!strcmp(numbers[i], key) && !is_number(value)) {
            snprintf(why, cap, "%s is not a number", key);
            return MOOR_EINVAL;
        }
    }
    return MOOR_OK;
}

/* One "key=value" of the query, at `word`, up to `end`. */
static moor_err add_word(struct pg_config *c, const char *query, const char *word, const char *end,
                         char *why, size_t cap)
{
    char key[64], value[PG_VALUE_MAX];
    const char *equals = memchr(word, '=', (size_t)(end - word));
    const size_t len = (size_t)((equals ? equals : end) - word);
    if (!equals || !len || len >= sizeof key) {
        snprintf(why, cap, "\"%.*s\" in the query is not keyword=value", (int)(len < 64 ? len : 64),
                 word);
        return MOOR_EINVAL;
    }
    memcpy(key, word, len);
    key[len] = '\0';
    if (!moor_driver_query(query, key, value, sizeof value)) {
        snprintf(why, cap, "the value of %s is badly encoded or longer than %d bytes", key,
                 PG_VALUE_MAX - 1);
        return MOOR_EINVAL;
    }
    moor_err e = check_word(c, key, value, why, cap);
    if (e == MOOR_OK && c->words == PG_WORDS_MAX) {
        snprintf(why, cap, "more than %d keywords", PG_WORDS_MAX);
        e = MOOR_EINVAL;
    }
    if (e == MOOR_OK)
        e = copy_text(key, &c->keys[c->words]);
    if (e == MOOR_OK) {
        e = copy_text(value, &c->values[c->words]);
        c->words++; /* shut frees what there is of it */
    }
    explicit_bzero(value, sizeof value); /* sslpassword, for one */
    return e;
}

static moor_err add_words(struct pg_config *c, const char *query, char *why, size_t cap)
{
    moor_err e = MOOR_OK;
    for (const char *word = query; e == MOOR_OK && *word;) {
        const char *end = word + strcspn(word, "&");
        if (end > word)
            e = add_word(c, query, word, end, why, cap);
        word = *end ? end + 1 : end;
    }
    return e;
}

/* libpq checks keywords before it looks at the address, and one that is not numeric ends the attempt before it
 * becomes one, since libpq never resolves a hostaddr: if that is what it complains of, the keywords are right. */
static moor_err ask_libpq(const struct pg_config *c, char *why, size_t cap)
{
    static const char nowhere[] = "mooring asks only whether the keywords are right";
    char said[512];
    const char *keys[PG_WORDS_MAX + 4] = {"hostaddr", "port", "passfile"};
    const char *values[PG_WORDS_MAX + 4] = {nowhere, "5432", "/dev/null/none"};
    for (size_t i = 0; i < c->words; i++) {
        keys[3 + i] = c->keys[i];
        values[3 + i] = c->values[i];
    }
    PGconn *conn = PQconnectStartParams(keys, values, 0);
    if (!conn)
        return MOOR_ENOMEM;
    snprintf(said, sizeof said, "%.*s", (int)strcspn(PQerrorMessage(conn), "\n"),
             PQerrorMessage(conn));
    PQfinish(conn);
    if (strstr(said, nowhere))
        return MOOR_OK;
    snprintf(why, cap, "libpq refuses the query: %s", said);
    return MOOR_EINVAL;
}

static moor_err choose_user(struct pg_config *c, const char *user)
{
    if (*user)
        return copy_text(user, &c->user);
    /* Now, not in each connect: the list of users may be a directory server's. */
    PQconninfoOption *all = PQconndefaults();
    moor_err e = all ? MOOR_OK : MOOR_ENOMEM;
    for (const PQconninfoOption *o = all; e == MOOR_OK && o->keyword; o++)
        if (!strcmp(o->keyword, "user"))
            e = copy_text(o->val, &c->user);
    PQconninfoFree(all);
    return e;
}

static void choose_role(struct pg_config *c)
{
    for (size_t i = 0; i < c->words; i++) {
        if (strcmp(c->keys[i], "target_session_attrs") != 0)
            continue;
        if (!strcmp(c->values[i], "primary") || !strcmp(c->values[i], "read-write"))
            c->role = PG_ROLE_PRIMARY;
        else if (!strcmp(c->values[i], "standby"))
            c->role = PG_ROLE_STANDBY;
    }
}

static moor_err take_options(struct pg_config *c, const moor_postgres_options *given, char *why,
                             size_t cap)
{
    moor_postgres_options o;
    moor_postgres_options_init(&o);
    if (given) {
        if (given->size < sizeof given->size || given->size > 4096) {
            snprintf(why, cap, "driver_config was not set up by moor_postgres_options_init");
            return MOOR_EINVAL;
        }
        memcpy(&o, given, given->size < sizeof o ? given->size : sizeof o);
    }
    if ((unsigned)o.reset > MOOR_POSTGRES_RESET_NEVER) {
        snprintf(why, cap, "moor_postgres_options.reset is none of its values");
        return MOOR_EINVAL;
    }
    c->reset = o.reset;
    moor_err e = copy_text(o.reset_sql ? o.reset_sql : "DISCARD ALL", &c->reset_sql);
    if (e == MOOR_OK && o.prepare_sql && *o.prepare_sql)
        e = copy_text(o.prepare_sql, &c->prepare_sql);
    return e;
}

moor_err pg_open(const moor_driver_url *url, const void *options, void **out, char *why,
                 size_t why_cap)
{
    const char *address = getenv("PGHOSTADDR");
    if (url->host[0] == '/' && address && *address) {
        snprintf(why, why_cap, "PGHOSTADDR is set: libpq would prefer it to the socket %s",
                 url->host);
        return MOOR_EINVAL;
    }
    struct pg_config *c = calloc(1, sizeof *c);
    moor_err e = c ? take_options(c, options, why, why_cap) : MOOR_ENOMEM;
    if (e == MOOR_OK)
        e = add_words(c, url->query, why, why_cap);
    if (e == MOOR_OK)
        e = ask_libpq(c, why, why_cap);
    if (e == MOOR_OK && *url->path)
        e = copy_text(url->path, &c->database);
    if (e == MOOR_OK)
        e = choose_user(c, url->user);
    if (e != MOOR_OK) {
        if (e == MOOR_ENOMEM)
            snprintf(why, why_cap, "out of memory");
        pg_shut(c);
        return e;
    }
    choose_role(c);
    *out = c;
    return MOOR_OK;
}

void pg_shut(void *config)
{
    struct pg_config *c = config;
    if (!c)
        return;
    for (size_t i = 0; i < c->words; i++) {
        if (c->values[i])
            explicit_bzero(c->values[i], strlen(c->values[i]));
        free(c->keys[i]);
        free(c->values[i]);
    }
    free(c->reset_sql);
    free(c->prepare_sql);
    free(c->database);
    free(c->user);
    free(c);
}
