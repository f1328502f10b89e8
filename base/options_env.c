/*
 * From a caller's struct and the environment to options that are complete and in range; or to one
 * line that says which variable is wrong. Any thread. Works on a copy: nothing is ever half
 * applied.
 */
#include "base/options.h"
#include "base/assert.h"
#include "base/span.h"

#include <stdio.h>
#include <sys/auxv.h>
#include <unistd.h>

#define PREFIX      "MOORING_"
#define POOL_PREFIX PREFIX "POOL_"
/* Longer names than this are nobody's typo; bounds the work of the search. */
#define VARIABLE_MAX 128

const struct mr_preset_value mr_presets[] = {
    {"development", "SHARDS", "1"},
    {"development", "CONNS_MAX", "10"},
    {"development", "CONNS_MIN_IDLE", "0"},
    {"development", "CONNECT_TIMEOUT_MS", "3s"},
    {"development", "ACQUIRE_TIMEOUT_MS", "5s"},
    {"development", "TOTAL_TIMEOUT_MS", "30s"},
    {"development", "LEAK_AFTER_MS", "10s"},
    {"development", "LOG", "info"},
    {"production", "ACQUIRE_TIMEOUT_MS", "10s"},
    {"production", "FIRST_BYTE_TIMEOUT_MS", "30s"},
    {"production", "TOTAL_TIMEOUT_MS", "2m"},
    {"production", "CONNECT_TIMEOUT_MS", "5s"},
    {"latency", "SPIN_US", "50us"},
    {"latency", "CONNS_MIN_IDLE", "32"},
    {"latency", "DIALS_MAX", "16"},
    {"latency", "CONNECT_TIMEOUT_MS", "2s"},
    {"latency", "ACQUIRE_TIMEOUT_MS", "1s"},
    {"latency", "HAPPY_EYEBALLS_DELAY_MS", "100ms"},
    {"latency", "BACKOFF_MAX_MS", "250ms"},
    {"latency", "SURPLUS_DECAY_MS", "forever"},
    {"throughput", "CONNS_MAX", "500"},
    {"throughput", "DIALS_MAX", "32"},
    {"throughput", "RECV_BUFFER_SIZE", "64KiB"},
    {"throughput", "RECV_BUFFERS", "512"},
    {"throughput", "RING_ENTRIES", "4096"},
    {"throughput", "WINDOW_BYTES", "4MiB"},
};
const size_t mr_preset_count = sizeof mr_presets / sizeof *mr_presets;

const char *const *mr_options_environment(void)
{
    return getauxval(AT_SECURE) ? NULL : (const char *const *)environ;
}

bool mr_options_pool_name(const char *name, char *buf, size_t cap)
{
    const size_t len = strlen(name);
    if (len >= cap)
        return false;
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = mr_ascii_upper((unsigned char)name[i]);
        buf[i] = mr_ascii_is_alpha(c) || mr_ascii_is_digit(c) ? (char)c : '_';
    }
    buf[len] = 0;
    return true;
}

/* The value of prefix + middle + name; NULL if it is not set. */
static const char *find_variable(const char *const *env, const char *prefix, const char *middle,
                                 const char *name)
{
    char wanted[VARIABLE_MAX + 64];
    const int len = snprintf(wanted, sizeof wanted, "%s%s%s=", prefix, middle, name);
    if (!env || len < 0 || (size_t)len >= sizeof wanted)
        return NULL;
    for (; *env; env++)
        if (strncmp(*env, wanted, (size_t)len) == 0)
            return *env + len;
    return NULL;
}

/* ---- misspelt names ---- */

/* Edits between two names, at most `limit` + 1. */
static unsigned distance(const char *a, const char *b, unsigned limit)
{
    unsigned row[VARIABLE_MAX + 1];
    const size_t a_len = strlen(a);
    const size_t b_len = strlen(b);
    if (a_len > VARIABLE_MAX || b_len > VARIABLE_MAX || a_len > b_len + limit ||
        b_len > a_len + limit)
        return limit + 1;
    for (size_t j = 0; j <= b_len; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= a_len; i++) {
        unsigned corner = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            const unsigned replaced = corner + (a[i - 1] != b[j - 1]);
            const unsigned shorter = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            corner = row[j];
            row[j] = replaced < shorter ? replaced : shorter;
        }
    }
    return row[b_len] > limit ? limit + 1 : row[b_len];
}

/* The option variable nearest to `name`, or NULL; *out_edits 0 = it is one. */
static const char *nearest(const char *name, bool pool_only, unsigned *out_edits)
{
    const unsigned limit = strlen(name) < 6 ? 1 : 3;
    const char *best = NULL;
    *out_edits = limit + 1;
    for (size_t i = 0; i < mr_option_count; i++) {
        if (pool_only && mr_options[i].scope != MR_OPTION_POOL)
            continue;
        const unsigned edits = distance(name, mr_options[i].variable, limit);
        if (edits < *out_edits) {
            *out_edits = edits;
            best = mr_options[i].variable;
        }
    }
    if (!pool_only && distance(name, "PRESET", limit) < *out_edits) {
        *out_edits = distance(name, "PRESET", limit);
        best = "PRESET";
    }
    return best;
}

