/* A server whose windows hold up the bodies of requests: how long one waits, and that others do not. */
#include "tests/support/fixture_pool.h"
#include "tests/support/h2_server.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_body_that_is_held_up),
        cmocka_unit_test(test_a_body_that_trickles),
        cmocka_unit_test(test_the_answer_is_waited_for_by_its_own_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
