/* Which hosts a certificate names: RFC 9525, case by case. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/certs_der.h"
#include "tests/support/der_text.h"
#include "tls/name.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

#define L49  "1234567890123456789012345678901234567890123456789"
#define L63  L49 "12345678901234"
#define L251 L49 "." L49 "." L49 "." L49 "." L49 ".x" /* two more letters make 253 */

#define V6_ONE  "87{00000000000000000000000000000001}"
#define V6_DOC  "87{20010db8000000000000000000000005}"
#define V6_LONG "87{00000000000000000000ffff64646464}"
#define V6_MAP  "87{00000000000000000000ffff7f000001}"

struct name_case {
    const char *san; /* GeneralNames, as tests/support/der_text.h writes them; "" = none */
    const char *host;
    bool is_match;
};

static const struct name_case names[] = {
    /* Equal. */
    {"82{'example.org'}", "example.org", true},
    {"82{'localhost'}", "localhost", true},
    {"82{'Example.ORG'}", "example.org", true},
    {"82{'example.org'}", "EXAMPLE.org", true},
    {"82{'a.b.c.example.org'}", "a.b.c.example.org", true},
    {"82{'_dmarc.example.org'}", "_dmarc.example.org", true},
    {"82{'1.example.org'}", "1.example.org", true},
    {"82{'3com'}", "3com", true},
    {"82{'xn--bcher-kva.example'}", "xn--bcher-kva.example", true},
    {"82{'XN--bcher-kva.example'}", "xn--bcher-kva.example", true},
    {"82{'a'}82{'example.org'}82{'b'}", "example.org", true},
    {"87{7f000001}82{'example.org'}", "example.org", true},
    {"a0{06{2a03}a0{0c{'example.org'}}}82{'example.org'}", "example.org", true},
    {"82{'" L63 ".example'}", L63 ".example", true},
    {"82{'" L251 "ab'}", L251 "ab", true},
    /* Not equal. */
    {"", "example.org", false},
    {"82{'example.org'}", "example.com", false},
    {"82{'example.org'}", "www.example.org", false},
    {"82{'www.example.org'}", "example.org", false},
    {"82{'example.org'}", "example.orgx", false},
    {"82{'example.org'}", "xexample.org", false},
    {"82{'example.org'}", "example", false},
    {"82{'example.org'}", "example-org", false},
    {"82{}", "example.org", false},
    {"82{'a'}82{'b'}", "c", false},
    /* Case is a matter of letters: these differ by the same bit. */
    {"82{'a_b.example'}",
     "a\x7f"
     "b.example",
     false},
    {"82{'a@b'}", "a`b", false},
    {"82{'a-b.example'}", "a\rb.example", false},
    /* The final dot of a host does not count; an entry has none. */
    {"82{'example.org'}", "example.org.", true},
    {"82{'*.example.org'}", "a.example.org.", true},
    {"82{'localhost'}", "localhost.", true},
    {"82{'example.org'}", "example.org..", false},
    {"82{'example.org.'}", "example.org.", false},
    {"82{'example.org.'}", "example.org", false},
    {"82{'*.example.org.'}", "a.example.org", false},
    {"82{'.'}", ".", false},
    {"82{}", ".", false},
    {"82{}", "", false},
    {"82{'a'}", "", false},
    {"82{'*.a.b'}", "", false},
    /* Wildcards. */
    {"82{'*.example.org'}", "a.example.org", true},
    {"82{'*.example.org'}", "A.EXAMPLE.ORG", true},
    {"82{'*.Example.org'}", "a.example.org", true},
    {"82{'*.example.org'}", "xn--bcher-kva.example.org", true},
    {"82{'*.example.org'}", "_a.example.org", true},
    {"82{'*.example.org'}", "1.example.org", true},
    {"82{'*.a.b.example.org'}", "x.a.b.example.org", true},
    {"82{'*.xn--bcher-kva.example'}", "a.xn--bcher-kva.example", true},
    {"82{'*.co.uk'}", "example.co.uk", true}, /* not known to be a public suffix */
    {"82{'*.example.org'}", L63 ".example.org", true},
    {"82{'*." L251 "'}", "a." L251, true},
    {"82{'*.example.org'}", "example.org", false},
    {"82{'*.example.org'}", "a.b.example.org", false},
    {"82{'*.example.org'}", ".example.org", false},
    {"82{'*.example.org'}", "a.example.com", false},
    {"82{'*.example.org'}", "aexample.org", false},
    {"82{'*.example.org'}", "*.example.org", false},
    {"82{'*.example.org'}", "*a.example.org", false},
    {"82{'*.example.org'}", L63 "5.example.org", false},
    {"82{'*.org'}", "example.org", false},
    {"82{'*.org'}", "org", false},
    {"82{'*.localhost'}", "a.localhost", false},
    {"82{'*'}", "localhost", false},
    {"82{'*'}", "example.org", false},
    {"82{'*'}", "*", false},
    {"82{'*.'}", "example.org", false},
    {"82{'*.'}", "a.", false},
    {"82{'**.example.org'}", "a.example.org", false},
    {"82{'*.*.example.org'}", "a.b.example.org", false},
    {"82{'*.*.org'}", "a.example.org", false},
    {"82{'a.*.example.org'}", "a.b.example.org", false},
    {"82{'a.*.org'}", "a.example.org", false},
    {"82{'example.*'}", "example.org", false},
    {"82{'f*.example.org'}", "foo.example.org", false},
    {"82{'*f.example.org'}", "off.example.org", false},
    {"82{'e*mple.example.org'}", "example.example.org", false},
    {"82{'xn--*.example.org'}", "xn--bcher-kva.example.org", false},
    {"82{'*xn--bcher-kva.example.org'}", "xn--bcher-kva.example.org", false},
    {"82{'*example.org'}", "example.org", false},
    {"82{'*..org'}", "a..org", false},
    {"82{'*..example.org'}", "a.example.org", false},
    {"82{'*.example..org'}", "a.example.org", false},
    /* No host names. */
    {"82{'example.org'00}", "example.org", false},
    {"82{'example.org'00'.evil.example'}", "example.org", false},
    {"82{00'example.org'}", "example.org", false},
    {"82{'*.example.org'00}", "a.example.org", false},
    {"82{' example.org'}", "example.org", false},
    {"82{'example.org '}", "example.org", false},
    {"82{'a b'}", "a b", false},
    {"82{'a.example.org:443'}", "a.example.org:443", false},
    {"82{'a/b'}", "a/b", false},
    {"82{'user@example.org'}", "user@example.org", false},
    {"82{'a,b'}", "a,b", false},
    {"82{'.example.org'}", ".example.org", false},
    {"82{'.example.org'}", "a.example.org", false},
    {"82{'a..b'}", "a..b", false},
    {"82{'b'c3bc'cher.example'}",
     "b\xc3\xbc"
     "cher.example",
     false},
    {"82{'*.example.org'}", "b\xc3\xbc.example.org", false},
    {"82{'*.example.org'}", "a b.example.org", false},
    {"82{'*.example.org'}", "a\n.example.org", false},
    {"82{'" L63 "5.example'}", L63 "5.example", false},
    {"82{'" L251 "abc'}", L251 "abc", false},
    {"82{'*." L251 "a'}", "a." L251 "a", false},
    /* Addresses are no names, however they got here. */
    {"82{'1.2.3.4'}", "1.2.3.4", false},
    {"82{'*.2.3.4'}", "1.2.3.4", false},
    {"82{'1.2.3.4'}", "1.2.3.4.", false},
    {"87{01020304}", "1.2.3.4", false},
    {"82{'2130706433'}", "2130706433", false},
    {"82{'0x7f.1'}", "0x7f.1", false},
    {"82{'127.0x1'}", "127.0x1", false},
    {"82{'127.0X1'}", "127.0X1", false},
    {"82{'a.0x'}", "a.0x", false},
    {"82{'a.0x10'}", "a.0x10", false},
    {"82{'a.0xFf'}", "a.0xFf", false},
    {"82{'a.0xg'}", "a.0xg", true},
    {"82{'*.example.5'}", "a.example.5", false},
    {"82{'::1'}", "::1", false},
    {V6_ONE, "::1", false},
    {"82{'[::1]'}", "[::1]", false},
    /* Other kinds of names are not asked. */
    {"81{'example.org'}", "example.org", false},
    {"86{'example.org'}", "example.org", false},
    {"88{'example.org'}", "example.org", false},
    {"87{'abcd'}", "abcd", false},
};

