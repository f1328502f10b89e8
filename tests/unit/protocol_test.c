/* protocol.h: a conn that carries 3 claims, then 1, then none, and back; how the pool lives with
 * it. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/shard.h"
#include "tests/support/count_protocol.h"

#include <mooring/mooring.h>

struct fixture {
    struct count_server server;
    unsigned announces; /* what the server says to new conns; 0 = nothing */
    moor_runtime *runtime;
    moor_shard *shard;
    moor_pool *pool;
    struct mr_upstream *upstream;
    struct mr_berth *berth;
};

static void pool_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
}

static void open_pool(struct fixture *f, const moor_pool_options *o)
{
    struct mr_pool_spec spec = {.name = "count", .protocol = &count_protocol, .options = *o};
    assert_int_equal(mr_pool_create(f->runtime, &spec, &f->pool), MOOR_OK);
    assert_int_equal(
        mr_pool_upstream(f->pool,
                         &(struct mr_place){.host = {"127.0.0.1", 9}, .port = f->server.port},
                         &f->upstream),
        MOOR_OK);
}

static void make_runtime(struct fixture *f)
{
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    o.recv_buffer_size = 4096;
    o.recv_buffers = 32;
    o.log_level = MOOR_LOG_OFF;
    assert_int_equal(moor_runtime_create(&o, &f->runtime), MOOR_OK);
}

static void begin(struct fixture *f, const moor_pool_options *given)
{
    moor_pool_options o;
    pool_options(&o);
    memset(f, 0, sizeof *f);
    f->announces = 3;
    count_server_init(&f->server);
    make_runtime(f);
    assert_int_equal(moor_shard_adopt(f->runtime, &f->shard), MOOR_OK);
    open_pool(f, given ? given : &o);
    f->berth = mr_berth_of(f->upstream, f->shard);
    assert_non_null(f->berth);
}

static void finish(struct fixture *f)
{
    if (f->pool)
        assert_int_equal(moor_pool_close(f->pool, 100), MOOR_OK);
    moor_shard_leave(f->shard);
    assert_int_equal(moor_runtime_destroy(f->runtime, 1000), MOOR_OK);
    count_server_fini(&f->server);
    assert_int_equal(count_counts.opened, count_counts.dropped);
}

static void turn(struct fixture *f, int ms)
{
    assert_int_equal(moor_shard_wait(f->shard, ms), MOOR_OK);
    count_server_look(&f->server, f->announces);
    mr_berth_check(f->berth);
}

#define TURN_UNTIL(f, condition)                                                                   \
    for (int turns_ = 0; !(condition); turns_++) {                                                 \
        assert_true(turns_ < 5000);                                                                \
        turn(f, 1);                                                                                \
    }

/* Everything said has been heard, every dial has ended or waits for our word, and what follows is
 * done. */
static void settle(struct fixture *f)
{
    for (int i = 0; i < 5; i++)
        turn(f, 1);
    TURN_UNTIL(f, count_is_quiet() && (!f->announces || f->berth->dialing == 0));
    for (int i = 0; i < 5; i++)
        turn(f, 1);
}

static void say(struct fixture *f, unsigned conn, const char *line)
{
    count_say(&f->server, conn, line);
    settle(f);
}

static void acquire(struct fixture *f, struct count_request *r, unsigned from, unsigned n)
{
    for (unsigned i = from; i < from + n; i++)
        assert_int_equal(count_acquire(f->berth, &r[i], i), MOOR_OK);
    settle(f);
}

static void done(struct fixture *f, unsigned conn, unsigned id)
{
    char line[16];
    snprintf(line, sizeof line, "done %u", id);
    say(f, conn, line);
}

static uint64_t open_conns(struct fixture *f)
{
    return atomic_load(&f->berth->local->stats.conns_open);
}

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

/* ---- shards ---- */

static void stay_on_their_shard(unsigned capacity)
{
    struct fixture f = {.announces = capacity};
    struct moor_shard *shards[2];
    struct mr_berth *berths[2];
    struct count_request r[2] = {0};
    moor_pool_options o;
    pool_options(&o);
    o.steal_keep = 0;
    count_server_init(&f.server);
    make_runtime(&f);
    for (int i = 0; i < 2; i++)
        assert_int_equal(mr_runtime_add_shard(f.runtime, &shards[i]), MOOR_OK);
    open_pool(&f, &o);
    atomic_store(&f.upstream->capacity, capacity); /* as the last conn told */
    for (unsigned i = 0; i < 2; i++) {
        mr_shard_enter(shards[i]);
        berths[i] = mr_berth_of(f.upstream, shards[i]);
        assert_int_equal(count_acquire(berths[i], &r[i], i), MOOR_OK);
        for (int n = 0; !r[i].done; n++) {
            assert_true(n < 2000);
            for (int j = 0; j < 2; j++) {
                mr_shard_enter(shards[j]);
                assert_int_equal(mr_shard_turn(shards[j], MR_NS_PER_MS, 0), MOOR_OK);
            }
            count_server_look(&f.server, capacity);
            if (f.server.conns > i && count_heard(&f.server, i, i ? "do 1" : "do 0") == 1 &&
                f.server.heard_len[i]) {
                count_say(&f.server, i, i ? "done 1" : "done 0");
                f.server.heard_len[i] = 0;
                memset(f.server.heard[i], 0, sizeof f.server.heard[i]);
            }
        }
    }
    assert_int_equal(f.server.conns, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(berths[i]->idle_count, 1);
        assert_int_equal(atomic_load(&berths[i]->local->stats.conns_moved), 0);
    }
    moor_pool_drain(f.pool, 1000, NULL, NULL);
    while (!atomic_load(&f.pool->drained_word))
        for (int j = 0; j < 2; j++) {
            mr_shard_enter(shards[j]);
            assert_int_equal(mr_shard_turn(shards[j], MR_NS_PER_MS, 0), MOOR_OK);
        }
    mr_pool_free(f.pool);
    for (int i = 0; i < 2; i++) {
        mr_shard_enter(shards[i]);
        mr_shard_leave(shards[i]);
    }
    mr_shard_enter(NULL);
    assert_int_equal(moor_runtime_destroy(f.runtime, 1000), MOOR_OK);
    count_server_fini(&f.server);
    assert_int_equal(count_counts.opened, count_counts.dropped);
}

static void test_shared_conns_stay_on_their_shard(void **state)
{
    (void)state;
    stay_on_their_shard(3);
    stay_on_their_shard(1); /* nor are they asked for: the other shard dials */
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
        cmocka_unit_test(test_shared_conns_stay_on_their_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
