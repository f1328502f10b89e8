/*
 * Owns a mysql pool's configuration: reads it from the URL and the program's options, once, and refuses what it
 * does not know. Thread of moor_pool_open. Keeps no password: each connect gets its own.
 */
#include "drivers/mysql/internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* MYSQL_CLIENT_AUTHENTICATION_PLUGIN of <mysql/client_plugin.h>, which includes a header that Debian does not
 * install. */
#define AUTHENTICATION_PLUGIN 2

/* What an option's value must be. */
enum kind { TEXT, FILE_NAME, CHARSET, TLS_VERSION };

static const struct {
    const char *key;
    enum kind kind;
} text_options[MR_MYSQL_TEXTS] = {
    [MR_MYSQL_SSL_CA] = {"ssl-ca", FILE_NAME},
    [MR_MYSQL_SSL_CAPATH] = {"ssl-capath", FILE_NAME},
    [MR_MYSQL_SSL_CERT] = {"ssl-cert", FILE_NAME},
    [MR_MYSQL_SSL_KEY] = {"ssl-key", FILE_NAME},
    [MR_MYSQL_SSL_CRL] = {"ssl-crl", FILE_NAME},
    [MR_MYSQL_SSL_CIPHER] = {"ssl-cipher", TEXT},
    [MR_MYSQL_TLS_VERSION] = {"tls-version", TLS_VERSION},
    [MR_MYSQL_CHARSET] = {"charset", CHARSET},
    [MR_MYSQL_PLUGIN_DIR] = {"plugin-dir", FILE_NAME},
    [MR_MYSQL_PUBLIC_KEY] = {"server-public-key", FILE_NAME},
    [MR_MYSQL_AUTH] = {"auth", TEXT},
};

static const char *const tls_names[] = {"disabled",  "preferred",       "required",
                                        "verify-ca", "verify-identity", NULL};
static const char *const tls_versions[] = {"TLSv1.2", "TLSv1.3", "TLSv1.2,TLSv1.3", NULL};
static const char *const reset_names[] = {"marked", "always", "never", NULL};
static const char *const switch_names[] = {"false", "true", "0", "1", NULL};

/* Plugins that never send what a listener or an impostor could use as the password. The other two send it as it
 * is over TLS, and without TLS encrypted to a key that whoever answers may choose. */
static const char auth_safe[] = "mysql_native_password,client_ed25519";
static const char auth_all[] =
    "mysql_native_password,client_ed25519,caching_sha2_password,sha256_password";

static moor_err refuse(char *why, size_t cap, const char *key, const char *what)
{
    snprintf(why, cap, "%s %s", key, what);
    return MOOR_EINVAL;
}

static moor_err copy_text(const char *text, char **out)
{
    *out = strdup(text);
    return *out ? MOOR_OK : MOOR_ENOMEM;
}

/* Index of value among names, -1 if it is none. */
static int find(const char *const *names, const char *value)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], value))
            return i;
    return -1;
}

