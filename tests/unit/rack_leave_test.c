/*
 * Adopted shards that are left while they keep a pool of handle leases, at each stage.
 */
#include "core/keeper.h"
#include "tests/support/handle_fixture.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

static void open_without_threads(struct handles *h)
{
    memset(h, 0, sizeof *h);
    moor_runtime_options ro;
    fixture_runtime_options(&h->f, &ro);
    ro.shards = 0;
    fixture_open_runtime(&h->f, &ro);
}

static moor_shard *adopt(struct handles *h)
{
    moor_shard *s;
    assert_err(moor_shard_adopt(h->f.runtime, &s), MOOR_OK);
    return s;
}

static void turn(moor_shard *s, int n)
{
    for (int i = 0; i < n; i++)
        assert_err(moor_shard_wait(s, 5), MOOR_OK);
}

/* The pool has nothing on the shard but its keeper. */
static void test_leaving_a_pool_that_drains(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    handles_open_pool(&h, NULL);
    moor_shard *s = adopt(&h);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    moor_pool_drain(h.pool, 0, NULL, NULL);
    turn(s, 5);
    moor_shard_leave(s);
    moor_release(a.lease, MOOR_REUSE);
    assert_int_equal(handles_stats(&h).conns_open, 0);
    handles_close(&h);
}

/* The same, while a goodbye is under way. */
static void test_leaving_amid_a_goodbye(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    handles_open_pool(&h, NULL);
    moor_shard *s = adopt(&h);
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, NULL, &a), MOOR_OK);
    atomic_store(&h.script.close_ms, 500);
    moor_pool_drain(h.pool, 5000, NULL, NULL);
    turn(s, 5);
    moor_release(a.lease, MOOR_REUSE);
    turn(s, 5);
    assert_int_equal(atomic_load(&h.script.closes), 1);
    moor_shard_leave(s);
    handles_close(&h);
}

/* ---- a race of connects ---- */

static moor_driver racing;

/* Nobody answers: its queue of connects is full. */
static uint16_t listen_full(int *out_fd, int *out_filler, int count)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    *out_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(*out_fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(*out_fd, 0), 0);
    assert_int_equal(getsockname(*out_fd, (struct sockaddr *)&at, &len), 0);
    for (int i = 0; i < count; i++) {
        out_filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)!connect(out_filler[i], (struct sockaddr *)&at, sizeof at);
    }
    peer_sleep_ms(20);
    return ntohs(at.sin_port);
}

static void test_leaving_amid_a_race(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    racing = dummy_driver;
    racing.name = "racing";
    racing.schemes = "racing";
    racing.flags = MOOR_DRIVER_FD;
    enum { FILLERS = 4 };
    int listener, fillers[FILLERS];
    const uint16_t port = listen_full(&listener, fillers, FILLERS);
    char url[64];
    snprintf(url, sizeof url, "racing://127.0.0.1:%u", port);
    moor_pool_options o;
    handles_options(&o);
    o.driver_config = &h.script;
    assert_err(moor_driver_use(h.f.runtime, &racing), MOOR_OK);
    assert_err(moor_pool_open(h.f.runtime, url, &o, &h.pool), MOOR_OK);
    moor_shard *s = adopt(&h);
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = 30;
    moor_acquired a;
    assert_err(moor_acquire_wait(h.pool, &w, &a), MOOR_ETIMEDOUT);
    moor_stats st = handles_stats(&h);
    assert_int_equal(st.dials, 1);
    moor_shard_leave(s);
    st = handles_stats(&h);
    assert_int_equal(st.dials, 0);
    handles_close(&h);
    for (int i = 0; i < FILLERS; i++)
        close(fillers[i]);
    close(listener);
}

/* ---- who waits while nobody keeps the pool ---- */

static void test_who_waits_is_served_by_the_next_shard(void **state)
{
    (void)state;
    struct handles h;
    open_without_threads(&h);
    handles_open_pool(&h, NULL);
    moor_shard *s = adopt(&h);
    atomic_store(&h.script.connect_ms, 1000);
    moor_acquire_options w;
    moor_acquire_options_init(&w);
    w.timeout_ms = 5000;
    struct taker t;
    taker_start(&t, h.pool, &w);
    eventually((turn(s, 1), handles_stats(&h).dials == 1));
    moor_shard_leave(s);
    assert_int_equal(handles_stats(&h).waiters, 1);
    atomic_store(&h.script.connect_ms, 0);
    s = adopt(&h);
    for (int i = 0; i < 400 && !atomic_load(&t.is_over); i++)
        turn(s, 1);
    assert_true(atomic_load(&t.is_over));
    taker_join(&t);
    assert_err(t.err, MOOR_OK);
    moor_release(t.got.lease, MOOR_REUSE);
    assert_err(moor_pool_close(h.pool, 5000), MOOR_OK);
    moor_shard_leave(s);
    fixture_close(&h.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leaving_a_pool_that_drains),
        cmocka_unit_test(test_leaving_amid_a_goodbye),
        cmocka_unit_test(test_leaving_amid_a_race),
        cmocka_unit_test(test_who_waits_is_served_by_the_next_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
