/*
 * moor_pool_tls_reload: roots, certificates and pins that change under load, and files that cannot be used.
 */
#include "tests/support/tls_fixture.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static struct tls_fixture t = {.tickets_max = 256};
static char folder[64], ca_path[96], cert_path[96], key_path[96];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tls_reload.XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(ca_path, sizeof ca_path, "%s/ca.pem", folder);
    snprintf(cert_path, sizeof cert_path, "%s/cert.pem", folder);
    snprintf(key_path, sizeof key_path, "%s/key.pem", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(ca_path);
    unlink(cert_path);
    unlink(key_path);
    return rmdir(folder);
}

static void write_file(const char *path, const char *text, const char *more)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fputs(more, f);
    assert_int_equal(fclose(f), 0);
}

static const struct tls_identity *server_id(unsigned nth)
{
    return tls_identity(TLS_P256, nth);
}

/* Roots in a file. */
static void file_options(moor_pool_options *o)
{
    tls_options(&t, o);
    o->tls_ca_pem = (moor_span){NULL, 0};
    o->tls_ca = ca_path;
}

static moor_err reload(const moor_pool_options *from)
{
    return moor_pool_tls_reload(t.f.pool, from);
}

/* ---- under load ---- */

enum { LOAD = 6, SHARDS = 2 };

struct load {
    struct call calls[LOAD];
    pthread_t thread;
    atomic_bool is_ending;
    unsigned done, failed;
    moor_fault first;
};

static void *run_load(void *arg)
{
    struct load *l = arg;
    while (!atomic_load(&l->is_ending)) {
        for (unsigned i = 0; i < LOAD; i++) {
            struct call *c = &l->calls[i];
            call_init(c, t.f.pool, "/bytes/3000");
            c->request.timeout_ms = 20000;
            call_start_on(c, t.f.runtime, i % SHARDS);
        }
        for (unsigned i = 0; i < LOAD; i++) {
            struct call *c = &l->calls[i];
            call_wait(c);
            l->done++;
            if (c->done.fault.err && !l->failed++)
                l->first = c->done.fault;
            call_fini(c);
        }
    }
    return NULL;
}

static struct load *begin_load(void)
{
    struct load *l = calloc(1, sizeof *l);
    assert_int_equal(pthread_create(&l->thread, NULL, run_load, l), 0);
    return l;
}

static void end_load(struct load *l)
{
    atomic_store(&l->is_ending, true);
    pthread_join(l->thread, NULL);
    if (l->failed)
        fail_msg("%u of %u: %s, %s", l->failed, l->done, moor_err_name(l->first.err),
                 l->first.what);
    assert_true(l->done > 0);
    free(l);
}

/* So many more conns have been made. */
static void wait_conns(unsigned more)
{
    const unsigned n = tls_server_ready(t.server) + more;
    eventually(tls_server_ready(t.server) >= n);
}

static void begin_two_shards(const struct tls_script *script, const moor_pool_options *o)
{
    moor_runtime_options ro;
    fixture_runtime_options(&t.f, &ro);
    ro.shards = SHARDS;
    tls_begin_closed(&t, script, &ro);
    tls_reopen(&t, NULL, o);
}

/* A root replaced the way it is done: both, then the new one alone. */
static void test_roots_change_under_load(void **state)
{
    (void)state;
    struct tls_script script = {.identity = server_id(0), .requests_max = 7};
    moor_pool_options o;
    file_options(&o);
    write_file(ca_path, server_id(0)->root_pem, "");
    begin_two_shards(&script, &o);
    struct load *l = begin_load();
    wait_conns(4);
    write_file(ca_path, server_id(0)->root_pem, server_id(1)->root_pem);
    assert_err(reload(NULL), MOOR_OK);
    wait_conns(2);
    script.identity = server_id(1);
    tls_server_set(t.server, &script);
    wait_conns(4);
    write_file(ca_path, server_id(1)->root_pem, "");
    assert_err(reload(NULL), MOOR_OK);
    wait_conns(4);
    end_load(l);

    eventually(fixture_stats(&t.f).dials == 0);
    moor_pool_flush(t.f.pool);
    eventually(fixture_stats(&t.f).conns_open == 0);
    eventually(tls_server_open(t.server) == 0); /* nor is there one that has tickets still to send */
    script.identity = server_id(0);             /* is trusted no more */
    tls_server_set(t.server, &script);
    tls_server_forget(t.server);
    const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
    assert_true(fault.safe_to_retry);
    tls_end(&t);
}

static void present(const struct tls_identity *id)
{
    write_file(cert_path, id->cert_pem, "");
    write_file(key_path, id->key_pem, "");
}

