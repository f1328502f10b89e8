/* The timer wheel: never early, at most a tick late, against a list of deadlines as the model. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "core/wheel.h"
#include "tests/support/seed.h"

enum { MS = 1000000 };

static struct mr_wheel wheel;

struct probe {
    struct mr_timer timer;
    unsigned fired;
    int64_t fired_at;
    void (*then)(struct probe *p, int64_t now_ns); /* what its callback does besides */
    struct probe *other;
};

static unsigned fire_order; /* fired_at of the latest, to check the order of ticks */

static void on_fire(struct mr_timer *t, int64_t now_ns)
{
    struct probe *p = (struct probe *)t;
    assert_false(mr_timer_is_armed(t));
    assert_true(now_ns >= t->at_ns);
    p->fired++;
    p->fired_at = now_ns;
    if (p->then)
        p->then(p, now_ns);
}

static struct probe probe(void)
{
    return (struct probe){.timer.fire = on_fire};
}

static void test_an_empty_wheel(void **state)
{
    (void)state;
    mr_wheel_init(&wheel, 123456789);
    assert_true(mr_wheel_next(&wheel) == MR_NEVER);
    assert_int_equal(mr_wheel_expire(&wheel, 999999999999), 0);
    struct probe p = probe();
    mr_wheel_remove(&wheel, &p.timer);
    mr_wheel_set(&wheel, &p.timer, MR_NEVER);
    assert_false(mr_timer_is_armed(&p.timer));
    assert_int_equal(wheel.count, 0);
}

static void test_fires_on_the_tick_and_not_before(void **state)
{
    (void)state;
    static const int64_t delays[] = {1,
                                     MS - 1,
                                     MS,
                                     MS + 1,
                                     63LL * MS,
                                     64LL * MS,
                                     65LL * MS,
                                     4095LL * MS,
                                     4096LL * MS,
                                     262143LL * MS,
                                     262144LL * MS,
                                     16777215LL * MS,
                                     16777216LL * MS,
                                     16777217LL * MS,
                                     100LL * 16777216 * MS};
    for (size_t i = 0; i < sizeof delays / sizeof *delays; i++) {
        int64_t start = 777 * (int64_t)MS + 500000;
        mr_wheel_init(&wheel, start);
        struct probe p = probe();
        int64_t at = start + delays[i];
        int64_t tick = (at + MS - 1) / MS * MS;
        mr_wheel_set(&wheel, &p.timer, at);
        /* As a loop would: sleep until told, look again. */
        int64_t now = start;
        unsigned wakes = 0;
        while (!p.fired) {
            int64_t next = mr_wheel_next(&wheel);
            assert_true(next > now && next <= tick);
            assert_int_equal(mr_wheel_expire(&wheel, next - 1), 0);
            now = next;
            mr_wheel_expire(&wheel, now);
            wakes++;
        }
        assert_true(p.fired_at == tick);
        assert_true(wakes <= MR_WHEEL_LEVELS + 1 + delays[i] / (63LL * 262144 * MS));
        assert_int_equal(wheel.count, 0);
        assert_true(mr_wheel_next(&wheel) == MR_NEVER);
    }
}

static void test_the_past_fires_in_the_next_expire(void **state)
{
    (void)state;
    mr_wheel_init(&wheel, 5000LL * MS);
    struct probe a = probe(), b = probe(), c = probe();
    mr_wheel_set(&wheel, &a.timer, 10);
    mr_wheel_set(&wheel, &b.timer, 5000LL * MS);
    mr_wheel_set(&wheel, &c.timer, -7);
    assert_true(mr_wheel_next(&wheel) <= 5000LL * MS);
    assert_int_equal(mr_wheel_expire(&wheel, 5000LL * MS), 3);
    assert_true(mr_wheel_next(&wheel) == MR_NEVER);
}

static void rearm_in_the_past(struct probe *p, int64_t now_ns)
{
    mr_wheel_set(&wheel, &p->timer, now_ns - MS);
}

static void test_rearming_in_the_past_does_not_spin(void **state)
{
    (void)state;
    mr_wheel_init(&wheel, 0);
    struct probe p = probe();
    p.then = rearm_in_the_past;
    mr_wheel_set(&wheel, &p.timer, 3LL * MS);
    /* Ten ticks at once: its deadline lies behind now but ahead of the tick being fired. */
    for (int64_t now = 10; now <= 50; now += 10) {
        assert_int_equal(mr_wheel_expire(&wheel, now * MS), 1);
        assert_true(mr_wheel_next(&wheel) <= now * MS);
    }
    assert_int_equal(mr_wheel_expire(&wheel, 50LL * MS), 1);
    mr_wheel_remove(&wheel, &p.timer);
    assert_int_equal(wheel.count, 0);
}

