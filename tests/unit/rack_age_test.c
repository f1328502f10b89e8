/*
 * What time does to links: min idle, idle timeout, lifetime, uses, checks, which goes first, surplus, leases held
 * for long, peers that end what lies idle.
 */
#include "tests/support/handle_fixture.h"

#include <sys/socket.h>
#include <mooring/event.h>

#include <unistd.h>

static struct {
    pthread_mutex_t lock;
    int counts[32];
    char site[128], why[128];
    moor_ns held;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_event(void *user, const moor_event *e)
{
    (void)user;
    pthread_mutex_lock(&seen.lock);
    seen.counts[e->type]++;
    if (e->site)
        snprintf(seen.site, sizeof seen.site, "%s", e->site);
    if (e->type == MOOR_EVENT_CONN_CLOSED)
        snprintf(seen.why, sizeof seen.why, "%s", e->why);
    seen.held = e->held;
    pthread_mutex_unlock(&seen.lock);
}

static int count(moor_event_type t)
{
    pthread_mutex_lock(&seen.lock);
    const int n = seen.counts[t];
    pthread_mutex_unlock(&seen.lock);
    return n;
}

static bool was_closed_for(const char *why)
{
    pthread_mutex_lock(&seen.lock);
    const bool is_it = strstr(seen.why, why);
    pthread_mutex_unlock(&seen.lock);
    return is_it;
}

static void options(moor_pool_options *o)
{
    memset(seen.counts, 0, sizeof seen.counts);
    handles_options(o);
    o->on_event = on_event;
}

static void take(struct handles *h, uint32_t n, moor_acquired *out)
{
    for (uint32_t i = 0; i < n; i++)
        assert_err(moor_acquire_wait(h->pool, NULL, &out[i]), MOOR_OK);
}

static void give(uint32_t n, const moor_acquired *a)
{
    for (uint32_t i = 0; i < n; i++)
        moor_release(a[i].lease, MOOR_REUSE);
}

/* ---- how many ---- */

static void test_min_idle_is_kept(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.conns_min_idle = 3;
    o.conns_max = 5;
    o.idle_timeout_ms = 20;
    o.surplus_decay_ms = 20;
    handles_open(&h, &o);
    peer_sleep_ms(30);
    assert_int_equal(atomic_load(&h.script.connects), 0); /* begins with the first use */
    moor_acquired a[5];
    take(&h, 1, a);
    eventually(handles_stats(&h).conns_idle == 3);
    take(&h, 2, a + 1);
    eventually(handles_stats(&h).conns_open == 5); /* and no more: the cap */
    peer_sleep_ms(50);
    assert_int_equal(handles_stats(&h).conns_open, 5);
    give(3, a);
    eventually(handles_stats(&h).conns_open == 3);
    peer_sleep_ms(100);
    assert_int_equal(handles_stats(&h).conns_open, 3);
    moor_pool_flush(h.pool);
    eventually(atomic_load(&h.script.dropped) >= 5 && handles_stats(&h).conns_idle == 3);
    handles_close(&h);
}

static void test_idle_ones_time_out(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.idle_timeout_ms = 60;
    o.surplus_decay_ms = MOOR_FOREVER;
    handles_open(&h, &o);
    moor_acquired a[3];
    take(&h, 3, a);
    peer_sleep_ms(150);
    assert_int_equal(handles_stats(&h).conns_open, 3); /* leased is not idle */
    give(3, a);
    eventually(handles_stats(&h).conns_open == 0);
    assert_true(was_closed_for("idle"));
    handles_close(&h);
}

static void test_surplus_goes_by_and_by(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.conns_max = 40;
    o.surplus_decay_ms = 150;
    handles_open(&h, &o);
    moor_acquired a[40];
    take(&h, 40, a);
    give(40, a);
    /* Some go each time, never all at once; two are used all along and stay. */
    uint64_t last = 40;
    int steps = 0;
    take(&h, 2, a);
    for (int i = 0; i < 20000 && last > 8; i++) {
        const uint64_t open = handles_stats(&h).conns_open;
        if (open < last) {
            if (last - open > 40 / 4) /* an eighth, or two of them if this thread was late */
                fail_msg("%d at once", (int)(last - open));
            steps++;
        }
        last = open;
        peer_sleep_ms(2);
    }
    assert_true(last <= 8);
    assert_true(steps >= 4);
    assert_ptr_equal(moor_lease_native(a[1].lease), a[1].native);
    assert_true(was_closed_for("not needed"));
    give(2, a);
    handles_close(&h);
}

/* In turn, every link is used, and still those that are not needed go. */
static void test_fifo_pools_shrink_too(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.conns_max = 20;
    o.eviction = "fifo";
    o.surplus_decay_ms = 50;
    handles_open(&h, &o);
    moor_acquired a[20];
    take(&h, 20, a);
    give(20, a);
    for (int i = 0; i < 20000 && handles_stats(&h).conns_open > 4; i++) {
        take(&h, 1, a);
        give(1, a);
        peer_sleep_ms(1);
    }
    assert_true(handles_stats(&h).conns_open <= 4);
    assert_int_equal(atomic_load(&h.script.connects), 20);
    handles_close(&h);
}

/* ---- how old ---- */

static void test_lifetime_ends_idle_and_leased(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.lifetime_max_ms = 100;
    o.lifetime_jitter_percent = 50;
    handles_open(&h, &o);
    moor_acquired a[8];
    take(&h, 8, a);
    give(4, a);
    eventually(handles_stats(&h).conns_open == 4);
    assert_true(was_closed_for("lifetime"));
    peer_sleep_ms(250);
    for (int i = 4; i < 8; i++)
        assert_ptr_equal(moor_lease_native(a[i].lease), a[i].native); /* none is cut */
    give(4, a + 4);
    eventually(handles_stats(&h).conns_open == 0);
    handles_close(&h);
}

/* Two-sided: some live shorter than the option says, some longer, none by more than the spread. */
static void test_lifetimes_are_spread_both_ways(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.conns_max = 64;
    o.dials_max = 64;
    o.lifetime_max_ms = 1000;
    o.lifetime_jitter_percent = 50;
    o.surplus_decay_ms = MOOR_FOREVER;
    handles_open(&h, &o);
    assert_err(moor_pool_warm(h.pool, 64, 10000, NULL, NULL), MOOR_OK);
    const int64_t begun = fixture_now_ms();
    eventually(handles_stats(&h).conns_open < 64);
    assert_true(fixture_now_ms() - begun < 1000);
    while (fixture_now_ms() - begun < 1010)
        peer_sleep_ms(1);
    if (fixture_now_ms() - begun < 1100) { /* else the machine slept over it */
        const uint64_t left = handles_stats(&h).conns_open;
        assert_true(left > 0 && left < 64);
    }
    eventually(handles_stats(&h).conns_open == 0);
    handles_close(&h);
}

static void test_uses_are_counted(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.uses_max = 4;
    handles_open(&h, &o);
    for (int i = 0; i < 40; i++) {
        moor_acquired a;
        take(&h, 1, &a);
        assert_int_equal(a.reused, i % 4 != 0);
        give(1, &a);
        if (i % 4 == 3)
            eventually(atomic_load(&h.script.dropped) == (i + 1) / 4);
    }
    assert_int_equal(atomic_load(&h.script.connects), 10);
    handles_close(&h);
}

/* ---- checks ---- */

static void test_idle_ones_are_checked_every_so_often(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.check_every_ms = 30;
    handles_open(&h, &o);
    moor_acquired a[2];
    take(&h, 2, a);
    peer_sleep_ms(100);
    assert_int_equal(atomic_load(&h.script.checks), 0); /* not while leased */
    give(2, a);
    eventually(atomic_load(&h.script.checks) >= 6);
    assert_int_equal(handles_stats(&h).conns_open, 2);
    atomic_store(&h.script.checks_fail, 1);
    eventually(handles_stats(&h).conns_open == 1);
    assert_true(was_closed_for("check failed"));
    handles_close(&h);
}

static void test_stale_ones_are_checked_before_use(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.check_after_ms = 40;
    handles_open(&h, &o);
    moor_acquired a;
    take(&h, 1, &a);
    void *native = a.native;
    give(1, &a);
    take(&h, 1, &a); /* alive a moment ago: no round trip */
    assert_int_equal(atomic_load(&h.script.checks), 0);
    give(1, &a);
    eventually(moor_acquire_try(h.pool, NULL, &a) != MOOR_OK ||
               (give(1, &a), peer_sleep_ms(100), false));
    take(&h, 1, &a);
    assert_ptr_equal(a.native, native);
    assert_int_equal(atomic_load(&h.script.checks), 1);
    give(1, &a);
    /* One that does not answer is replaced, and its holder never sees it. */
    const int id = ((struct dummy *)native)->id;
    eventually(moor_acquire_try(h.pool, NULL, &a) != MOOR_OK ||
               (give(1, &a), peer_sleep_ms(100), false));
    atomic_store(&h.script.checks_fail, 1);
    take(&h, 1, &a);
    assert_int_not_equal(((struct dummy *)a.native)->id, id);
    give(1, &a);
    handles_close(&h);
}

/* 0: each time, whoever it comes from. */
static void test_check_after_0_checks_each_time(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.check_after_ms = 0;
    o.conns_max = 1;
    handles_open(&h, &o);
    moor_acquired a;
    take(&h, 1, &a); /* it was just made */
    assert_int_equal(((struct dummy *)a.native)->checks, 0);
    for (int i = 1; i < 20; i++) {
        give(1, &a);
        take(&h, 1, &a);
        assert_true(((struct dummy *)a.native)->checks >= i);
    }
    struct taker t;
    const int checks = ((struct dummy *)a.native)->checks;
    taker_start(&t, h.pool, NULL);
    eventually(handles_stats(&h).waiters == 1);
    give(1, &a);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    assert_true(((struct dummy *)t.got.native)->checks > checks);
    moor_release(t.got.lease, MOOR_REUSE);
    assert_int_equal(atomic_load(&h.script.connects), 1);
    handles_close(&h);
}

static void test_check_on_return(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.check_on_return = true;
    o.conns_max = 1;
    handles_open(&h, &o);
    moor_acquired a;
    take(&h, 1, &a);
    moor_release(a.lease, MOOR_DIRTY);
    eventually(atomic_load(&h.script.checks) == 1); /* after the reset */
    assert_int_equal(atomic_load(&h.script.resets), 1);
    take(&h, 1, &a);
    atomic_store(&h.script.checks_fail, 1);
    give(1, &a);
    take(&h, 1, &a); /* waits for the check, then for the dial */
    assert_int_equal(atomic_load(&h.script.connects), 2);
    give(1, &a);
    handles_close(&h);
}

static void test_a_reset_that_fails_or_hangs(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.conns_max = 1;
    o.connect_timeout_ms = 100;
    handles_open(&h, &o);
    moor_acquired a;
    take(&h, 1, &a);
    atomic_store(&h.script.resets_fail, 1);
    moor_release(a.lease, MOOR_DIRTY);
    take(&h, 1, &a);
    assert_true(was_closed_for("reset failed"));
    atomic_store(&h.script.reset_ms, 60000);
    moor_release(a.lease, MOOR_DIRTY);
    take(&h, 1, &a);
    assert_int_equal(atomic_load(&h.script.connects), 3);
    give(1, &a);
    handles_close(&h);
}

/* ---- which goes first ---- */

static _Atomic(int) asked;

static size_t evict_most_used(void *user, const moor_idle_conn *idle, size_t n)
{
    (void)user;
    atomic_fetch_add(&asked, 1);
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (idle[i].uses > idle[best].uses)
            best = i;
    return best;
}

/* Three links, used 3, 1 and 2 times, born in order, returned in the order given; which one goes? */
static int evicted(const char *eviction, moor_evict_fn fn, const int returned[3])
{
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.conns_max = 3;
    o.eviction = eviction;
    o.hooks.evict = fn;
    handles_open(&h, &o);
    moor_acquired a[3], b;
    int id[3], gone = -1;
    for (int i = 0; i < 3; i++) {
        take(&h, 1, &a[i]);
        id[i] = ((struct dummy *)a[i].native)->id;
        peer_sleep_ms(5);
    }
    static const int more[3] = {2, 0, 1};
    for (int i = 0; i < 3; i++)
        for (int n = 0; n < more[i]; n++) { /* alone idle, so it comes again */
            give(1, &a[i]);
            take(&h, 1, &b);
            assert_ptr_equal(b.native, a[i].native);
            a[i] = b;
        }
    for (int i = 0; i < 3; i++) {
        give(1, &a[returned[i]]);
        /* Idle times are as the sweep saw them: it has to come by. */
        peer_sleep_ms(1100);
    }
    assert_err(moor_pool_set(h.pool, "conns_max", "2", NULL, 0), MOOR_OK);
    eventually(handles_stats(&h).conns_open == 2);
    moor_acquired left[2];
    take(&h, 2, left);
    for (int i = 0; i < 3; i++)
        if (((struct dummy *)left[0].native)->id != id[i] &&
            ((struct dummy *)left[1].native)->id != id[i])
            gone = i;
    give(2, left);
    handles_close(&h);
    return gone;
}

static void test_what_goes_first(void **state)
{
    (void)state;
    assert_int_equal(evicted("lifo", NULL, (const int[]){1, 2, 0}), 1); /* idle for longest */
    assert_int_equal(evicted("fifo", NULL, (const int[]){1, 2, 0}), 0); /* the oldest */
    assert_int_equal(evicted("lru", NULL, (const int[]){0, 2, 1}), 1);  /* the least used */
    assert_int_equal(evicted("lifo", evict_most_used, (const int[]){1, 2, 0}), 0);
    assert_true(atomic_load(&asked) > 0);
}

/* ---- leases held for long ---- */

static void test_leaks_are_told_and_so_is_their_end(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    o.leak_after_ms = 30;
    handles_open(&h, &o);
    static const moor_release_how ends[] = {MOOR_REUSE, MOOR_DISCARD, MOOR_DIRTY};
    for (int i = 0; i < 3; i++) {
        moor_acquired a;
        take(&h, 1, &a);
        eventually(count(MOOR_EVENT_LEASE_HELD) == i + 1);
        assert_non_null(strstr(seen.site, "rack_age_test.c:"));
        assert_true(seen.held >= 30 * 1000000LL);
        peer_sleep_ms(60);
        assert_int_equal(count(MOOR_EVENT_LEASE_HELD), i + 1); /* once */
        assert_int_equal(count(MOOR_EVENT_LEASE_RETURNED), i);
        moor_release(a.lease, ends[i]);
        eventually(count(MOOR_EVENT_LEASE_RETURNED) == i + 1);
        assert_non_null(strstr(seen.site, "rack_age_test.c:"));
    }
    assert_int_equal(handles_stats(&h).leases_held_long, 3);
    assert_true(fixture_has_logged(&h.f, "pool.lease_returned"));
    handles_close(&h);
}

/* ---- the watch ---- */

static void test_a_peer_that_ends_is_noticed_while_idle(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    handles_open(&h, &o);
    atomic_store(&h.script.has_fd, true);
    moor_acquired a[3];
    take(&h, 3, a);
    struct dummy *d[3];
    for (int i = 0; i < 3; i++)
        d[i] = a[i].native;
    const int peer = d[1]->peer; /* once given back it is the shard's to close */
    give(3, a);
    peer_sleep_ms(1200); /* watched by now */
    shutdown(peer, SHUT_RDWR);
    eventually(handles_stats(&h).conns_open == 2);
    assert_true(was_closed_for("the peer ended it"));
    assert_int_equal(handles_stats(&h).conns_retired, 1);
    take(&h, 2, a);
    assert_ptr_not_equal(a[0].native, d[1]);
    assert_ptr_not_equal(a[1].native, d[1]);
    give(2, a);
    handles_close(&h);
}

static void test_what_a_driver_takes_in_keeps_it(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    handles_open(&h, &o);
    atomic_store(&h.script.has_fd, true);
    atomic_store(&h.script.idle_keeps, true);
    moor_acquired a;
    take(&h, 1, &a);
    struct dummy *d = a.native;
    const int fd = d->fd, peer = d->peer; /* once given back they are the shard's to close */
    give(1, &a);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(write(peer, "x", 1), 1);
        eventually(atomic_load(&h.script.idles) == i + 1);
    }
    take(&h, 1, &a);
    assert_ptr_equal(a.native, d);
    assert_int_equal(write(peer, "y", 1), 1); /* its holder's */
    peer_sleep_ms(60);
    assert_int_equal(atomic_load(&h.script.idles), 3);
    char byte;
    assert_int_equal(read(fd, &byte, 1), 1);
    give(1, &a);
    /* Watched again after that. */
    assert_int_equal(write(peer, "z", 1), 1);
    eventually(atomic_load(&h.script.idles) == 4);
    handles_close(&h);
}