/* MOORING_POOL_<NAME>_<OPTION>: NAME may hold '_', so every tail after one is tried. */
static const char *nearest_tail(const char *name, unsigned *out_edits, size_t *out_tail)
{
    const char *best = NULL;
    *out_edits = VARIABLE_MAX;
    for (size_t i = 1; name[i]; i++) {
        unsigned edits;
        const char *found = name[i - 1] == '_' ? nearest(name + i, true, &edits) : NULL;
        if (found && edits < *out_edits) {
            *out_edits = edits;
            *out_tail = i;
            best = found;
        }
    }
    return best;
}

static void warn_of_typo(const struct mr_options_report *report, const char *name)
{
    char text[MR_OPTIONS_TEXT_MAX + VARIABLE_MAX];
    unsigned edits;
    size_t tail = 0;
    const bool of_pool = strncmp(name, POOL_PREFIX, strlen(POOL_PREFIX)) == 0;
    const size_t skip = strlen(of_pool ? POOL_PREFIX : PREFIX);
    const char *best =
        of_pool ? nearest_tail(name + skip, &edits, &tail) : nearest(name + skip, false, &edits);
    if (best && edits == 0)
        return;
    if (best)
        snprintf(text, sizeof text, "%s is not an option; did you mean %.*s%s?", name,
                 (int)(skip + tail), name, best);
    else if (of_pool)
        snprintf(text, sizeof text, "%s names no option of a pool", name);
    else
        return; /* some other program's, such as our build's */
    report->warn(report->user, text);
}

static void warn_of_typos(const struct mr_options_report *report, const char *const *env)
{
    for (; env && report->warn && *env; env++) {
        char name[VARIABLE_MAX];
        const char *end = strchr(*env, '=');
        const size_t len = end ? (size_t)(end - *env) : 0;
        if (strncmp(*env, PREFIX, strlen(PREFIX)) != 0 || len >= sizeof name)
            continue;
        memcpy(name, *env, len);
        name[len] = 0;
        warn_of_typo(report, name);
    }
}

/* ---- the overlay ---- */

struct overlay {
    enum mr_option_scope scope;
    void *options; /* the copy worked on */
    const char *const *env;
    struct mr_options_report *report;
};

static moor_err refuse(struct overlay *v, const struct mr_option *o, const char *variable,
                       const char *value, enum mr_option_verdict verdict)
{
    char range[96];
    snprintf(v->report->fault, sizeof v->report->fault, "%s=\"%.64s\" is %s: %s", variable, value,
             verdict == MR_OPTION_MALFORMED ? "malformed, expected" : "out of range",
             mr_option_range(o, range, sizeof range));
    return MOOR_EINVAL;
}

static moor_err apply(struct overlay *v, const struct mr_option *o, const char *middle,
                      const char *value)
{
    struct mr_option_value parsed;
    const enum mr_option_verdict verdict = mr_option_parse(o, value, &parsed);
    if (verdict != MR_OPTION_GOOD) {
        char variable[VARIABLE_MAX + 64];
        snprintf(variable, sizeof variable, PREFIX "%s%s", middle, o->variable);
        return refuse(v, o, variable, value, verdict);
    }
    mr_option_set(o, v->options, parsed);
    return MOOR_OK;
}

static bool is_at_default(const struct mr_option *o, const void *options)
{
    const struct mr_option_value v = mr_option_get(o, options);
    if (!mr_option_is_text(o))
        return v.number == o->default_number;
    return v.text == o->default_text ||
           (v.text && o->default_text && strcmp(v.text, o->default_text) == 0);
}

static moor_err apply_preset(struct overlay *v)
{
    const char *wanted = find_variable(v->env, PREFIX, "", "PRESET");
    bool known = false;
    for (size_t i = 0; wanted && i < mr_preset_count; i++) {
        const struct mr_preset_value *p = &mr_presets[i];
        if (strcmp(p->preset, wanted) != 0)
            continue;
        known = true;
        for (size_t j = 0; j < mr_option_count; j++) {
            const struct mr_option *o = &mr_options[j];
            if (o->scope == v->scope && strcmp(o->variable, p->variable) == 0 &&
                is_at_default(o, v->options))
                MR_TRY(apply(v, o, "", p->value));
        }
    }
    if (!wanted || known)
        return MOOR_OK;
    snprintf(v->report->fault, sizeof v->report->fault,
             PREFIX "PRESET=\"%.64s\" is unknown: development|production|latency|throughput",
             wanted);
    return MOOR_EINVAL;
}

/* `middle`: "" for every pool, "POOL_<NAME>_" for one. */
static moor_err apply_variables(struct overlay *v, const char *middle)
{
    for (size_t i = 0; i < mr_option_count; i++) {
        const struct mr_option *o = &mr_options[i];
        const char *value =
            o->scope == v->scope ? find_variable(v->env, PREFIX, middle, o->variable) : NULL;
        if (value)
            MR_TRY(apply(v, o, middle, value));
    }
    return MOOR_OK;
}

