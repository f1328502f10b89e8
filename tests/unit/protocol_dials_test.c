/* protocol.h: how many conns a pool makes of a protocol that carries many claims: for a cold burst on one
 * shard and on several, by what ALPN chose, kept warm, above the ideal. */
#include "tests/support/count_fixture.h"
#include "tests/support/picker_filter.h"
#include "tests/support/several_shards.h"

#define WIDE  100 /* claims a conn carries */
#define BURST 1000

static struct mr_protocol wide, single;
static struct count_request burst[BURST];

/* As of HTTP/1: one claim a conn, known at once. */
static moor_err single_open(struct mr_conn *c)
{
    const moor_err e = count_protocol.open(c);
    if (e)
        return e;
    mr_conn_expect(c, 1);
    mr_conn_set_capacity(c, 1);
    return MOOR_OK;
}

static moor_err wide_open(struct mr_conn *c)
{
    mr_conn_expect(c, WIDE);
    return count_protocol.open(c);
}

static int make_protocols(void **state)
{
    (void)state;
    wide = single = count_protocol;
    wide.name = "wide";
    wide.capacity_expected = WIDE;
    wide.open = wide_open;
    single.name = "single";
    single.capacity_expected = 1;
    single.is_multiplexed = false;
    single.open = single_open;
    return 0;
}

static void wide_begin(struct fixture *f, const moor_pool_options *o)
{
    begin_as(f, o, &(struct mr_pool_spec){.protocol = &wide});
    f->announces = WIDE;
}

/* ---- a cold burst ---- */

static void test_a_cold_burst_on_one_shard(void **state)
{
    (void)state;
    struct fixture f;
    memset(burst, 0, sizeof burst);
    wide_begin(&f, NULL);
    acquire(&f, burst, 0, BURST);
    TURN_UNTIL(&f, sum_granted(burst, BURST) == BURST);
    settle(&f);
    assert_int_equal(f.server.conns, BURST / WIDE);
    assert_int_equal(open_conns(&f), BURST / WIDE);
    assert_true(mr_list_is_empty(&f.berth->shared)); /* each is full */
    finish(&f);
}

/* The same while no conn says how many it carries: no dial is begun for want of an answer. */
static void test_a_cold_burst_waits_for_what_is_coming(void **state)
{
    (void)state;
    struct fixture f;
    memset(burst, 0, sizeof burst);
    moor_pool_options o;
    pool_options(&o);
    o.dials_max = 32;
    wide_begin(&f, &o);
    f.announces = 0;
    acquire(&f, burst, 0, BURST);
    TURN_UNTIL(&f, f.server.conns == BURST / WIDE);
    settle(&f);
    assert_int_equal(f.server.conns, BURST / WIDE);
    assert_int_equal(sum_granted(burst, BURST), 0);
    for (unsigned i = 0; i < f.server.conns; i++)
        say(&f, i, "cap 100");
    assert_int_equal(sum_granted(burst, BURST), BURST);
    assert_int_equal(f.server.conns, BURST / WIDE);
    finish(&f);
}

/* ---- on several shards ---- */

/* The first shard gets `first` of the burst, the others what is left, in turn. */
static unsigned conns_for_a_burst(unsigned shards, unsigned first)
{
    struct several s;
    moor_pool_options o;
    pool_options(&o);
    memset(burst, 0, sizeof burst);
    several_begin(&s, shards, &o, &wide, WIDE);
    for (unsigned i = 0; i < BURST; i++)
        several_acquire(&s, i < first ? 0 : 1 + i % (shards - 1), &burst[i], i);
    for (unsigned n = 0; sum_granted(burst, BURST) < BURST; n++) {
        assert_true(n < 5000);
        several_turn(&s);
    }
    for (int i = 0; i < 20; i++) /* whatever else was begun */
        several_turn(&s);
    const unsigned conns = s.f.server.conns;
    several_finish(&s);
    return conns;
}

static void test_a_cold_burst_on_several_shards(void **state)
{
    (void)state;
    static const unsigned firsts[] = {1, 450, 500, 501, 999};
    for (unsigned shards = 2; shards <= SEVERAL_MAX; shards += 2)
        for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
            const unsigned conns = conns_for_a_burst(shards, firsts[i]);
            assert_in_range(conns, BURST / WIDE, BURST / WIDE + shards - 1);
        }
    assert_int_equal(conns_for_a_burst(2, 500), BURST / WIDE);
}

static void stay_on_their_shard(unsigned capacity)
{
    struct several s;
    struct count_request r[2] = {0};
    moor_pool_options o;
    pool_options(&o);
    o.steal_keep = 0;
    several_begin(&s, 2, &o, &count_protocol, capacity);
    for (unsigned i = 0; i < 2; i++) {
        bool is_said = false;
        several_acquire(&s, i, &r[i], i);
        for (int n = 0; !r[i].done; n++) {
            assert_true(n < 2000);
            several_turn(&s);
            if (s.f.server.conns <= i || is_said)
                continue;
            is_said = count_heard(&s.f.server, i, i ? "do 1" : "do 0") == 1;
            if (is_said)
                count_say(&s.f.server, i, i ? "done 1" : "done 0");
        }
    }
    assert_int_equal(s.f.server.conns, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(s.berths[i]->idle_count, 1);
        assert_int_equal(atomic_load(&s.berths[i]->local->stats.conns_moved), 0);
    }
    several_finish(&s);
}

