/*
 * Lookups against a scripted name server, on both backends; every byte must be back at the end of
 * each.
 */
#include "core/resolver.h"

#include "core/name_files.h"

#include "tests/support/dns_server.h"
#include "tests/support/loop_fixture.h"

#include <fcntl.h>

struct fixture {
    struct loop_fixture l;
    struct dns_server *server;
    struct mr_resolver_config config;
    struct mr_resolver *resolver;
    struct mr_resolver_shard *shard;
    char servers[32];
    char hosts_path[64];
    char resolv_path[64];
};

struct asked {
    struct mr_lookup req;
    bool is_done;
    unsigned calls;
    moor_err err;
    char what[64];
    uint32_t count;
    int64_t expires_ns;
    struct mr_resolver_shard *again; /* of the test that asks in done */
    char first[MR_ADDR_TEXT_CAP], second[MR_ADDR_TEXT_CAP], last[MR_ADDR_TEXT_CAP];
};

static const char *backend;

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void make_path(char path[64], const char *text)
{
    snprintf(path, 64, "/tmp/mooring-resolver-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_file(path, text);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (!loop_fixture_init(&f->l, backend)) {
        free(f);
        *state = NULL;
        return 0;
    }
    f->server = dns_server_start();
    snprintf(f->servers, sizeof f->servers, "127.0.0.1:%u", f->server->port);
    make_path(f->hosts_path, "192.0.2.77 In-Hosts alias\n2001:db8::77 in-hosts\n");
    make_path(f->resolv_path, "");
    mr_resolver_config_init(&f->config);
    f->config.servers = f->servers;
    f->config.hosts_path = f->hosts_path;
    f->config.resolv_path = f->resolv_path;
    f->config.files_check_ms = 0;
    f->config.timeout_ms = 150;
    f->config.tries = 2;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    if (!f)
        return 0;
    mr_resolver_shard_destroy(f->shard);
    mr_resolver_destroy(f->resolver);
    loop_fixture_fini(&f->l);
    dns_server_stop(f->server);
    unlink(f->hosts_path);
    unlink(f->resolv_path);
    free(f);
    return 0;
}

/* Every test begins with it: what config says by now, or a skipped test. */
static struct fixture *start(void **state)
{
    struct fixture *f = *state;
    if (!f)
        skip();
    assert_int_equal(mr_resolver_create(&f->config, &f->l.shared, &f->resolver), MOOR_OK);
    assert_int_equal(mr_resolver_shard_create(f->resolver, &f->l.loop, &f->shard), MOOR_OK);
    return f;
}

static void on_done(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs, const char *what)
{
    struct asked *a = req->ctx;
    a->calls++;
    a->is_done = true;
    a->err = err;
    a->count = addrs ? addrs->count : 0;
    a->expires_ns = addrs ? addrs->expires_ns : 0;
    snprintf(a->what, sizeof a->what, "%s", what ? what : "");
    assert_true((err == MOOR_OK) == (addrs != NULL));
    assert_true((err == MOOR_OK) == (what == NULL));
    if (a->count > 0)
        mr_addr_text(&addrs->list[0], a->first);
    if (a->count > 1)
        mr_addr_text(&addrs->list[1], a->second);
    if (a->count > 0)
        mr_addr_text(&addrs->list[a->count - 1], a->last);
}

static void begin(struct fixture *f, struct asked *a, const char *host, int64_t deadline_ms)
{
    memset(a, 0, sizeof *a);
    a->req.host = host;
    a->req.deadline_ns = mr_deadline(f->l.loop.now_ns, deadline_ms);
    a->req.done = on_done;
    a->req.ctx = a;
    mr_resolver_lookup(f->shard, &a->req);
    assert_int_equal(a->calls, 0);
}

static void ask(struct fixture *f, struct asked *a, const char *host)
{
    loop_fixture_turn(&f->l, 0); /* a fresh now_ns */
    begin(f, a, host, -1);
    assert_true(loop_fixture_run(&f->l, &a->is_done, 5000));
    assert_int_equal(a->calls, 1);
}

static void ask_fails(struct fixture *f, const char *host, const char *what)
{
    struct asked a;
    ask(f, &a, host);
    assert_string_equal(a.what, what);
    assert_int_equal(a.err, MOOR_ERESOLVE);
}