static void test_client_certificates_change_under_load(void **state)
{
    (void)state;
    const struct tls_script script = {
        .client_issuer = server_id(2), .client_issuer2 = server_id(3), .requests_max = 7};
    moor_pool_options o;
    tls_options(&t, &o);
    o.tls_cert = cert_path;
    o.tls_key = key_path;
    o.tls_ca = ca_path;
    o.tls_ca_pem = (moor_span){NULL, 0};
    write_file(ca_path, server_id(0)->root_pem, "");
    present(server_id(2));
    begin_two_shards(&script, &o);
    struct load *l = begin_load();
    wait_conns(4);
    present(server_id(3));
    bool was_ready[PEER_CONNS_MAX] = {false};
    for (unsigned i = 0; i < tls_server_conns(t.server); i++)
        was_ready[i] = tls_server_seen(t.server, i).is_ready;
    assert_err(reload(NULL), MOOR_OK);
    const unsigned from = tls_server_conns(t.server);
    wait_conns(12);
    end_load(l);
    for (unsigned i = 0; i < from; i++)
        if (was_ready[i])
            assert_string_equal(tls_server_seen(t.server, i).client_name, "leaf P-256 2");
    /* Those under way at the reload may be of either; eight is more than there can be. */
    for (unsigned i = from + 8; i < tls_server_ready(t.server); i++)
        if (tls_server_seen(t.server, i).is_ready)
            assert_string_equal(tls_server_seen(t.server, i).client_name, "leaf P-256 3");
    tls_end(&t);
}

static void test_pins_change_under_load(void **state)
{
    (void)state;
    char pins[256], roots[4096];
    struct tls_script script = {.identity = server_id(0), .requests_max = 7};
    moor_pool_options o;
    tls_options(&t, &o);
    snprintf(roots, sizeof roots, "%s%s", server_id(0)->root_pem, server_id(1)->root_pem);
    o.tls_ca_pem = (moor_span){roots, strlen(roots)};
    o.tls_pins = server_id(0)->pin;
    begin_two_shards(&script, &o);
    struct load *l = begin_load();
    wait_conns(4);
    snprintf(pins, sizeof pins, "%s,%s", server_id(0)->pin, server_id(1)->pin);
    o.tls_pins = pins;
    assert_err(reload(&o), MOOR_OK);
    wait_conns(2);
    script.identity = server_id(1);
    tls_server_set(t.server, &script);
    wait_conns(4);
    o.tls_pins = server_id(1)->pin;
    assert_err(reload(&o), MOOR_OK);
    wait_conns(4);
    end_load(l);
    tls_end(&t);
}

/* ---- what there is ---- */

static void test_conns_finish_what_they_do(void **state)
{
    (void)state;
    struct tls_script script = {.at[TLS_AT_BODY] = {TLS_PAUSE, .value = 200}};
    moor_pool_options o;
    tls_options(&t, &o);
    tls_begin(&t, &script, &o);
    struct call c;
    call_init(&c, t.f.pool, "/bytes/5000");
    call_start(&t.f, &c);
    eventually(tls_server_requests(t.server) == 1);
    assert_err(reload(&o), MOOR_OK);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_OK);
    assert_int_equal(c.bytes, 5000);
    call_fini(&c);
    eventually(fixture_stats(&t.f).conns_open == 0);
    eventually(tls_server_seen(t.server, 0).is_over);
    assert_int_equal(tls_server_seen(t.server, 0).close_notifies, 1);
    tls_expect_bytes(&t, 100);
    assert_int_equal(tls_server_conns(t.server), 2);
    tls_end(&t);
}

static void test_idle_conns_close(void **state)
{
    (void)state;
    moor_pool_options o;
    tls_options(&t, &o);
    tls_begin(&t, NULL, &o);
    tls_expect_bytes(&t, 100);
    assert_int_equal(fixture_stats(&t.f).conns_open, 1);
    assert_err(reload(&o), MOOR_OK);
    eventually(fixture_stats(&t.f).conns_open == 0);
    tls_end(&t);
}

/* A handshake that began under the old roots ends under the new ones: whoever asked before may have it,
 * nobody else. */
