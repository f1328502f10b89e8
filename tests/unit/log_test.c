/* Log records: levels, limits per code, masking, cutting; and the trace a panic prints. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/trace.h"

#include <sys/wait.h>
#include <unistd.h>

static int64_t now_ns;
static unsigned records;
static int last_level;
static char last_code[64];
static char last_text[MR_LOG_TEXT_MAX + 8];

static int64_t test_now(void *ctx)
{
    (void)ctx;
    return now_ns;
}

static const struct mr_clock test_clock = {.now = test_now};

static void on_log(void *user, int level, const char *code, const char *text)
{
    assert_ptr_equal(user, &records);
    records++;
    last_level = level;
    snprintf(last_code, sizeof last_code, "%s", code);
    snprintf(last_text, sizeof last_text, "%s", text);
}

static int start(void **state)
{
    static struct mr_log log;
    records = 0;
    now_ns = 0;
    mr_log_init(&log, MOOR_LOG_WARN, on_log, &records, &test_clock);
    *state = &log;
    return 0;
}

static int stop(void **state)
{
    mr_log_fini(*state);
    return 0;
}

static int evaluated(void)
{
    static int times;
    return ++times;
}

static void test_levels(void **state)
{
    struct mr_log *log = *state;
    mr_log(log, MOOR_LOG_INFO, "test.info", "%d", evaluated());
    assert_int_equal(records, 0);
    assert_int_equal(evaluated(), 1);
    mr_log(log, MOOR_LOG_WARN, "test.warn", "port %d", 80);
    assert_int_equal(records, 1);
    assert_int_equal(last_level, MOOR_LOG_WARN);
    assert_string_equal(last_code, "test.warn");
    assert_string_equal(last_text, "port 80");
    atomic_store(&log->level, MOOR_LOG_OFF);
    mr_log(log, MOOR_LOG_ERROR, "test.error", "x");
    assert_int_equal(records, 1);
    atomic_store(&log->level, MOOR_LOG_DEBUG);
    mr_log(log, MOOR_LOG_DEBUG, "test.debug", "x");
    assert_int_equal(records, 2);
    struct mr_log *none = NULL;
    mr_log(none, MOOR_LOG_ERROR, "test.error", "x");
    assert_string_equal(mr_log_level_name(MOOR_LOG_WARN), "warning");
    assert_string_equal(mr_log_level_name(77), "?");
}

static void test_a_flood_is_limited_and_counted(void **state)
{
    struct mr_log *log = *state;
    for (int i = 0; i < 1000; i++)
        mr_log(log, MOOR_LOG_WARN, "pool.dial_failed", "dial %d", i);
    assert_int_equal(records, MR_LOG_BURST);
    /* Another code has its own limit. */
    mr_log(log, MOOR_LOG_WARN, "pool.other", "other");
    assert_int_equal(records, MR_LOG_BURST + 1);
    now_ns += MR_LOG_WINDOW_NS - 1;
    mr_log(log, MOOR_LOG_WARN, "pool.dial_failed", "still");
    assert_int_equal(records, MR_LOG_BURST + 1);
    now_ns += 1;
    mr_log(log, MOOR_LOG_WARN, "pool.dial_failed", "again");
    assert_int_equal(records, MR_LOG_BURST + 3);
    assert_string_equal(last_text, "991 more of these were not logged");
    now_ns += MR_LOG_WINDOW_NS;
    mr_log(log, MOOR_LOG_WARN, "pool.dial_failed", "again");
    assert_string_equal(last_text, "again");
}

static void test_more_codes_than_places(void **state)
{
    struct mr_log *log = *state;
    static char codes[MR_LOG_CODES + 8][24];
    for (int i = 0; i < MR_LOG_CODES + 8; i++) {
        snprintf(codes[i], sizeof codes[i], "test.%d", i);
        now_ns++;
        mr_log(log, MOOR_LOG_WARN, codes[i], "x");
    }
    assert_int_equal(records, MR_LOG_CODES + 8);
    for (int i = 0; i < 50; i++)
        mr_log(log, MOOR_LOG_WARN, codes[MR_LOG_CODES + 7], "x");
    assert_int_equal(records, MR_LOG_CODES + 8 + MR_LOG_BURST - 1);
}