static void both_families_are_asked_and_ordered(void **state)
{
    struct fixture *f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"two.test", 0, DNS_ANSWER, "192.0.2.1,2001:db8::1,192.0.2.2", 60, 0});
    ask(f, &a, "Two.Test");
    assert_int_equal(a.err, MOOR_OK);
    assert_int_equal(a.count, 3);
    assert_string_equal(a.first, "2001:db8::1");
    assert_string_equal(a.second, "192.0.2.1");
    assert_true(a.expires_ns > f->l.loop.now_ns + 58 * MR_NS_PER_SEC);
    assert_int_equal(dns_server_asked(f->server, 1), 1);
    assert_int_equal(dns_server_asked(f->server, 28), 1);
    ask(f, &a, "two.test");
    assert_int_equal(a.count, 3);
    assert_int_equal(dns_server_asked(f->server, 0), 2); /* the second came from the cache */
}

/* Writes "<prefix>1<end><prefix>2<end>..." */
static void number(char *text, size_t cap, const char *prefix, int count, const char *end)
{
    size_t len = 0;
    for (int i = 1; i <= count; i++)
        len += (size_t)snprintf(text + len, cap - len, "%s%d%s", prefix, i, end);
    assert_true(len < cap);
}

static void a_long_answer_keeps_its_first_addresses(void **state)
{
    enum { HALF = MR_ADDRS_MAX / 2, MORE = HALF + 8 };
    struct fixture *f = *state;
    static char v4[1024], v6[1024], hosts[8192];
    number(v4, sizeof v4, "192.0.2.", MORE, ",");
    number(v6, sizeof v6, "2001:db8::", MORE, ",");
    number(hosts, sizeof hosts, "192.0.2.", MR_ADDRS_MAX + 8, " many\n");
    if (f)
        write_file(f->hosts_path, hosts);
    f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"both.test", 1, DNS_ANSWER, v4, 60, 0},
               {"both.test", 28, DNS_ANSWER, v6, 60, 0});
    ask(f, &a, "both.test");
    assert_int_equal(a.count, MR_ADDRS_MAX);
    assert_string_equal(a.first, "2001:db8::1");
    assert_string_equal(a.second, "192.0.2.1");
    assert_string_equal(a.last, "192.0.2.32");
    ask(f, &a, "many");
    assert_int_equal(a.count, MR_ADDRS_MAX);
    assert_string_equal(a.first, "192.0.2.1");
    assert_string_equal(a.last, "192.0.2.64");
}

/* Sparse up to the limit: a last line that ends there is read, the next one is not. */
static void a_name_file_is_cut_at_its_limit(void **state)
{
    static const char last[] = "\n192.0.2.81 last\n", beyond[] = "192.0.2.82 beyond\n";
    struct fixture *f = *state;
    if (f) {
        write_file(f->hosts_path, "192.0.2.80 first\n");
        const off_t at = (off_t)(MR_NAME_FILE_MAX - (sizeof last - 1));
        const int fd = open(f->hosts_path, O_WRONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, last, sizeof last - 1, at), sizeof last - 1);
        assert_int_equal(pwrite(fd, beyond, sizeof beyond - 1, (off_t)MR_NAME_FILE_MAX),
                         sizeof beyond - 1);
        close(fd);
    }
    f = start(state);
    struct asked a;
    ask(f, &a, "first");
    assert_string_equal(a.first, "192.0.2.80");
    ask(f, &a, "last");
    assert_string_equal(a.first, "192.0.2.81");
    ask_fails(f, "beyond", "no such name");
}

static void literals_and_local_names_never_ask(void **state)
{
    struct fixture *f = start(state);
    struct asked a;
    ask(f, &a, "192.0.2.5");
    assert_string_equal(a.first, "192.0.2.5");
    assert_true(a.expires_ns == MR_NEVER);
    ask(f, &a, "[2001:db8::5]");
    assert_string_equal(a.first, "2001:db8::5");
    ask(f, &a, "LOCALHOST.");
    assert_string_equal(a.first, "::1");
    assert_string_equal(a.second, "127.0.0.1");
    ask(f, &a, "x.localhost");
    assert_int_equal(a.count, 2);
    ask(f, &a, "IN-hosts.");
    assert_string_equal(a.first, "2001:db8::77");
    assert_string_equal(a.second, "192.0.2.77");
    ask(f, &a, "alias");
    assert_int_equal(a.count, 1);
    assert_int_equal(dns_server_asked(f->server, 0), 0);
}

