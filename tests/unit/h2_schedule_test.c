/*
 * The order of our own DATA: RFC 9218 10 case by case, then any sequence of calls against a model
 * that looks at everything each time.
 */
#include "h2/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static int32_t picked(const struct mr_h2_schedule *s)
{
    const struct mr_h2_turn *t = mr_h2_schedule_pick(s);
    return t ? t->id : 0;
}

static void add_new(struct mr_h2_schedule *s, struct mr_h2_turn *t, int32_t id, uint32_t urgency,
                    bool incremental)
{
    mr_h2_turn_init(t, id, urgency, incremental);
    mr_h2_schedule_add(s, t);
}

static void test_urgent_first_then_by_id_then_incremental(void **state)
{
    (void)state;
    struct mr_h2_schedule s;
    struct mr_h2_turn t[6];
    mr_h2_schedule_init(&s);
    assert_null(mr_h2_schedule_pick(&s));
    add_new(&s, &t[0], 1, 3, true);
    add_new(&s, &t[1], 9, 3, false);
    add_new(&s, &t[2], 3, 7, false);
    add_new(&s, &t[3], 5, 3, false);
    add_new(&s, &t[4], 11, 0, true);
    add_new(&s, &t[5], 7, 3, false);
    static const int32_t order[] = {11, 5, 7, 9, 1, 3};
    for (size_t i = 0; i < 6; i++) {
        struct mr_h2_turn *next = mr_h2_schedule_pick(&s);
        assert_non_null(next);
        assert_int_equal(next->id, order[i]);
        /* To its end, however much that is, unless it has equals to take turns with. */
        mr_h2_schedule_served(&s, next, 10 * MR_H2_QUANTUM);
        assert_ptr_equal(mr_h2_schedule_pick(&s), next);
        mr_h2_schedule_remove(&s, next);
        assert_false(next->is_listed);
    }
    assert_null(mr_h2_schedule_pick(&s));
}

static void test_turns_change_by_bytes(void **state)
{
    (void)state;
    struct mr_h2_schedule s;
    struct mr_h2_turn t[3];
    mr_h2_schedule_init(&s);
    for (int32_t i = 0; i < 3; i++)
        add_new(&s, &t[i], 2 * i + 1, 3, true);
    assert_int_equal(picked(&s), 1);
    mr_h2_schedule_served(&s, &t[0], 0);
    mr_h2_schedule_served(&s, &t[0], MR_H2_QUANTUM - 1);
    assert_int_equal(picked(&s), 1);
    mr_h2_schedule_served(&s, &t[0], 1);
    assert_int_equal(picked(&s), 3);
    mr_h2_schedule_served(&s, &t[1], 5 * MR_H2_QUANTUM);
    assert_int_equal(picked(&s), 5);
    mr_h2_schedule_remove(&s, &t[2]);
    assert_int_equal(picked(&s), 1);
    mr_h2_schedule_served(&s, &t[0], MR_H2_QUANTUM / 2);
    /* Back again it waits for its turn, and the one under way goes on where it was. */
    mr_h2_schedule_add(&s, &t[2]);
    assert_int_equal(picked(&s), 1);
    mr_h2_schedule_served(&s, &t[0], MR_H2_QUANTUM / 2);
    assert_int_equal(picked(&s), 3);
}

static void test_harmless_in_any_state(void **state)
{
    (void)state;
    struct mr_h2_schedule s;
    struct mr_h2_turn a, b;
    mr_h2_schedule_init(&s);
    mr_h2_turn_init(&a, 1, 3, true);
    mr_h2_schedule_remove(&s, &a);
    mr_h2_schedule_served(&s, &a, MR_H2_QUANTUM);
    assert_null(mr_h2_schedule_pick(&s));
    mr_h2_schedule_add(&s, &a);
    add_new(&s, &b, 3, 3, true);
    mr_h2_schedule_add(&s, &a); /* keeps its place */
    assert_int_equal(picked(&s), 1);
    mr_h2_schedule_remove(&s, &a);
    mr_h2_schedule_remove(&s, &a);
    mr_h2_schedule_served(&s, &a, MR_H2_QUANTUM);
    assert_int_equal(picked(&s), 3);
    /* The only one is never passed over. */
    for (int i = 0; i < 5; i++) {
        mr_h2_schedule_served(&s, &b, MR_H2_QUANTUM);
        assert_int_equal(picked(&s), 3);
    }
    mr_h2_schedule_remove(&s, &b);
    memset(&b, 0x5a, sizeof b); /* nothing points to it */
    assert_null(mr_h2_schedule_pick(&s));
}

static void test_what_is_held_is_passed_over(void **state)
{
    (void)state;
    struct mr_h2_schedule s;
    struct mr_h2_turn t[3];
    mr_h2_schedule_init(&s);
    for (int i = 0; i < 3; i++)
        add_new(&s, &t[i], 2 * i + 1, 3, i == 2);
    mr_h2_schedule_hold(&s, &t[0]);
    mr_h2_schedule_hold(&s, &t[2]);
    mr_h2_schedule_add(&s, &t[0]); /* is there already */
    assert_int_equal(picked(&s), 3);
    mr_h2_schedule_change(&s, &t[2], 0, false);
    assert_int_equal(picked(&s), 3);
    mr_h2_schedule_release(&s, &t[1]); /* was not held */
    mr_h2_schedule_release(&s, &t[0]);
    assert_int_equal(picked(&s), 1);
    mr_h2_schedule_release_all(&s);
    assert_int_equal(picked(&s), 5);
    mr_h2_schedule_hold(&s, &t[2]);
    mr_h2_schedule_remove(&s, &t[2]);
    mr_h2_schedule_release_all(&s);
    assert_int_equal(picked(&s), 1);
}

