/* protocol.h: a conn that carries 3 claims, then 1, then none, and back; how the pool lives with
 * it. */
#include "tests/support/count_fixture.h"

#include <string.h>

/* ---- dials ---- */

static void test_one_dial_while_claims_fit(void **state)
{
    (void)state;
    for (unsigned claims = 1; claims <= 7; claims++) {
        struct fixture f;
        struct count_request r[7] = {0};
        begin(&f, NULL);
        f.announces = 0;
        acquire(&f, r, 0, claims);
        TURN_UNTIL(&f, f.server.conns >= (claims + 2) / 3);
        settle(&f);
        assert_int_equal(f.server.conns, (claims + 2) / 3);
        for (unsigned i = 0; i < f.server.conns; i++)
            say(&f, i, "cap 3");
        for (unsigned i = 0; i < claims; i++)
            assert_int_equal(r[i].granted, 1);
        assert_int_equal(f.server.conns, (claims + 2) / 3);
        finish(&f);
    }
}

static void test_less_capacity_than_expected_dials_on(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[3] = {0};
    begin(&f, NULL);
    f.announces = 1;
    acquire(&f, r, 0, 3);
    TURN_UNTIL(&f, r[2].granted);
    assert_int_equal(f.server.conns, 3);
    finish(&f);
}

static void test_replays_share_a_new_conn(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[4] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 1);
    for (int i = 1; i < 4; i++)
        r[i].claim.wants_fresh = true;
    acquire(&f, r, 1, 3);
    assert_int_equal(f.server.conns, 2);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(r[i].granted, 1);
        assert_ptr_not_equal(r[i].was_on, r[0].was_on);
    }
    finish(&f);
}

/* ---- which conn ---- */

static void test_the_less_loaded_of_two(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[7] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 4);
    assert_int_equal(f.server.conns, 2);
    struct mr_conn *full = r[0].conn, *light = r[3].conn;
    assert_int_equal(full->used, 3);
    assert_int_equal(light->used, 1);
    const unsigned at = count_heard(&f.server, 0, "do 0") ? 0 : 1;
    done(&f, at, 0); /* 2 and 1 */
    acquire(&f, r, 4, 1);
    assert_ptr_equal(r[4].conn, light); /* 2 and 2 */
    done(&f, at, 1);                    /* 1 and 2 */
    acquire(&f, r, 5, 1);
    assert_ptr_equal(r[5].conn, full);
    assert_true(r[5].is_reused);
    acquire(&f, r, 6, 1);
    assert_int_equal(full->used + light->used, 5);
    assert_int_equal(f.server.conns, 2);
    finish(&f);
}

static void test_a_shared_conn_before_an_idle_one(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[6] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 4);
    struct mr_conn *idle = r[3].conn;
    const unsigned at = count_heard(&f.server, 0, "do 3") ? 0 : 1;
    done(&f, at, 3);
    done(&f, 1 - at, 0);
    assert_int_equal(f.berth->idle_count, 1);
    acquire(&f, r, 4, 1);
    assert_ptr_not_equal(r[4].conn, idle); /* which may end of that */
    assert_int_equal(f.berth->idle_count, 1);
    finish(&f);
}

/* ---- capacity changes ---- */

static void test_less_capacity_than_used(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[6] = {0};
    moor_pool_options o;
    pool_options(&o);
    o.conns_max = 1;
    begin(&f, &o);
    acquire(&f, r, 0, 3);
    struct mr_conn *c = r[0].conn;
    say(&f, 0, "cap 1");
    acquire(&f, r, 3, 1);
    assert_int_equal(c->used, 3);
    assert_int_equal(r[3].granted, 0);
    done(&f, 0, 0);
    done(&f, 0, 1);
    assert_int_equal(r[3].granted, 0); /* one runs: that is all it carries */
    done(&f, 0, 2);
    assert_int_equal(r[3].granted, 1);
    assert_ptr_equal(r[3].conn, c);
    say(&f, 0, "cap 3");
    acquire(&f, r, 4, 2);
    assert_int_equal(c->used, 3);
    say(&f, 0, "cap 9");
    say(&f, 0, "cap 3");
    assert_int_equal(f.server.conns, 1);
    finish(&f);
}

static void test_no_capacity_and_back(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[6] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 2);
    struct mr_conn *c = r[0].conn;
    say(&f, 0, "cap 0");
    acquire(&f, r, 2, 1);
    assert_int_equal(f.server.conns, 2);
    assert_ptr_not_equal(r[2].conn, c);
    done(&f, 0, 0);
    assert_int_equal(r[0].done, 1);
    assert_int_equal(c->used, 1);
    say(&f, 0, "cap 3"); /* back in time */
    acquire(&f, r, 3, 2);
    assert_int_equal(c->used, 2);
    say(&f, 0, "cap 0");
    for (unsigned i = 0; i < 5; i++)
        if (r[i].conn == c)
            done(&f, 0, i);
    assert_int_equal(open_conns(&f), 1); /* the last one left it */
    acquire(&f, r, 5, 1);
    assert_int_equal(r[5].granted, 1);
    assert_int_equal(f.server.conns, 2);
    finish(&f);
}