static void malformed_names_are_not_sent(void **state)
{
    struct fixture *f = start(state);
    char long_name[300];
    memset(long_name, 'a', sizeof long_name);
    long_name[299] = 0;
    static const char *const bad[] = {
        "",
        ".",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "caf\xc3\xa9.test",
        "1.2.3",
        "a.1",
        "x%eth0",
        "a\\.b",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ask_fails(f, bad[i], "malformed name");
    ask_fails(f, long_name, "malformed name");
    assert_int_equal(dns_server_asked(f->server, 0), 0);
}

static void failures_say_what_happened(void **state)
{
    struct fixture *f = start(state);
    DNS_SCRIPT(f->server, {"empty.test", 0, DNS_ANSWER, "", 60, 0},
               {"fail.test", 0, DNS_SERVFAIL, NULL, 0, 0}, {"no.test", 0, DNS_REFUSED, NULL, 0, 0},
               {"silent.test", 0, DNS_SILENCE, NULL, 0, 0},
               {"bad.test", 0, DNS_GARBAGE, NULL, 0, 0});
    ask_fails(f, "missing.test", "no such name");
    ask_fails(f, "empty.test", "no addresses");
    ask_fails(f, "fail.test", "name server refused");
    ask_fails(f, "no.test", "name server refused");
    ask_fails(f, "silent.test", "name server did not answer");
    ask_fails(f, "bad.test", "name server answered nonsense");
}

static void an_absent_server_is_an_error_soon(void **state)
{
    struct fixture *f = *state;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    close(fd);
    if (f)
        snprintf(f->servers, sizeof f->servers, "127.0.0.1:%u", ntohs(in.sin_port));
    f = start(state);
    ask_fails(f, "x.test", "name server refused");
}

static void one_family_is_enough(void **state)
{
    struct fixture *f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"four.test", 1, DNS_ANSWER, "192.0.2.4", 60, 0},
               {"half.test", 1, DNS_ANSWER, "192.0.2.5", 60, 0},
               {"half.test", 28, DNS_SERVFAIL, NULL, 0, 0});
    ask(f, &a, "four.test");
    assert_string_equal(a.first, "192.0.2.4");
    ask(f, &a, "half.test");
    assert_string_equal(a.first, "192.0.2.5");
}

static void a_slow_family_is_waited_for_50_ms_only(void **state)
{
    struct fixture *f = *state;
    if (f)
        f->config.timeout_ms = 1000;
    f = start(state);
    struct asked a, b;
    DNS_SCRIPT(f->server, {"slow.test", 1, DNS_ANSWER, "192.0.2.4", 60, 0},
               {"slow.test", 28, DNS_ANSWER, "2001:db8::4", 60, 400});
    int64_t start_ns = mr_clock_now(&mr_clock_system);
    ask(f, &a, "slow.test");
    int64_t took = mr_clock_now(&mr_clock_system) - start_ns;
    assert_int_equal(a.count, 1);
    assert_true(took >= 50 * MR_NS_PER_MS);
    begin(f, &b, "slow.test", -1); /* joins the query, takes what is there */
    assert_true(loop_fixture_run(&f->l, &b.is_done, 20));
    assert_int_equal(b.count, 1);
    loop_fixture_run_for(&f->l, 450);
    ask(f, &a, "slow.test");
    assert_int_equal(a.count, 2); /* the late answer completed the cache */
    assert_int_equal(dns_server_asked(f->server, 0), 2);
}

static void truncated_answers_come_by_tcp(void **state)
{
    struct fixture *f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"big.test", 0, DNS_TRUNCATE, "192.0.2.1,192.0.2.2,2001:db8::1", 60, 0});
    ask(f, &a, "big.test");
    assert_int_equal(a.err, MOOR_OK);
    assert_int_equal(a.count, 3);
    assert_int_equal(dns_server_asked_tcp(f->server), 2);
}