static void test_shared_conns_stay_on_their_shard(void **state)
{
    (void)state;
    stay_on_their_shard(3);
    stay_on_their_shard(1); /* nor are they asked for: the other shard dials */
}

/* ---- ALPN chooses ---- */

static const struct mr_protocol *choose(struct mr_upstream *u, const char *alpn)
{
    assert_true(u->is_secure);
    if (!alpn)
        return NULL;
    return strcmp(alpn, "wide") ? &single : &wide;
}

static void alpn_begin(struct fixture *f, const moor_pool_options *o, const char *pick)
{
    picker_picked = pick;
    begin_as(f, o,
             &(struct mr_pool_spec){.protocol = &single,
                                    .secure = picker_filter_add,
                                    .choose = choose,
                                    .capacity_hoped = WIDE});
}

static void test_alpn_chooses_many_claims_a_conn(void **state)
{
    (void)state;
    struct fixture f;
    memset(burst, 0, sizeof burst);
    alpn_begin(&f, NULL, "wide");
    f.announces = WIDE;
    acquire(&f, burst, 0, 250);
    TURN_UNTIL(&f, sum_granted(burst, 250) == 250);
    settle(&f);
    assert_int_equal(f.server.conns, 3);
    for (unsigned i = 0; i < 250; i++)
        assert_ptr_equal(burst[i].conn->protocol, &wide);
    finish(&f);
}

/* What was hoped for is not so: one dial finds out, and each claim gets a conn of its own. */
static void test_alpn_chooses_one_claim_a_conn(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[10] = {0};
    alpn_begin(&f, NULL, "single");
    f.announces = 0;
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(count_acquire(f.berth, &r[i], i), MOOR_OK);
    TURN_UNTIL(&f, f.berth->dialing);
    assert_int_equal(f.berth->dialing, 1);
    TURN_UNTIL(&f, sum_granted(r, 5) == 5);
    settle(&f);
    assert_int_equal(f.server.conns, 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_ptr_equal(r[i].conn->protocol, &single);
        assert_int_equal(r[i].conn->used, 1);
        for (unsigned j = 0; j < i; j++)
            assert_ptr_not_equal(r[i].conn, r[j].conn);
    }
    for (unsigned i = 0; i < 5; i++)
        count_give_up(&r[i], false);
    settle(&f);
    assert_int_equal(open_conns(&f), 0);
    for (unsigned i = 5; i < 10; i++) /* once it is known nobody waits for an answer */
        assert_int_equal(count_acquire(f.berth, &r[i], i), MOOR_OK);
    TURN_UNTIL(&f, f.berth->dialing);
    assert_int_equal(f.berth->dialing, 5);
    settle(&f);
    assert_int_equal(sum_granted(r + 5, 5), 5);
    finish(&f);
}

static void test_alpn_chooses_nothing_we_speak(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[1] = {0};
    alpn_begin(&f, NULL, NULL);
    assert_int_equal(count_acquire(f.berth, &r[0], 0), MOOR_OK);
    TURN_UNTIL(&f, r[0].failed);
    assert_int_equal(r[0].granted, 0);
    assert_int_equal(r[0].fault.err, MOOR_EPROTO);
    assert_true(r[0].fault.safe_to_retry);
    assert_non_null(strstr(r[0].fault.what, "ALPN"));
    assert_int_equal(count_counts.opened, 0);
    finish(&f);
}

/* ---- min idle ---- */

static void test_min_idle_is_one_conn_of_many_claims(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[3] = {0};
    moor_pool_options o;
    pool_options(&o);
    o.conns_min_idle = 10;
    begin(&f, &o);
    TURN_UNTIL(&f, f.berth->idle_count == 1);
    settle(&f);
    assert_int_equal(f.server.conns, 1);
    acquire(&f, r, 0, 3); /* full: still it is one */
    assert_int_equal(f.server.conns, 1);
    count_hang_up(&f.server, 0, false);
    TURN_UNTIL(&f, f.server.conns == 2 && f.berth->idle_count == 1);
    settle(&f);
    assert_int_equal(f.server.conns, 2);
    finish(&f);
}

