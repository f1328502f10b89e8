/*
 * Requests that meet a dying connection: what is sent again, what is not, and what the caller is
 * told. "Acted on" is counted at the server: a POST must never arrive twice.
 */
#include "tests/support/fixture_pool.h"

#include <sys/socket.h>

static struct origin_process origin;
static struct fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_open(&f, NULL, origin.url, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_close(&f);
    return 0;
}

static moor_pool *open_pool(const char *url, void (*change)(moor_pool_options *o))
{
    moor_pool_options po;
    fixture_pool_options(&po);
    if (change)
        change(&po);
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, url, &po, &p), MOOR_OK);
    return p;
}

static void get_ok(moor_pool *p)
{
    struct call c;
    call_init(&c, p, "/");
    call_expect(&f, &c, MOOR_OK);
    assert_string_equal(c.text, "ok");
    call_fini(&c);
}

/* ---- idle connections the peer ends ---- */

static void expect_retired(const char *url)
{
    struct call c;
    call_init(&c, f.pool, url);
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
    eventually(fixture_stats(&f).conns_retired == 1);
    eventually(fixture_stats(&f).conns_open == 0);
    call_init(&c, f.pool, "/bytes/1");
    c.request.method = "POST";
    call_expect(&f, &c, MOOR_OK);
    assert_false(c.done.reused);
    assert_int_equal(c.done.replays, 0);
    call_fini(&c);
}

static void test_a_fin_on_an_idle_connection(void **state)
{
    (void)state;
    expect_retired("/bad/close-idle?after=20");
}

static void test_a_reset_on_an_idle_connection(void **state)
{
    (void)state;
    expect_retired("/bad/reset-idle?after=20");
}

static void test_a_response_nobody_asked_for(void **state)
{
    (void)state;
    expect_retired("/bad/unasked?after=20");
}

/* ---- the keep-alive race: the peer ends a conn when a second request arrives ---- */

/* Connections before the nth answer once, then end when the next request comes. */
static void end_on_second(struct peer_conn *c)
{
    const int honest_from = *(const int *)c->peer->user;
    while (peer_head(c)) {
        if (c->requests > 1 && c->nth < honest_from) {
            peer_reset(c);
            return;
        }
        if (!peer_say(c, PEER_OK))
            return;
    }
}

/* The same with a FIN, after all of the request was read. */
static void fin_on_second(struct peer_conn *c)
{
    const int honest_from = *(const int *)c->peer->user;
    while (peer_head(c)) {
        if (c->requests > 1 && c->nth < honest_from)
            return;
        if (!peer_say(c, PEER_OK))
            return;
    }
}

static void race(peer_fn serve, const char *method, bool is_idempotent, bool is_replayed)
{
    int honest_from = 1;
    struct peer peer;
    peer_start(&peer, serve, &honest_from);
    moor_pool *p = open_pool(peer.url, NULL);
    get_ok(p);
    struct call c;
    call_init(&c, p, "/again");
    c.request.method = method;
    c.request.idempotent = is_idempotent;
    if (!strcmp(method, "POST"))
        c.request.body = (moor_span){"", 0};
    call_expect(&f, &c, is_replayed ? MOOR_OK : MOOR_ERESET);
    assert_int_equal(c.done.replays, is_replayed);
    assert_int_equal(atomic_load(&peer.requests), is_replayed ? 3 : 2);
    if (!is_replayed)
        assert_false(c.done.fault.safe_to_retry);
    call_fini(&c);
    moor_stats s;
    moor_stats_read(p, &s);
    assert_int_equal(s.replays, is_replayed);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    peer_stop(&peer);
}

static void test_a_get_is_sent_again(void **state)
{
    (void)state;
    race(end_on_second, "GET", false, true);
    race(fin_on_second, "GET", false, true);
    race(fin_on_second, "HEAD", false, true);
    race(fin_on_second, "DELETE", false, true);
}

static void test_a_post_is_not_sent_again(void **state)
{
    (void)state;
    race(end_on_second, "POST", false, false);
    race(fin_on_second, "POST", false, false);
    race(fin_on_second, "PATCH", false, false);
}

static void test_a_post_marked_idempotent_is_sent_again(void **state)
{
    (void)state;
    race(end_on_second, "POST", true, true);
    race(fin_on_second, "POST", true, true);
}

