/*
 * Requests through TLS, with each of their allocations failing in turn: the library's own and those of the TLS
 * library, which come from the same heap.
 */
#include "tests/fault/fault_fixture.h"
#include "tests/support/tls_server.h"

static struct tls_script script;
static struct tls_server *server;

static void on_event(void *user, const moor_event *e)
{
    (void)user;
    if (e->type == MOOR_EVENT_TLS_READY)
        assert_non_null(e->tls);
}

static void tls_fault_options(moor_pool_options *o)
{
    const struct tls_identity *id = tls_identity(TLS_P256, 0), *me = tls_identity(TLS_P256, 1);
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
    o->backoff_min_ms = 1;
    o->window_bytes = 16384;
    o->tls_ca_pem = (moor_span){id->root_pem, strlen(id->root_pem)};
    o->tls_cert_pem = (moor_span){me->cert_pem, strlen(me->cert_pem)};
    o->tls_key_pem = (moor_span){me->key_pem, strlen(me->key_pem)};
    o->tls_pins = id->pin;
    o->tls_early_data = true;
    o->on_event = on_event;
}

/* Told at the end, not at once: what is left behind by a run that stops would hide the rest. */
static unsigned mistaken;

static bool is_ok(const char *step, moor_err e, const char *what)
{
    if (e != MOOR_OK && e != MOOR_ENOMEM && mistaken++ < 20)
        print_error("\n%s: %s instead of MOOR_ENOMEM: %s\n", step, moor_err_name(e), what);
    return e == MOOR_OK;
}

/* Once, and whole or for memory. */
static void judge(const struct fault_request *r, size_t expected)
{
    assert_int_equal(r->dones, r->was_accepted ? 1 : 0);
    if (r->was_accepted && is_ok("request", r->fault.err, r->fault.what)) {
        assert_int_equal(r->heads, 1);
        assert_int_equal(r->came, expected);
    }
}

static bool open_tls(struct fault_fixture *f)
{
    moor_pool_options o;
    tls_fault_options(&o);
    return is_ok("open", moor_pool_open(f->runtime, tls_server_url(server), &o, &f->pool), "");
}

/* With a pool open and a shard adopted: runs `body` and ends everything. */
static void run(void *arg)
{
    struct fault_fixture f;
    server = tls_server_start(&script);
    if (fault_begin(&f, 0) && fault_adopt(&f) && open_tls(&f))
        ((void (*)(struct fault_fixture *))arg)(&f);
    fault_end(&f);
    tls_server_stop(server);
}

static void tls_get(struct fault_fixture *f, const char *path, size_t n)
{
    struct fault_request r = {0};
    fault_send(f, &r, path);
    fault_turn_until_done(f, &r);
    judge(&r, n);
}

static void get_once(struct fault_fixture *f)
{
    tls_get(f, "/bytes/20000", 20000);
}

/* Each on a conn of its own, so that tickets are kept and used. */
static void get_and_resume(struct fault_fixture *f)
{
    for (int i = 0; i < 3; i++)
        tls_get(f, "/bytes/100", 100);
}

static void get_early(struct fault_fixture *f)
{
    for (int i = 0; i < 2; i++) {
        struct fault_request r = {0};
        moor_http_request q;
        fault_request_init(&q, &r, "/bytes/100");
        q.replayable = true;
        r.was_accepted = fault_is_ok(moor_http_send(f->pool, &q, &fault_handlers, &r, NULL));
        fault_turn_until_done(f, &r);
        judge(&r, 100);
    }
}

static void upload(struct fault_fixture *f)
{
    struct fault_request r = {.posted = 20000};
    fault_send(f, &r, "/echo");
    fault_turn_until_done(f, &r);
    judge(&r, 20000);
}

static void get_together(struct fault_fixture *f)
{
    struct fault_request r[3] = {0};
    for (int i = 0; i < 3; i++)
        fault_send(f, &r[i], "/bytes/5000");
    for (int i = 0; i < 3; i++) {
        fault_turn_until_done(f, &r[i]);
        judge(&r[i], 5000);
    }
}

static void reload(struct fault_fixture *f)
{
    moor_pool_options o;
    tls_get(f, "/bytes/100", 100);
    tls_fault_options(&o);
    (void)is_ok("reload", moor_pool_tls_reload(f->pool, &o), "");
    tls_get(f, "/bytes/100", 100);
}

static void fail_each(void (*body)(struct fault_fixture *f), int version)
{
    script.body = xor_body;
    script.version_min = script.version_max = version;
    assert_true(fault_every_allocation(run, (void *)body) > 0);
}

static void fail_each_in_both(void (*body)(struct fault_fixture *f))
{
    fail_each(body, 12);
    fail_each(body, 13);
}

static int forget_mistakes(void **state)
{
    (void)state;
    mistaken = 0;
    return 0;
}

static void test_a_get(void **state)
{
    (void)state;
    script = (struct tls_script){.client_issuer = tls_identity(TLS_P256, 1)};
    fail_each_in_both(get_once);
    assert_int_equal(mistaken, 0);
}

static void test_resumption(void **state)
{
    (void)state;
    script = (struct tls_script){.requests_max = 1};
    fail_each_in_both(get_and_resume);
    assert_int_equal(mistaken, 0);
}

static void test_early_data(void **state)
{
    (void)state;
    for (int refuses = 0; refuses < 2; refuses++) {
        script =
            (struct tls_script){.requests_max = 1, .early_max = 2000, .refuses_early = refuses};
        fail_each(get_early, 13);
    }
    assert_int_equal(mistaken, 0);
}

static void test_an_upload(void **state)
{
    (void)state;
    script = (struct tls_script){.record_max = 1000};
    fail_each_in_both(upload);
    assert_int_equal(mistaken, 0);
}

static void test_several_at_once(void **state)
{
    (void)state;
    script = (struct tls_script){.record_max = 1000};
    fail_each_in_both(get_together);
    assert_int_equal(mistaken, 0);
}

static void test_a_key_update(void **state)
{
    (void)state;
    script = (struct tls_script){.at[TLS_AT_BODY] = {TLS_KEY_UPDATE, .value = 1}};
    fail_each(get_once, 13);
    assert_int_equal(mistaken, 0);
}

static void test_a_reload(void **state)
{
    (void)state;
    script = (struct tls_script){0};
    fail_each_in_both(reload);
    assert_int_equal(mistaken, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_get, forget_mistakes),
        cmocka_unit_test_setup(test_resumption, forget_mistakes),
        cmocka_unit_test_setup(test_early_data, forget_mistakes),
        cmocka_unit_test_setup(test_an_upload, forget_mistakes),
        cmocka_unit_test_setup(test_several_at_once, forget_mistakes),
        cmocka_unit_test_setup(test_a_key_update, forget_mistakes),
        cmocka_unit_test_setup(test_a_reload, forget_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
