/*
 * Steering an open pool: flush, pause, options one at a time, another place, warm-up, the picture of it.
 */
#include "tests/support/handle_fixture.h"

#include <mooring/event.h>

static _Atomic(int) events[32];

static void on_event(void *user, const moor_event *e)
{
    (void)user;
    atomic_fetch_add(&events[e->type], 1);
}

static int count(moor_event_type t)
{
    return atomic_load(&events[t]);
}

static void open_pool(struct handles *h, uint32_t max)
{
    moor_pool_options o;
    memset(events, 0, sizeof events);
    handles_options(&o);
    o.conns_max = max;
    o.on_event = on_event;
    handles_open(h, &o);
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

static moor_err try_for(struct handles *h, moor_ms ms)
{
    moor_acquire_options w;
    moor_acquired a;
    moor_acquire_options_init(&w);
    w.timeout_ms = ms;
    const moor_err e = moor_acquire_wait(h->pool, &w, &a);
    if (!e)
        moor_release(a.lease, MOOR_REUSE);
    return e;
}

static void set(struct handles *h, const char *option, const char *value)
{
    char why[160] = "";
    if (moor_pool_set(h->pool, option, value, why, sizeof why))
        fail_msg("%s", why);
}

/* ---- flush ---- */

static void test_flush_replaces_all_and_cuts_none(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 4);
    moor_acquired a[4], b;
    take(&h, 4, a);
    give(2, a);
    const int last = ((struct dummy *)a[3].native)->id;
    moor_pool_flush(h.pool);
    assert_int_equal(count(MOOR_EVENT_POOL_FLUSHED), 1);
    eventually(handles_stats(&h).conns_open == 2); /* the idle ones go at once */
    assert_ptr_equal(moor_lease_native(a[3].lease), a[3].native);
    take(&h, 1, &b);
    assert_true(((struct dummy *)b.native)->id > last);
    give(1, &b);
    give(2, a + 2);
    eventually(handles_stats(&h).conns_open == 1);
    assert_int_equal(handles_stats(&h).conns_idle, 1);
    handles_close(&h);
}

/* A report that comes late is of links that are replaced already: the new ones stay. */
static void test_late_reports_flush_nothing_new(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 4);
    moor_acquired a[3], b;
    take(&h, 3, a);
    moor_lease_report(a[0].lease, "25006", 0);
    assert_int_equal(count(MOOR_EVENT_POOL_FLUSHED), 1);
    take(&h, 1, &b);
    const int id = ((struct dummy *)b.native)->id;
    moor_lease_report(a[1].lease, "25006", 0);
    moor_lease_report(a[2].lease, "25006", 0);
    give(1, &b);
    give(3, a);
    eventually(handles_stats(&h).conns_open == 1);
    take(&h, 1, &b);
    assert_int_equal(((struct dummy *)b.native)->id, id);
    assert_int_equal(count(MOOR_EVENT_POOL_FLUSHED), 1);
    moor_lease_report(b.lease, "25006", 0);
    assert_int_equal(count(MOOR_EVENT_POOL_FLUSHED), 2);
    give(1, &b);
    eventually(handles_stats(&h).conns_open == 0);
    /* What the driver sees in what comes back counts the same way. */
    take(&h, 2, a);
    atomic_store(&h.script.verdict, MOOR_VERDICT_FLUSH);
    give(2, a);
    atomic_store(&h.script.verdict, MOOR_VERDICT_KEEP);
    eventually(handles_stats(&h).conns_open == 0);
    assert_int_equal(count(MOOR_EVENT_POOL_FLUSHED), 3);
    handles_close(&h);
}

enum { THREADS = 4 };
static _Atomic(bool) stop;

static void *use(void *arg)
{
    while (!atomic_load(&stop)) {
        moor_acquired a;
        const moor_err e = moor_acquire_wait(arg, NULL, &a);
        if (e)
            fail_msg("%s", moor_err_name(e));
        dummy_enter(a.native);
        sched_yield();
        dummy_leave(a.native);
        moor_release(a.lease, MOOR_REUSE);
    }
    return NULL;
}

static void test_flush_under_load_fails_nobody(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 3);
    pthread_t t[THREADS];
    atomic_store(&stop, false);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use, h.pool), 0);
    for (int i = 0; i < 100; i++) {
        moor_pool_flush(h.pool);
        peer_sleep_ms(2);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    assert_true(handles_stats(&h).conns_open <= 3);
    assert_true(atomic_load(&h.script.connects) > 10);
    handles_close(&h);
}

/* ---- pause ---- */