static void answers_die_with_their_ttl(void **state)
{
    struct fixture *f = start(state);
    struct asked a;
    loop_fixture_freeze(&f->l);
    DNS_SCRIPT(f->server, {"ttl.test", 1, DNS_ANSWER, "192.0.2.1", 0, 0});
    ask(f, &a, "ttl.test"); /* TTL 0 lives for a second all the same */
    ask(f, &a, "ttl.test");
    assert_int_equal(dns_server_asked(f->server, 1), 1);
    DNS_SCRIPT(f->server, {"ttl.test", 1, DNS_ANSWER, "192.0.2.2", 1, 0});
    loop_fixture_pass(&f->l, 1001);
    ask(f, &a, "ttl.test");
    assert_string_equal(a.first, "192.0.2.2");
    loop_fixture_pass(&f->l, 1001);
    ask(f, &a, "ttl.test");
    assert_int_equal(dns_server_asked(f->server, 1), 2);
}

static void ttl_has_a_ceiling_and_failures_are_short(void **state)
{
    struct fixture *f = *state;
    if (f) {
        f->config.ttl_max_ms = 10 * 1000;
        f->config.negative_ttl_ms = 200;
    }
    f = start(state);
    struct asked a;
    loop_fixture_freeze(&f->l);
    DNS_SCRIPT(f->server, {"long.test", 1, DNS_ANSWER, "192.0.2.1", 86400, 0});
    ask(f, &a, "long.test");
    assert_true(a.expires_ns <= f->l.loop.now_ns + 10 * MR_NS_PER_SEC);
    ask_fails(f, "missing.test", "no such name");
    unsigned asked = dns_server_asked(f->server, 0);
    ask_fails(f, "missing.test", "no such name");
    assert_int_equal(dns_server_asked(f->server, 0), asked);
    loop_fixture_pass(&f->l, 201);
    DNS_SCRIPT(f->server, {"missing.test", 1, DNS_ANSWER, "192.0.2.9", 60, 0});
    ask(f, &a, "missing.test");
    assert_string_equal(a.first, "192.0.2.9");
}

static void equal_questions_are_asked_once(void **state)
{
    struct fixture *f = start(state);
    struct asked a[5];
    DNS_SCRIPT(f->server, {"one.test", 0, DNS_ANSWER, "192.0.2.1", 60, 20});
    for (int i = 0; i < 5; i++)
        begin(f, &a[i], "one.test", -1);
    mr_lookup_cancel(&a[1].req);
    mr_lookup_cancel(&a[1].req);
    for (int i = 0; i < 5; i++)
        assert_int_equal(loop_fixture_run(&f->l, &a[i].is_done, i == 1 ? 0 : 2000), i != 1);
    assert_int_equal(dns_server_asked(f->server, 0), 2);
    assert_int_equal(a[1].calls, 0);
}

static void cancel_works_at_every_stage(void **state)
{
    struct fixture *f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"x.test", 0, DNS_ANSWER, "192.0.2.1", 60, 30});
    begin(f, &a, "192.0.2.1", -1); /* finished, not delivered */
    mr_lookup_cancel(&a.req);
    begin(f, &a, "x.test", -1); /* asked */
    mr_lookup_cancel(&a.req);
    begin(f, &a, "x.test", 1000); /* joined */
    loop_fixture_turn(&f->l, 1);
    mr_lookup_cancel(&a.req);
    loop_fixture_run_for(&f->l, 150);
    assert_int_equal(a.calls, 0);
    begin(f, &a, "x.test", -1); /* out of the cache the abandoned query filled */
    mr_lookup_cancel(&a.req);
    loop_fixture_run_for(&f->l, 5);
    assert_int_equal(a.calls, 0);
    assert_int_equal(dns_server_asked(f->server, 0), 2);
    begin(f, &a, "late.test", -1); /* and the shard goes while the query runs */
    mr_lookup_cancel(&a.req);
}

static void deadlines_end_the_wait_not_the_query(void **state)
{
    struct fixture *f = start(state);
    struct asked a, b;
    DNS_SCRIPT(f->server, {"x.test", 0, DNS_ANSWER, "192.0.2.1", 60, 100});
    loop_fixture_turn(&f->l, 0);
    begin(f, &a, "x.test", 40);
    begin(f, &b, "x.test", 2000);
    assert_true(loop_fixture_run(&f->l, &a.is_done, 1000));
    assert_int_equal(a.err, MOOR_ETIMEDOUT);
    assert_false(b.is_done);
    assert_true(loop_fixture_run(&f->l, &b.is_done, 1000));
    assert_int_equal(b.err, MOOR_OK);
}

