/*
 * Options as data: what base/options.def says of each, reading and writing them in a struct,
 * overlaying the environment, which is an argument. Pure; any thread.
 */
#ifndef MR_BASE_OPTIONS_H
#define MR_BASE_OPTIONS_H

#include <mooring/options.h>

enum mr_option_scope { MR_OPTION_RUNTIME, MR_OPTION_POOL };

enum mr_option_kind {
    MR_OPTION_U32,
    MR_OPTION_U32_AUTO,
    MR_OPTION_US,
    MR_OPTION_S,
    MR_OPTION_PERCENT,
    MR_OPTION_MS,
    MR_OPTION_MS_FOREVER,
    MR_OPTION_BYTES,
    MR_OPTION_BYTES_POW2,
    MR_OPTION_BOOL,
    MR_OPTION_TEXT,
    MR_OPTION_BACKEND,
    MR_OPTION_EVICTION,
    MR_OPTION_HTTP_VERSION,
    MR_OPTION_LEVEL,
};

struct mr_option {
    enum mr_option_scope scope;
    enum mr_option_kind kind;
    const char *field;
    const char *variable; /* without MOORING_ */
    uint32_t offset;      /* of the field in its struct */
    uint32_t size;
    int64_t default_number;
    const char *default_text; /* text kinds; may be NULL */
    int64_t min, max;
    const char *help;
    const char *symptom; /* "" = none */
};

extern const struct mr_option mr_options[];
extern const size_t mr_option_count;

/* One option's value outside its struct: `number`, or `text` for the text kinds. */
struct mr_option_value {
    int64_t number;
    const char *text;
};
struct mr_option_value mr_option_get(const struct mr_option *o, const void *options);
void mr_option_set(const struct mr_option *o, void *options, struct mr_option_value v);
bool mr_option_is_text(const struct mr_option *o);

enum mr_option_verdict { MR_OPTION_GOOD, MR_OPTION_MALFORMED, MR_OPTION_OUT_OF_RANGE };
/* `text` as a user writes it. *out only if GOOD; texts are borrowed. */
enum mr_option_verdict mr_option_parse(const struct mr_option *o, const char *text,
                                       struct mr_option_value *out);
enum mr_option_verdict mr_option_check(const struct mr_option *o, struct mr_option_value v);
/* "1..1000000", "1ms..24h or forever", "auto|io_uring|epoll". Returns buf. */
const char *mr_option_range(const struct mr_option *o, char *buf, size_t cap);
/* The value as a user would write it: "64KiB", "forever". Returns buf. */
const char *mr_option_format(const struct mr_option *o, struct mr_option_value v, char *buf,
                             size_t cap);

/* ---- presets: assignments in the users' own notation ---- */
struct mr_preset_value {
    const char *preset;
    const char *variable; /* without MOORING_ */
    const char *value;
};
extern const struct mr_preset_value mr_presets[];
extern const size_t mr_preset_count;

/* ---- the overlay ---- */

#define MR_OPTIONS_TEXT_MAX 384
struct mr_options_report {
    char fault[MR_OPTIONS_TEXT_MAX]; /* after EINVAL: what is wrong, one line; else "" */
    /* Variables that look like misspelt options; may be NULL. `text` is borrowed. */
    void (*warn)(void *user, const char *text);
    void *user;
};

/*
 * From what the caller gave (NULL = defaults; shorter or longer structs of other versions are fine)
 * and the environment `env` (NULL = none) to a full, checked struct. On EINVAL *out is untouched.
 */
MOOR_NODISCARD moor_err mr_runtime_options_resolve(const moor_runtime_options *given,
                                                   const char *const *env,
                                                   struct mr_options_report *report,
                                                   moor_runtime_options *out);
MOOR_NODISCARD moor_err mr_pool_options_resolve(const moor_pool_options *given,
                                                const char *const *env,
                                                struct mr_options_report *report,
                                                moor_pool_options *out);
/* The process's environment, or NULL where privileges were raised. */
const char *const *mr_options_environment(void);

/* "api.example:80" -> "API_EXAMPLE_80", as in MOORING_POOL_<NAME>_*. False if it does not fit. */
bool mr_options_pool_name(const char *name, char *buf, size_t cap);

#endif