static void test_secrets_and_control_bytes_never_leave(void **state)
{
    struct mr_log *log = *state;
    mr_log(log, MOOR_LOG_WARN, "test.url", "cannot dial %s", "redis://u:secret@h:1/\nforged");
    assert_string_equal(last_text, "cannot dial redis://u:***@h:1/?forged");
    char longest[2 * MR_LOG_TEXT_MAX];
    memset(longest, 'x', sizeof longest);
    memcpy(longest + MR_LOG_TEXT_MAX - 20, " http://u:secretsecret@host", 27);
    longest[sizeof longest - 1] = 0;
    mr_log(log, MOOR_LOG_WARN, "test.long", "%s", longest);
    assert_null(strstr(last_text, "secret"));
    assert_true(strlen(last_text) < MR_LOG_TEXT_MAX);
    assert_string_equal(last_text + strlen(last_text) - 3, "...");
}

/* What `run` prints to stderr, in a child: it may abort. */
static void capture(void (*run)(void), char *text, size_t cap, int *out_status)
{
    int ends[2];
    size_t used = 0;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        run();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n; used + 1 < cap && (n = read(ends[0], text + used, cap - 1 - used)) > 0;)
        used += (size_t)n;
    text[used] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, out_status, 0), child);
}

static void log_to_stderr(void)
{
    struct mr_log log;
    mr_log_init(&log, MOOR_LOG_WARN, NULL, NULL, &test_clock);
    mr_log(&log, MOOR_LOG_WARN, "test.warn", "port %d", 80);
    mr_log(&log, MOOR_LOG_INFO, "test.info", "not this");
    mr_log_fini(&log);
}

static void test_without_a_callback_to_stderr(void **state)
{
    (void)state;
    char text[256];
    int status;
    capture(log_to_stderr, text, sizeof text, &status);
    assert_int_equal(status, 0);
    assert_string_equal(text, "mooring: warning: port 80 [test.warn]\n");
}

static void panic_with_a_trace(void)
{
    static struct mr_trace trace;
    trace.now_ns = &now_ns;
    mr_trace_add(NULL, "nowhere", 0, 0);
    for (int i = 0; i < 100; i++) {
        now_ns = i * INT64_C(1000);
        mr_trace_add(&trace, i == 99 ? "last" : "event", 0xabc, (uint64_t)i);
    }
    mr_trace_use(&trace);
    mr_panic_set_hook(mr_trace_panic);
    MR_ASSERT(records == 4711);
}

static void test_a_panic_prints_the_last_64_events(void **state)
{
    (void)state;
    static char text[16384];
    int status;
    unsigned lines = 0;
    capture(panic_with_a_trace, text, sizeof text, &status);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
    assert_non_null(strstr(text, "broken invariant at "));
    assert_non_null(strstr(text, ": records == 4711\n"));
    assert_non_null(strstr(text, "mooring: trace 36 +0 us event 0xabc 36\n"));
    assert_non_null(strstr(text, "mooring: trace 99 +63 us last 0xabc 99\n"));
    assert_null(strstr(text, "mooring: trace 35 "));
    for (const char *at = text; (at = strstr(at, "mooring: trace ")); at++)
        lines++;
    assert_int_equal(lines, MR_TRACE_EVENTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_levels, start, stop),
        cmocka_unit_test_setup_teardown(test_a_flood_is_limited_and_counted, start, stop),
        cmocka_unit_test_setup_teardown(test_more_codes_than_places, start, stop),
        cmocka_unit_test_setup_teardown(test_secrets_and_control_bytes_never_leave, start, stop),
        cmocka_unit_test(test_without_a_callback_to_stderr),
        cmocka_unit_test(test_a_panic_prints_the_last_64_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