static void a_lost_question_is_asked_again(void **state)
{
    struct fixture *f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"x.test", 0, DNS_SILENCE, NULL, 0, 0});
    begin(f, &a, "x.test", -1);
    loop_fixture_run_for(&f->l, 60);
    DNS_SCRIPT(f->server, {"x.test", 1, DNS_ANSWER, "192.0.2.1", 60, 0},
               {"x.test", 28, DNS_ANSWER, "", 60, 0});
    assert_true(loop_fixture_run(&f->l, &a.is_done, 2000));
    assert_string_equal(a.first, "192.0.2.1");
}

static void the_second_server_is_asked_when_the_first_is_silent(void **state)
{
    struct fixture *f = *state;
    if (!f) {
        skip();
        return; /* for the compiler: skip does not come back */
    }
    struct dns_server *dead = dns_server_start();
    char servers[64];
    snprintf(servers, sizeof servers, "127.0.0.1:%u,127.0.0.1:%u", dead->port, f->server->port);
    f->config.servers = servers;
    f = start(state);
    struct asked a;
    DNS_SCRIPT(dead, {"*", 0, DNS_SILENCE, NULL, 0, 0});
    DNS_SCRIPT(f->server, {"x.test", 0, DNS_ANSWER, "192.0.2.1", 60, 0});
    ask(f, &a, "x.test");
    assert_string_equal(a.first, "192.0.2.1");
    assert_int_equal(dns_server_asked(dead, 0), 2);
    DNS_SCRIPT(dead, {"*", 0, DNS_SERVFAIL, NULL, 0, 0});
    DNS_SCRIPT(f->server, {"y.test", 0, DNS_ANSWER, "192.0.2.2", 60, 0});
    ask(f, &a, "y.test");
    assert_string_equal(a.first, "192.0.2.2");
    dns_server_stop(dead);
}

/* Without memory for polls the sockets are looked at by timer. */
static uint64_t refuse_poll(struct mr_io *io, int fd, uint32_t mask, mr_poll_fn fn, void *ctx)
{
    (void)io, (void)fd, (void)mask, (void)fn, (void)ctx;
    return 0;
}

static void polls_without_memory_are_survived(void **state)
{
    struct fixture *f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"x.test", 0, DNS_TRUNCATE, "192.0.2.1", 60, 0});
    const struct mr_io_ops *real_ops = f->l.loop.io->ops;
    struct mr_io_ops blind = *real_ops;
    blind.poll = refuse_poll;
    f->l.loop.io->ops = &blind;
    ask(f, &a, "x.test");
    f->l.loop.io->ops = real_ops;
    assert_string_equal(a.first, "192.0.2.1");
}

static void too_many_names_at_once_are_refused(void **state)
{
    struct fixture *f = *state;
    if (f)
        f->config.timeout_ms = 30 * 1000;
    f = start(state);
    DNS_SCRIPT(f->server, {"*", 0, DNS_SILENCE, NULL, 0, 0});
    char name[32];
    struct asked a;
    for (int i = 0; i < 4096; i++) {
        snprintf(name, sizeof name, "n%d.test", i);
        begin(f, &a, name, -1);
        mr_lookup_cancel(&a.req);
    }
    ask(f, &a, "one-more.test");
    assert_int_equal(a.err, MOOR_EBUSY);
}

static void a_cache_of_no_names_is_allowed(void **state)
{
    struct fixture *f = *state;
    if (f)
        f->config.names_max = 0;
    f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"x.test", 0, DNS_ANSWER, "192.0.2.1", 60, 0});
    ask(f, &a, "x.test");
    ask(f, &a, "x.test");
    assert_int_equal(dns_server_asked(f->server, 1), 2);
}

static void search_domains_are_followed(void **state)
{
    struct fixture *f = *state;
    if (f)
        write_file(f->resolv_path, "search a.test b.test\nnameserver 192.0.2.1\n");
    f = start(state);
    struct asked a;
    DNS_SCRIPT(f->server, {"www.a.test", 0, DNS_ANSWER, "", 60, 0},
               {"www.b.test", 0, DNS_ANSWER, "192.0.2.1", 60, 0},
               {"only.a.test", 0, DNS_ANSWER, "", 60, 0});
    ask(f, &a, "www");
    assert_string_equal(a.first, "192.0.2.1");
    assert_int_equal(dns_server_asked(f->server, 0), 4);
    ask_fails(f, "only", "no addresses");
    ask_fails(f, "www.", "no such name");
}

