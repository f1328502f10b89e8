/* The states of a conn: every move of the table and every other one, names, what a panic prints. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/conn.h"
#include "core/runtime.h"
#include "core/shard.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define TO(s) (1U << MR_CONN_##s)

/* Written a second time, by hand: a move added to the table by mistake shows here. */
static const uint32_t expected[MR_CONN_STATES] = {
    [MR_CONN_NEW] = TO(CONNECTING) | TO(IDLE) | TO(DEAD),
    [MR_CONN_CONNECTING] = TO(SECURING) | TO(DEAD),
    [MR_CONN_SECURING] = TO(PREPARING) | TO(CLOSING),
    [MR_CONN_PREPARING] = TO(IDLE) | TO(CLOSING),
    [MR_CONN_IDLE] = TO(LEASED) | TO(MOVING) | TO(CLOSING),
    [MR_CONN_LEASED] = TO(IDLE) | TO(DRAINING) | TO(CLOSING),
    [MR_CONN_MOVING] = TO(DEAD) | TO(CLOSING),
    [MR_CONN_DRAINING] = TO(CLOSING),
    [MR_CONN_CLOSING] = TO(DEAD),
    [MR_CONN_DEAD] = 0,
};

static struct moor_shard shard;

/* As the invariant of `state` wants it. */
static struct mr_conn conn_in(enum mr_conn_state state, enum mr_conn_state next)
{
    const bool is_used = next == MR_CONN_LEASED || next == MR_CONN_DRAINING;
    return (struct mr_conn){.slot.shard = &shard, .sm = {(uint8_t)state}, .used = is_used ? 1 : 0};
}

static void move(enum mr_conn_state from, enum mr_conn_state to)
{
    struct mr_conn c = conn_in(from, to);
    mr_conn_move_to(&c, to);
    if (mr_conn_state(&c) != to)
        _exit(1);
}

/* What the child wrote to stderr; *out_signal is what ended it, 0 = nothing. */
static void run_apart(void (*run)(int a, int b), int a, int b, char *said, size_t cap,
                      int *out_signal)
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        run(a, b);
        _exit(0);
    }
    close(ends[1]);
    size_t len = 0;
    for (ssize_t n; len < cap - 1 && (n = read(ends[0], said + len, cap - 1 - len)) > 0;)
        len += (size_t)n;
    said[len] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    *out_signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void move_in_child(int from, int to)
{
    move((enum mr_conn_state)from, (enum mr_conn_state)to);
}

static void test_the_table_is_sound(void **state)
{
    (void)state;
    assert_null(mr_machine_fault(&mr_conn_machine));
    assert_int_equal(mr_conn_machine.count, MR_CONN_STATES);
}

static void test_allowed_moves(void **state)
{
    (void)state;
    for (int from = 0; from < MR_CONN_STATES; from++)
        for (int to = 0; to < MR_CONN_STATES; to++)
            if (expected[from] >> to & 1U)
                move((enum mr_conn_state)from, (enum mr_conn_state)to);
}

static void test_every_other_move_panics(void **state)
{
    (void)state;
    for (int from = 0; from < MR_CONN_STATES; from++)
        for (int to = 0; to < MR_CONN_STATES; to++) {
            if (expected[from] >> to & 1U)
                continue;
            char said[512], sentence[96];
            int ended_by;
            run_apart(move_in_child, from, to, said, sizeof said, &ended_by);
            snprintf(sentence, sizeof sentence, "conn may not move from %s to %s",
                     mr_conn_state_name((enum mr_conn_state)from),
                     mr_conn_state_name((enum mr_conn_state)to));
            assert_int_equal(ended_by, SIGABRT);
            assert_non_null(strstr(said, sentence));
        }
}

static void test_names(void **state)
{
    (void)state;
    static const char *const names[] = {"new",    "connecting", "securing", "preparing", "idle",
                                        "leased", "moving",     "draining", "closing",   "dead"};
    for (int i = 0; i < MR_CONN_STATES; i++)
        assert_string_equal(mr_conn_state_name((enum mr_conn_state)i), names[i]);
    assert_string_equal(mr_conn_state_name(MR_CONN_STATES), "unknown");
}

#ifdef MR_DEBUG
static void idle_with_a_claim(int a, int b)
{
    (void)a;
    (void)b;
    struct mr_conn c = conn_in(MR_CONN_LEASED, MR_CONN_LEASED);
    mr_conn_move_to(&c, MR_CONN_IDLE);
}

static void test_an_idle_conn_has_no_claim(void **state)
{
    (void)state;
    char said[1024];
    int ended_by;
    run_apart(idle_with_a_claim, 0, 0, said, sizeof said, &ended_by);
    assert_int_equal(ended_by, SIGABRT);
    assert_non_null(strstr(said, "holds"));
}
#endif

/* A whole runtime: its shards record their moves, and a panic on their thread prints them. */
static void panic_on_a_shard(int a, int b)
{
    (void)a;
    (void)b;
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    moor_runtime *r;
    moor_shard *s;
    if (moor_runtime_create(&o, &r) || moor_shard_adopt(r, &s))
        _exit(3);
    struct mr_conn c = {.slot.shard = s};
    for (int i = 0; i < 100; i++) {
        c.sm.state = MR_CONN_NEW;
        mr_conn_move_to(&c, MR_CONN_CONNECTING);
    }
    mr_conn_move_to(&c, MR_CONN_LEASED);
}

static void test_a_panic_prints_the_last_moves(void **state)
{
    (void)state;
    char said[16384];
    int ended_by;
    run_apart(panic_on_a_shard, 0, 0, said, sizeof said, &ended_by);
    assert_int_equal(ended_by, SIGABRT);
    assert_non_null(strstr(said, "conn may not move from connecting to leased"));
    assert_null(strstr(said, "trace 35 "));
    assert_non_null(strstr(said, "trace 36 "));
    assert_non_null(strstr(said, "trace 99 "));
    assert_non_null(strstr(said, "connecting"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_table_is_sound),
        cmocka_unit_test(test_allowed_moves),
        cmocka_unit_test(test_every_other_move_panics),
        cmocka_unit_test(test_names),
#ifdef MR_DEBUG
        cmocka_unit_test(test_an_idle_conn_has_no_claim),
#endif
        cmocka_unit_test(test_a_panic_prints_the_last_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