static void test_a_dial_that_was_under_way(void **state)
{
    (void)state;
    static atomic_bool gate;
    const struct tls_identity *other = server_id(1);
    atomic_store(&gate, false);
    struct tls_script script = {.gate = &gate};
    moor_pool_options before, after;
    tls_options(&t, &before);
    after = before;
    after.tls_ca_pem = (moor_span){other->root_pem, strlen(other->root_pem)};
    tls_begin(&t, &script, &before);
    struct call c;
    call_init(&c, t.f.pool, "/bytes/100");
    call_start(&t.f, &c);
    eventually(tls_server_seen(t.server, 0).has_hello);
    moor_cancel(c.op);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_ECANCELED);
    call_fini(&c);
    assert_err(reload(&after), MOOR_OK);
    struct call later;
    call_init(&later, t.f.pool, "/bytes/100");
    call_start(&t.f, &later);
    atomic_store(&gate, true);
    call_wait(&later);
    assert_err(later.done.fault.err, MOOR_ETLS); /* this server is trusted no more */
    call_fini(&later);
    eventually(fixture_stats(&t.f).conns_open == 0);
    assert_int_equal(tls_server_requests(t.server), 0);
    tls_end(&t);
}

/* The same with nobody who waits: an old conn does not stay idle. */
static void test_a_dial_that_nobody_waits_for(void **state)
{
    (void)state;
    static atomic_bool gate;
    atomic_store(&gate, false);
    struct tls_script script = {.gate = &gate};
    tls_begin(&t, &script, NULL);
    struct call c;
    call_init(&c, t.f.pool, "/bytes/100");
    call_start(&t.f, &c);
    eventually(tls_server_seen(t.server, 0).has_hello);
    moor_cancel(c.op);
    call_wait(&c);
    call_fini(&c);
    moor_pool_flush(t.f.pool);
    atomic_store(&gate, true);
    eventually(fixture_stats(&t.f).dials == 0);
    eventually(fixture_stats(&t.f).conns_open == 0);
    tls_end(&t);
}

/* ---- what cannot be used ---- */

static void expect_refused(const moor_pool_options *from, const char *says)
{
    const size_t logged = t.f.log_len;
    assert_err(reload(from), MOOR_EINVAL);
    pthread_mutex_lock(&t.f.log_lock);
    const bool has = strcasestr(t.f.log + logged, says) != NULL;
    pthread_mutex_unlock(&t.f.log_lock);
    if (!has)
        fail_msg("no \"%s\" in: %s", says, t.f.log + logged);
    tls_expect_bytes(&t, 100); /* as before */
    assert_int_equal(tls_server_conns(t.server), 1);
}

static void test_files_that_cannot_be_used(void **state)
{
    (void)state;
    moor_pool_options o;
    file_options(&o);
    o.tls_cert = cert_path;
    o.tls_key = key_path;
    write_file(ca_path, server_id(0)->root_pem, "");
    present(server_id(2));
    tls_begin(&t, NULL, &o);
    tls_expect_bytes(&t, 100);

    write_file(ca_path, "no certificate\n", "");
    expect_refused(NULL, ca_path);
    write_file(ca_path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "");
    expect_refused(NULL, ca_path);
    write_file(ca_path, "", "");
    expect_refused(NULL, ca_path);
    unlink(ca_path);
    expect_refused(NULL, ca_path);
    write_file(ca_path, server_id(0)->root_pem, "");

    write_file(key_path, server_id(3)->key_pem, "");
    expect_refused(NULL, "key");
    write_file(key_path, "no key\n", "");
    expect_refused(NULL, key_path);
    unlink(key_path);
    expect_refused(NULL, key_path);
    present(server_id(2));
    write_file(cert_path, "", "");
    expect_refused(NULL, cert_path);
    present(server_id(2));

    assert_err(reload(NULL), MOOR_OK);
    eventually(fixture_stats(&t.f).conns_open == 0);
    tls_expect_bytes(&t, 100);
    assert_int_equal(tls_server_conns(t.server), 2);
    tls_end(&t);
}

static void test_options_that_cannot_be_used(void **state)
{
    (void)state;
    moor_pool_options o, bad;
    tls_options(&t, &o);
    tls_begin(&t, NULL, &o);
    tls_expect_bytes(&t, 100);
    expect_refused(NULL, "memory"); /* nothing to read anew */
    bad = o;
    bad.tls_pins = "sha256/short";
    expect_refused(&bad, "pin");
    bad = o;
    bad.tls_pins = "md5/AAAA";
    expect_refused(&bad, "pin");
    bad = o;
    bad.tls_ca_pem = (moor_span){"nothing", 7};
    expect_refused(&bad, "tls_ca");
    bad = o;
    bad.tls_cert_pem = (moor_span){server_id(2)->cert_pem, strlen(server_id(2)->cert_pem)};
    bad.tls_key_pem = (moor_span){server_id(3)->key_pem, strlen(server_id(3)->key_pem)};
    expect_refused(&bad, "key");
    tls_end(&t);
}

