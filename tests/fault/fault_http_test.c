/* Requests, with each of their allocations failing in turn. */
#include "tests/fault/fault_fixture.h"

static unsigned layers;

static moor_err secure(struct mr_upstream *u, struct mr_conn *c)
{
    for (unsigned i = 0; i < layers; i++)
        MR_TRY(xor_filter_add(u, c, &(struct xor_options){.record_max = 3000}));
    return MOOR_OK;
}

/* With a pool open and a shard adopted: runs `body` and ends everything. */
static void with_pool(void (*body)(struct fault_fixture *f))
{
    struct fault_fixture f;
    if (fault_begin(&f, layers) && fault_adopt(&f) && fault_open(&f)) {
        f.pool->secure = layers ? secure : NULL;
        body(&f);
    }
    fault_end(&f);
}

static void get_once(struct fault_fixture *f)
{
    struct fault_request r = {0};
    fault_run(f, &r, "/bytes/20000", 20000);
}

static void get_again_and_again(struct fault_fixture *f)
{
    for (int i = 0; i < 3; i++) {
        struct fault_request r = {0};
        fault_run(f, &r, "/bytes/100", 100);
    }
}

static void get_together(struct fault_fixture *f)
{
    struct fault_request r[3] = {0};
    for (int i = 0; i < 3; i++)
        fault_send(f, &r[i], "/bytes/5000");
    for (int i = 0; i < 3; i++) {
        fault_turn_until_done(f, &r[i]);
        fault_judge(&r[i], 5000);
    }
}

static void get_chunks(struct fault_fixture *f)
{
    struct fault_request r = {0};
    fault_run(f, &r, "/chunked/9000", 9000);
    assert_true(r.trailers == 1 || r.fault.err || !r.was_accepted);
}

static void upload(struct fault_fixture *f)
{
    struct fault_request r = {.posted = 20000};
    fault_run(f, &r, "/echo", 20000);
}

static void fetch(struct fault_fixture *f)
{
    static const char *const paths[] = {"/bytes/3000", "/chunked/9000"};
    for (int i = 0; i < 2; i++) {
        struct fault_request r = {0};
        moor_http_request q;
        moor_http_response *response = NULL;
        moor_fault fault = {0};
        fault_request_init(&q, &r, paths[i]);
        if (!fault_is_ok(moor_http_fetch(f->pool, &q, &response, &fault))) {
            assert_null(response);
            continue;
        }
        assert_int_equal(response->body.len, i ? 9000 : 3000);
        assert_int_equal(response->trailer_count, i);
        for (size_t at = 0; at < response->body.len; at++)
            assert_int_equal(((const uint8_t *)response->body.base)[at], xor_body(at));
        moor_http_response_free(response);
    }
}

static unsigned drained;

static void on_drained(void *user)
{
    (void)user;
    drained++;
}

static void drain(struct fault_fixture *f)
{
    struct fault_request r[3] = {0};
    for (int i = 0; i < 3; i++) {
        r[i].may_cancel = true;
        fault_send(f, &r[i], "/bytes/5000");
    }
    drained = 0;
    moor_pool_drain(f->pool, 0, on_drained, NULL);
    for (int turns = 0; !drained; turns++) {
        assert_true(turns < 20000);
        assert_int_equal(moor_shard_wait(f->shard, 1), MOOR_OK);
    }
    for (int i = 0; i < 3; i++) {
        if (r[i].fault.err == MOOR_ECLOSED) /* it had not got a conn yet */
            r[i].fault.err = MOOR_ECANCELED;
        fault_judge(&r[i], 5000);
    }
    assert_int_equal(drained, 1);
}

static void run(void *arg)
{
    with_pool((void (*)(struct fault_fixture *))arg);
}

static void fail_each(void (*body)(struct fault_fixture *f), unsigned with_layers)
{
    layers = with_layers;
    assert_true(fault_every_allocation(run, (void *)body) > 20);
}

static void test_a_get(void **state)
{
    (void)state;
    fail_each(get_once, 0);
}

static void test_keep_alive(void **state)
{
    (void)state;
    fail_each(get_again_and_again, 0);
}

static void test_several_at_once(void **state)
{
    (void)state;
    fail_each(get_together, 0);
}

static void test_chunks_and_trailers(void **state)
{
    (void)state;
    fail_each(get_chunks, 0);
}

static void test_an_upload(void **state)
{
    (void)state;
    fail_each(upload, 0);
}

static void test_a_fetch(void **state)
{
    (void)state;
    fail_each(fetch, 0);
}

static void test_a_drain(void **state)
{
    (void)state;
    fail_each(drain, 0);
}

static void test_through_filters(void **state)
{
    (void)state;
    fail_each(get_once, 2);
    fail_each(upload, 1);
    fail_each(drain, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_get),           cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_several_at_once), cmocka_unit_test(test_chunks_and_trailers),
        cmocka_unit_test(test_an_upload),       cmocka_unit_test(test_a_fetch),
        cmocka_unit_test(test_a_drain),         cmocka_unit_test(test_through_filters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