static void test_a_replay_keeps_its_body(void **state)
{
    (void)state;
    int honest_from = 1;
    struct peer peer;
    peer_start(&peer, end_on_second, &honest_from);
    moor_pool *p = open_pool(peer.url, NULL);
    get_ok(p);
    struct call c;
    call_init(&c, p, "/");
    c.request.method = "PUT";
    c.request.body = (moor_span){"0123456789", 10};
    /* end_on_second does not read bodies: the conn after the replay sees it as bytes of a request.
     */
    call_start(&f, &c);
    call_wait(&c);
    assert_int_equal(c.done.replays, 1);
    assert_err(c.done.fault.err, MOOR_OK);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    peer_stop(&peer);
}

/* As end_on_second, after as many first requests as there are such connections came at once. */
static void end_on_second_of_all(struct peer_conn *c)
{
    const int honest_from = *(const int *)c->peer->user;
    while (peer_head(c)) {
        if (c->requests > 1 && c->nth < honest_from) {
            peer_reset(c);
            return;
        }
        while (c->nth < honest_from && atomic_load(&c->peer->requests) < honest_from)
            peer_sleep_ms(1);
        if (!peer_say(c, PEER_OK))
            return;
    }
}

/* n connections that have been used once and will end when used again. */
static void make_dying(moor_pool *p, int n)
{
    struct call calls[8];
    for (int i = 0; i < n; i++) {
        call_init(&calls[i], p, "/");
        call_start(&f, &calls[i]);
    }
    for (int i = 0; i < n; i++) {
        call_wait(&calls[i]);
        call_fini(&calls[i]);
    }
}

/* A server that restarts leaves many dying idle conns: the replay must not meet the next of them.
 */
static void test_a_replay_prefers_a_fresh_connection(void **state)
{
    (void)state;
    int honest_from = 6;
    struct peer peer;
    peer_start(&peer, end_on_second_of_all, &honest_from);
    moor_pool *p = open_pool(peer.url, NULL);
    make_dying(p, 6);
    struct call c;
    call_init(&c, p, "/");
    call_expect(&f, &c, MOOR_OK);
    assert_int_equal(c.done.replays, 1);
    assert_false(c.done.reused);
    assert_int_equal(atomic_load(&peer.accepted), 7);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    peer_stop(&peer);
}

static void cap_of_two(moor_pool_options *o)
{
    o->conns_max = 2;
}

/* At the cap there is room for a fresh one only in place of an idle one. */
static void test_a_replay_at_the_cap(void **state)
{
    (void)state;
    int honest_from = 2;
    struct peer peer;
    peer_start(&peer, end_on_second_of_all, &honest_from);
    moor_pool *p = open_pool(peer.url, cap_of_two);
    make_dying(p, 2);
    struct call c;
    call_init(&c, p, "/");
    call_expect(&f, &c, MOOR_OK);
    assert_in_range(c.done.replays, 1, 2);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    peer_stop(&peer);
}

static void start_both(void *user)
{
    struct call **both = user;
    call_start_here(both[0]);
    call_start_here(both[1]);
}

static void cap_of_one(moor_pool_options *o)
{
    o->conns_max = 1;
}

/* The fresh one goes to who waited longer, and comes back used: the replay takes it all the same.
 */
static void test_a_replay_behind_another_waiter(void **state)
{
    (void)state;
    int honest_from = 1;
    struct peer peer;
    peer_start(&peer, end_on_second, &honest_from);
    moor_pool *p = open_pool(peer.url, cap_of_one);
    get_ok(p);
    struct call a, b;
    call_init(&a, p, "/");
    call_init(&b, p, "/");
    struct call *both[] = {&a, &b};
    moor_task t = {.run = start_both, .user = both};
    assert_err(moor_post(moor_shard_at(f.runtime, 0), &t), MOOR_OK);
    eventually(call_is_over(&a) && call_is_over(&b));
    assert_err(a.done.fault.err, MOOR_OK);
    assert_err(b.done.fault.err, MOOR_OK);
    assert_int_equal(a.done.replays, 1);
    assert_int_equal(atomic_load(&peer.accepted), 2);
    call_fini(&a);
    call_fini(&b);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    peer_stop(&peer);
}

static void always_reset_second(moor_pool_options *o)
{
    o->replays_max = 2;
}

/* Every reused conn ends: a replay goes to a fresh one, where it succeeds; again and again. */
static void test_a_peer_without_keep_alive_that_does_not_say_so(void **state)
{
    (void)state;
    int honest_from = PEER_CONNS_MAX;
    struct peer peer;
    peer_start(&peer, end_on_second, &honest_from);
    moor_pool *p = open_pool(peer.url, always_reset_second);
    for (int i = 0; i < 20; i++)
        get_ok(p);
    moor_stats s;
    moor_stats_read(p, &s);
    assert_true(s.replays >= 1);
    assert_int_equal(s.requests_failed, 0);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    peer_stop(&peer);
}

