/*
 * Requests over HTTP/2, with each of their allocations failing in turn: the library's own and those of nghttp2,
 * which come from the same heap.
 */
#include "tests/fault/fault_fixture.h"
#include "tests/support/h2_server.h"

static struct h2_server_options script;
static struct h2_server *server;
static uint32_t uses_max;      /* of a conn; 0 = any */
static moor_ms check_every_ms; /* 0 = the default */

static void h2_fault_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
    o->backoff_min_ms = 1;
    o->window_bytes = 16384;
    o->replays_max = 10;
    o->uses_max = uses_max;
    if (check_every_ms) {
        o->check_every_ms = check_every_ms;
        o->h2_ping_after_ms = check_every_ms;
    }
}

static bool open_h2(struct fault_fixture *f)
{
    moor_pool_options o;
    h2_fault_options(&o);
    return fault_is_ok(moor_pool_open(f->runtime, h2_server_url(server), &o, &f->pool));
}

/* Told at the end, not at once: what is left behind by a run that stops would hide the rest. */
static unsigned mistaken;

static void judge(struct fault_request *r, size_t expected)
{
    const moor_err e = r->fault.err;
    if (r->was_accepted && e && e != MOOR_ENOMEM && !(r->may_cancel && e == MOOR_ECANCELED)) {
        if (mistaken++ < 20)
            print_error("\n%s instead of MOOR_ENOMEM: %s\n", moor_err_name(e), r->fault.what);
        return;
    }
    fault_judge(r, expected);
}

static void run_one(struct fault_fixture *f, struct fault_request *r, const char *path,
                    size_t expected)
{
    fault_send(f, r, path);
    fault_turn_until_done(f, r);
    judge(r, expected);
}

/* With a pool open and a shard adopted: runs `body` and ends everything. */
static void run(void *arg)
{
    struct fault_fixture f;
    script.body = xor_body;
    server = h2_server_start(&script);
    if (fault_begin(&f, 0) && fault_adopt(&f) && open_h2(&f))
        ((void (*)(struct fault_fixture *))arg)(&f);
    fault_end(&f);
    h2_server_stop(server);
}

static void get_once(struct fault_fixture *f)
{
    struct fault_request r = {0};
    run_one(f, &r, "/bytes/20000", 20000);
}

/* Beyond both windows at first, so that they must be opened; and enough to measure the path by. */
static void get_much(struct fault_fixture *f)
{
    struct fault_request r = {0};
    run_one(f, &r, "/bytes/400000", 400000);
}

static void get_again_and_again(struct fault_fixture *f)
{
    for (int i = 0; i < 3; i++) {
        struct fault_request r = {0};
        run_one(f, &r, "/trailers/100", 100);
        assert_true(r.trailers == 1 || r.fault.err || !r.was_accepted);
    }
}

static void upload(struct fault_fixture *f)
{
    struct fault_request r = {.posted = 20000};
    run_one(f, &r, "/echo", 20000);
}

/* Beyond the windows, which the server opens. */
static void upload_much(struct fault_fixture *f)
{
    struct fault_request r = {.posted = 100000};
    run_one(f, &r, "/echo", 100000);
}

static void together(struct fault_fixture *f, size_t posted)
{
    struct fault_request r[5] = {0};
    for (int i = 0; i < 5; i++) {
        r[i].posted = i % 2 ? posted : 0;
        fault_send(f, &r[i], r[i].posted ? "/echo" : "/bytes/5000");
    }
    for (int i = 0; i < 5; i++) {
        fault_turn_until_done(f, &r[i]);
        judge(&r[i], r[i].posted ? r[i].posted : 5000);
    }
}

static void several_at_once(struct fault_fixture *f)
{
    together(f, 5000);
}

