/*
 * Options: the list against the header, defaults, notation, precedence, bad values, and
 * docs/tuning.md against the list. `options_test --markdown` prints what belongs between that
 * file's markers.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/options.h"
#include "base/span.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static char warnings[2048];
static struct mr_options_report report;

static void collect_warning(void *user, const char *text)
{
    (void)user;
    const size_t used = strlen(warnings);
    snprintf(warnings + used, sizeof warnings - used, "%s\n", text);
}

static int fresh(void **state)
{
    (void)state;
    warnings[0] = 0;
    report = (struct mr_options_report){.warn = collect_warning};
    return 0;
}

static moor_pool_options pool_with(const char *name, const char *const *env, moor_err expected)
{
    moor_pool_options given;
    moor_pool_options out;
    moor_pool_options_init(&given);
    moor_pool_options_init(&out);
    given.name = name;
    assert_int_equal(mr_pool_options_resolve(&given, env, &report, &out), expected);
    return out;
}

/* ---- the list ---- */

static char *read_source(const char *path_from_root)
{
    char path[4096];
    const char *here = __FILE__;
    const char *root = strstr(here, "tests/unit/");
    assert_non_null(root);
    snprintf(path, sizeof path, "%.*s%s", (int)(root - here), here, path_from_root);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot open %s", path);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
    fclose(f);
    return text;
}

static void test_every_field_of_the_header_is_in_the_list(void **state)
{
    (void)state;
    char *text = read_source("include/mooring/options.h");
    size_t fields = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char field[64];
        const char *end = strchr(line, ';');
        const char *comment = strstr(line, "/*");
        /* A field is indented by four and declares no function. */
        /* PEM in memory is not for variables. */
        if (strncmp(line, "    ", 4) != 0 || line[4] == ' ' || strstr(line, "moor_span") || !end ||
            strchr(line, '(') || (comment && comment < end))
            continue;
        const char *start = end;
        while (start > line && start[-1] != ' ' && start[-1] != '*')
            start--;
        snprintf(field, sizeof field, "%.*s", (int)(end - start), start);
        if (!strcmp(field, "size") || !strcmp(field, "name") || !strcmp(field, "log_user") ||
            !strcmp(field, "event_user") || !strcmp(field, "driver_config") ||
            !strcmp(field, "hooks"))
            continue;
        bool listed = false;
        for (size_t i = 0; i < mr_option_count; i++)
            listed |= strcmp(mr_options[i].field, field) == 0;
        if (!listed)
            fail_msg("%s is in options.h but not in options.def", field);
        fields++;
    }
    assert_int_equal(fields, mr_option_count);
    free(text);
}

static void test_the_list_is_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < mr_option_count; i++) {
        const struct mr_option *o = &mr_options[i];
        char buf[64];
        struct mr_option_value v = {0};
        assert_true(mr_options_pool_name(o->field, buf, sizeof buf));
        assert_string_equal(o->variable, strcmp(o->field, "log_level") ? buf : "LOG");
        /* It would read as a variable of one pool. */
        assert_int_not_equal(strncmp(o->variable, "POOL_", 5), 0);
        assert_true(o->min <= o->max);
        assert_true(strlen(o->help) > 10);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(o->variable, mr_options[j].variable);
        const struct mr_option_value d = {o->default_number, o->default_text};
        assert_int_equal(mr_option_check(o, d), MR_OPTION_GOOD);
        /* What is printed can be typed. */
        mr_option_format(o, d, buf, sizeof buf);
        if (mr_option_is_text(o) && !o->default_text)
            continue;
        assert_int_equal(mr_option_parse(o, buf, &v), MR_OPTION_GOOD);
        assert_true(v.number == d.number);
    }
}