static void the_cache_is_bounded(void **state)
{
    struct fixture *f = *state;
    if (f)
        f->config.names_max = 100;
    f = start(state);
    static struct asked a[1000];
    static char names[1000][32];
    DNS_SCRIPT(f->server, {"*", 0, DNS_ANSWER, "192.0.2.1,2001:db8::1", 600, 0});
    size_t used_at_100 = 0;
    for (int i = 0; i < 1000; i++) {
        snprintf(names[i], sizeof names[i], "n%03d.test", i);
        ask(f, &a[i], names[i]);
        assert_int_equal(a[i].err, MOOR_OK);
        if (i == 99)
            used_at_100 = atomic_load(&f->l.shared.used);
    }
    assert_int_equal(atomic_load(&f->l.shared.used), used_at_100);
    unsigned asked = dns_server_asked(f->server, 0);
    ask(f, &a[0], names[999]);
    ask(f, &a[0], names[900]);
    assert_int_equal(dns_server_asked(f->server, 0), asked);
    ask(f, &a[0], names[899]);
    assert_int_equal(dns_server_asked(f->server, 0), asked + 2);
}

static void many_names_at_once_are_answered(void **state)
{
    struct fixture *f = *state;
    if (f)
        f->config.timeout_ms = 1000;
    f = start(state);
    static struct asked a[200];
    static char names[200][32];
    DNS_SCRIPT(f->server, {"*", 0, DNS_ANSWER, "192.0.2.1", 600, 0});
    for (int i = 0; i < 200; i++) {
        snprintf(names[i], sizeof names[i], "n%03d.test", i);
        begin(f, &a[i], names[i], -1);
    }
    for (int i = 0; i < 200; i++) {
        assert_true(loop_fixture_run(&f->l, &a[i].is_done, 10000));
        assert_int_equal(a[i].err, MOOR_OK);
    }
}

