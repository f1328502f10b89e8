/*
 * What a command does to its connection: one table, by name. Pure.
 * A name it does not know is taken for a plain command; modules with blocking ones belong into a session.
 */
#include "drivers/redis/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct word {
    const char *name;
    unsigned kind;
};

#define NAME_MAX_LEN 20

/* Sorted by name. */
static const struct word words[] = {
    {"ASKING", REDIS_STATE},
    {"AUTH", REDIS_STATE},
    {"BLMOVE", REDIS_BLOCKS},
    {"BLMPOP", REDIS_BLOCKS},
    {"BLPOP", REDIS_BLOCKS},
    {"BRPOP", REDIS_BLOCKS},
    {"BRPOPLPUSH", REDIS_BLOCKS},
    {"BZMPOP", REDIS_BLOCKS},
    {"BZPOPMAX", REDIS_BLOCKS},
    {"BZPOPMIN", REDIS_BLOCKS},
    {"DISCARD", REDIS_CLOSES},
    {"EXEC", REDIS_CLOSES},
    {"HELLO", REDIS_STATE},
    {"HOST:", REDIS_LAST},
    {"MONITOR", REDIS_LISTENS},
    {"MULTI", REDIS_MULTI},
    {"POST", REDIS_LAST},
    {"PSUBSCRIBE", REDIS_LISTENS},
    {"PSYNC", REDIS_NO_ORDER},
    {"PUNSUBSCRIBE", REDIS_LISTENS},
    {"QUIT", REDIS_LAST},
    {"READONLY", REDIS_STATE},
    {"READWRITE", REDIS_STATE},
    {"REPLCONF", REDIS_NO_ORDER},
    {"RESET", REDIS_STATE},
    {"SELECT", REDIS_STATE},
    {"SSUBSCRIBE", REDIS_LISTENS},
    {"SUBSCRIBE", REDIS_LISTENS},
    {"SUNSUBSCRIBE", REDIS_LISTENS},
    {"SYNC", REDIS_NO_ORDER},
    {"UNSUBSCRIBE", REDIS_LISTENS},
    {"UNWATCH", REDIS_UNWATCH},
    {"WAIT", REDIS_BLOCKS},
    {"WAITAOF", REDIS_BLOCKS},
    {"WATCH", REDIS_WATCH},
};

static bool is_word(moor_span s, const char *word)
{
    return s.len == strlen(word) && !strncasecmp(s.base, word, s.len);
}

static int compare(const void *key, const void *element)
{
    const char *name = key;
    const struct word *w = element;
    return strcmp(name, w->name);
}

static moor_span arg(int i, const char *const *argv, const size_t *argvlen)
{
    return (moor_span){argv[i], argvlen ? argvlen[i] : strlen(argv[i])};
}

/* CLIENT: what only asks, or is about other connections, is plain; REPLY takes replies away. */
static unsigned client_kind(int argc, const char *const *argv, const size_t *argvlen)
{
    static const char *const plain[] = {"GETNAME",      "GETREDIR", "HELP",    "ID",
                                        "INFO",         "KILL",     "LIST",    "PAUSE",
                                        "TRACKINGINFO", "UNBLOCK",  "UNPAUSE", "SETINFO"};
    const moor_span sub = argc > 1 ? arg(1, argv, argvlen) : (moor_span){"", 0};
    if (is_word(sub, "REPLY"))
        return REDIS_NO_ORDER;
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        if (is_word(sub, plain[i]))
            return 0;
    return REDIS_STATE;
}

/* XREAD and XREADGROUP block if they say so, read as the server reads them: an option's values are skipped. */
static unsigned stream_kind(int argc, const char *const *argv, const size_t *argvlen)
{
    for (int i = 1; i < argc; i++) {
        const moor_span a = arg(i, argv, argvlen);
        if (is_word(a, "BLOCK"))
            return REDIS_BLOCKS;
        if (is_word(a, "STREAMS"))
            return 0;
        if (is_word(a, "COUNT"))
            i++;
        else if (is_word(a, "GROUP"))
            i += 2;
    }
    return 0;
}

unsigned redis_kind(int argc, const char *const *argv, const size_t *argvlen)
{
    char upper[NAME_MAX_LEN];
    const moor_span name = arg(0, argv, argvlen);
    if (name.len >= sizeof upper)
        return 0;
    for (size_t i = 0; i < name.len; i++) {
        const char c = ((const char *)name.base)[i];
        upper[i] = c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
    }
    upper[name.len] = 0;
    const struct word *w =
        bsearch(upper, words, sizeof words / sizeof words[0], sizeof words[0], compare);
    if (w)
        return w->kind;
    if (!strcmp(upper, "CLIENT"))
        return client_kind(argc, argv, argvlen);
    if (!strcmp(upper, "XREAD") || !strcmp(upper, "XREADGROUP"))
        return stream_kind(argc, argv, argvlen);
    /* SCRIPT DEBUG makes the next EVAL speak another protocol. */
    if (!strcmp(upper, "SCRIPT") && argc > 1 && is_word(arg(1, argv, argvlen), "DEBUG"))
        return REDIS_NO_ORDER;
    return 0;
}

bool redis_kind_is_shareable(unsigned kind, const char *name, size_t len, char *why, size_t cap)
{
    if (!kind)
        return true;
    const char *text = kind & REDIS_BLOCKS     ? "would make others wait"
                       : kind & REDIS_LISTENS  ? "puts replies out of order"
                       : kind & REDIS_NO_ORDER ? "takes replies away"
                       : kind & REDIS_LAST     ? "ends the connection"
                                               : "changes the state of the connection";
    if (why && cap)
        snprintf(why, cap, "%.*s %s, which is shared: use a session (moor_redis_begin)",
                 (int)(len < NAME_MAX_LEN ? len : NAME_MAX_LEN), name, text);
    return false;
}
