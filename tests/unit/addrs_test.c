/*
 * Address values, their texts and their order; the hosts file and resolv.conf, parsed.
 */
#include "core/addrs.h"
#include "core/dns_config.h"
#include "core/hosts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct mr_heap heap;

static struct mr_addr addr(const char *text)
{
    struct mr_addr a;
    assert_int_equal(mr_addr_parse(text, strlen(text), &a), MOOR_OK);
    return a;
}

static void assert_text(const struct mr_addr *a, const char *text)
{
    char buf[MR_ADDR_TEXT_CAP];
    mr_addr_text(a, buf);
    assert_string_equal(buf, text);
}

static void literals_are_parsed_and_printed(void **state)
{
    (void)state;
    struct mr_addr a = addr("192.0.2.1");
    assert_int_equal(a.len, sizeof(struct sockaddr_in));
    assert_text(&a, "192.0.2.1");
    mr_addr_set_port(&a, 80);
    assert_text(&a, "192.0.2.1:80");
    a = addr("[2001:DB8::1]");
    assert_text(&a, "2001:db8::1");
    mr_addr_set_port(&a, 443);
    assert_int_equal(mr_addr_port(&a), 443);
    assert_text(&a, "[2001:db8::1]:443");
    a = addr("fe80::1%7");
    assert_int_equal(a.in6.sin6_scope_id, 7);
    assert_text(&a, "fe80::1%7");
    a = addr("fe80::1%lo");
    assert_int_not_equal(a.in6.sin6_scope_id, 0);
}

static void names_are_not_literals(void **state)
{
    (void)state;
    static const char *const names[] = {
        "",
        "[]",
        "example.org",
        "1.2.3",
        "[192.0.2.1]",
        "1.2.3.4.",
        "fe80::1%",
        "fe80::1%99999999999",
        "::1%nosuchif0",
        ":::",
        "[::1",
        "0x7f.0.0.1",
        "256.1.1.1",
        "1111:2222:3333:4444:5555:6666:7777:8888:9999%aaaaaaaaaaaaaaaa"};
    struct mr_addr a;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(mr_addr_parse(names[i], strlen(names[i]), &a), MOOR_EINVAL);
    assert_int_equal(mr_addr_parse("::1\0x", 5, &a), MOOR_EINVAL);
}

static void unix_paths_are_kept_whole(void **state)
{
    (void)state;
    struct mr_addr a, b;
    char path[200];
    assert_int_equal(mr_addr_from_path("/run/x.sock", 11, &a), MOOR_OK);
    assert_text(&a, "/run/x.sock");
    assert_int_equal(mr_addr_from_path("@x", 2, &b), MOOR_OK);
    assert_int_equal(b.un.sun_path[0], 0);
    assert_int_equal(b.len, offsetof(struct sockaddr_un, sun_path) + 2);
    assert_text(&b, "@x");
    assert_false(mr_addr_is_equal(&a, &b));
    assert_true(mr_addr_is_equal(&a, &a));
    mr_addr_set_port(&a, 1);
    assert_int_equal(mr_addr_port(&a), 0);
    memset(path, 'a', sizeof path);
    assert_int_equal(mr_addr_from_path(path, 107, &a), MOOR_OK);
    assert_int_equal(mr_addr_from_path(path, 108, &a), MOOR_EINVAL);
    assert_int_equal(mr_addr_from_path(path, 0, &a), MOOR_EINVAL);
    assert_int_equal(mr_addr_from_path("@", 1, &a), MOOR_EINVAL);
}

static void assert_order(const char *const *in, const char *const *out, uint32_t count)
{
    struct mr_addr list[MR_ADDRS_MAX];
    for (uint32_t i = 0; i < count; i++)
        list[i] = addr(in[i]);
    mr_addrs_order(list, count);
    for (uint32_t i = 0; i < count; i++)
        assert_text(&list[i], out[i]);
}

static void families_alternate_and_servers_keep_their_order(void **state)
{
    (void)state;
    static const char *const in[] = {"192.0.2.2", "192.0.2.1", "2001:db8::2", "2001:db8::1",
                                     "192.0.2.3"};
    static const char *const out[] = {"2001:db8::2", "192.0.2.2", "2001:db8::1", "192.0.2.1",
                                      "192.0.2.3"};
    assert_order(in, out, 5);
}