static void no_replays(moor_pool_options *o)
{
    o->replays_max = 0;
}

static void test_replays_can_be_forbidden(void **state)
{
    (void)state;
    int honest_from = 1;
    struct peer peer;
    peer_start(&peer, end_on_second, &honest_from);
    moor_pool *p = open_pool(peer.url, no_replays);
    get_ok(p);
    struct call c;
    call_init(&c, p, "/");
    call_expect(&f, &c, MOOR_ERESET);
    assert_false(c.done.fault.safe_to_retry);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    peer_stop(&peer);
}

/* ---- what is never sent again ---- */

static void expect_failed_once(const char *url, moor_err err)
{
    struct call c;
    call_init(&c, f.pool, "/bytes/1");
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
    call_init(&c, f.pool, url);
    call_expect(&f, &c, err);
    assert_true(c.done.reused);
    assert_int_equal(c.done.replays, 0);
    assert_false(c.done.fault.safe_to_retry);
    call_fini(&c);
    assert_int_equal(fixture_stats(&f).replays, 0);
}

static void test_a_reset_in_the_body(void **state)
{
    (void)state;
    expect_failed_once("/bad/reset?after=100", MOOR_ERESET);
}

static void test_a_body_cut_short(void **state)
{
    (void)state;
    expect_failed_once("/bad/short?bytes=100", MOOR_ERESET);
}

static void test_a_head_cut_short(void **state)
{
    (void)state;
    expect_failed_once("/bad/close-mid-head", MOOR_ERESET);
}

static void test_a_reset_on_a_fresh_connection(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/bad/reset-before");
    call_expect(&f, &c, MOOR_ERESET);
    assert_false(c.done.reused);
    assert_int_equal(c.done.replays, 0);
    assert_false(c.done.fault.safe_to_retry);
    call_fini(&c);
}

/* ---- a server that goes away ends the conn of the replay, too ---- */

static void end_what_was_taken_before_leaving(struct peer_conn *c)
{
    while (peer_head(c)) {
        if (c->nth == 1 || (c->nth == 0 && c->requests > 1))
            return;
        if (!peer_say(c, PEER_OK))
            return;
    }
}

static void test_a_replay_on_a_conn_that_dies_is_replayed(void **state)
{
    (void)state;
    struct peer peer;
    peer_start(&peer, end_what_was_taken_before_leaving, NULL);
    moor_pool *p = open_pool(peer.url, NULL);
    get_ok(p);
    struct call c;
    call_init(&c, p, "/");
    call_expect(&f, &c, MOOR_OK);
    assert_int_equal(c.done.replays, 2);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    peer_stop(&peer);
}

/* ---- a replay that fails remembers the first attempt ---- */

static void answer_once_then_go(struct peer_conn *c)
{
    while (peer_head(c)) {
        if (c->requests > 1) {
            shutdown(c->peer->listener, SHUT_RDWR); /* nobody can connect any more */
            peer_reset(c);
            return;
        }
        peer_say(c, PEER_OK);
    }
}

static void test_a_failed_replay_is_not_safe_to_retry(void **state)
{
    (void)state;
    struct peer peer;
    peer_start(&peer, answer_once_then_go, NULL);
    moor_pool *p = open_pool(peer.url, NULL);
    get_ok(p);
    struct call c;
    call_init(&c, p, "/");
    c.request.timeout_ms = 2000;
    call_start(&f, &c);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_ECONNECT);
    assert_int_equal(c.done.replays, 1);
    /* The first attempt's bytes reached the peer. */
    assert_false(c.done.fault.safe_to_retry);
    call_check(&c);
    call_fini(&c);
    assert_err(moor_pool_close(p, 1000), MOOR_OK);
    atomic_store(&peer.is_stopping, true);
    peer_stop(&peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        T(a_fin_on_an_idle_connection),
        T(a_reset_on_an_idle_connection),
        T(a_response_nobody_asked_for),
        T(a_get_is_sent_again),
        T(a_post_is_not_sent_again),
        T(a_post_marked_idempotent_is_sent_again),
        T(a_replay_keeps_its_body),
        T(a_replay_prefers_a_fresh_connection),
        T(a_replay_at_the_cap),
        T(a_replay_on_a_conn_that_dies_is_replayed),
        T(a_replay_behind_another_waiter),
        T(a_peer_without_keep_alive_that_does_not_say_so),
        T(replays_can_be_forbidden),
        T(a_reset_in_the_body),
        T(a_body_cut_short),
        T(a_head_cut_short),
        T(a_reset_on_a_fresh_connection),
        T(a_failed_replay_is_not_safe_to_retry),
#undef T
    };
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