/* A reset makes another descriptor, perhaps of the same number: the watch goes with it. */
static void test_a_watch_does_not_outlive_its_descriptor(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    options(&o);
    handles_open(&h, &o);
    atomic_store(&h.script.has_fd, true);
    atomic_store(&h.script.reset_swaps, true);
    moor_acquired a;
    take(&h, 1, &a);
    struct dummy *d = a.native;
    give(1, &a);
    peer_sleep_ms(1200); /* watched by now */
    for (int i = 0; i < 3; i++) {
        take(&h, 1, &a);
        assert_ptr_equal(a.native, d);
        moor_release(a.lease, MOOR_DIRTY);
        eventually(atomic_load(&h.script.resets) == i + 1);
        eventually(handles_stats(&h).conns_idle == 1);
        peer_sleep_ms(1200);
        assert_int_equal(handles_stats(&h).conns_open, 1);
    }
    shutdown(d->peer, SHUT_RDWR);
    eventually(handles_stats(&h).conns_open == 0);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_min_idle_is_kept),
        cmocka_unit_test(test_idle_ones_time_out),
        cmocka_unit_test(test_surplus_goes_by_and_by),
        cmocka_unit_test(test_fifo_pools_shrink_too),
        cmocka_unit_test(test_lifetime_ends_idle_and_leased),
        cmocka_unit_test(test_lifetimes_are_spread_both_ways),
        cmocka_unit_test(test_uses_are_counted),
        cmocka_unit_test(test_idle_ones_are_checked_every_so_often),
        cmocka_unit_test(test_stale_ones_are_checked_before_use),
        cmocka_unit_test(test_check_after_0_checks_each_time),
        cmocka_unit_test(test_check_on_return),
        cmocka_unit_test(test_a_reset_that_fails_or_hangs),
        cmocka_unit_test(test_leaks_are_told_and_so_is_their_end),
        cmocka_unit_test(test_a_peer_that_ends_is_noticed_while_idle),
        cmocka_unit_test(test_what_a_driver_takes_in_keeps_it),
        cmocka_unit_test(test_a_watch_does_not_outlive_its_descriptor),
        cmocka_unit_test(test_what_goes_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
