/*
 * Making links: steps that fail, hang or block; how many dials at a time; after an outage; credentials.
 */
#include "tests/support/handle_fixture.h"

#include <mooring/event.h>

static moor_err take_for(struct handles *h, moor_ms ms, moor_acquired *a, moor_why *why)
{
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = ms;
    w.why = why;
    return moor_acquire_wait(h->pool, &w, a);
}

static moor_err use_for(struct handles *h, moor_ms ms)
{
    moor_acquired a;
    const moor_err e = take_for(h, ms, &a, NULL);
    if (!e)
        moor_release(a.lease, MOOR_REUSE);
    return e;
}

/* ---- the registry and URLs ---- */

static moor_step no_step(moor_link *l)
{
    (void)l;
    return MOOR_STEP_DONE;
}

static moor_step no_resume(moor_link *l, unsigned events)
{
    (void)l;
    (void)events;
    return MOOR_STEP_DONE;
}

static void no_drop(moor_link *l)
{
    (void)l;
}

static void test_drivers_are_looked_at(void **state)
{
    (void)state;
    struct fixture f;
    memset(&f, 0, sizeof f);
    fixture_open_runtime(&f, NULL);
    const moor_driver whole = {.size = sizeof whole,
                               .name = "x",
                               .schemes = "x y",
                               .connect = no_step,
                               .resume = no_resume,
                               .drop = no_drop};
    static moor_driver many[MOOR_DRIVERS_MAX + 1];
    static char names[MOOR_DRIVERS_MAX + 1][8];
    moor_driver d = whole;
    d.connect = NULL;
    assert_err(moor_driver_use(f.runtime, &d), MOOR_EINVAL);
    d = whole;
    d.drop = NULL;
    assert_err(moor_driver_use(f.runtime, &d), MOOR_EINVAL);
    d = whole;
    d.schemes = "";
    assert_err(moor_driver_use(f.runtime, &d), MOOR_EINVAL);
    d = whole;
    d.flags = MOOR_DRIVER_STREAM;
    assert_err(moor_driver_use(f.runtime, &d), MOOR_EINVAL);
    assert_err(moor_driver_use(f.runtime, &whole), MOOR_OK);
    assert_err(moor_driver_use(f.runtime, &whole), MOOR_OK);
    d = whole;
    d.schemes = "z y";
    assert_err(moor_driver_use(f.runtime, &d), MOOR_EBUSY);
    for (int i = 0; i <= MOOR_DRIVERS_MAX; i++) {
        many[i] = whole;
        snprintf(names[i], sizeof names[i], "n%d", i);
        many[i].schemes = names[i];
        assert_err(moor_driver_use(f.runtime, &many[i]),
                   i < MOOR_DRIVERS_MAX - 1 ? MOOR_OK : MOOR_EBUSY);
    }
    fixture_close(&f);
}

static void test_urls_a_driver_refuses(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    moor_pool *p = NULL;
    moor_pool_options o;
    handles_options(&o);
    o.driver_config = &h.script;
    static const char *const bad[] = {"dummy://127.0.0.1/refused", "dummy:", "dummy://",
                                      "dummy://127.0.0.1:99999", "dummy://a%00b/"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_err(moor_pool_open(h.f.runtime, bad[i], &o, &p), MOOR_EINVAL);
    assert_true(fixture_has_logged(&h.f, "the dummy refuses this path"));
    assert_err(moor_pool_open(h.f.runtime, "nodriver://127.0.0.1", &o, &p), MOOR_ENOSYS);
    assert_err(use_for(&h, 5000), MOOR_OK);
    handles_close(&h);
}

/* ---- steps ---- */

static void test_each_step_may_fail(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 1;
    handles_open(&h, &o);
    moor_acquired a;
    moor_why why;
    static const moor_err faults[] = {MOOR_ECONNECT, MOOR_EAUTH, MOOR_ETLS, MOOR_EPROTO,
                                      MOOR_ERESET};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        atomic_store(&h.script.fault, faults[i]);
        atomic_store(&h.script.connects_fail, 1);
        assert_err(take_for(&h, 10000, &a, &why), faults[i]);
        assert_int_equal(why.connect_err, faults[i]);
        assert_string_equal(why.connect_what, "connect");
        assert_string_equal(why.connect_text, "as the script says");
        eventually(use_for(&h, 5000) == MOOR_OK);
        moor_pool_flush(h.pool);
        eventually(handles_stats(&h).conns_open == 0);
        atomic_store(&h.script.prepares_fail, 1);
        assert_err(take_for(&h, 10000, &a, &why), faults[i]);
        assert_string_equal(why.connect_what, "prepare the connection");
        eventually(use_for(&h, 5000) == MOOR_OK);
        moor_pool_flush(h.pool);
        eventually(handles_stats(&h).conns_open == 0);
    }
    assert_int_equal(handles_stats(&h).dials_failed, 2 * sizeof faults / sizeof *faults);
    handles_close(&h);
}