/* A pause before each further dial, longer each time, whatever it was that the peer did. */
static void test_min_idle_dials_in_no_circle(void **state)
{
    (void)state;
    static const char *const ends[] = {"drain", "nonsense", "cap 0"};
    moor_pool_options o;
    pool_options(&o);
    o.conns_min_idle = 1;
    o.backoff_min_ms = 20;
    for (size_t e = 0; e < sizeof ends / sizeof *ends; e++) {
        struct fixture f;
        begin(&f, &o);
        const int64_t begun = mr_shard_now(f.shard);
        for (unsigned i = 0; i < 4; i++) {
            TURN_UNTIL(&f, f.server.conns == i + 1 && f.berth->idle_count);
            count_say(&f.server, i, ends[e]);
            TURN_UNTIL(&f, !f.berth->idle_count);
        }
        assert_true(mr_shard_now(f.shard) - begun >= (10 + 20 + 40) * MR_NS_PER_MS);
        assert_int_equal(atomic_load(&f.upstream->wasted), 4);
        finish(&f);
    }
}

static void test_min_idle_by_what_alpn_chose(void **state)
{
    (void)state;
    moor_pool_options o;
    pool_options(&o);
    o.conns_min_idle = 10;
    for (unsigned is_wide = 0; is_wide < 2; is_wide++) {
        struct fixture f;
        alpn_begin(&f, &o, is_wide ? "wide" : "single");
        f.announces = is_wide ? WIDE : 0;
        TURN_UNTIL(&f, f.berth->idle_count == (is_wide ? 1 : 10));
        settle(&f);
        assert_int_equal(f.server.conns, is_wide ? 1 : 10);
        finish(&f);
    }
}

/* ---- the ideal ---- */

static void ideal_begin(struct fixture *f)
{
    moor_pool_options o;
    pool_options(&o);
    o.h2_streams_ideal = 4;
    wide_begin(f, &o);
}

static void test_above_the_ideal_one_more_is_dialled(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[20] = {0};
    ideal_begin(&f);
    acquire(&f, r, 0, 4);
    assert_int_equal(f.server.conns, 1);
    f.announces = 0;
    acquire(&f, r, 4, 4);
    acquire(&f, r, 8, 6);
    assert_int_equal(sum_granted(r, 14), 14); /* nobody waits for it */
    assert_int_equal(r[0].conn->used, 14);
    TURN_UNTIL(&f, f.server.conns == 2);
    settle(&f);
    assert_int_equal(f.server.conns, 2);
    assert_int_equal(f.berth->dialing, 1); /* nor is another begun meanwhile */
    f.announces = WIDE;
    say(&f, 1, "cap 100");
    assert_int_equal(f.berth->idle_count, 1);
    acquire(&f, r, 14, 4);
    for (unsigned i = 14; i < 18; i++) {
        assert_ptr_not_equal(r[i].conn, r[0].conn);
        assert_ptr_equal(r[i].conn, r[14].conn);
    }
    assert_int_equal(f.server.conns, 2);
    acquire(&f, r, 18, 1); /* on the less loaded of them, which is above, too */
    assert_ptr_equal(r[18].conn, r[14].conn);
    assert_int_equal(f.server.conns, 3);
    finish(&f);
}

static void test_without_an_ideal_conns_fill_up(void **state)
{
    (void)state;
    struct fixture f;
    memset(burst, 0, sizeof burst);
    wide_begin(&f, NULL);
    acquire(&f, burst, 0, WIDE);
    assert_int_equal(f.server.conns, 1);
    assert_int_equal(burst[0].conn->used, WIDE);
    acquire(&f, burst, WIDE, 1);
    assert_int_equal(f.server.conns, 2);
    finish(&f);
}

static void test_at_the_cap_the_ideal_is_exceeded(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[12] = {0};
    moor_pool_options o;
    pool_options(&o);
    o.h2_streams_ideal = 4;
    o.conns_max = 2;
    wide_begin(&f, &o);
    acquire(&f, r, 0, 5);
    acquire(&f, r, 5, 4);
    assert_int_equal(f.server.conns, 2);
    acquire(&f, r, 9, 3);
    assert_int_equal(sum_granted(r, 12), 12);
    assert_int_equal(f.server.conns, 2);
    assert_int_equal(r[0].conn->used + r[5].conn->used, 12);
    assert_in_range(r[0].conn->used, 5, 7); /* the less loaded of the two each time */
    finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_cold_burst_on_one_shard),
        cmocka_unit_test(test_a_cold_burst_waits_for_what_is_coming),
        cmocka_unit_test(test_a_cold_burst_on_several_shards),
        cmocka_unit_test(test_shared_conns_stay_on_their_shard),
        cmocka_unit_test(test_alpn_chooses_many_claims_a_conn),
        cmocka_unit_test(test_alpn_chooses_one_claim_a_conn),
        cmocka_unit_test(test_alpn_chooses_nothing_we_speak),
        cmocka_unit_test(test_min_idle_is_one_conn_of_many_claims),
        cmocka_unit_test(test_min_idle_dials_in_no_circle),
        cmocka_unit_test(test_min_idle_by_what_alpn_chose),
        cmocka_unit_test(test_above_the_ideal_one_more_is_dialled),
        cmocka_unit_test(test_without_an_ideal_conns_fill_up),
        cmocka_unit_test(test_at_the_cap_the_ideal_is_exceeded),
    };
    return cmocka_run_group_tests(tests, make_protocols, NULL);
}