static void test_capacity_of_an_idle_conn(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[4] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 1);
    done(&f, 0, 0);
    say(&f, 0, "cap 1");
    say(&f, 0, "cap 2");
    assert_int_equal(f.berth->idle_count, 1);
    acquire(&f, r, 1, 2);
    assert_int_equal(f.server.conns, 1);
    assert_int_equal(r[1].conn->used, 2);
    done(&f, 0, 1);
    done(&f, 0, 2);
    say(&f, 0, "cap 0");
    assert_int_equal(open_conns(&f), 0);
    assert_int_equal(f.berth->idle_count, 0);
    finish(&f);
}

/* A server that allows nothing is not dialled again and again. */
static void test_a_pause_after_a_conn_without_use(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[3] = {0};
    moor_pool_options o;
    pool_options(&o);
    o.backoff_min_ms = o.backoff_max_ms = 60000;
    begin(&f, &o);
    acquire(&f, r, 0, 1);
    say(&f, 0, "cap 0");
    done(&f, 0, 0); /* the last claim leaves a conn that takes no more */
    assert_int_equal(open_conns(&f), 0);
    acquire(&f, r, 1, 1);
    assert_int_equal(f.server.conns, 1);
    assert_int_equal(r[1].claim.reason, MOOR_WAIT_BACKOFF);
    assert_int_equal(r[1].failed, 0);
    moor_why why;
    mr_berth_why(f.berth, r[1].claim.reason, 0, &why);
    assert_string_equal(why.connect_what, "the peer takes no more, for now");
    mr_berth_cancel(&r[1].claim);
    finish(&f);
}

static unsigned checks;

static void count_check(struct mr_conn *c)
{
    checks++;
    mr_berth_release(c, true);
}

/* What ALPN chose has a check, what the pool was made for has none. */
static void test_idle_conns_are_checked_by_their_own_protocol(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[1] = {0};
    moor_pool_options o;
    pool_options(&o);
    o.check_every_ms = 1;
    struct mr_protocol chosen = count_protocol;
    chosen.check = count_check;
    checks = 0;
    begin(&f, &o);
    acquire(&f, r, 0, 1);
    r[0].conn->protocol = &chosen;
    done(&f, 0, 0);
    TURN_UNTIL(&f, checks >= 2);
    assert_int_equal(f.berth->idle_count, 1);
    finish(&f);
}

/* ---- the end of a conn ---- */

static void test_a_draining_conn_finishes(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[4] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 2);
    struct mr_conn *c = r[0].conn;
    say(&f, 0, "drain");
    say(&f, 0, "drain");
    say(&f, 0, "cap 3"); /* too late */
    assert_int_equal(mr_conn_state(c), MR_CONN_DRAINING);
    assert_int_equal(count_heard(&f.server, 0, "bye"), 1);
    acquire(&f, r, 2, 1);
    assert_int_equal(f.server.conns, 2);
    assert_int_equal(c->used, 2);
    done(&f, 0, 0);
    assert_int_equal(open_conns(&f), 2);
    done(&f, 0, 1);
    assert_int_equal(open_conns(&f), 1);
    assert_int_equal(r[0].done + r[1].done, 2);
    assert_int_equal(r[0].failed + r[1].failed, 0);
    done(&f, 1, 2);
    say(&f, 1, "drain"); /* idle: it just goes */
    assert_int_equal(open_conns(&f), 0);
    finish(&f);
}

static void test_a_failure_tells_every_claim(void **state)
{
    (void)state;
    for (int with_reset = 0; with_reset < 2; with_reset++) {
        struct fixture f;
        struct count_request r[4] = {0}, again[2] = {0};
        begin(&f, NULL);
        acquire(&f, r, 0, 2);
        const uint64_t made = atomic_load(&f.berth->local->stats.conns_created);
        assert_int_equal(made, 1);
        for (int i = 0; i < 2;
             i++) { /* who hears of it asks at once: not for this conn, which has room */
            r[i].next = &again[i];
            r[i].next_berth = f.berth;
        }
        count_hang_up(&f.server, 0, with_reset);
        TURN_UNTIL(&f, again[0].granted && again[1].granted);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(r[i].failed, 1);
            assert_int_equal(r[i].fault.err, MOOR_ERESET);
            assert_int_equal(again[i].granted, 1);
            assert_int_equal(again[i].failed, 0);
        }
        assert_int_equal(f.server.conns, 2);
        assert_int_equal(open_conns(&f), 1);
        finish(&f);
    }
}