static void test_each_step_may_hang(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 1;
    o.connect_timeout_ms = 60;
    handles_open(&h, &o);
    moor_acquired a;
    moor_why why;
    atomic_store(&h.script.connect_ms, 60000);
    assert_err(take_for(&h, 20000, &a, &why), MOOR_ETIMEDOUT);
    assert_int_equal(why.connect_err, MOOR_ETIMEDOUT);
    assert_string_equal(why.connect_what, "connect");
    atomic_store(&h.script.connect_ms, 0);
    atomic_store(&h.script.prepare_ms, 60000);
    eventually(take_for(&h, 20000, &a, &why) == MOOR_ETIMEDOUT &&
               !strcmp(why.connect_what, "prepare the connection"));
    atomic_store(&h.script.prepare_ms, 0);
    eventually(use_for(&h, 5000) == MOOR_OK);
    /* The goodbye too: a second, then it is dropped. */
    atomic_store(&h.script.close_ms, 60000);
    moor_pool_flush(h.pool);
    eventually(handles_stats(&h).conns_open == 0);
    assert_err(use_for(&h, 5000), MOOR_OK);
    atomic_store(&h.script.close_ms, 0);
    handles_close(&h);
}

/* ---- how many at a time ---- */

enum { MANY = 40 };

/* Until it is served: while an upstream is down, who comes is told so at once. */
static void *use_once(void *arg)
{
    moor_acquired a;
    moor_err e;
    while ((e = moor_acquire_wait(arg, NULL, &a)) == MOOR_ECONNECT)
        peer_sleep_ms(1);
    if (e)
        fail_msg("%s", moor_err_name(e));
    dummy_enter(a.native);
    peer_sleep_ms(20);
    dummy_leave(a.native);
    moor_release(a.lease, MOOR_REUSE);
    return NULL;
}

static void test_dials_are_bounded(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 20;
    o.dials_max = 3;
    handles_open(&h, &o);
    atomic_store(&h.script.connect_ms, 10);
    pthread_t t[MANY];
    for (int i = 0; i < MANY; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use_once, h.pool), 0);
    for (int i = 0; i < MANY; i++)
        pthread_join(t[i], NULL);
    assert_true(atomic_load(&h.script.connecting_max) <= 3);
    assert_true(atomic_load(&h.script.connects) <= 20);
    handles_close(&h);
}

/* A server that comes back is knocked at by one, then two, then four. */
static void test_after_an_outage_one_probes_then_more(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 30;
    o.dials_max = 16;
    o.backoff_min_ms = 30;
    o.backoff_max_ms = 60;
    o.acquire_timeout_ms = 20000;
    handles_open(&h, &o);
    atomic_store(&h.script.connects_fail, -1);
    assert_err(use_for(&h, 5000), MOOR_ECONNECT);
    /* While it is down each failure costs one dial, not one for each who asks. */
    const int before = atomic_load(&h.script.connects);
    const int64_t begun = fixture_now_ms();
    atomic_store(&h.script.connecting_max, 0);
    while (fixture_now_ms() - begun < 300)
        assert_err(use_for(&h, 5000), MOOR_ECONNECT);
    const int64_t took = fixture_now_ms() - begun;
    assert_true(atomic_load(&h.script.connects) - before <= took / 15 + 1);
    assert_int_equal(atomic_load(&h.script.connecting_max), 1);
    /* It is back, but slow: the next is one, and while it is being made nobody else dials. */
    atomic_store(&h.script.connect_ms, 100);
    atomic_store(&h.script.connects_fail, 0);
    atomic_store(&h.script.connecting_max, 0);
    pthread_t t[20];
    const int first = atomic_load(&h.script.connects);
    for (int i = 0; i < 20; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use_once, h.pool), 0);
    eventually(atomic_load(&h.script.connects) > first);
    for (int ready = 0; !ready; ready = atomic_load(&h.script.ready)) {
        const int connects = atomic_load(&h.script.connects);
        if (connects > first + 1 && !atomic_load(&h.script.ready))
            fail_msg("%d dials before one of them proved anything", connects - first);
        peer_sleep_ms(1);
    }
    for (int i = 0; i < 20; i++)
        pthread_join(t[i], NULL);
    assert_true(atomic_load(&h.script.connecting_max) <= 16);
    handles_close(&h);
}