static moor_err read_choice(const char *const *names, const char *key, const char *value, int *out,
                            char *why, size_t cap)
{
    *out = find(names, value);
    if (*out >= 0)
        return MOOR_OK;
    char list[128] = "";
    for (size_t i = 0, at = 0; names[i] && at < sizeof list; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", names[i]);
    snprintf(why, cap, "%s is one of %s", key, list);
    return MOOR_EINVAL;
}

static moor_err read_switch(const char *key, const char *value, bool *out, char *why, size_t cap)
{
    int at = 0;
    const moor_err e = read_choice(switch_names, key, value, &at, why, cap);
    *out = at & 1;
    return e;
}

static moor_err read_number(const char *key, const char *value, unsigned long min,
                            unsigned long max, unsigned long *out, char *why, size_t cap)
{
    char *end;
    errno = 0;
    const unsigned long number = strtoul(value, &end, 10);
    if (errno || end == value || *end || value[0] < '0' || value[0] > '9' || number < min ||
        number > max) {
        snprintf(why, cap, "%s is a number from %lu to %lu", key, min, max);
        return MOOR_EINVAL;
    }
    *out = number;
    return MOOR_OK;
}

static moor_err add_text(struct mr_mysql_config *c, size_t at, const char *value, char *why,
                         size_t cap)
{
    const char *key = text_options[at].key;
    switch (text_options[at].kind) {
    case FILE_NAME:
        /* libmariadb would say so too, but only when it connects. */
        if (access(value, R_OK)) {
            snprintf(why, cap, "%s: %.128s: %s", key, value, strerror(errno));
            return MOOR_EINVAL;
        }
        break;
    case CHARSET:
        if (!mariadb_get_charset_by_name(value))
            return refuse(why, cap, key, "is a character set that libmariadb does not know");
        break;
    case TLS_VERSION:
        if (find(tls_versions, value) < 0)
            return refuse(why, cap, key, "is TLSv1.2, TLSv1.3 or TLSv1.2,TLSv1.3");
        break;
    case TEXT:
        break;
    }
    return copy_text(value, &c->text[at]);
}

static moor_err add_other(struct mr_mysql_config *c, const char *key, const char *value, char *why,
                          size_t cap)
{
    int choice = 0;
    bool on = false;
    unsigned long number = 0;
    moor_err e = MOOR_OK;
    if (!strcmp(key, "ssl-mode")) {
        e = read_choice(tls_names, key, value, &choice, why, cap);
        c->tls = (enum mr_mysql_tls)choice;
    } else if (!strcmp(key, "reset")) {
        e = read_choice(reset_names, key, value, &choice, why, cap);
        c->reset = (moor_mysql_reset)choice;
    } else if (!strcmp(key, "packet-max")) {
        e = read_number(key, value, 65536, 1UL << 30, &c->packet_max, why, cap);
    } else if (!strcmp(key, "read-timeout")) {
        e = read_number(key, value, 1, 86400, &number, why, cap);
        c->read_timeout_s = (unsigned)number;
    } else if (!strcmp(key, "write-timeout")) {
        e = read_number(key, value, 1, 86400, &number, why, cap);
        c->write_timeout_s = (unsigned)number;
    } else if (!strcmp(key, "compress")) {
        e = read_switch(key, value, &c->compress, why, cap);
    } else if (!strcmp(key, "local-infile")) {
        e = read_switch(key, value, &c->local_infile, why, cap);
    } else if (!strcmp(key, "found-rows")) {
        e = read_switch(key, value, &on, why, cap);
        c->client_flags |= on ? CLIENT_FOUND_ROWS : 0;
    } else if (!strcmp(key, "multi-statements")) {
        e = read_switch(key, value, &on, why, cap);
        c->client_flags |= on ? CLIENT_MULTI_STATEMENTS : 0;
    } else {
        e = refuse(why, cap, key, "is not an option of mysql pools");
    }
    return e;
}

/* Whether `key` stands in the query before `word`. */
static bool is_repeated(const char *query, const char *word, const char *key)
{
    const size_t len = strlen(key);
    for (const char *at = query; at < word; at += strcspn(at, "&"), at += *at == '&')
        if (!strncmp(at, key, len) && at[len] == '=')
            return true;
    return false;
}

/* One "key=value" of the query, at `word`, up to `end`. */
static moor_err add_word(struct mr_mysql_config *c, const char *query, const char *word,
                         const char *end, char *why, size_t cap)
{
    char key[64], value[MR_MYSQL_VALUE_MAX];
    const char *equals = memchr(word, '=', (size_t)(end - word));
    const size_t len = (size_t)((equals ? equals : end) - word);
    if (!equals || !len || len >= sizeof key) {
        snprintf(why, cap, "\"%.*s\" in the query is not option=value", (int)(len < 64 ? len : 64),
                 word);
        return MOOR_EINVAL;
    }
    memcpy(key, word, len);
    key[len] = '\0';
    if (is_repeated(query, word, key))
        return refuse(why, cap, key, "is there twice");
    if (!moor_driver_query(query, key, value, sizeof value)) {
        snprintf(why, cap, "the value of %s is badly encoded or longer than %d bytes", key,
                 MR_MYSQL_VALUE_MAX - 1);
        return MOOR_EINVAL;
    }
    for (size_t i = 0; i < MR_MYSQL_TEXTS; i++)
        if (!strcmp(key, text_options[i].key))
            return add_text(c, i, value, why, cap);
    return add_other(c, key, value, why, cap);
}

static moor_err add_words(struct mr_mysql_config *c, const char *query, char *why, size_t cap)
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

/* What goes with what, and what follows from it. */
static moor_err complete(struct mr_mysql_config *c, bool is_path, char *why, size_t cap)
{
    const bool has_roots = c->text[MR_MYSQL_SSL_CA] || c->text[MR_MYSQL_SSL_CAPATH];
    if (c->tls == MR_MYSQL_TLS_VERIFY_CA && !has_roots)
        return refuse(why, cap, "ssl-mode=verify-ca", "needs ssl-ca or ssl-capath");
    if (c->tls == MR_MYSQL_TLS_VERIFY_IDENTITY && is_path)
        return refuse(why, cap, "ssl-mode=verify-identity",
                      "needs a host: a socket path has no name");
    if (c->tls == MR_MYSQL_TLS_DISABLED)
        for (size_t i = MR_MYSQL_SSL_CA; i <= MR_MYSQL_TLS_VERSION; i++)
            if (c->text[i])
                return refuse(why, cap, text_options[i].key,
                              "is of no use without TLS: set ssl-mode");
    if (!c->text[MR_MYSQL_SSL_CERT] != !c->text[MR_MYSQL_SSL_KEY])
        return refuse(why, cap, "ssl-cert and ssl-key", "go together");
    moor_err e = MOOR_OK;
    if (!c->text[MR_MYSQL_CHARSET])
        e = copy_text("utf8mb4", &c->text[MR_MYSQL_CHARSET]);
    if (!e && !c->text[MR_MYSQL_TLS_VERSION] && c->tls != MR_MYSQL_TLS_DISABLED)
        e = copy_text("TLSv1.2,TLSv1.3", &c->text[MR_MYSQL_TLS_VERSION]);
    if (!e && !c->text[MR_MYSQL_AUTH]) {
        const bool guarded =
            c->tls >= MR_MYSQL_TLS_REQUIRED || is_path || c->text[MR_MYSQL_PUBLIC_KEY];
        e = copy_text(guarded ? auth_all : auth_safe, &c->text[MR_MYSQL_AUTH]);
    }
    return e;
}

/* Plugins come out of files: now, and not when a keeper meets the first server that asks for one. What cannot
 * be loaded is told by the connect that needs it. */
static void load_plugins(const struct mr_mysql_config *c)
{
    MYSQL *my = mysql_init(NULL);
    if (!my)
        return;
    if (c->text[MR_MYSQL_PLUGIN_DIR])
        mysql_optionsv(my, MYSQL_PLUGIN_DIR, c->text[MR_MYSQL_PLUGIN_DIR]);
    for (const char *at = c->text[MR_MYSQL_AUTH]; *at; at += strcspn(at, ","), at += *at == ',') {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(at, ","), at);
        (void)mysql_client_find_plugin(my, name, AUTHENTICATION_PLUGIN);
    }
    mysql_close(my);
}