static void remove_other(struct probe *p, int64_t now_ns)
{
    (void)now_ns;
    mr_wheel_remove(&wheel, &p->other->timer);
}

static void delay_other(struct probe *p, int64_t now_ns)
{
    mr_wheel_set(&wheel, &p->other->timer, now_ns + 5LL * MS);
}

static void test_callbacks_may_remove_and_move_what_is_due_too(void **state)
{
    (void)state;
    for (int64_t at = 2; at < 40000000; at *= 3) {
        mr_wheel_init(&wheel, 0);
        struct probe a = probe(), b = probe(), c = probe();
        a.then = remove_other;
        a.other = &b;
        c.then = delay_other;
        c.other = &a;
        mr_wheel_set(&wheel, &a.timer, at * MS);
        mr_wheel_set(&wheel, &b.timer, at * MS);
        mr_wheel_set(&wheel, &c.timer, at * MS);
        assert_int_equal(mr_wheel_expire(&wheel, at * MS), 2);
        assert_int_equal(a.fired, 1);
        assert_int_equal(b.fired, 0);
        assert_int_equal(c.fired, 1);
        assert_int_equal(wheel.count, 1);
        assert_int_equal(mr_wheel_expire(&wheel, (at + 4) * MS), 0);
        assert_int_equal(mr_wheel_expire(&wheel, (at + 5) * MS), 1);
        assert_int_equal(wheel.count, 0);
    }
}

static void test_a_removed_timer_leaves_no_wake_behind(void **state)
{
    (void)state;
    for (int64_t at = 1; at < 100000000; at *= 5) {
        mr_wheel_init(&wheel, 0);
        struct probe a = probe(), b = probe();
        mr_wheel_set(&wheel, &a.timer, at * MS);
        mr_wheel_set(&wheel, &b.timer, at * MS);
        mr_wheel_remove(&wheel, &a.timer);
        assert_true(mr_wheel_next(&wheel) != MR_NEVER);
        mr_wheel_set(&wheel, &b.timer, MR_NEVER);
        assert_true(mr_wheel_next(&wheel) == MR_NEVER);
        for (unsigned level = 0; level < MR_WHEEL_LEVELS; level++)
            assert_true(wheel.busy[level] == 0);
    }
}

/* The model: every timer's deadline, and whether it is armed. */
enum { TIMERS = 300, OPERATIONS = 100000 };
static struct probe probes[TIMERS];
static int64_t model_at[TIMERS]; /* MR_NEVER = not armed */
static uint64_t seed;
static int64_t model_now;
static int64_t last_tick_fired;
static unsigned model_fired;

static int64_t random_delay(void)
{
    static const int64_t scales[] = {3, 70, 5000, 300000, 20000000, 90000000, 4000000000};
    int64_t scale = scales[seed_below(&seed, sizeof scales / sizeof *scales)];
    int64_t ns = (int64_t)seed_below(&seed, (uint64_t)scale * MS);
    return seed_below(&seed, 10) == 0 ? -ns : ns;
}

static void arm(unsigned i)
{
    int64_t at = seed_below(&seed, 50) == 0 ? MR_NEVER : model_now + random_delay();
    model_at[i] = at;
    mr_wheel_set(&wheel, &probes[i].timer, at);
    assert_int_equal(mr_timer_is_armed(&probes[i].timer), at != MR_NEVER);
}

static void disarm(unsigned i)
{
    model_at[i] = MR_NEVER;
    mr_wheel_remove(&wheel, &probes[i].timer);
}

static void model_fire(struct mr_timer *t, int64_t now_ns)
{
    unsigned i = (unsigned)((struct probe *)t - probes);
    assert_true(now_ns == model_now);
    assert_true(model_at[i] != MR_NEVER && model_at[i] == t->at_ns);
    assert_true(t->at_ns <= now_ns);
    model_at[i] = MR_NEVER;
    model_fired++;
    switch (seed_below(&seed, 8)) {
    case 0:
        arm(i);
        break;
    case 1:
        arm((unsigned)seed_below(&seed, TIMERS));
        break;
    case 2:
        disarm((unsigned)seed_below(&seed, TIMERS));
        break;
    default:
        break;
    }
}

static int64_t model_next(void)
{
    int64_t next = MR_NEVER;
    for (unsigned i = 0; i < TIMERS; i++)
        if (model_at[i] < next)
            next = model_at[i];
    return next;
}

