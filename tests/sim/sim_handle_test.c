/*
 * Pools of handle leases by tables: what is done when, and what must come of it when. Virtual time, so times are
 * exact: a dial takes 10 ms where a table says nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/sim_handles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sim_handles h;
static struct sim_ask *by_name[128];
static int64_t begun_ns;
static char happened[2048];

static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void note(const char *format, ...)
{
    const size_t len = strlen(happened);
    va_list args;
    va_start(args, format);
    vsnprintf(happened + len, sizeof happened - len, format, args);
    va_end(args);
}

static char name_of(const struct sim_ask *a)
{
    for (int c = 'a'; c <= 'z'; c++)
        if (by_name[c] == a)
            return (char)c;
    return '?';
}

static int first_id;

/* "15:a=0 " at 15 ms a got link 0; "15:a!ETIMEDOUT " it failed. */
static void told(struct sim_ask *a)
{
    const int ms = (int)((h.rig.w.now_ns - begun_ns) / MR_NS_PER_MS);
    if (a->err)
        note("%d:%c!%s ", ms, name_of(a), moor_err_name(a->err) + 5);
    else
        note("%d:%c=%d ", ms, name_of(a), a->native->id - first_id);
}

/*
 * One operation: when, what, and to whom.
 *     "ask a"  "ask a 0" (priority 0)  "ask a k7" (affinity 7)  "ask a t20" (timeout)  "ask a s1" (on shard 1)
 *     "put a"  "discard a"  "dirty a"  "report a 25006"  "cancel a"
 *     "flush" "pause" "fail" (pause, failing) "resume" "drain" "set conns_max 3"
 *     "down" "up"  connects fail, or not;  "slow 100"  a connect takes so long
 */
struct op {
    int64_t at_ms;
    const char *what;
};

static void ask(char who, const char *how)
{
    struct sim_ask *a = sim_ask_plan(&h, 0);
    for (; *how; how += strcspn(how, " "), how += *how == ' ') {
        if (*how == 'k')
            a->options.affinity = strtoull(how + 1, NULL, 10);
        else if (*how == 't')
            a->options.timeout_ms = strtol(how + 1, NULL, 10);
        else if (*how == 's')
            a->shard = (unsigned)strtoul(how + 1, NULL, 10);
        else
            a->options.priority = (uint8_t)strtoul(how, NULL, 10);
    }
    by_name[(int)who] = a;
    if (!sim_ask_submit(a))
        told(a);
}

static bool is(const char *what, const char *verb, const char **rest)
{
    const size_t len = strlen(verb);
    if (strncmp(what, verb, len) || (what[len] && what[len] != ' '))
        return false;
    *rest = what + len + (what[len] == ' ');
    return true;
}

static void apply(const char *what)
{
    const char *rest;
    if (is(what, "ask", &rest))
        ask(rest[0], rest + 1 + (rest[1] == ' '));
    else if (is(what, "put", &rest))
        sim_ask_release(by_name[(int)*rest], MOOR_REUSE);
    else if (is(what, "discard", &rest))
        sim_ask_release(by_name[(int)*rest], MOOR_DISCARD);
    else if (is(what, "dirty", &rest))
        sim_ask_release(by_name[(int)*rest], MOOR_DIRTY);
    else if (is(what, "report", &rest))
        moor_lease_report(by_name[(int)*rest]->lease, rest + 2, 0);
    else if (is(what, "cancel", &rest))
        moor_cancel(by_name[(int)*rest]->op);
    else if (is(what, "flush", &rest))
        moor_pool_flush(h.rig.pool);
    else if (is(what, "pause", &rest))
        assert_int_equal(moor_pool_pause(h.rig.pool, false), MOOR_OK);
    else if (is(what, "fail", &rest))
        assert_int_equal(moor_pool_pause(h.rig.pool, true), MOOR_OK);
    else if (is(what, "resume", &rest))
        moor_pool_resume(h.rig.pool);
    else if (is(what, "down", &rest))
        atomic_store(&h.script.connects_fail, -1);
    else if (is(what, "up", &rest))
        atomic_store(&h.script.connects_fail, 0);
    else if (is(what, "slow", &rest))
        atomic_store(&h.script.connect_ms, atoi(rest));
    else if (is(what, "drain", &rest))
        sim_rig_drain(&h.rig, 1000);
    else if (is(what, "set", &rest)) {
        char option[64];
        const size_t len = strcspn(rest, " ");
        memcpy(option, rest, len);
        option[len] = 0;
        assert_int_equal(moor_pool_set(h.rig.pool, option, rest + len + 1, NULL, 0), MOOR_OK);
    } else
        fail_msg("what is \"%s\"?", what);
}