static _Atomic(int) downs, ups;

static void on_event(void *user, const moor_event *e)
{
    (void)user;
    atomic_fetch_add(&downs, e->type == MOOR_EVENT_UPSTREAM_DOWN);
    atomic_fetch_add(&ups, e->type == MOOR_EVENT_UPSTREAM_UP);
}

static void test_an_outage_is_told_once(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.on_event = on_event;
    handles_open(&h, &o);
    assert_err(use_for(&h, 5000), MOOR_OK);
    moor_pool_flush(h.pool);
    eventually(handles_stats(&h).conns_open == 0);
    atomic_store(&h.script.connects_fail, -1);
    for (int i = 0; i < 10; i++)
        assert_err(use_for(&h, 5000), MOOR_ECONNECT);
    assert_int_equal(atomic_load(&downs), 1);
    assert_int_equal(atomic_load(&ups), 0);
    atomic_store(&h.script.connects_fail, 0);
    eventually(use_for(&h, 5000) == MOOR_OK);
    assert_int_equal(atomic_load(&ups), 1);
    handles_close(&h);
}

/* A bad moment of one dial does not fail those whom what is there will serve. */
static void test_a_failed_dial_beside_live_ones_fails_nobody(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 2;
    handles_open(&h, &o);
    moor_acquired a;
    struct taker t;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    atomic_store(&h.script.connects_fail, -1);
    taker_start(&t, h.pool, NULL);
    eventually(handles_stats(&h).dials_failed >= 3);
    assert_false(atomic_load(&t.is_over));
    moor_release(a.lease, MOOR_REUSE);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    moor_release(t.got.lease, MOOR_REUSE);
    handles_close(&h);
}

/* ---- steps that block ---- */

static void run_nothing(void *user)
{
    atomic_store((_Atomic(bool) *)user, true);
}

static void expect_shard_turns(struct handles *h)
{
    _Atomic(bool) has_run = false;
    moor_task t = {.run = run_nothing, .user = &has_run};
    const int64_t begun = fixture_now_ms();
    assert_err(moor_post(moor_shard_at(h->f.runtime, 0), &t), MOOR_OK);
    eventually(atomic_load(&has_run));
    if (fixture_now_ms() - begun > 200) /* a helper sleeps ten times as long */
        fail_msg("the shard was held up");
}

static void test_a_stalled_helper_stalls_no_shard(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    atomic_store(&h.script.block_ms, 2000);
    struct taker t;
    taker_start(&t, h.pool, NULL);
    eventually(atomic_load(&h.script.connecting) == 1);
    for (int i = 0; i < 5; i++)
        expect_shard_turns(&h);
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    moor_release(t.got.lease, MOOR_REUSE);
    handles_close(&h);
}

static void test_more_blocking_steps_than_helpers(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    memset(&h, 0, sizeof h);
    moor_runtime_options ro;
    fixture_runtime_options(&h.f, &ro);
    ro.helpers_max = 2;
    fixture_open_runtime(&h.f, &ro);
    handles_options(&o);
    o.dials_max = 16;
    handles_open_pool(&h, &o);
    atomic_store(&h.script.block_ms, 20);
    assert_err(moor_pool_warm(h.pool, 16, 20000, NULL, NULL), MOOR_OK);
    assert_int_equal(atomic_load(&h.script.connects), 16);
    handles_close(&h);
}