static void test_pause_holds_everything_but_what_is_out(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 4);
    moor_acquired a[2], b;
    struct taker t;
    take(&h, 2, a);
    give(1, a);
    assert_err(moor_pool_pause(h.pool, false), MOOR_OK);
    assert_err(moor_pool_pause(h.pool, false), MOOR_OK);
    assert_int_equal(count(MOOR_EVENT_POOL_PAUSED), 1);
    assert_err(moor_acquire_try(h.pool, NULL, &b), MOOR_ETIMEDOUT);
    taker_start(&t, h.pool, NULL);
    eventually(handles_stats(&h).waiters == 1);
    assert_ptr_equal(moor_lease_native(a[1].lease), a[1].native);
    give(1, a + 1);
    peer_sleep_ms(20);
    assert_false(atomic_load(&t.is_over));
    assert_int_equal(handles_stats(&h).conns_idle, 2);
    assert_int_equal(atomic_load(&h.script.connects), 2); /* nor dialled */
    moor_pool_resume(h.pool);
    moor_pool_resume(h.pool);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    assert_int_equal(count(MOOR_EVENT_POOL_RESUMED), 1);
    moor_release(t.got.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_a_failing_pause_fails_who_waits_and_who_comes(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 1);
    moor_acquired a;
    struct taker t;
    take(&h, 1, &a);
    taker_start(&t, h.pool, NULL);
    eventually(handles_stats(&h).waiters == 1);
    assert_err(moor_pool_pause(h.pool, true), MOOR_OK);
    taker_join(&t);
    assert_err(t.err, MOOR_ECLOSED);
    assert_true(t.got.fault.safe_to_retry);
    assert_err(try_for(&h, 5000), MOOR_ECLOSED);
    moor_release(a.lease, MOOR_REUSE);
    assert_err(try_for(&h, 5000), MOOR_ECLOSED);
    moor_pool_resume(h.pool);
    assert_err(try_for(&h, 5000), MOOR_OK);
    handles_close(&h);
}

static void test_pausing_a_pool_that_ends(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 1);
    assert_err(try_for(&h, 5000), MOOR_OK);
    assert_err(moor_pool_pause(h.pool, false), MOOR_OK);
    moor_pool_drain(h.pool, 1000, NULL, NULL);
    assert_err(moor_pool_pause(h.pool, false), MOOR_ECLOSED);
    moor_pool_resume(h.pool);
    assert_err(try_for(&h, 5000), MOOR_ECLOSED);
    handles_close(&h);
}

/* ---- options ---- */

static void test_a_lower_cap_drains_and_cuts_none(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 6);
    moor_acquired a[6];
    take(&h, 6, a);
    give(2, a);
    set(&h, "conns_max", "3");
    eventually(handles_stats(&h).conns_open == 4); /* idle ones go */
    for (int i = 2; i < 6; i++)
        assert_ptr_equal(moor_lease_native(a[i].lease), a[i].native);
    give(4, a + 2);
    eventually(handles_stats(&h).conns_open == 3);
    /* And that was that: what fits stays. */
    const int dials = atomic_load(&h.script.connects);
    for (int i = 0; i < 20; i++) {
        take(&h, 3, a);
        give(3, a);
    }
    peer_sleep_ms(50);
    assert_int_equal(atomic_load(&h.script.connects), dials);
    assert_int_equal(handles_stats(&h).conns_open, 3);
    handles_close(&h);
}

static void test_a_higher_cap_serves_who_waits(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 1);
    moor_acquired a;
    struct taker t[3];
    take(&h, 1, &a);
    for (uint64_t i = 0; i < 3; i++) {
        taker_start(&t[i], h.pool, NULL);
        eventually(handles_stats(&h).waiters == i + 1);
    }
    set(&h, "conns_max", "4");
    for (int i = 0; i < 3; i++) {
        taker_join(&t[i]);
        assert_err(t[i].err, MOOR_OK);
        moor_release(t[i].got.lease, MOOR_REUSE);
    }
    give(1, &a);
    assert_int_equal(handles_stats(&h).conns_open, 4);
    handles_close(&h);
}