static void tunnels_and_unique_local_come_after_ipv4(void **state)
{
    (void)state;
    static const char *const in[] = {"fd00::1", "2002:c000:201::1", "2001::1", "192.0.2.1",
                                     "::c000:201"};
    static const char *const out[] = {"192.0.2.1", "2002:c000:201::1", "2001::1", "fd00::1",
                                      "::192.0.2.1"};
    assert_order(in, out, 5);
    static const char *const local_in[] = {"127.0.0.1", "2001:db8::1", "::1"};
    static const char *const local_out[] = {"::1", "127.0.0.1", "2001:db8::1"};
    assert_order(local_in, local_out, 3);
}

static void lists_are_shared_and_without_repeats(void **state)
{
    (void)state;
    struct mr_addr in[3] = {addr("192.0.2.1"), addr("192.0.2.1"), addr("::1")};
    struct mr_addrs *a = mr_addrs_create(&heap, in, 3, 5);
    assert_int_equal(a->count, 2);
    assert_int_equal(a->expires_ns, 5);
    assert_text(&a->list[0], "::1");
    assert_ptr_equal(mr_addrs_ref(a), a);
    mr_addrs_unref(a);
    mr_addrs_unref(a);
    mr_addrs_unref(NULL);
    mr_heap_fault_at(0);
    assert_null(mr_addrs_create(&heap, in, 3, 5));
    mr_heap_fault_at(-1);
}

static uint32_t find(const struct mr_hosts *h, const char *name, struct mr_addr *list)
{
    return mr_hosts_find(h, name, strlen(name), list, 4);
}

static void hosts_files_are_read_as_everybody_does(void **state)
{
    (void)state;
    static const char text[] = "# comment\n"
                               "127.0.0.1\tlocalhost  LocalHost.localdomain # more\r\n"
                               "\n"
                               "  ::1 localhost ip6-localhost\n"
                               "not-an-address  bad\n"
                               "192.0.2.9\n"
                               "fe80::5%3 router\n"
                               "192.0.2.7 last many last";
    struct mr_hosts *h;
    struct mr_addr list[4];
    assert_int_equal(mr_hosts_parse(&heap, text, sizeof text - 1, &h), MOOR_OK);
    assert_int_equal(find(h, "localhost", list), 2);
    assert_text(&list[0], "127.0.0.1");
    assert_text(&list[1], "::1");
    assert_int_equal(find(h, "localhost.localdomain", list), 1);
    assert_int_equal(find(h, "router", list), 1);
    assert_text(&list[0], "fe80::5%3");
    assert_int_equal(find(h, "last", list), 2);
    assert_int_equal(find(h, "bad", list), 0);
    assert_int_equal(find(h, "comment", list), 0);
    assert_int_equal(mr_hosts_find(h, "localhost", 9, list, 1), 1);
    mr_hosts_unref(h);

    assert_int_equal(mr_hosts_parse(&heap, "", 0, &h), MOOR_OK);
    assert_int_equal(find(h, "localhost", list), 0);
    mr_hosts_unref(h);
    mr_hosts_unref(NULL);
    mr_heap_fault_at(0);
    assert_int_equal(mr_hosts_parse(&heap, text, sizeof text - 1, &h), MOOR_ENOMEM);
    mr_heap_fault_at(-1);
}

static struct mr_dns_config *config(const char *text, const char *servers)
{
    struct mr_dns_config *c;
    moor_span s = {text, strlen(text)};
    assert_int_equal(mr_dns_config_create(&heap, s, servers, 0, 0, &c), MOOR_OK);
    return c;
}

static void resolv_conf_says_whom_to_ask(void **state)
{
    (void)state;
    struct mr_dns_config *c = config("; old\nnameserver 192.0.2.53\nnameserver 2001:db8::53 \n"
                                     "nameserver fe80::1%1\nnameserver junk\n"
                                     "domain lost.test\nsearch a.test. b.test\n"
                                     "options ndots:2 timeout:3 attempts:99 rotate edns0 ndots:x\n",
                                     NULL);
    assert_int_equal(c->server_count, 2);
    assert_text(&c->servers[1], "2001:db8::53");
    assert_int_equal(c->domain_count, 2);
    assert_string_equal(c->domains[0], "a.test");
    assert_int_equal(c->ndots, 2);
    assert_int_equal(c->timeout_ms, 3000);
    assert_int_equal(c->tries, 5);
    assert_true(c->is_rotating);
    struct mr_dns_config *d = config("", "192.0.2.1:5353, [::1]:54,2001:db8::1");
    assert_int_equal(d->server_count, 3);
    assert_text(&d->servers[0], "192.0.2.1:5353");
    assert_text(&d->servers[1], "[::1]:54");
    assert_text(&d->servers[2], "2001:db8::1");
    assert_int_equal(d->timeout_ms, MR_DNS_TIMEOUT_MS);
    assert_int_equal(d->tries, MR_DNS_TRIES);
    assert_false(mr_dns_config_is_equal(c, d));
    assert_true(mr_dns_config_is_equal(c, c));
    mr_dns_config_unref(c);
    mr_dns_config_unref(d);
    d = config("", "");
    assert_text(&d->servers[0], "127.0.0.1");
    mr_dns_config_unref(d);
}