#define OPS_MAX 24
struct table {
    const char *name;
    uint32_t conns_max, dials_max;
    struct op ops[OPS_MAX];
    const char *expected;
    int connects; /* in all */
};

static void play(const struct table *t)
{
    sim_handles_init(&h, 1);
    h.told = told;
    h.rig.w.is_traced = getenv("SIM_TRACE") != NULL;
    moor_pool_options *o = &h.rig.pool_options;
    o->conns_max = t->conns_max ? t->conns_max : 1;
    o->dials_max = t->dials_max ? t->dials_max : 8;
    o->lifetime_max_ms = o->idle_timeout_ms = o->surplus_decay_ms = MOOR_FOREVER;
    o->backoff_min_ms = o->backoff_max_ms = 40;
    atomic_store(&h.script.connect_ms, 10);
    sim_rig_open(&h.rig, 2);
    memset(by_name, 0, sizeof by_name);
    happened[0] = 0;
    first_id = dummy_ids();
    begun_ns = h.rig.w.now_ns;
    for (const struct op *p = t->ops; p < t->ops + OPS_MAX && p->what; p++) {
        sim_rig_pass(&h.rig, p->at_ms - (h.rig.w.now_ns - begun_ns) / MR_NS_PER_MS);
        apply(p->what);
    }
    sim_rig_pass(&h.rig, 5000);
    if (strcmp(happened, t->expected))
        fail_msg("%s:\n     got: %s\nexpected: %s", t->name, happened, t->expected);
    if (atomic_load(&h.script.connects) != t->connects)
        fail_msg("%s: %d connects, not %d", t->name, atomic_load(&h.script.connects), t->connects);
    /* What a table leaves paused or asked ends with the pool. */
    h.told = NULL;
    atomic_store(&h.script.connects_fail, 0);
    sim_handles_close(&h);
}

static const struct table order[] = {
    {.name = "the last that came back is taken again",
     .conns_max = 3,
     .ops = {{0, "ask a"},
             {20, "ask b"},
             {40, "put a"},
             {41, "put b"},
             {42, "ask c"},
             {43, "put c"},
             {44, "ask d"}},
     .expected = "10:a=0 30:b=1 42:c=0 44:d=0 ",
     .connects = 2},
    {.name = "in turn where the option says so",
     .conns_max = 3,
     .ops = {{0, "set eviction fifo"},
             {0, "ask a"},
             {20, "ask b"},
             {40, "put b"},
             {41, "put a"},
             {42, "ask c"},
             {43, "put c"},
             {44, "ask d"},
             {45, "put d"},
             {46, "ask e"}},
     .expected = "10:a=0 30:b=1 42:c=1 44:d=0 46:e=1 ",
     .connects = 2},
    {.name = "first come, first served, on whichever shard",
     .ops = {{0, "ask a"},
             {20, "ask b s1"},
             {21, "ask c"},
             {22, "ask d s1"},
             {30, "put a"},
             {31, "put b"},
             {32, "put c"}},
     .expected = "10:a=0 30:b=0 31:c=0 32:d=0 ",
     .connects = 1},
    {.name = "the important first, then by age",
     .ops = {{0, "ask a"},
             {20, "ask b 3"},
             {21, "ask c 1"},
             {22, "ask d 0"},
             {23, "ask e 1"},
             {30, "put a"},
             {31, "put d"},
             {32, "put c"},
             {33, "put e"}},
     .expected = "10:a=0 30:d=0 31:c=0 32:e=0 33:b=0 ",
     .connects = 1},
    {.name = "whichever comes first, a return or the dial",
     .conns_max = 2,
     .ops = {{0, "ask a"}, {20, "slow 100"}, {20, "ask b"}, {50, "put a"}, {130, "ask c"}},
     .expected = "10:a=0 50:b=0 130:c=1 ",
     .connects = 2},
    {.name = "who gives up leaves the dial to the next",
     .ops = {{0, "ask a"}, {5, "cancel a"}, {6, "ask b"}},
     .expected = "5:a!ECANCELED 10:b=0 ",
     .connects = 1},
    {.name = "a wait ends when it said",
     .ops = {{0, "ask a"}, {20, "ask b t30"}, {21, "ask c t20"}, {60, "put a"}, {70, "ask d"}},
     .expected = "10:a=0 41:c!ETIMEDOUT 50:b!ETIMEDOUT 70:d=0 ",
     .connects = 1},
    {.name = "a key keeps its link",
     .conns_max = 3,
     .ops = {{0, "ask a k1"},
             {20, "ask b k2"},
             {40, "put a"},
             {41, "put b"},
             {42, "ask c k2"},
             {43, "ask d k1"},
             {44, "ask e k2"},
             {50, "put c"},
             {55, "put d"},
             {60, "discard e"},
             {61, "ask f k2"}},
     .expected = "10:a=0 30:b=1 42:c=1 43:d=0 50:e=1 61:f=0 ",
     .connects = 2},
};

