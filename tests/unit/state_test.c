/* State machines: allowed and refused moves, invariants, traces, and tables that are wrong. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/state.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DOOR_SHUT, DOOR_OPEN, DOOR_GONE, DOOR_STATES };
#define TO(s) (1U << DOOR_##s)
static const struct mr_state door_states[DOOR_STATES] = {
    [DOOR_SHUT] = {"shut", TO(OPEN) | TO(GONE), MR_FIRST},
    [DOOR_OPEN] = {"open", TO(SHUT), 0},
    [DOOR_GONE] = {"gone", 0, MR_LAST},
};

struct door {
    struct mr_sm sm;
    unsigned guests;
};

static bool door_holds(const void *object)
{
    const struct door *d = object;
    return d->sm.state == DOOR_OPEN || d->guests == 0;
}

static const struct mr_machine door_machine = {"door", door_states, DOOR_STATES, door_holds};

_Static_assert(sizeof(struct mr_sm) == 1, "objects are many");

static void test_moves_of_the_table(void **state)
{
    (void)state;
    struct mr_trace trace = {0};
    struct door d = {0};
    assert_null(mr_machine_fault(&door_machine));
    mr_sm_init(&door_machine, &d.sm, DOOR_SHUT);
    mr_move(&door_machine, &d.sm, DOOR_OPEN, &d, &trace);
    d.guests = 1;
    assert_string_equal(mr_sm_name(&door_machine, &d.sm), "open");
    assert_false(mr_can_move(&door_machine, &d.sm, DOOR_GONE));
    assert_false(mr_can_move(&door_machine, &d.sm, DOOR_OPEN));
    assert_false(mr_can_move(&door_machine, &d.sm, 99));
    d.guests = 0;
    mr_move(&door_machine, &d.sm, DOOR_SHUT, &d, NULL);
    mr_move(&door_machine, &d.sm, DOOR_GONE, &d, &trace);
    assert_int_equal(trace.count, 2);
    assert_string_equal(trace.events[1].what, "gone");
    assert_true(trace.events[1].a == (uint64_t)(uintptr_t)&d);
    assert_int_equal(trace.events[1].b, DOOR_GONE);
}

static void dies(void (*run)(void))
{
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(STDERR_FILENO);
        run();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
}

static void make_a_refused_move(void)
{
    struct door d = {.sm = {DOOR_GONE}};
    mr_move(&door_machine, &d.sm, DOOR_OPEN, &d, NULL);
}

static void begin_in_the_middle(void)
{
    struct door d;
    mr_sm_init(&door_machine, &d.sm, DOOR_OPEN);
}

static void test_misuse_panics(void **state)
{
    (void)state;
    dies(make_a_refused_move);
    dies(begin_in_the_middle);
}

#ifdef MR_DEBUG
static void break_the_invariant(void)
{
    struct door d = {.sm = {DOOR_OPEN}, .guests = 1};
    mr_move(&door_machine, &d.sm, DOOR_SHUT, &d, NULL);
}

static void test_invariant_is_judged_in_debug_builds(void **state)
{
    (void)state;
    dies(break_the_invariant);
}
#endif

static void test_wrong_tables_are_found(void **state)
{
    (void)state;
    static const struct mr_state unnamed[] = {{NULL, 0, MR_FIRST | MR_LAST}};
    static const struct mr_state outside[] = {{"a", 1U << 7, MR_FIRST}};
    static const struct mr_state undead[] = {{"a", 2, MR_FIRST}, {"b", 1, MR_LAST}};
    static const struct mr_state stuck[] = {{"a", 2, MR_FIRST}, {"b", 0, 0}};
    static const struct mr_state two[] = {{"a", 2, MR_FIRST}, {"b", 1, MR_FIRST}};
    static const struct mr_state headless[] = {{"a", 2, 0}, {"b", 0, MR_LAST}};
    static const struct mr_state island[] = {{"a", 2, MR_FIRST}, {"b", 0, MR_LAST}, {"c", 2, 0}};
    static const struct {
        const struct mr_state *states;
        unsigned count;
        const char *fault;
    } wrong[] = {
        {unnamed, 0, "a machine has 1 to 32 states"},
        {unnamed, 33, "a machine has 1 to 32 states"},
        {unnamed, 1, "a state has no name"},
        {outside, 1, "a move leads out of the table"},
        {undead, 2, "a move leads out of a last state"},
        {stuck, 2, "a state that is not last has no way out"},
        {two, 2, "there are two first states"},
        {headless, 2, "no state is first"},
        {island, 3, "a state cannot be reached"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const struct mr_machine m = {"wrong", wrong[i].states, wrong[i].count, NULL};
        assert_string_equal(mr_machine_fault(&m), wrong[i].fault);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moves_of_the_table),
        cmocka_unit_test(test_misuse_panics),
#ifdef MR_DEBUG
        cmocka_unit_test(test_invariant_is_judged_in_debug_builds),
#endif
        cmocka_unit_test(test_wrong_tables_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