/* The helper cannot be interrupted; those who wait are told in time all the same. */
static void test_a_helper_beyond_the_deadline(void **state)
{
    (void)state;
    struct handles h;
    moor_pool_options o;
    handles_options(&o);
    o.connect_timeout_ms = 50;
    o.conns_max = 2;
    handles_open(&h, &o);
    atomic_store(&h.script.block_ms, 1500);
    moor_acquired a;
    moor_why why;
    const int64_t begun = fixture_now_ms();
    assert_err(take_for(&h, 20000, &a, &why), MOOR_ETIMEDOUT);
    assert_int_equal(why.connect_err, MOOR_ETIMEDOUT);
    if (fixture_now_ms() - begun > 1300)
        fail_msg("told when the helper came back, not at the deadline");
    /* Its place is taken until then, the next dial is another's. */
    atomic_store(&h.script.block_ms, 0);
    eventually(use_for(&h, 5000) == MOOR_OK);
    assert_true(fixture_now_ms() - begun < 1450 || atomic_load(&h.script.dropped) == 1);
    handles_close(&h);
}

static void test_closing_while_a_helper_works(void **state)
{
    (void)state;
    struct handles h;
    handles_open(&h, NULL);
    atomic_store(&h.script.block_ms, 700);
    struct taker t;
    taker_start(&t, h.pool, NULL);
    eventually(atomic_load(&h.script.connecting) == 1);
    moor_pool_drain(h.pool, 0, NULL, NULL);
    taker_join(&t);
    assert_err(t.err, MOOR_ECLOSED);
    handles_close(&h);
}

/* ---- credentials ---- */

struct provider {
    _Atomic(int) calls, fails, sleeps_ms;
    _Atomic(moor_ms) lifetime_ms;
};

static moor_err provide(void *user, moor_credentials *out)
{
    struct provider *p = user;
    const int n = atomic_fetch_add(&p->calls, 1);
    assert_int_equal(out->size, sizeof *out);
    assert_null(moor_shard_self());
    if (atomic_load(&p->sleeps_ms))
        peer_sleep_ms(atomic_load(&p->sleeps_ms));
    if (atomic_load(&p->fails))
        return MOOR_EAUTH;
    if (n % 2 == 0)
        snprintf(out->user, sizeof out->user, "user%d", n);
    snprintf(out->password, sizeof out->password, "token%d", n);
    if (atomic_load(&p->lifetime_ms))
        out->lifetime_ms = atomic_load(&p->lifetime_ms);
    return MOOR_OK;
}

static void test_credentials_are_asked_for_each_dial(void **state)
{
    (void)state;
    struct handles h;
    struct provider p = {0};
    moor_pool_options o;
    memset(&h, 0, sizeof h);
    fixture_open_runtime(&h.f, NULL);
    handles_options(&o);
    o.hooks.credentials = provide;
    o.hooks.credentials_user = &p;
    o.driver_config = &h.script;
    assert_err(moor_driver_use(h.f.runtime, &dummy_driver), MOOR_OK);
    assert_err(moor_pool_open(h.f.runtime, "dummy://url-user:url-secret@127.0.0.1:1", &o, &h.pool),
               MOOR_OK);
    moor_acquired a[3];
    for (int i = 0; i < 3; i++) {
        char password[16], user[16];
        assert_err(moor_acquire_wait(h.pool, NULL, &a[i]), MOOR_OK);
        snprintf(password, sizeof password, "token%d", i);
        snprintf(user, sizeof user, i % 2 ? "url-user" : "user%d", i);
        assert_string_equal(h.script.password, password);
        assert_string_equal(h.script.user, user);
    }
    for (int i = 0; i < 3; i++)
        moor_release(a[i].lease, MOOR_REUSE);
    char text[8192];
    moor_pool_snapshot(h.pool, text, sizeof text, NULL);
    assert_null(strstr(text, "token"));
    assert_null(strstr(text, "url-secret"));
    assert_false(fixture_has_logged(&h.f, "token"));
    assert_false(fixture_has_logged(&h.f, "url-secret"));
    handles_close(&h);
}

static void test_a_connection_ends_with_its_token(void **state)
{
    (void)state;
    struct handles h;
    struct provider p = {.lifetime_ms = 150};
    moor_pool_options o;
    handles_options(&o);
    o.hooks.credentials = provide;
    o.hooks.credentials_user = &p;
    handles_open(&h, &o);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    const int id = ((struct dummy *)a.native)->id;
    moor_release(a.lease, MOOR_REUSE);
    eventually(handles_stats(&h).conns_open == 0);
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    assert_int_not_equal(((struct dummy *)a.native)->id, id);
    peer_sleep_ms(400);
    moor_release(a.lease, MOOR_REUSE); /* held beyond it: not handed out again */
    eventually(handles_stats(&h).conns_open == 0);
    handles_close(&h);
}