static const struct name_case addresses[] = {
    {"87{7f000001}", "127.0.0.1", true},
    {"82{'a'}87{7f000001}", "127.0.0.1", true},
    {"87{7f000002}87{7f000001}", "127.0.0.1", true},
    {"87{ffffffff}", "255.255.255.255", true},
    {V6_ONE, "::1", true},
    {V6_ONE, "0:0:0:0:0:0:0:1", true},
    {V6_ONE, "0000:0000:0000:0000:0000:0000:0000:0001", true},
    {V6_ONE, "::0.0.0.1", true},
    {V6_DOC, "2001:db8::5", true},
    {V6_DOC, "2001:DB8:0::0:5", true},
    {V6_DOC, "2001:0db8:0000:0000:0000:0000:0000:0005", true},
    {V6_MAP, "::ffff:127.0.0.1", true},
    {V6_LONG, "0000:0000:0000:0000:0000:ffff:100.100.100.100", true}, /* none is longer */
    {V6_LONG, "0000:0000:0000:0000:0000:ffff:100.100.100.1000", false},
    {V6_MAP, "::ffff:7f00:1", true},
    {"87{7f000001}", "127.0.0.2", false},
    {"", "127.0.0.1", false},
    {"82{'127.0.0.1'}", "127.0.0.1", false},
    {"82{'*.0.0.1'}", "127.0.0.1", false},
    {"82{7f000001}", "127.0.0.1", false},
    {"81{7f000001}", "127.0.0.1", false},
    {"86{'127.0.0.1'}", "127.0.0.1", false},
    {"82{'::1'}", "::1", false},
    {"82{'[::1]'}", "::1", false},
    {V6_ONE, "::2", false},
    {V6_ONE, "127.0.0.1", false},
    {V6_MAP, "127.0.0.1", false},
    {"87{7f000001}", "::ffff:127.0.0.1", false},
    {"87{00000001}", "::1", false},
    {V6_ONE, "::1%lo", false},
    {"87{fe800000000000000000000000000001}", "fe80::1%eth0", false},
    {"87{fe800000000000000000000000000001}", "fe80::1", true},
    {V6_ONE, "[::1]", false},
    {V6_ONE, "::1.", false},
    {V6_ONE, " ::1", false},
    {V6_ONE, ":::1", false},
    {"87{7f000001}", "127.0.0.1.", false},
    {"87{7f000001}", "127.1", false},
    {"87{7f000001}", "2130706433", false},
    {"87{7f000001}", "0x7f.0.0.1", false},
    {"87{7f000001}", "127.0.0.01", false},
    {"87{7f000001}", "127.0.0.1 ", false},
    {"87{7f000001}", "", false},
    {"82{'localhost'}", "localhost", false},
    {V6_ONE, "0000:0000:0000:0000:0000:0000:0000:0000:0000:0001", false},
};

