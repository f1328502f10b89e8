/*
 * The table of options, and one option at a time: reading, writing, parsing, checking, printing.
 * Any thread; owns nothing. Must not read the environment: base/options_env.c does.
 */
#include "base/options.h"
#include "base/assert.h"
#include "base/span.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- the table ---- */

#define CTYPE_U32          uint32_t
#define CTYPE_U32_AUTO     uint32_t
#define CTYPE_US           uint32_t
#define CTYPE_S            uint32_t
#define CTYPE_PERCENT      uint32_t
#define CTYPE_MS           moor_ms
#define CTYPE_MS_FOREVER   moor_ms
#define CTYPE_BYTES        size_t
#define CTYPE_BYTES_POW2   size_t
#define CTYPE_BOOL         bool
#define CTYPE_TEXT         const char *
#define CTYPE_BACKEND      const char *
#define CTYPE_EVICTION     const char *
#define CTYPE_HTTP_VERSION const char *
#define CTYPE_LEVEL        moor_log_level

/* Both structs as the list would declare them: a field forgotten, moved or retyped does not
 * compile. */
struct runtime_twin {
    size_t size;
#define RUNTIME(kind, field, ...) CTYPE_##kind field;
#define POOL(...)
#include "base/options.def"
#undef RUNTIME
#undef POOL
    void (*on_log)(void *user, int level, const char *code, const char *text);
    void *log_user;
};
struct pool_twin {
    size_t size;
    const char *name;
#define RUNTIME(...)
#define POOL(kind, field, ...) CTYPE_##kind field;
#include "base/options.def"
#undef RUNTIME
#undef POOL
    void (*on_event)(void *user, const struct moor_event *e);
    void *event_user;
    moor_span tls_ca_pem, tls_cert_pem, tls_key_pem;
    const void *driver_config;
    moor_pool_hooks hooks;
};
_Static_assert(sizeof(struct runtime_twin) == sizeof(moor_runtime_options), "options.def");
_Static_assert(sizeof(struct pool_twin) == sizeof(moor_pool_options), "options.def");
#define AGREES(type, twin, kind, field)                                                            \
    _Static_assert(offsetof(type, field) == offsetof(struct twin, field) &&                        \
                       _Generic(((type *)0)->field, CTYPE_##kind : 1, default : 0),                \
                   #field " differs between options.def and options.h");
#define RUNTIME(kind, field, ...) AGREES(moor_runtime_options, runtime_twin, kind, field)
#define POOL(kind, field, ...)    AGREES(moor_pool_options, pool_twin, kind, field)
#include "base/options.def"
#undef RUNTIME
#undef POOL

#define DEFAULT_NUMBER(value) .default_number = (value)
#define DEFAULT_U32           DEFAULT_NUMBER
#define DEFAULT_U32_AUTO      DEFAULT_NUMBER
#define DEFAULT_US            DEFAULT_NUMBER
#define DEFAULT_S             DEFAULT_NUMBER
#define DEFAULT_PERCENT       DEFAULT_NUMBER
#define DEFAULT_MS            DEFAULT_NUMBER
#define DEFAULT_MS_FOREVER    DEFAULT_NUMBER
#define DEFAULT_BYTES         DEFAULT_NUMBER
#define DEFAULT_BYTES_POW2    DEFAULT_NUMBER
#define DEFAULT_BOOL          DEFAULT_NUMBER
#define DEFAULT_LEVEL         DEFAULT_NUMBER
#define DEFAULT_TEXT(value)   .default_text = (value)
#define DEFAULT_BACKEND       DEFAULT_TEXT
#define DEFAULT_EVICTION      DEFAULT_TEXT
#define DEFAULT_HTTP_VERSION  DEFAULT_TEXT

#define ENTRY(scope_, type, kind_, field_, variable_, default_, min_, max_, help_, symptom_)       \
    {.scope = scope_,                                                                              \
     .kind = MR_OPTION_##kind_,                                                                    \
     .field = #field_,                                                                             \
     .variable = #variable_,                                                                       \
     .offset = offsetof(type, field_),                                                             \
     .size = sizeof(((type *)0)->field_),                                                          \
     DEFAULT_##kind_(default_),                                                                    \
     .min = (min_),                                                                                \
     .max = (max_),                                                                                \
     .help = help_,                                                                                \
     .symptom = symptom_},
#define RUNTIME(...) ENTRY(MR_OPTION_RUNTIME, moor_runtime_options, __VA_ARGS__)
#define POOL(...)    ENTRY(MR_OPTION_POOL, moor_pool_options, __VA_ARGS__)
const struct mr_option mr_options[] = {
#include "base/options.def"
};
#undef RUNTIME
#undef POOL
const size_t mr_option_count = sizeof mr_options / sizeof *mr_options;

/* ---- defaults ---- */

static void fill_defaults(enum mr_option_scope scope, void *options)
{
    for (size_t i = 0; i < mr_option_count; i++) {
        const struct mr_option *o = &mr_options[i];
        if (o->scope == scope)
            mr_option_set(o, options, (struct mr_option_value){o->default_number, o->default_text});
    }
}

/* A caller built against another version has a struct of another size: fill what it knows. */
static void copy_out(void *to, size_t size, const void *from, size_t known)
{
    memset(to, 0, size);
    memcpy(to, from, size < known ? size : known);
    memcpy(to, &size, sizeof size);
}

void moor_runtime_options_init_sized(moor_runtime_options *o, size_t size)
{
    moor_runtime_options all = {0};
    MR_ASSERT(size >= sizeof all.size);
    fill_defaults(MR_OPTION_RUNTIME, &all);
    copy_out(o, size, &all, sizeof all);
}

void moor_pool_options_init_sized(moor_pool_options *o, size_t size)
{
    moor_pool_options all = {0};
    MR_ASSERT(size >= sizeof all.size);
    fill_defaults(MR_OPTION_POOL, &all);
    copy_out(o, size, &all, sizeof all);
}

/* ---- one value ---- */

bool mr_option_is_text(const struct mr_option *o)
{
    return o->kind == MR_OPTION_TEXT || o->kind == MR_OPTION_BACKEND ||
           o->kind == MR_OPTION_EVICTION || o->kind == MR_OPTION_HTTP_VERSION;
}

struct mr_option_value mr_option_get(const struct mr_option *o, const void *options)
{
    const char *at = (const char *)options + o->offset;
    struct mr_option_value v = {0};
    uint32_t narrow;
    bool on;
    if (mr_option_is_text(o)) {
        memcpy(&v.text, at, sizeof v.text);
    } else if (o->kind == MR_OPTION_BOOL) {
        memcpy(&on, at, sizeof on);
        v.number = on;
    } else if (o->size == sizeof v.number) {
        memcpy(&v.number, at, sizeof v.number);
    } else {
        MR_ASSERT(o->size == sizeof narrow);
        memcpy(&narrow, at, sizeof narrow);
        v.number = narrow;
    }
    return v;
}

void mr_option_set(const struct mr_option *o, void *options, struct mr_option_value v)
{
    char *at = (char *)options + o->offset;
    if (mr_option_is_text(o)) {
        memcpy(at, &v.text, sizeof v.text);
    } else if (o->kind == MR_OPTION_BOOL) {
        const bool on = v.number != 0;
        memcpy(at, &on, sizeof on);
    } else if (o->size == sizeof v.number) {
        memcpy(at, &v.number, sizeof v.number);
    } else {
        const uint32_t narrow = (uint32_t)v.number;
        MR_ASSERT(o->size == sizeof narrow);
        memcpy(at, &narrow, sizeof narrow);
    }
}

/* ---- notation ---- */

struct suffix {
    const char *text; /* lower case */
    int64_t factor;
};
static const struct suffix ms_suffixes[] = {
    {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}, {NULL, 0}};
static const struct suffix s_suffixes[] = {{"h", 3600}, {"m", 60}, {"s", 1}, {NULL, 0}};
static const struct suffix us_suffixes[] = {{"s", 1000000}, {"ms", 1000}, {"us", 1}, {NULL, 0}};
static const struct suffix byte_suffixes[] = {{"gib", 1 << 30}, {"mib", 1 << 20}, {"kib", 1 << 10},
                                              {"b", 1},         {"gb", 1 << 30},  {"mb", 1 << 20},
                                              {"kb", 1 << 10},  {"g", 1 << 30},   {"m", 1 << 20},
                                              {"k", 1 << 10},   {NULL, 0}};
static const struct suffix percent_suffixes[] = {{"%", 1}, {NULL, 0}};
static const struct suffix no_suffixes[] = {{NULL, 0}};

/* The first of a table is printed where it divides the value, so the printed forms come first. */
static const struct suffix *suffixes_of(const struct mr_option *o)
{
    switch (o->kind) {
    case MR_OPTION_MS:
    case MR_OPTION_MS_FOREVER:
        return ms_suffixes;
    case MR_OPTION_S:
        return s_suffixes;
    case MR_OPTION_US:
        return us_suffixes;
    case MR_OPTION_BYTES:
    case MR_OPTION_BYTES_POW2:
        return byte_suffixes;
    case MR_OPTION_PERCENT:
        return percent_suffixes;
    default:
        return no_suffixes;
    }
}

/* A word that stands for a number no digits can give; NULL if the kind has none. */
static const char *word_of(const struct mr_option *o, int64_t *out_number)
{
    *out_number = o->kind == MR_OPTION_U32_AUTO ? (int64_t)UINT32_MAX : MOOR_FOREVER;
    return o->kind == MR_OPTION_U32_AUTO     ? "auto"
           : o->kind == MR_OPTION_MS_FOREVER ? "forever"
                                             : NULL;
}

static const char *const levels[] = {"off", "error", "warn", "info", "debug", NULL};
static const char *const backends[] = {"auto", "io_uring", "epoll", NULL};
static const char *const evictions[] = {"lifo", "fifo", "lru", NULL};
static const char *const versions[] = {"auto", "1.1", "2", NULL};
static const struct suffix booleans[] = {{"true", 1}, {"yes", 1}, {"on", 1}, {"1", 1}, {"false", 0},
                                         {"no", 0},   {"off", 0}, {"0", 0},  {NULL, 0}};

static int find_word(const char *const *words, const char *text)
{
    for (int i = 0; words[i]; i++)
        if (mr_span_is_equal_nocase(mr_span_cstr(words[i]), mr_span_cstr(text)))
            return i;
    return -1;
}

static enum mr_option_verdict parse_number(const struct mr_option *o, const char *text,
                                           int64_t *out_number)
{
    const moor_span all = mr_span_cstr(text);
    const char *word = word_of(o, out_number);
    if (word && mr_span_is_equal_nocase(all, mr_span_cstr(word)))
        return MR_OPTION_GOOD;
    size_t digits = 0;
    while (digits < all.len && mr_ascii_is_digit((unsigned char)text[digits]))
        digits++;
    if (digits == 0)
        return MR_OPTION_MALFORMED;
    int64_t factor = 1;
    if (digits < all.len) {
        const struct suffix *s = suffixes_of(o);
        while (s->text &&
               !mr_span_is_equal_nocase(mr_span_skip(all, digits), mr_span_cstr(s->text)))
            s++;
        if (!s->text)
            return MR_OPTION_MALFORMED;
        factor = s->factor;
    }
    uint64_t value;
    if (!mr_span_to_u64((moor_span){text, digits}, &value) ||
        value > (uint64_t)(INT64_MAX / factor))
        return MR_OPTION_OUT_OF_RANGE;
    *out_number = (int64_t)value * factor;
    /* Digits must not reach the value a word stands for. */
    return *out_number < o->min || *out_number > o->max ? MR_OPTION_OUT_OF_RANGE : MR_OPTION_GOOD;
}

enum mr_option_verdict mr_option_parse(const struct mr_option *o, const char *text,
                                       struct mr_option_value *out)
{
    struct mr_option_value v = {0};
    enum mr_option_verdict verdict = MR_OPTION_GOOD;
    const struct suffix *b = booleans;
    switch (o->kind) {
    case MR_OPTION_TEXT:
    case MR_OPTION_BACKEND:
    case MR_OPTION_EVICTION:
    case MR_OPTION_HTTP_VERSION:
        v.text = text;
        break;
    case MR_OPTION_LEVEL:
        v.number = find_word(levels, text);
        verdict = v.number < 0 ? MR_OPTION_MALFORMED : MR_OPTION_GOOD;
        break;
    case MR_OPTION_BOOL:
        while (b->text && !mr_span_is_equal_nocase(mr_span_cstr(b->text), mr_span_cstr(text)))
            b++;
        v.number = b->factor;
        verdict = b->text ? MR_OPTION_GOOD : MR_OPTION_MALFORMED;
        break;
    default:
        verdict = parse_number(o, text, &v.number);
        break;
    }
    if (verdict == MR_OPTION_GOOD)
        verdict = mr_option_check(o, v);
    if (verdict == MR_OPTION_GOOD)
        *out = v;
    return verdict;
}

enum mr_option_verdict mr_option_check(const struct mr_option *o, struct mr_option_value v)
{
    int64_t word;
    bool good;
    switch (o->kind) {
    case MR_OPTION_BACKEND:
        good = v.text && find_word(backends, v.text) >= 0;
        return good ? MR_OPTION_GOOD : MR_OPTION_MALFORMED;
    case MR_OPTION_EVICTION:
        good = v.text && find_word(evictions, v.text) >= 0;
        return good ? MR_OPTION_GOOD : MR_OPTION_MALFORMED;
    case MR_OPTION_HTTP_VERSION:
        good = v.text && find_word(versions, v.text) >= 0;
        return good ? MR_OPTION_GOOD : MR_OPTION_MALFORMED;
    case MR_OPTION_TEXT:
        good = !v.text || (strlen(v.text) >= (size_t)o->min && strlen(v.text) <= (size_t)o->max);
        break;
    case MR_OPTION_LEVEL:
        good = v.number >= MOOR_LOG_OFF && v.number <= MOOR_LOG_DEBUG;
        break;
    case MR_OPTION_BOOL:
        good = true;
        break;
    default:
        good =
            (v.number >= o->min && v.number <= o->max) || (word_of(o, &word) && v.number == word);
        if (o->kind == MR_OPTION_BYTES_POW2 && (v.number & (v.number - 1)) != 0)
            good = false;
        break;
    }
    return good ? MR_OPTION_GOOD : MR_OPTION_OUT_OF_RANGE;
}

static void format_number(const struct mr_option *o, int64_t number, char *buf, size_t cap)
{
    static const char *const printed[] = {"GiB", "MiB", "KiB"};
    const struct suffix *s = suffixes_of(o);
    const bool bytes = s == byte_suffixes;
    for (size_t i = 0; number != 0 && s[i].text && s[i].factor > 1; i++) {
        if (number % s[i].factor)
            continue;
        snprintf(buf, cap, "%" PRId64 "%s", number / s[i].factor, bytes ? printed[i] : s[i].text);
        return;
    }
    const char *unit = o->kind == MR_OPTION_US        ? "us"
                       : s == ms_suffixes             ? "ms"
                       : o->kind == MR_OPTION_S       ? "s"
                       : o->kind == MR_OPTION_PERCENT ? "%"
                                                      : "";
    snprintf(buf, cap, "%" PRId64 "%s", number, number || s == percent_suffixes ? unit : "");
}

const char *mr_option_format(const struct mr_option *o, struct mr_option_value v, char *buf,
                             size_t cap)
{
    int64_t word_number;
    const char *word = word_of(o, &word_number);
    if (mr_option_is_text(o))
        snprintf(buf, cap, "%s", v.text ? v.text : "");
    else if (o->kind == MR_OPTION_LEVEL)
        snprintf(buf, cap, "%s", levels[v.number]);
    else if (o->kind == MR_OPTION_BOOL)
        snprintf(buf, cap, "%s", v.number ? "true" : "false");
    else if (word && v.number == word_number)
        snprintf(buf, cap, "%s", word);
    else
        format_number(o, v.number, buf, cap);
    return buf;
}

const char *mr_option_range(const struct mr_option *o, char *buf, size_t cap)
{
    char low[32];
    char high[32];
    int64_t word_number;
    const char *word = word_of(o, &word_number);
    switch (o->kind) {
    case MR_OPTION_TEXT:
        snprintf(buf, cap, "%" PRId64 "..%" PRId64 " characters", o->min, o->max);
        break;
    case MR_OPTION_BACKEND:
        snprintf(buf, cap, "auto|io_uring|epoll");
        break;
    case MR_OPTION_EVICTION:
        snprintf(buf, cap, "lifo|fifo|lru");
        break;
    case MR_OPTION_HTTP_VERSION:
        snprintf(buf, cap, "auto|1.1|2");
        break;
    case MR_OPTION_LEVEL:
        snprintf(buf, cap, "off|error|warn|info|debug");
        break;
    case MR_OPTION_BOOL:
        snprintf(buf, cap, "true|false");
        break;
    default:
        format_number(o, o->min, low, sizeof low);
        format_number(o, o->max, high, sizeof high);
        snprintf(buf, cap, "%s..%s%s%s%s", low, o->max == INT64_MAX ? "" : high,
                 o->kind == MR_OPTION_BYTES_POW2 ? ", a power of two" : "", word ? " or " : "",
                 word ? word : "");
        break;
    }
    return buf;
}