static void test_defaults_are_those_of_the_requirements(void **state)
{
    (void)state;
    moor_runtime_options r;
    moor_pool_options p;
    memset(&r, 0xff, sizeof r);
    moor_runtime_options_init(&r);
    moor_pool_options_init(&p);
    assert_int_equal(r.size, sizeof r);
    assert_true(r.shards == MOOR_SHARDS_AUTO);
    assert_true(r.memory_limit == 256u << 20);
    assert_string_equal(r.io_backend, "auto");
    assert_null(r.on_log);
    assert_true(r.shard_pin);
    assert_int_equal(r.log_level, MOOR_LOG_WARN);
    assert_int_equal(p.conns_max, 100);
    assert_int_equal(p.conns_min_idle, 10);
    assert_int_equal(p.lifetime_max_ms, 300000);
    assert_int_equal(p.idle_timeout_ms, 90000);
    assert_int_equal(p.connect_timeout_ms, 10000);
    assert_true(p.first_byte_timeout_ms == MOOR_FOREVER);
    assert_null(p.name);
}

/* Of a pause and the connect that follows it. A tenth is more than a connect that computes a password needs. */
static void test_a_return_is_noticed_within_a_second(void **state)
{
    (void)state;
    moor_pool_options p;
    moor_pool_options_init(&p);
    assert_true(p.backoff_max_ms + 100 <= 1000);
}

static void test_structs_of_other_versions(void **state)
{
    (void)state;
    struct {
        moor_pool_options options;
        char later_fields[64];
    } newer;
    const size_t old_size = offsetof(moor_pool_options, steal_keep);
    moor_pool_options older;
    moor_pool_options out;
    memset(&newer, 0xee, sizeof newer);
    memset(&older, 0xee, sizeof older);
    moor_pool_options_init_sized(&newer.options, sizeof newer);
    assert_int_equal(newer.options.size, sizeof newer);
    assert_int_equal(newer.later_fields[63], 0);
    moor_pool_options_init_sized(&older, old_size);
    assert_int_equal(older.size, old_size);
    assert_int_equal(older.steal_keep, 0xeeeeeeee);
    older.conns_max = 7;
    assert_int_equal(mr_pool_options_resolve(&older, NULL, &report, &out), MOOR_OK);
    assert_int_equal(out.conns_max, 7);
    assert_int_equal(out.steal_keep, 2);
    assert_int_equal(out.size, sizeof out);
    assert_int_equal(mr_pool_options_resolve(&newer.options, NULL, &report, &out), MOOR_OK);
    assert_int_equal(out.size, sizeof out);
    assert_int_equal(mr_pool_options_resolve(NULL, NULL, &report, &out), MOOR_OK);
    assert_int_equal(out.conns_max, 100);
    older.size = 0;
    assert_int_equal(mr_pool_options_resolve(&older, NULL, &report, &out), MOOR_EINVAL);
    assert_string_equal(report.fault, "options.size is 0: call the init macro");
}

/* ---- values ---- */

static const struct mr_option *option(const char *variable)
{
    for (size_t i = 0; i < mr_option_count; i++)
        if (strcmp(mr_options[i].variable, variable) == 0)
            return &mr_options[i];
    fail_msg("no option %s", variable);
    return NULL;
}