static void test_options_are_checked(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 2);
    char why[160];
    static const char *const bad[][2] = {
        {"conns_max", "0"},      {"conns_max", "many"},        {"conns_max", ""},
        {"nonsense", "1"},       {"tls_ca", "/etc/ssl"},       {"eviction", "mru"},
        {"window_bytes", "64k"}, {"check_on_return", "maybe"}, {"dials_max", "-1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        why[0] = 0;
        assert_err(moor_pool_set(h.pool, bad[i][0], bad[i][1], why, sizeof why), MOOR_EINVAL);
        assert_non_null(strstr(why, bad[i][0]));
        assert_err(moor_pool_set(h.pool, bad[i][0], bad[i][1], NULL, 0), MOOR_EINVAL);
    }
    assert_err(moor_pool_set(h.pool, NULL, "1", NULL, 0), MOOR_EINVAL);
    assert_err(moor_pool_set(h.pool, "conns_max", NULL, NULL, 0), MOOR_EINVAL);
    assert_err(try_for(&h, 5000), MOOR_OK);
    handles_close(&h);
}

static void test_other_options_count_from_now_on(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 4);
    moor_acquired a;
    set(&h, "uses_max", "3");
    for (int i = 0; i < 3; i++) {
        take(&h, 1, &a);
        give(1, &a);
    }
    eventually(atomic_load(&h.script.dropped) == 1);
    set(&h, "uses_max", "0");
    set(&h, "check_on_return", "true");
    for (int i = 0; i < 5; i++) {
        take(&h, 1, &a);
        give(1, &a);
        eventually(atomic_load(&h.script.checks) == i + 1);
        eventually(handles_stats(&h).conns_idle == 1);
    }
    set(&h, "check_on_return", "false");
    for (int i = 0; i < 5; i++) {
        take(&h, 1, &a);
        give(1, &a);
    }
    assert_int_equal(atomic_load(&h.script.checks), 5);
    set(&h, "conns_min_idle", "3");
    eventually(handles_stats(&h).conns_idle == 3);
    set(&h, "acquire_timeout_ms", "30");
    moor_acquired all[4], none;
    take(&h, 4, all);
    assert_err(moor_acquire_wait(h.pool, NULL, &none), MOOR_ETIMEDOUT);
    give(4, all);
    set(&h, "conns_min_idle", "0");
    set(&h, "idle_timeout_ms", "20");
    eventually(handles_stats(&h).conns_open == 0);
    handles_close(&h);
}

static void test_fifo_hands_out_in_turn(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 3);
    moor_acquired a[3], b;
    take(&h, 3, a);
    set(&h, "eviction", "fifo");
    give(3, a);
    for (int i = 0; i < 9; i++) {
        take(&h, 1, &b);
        assert_ptr_equal(b.native, a[i % 3].native);
        give(1, &b);
    }
    set(&h, "eviction", "lifo");
    take(&h, 1, &b);
    void *same = b.native;
    for (int i = 0; i < 9; i++) {
        give(1, &b);
        take(&h, 1, &b);
        assert_ptr_equal(b.native, same);
    }
    give(1, &b);
    handles_close(&h);
}

/* ---- another place ---- */

static void test_replace_under_load(void **state)
{
    (void)state;
    struct handles h;
    static struct dummy_script other;
    memset(&other, 0, sizeof other);
    open_pool(&h, 4);
    pthread_t t[THREADS];
    moor_acquired a;
    take(&h, 1, &a);
    atomic_store(&stop, false);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use, h.pool), 0);
    peer_sleep_ms(20);
    moor_pool_options o;
    handles_options(&o);
    o.driver_config = &other;
    assert_err(moor_pool_replace(h.pool, "dummy://bob:secret2@127.0.0.2:7/", &o), MOOR_OK);
    peer_sleep_ms(50);
    assert_ptr_equal(moor_lease_native(a.lease), a.native);
    const int before = atomic_load(&h.script.connects);
    moor_release(a.lease, MOOR_REUSE);
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    eventually(atomic_load(&h.script.dropped) == before);
    assert_int_equal(atomic_load(&h.script.connects), before);
    assert_true(atomic_load(&other.connects) > 0);
    assert_string_equal(other.user, "bob");
    assert_string_equal(other.password, "secret2");
    /* Errors change nothing. */
    assert_err(moor_pool_replace(h.pool, "http://127.0.0.2:7/", &o), MOOR_EINVAL);
    assert_err(moor_pool_replace(h.pool, "dummy://127.0.0.2/refused", &o), MOOR_EINVAL);
    assert_err(moor_pool_replace(h.pool, "dummy:", &o), MOOR_EINVAL);
    assert_err(try_for(&h, 5000), MOOR_OK);
    assert_int_equal(atomic_load(&h.script.connects), before);
    handles_close(&h);
    assert_int_equal(atomic_load(&other.dropped), atomic_load(&other.connects));
}