static const struct table bounds[] = {
    {.name = "a cap",
     .conns_max = 2,
     .ops = {{0, "ask a"}, {0, "ask b"}, {0, "ask c"}, {0, "ask d"}, {20, "put a"}, {30, "put b"}},
     .expected = "10:a=0 10:b=1 20:c=0 30:d=1 ",
     .connects = 2},
    {.name = "dials at a time",
     .conns_max = 8,
     .dials_max = 2,
     .ops = {{0, "ask a"}, {0, "ask b"}, {0, "ask c"}, {0, "ask d"}, {0, "ask e"}},
     .expected = "10:a=0 10:b=1 20:c=2 20:d=3 30:e=4 ",
     .connects = 5},
    {.name = "a queue",
     .ops = {{0, "set waiters_max 1"}, {0, "ask a"}, {20, "ask b"}, {21, "ask c"}, {30, "put a"}},
     .expected = "10:a=0 21:c!EBUSY 30:b=0 ",
     .connects = 1},
    {.name = "a cap that grows",
     .ops = {{0, "ask a"}, {20, "ask b"}, {21, "ask c"}, {30, "set conns_max 3"}},
     .expected = "10:a=0 40:b=1 40:c=2 ",
     .connects = 3},
    {.name = "a cap that shrinks",
     .conns_max = 3,
     .ops = {{0, "ask a"},
             {0, "ask b"},
             {0, "ask c"},
             {20, "set conns_max 1"},
             {21, "ask d"},
             {30, "put a"},
             {31, "put b"},
             {32, "put c"}},
     .expected = "10:a=0 10:b=1 10:c=2 32:d=2 ",
     .connects = 3},
};

static const struct table outages[] = {
    {.name = "who waits is told, and who comes meanwhile",
     .ops = {{0, "down"}, {0, "ask a"}, {0, "ask b"}, {15, "ask c"}, {16, "up"}, {100, "ask d"}},
     .expected = "10:a!ECONNECT 10:b!ECONNECT 15:c!ECONNECT 110:d=1 ",
     .connects = 2},
    {.name = "one probe, then two, then four",
     .conns_max = 8,
     .ops = {{0, "down"},
             {0, "ask a"},
             {100, "up"},
             {100, "ask b"},
             {100, "ask c"},
             {100, "ask d"},
             {100, "ask e"},
             {100, "ask f"},
             {100, "ask g"},
             {100, "ask h"}},
     .expected = "10:a!ECONNECT 110:b=1 120:c=2 120:d=3 130:e=4 130:f=5 130:g=6 130:h=7 ",
     .connects = 8},
    {.name = "what is there serves on",
     .conns_max = 2,
     .ops = {{0, "ask a"}, {20, "down"}, {20, "ask b"}, {60, "put a"}},
     .expected = "10:a=0 60:b=0 ",
     .connects = 2},
};