/* The model: every turn with the moment it last joined the end of its queue. */
enum { TURNS = 12, STEPS = 50000 };

struct model {
    bool added[TURNS], held[TURNS], incremental[TURNS];
    unsigned urgency[TURNS];
    uint64_t joined[TURNS], clock;
    size_t served[TURNS];
};

static void model_join(struct model *m, unsigned i)
{
    m->added[i] = true;
    m->held[i] = false;
    m->joined[i] = ++m->clock;
    m->served[i] = 0;
}

static bool model_before(const struct model *m, unsigned a, unsigned b)
{
    if (m->urgency[a] != m->urgency[b])
        return m->urgency[a] < m->urgency[b];
    if (m->incremental[a] != m->incremental[b])
        return m->incremental[b];
    return m->incremental[a] ? m->joined[a] < m->joined[b] : a < b;
}

static int32_t model_pick(const struct model *m)
{
    unsigned best = TURNS;
    for (unsigned i = 0; i < TURNS; i++)
        if (m->added[i] && (best == TURNS || model_before(m, i, best)))
            best = i;
    return best == TURNS ? 0 : (int32_t)(2 * best + 1);
}

static void model_served(struct model *m, unsigned i, size_t bytes)
{
    if (!m->added[i] || !m->incremental[i])
        return;
    m->served[i] += bytes;
    if (m->served[i] >= MR_H2_QUANTUM)
        model_join(m, i);
}

static uint32_t random_of(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33);
}

static void release(struct mr_h2_schedule *s, struct mr_h2_turn *turns, struct model *m, unsigned i,
                    bool all)
{
    if (!all) {
        mr_h2_schedule_release(s, &turns[i]);
        if (m->held[i])
            model_join(m, i);
        return;
    }
    for (struct mr_list *l = s->held.next; l != &s->held; l = l->next)
        model_join(m, (unsigned)MR_CONTAINER_OF(l, struct mr_h2_turn, link)->id / 2);
    mr_h2_schedule_release_all(s);
    assert_true(mr_list_is_empty(&s->held));
}

/* Even odds of an urgency from two or from all, so that queues grow long too. */
static void one_step(struct mr_h2_schedule *s, struct mr_h2_turn *turns, struct model *m,
                     uint64_t *seed)
{
    const unsigned i = random_of(seed) % TURNS;
    const unsigned what = random_of(seed) % 11;
    if (what < 2) {
        mr_h2_schedule_add(s, &turns[i]);
        if (!m->added[i] && !m->held[i])
            model_join(m, i);
    } else if (what == 2) {
        mr_h2_schedule_remove(s, &turns[i]);
        m->added[i] = m->held[i] = false;
    } else if (what == 3) {
        /* Another stream in its place, with parameters of its own. */
        mr_h2_schedule_remove(s, &turns[i]);
        m->added[i] = m->held[i] = false;
        m->urgency[i] = random_of(seed) % (random_of(seed) % 2 ? 2 : MR_H2_URGENCIES);
        m->incremental[i] = random_of(seed) % 2;
        mr_h2_turn_init(&turns[i], (int32_t)(2 * i + 1), m->urgency[i], m->incremental[i]);
    } else if (what == 8) {
        m->urgency[i] = random_of(seed) % MR_H2_URGENCIES;
        m->incremental[i] = random_of(seed) % 2;
        mr_h2_schedule_change(s, &turns[i], m->urgency[i], m->incremental[i]);
        if (m->added[i])
            model_join(m, i);
    } else if (what == 9) {
        if (!turns[i].is_listed)
            return;
        mr_h2_schedule_hold(s, &turns[i]);
        m->added[i] = false;
        m->held[i] = true;
    } else if (what == 10) {
        release(s, turns, m, i, random_of(seed) % 4 == 0);
    } else {
        struct mr_h2_turn *t = what == 4 ? &turns[i] : mr_h2_schedule_pick(s);
        if (!t)
            return;
        const size_t bytes = random_of(seed) % (MR_H2_QUANTUM + 2);
        mr_h2_schedule_served(s, t, bytes);
        model_served(m, (unsigned)t->id / 2, bytes);
    }
}

static void test_any_sequence_agrees_with_the_model(void **state)
{
    (void)state;
    for (uint64_t first = 1; first <= 4; first++) {
        struct mr_h2_schedule s;
        struct mr_h2_turn turns[TURNS];
        struct model m = {0};
        uint64_t seed = first;
        mr_h2_schedule_init(&s);
        for (unsigned i = 0; i < TURNS; i++) {
            mr_h2_turn_init(&turns[i], (int32_t)(2 * i + 1), MR_H2_URGENCY_DEFAULT, i % 2);
            m.urgency[i] = MR_H2_URGENCY_DEFAULT;
            m.incremental[i] = i % 2;
        }
        for (unsigned step = 0; step < STEPS; step++) {
            one_step(&s, turns, &m, &seed);
            if (picked(&s) != model_pick(&m))
                fail_msg("seed %u step %u: %d picked, the model says %d", (unsigned)first, step,
                         picked(&s), model_pick(&m));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urgent_first_then_by_id_then_incremental),
        cmocka_unit_test(test_turns_change_by_bytes),
        cmocka_unit_test(test_harmless_in_any_state),
        cmocka_unit_test(test_what_is_held_is_passed_over),
        cmocka_unit_test(test_any_sequence_agrees_with_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
