/* place.h: two shards, one place under conns_max, conns that carry many claims. */
#include "tests/support/several_shards.h"

#define WIDE 3 /* claims a conn carries */

static struct count_request requests[WIDE + 1];

static void places_begin(struct several *s)
{
    moor_pool_options o;
    pool_options(&o);
    o.conns_max = 1;
    memset(requests, 0, sizeof requests);
    several_begin(s, 2, &o, &count_protocol, WIDE);
}

static uint64_t sum_of_open(struct several *s)
{
    uint64_t open = 0;
    for (unsigned i = 0; i < s->count; i++)
        open += atomic_load(&s->berths[i]->local->stats.conns_open);
    return open;
}

#define SEVERAL_UNTIL(s, condition)                                                                \
    for (int turns_ = 0; !(condition); turns_++) {                                                 \
        assert_true(turns_ < 2000);                                                                \
        several_turn(s);                                                                           \
        assert_true(sum_of_open(s) <= 1);                                                          \
    }

/* On the conn of r, which the server calls by that number. */
static void answer(struct several *s, struct count_request *r, unsigned conn)
{
    char line[16];
    snprintf(line, sizeof line, "done %u", r->id);
    count_say(&s->f.server, conn, line);
    SEVERAL_UNTIL(s, r->done);
}

static void test_an_idle_conn_gives_its_place(void **state)
{
    (void)state;
    struct several s;
    places_begin(&s);
    for (unsigned i = 0; i < 4; i++) {
        several_acquire(&s, i % 2, &requests[i], i);
        SEVERAL_UNTIL(&s, requests[i].granted);
        assert_int_equal(s.f.server.conns, i + 1);
        answer(&s, &requests[i], i);
        SEVERAL_UNTIL(&s, s.berths[i % 2]->idle_count == 1);
    }
    several_finish(&s);
}

/* What runs on it ends first; nothing but time has to pass for it to be asked. */
static void test_a_conn_in_use_gives_its_place(void **state)
{
    (void)state;
    struct several s;
    places_begin(&s);
    several_acquire(&s, 0, &requests[0], 0);
    SEVERAL_UNTIL(&s, requests[0].granted);
    several_acquire(&s, 1, &requests[1], 1);
    SEVERAL_UNTIL(&s, mr_conn_state(requests[0].conn) == MR_CONN_DRAINING);
    several_acquire(&s, 0, &requests[2], 2); /* comes after who has waited longer */
    for (int i = 0; i < 20; i++)
        several_turn(&s);
    assert_int_equal(s.f.server.conns, 1);
    assert_int_equal(sum_granted(requests, 3), 1);
    answer(&s, &requests[0], 0);
    SEVERAL_UNTIL(&s, requests[1].granted);
    assert_int_equal(requests[2].granted, 0);
    assert_int_equal(s.f.server.conns, 2);
    answer(&s, &requests[1], 1);
    SEVERAL_UNTIL(&s, requests[2].granted);
    assert_int_equal(s.f.server.conns, 3);
    several_finish(&s);
}

/* A shard that has a conn waits for it as any does. */
static void test_a_full_conn_takes_no_place(void **state)
{
    (void)state;
    struct several s;
    places_begin(&s);
    for (unsigned i = 0; i <= WIDE; i++)
        several_acquire(&s, 0, &requests[i], i);
    SEVERAL_UNTIL(&s, sum_granted(requests, WIDE) == WIDE);
    for (int i = 0; i < 150; i++)
        several_turn(&s);
    assert_int_equal(requests[WIDE].granted, 0);
    assert_int_equal(mr_conn_state(requests[0].conn), MR_CONN_LEASED);
    answer(&s, &requests[0], 0);
    SEVERAL_UNTIL(&s, requests[WIDE].granted);
    assert_int_equal(s.f.server.conns, 1);
    several_finish(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_idle_conn_gives_its_place),
        cmocka_unit_test(test_a_conn_in_use_gives_its_place),
        cmocka_unit_test(test_a_full_conn_takes_no_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