static void changed_files_are_read_again(void **state)
{
    struct fixture *f = *state;
    if (f) {
        f->config.files_check_ms = 10;
        f->config.servers = NULL;
        write_file(f->resolv_path, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    }
    f = start(state);
    struct asked a;
    ask(f, &a, "alias");
    assert_string_equal(a.first, "192.0.2.77");
    write_file(f->hosts_path, "192.0.2.78 alias in-hosts\n");
    for (int i = 0; i < 200 && strcmp(a.first, "192.0.2.78") != 0; i++) {
        loop_fixture_run_for(&f->l, 10);
        ask(f, &a, "alias");
    }
    assert_string_equal(a.first, "192.0.2.78");
    assert_true(a.expires_ns < MR_NEVER);
    unlink(f->hosts_path);
    for (int i = 0; i < 200 && a.err == MOOR_OK; i++) {
        loop_fixture_run_for(&f->l, 10);
        begin(f, &a, "alias", 5);
        loop_fixture_run(&f->l, &a.is_done, 1000);
    }
    assert_int_not_equal(a.err, MOOR_OK);
}

static void another_resolv_conf_means_another_channel(void **state)
{
    struct fixture *f = *state;
    if (f) {
        f->config.files_check_ms = 10;
        write_file(f->resolv_path, "search a.test\n");
    }
    f = start(state);
    struct asked a, b;
    DNS_SCRIPT(f->server, {"www.a.test", 0, DNS_ANSWER, "192.0.2.1", 600, 0},
               {"www.b.test", 0, DNS_ANSWER, "192.0.2.2", 600, 0},
               {"slow.", 0, DNS_SILENCE, NULL, 0, 0}, {"slow", 0, DNS_SILENCE, NULL, 0, 0});
    ask(f, &a, "www");
    assert_string_equal(a.first, "192.0.2.1");
    begin(f, &b, "slow.", -1); /* keeps the old channel busy */
    write_file(f->resolv_path, "search b.test\n");
    for (int i = 0; i < 200 && strcmp(a.first, "192.0.2.2") != 0; i++) {
        loop_fixture_run_for(&f->l, 10);
        ask(f, &a, "www");
    }
    assert_string_equal(a.first, "192.0.2.2");
    assert_true(loop_fixture_run(&f->l, &b.is_done, 3000));
    assert_string_equal(b.what, "name server did not answer");
}

/* done may ask again: the usual thing after a failure. */
static void on_done_again(struct mr_lookup *req, moor_err err, struct mr_addrs *addrs,
                          const char *what)
{
    struct asked *a = req->ctx;
    struct mr_resolver_shard *shard = a->again;
    on_done(req, err, addrs, what);
    a->is_done = a->calls == 3;
    if (!a->is_done)
        mr_resolver_lookup(shard, req);
}

static void a_lookup_may_be_reused_in_done(void **state)
{
    struct fixture *f = start(state);
    struct asked a = {.again = f->shard};
    a.req = (struct mr_lookup){
        .host = "localhost", .deadline_ns = MR_NEVER, .done = on_done_again, .ctx = &a};
    mr_resolver_lookup(f->shard, &a.req);
    assert_true(loop_fixture_run(&f->l, &a.is_done, 1000));
    assert_int_equal(a.calls, 3);
}

static void bad_configurations_are_refused(void **state)
{
    struct fixture *f = start(state);
    struct mr_resolver *r;
    struct mr_resolver_config c = f->config;
    c.servers = "nonsense";
    assert_int_equal(mr_resolver_create(&c, &f->l.shared, &r), MOOR_EINVAL);
    c = f->config;
    c.ttl_max_ms = -1;
    assert_int_equal(mr_resolver_create(&c, &f->l.shared, &r), MOOR_EINVAL);
    c = f->config;
    c.tries = 99;
    assert_int_equal(mr_resolver_create(&c, &f->l.shared, &r), MOOR_EINVAL);
}

/* Fails each allocation in turn; a resolver comes up whole or not at all, a lookup ends once. */
static void every_allocation_may_fail(void **state)
{
    struct fixture *f = *state;
    if (!f)
        skip();
    f->config.timeout_ms = 1000;
    DNS_SCRIPT(f->server, {"x.test", 0, DNS_ANSWER, "192.0.2.1", 600, 0});
    bool went_through = false;
    for (long nth = 0; nth < 200 && !went_through; nth++) {
        struct asked a = {.err = MOOR_ENOMEM};
        mr_heap_fault_at(nth);
        moor_err err = mr_resolver_create(&f->config, &f->l.shared, &f->resolver);
        if (!err) {
            err = mr_resolver_shard_create(f->resolver, &f->l.loop, &f->shard);
            if (!err) {
                begin(f, &a, "x.test", 3000);
                assert_true(loop_fixture_run(&f->l, &a.is_done, 4000));
                assert_int_equal(a.calls, 1);
                assert_true(a.err == MOOR_OK || a.err == MOOR_ENOMEM);
            }
            loop_fixture_run_for(&f->l, 5);
            mr_resolver_shard_destroy(f->shard);
            mr_resolver_destroy(f->resolver);
        }
        went_through = mr_heap_fault_count() <= nth;
        mr_heap_fault_at(-1);
        f->shard = NULL;
        f->resolver = NULL;
    }
    assert_true(went_through);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(both_families_are_asked_and_ordered),
        T(a_long_answer_keeps_its_first_addresses),
        T(a_name_file_is_cut_at_its_limit),
        T(literals_and_local_names_never_ask),
        T(malformed_names_are_not_sent),
        T(failures_say_what_happened),
        T(an_absent_server_is_an_error_soon),
        T(one_family_is_enough),
        T(a_slow_family_is_waited_for_50_ms_only),
        T(truncated_answers_come_by_tcp),
        T(answers_die_with_their_ttl),
        T(ttl_has_a_ceiling_and_failures_are_short),
        T(equal_questions_are_asked_once),
        T(cancel_works_at_every_stage),
        T(deadlines_end_the_wait_not_the_query),
        T(a_lost_question_is_asked_again),
        T(the_second_server_is_asked_when_the_first_is_silent),
        T(polls_without_memory_are_survived),
        T(too_many_names_at_once_are_refused),
        T(a_cache_of_no_names_is_allowed),
        T(search_domains_are_followed),
        T(the_cache_is_bounded),
        T(many_names_at_once_are_answered),
        T(changed_files_are_read_again),
        T(another_resolv_conf_means_another_channel),
        T(a_lookup_may_be_reused_in_done),
        T(bad_configurations_are_refused),
        T(every_allocation_may_fail),
    };
    backend = "epoll";
    int failed = cmocka_run_group_tests_name("resolver on epoll", tests, NULL, NULL);
    backend = "io_uring";
    return failed + cmocka_run_group_tests_name("resolver on io_uring", tests, NULL, NULL);
}