/* Away from a place that is down: who waits there is served by the new one. */
static void test_replace_serves_who_waits(void **state)
{
    (void)state;
    struct handles h;
    static struct dummy_script other;
    memset(&other, 0, sizeof other);
    open_pool(&h, 1);
    atomic_store(&h.script.connect_ms, 20000);
    struct taker t;
    taker_start(&t, h.pool, NULL);
    eventually(atomic_load(&h.script.connecting) == 1);
    moor_pool_options o;
    handles_options(&o);
    o.driver_config = &other;
    assert_err(moor_pool_replace(h.pool, "dummy://127.0.0.3:9", &o), MOOR_OK);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    moor_release(t.got.lease, MOOR_REUSE);
    assert_int_equal(atomic_load(&other.connects), 1);
    moor_pool_drain(h.pool, 0, NULL, NULL);
    handles_close(&h);
}

/* What serves out its leases elsewhere takes no place from the new ones: they are not closed as too many. */
static void test_replace_keeps_the_new_beside_the_old(void **state)
{
    (void)state;
    struct handles h;
    static struct dummy_script other;
    memset(&other, 0, sizeof other);
    open_pool(&h, 2);
    moor_acquired a[2];
    take(&h, 2, a);
    moor_pool_options o;
    handles_options(&o);
    o.driver_config = &other;
    assert_err(moor_pool_replace(h.pool, "dummy://127.0.0.4:1", &o), MOOR_OK);
    set(&h, "conns_min_idle", "2");
    eventually(handles_stats(&h).conns_idle == 2);
    peer_sleep_ms(300); /* some sweeps */
    assert_int_equal(atomic_load(&other.connects), 2);
    assert_int_equal(atomic_load(&other.dropped), 0);
    assert_int_equal(count(MOOR_EVENT_CONN_CLOSED), 0);
    /* A cap that is lowered still is for the new place. */
    set(&h, "conns_min_idle", "0");
    set(&h, "conns_max", "1");
    eventually(atomic_load(&other.dropped) == 1);
    assert_int_equal(handles_stats(&h).conns_open, 3);
    give(2, a);
    eventually(atomic_load(&h.script.dropped) == 2);
    assert_int_equal(atomic_load(&other.connects), 2);
    assert_int_equal(atomic_load(&other.dropped), 1);
    handles_close(&h);
}

/* ---- warm-up ---- */

struct progress {
    uint32_t calls, ready, wanted;
};

static void on_progress(void *user, uint32_t ready, uint32_t wanted)
{
    struct progress *p = user;
    assert_true(ready >= p->ready && ready <= wanted);
    *p = (struct progress){p->calls + 1, ready, wanted};
}

static void test_warm_up_tells_how_far_it_is(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 10);
    set(&h, "dials_max", "3");
    atomic_store(&h.script.connect_ms, 20);
    struct progress p = {0};
    assert_err(moor_pool_warm(h.pool, 7, 20000, on_progress, &p), MOOR_OK);
    assert_int_equal(p.ready, 7);
    assert_int_equal(p.wanted, 7);
    assert_true(p.calls >= 2);
    assert_true(atomic_load(&h.script.connecting_max) <= 3);
    assert_int_equal(handles_stats(&h).conns_idle, 7);
    memset(&p, 0, sizeof p);
    assert_err(moor_pool_warm(h.pool, 1000, 20000, on_progress, &p), MOOR_OK);
    assert_int_equal(p.wanted, 10); /* never above the cap */
    assert_int_equal(handles_stats(&h).conns_open, 10);
    handles_close(&h);
}

static void test_warm_up_fails_as_dials_do(void **state)
{
    (void)state;
    struct handles h;
    open_pool(&h, 10);
    atomic_store(&h.script.connects_fail, -1);
    atomic_store(&h.script.fault, MOOR_EAUTH);
    assert_err(moor_pool_warm(h.pool, 3, 20000, NULL, NULL), MOOR_EAUTH);
    atomic_store(&h.script.connects_fail, 0);
    atomic_store(&h.script.connect_ms, 10000);
    assert_err(moor_pool_warm(h.pool, 3, 50, NULL, NULL), MOOR_ETIMEDOUT);
    moor_pool_drain(h.pool, 0, NULL, NULL);
    assert_err(moor_pool_warm(h.pool, 3, 5000, NULL, NULL), MOOR_ECLOSED);
    handles_close(&h);
}

/* ---- the picture ---- */

/* Enough of JSON to say whether a text is. */
static const char *skip_value(const char *at);