/* Asked of libmariadb itself, which need not have been built with OpenSSL, nor with the program's. */
static void find_forget_errors(struct mr_mysql_config *c)
{
    Dl_info at;
    void *library =
        dladdr((void *)mysql_init, &at) ? dlopen(at.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    if (!library)
        return;
    void *found = dlsym(library, "ERR_clear_error");
    memcpy(&c->forget_errors, &found, sizeof found);
    dlclose(library); /* it stays: this links it */
}

static moor_err take_options(struct mr_mysql_config *c, const moor_mysql_options *given, char *why,
                             size_t cap)
{
    moor_mysql_options o;
    moor_mysql_options_init(&o);
    if (given) {
        if (given->size < offsetof(moor_mysql_options, reset) + sizeof given->reset)
            return refuse(why, cap, "driver_config", "was not filled by moor_mysql_options_init");
        memcpy(&o, given, given->size < sizeof o ? given->size : sizeof o);
    }
    if ((unsigned)o.reset > MOOR_MYSQL_RESET_NEVER)
        return refuse(why, cap, "moor_mysql_options.reset", "is none of the policies");
    c->reset = o.reset;
    return o.prepare_sql && *o.prepare_sql ? copy_text(o.prepare_sql, &c->prepare_sql) : MOOR_OK;
}

moor_err mr_mysql_open(const moor_driver_url *url, const void *options, void **out, char *why,
                       size_t why_cap)
{
    /* Once for all, and here: it asks for the service "mysql" by name. */
    if (mysql_library_init(0, NULL, NULL)) {
        snprintf(why, why_cap, "libmariadb does not start");
        return MOOR_ENOMEM;
    }
    const bool is_path = url->host[0] == '/';
    if (strlen(url->path) >= MR_MYSQL_DB_MAX)
        return refuse(why, why_cap, "the database", "has a name that is too long");
    struct mr_mysql_config *c = calloc(1, sizeof *c);
    if (!c)
        return MOOR_ENOMEM;
    c->tls = is_path ? MR_MYSQL_TLS_DISABLED : MR_MYSQL_TLS_PREFERRED;
    c->packet_max = MR_MYSQL_PACKET_MAX;
    moor_err e = copy_text(url->path, &c->database);
    if (!e)
        e = take_options(c, options, why, why_cap);
    if (!e)
        e = add_words(c, url->query, why, why_cap);
    if (!e)
        e = complete(c, is_path, why, why_cap);
    if (e) {
        mr_mysql_shut(c);
        return e;
    }
    load_plugins(c);
    find_forget_errors(c);
    *out = c;
    return MOOR_OK;
}

void mr_mysql_shut(void *config)
{
    struct mr_mysql_config *c = config;
    free(c->prepare_sql);
    free(c->database);
    for (size_t i = 0; i < MR_MYSQL_TEXTS; i++)
        free(c->text[i]);
    free(c);
}
