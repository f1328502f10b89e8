/* A server that holds up the bodies of requests: how long one waits, that others do not, and what waits with it. */
#include "core/runtime.h"
#include "core/shard.h"
#include "tests/support/fixture_pool.h"
#include "tests/support/h2_server.h"

#include <stdlib.h>

enum { BODY = 3000 };

static struct fixture f;
static struct h2_server *server;

static uint8_t byte(size_t i)
{
    return (uint8_t)i;
}

static void begin(const struct h2_server_options *so, moor_ms stall_ms)
{
    moor_pool_options po;
    server = h2_server_start(so);
    fixture_pool_options(&po);
    po.conns_max = 1;
    po.h2_stall_timeout_ms = stall_ms;
    fixture_open(&f, NULL, h2_server_url(server), &po);
}

static void end(void)
{
    fixture_close(&f);
    h2_server_stop(server);
}

static void post(struct call *c)
{
    static uint8_t body[BODY];
    call_init(c, f.pool, "/echo");
    c->request.body = (moor_span){body, sizeof body};
}

static void get(void)
{
    struct call c;
    call_init(&c, f.pool, "/bytes/10");
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
}

static void test_a_body_that_is_held_up(void **state)
{
    (void)state;
    for (uint32_t window = 1000; window <= 2500;
         window += 1500) { /* less than 1 KiB of it, or more */
        struct call c;
        begin(&(struct h2_server_options){.window = window, .keeps_shut = true, .body = byte}, 100);
        get(); /* SETTINGS have come */
        post(&c);
        call_expect(&f, &c, MOOR_ETIMEDOUT);
        assert_string_equal(c.done.fault.what,
                            "wait for the server's windows to let the body through");
        assert_false(c.done.fault.safe_to_retry);
        call_fini(&c);
        assert_int_equal(fixture_stats(&f).h2_stalled, 1);
        get();
        assert_int_equal(h2_server_conns(server), 1);
        assert_int_equal(h2_server_resets(server), 1);
        end();
    }
}

static void test_a_body_that_trickles(void **state)
{
    (void)state;
    struct call c;
    begin(&(struct h2_server_options){.window = 100, .body = byte}, 5000);
    get();
    post(&c);
    call_expect(&f, &c, MOOR_OK);
    assert_int_equal(c.bytes, BODY);
    call_fini(&c);
    assert_int_equal(fixture_stats(&f).h2_stalled, 0);
    end();
}

static void test_the_answer_is_waited_for_by_its_own_time(void **state)
{
    (void)state;
    struct call c;
    begin(&(struct h2_server_options){.body = byte}, 1);
    get();
    call_init(&c, f.pool, "/never");
    c.request.body = (moor_span){"cargo", 5};
    c.request.first_byte_timeout_ms = 150;
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    assert_string_equal(c.done.fault.what, "wait for the response's first byte");
    call_fini(&c);
    assert_int_equal(fixture_stats(&f).h2_stalled, 0);
    end();
}

/* Opens every window as wide as it goes, and reads no further than the preface. */
static void grants_and_sleeps(struct peer_conn *c)
{
    static const uint8_t words[] = {
        0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff, /* INITIAL_WINDOW_SIZE */
        0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0x00, 0x00,       /* WINDOW_UPDATE */
    };
    if (peer_body(c, 24) && peer_send(c, words, sizeof words))
        while (!atomic_load(&c->peer->is_stopping))
            peer_sleep_ms(2);
}

/* UNSENT_MAX: what does not go into the socket is not made into frames. */
static void test_a_server_that_does_not_read(void **state)
{
    (void)state;
    enum { CARGO = 16 << 20, WENT_MIN = 1 << 16, HELD_MAX = 192 << 10 };
    struct peer peer;
    struct call c;
    peer_start(&peer, grants_and_sleeps, NULL);
    moor_pool_options po;
    fixture_pool_options(&po);
    po.conns_max = 1;
    char url[64];
    snprintf(url, sizeof url, "h2c://127.0.0.1:%d", peer.port);
    fixture_open(&f, NULL, url, &po);
    uint8_t *cargo = calloc(1, CARGO);
    assert_non_null(cargo);
    const struct mr_heap *heap = &f.runtime->shards[0]->mine.heap;
    const size_t before = atomic_load(&heap->used);
    call_init(&c, f.pool, "/");
    c.request.method = "POST";
    c.request.body = (moor_span){cargo, CARGO}; /* is copied */
    c.request.timeout_ms = 1000;
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    call_fini(&c);
    assert_true(fixture_stats(&f).bytes_out > WENT_MIN);
    assert_true(fixture_stats(&f).bytes_out < CARGO);
    assert_true(atomic_load(&heap->peak) - before < CARGO + HELD_MAX);
    fixture_close(&f);
    peer_stop(&peer);
    free(cargo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_body_that_is_held_up),
        cmocka_unit_test(test_a_body_that_trickles),
        cmocka_unit_test(test_a_server_that_does_not_read),
        cmocka_unit_test(test_the_answer_is_waited_for_by_its_own_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