static void test_a_claim_that_spoils_its_conn(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[3] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 2);
    count_give_up(&r[0], false);
    settle(&f);
    assert_int_equal(mr_conn_state(r[1].conn), MR_CONN_DRAINING);
    assert_int_equal(r[1].failed, 0);
    done(&f, 0, 1);
    assert_int_equal(r[1].done, 1);
    assert_int_equal(open_conns(&f), 0);
    finish(&f);
}

static void test_a_release_with_bytes_under_way(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[2] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 1);
    done(&f, 0, 0);
    assert_int_equal(count_acquire(f.berth, &r[1], 1),
                     MOOR_OK); /* granted, its line not sent yet */
    assert_int_equal(r[1].granted, 1);
    count_give_up(&r[1], true);
    settle(&f);
    assert_int_equal(f.berth->idle_count, 1);
    assert_int_equal(count_heard(&f.server, 0, "do 1"), 1);
    finish(&f);
}

static void test_a_worn_conn_is_shared_no_more(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[4] = {0};
    moor_pool_options o;
    pool_options(&o);
    o.uses_max = 2;
    begin(&f, &o);
    acquire(&f, r, 0, 2);
    acquire(&f, r, 2, 1);
    assert_int_equal(f.server.conns, 2);
    assert_int_equal(mr_conn_state(r[0].conn), MR_CONN_DRAINING);
    assert_int_equal(count_heard(&f.server, 0, "bye"), 1);
    done(&f, 0, 0);
    done(&f, 0, 1);
    assert_int_equal(open_conns(&f), 1);
    finish(&f);
}

static void test_idle_bytes_reach_the_protocol(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[2] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 1);
    done(&f, 0, 0);
    say(&f, 0, "note");
    say(&f, 0, "note");
    assert_int_equal(count_counts.notes, 2);
    assert_int_equal(f.berth->idle_count, 1);
    say(&f, 0, "nonsense");
    assert_int_equal(open_conns(&f), 0);
    finish(&f);
}

/* ---- the pool's end ---- */

static void test_a_pool_drains(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[5] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 5); /* one full, one shared */
    moor_pool_drain(f.pool, 60000, NULL, NULL);
    settle(&f);
    assert_int_equal(count_counts.drains, 2);
    assert_int_equal(count_heard(&f.server, 0, "bye"), 1);
    assert_int_equal(count_heard(&f.server, 1, "bye"), 1);
    for (unsigned i = 0; i < 5; i++)
        done(&f, count_heard(&f.server, 0, (char[]){'d', 'o', ' ', (char)('0' + i), 0}) ? 0 : 1, i);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(r[i].done, 1);
        assert_int_equal(r[i].failed, 0);
    }
    assert_true(atomic_load(&f.pool->drained_word));
    finish(&f);
}

static void test_a_pool_closes_at_once(void **state)
{
    (void)state;
    struct fixture f;
    struct count_request r[8] = {0};
    begin(&f, NULL);
    acquire(&f, r, 0, 5);
    assert_int_equal(count_acquire(f.berth, &r[7], 7), MOOR_OK);
    assert_int_equal(moor_pool_close(f.pool, 0), MOOR_OK);
    f.pool = NULL;
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(r[i].failed, 1);
        assert_int_equal(r[i].fault.err, MOOR_ECANCELED);
    }
    finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_dial_while_claims_fit),
        cmocka_unit_test(test_less_capacity_than_expected_dials_on),
        cmocka_unit_test(test_replays_share_a_new_conn),
        cmocka_unit_test(test_the_less_loaded_of_two),
        cmocka_unit_test(test_a_shared_conn_before_an_idle_one),
        cmocka_unit_test(test_less_capacity_than_used),
        cmocka_unit_test(test_no_capacity_and_back),
        cmocka_unit_test(test_capacity_of_an_idle_conn),
        cmocka_unit_test(test_a_draining_conn_finishes),
        cmocka_unit_test(test_a_failure_tells_every_claim),
        cmocka_unit_test(test_a_claim_that_spoils_its_conn),
        cmocka_unit_test(test_a_release_with_bytes_under_way),
        cmocka_unit_test(test_a_worn_conn_is_shared_no_more),
        cmocka_unit_test(test_idle_bytes_reach_the_protocol),
        cmocka_unit_test(test_a_pool_drains),
        cmocka_unit_test(test_a_pool_closes_at_once),
        cmocka_unit_test(test_a_pause_after_a_conn_without_use),
        cmocka_unit_test(test_idle_conns_are_checked_by_their_own_protocol),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