static void test_a_provider_that_fails_or_hangs(void **state)
{
    (void)state;
    struct handles h;
    struct provider p = {.fails = 1};
    moor_pool_options o;
    handles_options(&o);
    o.connect_timeout_ms = 100;
    o.hooks.credentials = provide;
    o.hooks.credentials_user = &p;
    handles_open(&h, &o);
    moor_acquired a;
    moor_why why;
    assert_err(take_for(&h, 10000, &a, &why), MOOR_EAUTH);
    assert_non_null(strstr(why.connect_what, "credentials"));
    assert_int_equal(atomic_load(&h.script.connects), 0);
    atomic_store(&p.fails, 0);
    eventually(use_for(&h, 5000) == MOOR_OK);
    moor_pool_flush(h.pool);
    eventually(handles_stats(&h).conns_open == 0);
    atomic_store(&p.sleeps_ms, 700);
    assert_err(take_for(&h, 10000, &a, &why), MOOR_ETIMEDOUT);
    assert_non_null(strstr(why.connect_what, "credentials"));
    atomic_store(&p.sleeps_ms, 0);
    eventually(use_for(&h, 5000) == MOOR_OK);
    handles_close(&h);
}

/* Another place may want other credentials; its own, or those of its URL. */
static void test_a_replacement_brings_its_credentials(void **state)
{
    (void)state;
    struct handles h;
    struct provider first = {0}, second = {.calls = 100};
    moor_pool_options o;
    handles_options(&o);
    o.hooks.credentials = provide;
    o.hooks.credentials_user = &first;
    handles_open(&h, &o);
    assert_err(use_for(&h, 5000), MOOR_OK);
    assert_string_equal(h.script.password, "token0");
    o.driver_config = &h.script;
    o.hooks.credentials_user = &second;
    assert_err(moor_pool_replace(h.pool, "dummy://127.0.0.2:1", &o), MOOR_OK);
    eventually(handles_stats(&h).conns_open == 0);
    assert_err(use_for(&h, 5000), MOOR_OK);
    assert_string_equal(h.script.password, "token100");
    o.hooks.credentials = NULL;
    assert_err(moor_pool_replace(h.pool, "dummy://me:mine@127.0.0.3:1", &o), MOOR_OK);
    eventually(handles_stats(&h).conns_open == 0);
    assert_err(use_for(&h, 5000), MOOR_OK);
    assert_string_equal(h.script.password, "mine");
    assert_int_equal(atomic_load(&first.calls), 1);
    handles_close(&h);
}

static _Atomic(bool) stop;

static void *use_always(void *arg)
{
    while (!atomic_load(&stop))
        use_once(arg);
    return NULL;
}

static void test_rotation_under_load_fails_nobody(void **state)
{
    (void)state;
    struct handles h;
    struct provider p = {.lifetime_ms = 40};
    moor_pool_options o;
    handles_options(&o);
    o.conns_max = 3;
    o.hooks.credentials = provide;
    o.hooks.credentials_user = &p;
    handles_open(&h, &o);
    pthread_t t[4];
    atomic_store(&stop, false);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use_always, h.pool), 0);
    eventually(atomic_load(&p.calls) > 20);
    atomic_store(&stop, true);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    handles_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drivers_are_looked_at),
        cmocka_unit_test(test_urls_a_driver_refuses),
        cmocka_unit_test(test_each_step_may_fail),
        cmocka_unit_test(test_each_step_may_hang),
        cmocka_unit_test(test_dials_are_bounded),
        cmocka_unit_test(test_after_an_outage_one_probes_then_more),
        cmocka_unit_test(test_an_outage_is_told_once),
        cmocka_unit_test(test_a_failed_dial_beside_live_ones_fails_nobody),
        cmocka_unit_test(test_a_stalled_helper_stalls_no_shard),
        cmocka_unit_test(test_more_blocking_steps_than_helpers),
        cmocka_unit_test(test_a_helper_beyond_the_deadline),
        cmocka_unit_test(test_closing_while_a_helper_works),
        cmocka_unit_test(test_credentials_are_asked_for_each_dial),
        cmocka_unit_test(test_a_connection_ends_with_its_token),
        cmocka_unit_test(test_a_provider_that_fails_or_hangs),
        cmocka_unit_test(test_rotation_under_load_fails_nobody),
        cmocka_unit_test(test_a_replacement_brings_its_credentials),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