static void test_notation(void **state)
{
    (void)state;
    static const struct {
        const char *variable, *text;
        int64_t number;
    } good[] = {
        {"CONNS_MAX", "1", 1},
        {"CONNS_MAX", "1000000", 1000000},
        {"CONNS_MAX", "007", 7},
        {"SHARDS", "auto", UINT32_MAX},
        {"SHARDS", "AUTO", UINT32_MAX},
        {"SHARDS", "0", 0},
        {"IDLE_TIMEOUT_MS", "250", 250},
        {"IDLE_TIMEOUT_MS", "250ms", 250},
        {"IDLE_TIMEOUT_MS", "2S", 2000},
        {"IDLE_TIMEOUT_MS", "3m", 180000},
        {"IDLE_TIMEOUT_MS", "24h", 86400000},
        {"IDLE_TIMEOUT_MS", "forever", MOOR_FOREVER},
        {"KEEPALIVE_IDLE_S", "2m", 120},
        {"SPIN_US", "1ms", 1000},
        {"MEMORY_LIMIT", "16777216", 16777216},
        {"MEMORY_LIMIT", "64m", 64 << 20},
        {"MEMORY_LIMIT", "64MiB", 64 << 20},
        {"MEMORY_LIMIT", "1GB", 1 << 30},
        {"RECV_BUFFER_SIZE", "64k", 65536},
        {"LIFETIME_JITTER_PERCENT", "20%", 20},
        {"LIFETIME_JITTER_PERCENT", "0", 0},
        {"SHARD_PIN", "no", 0},
        {"SHARD_PIN", "TRUE", 1},
        {"LOG", "Debug", MOOR_LOG_DEBUG},
        {"BODY_BYTES_MAX", "9223372036854775807", INT64_MAX},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        struct mr_option_value v = {0};
        if (mr_option_parse(option(good[i].variable), good[i].text, &v) != MR_OPTION_GOOD ||
            v.number != good[i].number)
            fail_msg("%s=%s gave %lld", good[i].variable, good[i].text, (long long)v.number);
    }
}