static const struct table steering[] = {
    {.name = "flush",
     .conns_max = 2,
     .ops = {{0, "ask a"},
             {0, "ask b"},
             {20, "put a"},
             {21, "flush"},
             {22, "ask c"},
             {40, "put b"},
             {50, "ask d"}},
     .expected = "10:a=0 10:b=1 32:c=2 60:d=3 ",
     .connects = 4},
    {.name = "a report that means flush, once",
     .conns_max = 3,
     .ops = {{0, "ask a"},
             {0, "ask b"},
             {20, "report a 25006"},
             {21, "ask c"},
             {40, "report b 25006"},
             {41, "put a"},
             {42, "put b"},
             {43, "put c"},
             {50, "ask d"}},
     .expected = "10:a=0 10:b=1 31:c=2 50:d=2 ",
     .connects = 3},
    {.name = "dirty is reset first",
     .ops = {{0, "ask a"}, {20, "dirty a"}, {20, "ask b"}, {30, "discard b"}, {30, "ask c"}},
     .expected = "10:a=0 20:b=0 40:c=1 ",
     .connects = 2},
    {.name = "pause",
     .ops = {{0, "ask a"},
             {20, "pause"},
             {21, "ask b"},
             {22, "put a"},
             {23, "ask c t10"},
             {50, "resume"}},
     .expected = "10:a=0 33:c!ETIMEDOUT 50:b=0 ",
     .connects = 1},
    {.name = "a pause that fails",
     .ops = {{0, "ask a"},
             {20, "ask b"},
             {21, "fail"},
             {22, "ask c"},
             {23, "put a"},
             {24, "resume"},
             {25, "ask d"}},
     .expected = "10:a=0 21:b!ECLOSED 22:c!ECLOSED 25:d=0 ",
     .connects = 1},
    {.name = "drain",
     .ops = {{0, "ask a"}, {20, "ask b"}, {21, "drain"}, {22, "ask c"}, {30, "put a"}},
     .expected = "10:a=0 21:b!ECLOSED 22:c!ECLOSED ",
     .connects = 1},
};

/* A machine that slept: everyone between it and the peer may have forgotten its connections. */
static void test_after_a_sleep_idle_ones_are_checked(void **state)
{
    (void)state;
    for (int is_asleep = 0; is_asleep < 2; is_asleep++) {
        sim_handles_init(&h, 1);
        h.rig.pool_options.conns_max = 2;
        h.rig.pool_options.check_every_ms = MOOR_FOREVER;
        h.rig.pool_options.check_after_ms = 3600000;
        h.rig.pool_options.lifetime_max_ms = MOOR_FOREVER;
        sim_rig_open(&h.rig, 1);
        struct sim_ask *a[2];
        for (int i = 0; i < 2; i++) {
            a[i] = sim_ask_plan(&h, 0);
            assert_true(sim_ask_submit(a[i]));
        }
        sim_rig_pass(&h.rig, 100);
        sim_ask_release(a[0], MOOR_REUSE);
        sim_rig_pass(&h.rig, 5000);
        h.rig.w.slept_ns = is_asleep ? 3000 * MR_NS_PER_SEC : 0;
        sim_rig_pass(&h.rig, 5000);
        assert_int_equal(atomic_load(&h.script.dropped), 0);
        a[0] = sim_ask_plan(&h, 0);
        assert_true(sim_ask_submit(a[0]));
        sim_rig_pass(&h.rig, 1000);
        assert_true(a[0]->is_held);
        assert_int_equal(atomic_load(&h.script.checks), is_asleep);
        /* The other was held all the time: it too is not to be trusted any more. */
        sim_ask_release(a[1], MOOR_REUSE);
        sim_rig_pass(&h.rig, 5000);
        a[1] = sim_ask_plan(&h, 0);
        assert_true(sim_ask_submit(a[1]));
        sim_rig_pass(&h.rig, 1000);
        assert_true(a[1]->is_held);
        sim_handles_close(&h);
    }
}

static void play_all(const struct table *t, size_t n)
{
    for (size_t i = 0; i < n; i++)
        play(&t[i]);
}

static void test_order(void **state)
{
    (void)state;
    play_all(order, sizeof order / sizeof *order);
}

static void test_bounds(void **state)
{
    (void)state;
    play_all(bounds, sizeof bounds / sizeof *bounds);
}

static void test_outages(void **state)
{
    (void)state;
    play_all(outages, sizeof outages / sizeof *outages);
}

static void test_steering(void **state)
{
    (void)state;
    play_all(steering, sizeof steering / sizeof *steering);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_outages),
        cmocka_unit_test(test_steering),
        cmocka_unit_test(test_after_a_sleep_idle_ones_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