static void test_pools_that_cannot_be_reloaded(void **state)
{
    (void)state;
    moor_pool_options o;
    tls_options(&t, &o);
    tls_begin(&t, NULL, &o);
    moor_pool *plain = NULL;
    assert_err(moor_pool_open(t.f.runtime, "http://127.0.0.1:1", NULL, &plain), MOOR_OK);
    assert_err(moor_pool_tls_reload(plain, &o), MOOR_EINVAL);
    assert_err(moor_pool_close(plain, 1000), MOOR_OK);
    moor_pool_drain(t.f.pool, 0, NULL, NULL);
    assert_err(reload(&o), MOOR_ECLOSED);
    tls_end(&t);
}

/* ---- how it may be called ---- */

/* What the environment says stands above the options of a reload as above those of the opening. */
static void test_the_environment_stays_above(void **state)
{
    (void)state;
    moor_pool_options o;
    tls_options(&t, &o);
    assert_int_equal(setenv("MOORING_TLS_PINS", server_id(0)->pin, 1), 0);
    tls_begin(&t, NULL, &o);
    tls_expect_bytes(&t, 100);
    const struct tls_script other = {.identity = server_id(1)};
    o.tls_ca_pem = (moor_span){server_id(1)->root_pem, strlen(server_id(1)->root_pem)};
    tls_server_set(t.server, &other);
    assert_err(reload(&o), MOOR_OK);
    eventually(fixture_stats(&t.f).conns_open == 0);
    const moor_fault fault = tls_expect_fault(&t, NULL, MOOR_ETLS);
    tls_assert_says(&fault, "not pinned");
    assert_int_equal(unsetenv("MOORING_TLS_PINS"), 0);
    assert_err(reload(&o), MOOR_OK);
    peer_sleep_ms(3); /* the backoff is over */
    tls_expect_bytes(&t, 100);
    tls_end(&t);
}

static void reload_in_head(struct call *c)
{
    *(moor_err *)c->user = reload(NULL);
}

static void test_not_on_a_shard(void **state)
{
    (void)state;
    moor_pool_options o;
    moor_err e = MOOR_OK;
    file_options(&o);
    write_file(ca_path, server_id(0)->root_pem, "");
    tls_begin(&t, NULL, &o);
    struct call c;
    call_init(&c, t.f.pool, "/bytes/100");
    c.on_head = reload_in_head;
    c.user = &e;
    call_expect(&t.f, &c, MOOR_OK);
    call_fini(&c);
    assert_err(e, MOOR_EWRONGTHREAD);
    assert_err(reload(NULL), MOOR_OK);
    tls_end(&t);
}

enum { RELOADERS = 4 };

struct reloader {
    pthread_t thread;
    unsigned done, busy, other;
};

static void *run_reloads(void *arg)
{
    struct reloader *r = arg;
    for (int i = 0; i < 50; i++) {
        const moor_err e = reload(NULL);
        r->done += e == MOOR_OK;
        r->busy += e == MOOR_EBUSY;
        r->other += e != MOOR_OK && e != MOOR_EBUSY;
    }
    return NULL;
}

static void test_several_at_once(void **state)
{
    (void)state;
    moor_pool_options o;
    struct reloader r[RELOADERS] = {0};
    file_options(&o);
    write_file(ca_path, server_id(0)->root_pem, server_id(1)->root_pem);
    begin_two_shards(NULL, &o);
    struct load *l = begin_load();
    for (int i = 0; i < RELOADERS; i++)
        assert_int_equal(pthread_create(&r[i].thread, NULL, run_reloads, &r[i]), 0);
    unsigned done = 0;
    for (int i = 0; i < RELOADERS; i++) {
        pthread_join(r[i].thread, NULL);
        assert_int_equal(r[i].other, 0);
        done += r[i].done;
    }
    assert_true(done > 0);
    end_load(l);
    assert_err(reload(NULL), MOOR_OK);
    tls_expect_bytes(&t, 100);
    tls_end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roots_change_under_load),
        cmocka_unit_test(test_client_certificates_change_under_load),
        cmocka_unit_test(test_pins_change_under_load),
        cmocka_unit_test(test_conns_finish_what_they_do),
        cmocka_unit_test(test_idle_conns_close),
        cmocka_unit_test(test_a_dial_that_was_under_way),
        cmocka_unit_test(test_a_dial_that_nobody_waits_for),
        cmocka_unit_test(test_files_that_cannot_be_used),
        cmocka_unit_test(test_options_that_cannot_be_used),
        cmocka_unit_test(test_pools_that_cannot_be_reloaded),
        cmocka_unit_test(test_the_environment_stays_above),
        cmocka_unit_test(test_not_on_a_shard),
        cmocka_unit_test(test_several_at_once),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