static const char *skip_text(const char *at)
{
    if (*at++ != '"')
        return NULL;
    for (; *at && *at != '"'; at++) {
        if ((unsigned char)*at < ' ')
            return NULL;
        if (*at == '\\' && !strchr("\"\\/bfnrtu", *++at))
            return NULL;
    }
    return *at ? at + 1 : NULL;
}

static const char *skip_members(const char *at, char end, bool has_keys)
{
    if (*at == end)
        return at + 1;
    for (;;) {
        if (has_keys && (!(at = skip_text(at)) || *at++ != ':'))
            return NULL;
        if (!(at = skip_value(at)))
            return NULL;
        if (*at == end)
            return at + 1;
        if (*at++ != ',')
            return NULL;
    }
}

static const char *skip_value(const char *at)
{
    if (*at == '{')
        return skip_members(at + 1, '}', true);
    if (*at == '[')
        return skip_members(at + 1, ']', false);
    if (*at == '"')
        return skip_text(at);
    if (!strncmp(at, "true", 4))
        return at + 4;
    if (!strncmp(at, "false", 5))
        return at + 5;
    const size_t n = strspn(at, "-0123456789");
    return n ? at + n : NULL;
}

static void test_the_snapshot_is_json_and_keeps_secrets(void **state)
{
    (void)state;
    struct handles h;
    memset(&h, 0, sizeof h);
    fixture_open_runtime(&h.f, NULL);
    moor_pool_options o;
    handles_options(&o);
    o.driver_config = &h.script;
    o.name = "\xc3\xa9t\xc3\xa9 \"quoted\\name\"\n";
    assert_err(moor_driver_use(h.f.runtime, &dummy_driver), MOOR_OK);
    assert_err(moor_pool_open(h.f.runtime, "dummy://alice:s3cr3t@127.0.0.1:1", &o, &h.pool),
               MOOR_OK);
    moor_acquired a[2];
    take(&h, 2, a);
    give(1, a);
    assert_string_equal(h.script.password, "s3cr3t");
    static char text[16384], cut[64];
    size_t len, needed;
    moor_pool_snapshot(h.pool, text, sizeof text, &len);
    assert_int_equal(len, strlen(text));
    const char *end = skip_value(text);
    assert_true(end && !*end);
    assert_null(strstr(text, "s3cr3t"));
    assert_non_null(strstr(text, "\"state\":\"leased\""));
    assert_non_null(strstr(text, "\"state\":\"idle\""));
    assert_non_null(strstr(text, "rack_steer_test.c:"));
    memset(cut, '#', sizeof cut);
    moor_pool_snapshot(h.pool, cut, 32, &needed);
    assert_true(needed > 32);
    assert_int_equal(strlen(cut), 31);
    assert_int_equal(cut[32], '#');
    moor_pool_snapshot(h.pool, NULL, 0, &needed);
    assert_true(needed > 32);
    moor_pool_snapshot(h.pool, text, sizeof text, NULL);
    give(1, a + 1);
    /* What a server says is bytes: the picture stays a text. */
    atomic_store(&h.script.connects_fail, -1);
    atomic_store(&h.script.says_bytes, true);
    moor_pool_flush(h.pool);
    assert_err(try_for(&h, 5000), MOOR_ECONNECT);
    moor_pool_snapshot(h.pool, text, sizeof text, NULL);
    end = skip_value(text);
    assert_true(end && !*end);
    assert_non_null(strstr(text, "caf\\ufffd \\ufffd\\\""));
    assert_non_null(strstr(text, "\xc3\xa9t\xc3\xa9"));
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flush_replaces_all_and_cuts_none),
        cmocka_unit_test(test_late_reports_flush_nothing_new),
        cmocka_unit_test(test_flush_under_load_fails_nobody),
        cmocka_unit_test(test_pause_holds_everything_but_what_is_out),
        cmocka_unit_test(test_a_failing_pause_fails_who_waits_and_who_comes),
        cmocka_unit_test(test_pausing_a_pool_that_ends),
        cmocka_unit_test(test_a_lower_cap_drains_and_cuts_none),
        cmocka_unit_test(test_a_higher_cap_serves_who_waits),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(test_other_options_count_from_now_on),
        cmocka_unit_test(test_fifo_hands_out_in_turn),
        cmocka_unit_test(test_replace_under_load),
        cmocka_unit_test(test_replace_serves_who_waits),
        cmocka_unit_test(test_replace_keeps_the_new_beside_the_old),
        cmocka_unit_test(test_warm_up_tells_how_far_it_is),
        cmocka_unit_test(test_warm_up_fails_as_dials_do),
        cmocka_unit_test(test_the_snapshot_is_json_and_keeps_secrets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