static void cancel(struct fault_fixture *f)
{
    static const char *const paths[] = {"/never", "/bytes/400000", "/echo"};
    struct fault_request r[3] = {{0}, {0}, {.posted = 100000}};
    moor_op ops[3] = {0};
    for (int i = 0; i < 3; i++) {
        moor_http_request q;
        fault_request_init(&q, &r[i], paths[i]);
        r[i].may_cancel = true;
        r[i].was_accepted =
            fault_is_ok(moor_http_send(f->pool, &q, &fault_handlers, &r[i], &ops[i]));
    }
    for (int turns = 0; turns < 3; turns++)
        assert_int_equal(moor_shard_wait(f->shard, 1), MOOR_OK);
    for (int i = 0; i < 3; i++)
        moor_cancel(ops[i]);
    for (int i = 0; i < 3; i++) {
        fault_turn_until_done(f, &r[i]);
        judge(&r[i], i == 1 ? 400000 : 100000);
    }
    get_once(f); /* the conn, if it lives, has not suffered */
}

static void several_gets(struct fault_fixture *f)
{
    together(f, 0);
}

/* PINGs: of the conn while it lies idle, and while a response is due. */
static void idle_and_slow(struct fault_fixture *f)
{
    get_once(f);
    for (int turns = 0; turns < 15; turns++)
        assert_int_equal(moor_shard_wait(f->shard, 1), MOOR_OK);
    struct fault_request r = {.may_cancel = true};
    moor_http_request q;
    moor_op op = {0};
    fault_request_init(&q, &r, "/never");
    r.was_accepted = fault_is_ok(moor_http_send(f->pool, &q, &fault_handlers, &r, &op));
    for (int turns = 0; turns < 15 && !r.dones; turns++)
        assert_int_equal(moor_shard_wait(f->shard, 1), MOOR_OK);
    moor_cancel(op);
    fault_turn_until_done(f, &r);
    judge(&r, 0);
    get_once(f);
}

static void drain(struct fault_fixture *f)
{
    struct fault_request r[3] = {0};
    for (int i = 0; i < 3; i++) {
        r[i].may_cancel = true;
        fault_send(f, &r[i], "/bytes/5000");
    }
    moor_pool_drain(f->pool, 2000, NULL, NULL);
    for (int i = 0; i < 3; i++) {
        fault_turn_until_done(f, &r[i]);
        if (r[i].fault.err == MOOR_ECLOSED) /* it had not got a conn yet */
            r[i].fault.err = MOOR_ECANCELED;
        judge(&r[i], 5000);
    }
}

static void fail_each(void (*body)(struct fault_fixture *f))
{
    assert_true(fault_every_allocation(run, (void *)body) > 20);
    assert_int_equal(mistaken, 0);
}

static int forget(void **state)
{
    (void)state;
    script = (struct h2_server_options){0};
    uses_max = 0;
    check_every_ms = 0;
    mistaken = 0;
    return 0;
}

static void test_a_get(void **state)
{
    (void)state;
    fail_each(get_once);
}

static void test_a_long_get(void **state)
{
    (void)state;
    fail_each(get_much);
}

static void test_one_conn_for_many(void **state)
{
    (void)state;
    fail_each(get_again_and_again);
}

static void test_uploads(void **state)
{
    (void)state;
    fail_each(upload);
    fail_each(upload_much);
    script.window = 1000;
    fail_each(upload);
}

static void test_several_streams(void **state)
{
    (void)state;
    fail_each(several_at_once);
    script.streams_max = 1;
    fail_each(several_gets);
}

static void test_cancels(void **state)
{
    (void)state;
    fail_each(cancel);
}

static void test_a_server_that_goes_away(void **state)
{
    (void)state;
    script.requests_max = 2;
    fail_each(several_gets);
}

static void test_worn_conns(void **state)
{
    (void)state;
    uses_max = 2;
    fail_each(several_gets);
}

static void test_pings(void **state)
{
    (void)state;
    check_every_ms = 10;
    fail_each(idle_and_slow);
}

static void test_a_drain(void **state)
{
    (void)state;
    fail_each(drain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_get, forget),
        cmocka_unit_test_setup(test_a_long_get, forget),
        cmocka_unit_test_setup(test_one_conn_for_many, forget),
        cmocka_unit_test_setup(test_uploads, forget),
        cmocka_unit_test_setup(test_several_streams, forget),
        cmocka_unit_test_setup(test_cancels, forget),
        cmocka_unit_test_setup(test_a_server_that_goes_away, forget),
        cmocka_unit_test_setup(test_worn_conns, forget),
        cmocka_unit_test_setup(test_pings, forget),
        cmocka_unit_test_setup(test_a_drain, forget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
