/*
 * What a redis pool was opened with: its options and its URL's.
 * Written by open, only read after that, by any thread. Holds no secret.
 */
#include "drivers/redis/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLY_BYTES_MIN 1024ull
#define REPLY_BYTES_TOP (4ull << 30)

void moor_redis_options_init_sized(moor_redis_options *o, size_t size)
{
    moor_redis_options all = {.size = size,
                              .reset = MOOR_REDIS_RESET_MARKED,
                              .protocol = 2,
                              .reply_bytes_max = 64u << 20};
    memcpy(o, &all, size < sizeof all ? size : sizeof all);
}

static bool set_number(const char *text, unsigned long long min, unsigned long long max,
                       unsigned long long *out)
{
    unsigned long long n = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || n > max / 10)
            return false;
        n = n * 10 + (unsigned)(*text - '0');
    }
    *out = n;
    return n >= min && n <= max;
}

static bool set_reset(const char *text, moor_redis_reset *out)
{
    static const char *const names[] = {[MOOR_REDIS_RESET_MARKED] = "marked",
                                        [MOOR_REDIS_RESET_ALWAYS] = "always",
                                        [MOOR_REDIS_RESET_NEVER] = "never"};
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!strcmp(text, names[i])) {
            *out = (moor_redis_reset)i;
            return true;
        }
    }
    return false;
}

/* Every key of the query has to be known: a misspelt one would be no option at all. */
static bool are_keys_known(const char *query, char *why, size_t cap)
{
    static const char *const keys[] = {"client_name", "reset", "protocol", "reply_bytes_max"};
    for (const char *at = query; *at;) {
        const size_t pair = strcspn(at, "&"), len = strcspn(at, "=&");
        bool is_known = pair == 0;
        for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++)
            is_known = is_known || (strlen(keys[i]) == len && !memcmp(at, keys[i], len));
        if (!is_known) {
            snprintf(why, cap, "redis: the URL's query has an unknown option %.*s",
                     (int)(len < 40 ? len : 40), at);
            return false;
        }
        at += pair + (at[pair] == '&');
    }
    return true;
}

static moor_err refuse(char *why, size_t cap, const char *text)
{
    snprintf(why, cap, "redis: %s", text);
    return MOOR_EINVAL;
}

static moor_err read_query(struct redis_config *c, const char *query, char *why, size_t cap)
{
    char text[256];
    unsigned long long n;
    if (!are_keys_known(query, why, cap))
        return MOOR_EINVAL;
    if (strstr(query, "client_name=") &&
        !moor_driver_query(query, "client_name", c->client_name, sizeof c->client_name))
        return refuse(why, cap, "client_name is longer than 255 bytes");
    if (moor_driver_query(query, "reset", text, sizeof text) && !set_reset(text, &c->reset))
        return refuse(why, cap, "reset is marked, always or never");
    if (moor_driver_query(query, "protocol", text, sizeof text)) {
        if (!set_number(text, 2, 3, &n))
            return refuse(why, cap, "protocol is 2 or 3");
        c->protocol = (unsigned)n;
    }
    if (moor_driver_query(query, "reply_bytes_max", text, sizeof text)) {
        if (!set_number(text, REPLY_BYTES_MIN, REPLY_BYTES_TOP, &n))
            return refuse(why, cap, "reply_bytes_max is out of range: 1024..4294967296");
        c->reply_bytes_max = (size_t)n;
    }
    return MOOR_OK;
}

/* The server refuses such a name later, and less plainly. */
static bool is_name(const char *s)
{
    for (; *s; s++)
        if (*s <= ' ' || *s > '~')
            return false;
    return true;
}

static moor_err check(const struct redis_config *c, char *why, size_t cap)
{
    if (!is_name(c->client_name))
        return refuse(why, cap, "client_name has a space or what is not printable");
    if (c->protocol != 2 && c->protocol != 3)
        return refuse(why, cap, "protocol is 2 or 3");
    if (c->reset < MOOR_REDIS_RESET_MARKED || c->reset > MOOR_REDIS_RESET_NEVER)
        return refuse(why, cap, "reset is marked, always or never");
    if (c->reply_bytes_max < REPLY_BYTES_MIN || c->reply_bytes_max > REPLY_BYTES_TOP)
        return refuse(why, cap, "reply_bytes_max is out of range: 1024..4294967296");
#if HIREDIS_MAJOR < 1
    if (c->protocol == 3) {
        refuse(why, cap, "protocol 3 needs hiredis 1.0 or later; built with 0.x");
        return MOOR_ENOSYS;
    }
#endif
    return MOOR_OK;
}

moor_err redis_config_open(const moor_driver_url *url, const void *given, void **out_config,
                           char *why, size_t why_cap)
{
    moor_redis_options o;
    unsigned long long database = 0;
    moor_redis_options_init(&o);
    if (given) {
        const moor_redis_options *theirs = given;
        memcpy(&o, theirs, theirs->size < sizeof o ? theirs->size : sizeof o);
    }
    if (o.client_name && strlen(o.client_name) > 255)
        return refuse(why, why_cap, "client_name is longer than 255 bytes");
    if (*url->path && !set_number(url->path, 0, REDIS_DATABASE_MAX, &database))
        return refuse(why, why_cap,
                      "the URL's path is the number of a database, as in redis://host/2");
    struct redis_config *c = calloc(1, sizeof *c);
    if (!c)
        return MOOR_ENOMEM;
    c->reset = o.reset;
    c->protocol = o.protocol;
    c->database = (unsigned)database;
    c->reply_bytes_max = o.reply_bytes_max;
    snprintf(c->client_name, sizeof c->client_name, "%s", o.client_name ? o.client_name : "");
    moor_err e = read_query(c, url->query, why, why_cap);
    if (!e)
        e = check(c, why, why_cap);
    if (e)
        free(c);
    else
        *out_config = c;
    return e;
}

void redis_config_shut(void *config)
{
    free(config);
}