static moor_err check_all(struct overlay *v)
{
    for (size_t i = 0; i < mr_option_count; i++) {
        const struct mr_option *o = &mr_options[i];
        if (o->scope != v->scope)
            continue;
        const struct mr_option_value value = mr_option_get(o, v->options);
        const enum mr_option_verdict verdict = mr_option_check(o, value);
        char text[80];
        if (verdict == MR_OPTION_GOOD)
            continue;
        if (mr_option_is_text(o))
            snprintf(text, sizeof text, "%.64s", value.text ? value.text : "(null)");
        else
            snprintf(text, sizeof text, "%lld", (long long)value.number);
        return refuse(v, o, o->field, text, verdict);
    }
    return MOOR_OK;
}

static moor_err overlay_all(struct overlay *v, const char *pool_name)
{
    char middle[VARIABLE_MAX] = "POOL_";
    v->report->fault[0] = 0;
    /* What the program set is judged first, so that a variable is not blamed for it. */
    MR_TRY(check_all(v));
    MR_TRY(apply_preset(v));
    MR_TRY(apply_variables(v, ""));
    if (pool_name && mr_options_pool_name(pool_name, middle + 5, sizeof middle - 6)) {
        memcpy(middle + strlen(middle), "_", 2);
        MR_TRY(apply_variables(v, middle));
    }
    return MOOR_OK;
}

/* The caller's struct may be of another version's size: `all` comes in with defaults. */
static moor_err copy_in(void *all, size_t all_size, const void *given,
                        struct mr_options_report *report)
{
    size_t size = all_size;
    if (given)
        memcpy(&size, given, sizeof size);
    if (size < sizeof size) {
        snprintf(report->fault, sizeof report->fault, "options.size is %zu: call the init macro",
                 size);
        return MOOR_EINVAL;
    }
    if (given)
        memcpy(all, given, size < all_size ? size : all_size);
    memcpy(all, &all_size, sizeof all_size);
    return MOOR_OK;
}

moor_err mr_runtime_options_resolve(const moor_runtime_options *given, const char *const *env,
                                    struct mr_options_report *report, moor_runtime_options *out)
{
    moor_runtime_options all;
    moor_runtime_options_init(&all);
    MR_TRY(copy_in(&all, sizeof all, given, report));
    struct overlay v = {.scope = MR_OPTION_RUNTIME, .options = &all, .env = env, .report = report};
    MR_TRY(overlay_all(&v, NULL));
    warn_of_typos(report, env);
    *out = all;
    return MOOR_OK;
}

/* A file that a variable names takes the place of what the program has in memory. */
static void prefer_files(moor_pool_options *o, const moor_pool_options *before)
{
    if (o->tls_ca != before->tls_ca)
        o->tls_ca_pem = (moor_span){NULL, 0};
    if (o->tls_cert != before->tls_cert)
        o->tls_cert_pem = (moor_span){NULL, 0};
    if (o->tls_key != before->tls_key)
        o->tls_key_pem = (moor_span){NULL, 0};
}

moor_err mr_pool_options_resolve(const moor_pool_options *given, const char *const *env,
                                 struct mr_options_report *report, moor_pool_options *out)
{
    moor_pool_options all;
    moor_pool_options_init(&all);
    MR_TRY(copy_in(&all, sizeof all, given, report));
    struct overlay v = {.scope = MR_OPTION_POOL, .options = &all, .env = env, .report = report};
    const moor_pool_options before = all;
    MR_TRY(overlay_all(&v, all.name));
    prefer_files(&all, &before);
    *out = all;
    return MOOR_OK;
}

/* ---- the public faces ---- */

static void tell(const struct mr_options_report *report, char *out_text, size_t text_cap)
{
    if (out_text && text_cap)
        snprintf(out_text, text_cap, "%s", report->fault);
}

static void copy_back(void *to, const void *all, size_t all_size)
{
    size_t size;
    memcpy(&size, to, sizeof size);
    memcpy(to, all, size < all_size ? size : all_size);
    memcpy(to, &size, sizeof size);
}

moor_err moor_runtime_options_from_env(moor_runtime_options *o, char *out_text, size_t text_cap)
{
    struct mr_options_report report = {.warn = NULL};
    moor_runtime_options all;
    const moor_err e = mr_runtime_options_resolve(o, mr_options_environment(), &report, &all);
    tell(&report, out_text, text_cap);
    if (e == MOOR_OK)
        copy_back(o, &all, sizeof all);
    return e;
}

moor_err moor_pool_options_from_env(moor_pool_options *o, char *out_text, size_t text_cap)
{
    struct mr_options_report report = {.warn = NULL};
    moor_pool_options all;
    const moor_err e = mr_pool_options_resolve(o, mr_options_environment(), &report, &all);
    tell(&report, out_text, text_cap);
    if (e == MOOR_OK)
        copy_back(o, &all, sizeof all);
    return e;
}