static void check_against_model(void)
{
    unsigned armed = 0;
    for (unsigned i = 0; i < TIMERS; i++) {
        armed += model_at[i] != MR_NEVER;
        assert_int_equal(mr_timer_is_armed(&probes[i].timer), model_at[i] != MR_NEVER);
    }
    assert_int_equal(wheel.count, armed);
    int64_t due = model_next(), next = mr_wheel_next(&wheel);
    if (due == MR_NEVER) {
        assert_true(next == MR_NEVER);
    } else {
        int64_t tick = (due < 0 ? 0 : (due + MS - 1) / MS) * MS;
        assert_true(next <= (tick > model_now ? tick : model_now));
    }
}

/* Everything whose tick has come has fired; only what a callback armed in the past may be left. */
static void expire_model(void)
{
    bool was_due[TIMERS];
    int64_t tick_ns = model_now / MS * MS;
    for (unsigned i = 0; i < TIMERS; i++)
        was_due[i] = model_at[i] <= tick_ns;
    int64_t before[TIMERS];
    memcpy(before, model_at, sizeof before);
    unsigned count = model_fired;
    unsigned fired = mr_wheel_expire(&wheel, model_now);
    assert_int_equal(fired, model_fired - count);
    for (unsigned i = 0; i < TIMERS; i++)
        if (was_due[i] && probes[i].timer.link.next && mr_timer_is_armed(&probes[i].timer))
            assert_true(model_at[i] != before[i]); /* moved by a callback, not forgotten */
}

static void test_random_operations_agree_with_the_model(void **state)
{
    (void)state;
    seed = seed_start();
    model_now = (int64_t)seed_below(&seed, UINT64_C(1) << 50);
    model_fired = 0;
    mr_wheel_init(&wheel, model_now);
    for (unsigned i = 0; i < TIMERS; i++) {
        probes[i] = (struct probe){.timer.fire = model_fire};
        model_at[i] = MR_NEVER;
    }
    for (unsigned n = 0; n < OPERATIONS; n++) {
        switch (seed_below(&seed, 8)) {
        case 0:
        case 1:
        case 2:
        case 3:
            arm((unsigned)seed_below(&seed, TIMERS));
            break;
        case 4:
            disarm((unsigned)seed_below(&seed, TIMERS));
            break;
        case 5: {
            /* To where the loop would wake, and a bit. */
            int64_t next = mr_wheel_next(&wheel);
            if (next != MR_NEVER && next > model_now)
                model_now = next + (int64_t)seed_below(&seed, 2 * MS);
            expire_model();
            break;
        }
        case 6:
            model_now += (int64_t)seed_below(&seed, 20 * MS);
            expire_model();
            break;
        default:
            if (seed_below(&seed, 100) == 0) /* a suspended machine: hours at once */
                model_now += (int64_t)seed_below(&seed, UINT64_C(40) * 3600 * 1000 * MS);
            expire_model();
            break;
        }
        if (n % 16 == 0)
            check_against_model();
    }
    for (unsigned i = 0; i < TIMERS; i++)
        disarm(i);
    check_against_model();
    assert_true(model_fired > OPERATIONS / 20);
}

static void note_order(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    int64_t tick = (t->at_ns + MS - 1) / MS;
    assert_true(tick >= last_tick_fired);
    last_tick_fired = tick;
    fire_order++;
}

static void test_a_jump_fires_in_the_order_of_ticks(void **state)
{
    (void)state;
    seed = seed_start();
    for (int round = 0; round < 50; round++) {
        mr_wheel_init(&wheel, 0);
        for (unsigned i = 0; i < TIMERS; i++) {
            probes[i] = (struct probe){.timer.fire = note_order};
            int64_t delay = random_delay();
            mr_wheel_set(&wheel, &probes[i].timer, delay < 0 ? -delay + MS : delay + MS);
        }
        last_tick_fired = 0;
        fire_order = 0;
        int64_t half = INT64_C(10000) * 1000 * MS;
        mr_wheel_expire(&wheel, half);
        mr_wheel_expire(&wheel, INT64_C(5000000000) * MS);
        assert_int_equal(fire_order, TIMERS);
        assert_int_equal(wheel.count, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_wheel),
        cmocka_unit_test(test_fires_on_the_tick_and_not_before),
        cmocka_unit_test(test_the_past_fires_in_the_next_expire),
        cmocka_unit_test(test_rearming_in_the_past_does_not_spin),
        cmocka_unit_test(test_callbacks_may_remove_and_move_what_is_due_too),
        cmocka_unit_test(test_a_removed_timer_leaves_no_wake_behind),
        cmocka_unit_test(test_random_operations_agree_with_the_model),
        cmocka_unit_test(test_a_jump_fires_in_the_order_of_ticks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