static void servers_and_domains_are_bounded(void **state)
{
    (void)state;
    _Static_assert(MR_DNS_SERVERS_MAX == 8 && MR_DNS_DOMAINS_MAX == 8, "the lists have one more");
    static const char list[] = "192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4,192.0.2.5,192.0.2.6,"
                               "192.0.2.7,192.0.2.8,192.0.2.9";
    struct mr_dns_config *c =
        config("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
               "nameserver 192.0.2.4\nnameserver 192.0.2.5\nnameserver 192.0.2.6\n"
               "nameserver 192.0.2.7\nnameserver 192.0.2.8\nnameserver 192.0.2.9\n"
               "search a1 a2 a3 a4 a5 a6 a7 a8 a9\n",
               NULL);
    assert_int_equal(c->server_count, MR_DNS_SERVERS_MAX);
    assert_text(&c->servers[0], "192.0.2.1");
    assert_text(&c->servers[7], "192.0.2.8");
    assert_int_equal(c->domain_count, MR_DNS_DOMAINS_MAX);
    assert_string_equal(c->domains[0], "a1");
    assert_string_equal(c->domains[7], "a8");
    mr_dns_config_unref(c);
    c = config("", list);
    assert_int_equal(c->server_count, MR_DNS_SERVERS_MAX);
    assert_text(&c->servers[7], "192.0.2.8");
    mr_dns_config_unref(c);
}

static void bad_server_lists_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {",",          "x",    "192.0.2.1:0", "192.0.2.1:65536",
                                      "192.0.2.1:", "::1%1"};
    struct mr_dns_config *c;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(mr_dns_config_create(&heap, (moor_span){"", 0}, bad[i], 0, 0, &c),
                         MOOR_EINVAL);
}

static void assert_candidates(const struct mr_dns_config *c, const char *name,
                              const char *const *want)
{
    char out[MR_DNS_NAME_CAP];
    uint32_t i = 0;
    for (; want[i]; i++) {
        assert_true(mr_dns_config_candidate(c, name, i, out));
        assert_string_equal(out, want[i]);
    }
    assert_false(mr_dns_config_candidate(c, name, i, out));
}

static void search_domains_come_before_or_after_by_ndots(void **state)
{
    (void)state;
    struct mr_dns_config *c = config("search a.test b.test\noptions ndots:2\n", NULL);
    assert_candidates(c, "x", (const char *const[]){"x.a.test", "x.b.test", "x", NULL});
    assert_candidates(c, "x.y.z",
                      (const char *const[]){"x.y.z", "x.y.z.a.test", "x.y.z.b.test", NULL});
    assert_candidates(c, "x.", (const char *const[]){"x.", NULL});
    char name[252];
    memset(name, 'a', 251);
    name[251] = 0;
    assert_candidates(c, name, (const char *const[]){"", "", name, NULL});
    mr_dns_config_unref(c);
}

static int set_up(void **state)
{
    (void)state;
    return mr_heap_init(&heap, SIZE_MAX, true);
}

static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(atomic_load(&heap.used), 0);
    mr_heap_fini(&heap);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(literals_are_parsed_and_printed),
        cmocka_unit_test(names_are_not_literals),
        cmocka_unit_test(unix_paths_are_kept_whole),
        cmocka_unit_test(families_alternate_and_servers_keep_their_order),
        cmocka_unit_test(tunnels_and_unique_local_come_after_ipv4),
        cmocka_unit_test(lists_are_shared_and_without_repeats),
        cmocka_unit_test(hosts_files_are_read_as_everybody_does),
        cmocka_unit_test(resolv_conf_says_whom_to_ask),
        cmocka_unit_test(servers_and_domains_are_bounded),
        cmocka_unit_test(bad_server_lists_are_refused),
        cmocka_unit_test(search_domains_come_before_or_after_by_ndots),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