/* Host and names each in a block of their own size. */
static bool matches(const char *san, const void *host, size_t host_len, bool is_ip)
{
    struct der_text d = {.len = 0};
    der_text_add(&d, san);
    unsigned char *names_copy = der_text_copy(d.bytes, d.len);
    unsigned char *host_copy = der_text_copy(host, host_len);
    struct mr_cert c = {.san = {*san ? names_copy : NULL, d.len}};
    const bool is_match = mr_tls_name_matches(&c, (moor_span){host_copy, host_len}, is_ip);
    free(host_copy);
    free(names_copy);
    return is_match;
}

static void run(const struct name_case *cases, size_t count, bool is_ip)
{
    for (size_t i = 0; i < count; i++) {
        const char *host = cases[i].host;
        if (matches(cases[i].san, host, strlen(host), is_ip) != cases[i].is_match)
            fail_msg("%s, \"%s\": expected %d", cases[i].san, host, cases[i].is_match);
    }
}

static void test_names(void **state)
{
    (void)state;
    run(names, COUNT(names), false);
}

static void test_addresses(void **state)
{
    (void)state;
    run(addresses, COUNT(addresses), true);
}

/* A NUL in the host ends nothing. */
static void test_nul_in_host(void **state)
{
    (void)state;
    static const char name[] = "example.org";
    static const char address[] = "127.0.0.1";
    assert_true(matches("82{'example.org'}", name, sizeof name - 1, false));
    assert_false(matches("82{'example.org'}", name, sizeof name, false));
    assert_false(matches("82{'example.org'00}", name, sizeof name, false));
    assert_true(matches("87{7f000001}", address, sizeof address - 1, true));
    assert_false(matches("87{7f000001}", address, sizeof address, true));
    assert_false(matches("87{7f000001}", "127.0.0.1\0x", sizeof address + 1, true));
    struct mr_cert none = {.san = {NULL, 0}};
    assert_false(mr_tls_name_matches(&none, (moor_span){NULL, 0}, false));
    assert_false(mr_tls_name_matches(&none, (moor_span){NULL, 0}, true));
}

static void test_certificates(void **state)
{
    (void)state;
    static const struct {
        moor_span der;
        const char *host;
        bool is_ip, is_match;
    } cases[] = {
        {{der_rsa, sizeof der_rsa}, "localhost", false, true},
        {{der_rsa, sizeof der_rsa}, "www.example.org", false, true},
        {{der_rsa, sizeof der_rsa}, "example.org", false, false},
        {{der_rsa, sizeof der_rsa}, "Acme", false, false},
        /* The common name names nobody. */
        {{der_no_san, sizeof der_no_san}, "localhost", false, false},
        {{der_v1, sizeof der_v1}, "localhost", false, false},
        {{der_ips, sizeof der_ips}, "127.0.0.1", true, true},
        {{der_ips, sizeof der_ips}, "::1", true, true},
        {{der_ips, sizeof der_ips}, "2001:db8:0:0::5", true, true},
        {{der_ips, sizeof der_ips}, "192.0.2.1", true, false},
        {{der_ips, sizeof der_ips}, "192.0.2.1", false, false},
        {{der_all_names, sizeof der_all_names}, "localhost", false, true},
        {{der_all_names, sizeof der_all_names}, "a", false, false},
        {{der_all_names, sizeof der_all_names}, "example.org", false, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct mr_cert c;
        assert_int_equal(mr_cert_parse(cases[i].der, &c, NULL), MOOR_OK);
        if (mr_tls_name_matches(&c, mr_span_cstr(cases[i].host), cases[i].is_ip) !=
            cases[i].is_match)
            fail_msg("case %zu: %s", i, cases[i].host);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_nul_in_host),
        cmocka_unit_test(test_certificates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