static void test_bad_values(void **state)
{
    (void)state;
    static const struct {
        const char *assignment, *fault;
    } bad[] = {
        {"CONNS_MAX=0", "MOORING_CONNS_MAX=\"0\" is out of range: 1..1000000"},
        {"CONNS_MAX=1000001", "MOORING_CONNS_MAX=\"1000001\" is out of range: 1..1000000"},
        {"CONNS_MAX=", "MOORING_CONNS_MAX=\"\" is malformed, expected: 1..1000000"},
        {"CONNS_MAX=-1", "MOORING_CONNS_MAX=\"-1\" is malformed, expected: 1..1000000"},
        {"CONNS_MAX=+1", "MOORING_CONNS_MAX=\"+1\" is malformed, expected: 1..1000000"},
        {"CONNS_MAX= 1", "MOORING_CONNS_MAX=\" 1\" is malformed, expected: 1..1000000"},
        {"CONNS_MAX=1 ", "MOORING_CONNS_MAX=\"1 \" is malformed, expected: 1..1000000"},
        {"CONNS_MAX=1.5", "MOORING_CONNS_MAX=\"1.5\" is malformed, expected: 1..1000000"},
        {"CONNS_MAX=0x10", "MOORING_CONNS_MAX=\"0x10\" is malformed, expected: 1..1000000"},
        {"CONNS_MAX=1k", "MOORING_CONNS_MAX=\"1k\" is malformed, expected: 1..1000000"},
        {"CONNS_MAX=ten", "MOORING_CONNS_MAX=\"ten\" is malformed, expected: 1..1000000"},
        {"CONNS_MAX=99999999999999999999",
         "MOORING_CONNS_MAX=\"99999999999999999999\" is out of range: 1..1000000"},
        {"CONNS_MAX=4294967297", "MOORING_CONNS_MAX=\"4294967297\" is out of range: 1..1000000"},
        {"USES_MAX=4294967295", "MOORING_USES_MAX=\"4294967295\" is out of range: 0..4294967294"},
        {"IDLE_TIMEOUT_MS=0", "MOORING_IDLE_TIMEOUT_MS=\"0\" is out of range: 1ms..24h or forever"},
        {"IDLE_TIMEOUT_MS=25h",
         "MOORING_IDLE_TIMEOUT_MS=\"25h\" is out of range: 1ms..24h or forever"},
        {"IDLE_TIMEOUT_MS=5k",
         "MOORING_IDLE_TIMEOUT_MS=\"5k\" is malformed, expected: 1ms..24h or forever"},
        {"IDLE_TIMEOUT_MS=-1",
         "MOORING_IDLE_TIMEOUT_MS=\"-1\" is malformed, expected: 1ms..24h or forever"},
        {"IDLE_TIMEOUT_MS=9223372036854775807h",
         "MOORING_IDLE_TIMEOUT_MS=\"9223372036854775807h\" is out of range: 1ms..24h or forever"},
        {"CONNECT_TIMEOUT_MS=forever",
         "MOORING_CONNECT_TIMEOUT_MS=\"forever\" is malformed, expected: 1ms..24h"},
        {"WINDOW_BYTES=1", "MOORING_WINDOW_BYTES=\"1\" is out of range: 4KiB..1GiB"},
        {"WINDOW_BYTES=2g", "MOORING_WINDOW_BYTES=\"2g\" is out of range: 4KiB..1GiB"},
        {"WINDOW_BYTES=5s", "MOORING_WINDOW_BYTES=\"5s\" is malformed, expected: 4KiB..1GiB"},
        {"LIFETIME_JITTER_PERCENT=51%",
         "MOORING_LIFETIME_JITTER_PERCENT=\"51%\" is out of range: 0%..50%"},
        {"PRESET=fast",
         "MOORING_PRESET=\"fast\" is unknown: development|production|latency|throughput"},
        {"POOL_API_CONNS_MAX=0", "MOORING_POOL_API_CONNS_MAX=\"0\" is out of range: 1..1000000"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char variable[128];
        snprintf(variable, sizeof variable, "MOORING_%s", bad[i].assignment);
        /* A good one beside it must not be applied either. */
        const char *const env[] = {"MOORING_DIALS_MAX=3", variable, NULL};
        const moor_pool_options o = pool_with("api", env, MOOR_EINVAL);
        assert_string_equal(report.fault, bad[i].fault);
        assert_int_equal(o.dials_max, 8);
    }
}

static void test_bad_values_of_the_runtime(void **state)
{
    (void)state;
    static const struct {
        const char *assignment, *fault;
    } bad[] = {
        {"MOORING_SHARDS=65", "MOORING_SHARDS=\"65\" is out of range: 0..64 or auto"},
        {"MOORING_SHARDS=4294967295",
         "MOORING_SHARDS=\"4294967295\" is out of range: 0..64 or auto"},
        {"MOORING_IO_BACKEND=kqueue",
         "MOORING_IO_BACKEND=\"kqueue\" is malformed, expected: auto|io_uring|epoll"},
        {"MOORING_LOG=loud",
         "MOORING_LOG=\"loud\" is malformed, expected: off|error|warn|info|debug"},
        {"MOORING_SHARD_PIN=2", "MOORING_SHARD_PIN=\"2\" is malformed, expected: true|false"},
        {"MOORING_RECV_BUFFER_SIZE=1000",
         "MOORING_RECV_BUFFER_SIZE=\"1000\" is out of range: 512..1MiB, a power of two"},
        {"MOORING_RESOLV_CONF=", "MOORING_RESOLV_CONF=\"\" is out of range: 1..4095 characters"},
        {"MOORING_SPIN_US=2ms", "MOORING_SPIN_US=\"2ms\" is out of range: 0..1ms"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        moor_runtime_options out = {.size = 1};
        const char *const env[] = {bad[i].assignment, NULL};
        assert_int_equal(mr_runtime_options_resolve(NULL, env, &report, &out), MOOR_EINVAL);
        assert_string_equal(report.fault, bad[i].fault);
        assert_int_equal(out.size, 1);
    }
}

static void test_bad_values_of_the_program(void **state)
{
    (void)state;
    moor_pool_options p;
    moor_pool_options_init(&p);
    p.conns_max = 0;
    assert_int_equal(mr_pool_options_resolve(&p, NULL, &report, &p), MOOR_EINVAL);
    assert_string_equal(report.fault, "conns_max=\"0\" is out of range: 1..1000000");
    moor_pool_options_init(&p);
    p.connect_timeout_ms = MOOR_FOREVER;
    assert_int_equal(mr_pool_options_resolve(&p, NULL, &report, &p), MOOR_EINVAL);
    assert_string_equal(report.fault, "connect_timeout_ms=\"-1\" is out of range: 1ms..24h");
    moor_runtime_options r;
    moor_runtime_options_init(&r);
    r.io_backend = NULL;
    assert_int_equal(mr_runtime_options_resolve(&r, NULL, &report, &r), MOOR_EINVAL);
    assert_string_equal(report.fault,
                        "io_backend=\"(null)\" is malformed, expected: auto|io_uring|epoll");
}

/* ---- precedence ---- */

static void test_precedence(void **state)
{
    (void)state;
    const char *const all[] = {"MOORING_PRESET=throughput", "MOORING_CONNS_MAX=20",
                               "MOORING_POOL_MY_API_2_CONNS_MAX=30", NULL};
    assert_int_equal(pool_with(NULL, NULL, MOOR_OK).conns_max, 100);
    assert_int_equal(pool_with(NULL, all, MOOR_OK).conns_max, 20);
    assert_int_equal(pool_with("my", all, MOOR_OK).conns_max, 20);
    assert_int_equal(pool_with("my-api.2", all, MOOR_OK).conns_max, 30);
    /* The preset's own. */
    assert_int_equal(pool_with(NULL, all, MOOR_OK).dials_max, 32);
    /* A preset yields to the program, a variable does not. */
    moor_pool_options p;
    moor_pool_options_init(&p);
    p.dials_max = 5;
    p.conns_max = 6;
    assert_int_equal(mr_pool_options_resolve(&p, all, &report, &p), MOOR_OK);
    assert_int_equal(p.dials_max, 5);
    assert_int_equal(p.conns_max, 20);
}

static void test_presets_are_valid(void **state)
{
    (void)state;
    for (size_t i = 0; i < mr_preset_count; i++) {
        struct mr_option_value v;
        const struct mr_option *o = option(mr_presets[i].variable);
        assert_int_equal(mr_option_parse(o, mr_presets[i].value, &v), MR_OPTION_GOOD);
        char assignment[64];
        snprintf(assignment, sizeof assignment, "MOORING_PRESET=%s", mr_presets[i].preset);
        const char *const env[] = {assignment, NULL};
        moor_runtime_options r;
        assert_int_equal(mr_runtime_options_resolve(NULL, env, &report, &r), MOOR_OK);
        pool_with(NULL, env, MOOR_OK);
    }
}

static void test_public_calls_read_the_environment(void **state)
{
    (void)state;
    char text[256] = "";
    moor_runtime_options r;
    moor_pool_options p;
    setenv("MOORING_SHARDS", "3", 1);
    setenv("MOORING_POOL_DB_CONNS_MAX", "4", 1);
    moor_runtime_options_init(&r);
    moor_pool_options_init(&p);
    p.name = "db";
    assert_int_equal(moor_runtime_options_from_env(&r, text, sizeof text), MOOR_OK);
    assert_int_equal(moor_pool_options_from_env(&p, text, sizeof text), MOOR_OK);
    assert_int_equal(r.shards, 3);
    assert_int_equal(p.conns_max, 4);
    assert_string_equal(text, "");
    setenv("MOORING_SHARDS", "3s", 1);
    assert_int_equal(moor_runtime_options_from_env(&r, NULL, 0), MOOR_EINVAL);
    assert_int_equal(moor_runtime_options_from_env(&r, text, sizeof text), MOOR_EINVAL);
    assert_string_equal(text, "MOORING_SHARDS=\"3s\" is malformed, expected: 0..64 or auto");
    assert_int_equal(r.shards, 3);
    unsetenv("MOORING_SHARDS");
    unsetenv("MOORING_POOL_DB_CONNS_MAX");
}

static void test_typos_are_reported(void **state)
{
    (void)state;
    const char *const env[] = {
        "PATH=/bin",
        "MOORING_CONNS_MAX=5",
        "MOORING_PRESET=latency",
        "MOORING_POOL_A_B_CONNS_MAX=5",
        "MOORING_CONN_MAX=5",
        "MOORING_SHARD=5",
        "MOORING_PRESETS=5",
        "MOORING_POOL_API_CONNS_MX=5",
        "MOORING_POOL_API_SHARDS=5",
        "MOORING_JEMALLOC_ROOT=/x",
        "MOORING_",
        "MOORING_=",
        "MOORING_POOL_=",
        NULL,
    };
    moor_runtime_options r;
    assert_int_equal(mr_runtime_options_resolve(NULL, env, &report, &r), MOOR_OK);
    assert_string_equal(
        warnings,
        "MOORING_CONN_MAX is not an option; did you mean MOORING_CONNS_MAX?\n"
        "MOORING_SHARD is not an option; did you mean MOORING_SHARDS?\n"
        "MOORING_PRESETS is not an option; did you mean MOORING_PRESET?\n"
        "MOORING_POOL_API_CONNS_MX is not an option; did you mean MOORING_POOL_API_CONNS_MAX?\n"
        "MOORING_POOL_API_SHARDS names no option of a pool\n"
        "MOORING_POOL_ names no option of a pool\n");
}

/* ---- printing ---- */

static char printed[1 << 17];

static void collect(void *user, const char *text, size_t len)
{
    size_t *used = user;
    assert_true(*used + len < sizeof printed);
    memcpy(printed + *used, text, len);
    *used += len;
    printed[*used] = 0;
}

static void test_text_names_every_option(void **state)
{
    (void)state;
    size_t used = 0;
    moor_options_write(MOOR_OPTIONS_TEXT, collect, &used);
    for (size_t i = 0; i < mr_option_count; i++) {
        assert_non_null(strstr(printed, mr_options[i].variable));
        assert_non_null(strstr(printed, mr_options[i].help));
    }
    assert_non_null(strstr(printed, "latency: SPIN_US=50us"));
}

static void test_tuning_md_is_what_the_list_says(void **state)
{
    (void)state;
    static const char begin[] = "<!-- options: begin -->\n";
    size_t used = 0;
    char *text = read_source("docs/tuning.md");
    char *start = strstr(text, begin);
    char *end = strstr(text, "<!-- options: end -->");
    assert_non_null(start);
    assert_non_null(end);
    *end = 0;
    moor_options_write(MOOR_OPTIONS_MARKDOWN, collect, &used);
    if (strcmp(start + sizeof begin - 1, printed) != 0)
        fail_msg("docs/tuning.md is out of date: put the output of `options_test --markdown` "
                 "between its markers");
    free(text);
}

static void print(void *user, const char *text, size_t len)
{
    fwrite(text, 1, len, user);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_every_field_of_the_header_is_in_the_list, fresh),
        cmocka_unit_test_setup(test_the_list_is_sound, fresh),
        cmocka_unit_test_setup(test_defaults_are_those_of_the_requirements, fresh),
        cmocka_unit_test_setup(test_a_return_is_noticed_within_a_second, fresh),
        cmocka_unit_test_setup(test_structs_of_other_versions, fresh),
        cmocka_unit_test_setup(test_notation, fresh),
        cmocka_unit_test_setup(test_bad_values, fresh),
        cmocka_unit_test_setup(test_bad_values_of_the_runtime, fresh),
        cmocka_unit_test_setup(test_bad_values_of_the_program, fresh),
        cmocka_unit_test_setup(test_precedence, fresh),
        cmocka_unit_test_setup(test_presets_are_valid, fresh),
        cmocka_unit_test_setup(test_public_calls_read_the_environment, fresh),
        cmocka_unit_test_setup(test_typos_are_reported, fresh),
        cmocka_unit_test_setup(test_text_names_every_option, fresh),
        cmocka_unit_test_setup(test_tuning_md_is_what_the_list_says, fresh),
    };
    if (argc > 1 && strcmp(argv[1], "--markdown") == 0) {
        moor_options_write(MOOR_OPTIONS_MARKDOWN, print, stdout);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
